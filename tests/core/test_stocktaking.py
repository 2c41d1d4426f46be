"""Counting what is in the data folder, comparing it, and telling what gets the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oodbench import Benchmark, DatasetSpec, Preprocess, files
from oodbench.data import samples as kinds
from oodbench.data.content import Content, content_fingerprint
from oodbench.data.samples import ImageArrays, Samples, Subset, image_folder
from oodbench.download.described import Download, RemoteFile
from oodbench.errors import DataError, UnknownNameError
from oodbench.registry import DATASETS
from oodbench.stocktaking import of_benchmark, take
from tests.conftest import write_images
from tests.helpers.datasets import images_of, spec
from tests.helpers.downloads import birds_of

SAMPLES = ImageArrays("three/test", images_of(3), np.zeros(3, int), ["a"])
PREPROCESS = Preprocess(32, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATASETS, "_objects", dict(DATASETS._objects))


def known(one: DatasetSpec) -> str:
    DATASETS._objects[one.name] = one
    return one.name


def three(content: Content | None = None, **more) -> str:
    contents = {} if content is None else {"test": content}
    return known(DatasetSpec("three", lambda _: SAMPLES, contents=contents, **more))


def test_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'mnist'"):
        take("mnsit")


def test_what_is_as_published() -> None:
    right = Content(3, content_fingerprint(SAMPLES))
    stock = take(three(right))
    (split,) = stock.splits
    assert (stock.kind, stock.command, stock.to_fetch) == ("dataset", "", 0)
    assert (split.count, split.expected, split.problem) == (3, 3, "")
    assert split.fingerprint == split.published == right.fingerprint


@pytest.mark.parametrize(
    ("count", "fingerprint", "problem"),
    [
        (4, "", "part: 3 of 4"),
        (4, "0" * 64, "part: 3 of 4"),
        (2, "", "not as published: more"),
        (3, "0" * 64, "not as published: other images or labels"),
        (3, "", ""),
    ],
)
def test_what_is_not(count: int, fingerprint: str, problem: str) -> None:
    (split,) = take(three(Content(count, fingerprint))).splits
    assert split.problem == problem
    assert split.count == 3


def test_of_what_nothing_is_known_nothing_is_said() -> None:
    (split,) = take(three()).splits
    assert (split.count, split.expected, split.published, split.problem) == (3, None, "", "")
    assert split.fingerprint == ""


def test_many_files_are_only_read_when_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number is compared at once; their pixels where that was asked for."""
    root = write_images(tmp_path / "birds", {"jay": 2})
    monkeypatch.setattr(kinds, "_FEW_BYTES", 0)
    samples = image_folder("birds", root)
    content = Content(2, "0" * 64)
    name = known(DatasetSpec("birds", lambda _: samples, contents={"test": content}))
    assert take(name).splits[0].problem == ""
    checked = take(name, is_checked=True).splits[0]
    assert checked.problem == "not as published: other images or labels"
    assert checked.fingerprint == content_fingerprint(samples)


def test_what_is_not_here() -> None:
    source = Download("birds", (RemoteFile("https://a.org/birds.zip", size=1000),))
    (split,) = (stock := take(known(birds_of(source)))).splits
    assert split.count is None
    assert "no folder" in split.problem
    assert (split.to_fetch, split.command) == (1000, "oodbench data prepare birds")
    assert (stock.to_fetch, stock.command) == (1000, "oodbench data prepare birds")


def test_what_only_a_person_gets() -> None:
    by_hand = Download("birds", (RemoteFile(name="birds.zip", size=1000),), steps=("Ask.",))
    (split,) = take(known(birds_of(by_hand))).splits
    assert (split.to_fetch, split.command) == (None, "oodbench data prepare birds")
    (split,) = take(known(birds_of())).splits  # nobody knows where from
    assert (split.to_fetch, split.command) == (None, "oodbench info birds")


def test_one_archive_of_two_splits_is_fetched_once() -> None:
    source = Download("birds", (RemoteFile("https://a.org/birds.zip", size=1000),))
    stock = take(known(replace(birds_of(source), splits=("train", "test"))))
    assert [one.to_fetch for one in stock.splits] == [1000, 1000]
    assert stock.to_fetch == 1000


def failing(error: BaseException) -> str:
    def load(split: str) -> Samples:
        raise error

    return known(DatasetSpec("three", load))


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (DataError("it is damaged."), "it is damaged."),
        (ValueError("odd"), "cannot be read (ValueError('odd'))"),
        (SystemExit(3), "cannot be read (SystemExit(3))"),  # of a stranger's code
    ],
)
def test_what_cannot_be_read(error: BaseException, problem: str) -> None:
    stock = take(failing(error))
    assert stock.splits[0].problem == problem
    assert stock.splits[0].count is None
    assert stock.command == ""  # it is here, so nothing gets it


def test_ctrl_c_is_no_problem_of_the_data() -> None:
    with pytest.raises(KeyboardInterrupt):
        take(failing(KeyboardInterrupt()))


def test_bytes_on_disk(tmp_path: Path) -> None:
    """Of images that are files, those; else what lies where a download puts it."""
    root = write_images(tmp_path / "birds", {"jay": 2})
    size = sum(path.stat().st_size for path in root.rglob("*.png"))
    (root / "notes.txt").write_text("no image")
    whole = image_folder("birds", root)
    name = known(DatasetSpec("birds", lambda _: Subset(whole, [1])))
    assert take(name).splits[0].size == size
    assert take(three()).splits[0].size is None
    sources = [Download(target, (RemoteFile("https://a.org/x.zip"),)) for target in ("x", "y/z")]
    (files.data_dir() / "y" / "z" / "deep").mkdir(parents=True)
    (files.data_dir() / "y" / "z" / "deep" / "a").write_bytes(b"1234")
    (files.data_dir() / "y" / "b").write_bytes(b"12345678")
    assert take(three(downloads=tuple(sources))).splits[0].size == 4


def test_warnings_are_for_use(recwarn: pytest.WarningsRecorder) -> None:
    import warnings

    def load(split: str) -> Samples:
        warnings.warn("a file was passed over", stacklevel=2)
        return SAMPLES

    assert take(known(DatasetSpec("three", load))).splits[0].count == 3
    assert not recwarn.list


def test_the_sets_of_a_benchmark_and_their_parts_in_it() -> None:
    chosen_on = replace(spec("chosen"), splits=("val", "test"))
    benchmark = Benchmark(
        "toy", spec("toy"), (spec("near1"),), (birds_of(),), PREPROCESS, validation=(chosen_on,)
    )
    stock = of_benchmark(benchmark)
    assert (stock.name, stock.kind) == ("toy", "benchmark")
    assert [(one.name, one.split, one.role) for one in stock.splits] == [
        ("toy", "train", "ID"),
        ("toy", "test", "ID"),
        ("near1", "test", "near"),
        ("birds", "test", "far"),
        ("chosen", "val", "chosen on"),
    ]
    assert [one.count for one in stock.splits] == [4, 4, 4, None, 4]
    assert stock.command == "oodbench data prepare --benchmark toy"
    assert of_benchmark(replace(benchmark, groups={"near": (), "far": ()})).command == ""


def test_a_benchmark_goes_before_a_dataset_of_its_name() -> None:
    assert take("digits").kind == "benchmark"
    assert take("mnist").kind == "dataset"

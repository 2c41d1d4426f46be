"""What a benchmark's task, its pages and its options say of what is scored there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import oodbench
from oodbench import metrics
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.contenders import Networks
from oodbench.data.transforms import MultimodalPreprocess, Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import OptionError
from oodbench.results import leaderboard
from oodbench.results.standing import Standing
from oodbench.results.store import ResultStore
from oodbench.tasks.task import method_of, task_of
from oodbench.tune import tune
from tests.conftest import REPOSITORY

PAGES = REPOSITORY / "leaderboards"


@pytest.mark.parametrize("name", oodbench.list_detectors())
def test_images_are_scored_by_all(name: str) -> None:
    assert task_of(get_benchmark("digits")).why_not(type(oodbench.create_detector(name))) is None


def test_samples_of_several_modalities() -> None:
    def load(_: str) -> Any:
        raise AssertionError("read")

    spec = DatasetSpec("clips", load, ("train", "test"))
    parts = {"a": Preprocess(8, (0.5,), (0.5,), mode="L")}
    clips = Benchmark("clips", spec, (spec,), (), MultimodalPreprocess(parts))
    for name in ("odin", "gram"):
        with pytest.raises(OptionError, match=rf"{name} looks into a network of images.* energy"):
            oodbench.evaluate(
                nn.Identity(), benchmark=clips, detectors=["msp", name], preprocess="benchmark"
            )
    left = task_of(clips).left_out(oodbench.list_detectors())
    assert left is not None
    assert "odin" in left
    assert "msp" not in left


@pytest.mark.parametrize("use", [oodbench.evaluate, tune], ids=["evaluate", "tune"])
@pytest.mark.parametrize(
    ("benchmark", "method", "task", "able"),
    [
        ("avdigits", "palm", "classification", "a2d, a2d-npmix, .*multimodal-ce, npmix"),
        ("digits", "npmix", "multimodal", "abet, .*ce, "),
        ("scenes/segmentation", "cider", "classification", "abet-segmentation, ce-segmentation"),
        ("scenes/detection", "abet-segmentation", "segmentation", "abet-detection, ce-detection"),
    ],
)
def test_a_method_of_another_task_is_refused_before_data_is_read(
    benchmark: str, method: str, task: str, able: str, use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: DatasetSpec, *_: Any) -> Any:
        raise AssertionError(f"{self.name} was read")

    chosen = get_benchmark(benchmark=benchmark)
    monkeypatch.setattr("oodbench.data.samples.Samples.__init__", read)
    common = {"benchmark": chosen, "detectors": "msp"}
    options = {"networks": Networks(method=method)} if use is tune else {"method": method}
    with pytest.raises(OptionError, match=f"{method} trains networks of {task}, not.*{able}"):
        use(**common, **options)


@pytest.mark.parametrize(
    ("benchmark", "method", "name"),
    [
        ("digits", "ce", "ce"),
        ("avdigits", "ce", "multimodal-ce"),
        ("scenes/segmentation", "abet", "abet-segmentation"),
        ("scenes/detection", "ce-detection", "ce-detection"),
    ],
)
def test_the_method_that_stands_for_one(benchmark: str, method: str, name: str) -> None:
    assert method_of(get_benchmark(benchmark=benchmark), method) == name


@pytest.mark.parametrize("name", ["digits", "cifar10", "ptood/textures10"])
def test_pictures_of_whole_images_are_refused(name: str, tmp_path: Path) -> None:
    """Before anything is read; they were left out without a word."""
    with pytest.raises(OptionError, match=r"pictures show pixels and boxes.* Leave `pictures` out"):
        oodbench.evaluate(
            nn.Identity(),
            benchmark=name,
            detectors="msp",
            pictures=tmp_path / "p",
            preprocess="benchmark",
        )
    assert not (tmp_path / "p").exists()


# --- pages ---------------------------------------------------------------------------------------


def page(name: str, rows: Any = None) -> str:
    benchmark = get_benchmark(benchmark=name)
    if rows is None:
        return leaderboard.page(benchmark, PAGES)
    return leaderboard.render(benchmark, rows, standing=Standing())


@pytest.mark.parametrize("rows", [None, []])
@pytest.mark.parametrize(
    ("name", "told", "untold"),
    [
        ("scenes/segmentation", "no confidence intervals: the pixels", "DeLong"),
        ("cityscapes/segmentation", "no confidence intervals: the pixels", "DeLong"),
        ("scenes/detection", "intervals over predicted boxes, as if those of one", "over images"),
        ("voc/detection", "intervals over predicted boxes, as if those of one", "over images"),
        ("digits", f"intervals over images in brackets ({metrics.INTERVALS}", "boxes"),
    ],
)
def test_a_page_promises_the_intervals_that_it_has(
    name: str, told: str, untold: str, rows: Any
) -> None:
    head = page(name, rows).partition("\n## ")[0]
    assert told in head
    assert untold not in head


def test_a_page_of_rows_without_intervals() -> None:
    rows = [
        {key: None if key.endswith(("_low", "_high")) else value for key, value in row.items()}
        for row in ResultStore(PAGES).rows("digits")
    ]
    head = page("digits", rows).partition("\n## ")[0]
    assert "have no confidence intervals; several seeds" in head


@pytest.mark.parametrize(
    ("name", "fpr"),
    [
        ("cityscapes/segmentation", "OOD positive"),
        ("streethazards/segmentation", "OOD positive"),
        ("scenes/segmentation", "OOD positive"),
        ("voc/detection", "ID positive"),
        ("bdd/detection", "ID positive"),
        ("scenes/detection", "ID positive"),
    ],
)
def test_the_figure_of_the_papers(name: str, fpr: str) -> None:
    """Anomalies are positive in papers on pixels, ID boxes in those on boxes."""
    assert f"its papers print is FPR@95 ({fpr})." in page(name, [])


@pytest.mark.parametrize("name", ["scenes/segmentation", "scenes/detection"])
def test_committed_pages_are_those_of_their_rows(name: str) -> None:
    path = PAGES / f"{name.replace('/', '-')}.md"
    assert path.read_text(encoding="utf-8") == page(name)

"""What is wanted of datasets, what of it is missing, and which source will have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench import DatasetSpec, files, get_benchmark
from oodbench.data.samples import Samples
from oodbench.download import hub, wanted
from oodbench.download.described import Download, HubFiles, RemoteFile
from oodbench.download.wanted import Lacking, Wanted, can_be_fetched, lacking, size_of
from oodbench.errors import DataError, MissingDataError, UnknownNameError
from tests.conftest import write_images
from tests.helpers.datasets import spec, toy
from tests.helpers.downloads import birds_of


def of(target: str, *splits: str, size: int | None = None, url: str = "https://a.org/x.zip"):
    """A source of some splits; without an address only a person has it."""
    return Download(target, (RemoteFile(url, "x.zip", size),), splits=splits)


def holding(here: set[str], *downloads: Download, name: str = "birds") -> DatasetSpec:
    """A dataset of which some splits are in the data folder."""

    def load(split: str) -> Samples:
        if split not in here:
            raise MissingDataError(f"no {split}")
        if split == "val":
            raise DataError("damaged")
        return spec(name).load(split)

    return DatasetSpec(name, load, ("train", "val", "test"), downloads=downloads)


def test_a_damaged_split_is_there() -> None:
    one = holding({"train", "val"})
    assert [wanted.is_there(one, split) for split in one.splits] == [True, True, False]
    assert Wanted(one, one.splits).missing() == ("test",)
    assert Wanted(one, ("train",)).missing() == ()


def test_a_split_is_there_once_its_files_are(data: Path) -> None:
    birds = Wanted(birds_of(), ("test",))
    assert birds.missing() == ("test",)
    write_images(data / "birds" / "test", {"jay": 1})
    assert birds.missing() == ()


def test_sources_of_splits() -> None:
    train, test, both = of("a", "train"), of("b", "test"), of("c")
    found = Wanted(holding(set(), train, test, both), ("train", "test"))
    assert found.sources(["train"]) == (train, both)
    assert found.sources(["test"]) == (test, both)
    assert found.sources(["train", "test"]) == (train, test, both)
    assert found.sources(["val"]) == (both,)


def fetched(downloads: tuple[Download, ...], *splits: str) -> tuple[Download, ...]:
    (one,) = lacking([Wanted(holding(set(), *downloads), splits)])
    return one.fetched


def test_for_each_split_the_first_source_that_can_be_fetched() -> None:
    by_hand, train, test, both = of("h", url=""), of("a", "train"), of("b", "test"), of("c")
    assert fetched((both, train, test), "train", "test") == (both,)  # it has the others as well
    assert fetched((train, both, test), "train", "test") == (train, both)
    assert fetched((train, test), "train", "val", "test") == (train, test)
    assert fetched((by_hand, both), "train") == (both,)
    assert fetched((by_hand,), "train") == ()
    assert fetched((), "train") == ()


def test_what_can_be_fetched(data: Path) -> None:
    assert can_be_fetched(of("x"))
    assert not can_be_fetched(of("x", url=""))
    (data / "downloads").mkdir(parents=True)
    (data / "downloads" / "x.zip").touch()
    assert can_be_fetched(of("x", url=""))  # a person put it there
    missing = Download("x", (RemoteFile("https://a.org/x.zip"),), needs=("no_such_module",))
    assert not can_be_fetched(missing)


@pytest.mark.parametrize("has_account", [True, False])
def test_gated_repositories_take_an_account(
    monkeypatch: pytest.MonkeyPatch, has_account: bool
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: "secret" if has_account else None)
    assert can_be_fetched(Download("x", hub=HubFiles("some/birds")))
    assert can_be_fetched(Download("x", hub=HubFiles("some/birds", is_gated=True))) == has_account


def test_what_a_benchmark_reads() -> None:
    benchmark = toy()

    def read(**words) -> list[tuple[str, tuple[str, ...]]]:
        return [(one.name, one.splits) for one in wanted.of_benchmark(benchmark, **words)]

    ood = [("n1", ("test",)), ("n2", ("test",)), ("f1", ("test",))]
    assert read() == [("toy", ("train", "test")), *ood]
    assert read(id_splits=["test"]) == [("toy", ("test",)), *ood]
    assert read(id_splits=["val", "train"], ood=()) == [("toy", ("train",))]  # there is no val
    assert read(ood=benchmark.choose("n2")) == [("toy", ("train", "test")), ood[1]]


def test_sets_that_hyper_parameters_are_chosen_on() -> None:
    """Their ``val`` split, or the last if there is none."""
    from oodbench import Benchmark, Preprocess

    with_val, without = holding(set(), name="with"), spec("without")
    benchmark = Benchmark(
        "toy", spec("toy"), preprocess=Preprocess(32, (0.5,) * 3, (0.5,) * 3),
        validation=(with_val, without),
    )  # fmt: skip
    tuned = wanted.of_benchmark(benchmark)
    assert [(one.name, one.splits) for one in tuned[1:]] == [
        ("with", ("val",)),
        ("without", ("test",)),
    ]
    assert len(wanted.of_benchmark(benchmark, is_tuned=False)) == 1


def test_names() -> None:
    (one,) = wanted.of_name("mnist")
    assert (one.name, one.splits) == ("mnist", one.spec.splits)
    whole = get_benchmark(benchmark="cifar10/openood")
    found = wanted.of_name("cifar10/openood")
    assert {one.name for one in found} == {
        whole.id.name,
        *(member.spec.name for member in whole.ood),
        *(one.name for one in whole.validation),
    }
    with pytest.raises(UnknownNameError, match="Did you mean 'mnist'"):
        wanted.of_name("mnsit")


def test_each_dataset_is_lacking_once() -> None:
    one = holding({"test"}, of("x"))
    other = holding(set(), name="birds")  # of the same name, but read elsewhere
    found = lacking(Wanted(each, (split,)) for split in ("train", "val", "train", "test")
                    for each in (one, other))  # fmt: skip
    assert [(each.name, each.splits) for each in found] == [
        ("birds", ("train", "val")),
        ("birds", ("train", "val", "test")),
    ]
    assert found[0] == Lacking(Wanted(one, ("train", "val", "test")), ("train", "val"),
                               one.downloads)  # fmt: skip
    assert lacking([Wanted(one, ("test",))]) == []
    assert not files.data_dir().exists()  # looking makes nothing


def test_how_much() -> None:
    assert size_of([of("a", size=1_500_000), of("b", size=500_000)]) == "2.0 MB"
    assert size_of([of("a", "train", size=1000), of("a", "test", size=1000)]) == "1.0 kB"
    assert size_of([of("a", size=1000), of("b")]) == "more than 1.0 kB"
    assert size_of([of("a")]) == "of unknown size"

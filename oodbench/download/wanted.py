"""What is wanted of which datasets, and what of that is not in the data folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oodbench.benchmark import Benchmark, OODSet, get_benchmark
from oodbench.dataset import DatasetSpec, resolve_dataset
from oodbench.disk.full import size_in_words
from oodbench.download import hub
from oodbench.download.described import Download
from oodbench.download.placing import downloads_dir, lacking_module
from oodbench.errors import MissingDataError, OODBenchError, UnknownNameError, did_you_mean
from oodbench.registry import BENCHMARKS, DATASETS, PREPARATIONS


@dataclass(frozen=True)
class Wanted:
    """Splits of a dataset.

    Args:
        spec: the dataset.
        splits: of it.
    """

    spec: DatasetSpec
    splits: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the dataset."""
        return self.spec.name

    def missing(self) -> tuple[str, ...]:
        """The splits that are not in the data folder.

        A damaged one counts as there, and is reported on use.
        """
        return tuple(split for split in self.splits if not is_there(self.spec, split))

    def sources(self, splits: Iterable[str]) -> tuple[Download, ...]:
        """The sources that have any of some splits, best first."""
        asked = set(splits)
        return tuple(
            one for one in self.spec.downloads if not one.splits or asked & set(one.splits)
        )


@dataclass(frozen=True)
class Lacking:
    """What is wanted and not there.

    Args:
        wanted: the dataset.
        splits: those that are missing.
        sources: where they can be had, best first.
    """

    wanted: Wanted
    splits: tuple[str, ...]
    sources: tuple[Download, ...]

    @property
    def name(self) -> str:
        """The name of the dataset."""
        return self.wanted.name

    @property
    def fetched(self) -> tuple[Download, ...]:
        """The sources that will be used if all goes well: for each split, the first that can be."""
        chosen: list[Download] = []
        for split in self.splits:
            if any(not one.splits or split in one.splits for one in chosen):
                continue
            usable = (one for one in self.wanted.sources([split]) if can_be_fetched(one))
            chosen += [one for one in [next(usable, None)] if one is not None]
        return tuple(chosen)


def is_there(spec: DatasetSpec, split: str) -> bool:
    """Whether a split is in the data folder, damaged or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what was passed over; it is said on use
        try:
            spec.load(split)
        except MissingDataError:
            return False
        except OODBenchError:
            return True
    return True


def can_be_fetched(download: Download) -> bool:
    """Whether a source can be had without a person doing something first."""
    if not download.files and download.hub is None:
        return False
    by_hand = [file for file in download.files if not file.url]
    was_brought = all((downloads_dir() / file.name).is_file() for file in by_hand)
    if lacking_module(download) or not was_brought:
        return False
    is_gated = download.hub is not None and download.hub.is_gated
    return not is_gated or bool(hub.headers())


def of_dataset(spec: DatasetSpec) -> list[Wanted]:
    """All splits of a dataset."""
    return [Wanted(spec, spec.splits)]


def of_benchmark(
    benchmark: Benchmark,
    id_splits: Sequence[str] | None = None,
    ood: Sequence[OODSet] | None = None,
    *,
    is_tuned: bool = True,
) -> list[Wanted]:
    """What a benchmark reads.

    Args:
        benchmark: the benchmark.
        id_splits: of its ID set; all for None.
        ood: its OOD sets that are used; all for None.
        is_tuned: whether the sets are read that hyper-parameters are chosen on.
    """
    asked = benchmark.id.splits if id_splits is None else id_splits
    splits = tuple(split for split in benchmark.id.splits if split in asked)
    wanted = [Wanted(benchmark.id, splits)]
    chosen = benchmark.ood if ood is None else ood
    wanted += [Wanted(one.spec, one.spec.splits[-1:]) for one in chosen]
    if is_tuned:
        for spec in benchmark.validation:
            split = "val" if "val" in spec.splits else spec.splits[-1]
            wanted.append(Wanted(spec, (split,)))
    return wanted


def of_name(name: str) -> list[Wanted]:
    """What a name stands for: a dataset, or all sets of a benchmark.

    Raises:
        UnknownNameError: it stands for neither.
    """
    if name.partition(":")[0] in DATASETS:
        return of_dataset(resolve_dataset(name))
    if name in BENCHMARKS:
        return of_benchmark(get_benchmark(benchmark=name))
    known = sorted({*DATASETS.names(), *BENCHMARKS.names(), *PREPARATIONS.names()})
    raise UnknownNameError(
        f"no dataset, benchmark or family of datasets is named {name!r}.{did_you_mean(name, known)}"
        " See `oodbench list datasets`, or the lists of benchmarks and preparations."
    )


def lacking(wanted: Iterable[Wanted]) -> list[Lacking]:
    """What is not there, each dataset once."""
    asked: list[tuple[DatasetSpec, dict[str, None]]] = []
    for one in wanted:
        same = (splits for spec, splits in asked if _is_same(spec, one.spec))
        known = next(same, None)
        if known is None:
            asked.append((one.spec, dict.fromkeys(one.splits)))
        else:
            known.update(dict.fromkeys(one.splits))
    incomplete = []
    for spec, splits in asked:
        whole = Wanted(spec, tuple(splits))
        absent = whole.missing()
        if absent:
            incomplete.append(Lacking(whole, absent, whole.sources(absent)))
    return incomplete


def _is_same(one: DatasetSpec, other: DatasetSpec) -> bool:
    """Whether they are read alike; two sets may share a name, and be other images."""
    return one.name == other.name and one.load == other.load


def size_of(downloads: Iterable[Download]) -> str:
    """How much is fetched, for people: ``"163.1 MB"``, ``"more than 2.1 GB"``."""
    once = list({one.target: one for one in downloads}.values())
    total = sum(one.bytes for one in once)
    if not total:
        return "of unknown size"
    return ("more than " if any(not one.bytes for one in once) else "") + size_in_words(total)

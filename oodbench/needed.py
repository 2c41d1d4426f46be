"""Which data an evaluation reads, and getting what of it is not in the data folder."""

from __future__ import annotations

from collections.abc import Sequence

from oodbench.benchmark import Benchmark
from oodbench.contenders import Networks
from oodbench.dataset import DatasetSpec, resolve_dataset
from oodbench.detector import Detector
from oodbench.download.placing import Means, by_hand
from oodbench.download.prepare import fetch_all, watching
from oodbench.download.wanted import Lacking, Wanted, lacking, of_benchmark
from oodbench.errors import MissingDataError
from oodbench.reporting import Report
from oodbench.tasks.runner import fit_split, learns


def needed(
    benchmark: Benchmark,
    detectors: Sequence[Detector] = (),
    networks: Networks | None = None,
    *,
    ood: str | Sequence[str] | None = None,
    tune: bool = False,
    test: bool = True,
) -> list[Wanted]:
    """What is read of a benchmark's sets.

    Args:
        benchmark: it.
        detectors: those that are scored; some learn from ID samples.
        networks: those that they are put on; None if a network is trained.
        ood: names of OOD sets, as :meth:`Benchmark.choose` takes them.
        tune: whether hyper-parameters are chosen.
        test: whether anything is tested.
    """
    splits = {"test"} if test else set()
    is_trained = networks is None or not networks.is_trained_elsewhere(benchmark, detectors)
    splits |= {"train"} if is_trained or tune else set()
    splits |= {fit_split(detector) for detector in detectors if learns(detector)}
    splits |= {"val"} if tune else set()
    chosen = benchmark.choose(ood) if test else ()
    wanted = of_benchmark(benchmark, sorted(splits), chosen, is_tuned=tune)
    if networks is None or not is_trained:
        return wanted
    return wanted + [_beside(resolve_dataset(name)) for name in networks.beside(detectors)]


def _beside(spec: DatasetSpec) -> Wanted:
    """The split of a dataset that training sees beside the ID set."""
    return Wanted(spec, ("train",) if "train" in spec.splits else spec.splits[-1:])


def obtainable(wanted: Sequence[Wanted]) -> list[Lacking]:
    """What is not here and can be fetched without a person doing something first."""
    return [one for one in lacking(w for w in wanted if w.spec.downloads) if one.fetched]


def check_id(benchmark: Benchmark, wanted: Sequence[Wanted]) -> None:
    """Check, before anything is fetched, that the ID splits that are not here can be fetched.

    Without them nothing can be evaluated, and OOD sets would be fetched in vain.

    Raises:
        MissingDataError: one cannot, without a person; says step by step how to get it.
    """
    for one in lacking(w for w in wanted if w.spec is benchmark.id):
        covered = {split for source in one.fetched for split in source.splits or one.splits}
        absent = [split for split in one.splits if split not in covered]
        name = f"{one.name} ({', '.join(absent)})"
        ways = [
            by_hand(source, name, [file for file in source.files if not file.url])
            for source in one.wanted.sources(absent)
        ]
        if absent and ways:
            raise MissingDataError(" Or: ".join(ways))


def download(missing: Sequence[Lacking], report: Report | None = None) -> None:
    """Get what is not here.

    Raises:
        NoNetworkError, MissingDataError, DataError, StorageError: see :func:`oodbench.prepare`.
    """
    if missing:
        with watching(report, None) as watch:
            fetch_all(missing, Means(watch))

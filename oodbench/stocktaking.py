"""Counting what of a benchmark or a dataset is in the data folder, and comparing it."""

from __future__ import annotations

import functools
import shlex
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from oodbench import files
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.data.content import content_fingerprint
from oodbench.data.samples import ImageFiles, Samples, Subset
from oodbench.dataset import DatasetSpec, resolve_dataset
from oodbench.download.wanted import Lacking, Wanted, can_be_fetched
from oodbench.errors import MissingDataError, OODBenchError, UnknownNameError, did_you_mean
from oodbench.registry import BENCHMARKS, DATASETS
from oodbench.stock import SplitStock, Stock

Counted = dict[tuple[str, str], list[tuple[DatasetSpec, SplitStock]]]
"""What was counted, by the dataset's name and the split; sets of one name may be read otherwise."""


def take(name: str, *, is_checked: bool = False, counted: Counted | None = None) -> Stock:
    """What is here of a benchmark's sets, or of a dataset's splits.

    Args:
        name: of a benchmark or a dataset.
        is_checked: whether contents are compared also where all images have to be read for that.
        counted: of other benchmarks, a moment ago; what is counted now is added.

    Raises:
        UnknownNameError: it is neither.
    """
    if name in BENCHMARKS:
        benchmark = get_benchmark(benchmark=name)
        return of_benchmark(benchmark, is_checked=is_checked, counted=counted)
    if name.partition(":")[0] not in DATASETS:
        known = sorted({*DATASETS.names(), *BENCHMARKS.names()})
        raise UnknownNameError(
            f"no benchmark or dataset is named {name!r}.{did_you_mean(name, known)} "
            "See `oodbench list datasets`, or the list of benchmarks."
        )
    spec = resolve_dataset(name)
    splits = tuple(_split(spec, split, "", is_checked) for split in spec.splits)
    return _stock(name, "dataset", splits, f"oodbench data prepare {shlex.quote(name)}")


def of_benchmark(
    benchmark: Benchmark, *, is_checked: bool = False, counted: Counted | None = None
) -> Stock:
    """What is here of a benchmark's sets."""
    known = {} if counted is None else counted
    splits = []
    for spec, split, role in _roles(benchmark):
        same = known.setdefault((spec.name, split), [])
        taken = next((one for other, one in same if other.load == spec.load), None)
        if taken is None:
            taken = _split(spec, split, role, is_checked)
            same.append((spec, taken))
        splits.append(replace(taken, role=role))
    command = f"oodbench data prepare --benchmark {shlex.quote(benchmark.name)}"
    return _stock(benchmark.name, "benchmark", tuple(splits), command)


def _roles(benchmark: Benchmark) -> Iterator[tuple[DatasetSpec, str, str]]:
    for split in benchmark.id.splits:
        yield benchmark.id, split, "ID"
    for member in benchmark.ood:
        yield member.spec, member.spec.splits[-1], member.group
    for spec in benchmark.validation:
        yield spec, "val" if "val" in spec.splits else spec.splits[-1], "chosen on"


def _stock(name: str, kind: str, splits: tuple[SplitStock, ...], command: str) -> Stock:
    fetched = {(one.name, one.to_fetch) for one in splits if one.to_fetch is not None}
    total = sum(size for _, size in fetched if size is not None)
    is_missing = any(one.count is None and one.command for one in splits)
    return Stock(name, kind, splits, command if is_missing else "", total)


def _split(spec: DatasetSpec, split: str, role: str, is_checked: bool) -> SplitStock:
    content = spec.contents.get(split)
    expected = None if content is None else content.count
    published = "" if content is None else content.fingerprint
    stock = functools.partial(
        SplitStock, spec.name, split, role=role, expected=expected, published=published
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are said on use
            samples = spec.load(split)
            fingerprint = _fingerprint(samples, published, is_checked)
    except MissingDataError as error:
        return _missing(spec, split, str(error), stock)
    except OODBenchError as error:
        return stock(problem=str(error))
    except (Exception, SystemExit) as error:  # of a stranger's code
        return stock(problem=f"cannot be read ({error!r})")
    problem = ""
    if expected is not None and len(samples) < expected:
        problem = f"part: {len(samples):,} of {expected:,}"
    elif expected is not None and len(samples) > expected:
        problem = "not as published: more"
    elif fingerprint and fingerprint != published:
        problem = "not as published: other images or labels"
    size = _size(spec, samples)
    return stock(count=len(samples), fingerprint=fingerprint, problem=problem, size=size)


def _missing(
    spec: DatasetSpec, split: str, reason: str, stock: Callable[..., SplitStock]
) -> SplitStock:
    wanted = Wanted(spec, (split,))
    lacking = Lacking(wanted, (split,), wanted.sources([split]))
    size: int | None = None
    command = f"oodbench info {shlex.quote(spec.name)}"
    if lacking.sources:
        command = f"oodbench data prepare {shlex.quote(spec.name)}"
    if any(map(can_be_fetched, lacking.sources)):
        size = sum(one.bytes for one in lacking.fetched)
    return stock(problem=reason, to_fetch=size, command=command)


def _fingerprint(samples: Samples, published: str, is_checked: bool) -> str:
    """The fingerprint of contents, if there is another to compare it with, and time for it."""
    if published and (is_checked or samples.digests_are_cheap):
        return content_fingerprint(samples)
    return ""


def _size(spec: DatasetSpec, samples: Samples) -> int | None:
    """Bytes on disk."""
    whole = samples
    while isinstance(whole, Subset):
        whole = whole.samples
    if isinstance(whole, ImageFiles):
        return sum((whole.root / path).stat().st_size for path in whole.paths)
    for download in spec.downloads:
        place = files.data_dir() / download.target
        if place.exists():
            return _below(place)
    return None


def _below(place: Path) -> int:
    inside = place.rglob("*") if place.is_dir() else (place,)
    return sum(path.stat().st_size for path in inside if path.is_file())

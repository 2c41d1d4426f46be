"""Datasets into the data folder: what is not there is fetched, from the first source that can."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from oodbench import files
from oodbench.dataset import DatasetSpec
from oodbench.download import wanted
from oodbench.download.described import Download
from oodbench.download.placing import Means, lacking_module, place, tidy
from oodbench.download.progress import Bar, Lines, Report, Watch
from oodbench.download.wanted import Lacking, Wanted
from oodbench.errors import DataError, DownloadError, MissingDataError, NoNetworkError


def prepare(
    names: str | Sequence[str],
    *,
    brought: str | Path | None = None,
    report: Report | None = None,
    progress: bool | None = None,
) -> list[str]:
    """Get datasets into the data folder, as far as they are not there.

    A run that was killed goes on where it was; of two at once, the second waits for the first.

    Args:
        names: of datasets (all their splits) or benchmarks (all their sets).
        brought: a file that was got by hand, or a folder of such files; those in ``downloads`` in
            the data folder are found without.
        report: told what happens, line by line; lines are printed to standard error for None.
        progress: whether a bar is shown; None for where standard error is a terminal.

    Returns:
        Names of the datasets of which something was fetched.

    Raises:
        UnknownNameError: a name that is neither.
        NoNetworkError: no publisher can be reached.
        MissingDataError: a dataset has to be got by hand; the message says how.
        DataError: one cannot be fetched, or is not what was published. The others are there.
        StorageError: there is no room, or the data folder cannot be written.
    """
    names = [names] if isinstance(names, str) else names
    sets = [one for name in names for one in wanted.of_name(name)]
    place = None if brought is None else files.user_path(brought)
    if place is not None and not place.exists():
        raise MissingDataError(f"there is no file or folder {place}, which was named as brought.")
    for one in sets:
        tidy_up(one)
    with watching(report, progress) as watch:
        return fetch_all(wanted.lacking(sets), Means(watch, place))


def tidy_up(one: Wanted) -> None:
    """Remove archives of a dataset that is here, which a killed process left behind."""
    for source in one.spec.downloads:
        tidy(source, one.name)


@contextmanager
def watching(report: Report | None, progress: bool | None) -> Iterator[Watch]:
    """What receives the progress; see :func:`prepare`."""
    is_shown = sys.stderr.isatty() if progress is None else progress

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    watch: Watch = Bar(sys.stderr) if is_shown else Lines(report or say)
    try:
        yield watch
    finally:
        watch.close()


def fetch_all(missing: Iterable[Lacking], means: Means) -> list[str]:
    """Get all that is lacking; one failure does not keep the rest from being fetched.

    Returns:
        Names of the datasets of which something was fetched.

    Raises:
        NoNetworkError, MissingDataError, DataError, StorageError: see :func:`prepare`.
    """
    done: list[str] = []
    failures: list[DataError] = []
    for one in missing:
        try:
            fetch(one.wanted, means)
        except NoNetworkError:
            raise
        except DataError as error:
            failures.append(error)
            continue
        done.append(one.name)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        kinds = {type(error) for error in failures}
        kind = kinds.pop() if len(kinds) == 1 else DataError
        raise kind("\n".join(map(str, failures)))
    return done


def fetch(one: Wanted, means: Means) -> None:
    """Get the splits of one dataset that are missing, from the first source that has each.

    Raises:
        NoNetworkError, MissingDataError, DataError, StorageError: see :func:`prepare`.
    """
    failures: list[DataError] = []
    tidy_up(one)
    for source in one.sources(one.splits):
        absent = one.missing()
        covered = [split for split in absent if not source.splits or split in source.splits]
        if not covered:
            continue
        try:
            _fetch(source, one.spec, covered, means)
        except DataError as error:
            failures.append(error)
            means.watch.say(f"{error}")
    absent = one.missing()
    if not absent:
        if failures:
            means.watch.say(f"{one.name} came from another source")
        return
    if not failures:
        raise MissingDataError(_without_source(one.spec, absent[0]))
    if all(isinstance(error, NoNetworkError) for error in failures):
        raise failures[0]
    first = next((f for f in failures if not isinstance(f, MissingDataError)), failures[0])
    others = [str(error) for error in failures if error is not first]
    raise type(first)(" Or: ".join([str(first), *others]))


def _fetch(source: Download, spec: DatasetSpec, splits: list[str], means: Means) -> None:
    module = lacking_module(source)
    if module:
        raise MissingDataError(
            f"{spec.name}: reading {source.source} takes {module}, which is not installed: "
            f"pip install {module}."
        )

    def is_there() -> bool:
        return all(wanted.is_there(spec, split) for split in splits)

    def check() -> None:
        for split in splits:
            problem = unlike_published(spec, split)
            if problem and not source.is_vouched_for:
                raise DownloadError(problem)
            if problem:  # its files are what their publisher says; the set may be a part
                means.watch.say(f"warning: {problem}")

    place(source, spec.name, is_there, check, means)
    if not is_there():
        raise DataError(
            f"{spec.name}: {files.data_dir() / source.target} is there, but it is not read: "
            f"{_why(spec, splits)}"
        )


def unlike_published(spec: DatasetSpec, split: str) -> str | None:
    """How a split in the data folder differs from the published one; None if it does not.

    Raises:
        DataError: it cannot be read.
    """
    samples = spec.load(split)
    return spec.difference(split, samples) if hasattr(spec, "difference") else None


def _why(spec: DatasetSpec, splits: Iterable[str]) -> str:
    for split in splits:
        try:
            spec.load(split)
        except DataError as error:
            return str(error)
    return ""


def _without_source(spec: DatasetSpec, split: str) -> str:
    try:
        spec.load(split)
    except MissingDataError as error:
        return f"no address is known that {spec.name} can be fetched from. {error}"
    return f"{spec.name} is there by now."

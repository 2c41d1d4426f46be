"""Whether results hold: made again from scores, outputs or the recipe; pages from the rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from oodbench import files, zoo
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.errors import BadScoresError, OODBenchError
from oodbench.hardware import Hardware
from oodbench.registry import BENCHMARKS
from oodbench.results import again, leaderboard, rated, scores, stored
from oodbench.results.again import Made, Means
from oodbench.results.derive import derived
from oodbench.results.rows import Row
from oodbench.results.standing import changed_code
from oodbench.results.store import ResultStore
from oodbench.results.stored import PACK, Check, StoredResult
from oodbench.results.verdict import Level, Verdict
from oodbench.results.versions import versions
from oodbench.runtime.machine import processor_name


def verify(path: str | Path, level: Level = "scores", means: Means | None = None) -> list[Verdict]:
    """Check a result, a page, a benchmark's folder of results, or a whole folder of leaderboards.

    Of a result with scores every figure and interval is derived again from them; its remarks say
    which figures cannot be (those that tell of the network alone). Of a page, it must be what its
    results render to, byte by byte. With ``"outputs"`` the detector scores the network's outputs
    again, which come from the cache or from the network; with ``"network"`` the network is trained
    again first, from its recipe. What figures may differ by then is in
    :data:`oodbench.results.verdict.TOLERANCES`.

    Args:
        path: a ``.json`` of a result, a ``.md`` of a page, the ``.csv`` of its lines, or a folder.
        level: how much is made again.
        means: with what; None for the defaults.

    Raises:
        OODBenchError: nothing of that kind is there.
    """
    return list(verdicts(path, level, means))


def verdicts(
    path: str | Path, level: Level = "scores", means: Means | None = None
) -> Iterator[Verdict]:
    """The same, one after the other as they are found."""
    path = files.user_path(path)
    if path.suffix in (".md", ".csv") and path.is_file():
        yield of_page(path.with_suffix(".md"))
        return
    is_one = path.is_dir() or (path.is_file() and path.suffix in (".json", ".gz"))
    results, faults = results_at(path) if is_one else ([], [])
    whole = _of_folder(path) if path.is_dir() else []
    if not results and not faults and not whole:
        raise OODBenchError(
            f"there is nothing to verify at {path}: name a result (.json), a page (.md), or a "
            "folder of leaderboards."
        )
    yield from faults
    yield from of_results(results, level, means or Means(Hardware()), [path, *path.parents[:3]])
    yield from whole


def results_at(path: Path) -> tuple[list[StoredResult], list[Verdict]]:
    """The results of a file or a folder, and what is none although it should be."""
    results: list[StoredResult] = []
    faults: list[Verdict] = []
    paths = [path] if path.is_file() else [*path.rglob("*.json"), *path.rglob(PACK)]
    for one in sorted(paths):
        if one.name == zoo.INDEX:
            continue
        try:
            packed = one.name.endswith(".gz")
            results += stored.read_pack(one) if packed else [stored.read(one)]
        except OODBenchError as error:
            faults.append(Verdict(one).refuse(str(error)))
    return list({one.path: one for one in reversed(results)}.values())[::-1], faults


# --- results -------------------------------------------------------------------------------------


def of_results(
    results: Sequence[StoredResult], level: Level, means: Means, folders: Iterable[Path] = ()
) -> Iterator[Verdict]:
    """Check results at a level, and those below it."""
    first = {result.path: of_scores(result) for result in results}
    if level == "scores":
        yield from first.values()
        return
    sound = [result for result in results if first[result.path].holds]
    yield from (first[one.path] for one in results if not first[one.path].holds)
    nets = [*means.folders, *(one for one in folders if (one / "networks" / zoo.INDEX).is_file())]
    with_zoo = Means(means.hardware, nets, means.checkpoint, means.report)
    for result, made in again.again(sound, level, with_zoo):
        verdict = Verdict(result.path, remarks=first[result.path].remarks)
        yield again.compare(result, made, level, verdict)


def of_result(path: Path) -> Verdict:
    """Derive every figure of a result's file again from its scores."""
    try:
        return of_scores(stored.read(path))
    except OODBenchError as error:
        return Verdict(path).refuse(str(error))


def of_scores(result: StoredResult) -> Verdict:
    """Derive every figure of a result again from its scores."""
    verdict = Verdict(result.path)
    try:
        kept = _scores_of(result)
        benchmark = _benchmark_of(result)
    except OODBenchError as error:
        return verdict.refuse(str(error))
    if remark := changed_code(result.rows[0]):
        verdict.remarks.append(remark)
    if kept is None:
        return verdict.leave("its scores were not kept")
    try:
        figures = derived(result.rows, kept, benchmark)
    except (BadScoresError, KeyError, ValueError) as error:
        return verdict.refuse(f"its scores are not those of its rows ({error})")
    verdict.compare(result.rows, figures)
    pairs = zip(result.rows, figures, strict=True)
    left = dict.fromkeys(name for row, own in pairs for name in _figures_of(row) if name not in own)
    if left:
        verdict.remarks.append(f"not made of scores, so not derived: {', '.join(left)}")
    return verdict


def _scores_of(result: StoredResult) -> dict[str, np.ndarray] | None:
    """The scores of a result; None if there are none.

    Raises:
        OODBenchError: they are not those that the result was written with.
    """
    if result.scores is None or result.scores_path is None:
        beside = result.path.with_suffix(".scores.safetensors")
        if beside.is_file():
            raise OODBenchError(f"{beside} is there, but the result does not name it.")
        return None
    if not result.scores_path.is_file():
        raise OODBenchError(f"its scores, {result.scores.name}, are missing.")
    if files.sha256(result.scores_path) != result.scores.sha256:
        raise OODBenchError(
            f"its scores, {result.scores.name}, are not those that it was written with."
        )
    return scores.read(result.scores_path)


def _benchmark_of(result: StoredResult) -> Benchmark | None:
    """The benchmark of a result; None if it is not known here."""
    name = result.rows[0]["benchmark"]
    try:
        return get_benchmark(benchmark=name) if name in BENCHMARKS or ":" in name else None
    except OODBenchError:
        return None


def _figures_of(row: Row) -> list[str]:
    """Columns of a row that hold a figure."""
    return [
        name
        for name, value in row.items()
        if isinstance(value, float) and name != "seconds" and value == value
    ]


# --- made again, and kept ------------------------------------------------------------------------


def record(result: StoredResult, verdict: Verdict) -> None:
    """Note in a result's file that it was made again, and what became of it.

    Raises:
        StorageError: the file cannot be written.
    """
    today = versions()
    check = Check(
        verdict.level, verdict.word, today["oodbench"], again.date_of_today(), processor_name()
    )
    ResultStore(result.path.parents[2]).note(result, check)


def rescore(
    results: Sequence[StoredResult], means: Means
) -> Iterator[tuple[StoredResult, Path | str]]:
    """Make results again by the detectors of today, each on the network that it was made on.

    The new result takes the place of the old one once it is written whole; its network and the
    network's key stay.

    Yields:
        Each result with its new file, or why it was not made again and stays as it is.
    """
    for result, made in again.again(results, "outputs", means):
        if isinstance(made, str):
            yield result, made
        elif reason := _other_data(result, made):
            yield result, reason
        else:
            store = ResultStore(result.path.parents[2])
            yield result, store.replace(result, made.rows, made.scores)


def _other_data(result: StoredResult, made: Made) -> str | None:
    column = again.other_data(result, made)
    if column is None and result.rows[0]["weights"] != made.rows[0]["weights"]:
        column = "weights"
    if column is None:
        return None
    return f"the images or the network here are not those of its rows ({column})"


# --- folders and pages ---------------------------------------------------------------------------


def _of_folder(path: Path) -> list[Verdict]:
    """What else must hold of a folder: scores, networks and pages."""
    verdicts = [of_kept(kept) for kept in sorted(path.rglob("*.scores.safetensors"))]
    verdicts += [of_network(one) for index in path.rglob(zoo.INDEX) for one in _networks(index)]
    verdicts += [of_page(page) for page in sorted(path.glob("*.md")) if _is_page(page)]
    return verdicts + list(_pages_that_are_missing(path))


def of_kept(path: Path) -> Verdict:
    """Scores belong to a result."""
    verdict = Verdict(path)
    stem = path.name.removesuffix(".scores.safetensors")
    if path.with_name(f"{stem}.json").is_file() or stem in _packed(path):
        return verdict
    return verdict.refuse(f"there is no result {stem}.json that they belong to")


def _packed(path: Path) -> set[str]:
    try:
        return {*stored.packed_beside(path)}
    except OODBenchError:  # told of the pack itself
        return set()


def _networks(index: Path) -> list[zoo.Released]:
    try:
        return [one for one in zoo.read(index).values() if one.file is not None]
    except OODBenchError:
        return []


def of_network(released: zoo.Released) -> Verdict:
    """The weights of a network are those that its index names."""
    path = released.place / str(released.file)
    verdict = Verdict(path, checked=1)
    if not path.is_file():
        return verdict.refuse(f"the weights of {released.name} are missing")
    if files.sha256(path) != released.sha256:
        return verdict.refuse(f"they are not the weights of {released.name}: another sha256")
    return verdict


def of_page(path: Path) -> Verdict:
    """A page must be what its results render to, and so must the csv of its lines."""
    verdict = Verdict(path, checked=1)
    whole = path.stem.endswith(WHOLE)
    benchmark = _benchmark_of_page(path)
    if not path.is_file():
        return verdict.refuse("there is no such page")
    if benchmark is None:
        return verdict.refuse("it is the page of no benchmark that is known here")
    try:
        board = leaderboard.stored_board(benchmark, path.parent)
        text = leaderboard.text_of(board, whole=whole)
        table = leaderboard.csv_of(board) if board.parts and not whole else None
    except OODBenchError as error:
        return verdict.refuse(f"its results cannot be read: {error}")
    except (KeyError, ValueError) as error:  # scores that are not of the rows' sets or samples
        return verdict.refuse(f"its results cannot be compared by their scores ({error})")
    again = f"run `oodbench leaderboard --benchmark {benchmark.name}{' --whole' * whole}`"
    if path.read_bytes() != text.encode():
        return verdict.refuse(f"it is not what its results render to: {again}")
    beside = path.with_suffix(".csv")
    if table is not None and not beside.is_file():
        return verdict.refuse(f"{beside.name}, which has all its lines, is missing: {again}")
    if table is not None and beside.read_bytes() != table.encode():
        return verdict.refuse(f"{beside.name} is not what its results render to: {again}")
    return verdict


WHOLE = ".whole"
"""How the names of pages end that have every line and a table for each set."""


def _is_page(path: Path) -> bool:
    """Whether a markdown file is a benchmark's page, by its name or by what it says it is."""
    says = "Generated by `oodbench leaderboard`" in path.read_text(
        encoding="utf-8", errors="replace"
    )
    return says or _benchmark_of_page(path) is not None


def _benchmark_of_page(path: Path) -> Benchmark | None:
    path = path.with_name(path.name.replace(f"{WHOLE}.md", ".md"))
    for name in BENCHMARKS.names():
        if name.replace("/", "-") == path.stem:
            return get_benchmark(benchmark=name)
    try:
        return rated.benchmark_of_page(path)
    except OODBenchError:  # which is told of the result
        return None


def _pages_that_are_missing(folder: Path) -> Iterator[Verdict]:
    """Results of registered benchmarks whose page is not there."""
    pages = {name.replace("/", "-") for name in BENCHMARKS.names()}
    for results in sorted((folder / "results").glob("*")):
        page = folder / f"{results.name}.md"
        if results.is_dir() and results.name in pages and not page.is_file():
            yield Verdict(page).refuse(
                f"there are results in {results}, and no page: run `oodbench leaderboard`"
            )

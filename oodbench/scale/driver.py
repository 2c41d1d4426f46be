"""Plans, runs and merges a matrix: what each cell costs, what is done, what failed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from oodbench import files
from oodbench.benchmark import get_benchmark
from oodbench.contenders import Networks
from oodbench.errors import OODBenchError, OptionError
from oodbench.hardware import Hardware
from oodbench.needed import needed, obtainable
from oodbench.reporting import reason_of
from oodbench.results import leaderboard, scores
from oodbench.results.scores import Scores
from oodbench.results.store import ResultStore
from oodbench.results.stored import StoredResult
from oodbench.scale import records
from oodbench.scale.engines import Engine
from oodbench.scale.matrix import Cell, Matrix
from oodbench.scale.records import DONE, FAILED, PARTLY, Record
from oodbench.scale.work import Work
from oodbench.selection import create_detectors

Report = Callable[[str], None]


@dataclass
class Cost:
    """What a cell takes, before it runs.

    Args:
        cell: the cell.
        detectors: how many are scored.
        images: how many samples the network sees that it did not see before, at most.
        training: what is trained, in words; ``""`` for nothing.
        problem: why the cell cannot run as it stands; ``""`` if it can.
    """

    cell: Cell
    detectors: int = 0
    images: int = 0
    training: str = ""
    problem: str = ""


def cost_of(cell: Cell) -> Cost:
    """What a cell takes: nothing is trained or seen for it, but the data is read.

    What a cell cannot do is told as its ``problem``, as it would fail where it runs.
    """
    cost = Cost(cell)
    try:
        _fill(cost)
    except Exception as error:  # of a stranger's data or network
        cost.problem = reason_of(error)
    return cost


def _fill(cost: Cost) -> None:
    cell = cost.cell
    asked = cell.arguments()
    benchmark = get_benchmark(None, cell.benchmark, None)
    detectors = create_detectors(asked["detectors"], cell.method, benchmark, asked.get("preset"))
    cost.detectors = len(detectors)
    same = {name: asked[name] for name in ("method", "backbone", "checkpoint")}
    given = ("recipe", "recipe_options", "preprocess", "input_size", "interpolation", "crop")
    same |= {name: asked[name] for name in given if name in asked}
    networks = Networks(**same, seeds=(cell.seed,))
    networks.check(benchmark, detectors)
    wanted = needed(
        benchmark, detectors, networks, ood=asked.get("ood"), tune=bool(asked.get("tune"))
    )
    lacking = obtainable(wanted)
    if lacking:
        names = ", ".join(one.name for one in lacking)
        cost.problem = f"its data is not here: {names}. `oodbench data get` brings it"
        return
    learn = any(one.needs_fit or one.needs_fit_batches for one in detectors)
    sets = [benchmark.id.load("test"), *([benchmark.id.load("train")] if learn else [])]
    for choice in benchmark.choose(asked.get("ood")):
        with contextlib.suppress(OODBenchError):
            sets.append(choice.spec.load(choice.spec.splits[-1]))
    cost.images = sum(map(len, sets))
    if not networks.is_trained_elsewhere(benchmark, detectors):
        runs = networks.runs(benchmark, detectors, Hardware(**cell.hardware))
        efforts = [
            run.recipe.effort(f"{len(run.samples)} images of {run.samples.name}")
            for run in runs
            if not run.weights.is_file()
        ]
        cost.training = "; ".join(efforts) or "trained already"


def run_matrix(
    matrix: Matrix,
    engine: Engine,
    leaderboards: Path,
    *,
    retries: int = 1,
    report: Report | None = None,
) -> list[Record]:
    """Run the cells that are not done; each one's rows are on its page as soon as it is.

    A cell whose process dies, or that fails, is tried again when the others had their turn.

    Args:
        matrix: the cells.
        engine: what they run on.
        leaderboards: whose store the rows go to, and where the pages are written.
        retries: how often a cell that fails is tried again.
        report: told what happens, line by line.

    Returns:
        The records of all cells.

    Raises:
        StorageError: the records or the results cannot be written.
        OODBenchError: a result that is there is damaged.
    """
    say = report or (lambda _: None)
    folder = files.writable_dir(matrix.folder, "The matrix file must lie where you may write.")
    for name in dict.fromkeys(cell.benchmark for cell in matrix.cells):
        ResultStore(leaderboards).check(get_benchmark(None, name, None).name)
    waiting = [record.cell for record in records.read_all(matrix) if record.state != DONE]
    total, done = len(matrix.cells), len(matrix.cells) - len(waiting)
    if done:
        say(f"{done} of {total} cells are done already")
    for attempt in range(1 + retries):
        if attempt and waiting:
            say(f"{len(waiting)} cells are tried again")
        before = {cell.key: records.read(folder, cell).attempts for cell in waiting}
        work = [Work(str(folder), str(leaderboards), cell) for cell in waiting]
        again: list[Cell] = []
        for ended, why in engine.run(work):
            record = _outcome(folder, ended.cell, why, before[ended.cell.key])
            done += record.state == DONE
            say(_line(record, done, total))
            if record.state != DONE:
                again.append(record.cell)
            if record.rows:
                leaderboard.write(get_benchmark(None, record.cell.benchmark, None), leaderboards)
        waiting = again
        if not waiting:
            break
    return records.read_all(matrix)


def _outcome(folder: Path, cell: Cell, why: str | None, attempts: int) -> Record:
    """What became of a cell: its own record, or that its process left none."""
    record = records.read(folder, cell)
    if record.attempts > attempts:
        return record
    text = why or f"its process wrote no record; see {records.log_of(folder, cell)}"
    record = replace(record, state=FAILED, error=text, attempts=attempts + 1)
    records.write(folder, record)
    return record


def _line(record: Record, done: int, total: int) -> str:
    if record.state == DONE:
        return f"{done}/{total} {record.cell.name}: {record.rows} rows, {record.seconds:.0f} s"
    word = "some detectors failed" if record.state == PARTLY else "failed"
    return f"{record.cell.name}: {word}: {record.reason}"


def merge(matrix: Matrix, sources: Sequence[Path], leaderboards: Path) -> tuple[int, int]:
    """Take over what was run elsewhere, on a machine that shares no file system with this one.

    Args:
        matrix: the cells.
        sources: folders, each with the leaderboards that were written there, or the records
            (``NAME.cells``), or both below it.
        leaderboards: whose store the rows go to.

    Returns:
        How many results and how many cells came in that were not here.

    Raises:
        OptionError: a folder with neither.
        StorageError: something cannot be written.
        OODBenchError: a result is damaged, or differs from the one that is here.
    """
    folder = files.writable_dir(matrix.folder, "The matrix file must lie where you may write.")
    results = cells = 0
    for source in sources:
        stores = [one for one in (source, source / "leaderboards") if (one / "results").is_dir()]
        places = [source, source / matrix.folder.name]
        found = [
            record
            for place in places
            for record in (records.read(place, cell) for cell in matrix.cells)
            if record.attempts
        ]
        if not stores and not found:
            raise OptionError(
                f"there are neither results nor records of {matrix.path.name} in {source}. Name "
                "the leaderboards or the .cells folder of the other machine."
            )
        for store in stores:
            results += _take_results(ResultStore(store), ResultStore(leaderboards), matrix)
        for record in found:
            if records.read(folder, record.cell).state != DONE:
                cells += record.state == DONE
                records.write(folder, record)
    for name in dict.fromkeys(cell.benchmark for cell in matrix.cells):
        benchmark = get_benchmark(None, name, None)
        if ResultStore(leaderboards).path(benchmark.name).is_dir():
            leaderboard.write(benchmark, leaderboards)
    return results, cells


def _take_results(source: ResultStore, target: ResultStore, matrix: Matrix) -> int:
    taken = 0
    for name in dict.fromkeys(cell.benchmark for cell in matrix.cells):
        for result in source.results(get_benchmark(None, name, None).name):
            taken += target.append(result.rows, _scores_of(result)) > 0
    return taken


def _scores_of(result: StoredResult) -> Scores | None:
    """The scores behind a result; None where they were not kept, or did not come along.

    Raises:
        OODBenchError: they are not those of the result.
    """
    path = result.scores_path
    if result.scores is None or path is None or not path.is_file():
        return None
    if files.sha256(path) != result.scores.sha256:
        raise OODBenchError(
            f"{path} is not what {result.path.name} says: it is damaged, or of another result. "
            "Copy the folder again."
        )
    return scores.read(path)

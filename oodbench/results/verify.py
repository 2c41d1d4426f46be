"""Whether results hold: figures derived again from the scores, pages rendered from the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from oodbench import files, metrics
from oodbench.benchmark import SHIFTED, Benchmark, get_benchmark
from oodbench.caching.fingerprint import code_digest
from oodbench.errors import BadScoresError, OODBenchError
from oodbench.registry import BENCHMARKS, DETECTORS
from oodbench.results import leaderboard, scores, stored
from oodbench.results.rows import ENDS, METRICS, Row, cell, with_columns
from oodbench.results.scores import Scores
from oodbench.results.stored import StoredResult

TOLERANCE = 1e-9
"""By how much an interval's end may differ that another processor or library computed."""

Word = Literal["identical", "within tolerance", "different", "not checked"]
"""What became of a result or a page."""


@dataclass(frozen=True)
class Difference:
    """A figure that is not what follows from the scores.

    Args:
        row: the OOD set or group whose row it is in.
        column: the figure.
        stored: what the row has.
        derived: what follows.
    """

    row: str
    column: str
    stored: object
    derived: object

    def __str__(self) -> str:
        by = ""
        if isinstance(self.stored, float) and isinstance(self.derived, float):
            by = f", by {abs(self.stored - self.derived):.2g}"
        return f"{self.row}: {self.column} is {self.stored}, derived {self.derived}{by}"


@dataclass
class Verdict:
    """What became of a result or a page.

    Args:
        path: the file.
        word: the outcome in a word.
        reasons: what is wrong, or why nothing could be checked: sentences.
        differences: figures that are not what follows.
        remarks: what a reader should know although the figures hold.
        checked: how many figures were derived.
    """

    path: Path
    word: Word = "identical"
    reasons: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    checked: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing was found wrong."""
        return self.word != "different"

    def to_json(self) -> dict[str, Any]:
        """What ``oodbench verify --json`` prints of it."""
        return {
            "path": self.path.as_posix(),
            "outcome": self.word,
            "checked": self.checked,
            "reasons": self.reasons,
            "differences": [vars(difference) for difference in self.differences],
            "remarks": self.remarks,
        }


def verify(path: str | Path) -> list[Verdict]:
    """Check a result, a page, a benchmark's folder of results, or a whole folder of leaderboards.

    Of a result with scores every figure and interval is derived again from them; its remarks say
    which figures cannot be (those that tell of the network alone). Of a page, it must be what its
    results render to, byte by byte.

    Args:
        path: a ``.json`` of a result, a ``.md`` of a page, or a folder.

    Raises:
        OODBenchError: nothing of that kind is there.
    """
    path = files.user_path(path)
    if path.suffix == ".json" and path.is_file():
        return [of_result(path)]
    if path.suffix == ".md" and path.is_file():
        return [of_page(path)]
    if path.is_dir():
        verdicts = [of_result(result) for result in sorted(path.rglob("*.json"))]
        verdicts += [of_scores(kept) for kept in sorted(path.rglob("*.scores.safetensors"))]
        verdicts += [of_page(page) for page in sorted(path.glob("*.md")) if _is_page(page)]
        verdicts += list(_pages_that_are_missing(path))
        if verdicts:
            return verdicts
    raise OODBenchError(
        f"there is nothing to verify at {path}: name a result (.json), a page (.md), or a folder "
        "of leaderboards."
    )


# --- results -------------------------------------------------------------------------------------


def of_result(path: Path) -> Verdict:
    """Derive every figure of a result again from its scores."""
    verdict = Verdict(path)
    try:
        result = stored.read(path)
        kept = _scores_of(result)
        benchmark = _benchmark_of(result)
    except OODBenchError as error:
        return _refused(verdict, str(error))
    if found := _code_that_changed(result.rows[0]):
        verdict.remarks.append(found)
    if kept is None:
        verdict.word = "not checked"
        verdict.reasons.append("its scores were not kept")
        return verdict
    try:
        derived = _derived(result.rows, kept, benchmark)
    except (BadScoresError, KeyError, ValueError) as error:
        return _refused(verdict, f"its scores are not those of its rows ({error})")
    _compare(result.rows, derived, verdict)
    return verdict


def of_scores(path: Path) -> Verdict:
    """Scores belong to a result."""
    verdict = Verdict(path)
    result = path.with_name(path.name.removesuffix(".scores.safetensors") + ".json")
    if not result.is_file():
        return _refused(verdict, f"there is no result {result.name} that they belong to")
    return verdict


def _refused(verdict: Verdict, reason: str) -> Verdict:
    verdict.word = "different"
    verdict.reasons.append(reason)
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


def _code_that_changed(row: Row) -> str | None:
    """Whether the detector's code is another than that which made the row."""
    made_with = row.get("detector_code")
    if made_with is None:
        return None
    if row["detector"] not in DETECTORS:
        return f"the detector {row['detector']!r} is not known here"
    if code_digest(DETECTORS.get(row["detector"])) == made_with:
        return None
    return (
        f"another version of the detector {row['detector']!r} made it: run "
        "`oodbench verify --level outputs` to see whether its scores are the same today"
    )


def _derived(rows: Sequence[Row], kept: Scores, benchmark: Benchmark | None) -> list[Row]:
    """What follows from scores, for each of the rows; columns that cannot are not in it.

    Raises:
        KeyError: a set of which there are no scores.
        ValueError: scores of which there is no row.
    """
    singles = [row for row in rows if not row["is_mean"]]
    of_sets = {row["ood"]: kept[scores.of_ood(row["ood"])] for row in singles}
    known = {scores.ID, *map(scores.of_ood, of_sets)}
    if unknown := [key for key in kept if key.removeprefix("correct/") not in known]:
        raise ValueError(f"no row is of {', '.join(unknown)}")
    lengths = {key: len(values) for key, values in kept.items()}
    for key in lengths:
        if lengths[key] != lengths[key.removeprefix("correct/")]:
            raise ValueError(f"{key} is of another number of samples")
    as_id: list[str] = []  # shifted sets that the protocol counts as ID
    says_so = benchmark is not None and benchmark.protocol.full_spectrum
    if says_so or rows[0].get("spectrum_accuracy") is not None:
        as_id = [row["ood"] for row in singles if row["group"] == SHIFTED]
    test = kept[scores.ID]
    spectrum = np.concatenate([test, *(of_sets[name] for name in as_id)])
    id_scores = {name: test if name in as_id else spectrum for name in of_sets}
    derived = {row["ood"]: _of_set(row, kept, id_scores[row["ood"]]) for row in singles}
    first, second = (benchmark and benchmark.protocol.contrast) or ("", "")
    of_first = [of_sets[row["ood"]] for row in singles if row["group"] == first]
    for row in rows:
        if not row["is_mean"]:
            continue
        mean = _of_mean([derived[name] for name in row["ood_sets"]])
        members = [of_sets[name] for name in row["ood_sets"]]
        if len(members) > 1 and row.get("auroc_low") is not None:
            mean = with_columns(
                mean, metrics.mean_intervals(id_scores[row["ood_sets"][0]], members)
            )
        if row["group"] == second and of_first:
            gap, *ends = metrics.auroc_gap(spectrum, of_first, members)
            mean["gap"] = gap
            mean["gap_low"], mean["gap_high"] = (None if e != e else e for e in ends)
        derived[row["ood"]] = mean
    shared = _accuracy(kept, as_id)
    return [with_columns(derived[row["ood"]], shared) for row in rows]


def _of_set(row: Row, kept: Scores, id_scores: np.ndarray) -> Row:
    """The figures of an OOD set."""
    key = scores.of_ood(row["ood"])
    ood_scores = kept[key]
    figures: Row = {"n_id": len(id_scores), "n_ood": len(ood_scores)}
    figures = with_columns(figures, metrics.all_metrics(id_scores, ood_scores))
    if row.get("auroc_low") is not None:
        figures = with_columns(figures, metrics.all_intervals(id_scores, ood_scores))
    right = kept.get(scores.correct(key))
    if right is not None:
        figures["shifted_accuracy"] = float(np.mean(right))
    return figures


def _of_mean(members: Sequence[Row]) -> Row:
    """The means of figures, and the counts, of several OOD sets."""
    mean: Row = {
        "n_id": max(row["n_id"] for row in members),
        "n_ood": sum(row["n_ood"] for row in members),
    }
    averaged = [*METRICS, *(["shifted_accuracy"] if "shifted_accuracy" in members[0] else [])]
    columns = {name: float(np.mean([cell(row, name) for row in members])) for name in averaged}
    if len(members) == 1:
        columns |= {name: cell(members[0], name) for name in ENDS if name in members[0]}
    return with_columns(mean, columns)


def _accuracy(kept: Scores, as_id: Sequence[str]) -> Row:
    right = kept.get(scores.correct(scores.ID))
    if right is None:
        return {}
    low, high = metrics.proportion_ci(int(right.sum()), len(right))
    of_all = [right, *(kept[scores.correct(scores.of_ood(name))] for name in as_id)]
    whole: Row = {"spectrum_accuracy": float(np.mean(np.concatenate(of_all)))} if as_id else {}
    return {
        **whole,
        "id_accuracy": float(np.mean(right)),
        "id_accuracy_low": low,
        "id_accuracy_high": high,
    }


def _compare(rows: Sequence[Row], derived: Sequence[Row], verdict: Verdict) -> None:
    """Compare what rows have with what follows, and note in the verdict what became of it."""
    left: dict[str, None] = {}
    for row, figures in zip(rows, derived, strict=True):
        for column, value in figures.items():
            has = cell(row, column)
            verdict.checked += 1
            if has == value:
                continue
            if _is_near(has, value):
                verdict.word = "within tolerance" if verdict.holds else verdict.word
            else:
                verdict.word = "different"
                verdict.differences.append(Difference(row["ood"], column, has, value))
        left |= dict.fromkeys(name for name in _figures_of(row) if name not in figures)
    if left:
        verdict.remarks.append(f"not made of scores, so not derived: {', '.join(left)}")


def _is_near(one: object, other: object) -> bool:
    return isinstance(one, float) and isinstance(other, float) and abs(one - other) <= TOLERANCE


def _figures_of(row: Row) -> list[str]:
    """Columns of a row that hold a figure."""
    return [
        name
        for name, value in row.items()
        if isinstance(value, float) and name != "seconds" and value == value
    ]


# --- pages ---------------------------------------------------------------------------------------


def of_page(path: Path) -> Verdict:
    """A page must be what its results render to."""
    verdict = Verdict(path, checked=1)
    benchmark = _benchmark_of_page(path)
    if benchmark is None:
        return _refused(verdict, "it is the page of no benchmark that is known here")
    try:
        text = leaderboard.page(benchmark, path.parent)
    except OODBenchError as error:
        return _refused(verdict, f"its results cannot be read: {error}")
    if path.read_bytes() != text.encode():
        return _refused(
            verdict,
            "it is not what its results render to: run "
            f"`oodbench leaderboard --benchmark {benchmark.name}`",
        )
    return verdict


def _is_page(path: Path) -> bool:
    """Whether a markdown file is a benchmark's page, by its name or by what it says it is."""
    says = "Generated by `oodbench leaderboard`" in path.read_text(
        encoding="utf-8", errors="replace"
    )
    return says or _benchmark_of_page(path) is not None


def _benchmark_of_page(path: Path) -> Benchmark | None:
    for name in BENCHMARKS.names():
        if name.replace("/", "-") == path.stem:
            return get_benchmark(benchmark=name)
    return None


def _pages_that_are_missing(folder: Path) -> Iterator[Verdict]:
    """Results of registered benchmarks whose page is not there."""
    pages = {name.replace("/", "-") for name in BENCHMARKS.names()}
    for results in sorted((folder / "results").glob("*")):
        page = folder / f"{results.name}.md"
        if results.is_dir() and results.name in pages and not page.is_file():
            yield _refused(
                Verdict(page),
                f"there are results in {results}, and no page: run `oodbench leaderboard`",
            )

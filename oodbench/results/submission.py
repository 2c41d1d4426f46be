"""Submissions: the folder that a pull request adds, and whether it may be added."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.errors import OODBenchError, OptionError
from oodbench.registry import BENCHMARKS, DETECTORS
from oodbench.results import cards, disputes, stored, verify
from oodbench.results.cards import Card
from oodbench.results.entries import entries_of
from oodbench.results.rows import NAMES, Row, cell
from oodbench.results.significance import compare_sides, ranking_of, sentence, sides_of
from oodbench.results.store import ResultStore, page_name
from oodbench.results.stored import StoredResult

LARGEST = 50 * 2**20
"""Bytes that a file of a submission may have."""

ENDINGS = (".json", ".scores.safetensors", cards.ENDING)


@dataclass
class Checked:
    """What became of a submitted result.

    Args:
        path: its file.
        faults: why it cannot be added: sentences.
        notes: what a reader should know of it.
        comparison: how it stands among the results that are there: sentences.
    """

    path: Path
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    comparison: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """What ``oodbench submit --json`` prints of it."""
        return {**vars(self), "path": self.path.as_posix()}


def make(results: Sequence[StoredResult], card: Card, folder: Path, boards: Path) -> list[Checked]:
    """Make the folder that a pull request adds to the leaderboards, if it passes the check.

    Args:
        results: with their scores.
        card: that goes beside each of them.
        folder: that is made; it must not be there.
        boards: the leaderboards that it is for.

    Returns:
        What became of each; with a fault in any of them no folder is left.

    Raises:
        OptionError: the folder is there, or a result has no scores.
        StorageError: it cannot be written.
    """
    if folder.exists():
        raise OptionError(f"{folder} is there already. Name a folder that is not.")
    for result in results:
        if result.scores_path is None or not result.scores_path.is_file():
            raise OptionError(
                f"the scores of {result.path.name} were not kept, and nobody can check figures "
                "without them. Evaluate again: `oodbench eval` keeps them."
            )
    files.writable_dir(folder.parent, "Choose another folder with `out`.")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for result in results:
            place = part / "results" / page_name(result.rows[0]["benchmark"]) / result.path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            # what was made again of it is for those to say who keep the leaderboards
            files.write_text(place, stored.encode(result.rows, result.scores))
            if result.scores_path is not None:
                shutil.copyfile(result.scores_path, place.with_name(result.scores_path.name))
            cards.write(card, place)
        checked = check(part, boards)
        if not any(one.faults for one in checked):
            part.rename(folder)
            for one in checked:
                one.path = folder / one.path.relative_to(part)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return checked


def check(folder: Path, boards: Path, *, first: bool = False) -> list[Checked]:
    """Check a submission as CI does, and compare it with what is there.

    Of each result every figure must follow from its scores; its row must be what an evaluation
    wrote; its images must be those of the results that are there; nothing that is there may be
    submitted again, but for a challenge; and it must have a card.

    Args:
        folder: of the submission; or the leaderboards themselves, where all results with a card
            are checked against the others.
        boards: the leaderboards that it is for.
        first: whether results may be the first of their benchmark, whose images cannot be told to
            be right by others.

    Raises:
        OptionError: no result is there.
    """
    is_board = folder.resolve() == boards.resolve()
    checked = list(_lost_cards(folder) if is_board else _strangers(folder))
    paths = [path for own in _folders(folder) for path in stored.paths_in(own)]
    if is_board:
        paths = [path for path in paths if cards.path_of(path).is_file()]
    elif not paths and not checked:
        raise OptionError(
            f"there is no submission in {folder}: results are expected in results/BENCHMARK/. Make "
            "one with `oodbench submit RESULT --out FOLDER`."
        )
    for path in paths:
        one = Checked(path)
        checked.append(one)
        try:
            result = stored.read(path)
        except OODBenchError as error:
            one.faults.append(str(error))
            continue
        _check_figures(result, one)
        if result.checks and not is_board:
            one.faults.append(
                "it says of itself that it was made again. Who keeps the leaderboards says so, by "
                "`oodbench verify`: make the submission anew with `oodbench submit`."
            )
        card = _card(path, one)
        benchmark = _benchmark(result, one)
        others = [] if benchmark is None else _others(boards, benchmark, path)
        if benchmark is not None:
            _check_images(result, others, one, first)
        _check_code(result, card, one)
        _check_doubles(result, card, others, one)
        if card is not None:
            _check_outliers(result, card, one)
            one.notes += [f"the page marks it: {mark}" for mark in card.marks]
        if benchmark is not None and not one.faults:
            one.comparison += _compared(result, card, others, benchmark)
    return checked


def _check_outliers(result: StoredResult, card: Card, one: Checked) -> None:
    """Refuse a card that says nothing of outliers which the network was trained with."""
    seen = (row.get("auxiliary") or {} for row in result.rows)
    names = dict.fromkeys(beside["name"] for beside in seen if beside.get("as") == "outliers")
    if names and card.outlier_data.casefold() == "none":
        one.faults.append(
            f"its network was trained with outliers ({', '.join(names)}), but the card's "
            "outlier_data is none. Name them there."
        )


def _strangers(folder: Path) -> Iterator[Checked]:
    """Files that no submission has: links, programs, pickles, files that belong to no result."""
    for path in sorted(folder.rglob("*")):
        reason = None
        inside = path.relative_to(folder)
        if path.is_symlink():
            reason = "it is a link"
        elif path.is_dir():
            continue
        elif len(inside.parts) != 3 or inside.parts[0] != "results":
            reason = "a submission holds results/BENCHMARK/RESULT files alone"
        elif not inside.name.endswith(ENDINGS):
            reason = f"a submission holds {', '.join(ENDINGS)} files alone"
        elif path.stat().st_size > LARGEST:
            reason = f"it is larger than {LARGEST // 2**20} MiB"
        elif not path.name.endswith(".json") and not _owner(path).is_file():
            reason = f"there is no result {_owner(path).name} that it belongs to"
        if reason is not None:
            yield Checked(path, [f"{inside.as_posix()} cannot be added: {reason}. Take it out."])


def _folders(folder: Path) -> list[Path]:
    """The folders of a submission's benchmarks."""
    return sorted(path for path in (folder / "results").glob("*") if path.is_dir())


def _lost_cards(folder: Path) -> Iterator[Checked]:
    """Cards whose result is not there."""
    for path in sorted((folder / "results").glob(f"*/*{cards.ENDING}")):
        if _owner(path) not in stored.paths_in(path.parent):
            yield Checked(path, [f"there is no result {_owner(path).name} that it belongs to."])


def _owner(path: Path) -> Path:
    name = path.name
    for ending in ENDINGS[1:]:
        name = name.removesuffix(ending)
    return path.with_name(f"{name}.json")


def _check_figures(result: StoredResult, one: Checked) -> None:
    if result.scores is None:
        one.faults.append(
            "its scores are not there, so that no figure can be derived again. Evaluate again: "
            "`oodbench eval` keeps them."
        )
        return
    verdict = verify.of_result(result.path)
    if not verdict.holds:
        one.faults += [f"{reason.rstrip('.')}." for reason in verdict.reasons]
        one.faults += [
            f"a figure does not follow from its scores: {difference}."
            for difference in verdict.differences[:5]
        ]
    elif verdict.word == "not checked":
        one.faults += [f"its figures cannot be derived again: {r}." for r in verdict.reasons]


def _card(path: Path, one: Checked) -> Card | None:
    try:
        card = cards.beside(path)
    except OODBenchError as error:
        one.faults.append(str(error))
        return None
    if card is None:
        one.faults.append(f"it has no card: {cards.path_of(path).name} is missing.")
    return card


def _benchmark(result: StoredResult, one: Checked) -> Benchmark | None:
    name = result.rows[0]["benchmark"]
    if name not in BENCHMARKS or ":" in name:
        one.faults.append(
            f"the benchmark {name!r} is not known here. Results of the benchmarks of `oodbench "
            "list benchmarks` can be added."
        )
        return None
    benchmark = get_benchmark(benchmark=name)
    if result.path.parent.name != page_name(name):
        one.faults.append(f"it is of {name}, and belongs into results/{page_name(name)}.")
    version = result.rows[0].get("benchmark_version") or 1
    if version != benchmark.version:
        one.faults.append(
            f"it is of version {version} of the benchmark, and this is version "
            f"{benchmark.version}. Evaluate again."
        )
    return benchmark


def _others(boards: Path, benchmark: Benchmark, path: Path) -> list[StoredResult]:
    """Results that are there, but for the one that is checked."""
    results = ResultStore(boards).results(benchmark.name)
    return [other for other in results if other.path.resolve() != path.resolve()]


def _check_images(
    result: StoredResult, others: Sequence[StoredResult], one: Checked, first: bool
) -> None:
    known: dict[str, set[str]] = {}
    for other in others:
        for row in other.rows:
            known.setdefault("ID", set()).add(row["id_fingerprint"])
            if not row["is_mean"]:
                known.setdefault(row["ood"], set()).add(row["ood_fingerprint"])
    if not known:
        if not first:
            one.faults.append(
                "no result of this benchmark is there, so that its images cannot be told to be the "
                "right ones. Whoever has seen to that adds it with `first`."
            )
        return
    fingerprints = {"ID": result.rows[0]["id_fingerprint"]}
    fingerprints |= {
        row["ood"]: row["ood_fingerprint"] for row in result.rows if not row["is_mean"]
    }
    for name, fingerprint in fingerprints.items():
        if fingerprint not in known.get(name, set()):
            what = "the ID test set" if name == "ID" else f"the OOD set {name}"
            one.faults.append(
                f"{what} has the fingerprint {fingerprint[:12]}, which no result here has: other "
                "images. Check the data with `oodbench data status`, and evaluate again."
            )


def _check_code(result: StoredResult, card: Card | None, one: Checked) -> None:
    row = result.rows[0]
    name = row["detector"]
    if name in DETECTORS:
        made_by_other = [r for r in verify.of_result(result.path).remarks if "another version" in r]
        if made_by_other:
            one.faults.append(
                f"other code than the detector {name!r} that is here made it. Give a detector of "
                "yours a name of its own, or evaluate again with this version."
            )
    elif card is not None and card.code.casefold() == "none":
        one.faults.append(
            f"the detector {name!r} is not known here, and its card names no code. Say where the "
            "code is."
        )


def _check_doubles(
    result: StoredResult, card: Card | None, others: Sequence[StoredResult], one: Checked
) -> None:
    challenged = card.challenges if card else ""
    ids = {row["row_id"] for row in result.rows}
    for other in others:
        if ids & {row["row_id"] for row in other.rows}:
            one.faults.append(f"it is {other.path.name} once more, which is there already.")
            return
    same = [other for other in others if _is_same_entry(result.rows[0], other.rows[0])]
    if challenged:
        if challenged not in {other.path.stem for other in same}:
            one.faults.append(
                f"it challenges {challenged}, which is no result here of the same detector, "
                "options, network and seed. Name the one that it measures again."
            )
        return
    own = [other for other in same if cards.beside(other.path) is None or not _challenges(other)]
    if own:
        one.faults.append(
            f"{own[0].path.name} is of the same detector, options and network, with other figures. "
            "A measurement of an entry that is there is a challenge: name it with `challenges`."
        )
        return
    twins = [other.path.name for other in others if _has_same_scores(result, other)]
    if twins:
        one.faults.append(
            f"its scores are those of {twins[0]} under another name. Submit what is new."
        )


def _challenges(result: StoredResult) -> bool:
    card = cards.beside(result.path)
    return card is not None and bool(card.challenges)


def _is_same_entry(row: Row, other: Row) -> bool:
    """Whether rows would be one line of a page, of the same seed."""
    if row["seed"] != other["seed"] or row["selection"] != other["selection"]:
        return False
    return len(entries_of([row, other])) == 1


def _has_same_scores(result: StoredResult, other: StoredResult) -> bool:
    if result.scores is None or other.scores is None:
        return False
    return result.scores.sha256 == other.scores.sha256


def _compared(
    result: StoredResult, card: Card | None, others: Sequence[StoredResult], benchmark: Benchmark
) -> list[str]:
    """How a result stands among those on the same images: sentences."""
    metric, group = benchmark.protocol.rank_by, benchmark.protocol.rank_group
    own = next((row for row in result.rows if row["is_mean"] and row["group"] == group), None)
    own = own or result.rows[0]
    lines = []
    if card is not None and card.challenges:
        challenged = next(other for other in others if other.path.stem == card.challenges)
        challenge = disputes.Challenge(result, card, challenged)
        word = disputes.DISPUTED if challenge.is_disputed(metric) else disputes.CONFIRMED
        lines.append(f"it measures {card.challenges} again, which is {word} by it.")
    there = [
        (row, other)
        for other in others
        for row in other.rows
        if row["ood"] == own["ood"] and row["ood_fingerprint"] == own["ood_fingerprint"]
    ]
    sign = 1 if metric.startswith("fpr") else -1
    better = sum(sign * cell(row, metric) < sign * cell(own, metric) for row, _ in there)
    lines.append(
        f"{own['ood']} {NAMES[metric]} {100 * cell(own, metric):.2f}: place {better + 1} of "
        f"{len(there) + 1} results on the same images."
    )
    there.sort(key=lambda pair: abs(cell(pair[0], metric) - cell(own, metric)))
    for _, other in [pair for pair in there if pair[1].scores is not None][:3]:
        lines += _difference(result, other, benchmark)
    return lines


def _difference(result: StoredResult, other: StoredResult, benchmark: Benchmark) -> list[str]:
    try:
        sides = [sides_of([one])[0] for one in (result, other)]
        compared = compare_sides(sides[0], sides[1], (benchmark.protocol.rank_by,), draws=200)
    except OODBenchError:
        return []
    return [sentence(sides[0], sides[1], ranking_of(compared, benchmark))]


def changed_since(base: str, boards: Path) -> list[str]:
    """Results that were there at a commit and are not as they were: sentences.

    Args:
        base: a commit of the repository that the leaderboards are in.
        boards: the leaderboards.

    Raises:
        OptionError: git does not know the commit.
    """
    if base.startswith("-"):
        raise OptionError(f"{base!r} is no commit.")
    command = ["git", "diff", "--name-status", "--no-renames", base, "--", "results"]
    try:
        ran = subprocess.run(  # noqa: S603 - the commit is an argument, no option
            command, cwd=boards, capture_output=True, text=True, check=False, encoding="utf-8"
        )
    except OSError as error:
        raise OptionError(f"git could not be run ({error}), which `base` needs.") from error
    if ran.returncode != 0:
        raise OptionError(f"git knows no commit {base!r} here: {ran.stderr.strip()[:200]}.")
    changed = (line.split("\t", 1) for line in ran.stdout.splitlines())
    words = {"M": "was edited", "D": "was removed", "T": "was replaced"}
    return [
        f"{path} was there before and {words.get(kind, 'was changed')}. Results that are there "
        "stay as they are; add a challenge instead."
        for kind, path in changed
        if kind != "A"
    ]

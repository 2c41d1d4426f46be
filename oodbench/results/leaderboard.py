"""The page of a benchmark, and its table of all lines: pure functions of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from oodbench import files
from oodbench.benchmark import Benchmark
from oodbench.registry import STANDARD_DETECTOR
from oodbench.results import disputes, everyline, footnotes, modalities, pagetables, published
from oodbench.results.arranged import Arranged, arranged, ranks_of, sections, version_of
from oodbench.results.disputes import Submitted, submitted
from oodbench.results.entries import Entry
from oodbench.results.footnotes import Marks
from oodbench.results.head import intervals_of
from oodbench.results.pagetables import Numbered
from oodbench.results.plain import code, markdown
from oodbench.results.ranking import Ranking, SamplesOf
from oodbench.results.rows import NAMES, Row
from oodbench.results.significance import samples_of
from oodbench.results.standing import Standing, standing_of
from oodbench.results.store import ResultStore, page_name, uncollected
from oodbench.results.wording import id_text, input_of_all, input_text, method_text, unit_text

MOST = 25
"""Lines of a table on the page; the csv has all."""


def _unknown(row: Row) -> None:
    """No scores, of a row that stands for itself."""


@dataclass(frozen=True)
class Board:
    """All that a page is made of.

    Rows are compared only with rows on the same images: the same ID test set and the same OOD sets,
    by content fingerprint, at the same size (but in a benchmark whose networks see images in their
    own preprocessing). Each such selection is a section of its own, the most complete first. Seeds
    of the same entry are one line, with their mean and an interval over seeds and images
    (``oodbench.results.seeds``); of a measurement that was repeated the newest row counts. Lines
    that cannot be told apart share a rank (``oodbench.results.ranking``). Networks below the
    protocol's ``least_accuracy`` are short runs, which stand after all others.

    Args:
        benchmark: that the rows are of.
        parts: rows that were measured on the same images, and what a page has of them.
        about: what the cards of submissions say of the rows; a third party's measurement of a line
            that is there has no line of its own.
        checked: how far each row was checked, by its id; None to say nothing of that.
    """

    benchmark: Benchmark
    parts: Sequence[tuple[Sequence[Row], Arranged, Ranking]]
    about: Submitted
    checked: dict[str, str] | None


def board_of(
    benchmark: Benchmark,
    rows: Iterable[Row],
    samples: SamplesOf = _unknown,
    about: Submitted | None = None,
    standing: Standing | None = None,
) -> Board:
    """What a page is made of.

    Args:
        benchmark: that the rows are of.
        rows: in the order in which they were made.
        samples: the scores behind a row, by which entries are compared; without them it is done by
            their intervals.
        about: what the cards of submissions say of the rows.
        standing: how far rows were checked, and which are of older code; None to say nothing of it.
    """
    about = about or Submitted()
    parts = []
    checked: dict[str, str] | None = None if standing is None else {}
    for part in sections(benchmark, [row for row in rows if row["row_id"] not in about.outside]):
        section = arranged(benchmark, part, about, standing)
        parts.append((part, section, ranks_of(benchmark, section, samples)))
        if checked is not None:
            checked |= pagetables.words(benchmark, section.entries, about, standing) or {}
    return Board(benchmark, parts, about, checked)


def render(
    benchmark: Benchmark,
    rows: Iterable[Row],
    samples: SamplesOf = _unknown,
    about: Submitted | None = None,
    standing: Standing | None = None,
    *,
    whole: bool = False,
) -> str:
    """The page of a benchmark.

    Args:
        benchmark: that the rows are of.
        rows: in the order in which they were made.
        samples: as :func:`board_of` has it, as the two below.
        about: the same.
        standing: the same.
        whole: whether it has every line, and a table for each set; else the best line of each
            detector, method and network, and their means.
    """
    return text_of(board_of(benchmark, rows, samples, about, standing), whole=whole)


def text_of(board: Board, *, whole: bool = False) -> str:
    """The page of a board, in Markdown; see :func:`render`."""
    benchmark = board.benchmark
    lines = _head(board, "under Seeds" if whole else "in the results")
    if not board.parts:
        command = f"oodbench eval --detector {STANDARD_DETECTOR} --id {benchmark.name}"
        lines += [f"No results yet: {code(command)}.", ""]
    for _, section, ranking in board.parts:
        lines += _introduction(board, section)
        lines += (_whole if whole else _short)(board, section, ranking)
    store, name = f"results/{page_name(benchmark.name)}", page_name(benchmark.name)
    board_command = f"oodbench leaderboard --html --benchmark {benchmark.name}"
    lines += [
        f"Generated by `oodbench leaderboard` from [{markdown(store)}]({quote(store)}), "
        "where every result has its full settings, fingerprints and versions."
        + (
            ""
            if whole or not board.parts
            else f" All lines on all sets: [{markdown(name)}.csv]({quote(name)}.csv); to sort, "
            f"filter and plot, with each row's details: {code(board_command)}; as text: `--whole` "
            "in place of `--html`."
        ),
        "",
    ]
    return "\n".join(lines)


def csv_of(board: Board) -> str:
    """All lines of a board; see :func:`oodbench.results.everyline.to_csv`."""
    parts = [(section, ranking) for _, section, ranking in board.parts]
    return everyline.to_csv(board.benchmark, parts, board.checked)


def write(benchmark: Benchmark, folder: str | Path, *, whole: bool = False) -> Path:
    """Write a benchmark's page and the csv of all its lines, from the store in ``folder``.

    Each is written atomically, beside the results.

    Args:
        benchmark: that the page is of.
        folder: the leaderboards' folder.
        whole: write ``NAME.whole.md`` instead, with every line and a table for each set.

    Raises:
        StorageError: the folder cannot be written to.
        OODBenchError: a stored line that is no row.
    """
    root = files.writable_dir(
        files.user_path(folder), "Choose a folder that you may write with `leaderboards`."
    )
    name = page_name(benchmark.name)
    if whole:
        files.write_text(root / f"{name}.whole.md", page(benchmark, root, whole=True))
        return root / f"{name}.whole.md"
    for place, text in pages(benchmark, root).items():
        files.write_text(place, text)
    return root / f"{name}.md"


def pages(benchmark: Benchmark, folder: Path) -> dict[Path, str]:
    """What belongs beside the store in ``folder``: the page, and where it has lines their csv.

    Raises:
        OODBenchError: a result that is damaged, or whose scores are.
    """
    name = page_name(benchmark.name)
    with uncollected():
        board = stored_board(benchmark, folder)
        texts = {folder / f"{name}.csv": csv_of(board)} if board.parts else {}
        return {**texts, folder / f"{name}.md": text_of(board)}


def page(benchmark: Benchmark, folder: str | Path, *, whole: bool = False) -> str:
    """A benchmark's page, as it follows from the store in ``folder`` and the scores in it.

    Raises:
        OODBenchError: a result that is damaged, or whose scores are.
    """
    return text_of(stored_board(benchmark, folder), whole=whole)


def stored_board(benchmark: Benchmark, folder: str | Path) -> Board:
    """What follows from the store in ``folder`` and the scores in it.

    Raises:
        OODBenchError: a result that is damaged, or whose scores are.
    """
    store = ResultStore(folder)
    results = store.results(benchmark.name)
    rows = store.rows(benchmark.name, results)
    own = [row for row in rows if row["benchmark"] == benchmark.name]
    return board_of(benchmark, own, samples_of(results), submitted(results), standing_of(results))


def _head(board: Board, seeds: str) -> list[str]:
    benchmark = board.benchmark
    protocol = benchmark.protocol
    parts = [part for part, _, _ in board.parts]
    lines = [
        f"# {markdown(benchmark.name)}",
        "",
        f"ID: {markdown(benchmark.id.name)} "
        f"({markdown(benchmark.id.description or benchmark.id.source)}). "
        f"Ranked by the {protocol.rank_group}-OOD mean of "
        f"{NAMES[protocol.rank_by]}; the FPR@95 that its papers print is "
        f"{NAMES[protocol.fpr]}."
        + (f" Defined by: {markdown(benchmark.citation)}." if benchmark.citation else ""),
        "",
        "All figures in percent. "
        f"{intervals_of(benchmark, parts, seeds)} Higher is better for "
        "AUROC, AUPR and accuracy, lower for FPR@95. ID positive: the threshold keeps 95 % of ID, "
        "FPR is the share of OOD accepted. OOD positive: it catches 95 % of OOD, FPR is the share "
        "of ID rejected.",
        "",
    ]
    if protocol.seeds > 1:
        lines += [
            f"Its papers print means over {protocol.seeds} trained networks; the column "
            "Seeds says of how many a line is.",
            "",
        ]
    if benchmark.superseded_by:
        lines += [f"Superseded by {code(benchmark.superseded_by)}.", ""]
    for remark in benchmark.remarks:
        lines += [markdown(remark), ""]
    return lines


def _introduction(board: Board, section: Arranged) -> list[str]:
    """What was compared on which images."""
    benchmark, first = board.benchmark, section.entries[0].first
    singles = [row for row in section.rows if not row["is_mean"]]
    heading = ", ".join(section.means.values()) or ", ".join(section.sets)
    lines = [f"## {markdown(heading)}", ""]
    if version_of(first) != benchmark.version:
        lines += [
            f"These rows are of version {version_of(first)} of the benchmark, whose images or "
            f"figures were others. This is version {benchmark.version}.",
            "",
        ]
    return [
        *lines,
        f"{id_text(benchmark, first, singles)} ({code(first['id_fingerprint'][:12])}). OOD: "
        + ", ".join(
            f"{markdown(row['ood'])} ({row['group']}) {row['n_ood']:,} "
            f"({code(row['ood_fingerprint'][:12])})"
            for row in singles
        )
        + f". Input: {markdown(input_of_all(benchmark, first))}.",
        "",
    ]


def best_of(lines: Numbered, most: int = MOST) -> list[tuple[int, Entry]]:
    """The best line of each detector, training method and kind of network, in their order.

    Args:
        lines: entries with their numbers, the best first.
        most: of so many; where there are more, first the best of methods, then those of networks.
    """
    best: tuple[dict[str, tuple[int, Entry]], ...] = ({}, {}, {})
    for number, entry in lines:
        row = entry.first
        network = f"{row['backbone']} {input_text(row['preprocess'])}"
        kinds = zip(best, (method_text(row), network, row["detector"]), strict=True)
        for known, kind in kinds:
            known.setdefault(kind, (number, entry))
    found = dict(line for known in best for line in known.values())
    return sorted(list(found.items())[:most], key=lambda line: line[0])


def _short(board: Board, section: Arranged, ranking: Ranking) -> list[str]:
    benchmark = board.benchmark
    full, short = section.numbered[: section.full], section.numbered[section.full :]
    shown = [best_of(full), best_of(short)]
    sets = [*section.means.values()] or section.sets
    answer = modalities.section(benchmark, section)
    lines = [*answer, *(["### The best lines", ""] if answer else [])]
    lines += pagetables.remarks(benchmark, section)
    marks = Marks(unit_text(benchmark))
    for own, of_kind in zip(shown, (full, short), strict=True):
        if of_kind is short and short:
            lines += ["### Short runs", "", _about_short_runs(benchmark), ""]
        elif of_kind is full and short and not full:
            lines += ["No network here classifies as those of the literature do.", ""]
        if own:
            lines += pagetables.overview(benchmark, section, own, ranking, marks)
            lines += _left_out(own, of_kind)
    every = [*shown[0], *shown[1]]
    lines += [ranking.remark, ""] if ranking.remark else []
    lines += [*marks.lines(), *footnotes.of_names(every)]
    lines += pagetables.foreground(benchmark, every, sets)
    for measure in benchmark.measures:
        lines += pagetables.measure(benchmark, section, measure)
    lines += disputes.section(benchmark, _numbers(section), board.about)
    lines += published.section(every)
    return lines + pagetables.to_repeat(every, board.checked)


def _left_out(shown: Numbered, lines: Numbered) -> list[str]:
    """That a table does not have all lines."""
    if len(shown) == len(lines):
        return []
    return [
        f"{len(shown)} of {len(lines)} lines: of each detector, method and network the best, at "
        f"most {MOST}. # is the place among all lines.",
        "",
    ]


def _about_short_runs(benchmark: Benchmark) -> str:
    protocol = benchmark.protocol
    return (
        f"Networks whose ID accuracy is below {100 * (protocol.least_accuracy or 0.0):g} %, on "
        f"average over seeds: {markdown(protocol.least_accuracy_source)}. What is measured on them "
        "tells of a training that was cut short as much as of detectors, so they have no place "
        "above."
    )


def _whole(board: Board, section: Arranged, ranking: Ranking) -> list[str]:
    benchmark, numbered = board.benchmark, section.numbered
    means, sets = section.means, section.sets
    marks = Marks(unit_text(benchmark))
    lines = pagetables.remarks(benchmark, section)
    lines += pagetables.overview(benchmark, section, numbered, ranking, marks)
    if section.full < len(numbered):
        lines += [
            f"Lines from {section.full + 1} on are short runs. {_about_short_runs(benchmark)}",
            "",
        ]
    lines += [ranking.remark, ""] if ranking.remark else []
    lines += [*marks.lines(), *footnotes.of_names(numbered)]
    lines += modalities.section(benchmark, section)
    lines += pagetables.of_seeds(benchmark, numbered, means or {"": section.ranking})
    lines += pagetables.foreground(benchmark, numbered, [*means.values()] or sets)
    for measure in benchmark.measures:
        lines += pagetables.measure(benchmark, section, measure)
    for name in [*means.values(), *sets]:
        lines += pagetables.of_set(benchmark, numbered, name)
    lines += disputes.section(benchmark, _numbers(section), board.about)
    lines += published.section(numbered)
    return lines + pagetables.made(numbered, board.checked)


def _numbers(section: Arranged) -> dict[str, tuple[int, str]]:
    """Number and name of the entry that each row is of."""
    return {
        row["row_id"]: (number, entry.name)
        for number, entry in section.numbered
        for row in entry.rows.values()
    }

"""The tables of a page: settings and groups' means, each set, seeds, and what made the rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from oodbench.benchmark import SHIFTED, Benchmark
from oodbench.registry import MEASURES, TASKS
from oodbench.results import footnotes
from oodbench.results.arranged import Arranged
from oodbench.results.disputes import CONFIRMED, DISPUTED, Submitted
from oodbench.results.entries import Entry
from oodbench.results.footnotes import Marks
from oodbench.results.plain import code, markdown
from oodbench.results.ranking import Ranking
from oodbench.results.rows import NAMES, Row
from oodbench.results.standing import REPORTED, Standing
from oodbench.results.wording import (
    FULL_SPECTRUM_REMARK,
    SHIFTED_REMARK,
    gaps_text,
    input_text,
    made_with,
    method_text,
    settings_text,
    unit_text,
)

Numbered = Sequence[tuple[int, Entry]]
"""Entries with their numbers in the order of all."""


def remarks(benchmark: Benchmark, section: Arranged) -> list[str]:
    """What a reader of the means has to know: the gap between groups, and shifted sets."""
    lines: list[str] = []
    means = section.means
    first, second = benchmark.protocol.contrast or ("", "")
    contrasted = means.get(second) if first in means else None
    if contrasted:
        remark = benchmark.protocol.contrast_remark
        lines += [
            f"Gap: AUROC of the {first} sets' mean minus that of the {second} sets' mean; above "
            f"zero the {second} sets have the lower one. "
            + (f"{markdown(remark)} " if remark else "")
            + gaps_text(section.entries, contrasted),
            "",
        ]
    shifted = means.get(SHIFTED)
    if shifted:
        lines += [FULL_SPECTRUM_REMARK if benchmark.protocol.full_spectrum else SHIFTED_REMARK, ""]
    return lines


def overview(
    benchmark: Benchmark, section: Arranged, lines: Numbered, ranking: Ranking, marks: Marks
) -> list[str]:
    """Settings, and the groups' means.

    Args:
        benchmark: that the rows are of.
        section: of which it shows some entries.
        lines: these.
        ranking: of all entries of the section.
        marks: collects what figures have to be explained below.
    """
    means = section.means
    first, second = benchmark.protocol.contrast or ("", "")
    contrasted = means.get(second) if first in means else None
    shifted = means.get(SHIFTED)
    columns = [(name, m) for name in means.values() for m in ("auroc", "fpr95_id", "fpr95_ood")]
    quality, quality_name = TASKS.get(benchmark.task).quality
    header = ["#", "Rank", "Detector", "Settings", "Method", "Backbone"]
    header += [f"{markdown(name)} {NAMES[metric]}" for name, metric in columns]
    header += [*(["Gap"] if contrasted else []), quality_name]
    is_spectrum = bool(shifted) and benchmark.protocol.full_spectrum
    header += ["Full-spectrum accuracy"] * is_spectrum
    header += [*([f"{markdown(shifted)} accuracy"] if shifted else []), "Seeds"]
    rows = []
    for number, entry in lines:
        row = entry.first
        backbone = row["backbone"]
        if benchmark.own_inputs:
            backbone += f", {input_text(row['preprocess'])}"
        about = (footnotes.name(entry), settings_text(row), method_text(row), backbone)
        cells = [str(number), str(ranking.ranks[number - 1]), *map(markdown, about)]
        cells += [marks.cell(entry, entry.of(name), metric) for name, metric in columns]
        if contrasted:
            cells.append(marks.cell(entry, entry.of(contrasted), "gap"))
        cells.append(marks.cell(entry, entry.one_each(), quality))
        if is_spectrum:
            cells.append(marks.cell(entry, entry.one_each(), "spectrum_accuracy"))
        if shifted:
            cells.append(marks.cell(entry, entry.of(shifted), "shifted_accuracy"))
        cells.append(", ".join(map(str, entry.seeds)))
        rows.append(cells)
    return table(header, rows)


def of_set(benchmark: Benchmark, lines: Numbered, name: str) -> list[str]:
    """Every figure on an OOD set or group's mean."""
    marks = Marks(unit_text(benchmark))
    rows = [
        [
            str(number),
            markdown(footnotes.name(entry)),
            *(marks.cell(entry, entry.of(name), metric) for metric in NAMES),
        ]
        for number, entry in lines
    ]
    head = ["#", "Detector", *NAMES.values()]
    return [f"### {markdown(name)}", "", *table(head, rows), *marks.lines()]


def of_seeds(benchmark: Benchmark, lines: Numbered, means: Mapping[str, str]) -> list[str]:
    """Each seed's own figures, so that one that is unlike the others is seen."""
    if not any(len(entry.seeds) > 1 for _, entry in lines):
        return []
    shown = dict.fromkeys(["auroc", benchmark.protocol.rank_by])
    columns = [(name, metric) for name in means.values() for metric in shown]
    header = ["#", "Detector", "Seeds"]
    header += [f"{markdown(name)} {NAMES[metric]}" for name, metric in columns]
    if SHIFTED in means:
        columns.append((means[SHIFTED], "shifted_accuracy"))
        header.append(f"{markdown(means[SHIFTED])} accuracy")
    quality, quality_name = TASKS.get(benchmark.task).quality
    marks = Marks(unit_text(benchmark))
    rows = [
        [
            str(number),
            markdown(footnotes.name(entry)),
            ", ".join(map(str, entry.seeds)),
            *(marks.values(entry, entry.of(name), column) for name, column in columns),
            marks.values(entry, entry.one_each(), quality),
        ]
        for number, entry in lines
        if len(entry.seeds) > 1
    ]
    return ["### Seeds", "", *table([*header, quality_name], rows), *marks.lines()]


def words(
    benchmark: Benchmark, entries: Sequence[Entry], about: Submitted, standing: Standing | None
) -> dict[str, str] | None:
    """How far each row was checked, or what others found of it; None to say nothing of that."""
    if standing is None:
        return None
    metric = benchmark.protocol.rank_by
    return {
        row["row_id"]: about.word(row, metric) or standing.words.get(row["row_id"], REPORTED)
        for entry in entries
        for row in entry.one_each()
    }


def made(lines: Numbered, checked: Mapping[str, str] | None) -> list[str]:
    """What made the rows: seeds of an entry that one command made on one machine are one line.

    Args:
        lines: the entries.
        checked: :func:`words`.
    """
    cells = []
    for number, entry in lines:
        runs: dict[tuple[str, str, str], list[Row]] = {}
        for row in entry.one_each():
            word = checked[row["row_id"]] if checked else ""
            runs.setdefault((made_with(row), row["command"] or "", word), []).append(row)
        for (versions, command, word), rows in runs.items():
            cells.append(
                [
                    str(number),
                    markdown(footnotes.name(entry)),
                    ", ".join(str(row["seed"]) for row in rows),
                    markdown(", ".join(dict.fromkeys(row["created"] for row in rows))),
                    markdown(versions),
                    ", ".join(dict.fromkeys(code(row["weights"][:12]) for row in rows)),
                    ", ".join(f"{row['seconds']:.2f}" for row in rows),
                    code(command) if command else "Python",
                    *([word] if checked else []),
                ]
            )
    header = [*"# Detector Seed When With Weights".split(), "Fit + score (s)", "Command"]
    header += ["Checked"] * bool(checked)
    return ["### How the rows were made", "", *_about_checks(checked), *table(header, cells)]


_SEED = re.compile(r"(?<= --seed )\d+(?!\S)")


def to_repeat(lines: Numbered, checked: Mapping[str, str] | None) -> list[str]:
    """The commands that make lines again, each once; those of one seed each are put together.

    Args:
        lines: the entries.
        checked: :func:`words`.
    """
    runs: dict[tuple[str, str, str], dict[int, dict[int, str]]] = {}
    for number, entry in lines:
        for row in entry.one_each():
            command, word = row["command"] or "", checked[row["row_id"]] if checked else ""
            key = _SEED.sub("N", command), made_with(row), word
            runs.setdefault(key, {}).setdefault(number, {})[row["seed"]] = command
    rows = []
    for (_, versions, word), by_number in runs.items():
        commands = {seed: one for own in by_number.values() for seed, one in own.items()}
        command = next(iter(commands.values()))
        if len({*commands.values()}) > 1:
            command = _SEED.sub(",".join(map(str, sorted(commands))), command)
        rows.append(
            [
                _ranges(list(by_number)),
                _ranges(sorted(commands)),
                code(command) if command else "Python",
                markdown(versions),
                *([word] if checked else []),
            ]
        )
    header = ["#", "Seeds", "Command", "With", *(["Checked"] if checked else [])]
    return ["### To repeat it", "", *_about_checks(checked), *table(header, rows)]


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers; three and more that follow each other as a range."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [
        [f"{run[0]}–{run[-1]}"] if len(run) > 2 else [str(number) for number in run] for run in runs
    ]
    return ", ".join(part for own in parts for part in own)


def _about_checks(checked: Mapping[str, str] | None) -> list[str]:
    if not checked:
        return []
    others = [word for word in (DISPUTED, CONFIRMED) if word in checked.values()]
    lines = [_CHECKED, ""]
    return lines + [f"{' or '.join(others).capitalize()}: see Measured by others.", ""] * bool(
        others
    )


_CHECKED = (
    "Checked: how far the figures can be derived again. *Reported*: they are what somebody "
    "measured. *Scores checked*: the score of every sample is here, and `oodbench verify` derives "
    "each figure from them. *Outputs checked*: the detector scored the same network's outputs "
    "again. *Retrained*: the network was trained again from its recipe."
)


def measure(benchmark: Benchmark, section: Arranged, name: str) -> list[str]:
    """A measure of each network on each OOD set and group, one line for each network."""
    sets = [row["ood"] for row in section.rows]
    networks: dict[str, Entry] = {}
    for entry in section.entries:
        if any(row.get(name) is not None for row in entry.rows.values()):
            # the outputs are those of the backbone, whatever was learned on them
            networks.setdefault(entry.first["backbone"], entry)
    if not networks:
        return []
    known = MEASURES.get(name)
    marks = Marks(unit_text(benchmark), aurocs=(name,) if known.is_auroc else ())
    rows = [
        [markdown(backbone), *(marks.cell(entry, entry.of(ood), name) for ood in sets)]
        for backbone, entry in sorted(networks.items())
    ]
    return [
        f"### {markdown(known.title)}",
        "",
        markdown(known.about),
        "",
        *table(["Backbone", *map(markdown, sets)], rows),
        *marks.lines(),
    ]


def foreground(benchmark: Benchmark, lines: Numbered, sets: Sequence[str]) -> list[str]:
    """OOD pixels against the pixels of ID objects alone, where a benchmark has a background."""
    own = [row for _, entry in lines for name in sets for row in entry.of(name)]
    counts = [count for row in own if (count := row.get("n_id_foreground")) is not None]
    if not counts:
        return []
    marks = Marks(unit_text(benchmark))
    columns = [(name, metric) for name in sets for metric in ("auroc", benchmark.protocol.fpr)]
    rows = [
        [
            str(number),
            markdown(footnotes.name(entry)),
            *(
                marks.cell(entry, entry.of(name), f"{metric}_foreground")
                for name, metric in columns
            ),
        ]
        for number, entry in lines
    ]
    header = [f"{markdown(name)} {NAMES[metric]}" for name, metric in columns]
    background = benchmark.task_options.get("background", ())
    return [
        "### OOD pixels against ID objects",
        "",
        "All other figures compare OOD pixels with all ID pixels of their images, most of which "
        f"are background ({markdown(', '.join(background))}): to tell objects from "
        f"background goes far there. These compare them with the {max(counts):,} pixels of ID "
        "objects.",
        "",
        *table(["#", "Detector", *header], rows),
        *marks.lines(),
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown, and an empty line; bars in cells are escaped, all else is as given."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), line(["---"] * len(header)), *map(line, rows), ""]

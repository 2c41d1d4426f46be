"""Marks on names and figures of a page, and the sentences below a table that they send to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from oodbench.results.entries import Entry
from oodbench.results.plain import markdown
from oodbench.results.rows import Row, cell
from oodbench.results.seeds import Figure

REVERSED = 0.40
"""An AUROC below this is no weak detection: it tells ID from OOD, the wrong way round."""
WIDE = 0.40
"""An interval wider than this says little."""
FEW = 100
"""With as many images or more, no other figure than a rate at a threshold has such an interval."""

_TUNED, _NOTES, _TWINS, _BACKWARDS, _VAGUE = "†", "‡", "§", "¶", "◊"
_APART, _OLDER = "⚑", "⧖"


def name(entry: Entry) -> str:
    """An entry's name with the marks of what is said of it below the section's first table."""
    marks = [mark for mark, column in ((_TUNED, "tuned"), (_NOTES, "notes")) if entry.has(column)]
    marks += [_TWINS] if entry.twins else []
    marks += [_APART] if entry.marks else []
    marks += [_OLDER] if entry.is_older else []
    return " ".join([entry.name, *marks])


@dataclass
class Marks:
    """The marks on a table's figures, which are collected while it is made.

    Args:
        unit: what is counted in ``n_id`` and ``n_ood``.
        aurocs: columns that are AUROCs, of which one far below one half is marked.
    """

    unit: str = "images"
    aurocs: Collection[str] = ("auroc", "auroc_foreground")
    _reversed: list[Entry] = field(default_factory=list)
    _small: dict[str, int] = field(default_factory=dict)
    _flat: dict[str, None] = field(default_factory=dict)
    _seeds: set[int] = field(default_factory=set)

    def cell(self, entry: Entry, rows: Sequence[Row], column: str) -> str:
        """A figure of an entry's rows, which differ by their seed, with its marks."""
        figure = Figure.of(rows, column)
        if figure is None:
            return "–"
        marks = [*self._of_value(entry, column, figure.mean)]
        shown = str(figure)
        if figure.width > WIDE:
            marks.append(_VAGUE)
            self._explain(figure, rows[0], column)
            if _is_wide_by_seeds(figure):
                shown = figure.spread
        return " ".join([shown, *marks])

    def values(self, entry: Entry, rows: Sequence[Row], column: str) -> str:
        """The figures of such rows one by one, in the order of the entry's seeds."""
        by_seed = {row["seed"]: cell(row, column) for row in rows}
        cells = []
        for seed in entry.seeds:
            value = by_seed.get(seed)
            shown = (
                ["–"]
                if value is None
                else [f"{100 * value:.2f}", *self._of_value(entry, column, value)]
            )
            cells.append(" ".join(shown))
        return ", ".join(cells)

    def lines(self) -> list[str]:
        """The sentences that the marks send to; none for a table without."""
        lines = []
        if self._reversed:
            more = dict.fromkeys(entry.name for entry in self._reversed if entry.has("notes"))
            pointer = (
                f" What is known of it is said under {_NOTES}: {', '.join(more)}." if more else ""
            )
            lines += [
                f"{_BACKWARDS} AUROC below {100 * REVERSED:.0f}. Weak detectors are near 50; far "
                "below it the direction is reversed, ID looks more like OOD than OOD does. That is "
                "an artefact of the set-up (what was fitted on, how the sets differ) or, where the "
                f"interval reaches 50, chance.{markdown(pointer)}",
                "",
            ]
        if self._small or self._flat or self._seeds:
            why = [f"{ood} (n = {n:,} {self.unit})" for ood, n in self._small.items()]
            why += [f"FPR@95 of {ood}, whose threshold many scores are near" for ood in self._flat]
            why += [f"{seeds} seeds that differ this much" for seeds in sorted(self._seeds)]
            instead = " (mean ± deviation over seeds stand for it)" if self._seeds else ""
            lines += [
                f"{_VAGUE} An interval wider than {100 * WIDE:.0f} points says little: "
                f"{markdown(', '.join(why))}{instead}.",
                "",
            ]
        return lines

    def _of_value(self, entry: Entry, column: str, value: float) -> Iterator[str]:
        if column in self.aurocs and value < REVERSED:
            self._reversed.append(entry)
            yield _BACKWARDS

    def _explain(self, figure: Figure, row: Row, column: str) -> None:
        n = min(row["n_id"], row["n_ood"])
        if _is_wide_by_seeds(figure):
            self._seeds.add(len(figure.values))
        elif column.startswith("fpr") and n >= FEW:
            self._flat[row["ood"]] = None
        else:
            self._small[row["ood"]] = n


def _is_wide_by_seeds(figure: Figure) -> bool:
    """Whether it is for its seeds that an interval is wide, each seed's own being narrower."""
    return figure.of_images <= WIDE < figure.width and len(figure.values) > 1


def of_names(numbered: Sequence[tuple[int, Entry]]) -> list[str]:
    """What the marks on names send to, below the section's first table."""
    entries = [entry for _, entry in numbered]
    lines: list[str] = []
    tuned = (row.get("tuned") or {} for entry in entries for row in entry.rows.values())
    sets = {ood for choice in tuned for ood in choice.get("ood", ())}
    if sets:
        lines += [
            f"{_TUNED} Settings chosen with `--tune` on the ID validation split and validation OOD "
            f"sets ({markdown(', '.join(sorted(sets)))}), never on a test set; all others are as "
            "given.",
            "",
        ]
    notes: dict[str, list[str]] = {}
    for entry in entries:
        for row in entry.rows.values():
            for note in row.get("notes") or ():
                notes.setdefault(note, []).append(row["detector"])
    if notes:
        lines += [f"{_NOTES} What a reader of these rows has to know:", ""]
        for note, detectors in notes.items():
            names = ", ".join(dict.fromkeys(detectors))
            lines.append(f"- {markdown(names)}: {markdown(note)}")
        lines.append("")
    apart = [entry for entry in entries if entry.marks]
    if apart:
        lines += [f"{_APART} Not like the others:", ""]
        for entry in apart:
            lines.append(f"- {markdown(entry.name)}: {markdown('; '.join(entry.marks))}")
        lines.append("")
    if older := dict.fromkeys(entry.first["detector"] for entry in entries if entry.is_older):
        lines += [
            f"{_OLDER} Made by another version of the detector's code than today's: "
            f"{markdown(', '.join(older))}. `oodbench verify --level outputs` tells whether it "
            "still gives these figures, `--rescore` makes the rows again.",
            "",
        ]
    return lines + _of_twins(numbered)


def _of_twins(numbered: Sequence[tuple[int, Entry]]) -> list[str]:
    """Which lines have the same figures, each group of them once."""
    groups: dict[tuple[str, ...], None] = {}
    for number, entry in numbered:
        if entry.twins:
            groups[tuple(sorted([f"{number} {entry.name}", *entry.twins], key=_number))] = None
    if not groups:
        return []
    listing = "; ".join(", ".join(group[:1]) + " = " + " = ".join(group[1:]) for group in groups)
    return [
        f"{_TWINS} The same figures on every set as another line on the same network: one detector "
        f"under two names (or settings) here. {markdown(listing)}.",
        "",
    ]


def _number(line: str) -> int:
    return int(line.split()[0])

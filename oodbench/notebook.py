"""How results, detectors and benchmarks look in a notebook: html tables, all text escaped."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

MOST = 200
"""Lines of a table; of the others their number is said."""
FIGURES = {
    "auroc": "AUROC",
    "fpr95_id": "FPR@95 (ID positive)",
    "fpr95_ood": "FPR@95 (OOD positive)",
}
WHAT = ("benchmark", "detector", "method", "recipe", "backbone", "modality")
"""Columns of a row that say what was measured; those that all rows share stand in the caption."""
OPTIONS = ("detector_options", "recipe_options")


def text(value: object) -> str:
    """Text as html, isolated, so that one that runs from right to left moves nothing around it."""
    return f"<bdi>{escape(str(value), quote=True)}</bdi>"


def table(head: Sequence[str], lines: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of cells that are html; the first of each line heads it, those of digits stand right.

    Args:
        head: titles, plain text.
        lines: cells, html (see :func:`text`).
        caption: html.
    """
    lines = list(lines)
    titles = "".join(f'<th scope="col">{escape(one)}</th>' for one in head)
    body = "".join(
        f"<tr>{''.join(map(_cell, range(len(line)), line))}</tr>" for line in lines[:MOST]
    )
    if len(lines) > MOST:
        more = f"… and {len(lines) - MOST:,} more lines"
        body += f'<tr><td colspan="{len(head)}">{more}</td></tr>'
    about = f'<caption style="text-align:left">{caption}</caption>' if caption else ""
    return f"<table>{about}<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _cell(place: int, cell: str) -> str:
    if place == 0:
        return f'<th scope="row" style="text-align:left">{cell}</th>'
    side = "right" if cell[:1].isdigit() else "left"
    return f'<td style="text-align:{side}">{cell}</td>'


def sheet(title: str, facts: Iterable[tuple[str, object]], about: str = "") -> str:
    """What is known of one thing: a line for each fact that is not empty."""
    lines = [(escape(name), text(value)) for name, value in facts if value not in ("", None)]
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{name}</th>'
        f'<td style="text-align:left">{value}</td></tr>'
        for name, value in lines
    )
    first = f"<br>{text(about)}" if about else ""
    caption = f'<caption style="text-align:left"><b>{text(title)}</b>{first}</caption>'
    return f"<table>{caption}<tbody>{body}</tbody></table>"


def items(title: str, texts: Iterable[str]) -> str:
    """A list below its title; nothing if there are no texts."""
    shown = "".join(f"<li>{text(one)}</li>" for one in texts)
    return f"<p>{escape(title)}</p><ul>{shown}</ul>" if shown else ""


def figures(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table: a line for each detector and OOD set, in percent; seeds as mean and ±."""
    if not rows:
        return "<p>No rows.</p>"
    shared = {name for name in WHAT if len({str(row.get(name) or "") for row in rows}) == 1}
    own = [name for name in WHAT if name not in shared or name == "detector"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        what = [row.get(name) for name in (*WHAT, *OPTIONS, "ood")]
        groups.setdefault(str(what), []).append(row)
    several = any(len(group) > 1 for group in groups.values())
    head = [*own, "OOD", *FIGURES.values(), *(["seeds"] if several else [])]
    lines = []
    for group in groups.values():
        seeds = {row.get("seed") for row in group}
        # the same seed twice is two networks, which no mean may hide
        for members in [group] if len(seeds) == len(group) else [[row] for row in group]:
            first = members[0]
            ood = first["ood"] + (" (mean)" if first.get("is_mean") else "")
            cells = [text(first.get(name) or "") for name in own] + [text(ood)]
            cells += [_figure([row.get(name) for row in members]) for name in FIGURES]
            lines.append([*cells, *([str(len(members))] if several else [])])
    facts = [f"{name} {text(rows[0].get(name))}" for name in WHAT if name in shared - {"detector"}
             and rows[0].get(name)]  # fmt: skip
    return table([name.capitalize() if name in WHAT else name for name in head], lines,
                 "; ".join([*facts, "figures in percent"]))  # fmt: skip


def _figure(values: Sequence[float | None]) -> str:
    there = [100 * value for value in values if value is not None]
    if not there or len(there) < len(values):
        return "–"
    spread = f" ± {statistics.stdev(there):.2f}" if len(there) > 1 else ""
    return f"{statistics.fmean(there):.2f}{spread}"

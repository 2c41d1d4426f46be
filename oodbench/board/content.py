"""What a board shows of a benchmark: its rows as numbers and texts for the page's program."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from oodbench import files
from oodbench.benchmark import SHIFTED, Benchmark
from oodbench.board.curves import curves_of
from oodbench.detector import Detector
from oodbench.errors import OODBenchError
from oodbench.registry import DETECTORS, MEASURES, STANDARD_METHOD, TASKS
from oodbench.results import arranged, published, wording
from oodbench.results.arranged import Arranged
from oodbench.results.disputes import Submitted, submitted
from oodbench.results.entries import Entry, key_of
from oodbench.results.head import intervals_of
from oodbench.results.papertable import bibtex_of
from oodbench.results.plain import visible
from oodbench.results.ranking import SamplesOf
from oodbench.results.rows import METRICS, NAMES, Row, cell
from oodbench.results.seeds import Figure
from oodbench.results.significance import samples_of
from oodbench.results.standing import REPORTED, Standing, standing_of
from oodbench.results.store import page_name
from oodbench.results.stored import StoredResult

FIGURES = [{"name": name, "title": NAMES[name], "low": name.startswith("fpr")} for name in METRICS]
"""The figures of each set, and which of them are the better the lower they are."""


@dataclass
class Texts:
    """Long texts that many rows share, each kept once and named by its number."""

    texts: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        """The number of a text, which is kept from now on."""
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]


@dataclass(frozen=True)
class _Extra:
    """A column besides the figures of sets: of one row of each seed, or of one set's rows."""

    title: str
    column: str
    ood: str | None = None
    low: bool = False


def content_of(
    benchmark: Benchmark, rows: Iterable[Row], results: Sequence[StoredResult]
) -> dict[str, Any]:
    """A benchmark's part of a board.

    It has the entries of the benchmark's page (:mod:`oodbench.results.leaderboard`), in the same
    order and with the same ranks. Figures are percentages, rounded to two digits as on the page.

    Args:
        benchmark: that the rows are of.
        rows: in the order in which they were made.
        results: that have the rows, for the scores behind them and the names of their files.

    Raises:
        OODBenchError: scores or cards that are damaged.
    """
    about, standing = submitted(results), standing_of(results)
    parts = arranged.sections(
        benchmark, [row for row in rows if row["row_id"] not in about.outside]
    )
    samples = samples_of(results)
    made = {row["row_id"]: result.path.name for result in results for row in result.rows}
    texts = Texts()
    shown = [_part(benchmark, part, samples, about, standing, made, texts) for part in parts]
    return {
        "name": visible(benchmark.name),
        "key": page_name(benchmark.name),
        "id": visible(benchmark.id.name),
        "task": benchmark.task,
        "about": [visible(text) for text in _about(benchmark, parts)],
        "metric": NAMES[benchmark.protocol.rank_by],
        "figures": FIGURES,
        "fpr": METRICS.index(benchmark.protocol.fpr),
        "parts": shown,
        "texts": texts.texts,
    }


def entry_id(entry: Entry, benchmark: Benchmark) -> str:
    """What a link to an entry ends in: the detector, and a digest of what the entry is.

    It is of what was measured on what, not of figures, seeds or places, so that it stays when an
    entry is measured again, when seeds are added, and when others pass it.
    """
    row = entry.first
    digest = files.digest([key_of(row), arranged.selection_of(row, benchmark)])
    return f"{files.file_name(row['detector'])}-{digest[:10]}"


def _about(benchmark: Benchmark, parts: Sequence[Sequence[Row]]) -> list[str]:
    """What a reader has to know of the benchmark, in paragraphs."""
    protocol = benchmark.protocol
    texts = [
        f"ID: {benchmark.id.name} ({benchmark.id.description or benchmark.id.source}). Ranked by "
        f"the {protocol.rank_group}-OOD mean of {NAMES[protocol.rank_by]}; the FPR@95 that its "
        f"papers print is {NAMES[protocol.fpr]}."
        + (f" Defined by: {benchmark.citation}." if benchmark.citation else ""),
        f"All figures in percent. {intervals_of(benchmark, parts)}",
    ]
    if protocol.seeds > 1:
        texts.append(f"Its papers print means over {protocol.seeds} trained networks.")
    if benchmark.superseded_by:
        texts.append(f"Superseded by {benchmark.superseded_by}.")
    return [*texts, *benchmark.remarks]


def _part(
    benchmark: Benchmark,
    rows: Sequence[Row],
    samples: SamplesOf,
    about: Submitted,
    standing: Standing,
    made: dict[str, str],
    texts: Texts,
) -> dict[str, Any]:
    """Entries on the same images."""
    section = arranged.arranged(benchmark, rows, about, standing)
    ranking = arranged.ranks_of(benchmark, section, samples)
    extras = _extras(benchmark, section)
    sets = [row["ood"] for row in section.rows]
    ids = [entry_id(entry, benchmark) for entry in section.entries]
    known = published.index()
    entries = []
    for entry, rank, name in zip(section.entries, ranking.ranks, ids, strict=True):
        shown = _entry(benchmark, entry, sets, extras, texts, known)
        shown |= {"id": name, "rank": rank, "runs": _runs(entry, standing, made, texts)}
        shown |= _drawn(entry, samples)
        shown["twins"] = [ids[int(twin.split()[0]) - 1] for twin in entry.twins]
        shown["notes"] += _short_run(benchmark, entry)
        shown["word"] = about.word(entry.first, benchmark.protocol.rank_by)
        entries.append(shown)
    means = [row["ood"] for row in section.rows if row["is_mean"]]
    return {
        "title": visible(", ".join(means) or ", ".join(sets)),
        "about": [visible(text) for text in _about_part(benchmark, section, ranking.remark)],
        "sets": [_set(row) for row in section.rows],
        "extras": [{"title": visible(e.title), "low": e.low} for e in extras],
        "ranked": [sets.index(section.ranking), METRICS.index(benchmark.protocol.rank_by)],
        "entries": entries,
    }


def _short_run(benchmark: Benchmark, entry: Entry) -> list[str]:
    """What is said of networks that classify worse than those of the literature do."""
    if not arranged.is_short_run(benchmark, entry.one_each()):
        return []
    least = 100 * (benchmark.protocol.least_accuracy or 0.0)
    source = benchmark.protocol.least_accuracy_source
    return [visible(f"Short run: the ID accuracy is below {least:g} % ({source}).")]


def _set(row: Row) -> dict[str, Any]:
    return {
        "name": visible(row["ood"]),
        "group": row["group"],
        "mean": row["is_mean"],
        "of": [visible(name) for name in row["ood_sets"]],
        "n": row["n_ood"],
        "fingerprint": row["ood_fingerprint"],
    }


def _about_part(benchmark: Benchmark, section: Arranged, remark: str) -> list[str]:
    first = section.entries[0].first
    singles = [row for row in section.rows if not row["is_mean"]]
    texts = []
    version = arranged.version_of(first)
    if version != benchmark.version:
        texts.append(
            f"These rows are of version {version} of the benchmark, whose images or figures were "
            f"others. This is version {benchmark.version}."
        )
    inputs = (
        "each network's own"
        if benchmark.own_inputs
        else wording.input_to(benchmark, first["preprocess"])
    )
    texts.append(f"{wording.id_text(benchmark, first, singles)}. Input: {inputs}.")
    means = {row["group"]: row["ood"] for row in section.rows if row["is_mean"]}
    contrast = benchmark.protocol.contrast
    if contrast and all(group in means for group in contrast):
        easier, harder = contrast
        texts.append(
            f"Gap: AUROC of the {easier} sets' mean minus that of the {harder} sets' mean; above "
            f"zero the {harder} sets have the lower one. {benchmark.protocol.contrast_remark} "
            + wording.gaps_text(section.entries, means[harder])
        )
    if SHIFTED in means:
        is_spectrum = benchmark.protocol.full_spectrum
        texts.append(wording.FULL_SPECTRUM_REMARK if is_spectrum else wording.SHIFTED_REMARK)
    return [*texts, *([remark] if remark else [])]


def _extras(benchmark: Benchmark, section: Arranged) -> list[_Extra]:
    """Columns besides the figures of sets; those that are empty in all rows are left out."""
    column, title = TASKS.get(benchmark.task).quality
    means = {row["group"]: row["ood"] for row in section.rows if row["is_mean"]}
    whole = [*means.values()] or [row["ood"] for row in section.rows]
    extras = [_Extra(title, column)]
    if benchmark.protocol.contrast and benchmark.protocol.contrast[1] in means:
        extras.append(_Extra("Gap", "gap", means[benchmark.protocol.contrast[1]]))
    extras.append(_Extra("Full-spectrum accuracy", "spectrum_accuracy"))
    if SHIFTED in means:
        extras.append(_Extra("Shifted accuracy", "shifted_accuracy", means[SHIFTED]))
    for name in whole:
        for metric in ("auroc", benchmark.protocol.fpr):
            title = f"{name} {NAMES[metric]}, against ID objects"
            extras.append(_Extra(title, f"{metric}_foreground", name, metric != "auroc"))
    for measure in benchmark.measures:
        extras += [_Extra(f"{name} {MEASURES.get(measure).title}", measure, name) for name in whole]
    return [one for one in extras if any(_figure(e, one) for e in section.entries)]


def _figure(entry: Entry, extra: _Extra) -> list[float | None] | None:
    rows = entry.one_each() if extra.ood is None else entry.of(extra.ood)
    return _numbers(Figure.of(rows, extra.column))


def _numbers(figure: Figure | None) -> list[float | None] | None:
    """Mean, low, high, deviation over seeds, in percent; what is last and not there is left out."""
    if figure is None:
        return None
    low, high = figure.ends or (None, None)
    spread = statistics.stdev(figure.values) if len(figure.values) > 1 else None
    values = [figure.mean, low, high, spread]
    while values[-1] is None:
        values.pop()
    return [None if value is None else _percent(value) for value in values]


def _percent(value: float) -> float:
    """A fraction in percent, rounded as it is printed elsewhere."""
    return float(f"{100 * value:.2f}")


def _entry(
    benchmark: Benchmark,
    entry: Entry,
    sets: Sequence[str],
    extras: Sequence[_Extra],
    texts: Texts,
    known: published.Index,
) -> dict[str, Any]:
    """An entry's figures, and what it is."""
    row = entry.first
    recipe = {"recipe": row["recipe"], **row["recipe_options"]}
    choices = [one["tuned"] for one in entry.one_each() if one.get("tuned")]
    notes = [note for one in entry.rows.values() for note in one.get("notes") or ()]
    backbone = row["backbone"]
    if benchmark.own_inputs:
        backbone += f", {_input(row)}"
    return {
        "detector": visible(row["detector"]),
        "settings": visible(wording.settings_text(row)),
        "method": visible(row["method"]),
        "recipe": visible(row["recipe"] or ""),
        "backbone": visible(backbone),
        "modality": visible(row.get("modality") or ""),
        "tags": [visible(tag) for tag in tags_of(row["detector"])],
        "seeds": entry.seeds,
        "older": entry.is_older,
        "figures": [[_numbers(entry.figure(name, m)) for m in METRICS] for name in sets],
        "extras": [_figure(entry, extra) for extra in extras],
        "each": _of_seeds(entry, sets),
        "tuned": visible("; ".join(dict.fromkeys(map(_choice, choices)))),
        "notes": [visible(note) for note in dict.fromkeys([*entry.marks, *notes])],
        "made": texts.number(visible(_json(recipe), keep="\n")),
        "input": texts.number(visible(_json(row["preprocess"]), keep="\n")),
        "idTest": row["id_fingerprint"],
        "idTrain": row["id_train_fingerprint"],
        "bibtex": [texts.number(visible(one, keep="\n")) for one in bibtex_of([entry])],
        "published": [_published(one) for one in published.beside(entry, known)],
    }


def tags_of(detector: str) -> list[str]:
    """What kind of detector it is, in words to filter by; none if its name is not known here.

    What its score reads (``reads logits``; ``runs the network`` if it wants more than outputs),
    whether it learns from ID data, and whether it is made for a training of its own.
    """
    try:
        kind = DETECTORS.get(detector)
    except OODBenchError:  # a plug-in's that is not installed, or an object of somebody's own class
        return []
    learns = kind.fit is not Detector.fit or kind.fit_batches is not Detector.fit_batches
    needs = kind.needs if isinstance(kind.needs, frozenset) else frozenset()  # else of its options
    return [
        *(_reading(need) for need in sorted(needs)),
        "learns from ID data" if learns else "learns nothing",
        *(["own training"] if kind.method != STANDARD_METHOD else []),
    ]


def _reading(need: str) -> str:
    if need == "model":
        return "runs the network"
    return f"reads {need[:-2]} of each modality" if need.endswith("/*") else f"reads {need}"


def _of_seeds(entry: Entry, sets: Sequence[str]) -> list[list[list[float | None]]]:
    """AUROC and both FPR@95 of each seed, by set and figure; of one seed nothing."""
    if len(entry.seeds) < 2:
        return []
    return [
        [[_of_seed(entry, seed, name, metric) for seed in entry.seeds] for metric in METRICS[:3]]
        for name in sets
    ]


def _of_seed(entry: Entry, seed: int, ood: str, metric: str) -> float | None:
    row = entry.rows.get((seed, ood))
    value = None if row is None else cell(row, metric)
    return None if value is None else _percent(value)


def _choice(tuned: Any) -> str:
    return (
        f"{tuned['tried']} candidates on {', '.join(tuned['ood'])} (validation AUROC "
        f"{100 * tuned['auroc']:.2f}; images {tuned['fingerprint'][:12]})"
    )


def _published(beside: published.Beside) -> dict[str, Any]:
    figure = beside.published
    return {
        "where": visible(figure.ood or "ID"),
        "figure": NAMES.get(figure.column or "", "accuracy"),
        "here": _percent(beside.measured.mean),
        "printed": visible(figure.printed),
        "difference": _percent(beside.difference),
        "beyond": beside.is_beyond,
        "source": visible(f"{figure.convention}; {figure.source}"),
    }


def _runs(
    entry: Entry, standing: Standing, made: dict[str, str], texts: Texts
) -> list[dict[str, Any]]:
    """What made each seed's rows, and where they are."""
    runs = []
    for row in entry.one_each():
        own = [one for (seed, _), one in entry.rows.items() if seed == row["seed"]]
        results = dict.fromkeys(made.get(one["row_id"], "") for one in own)
        runs.append(
            {
                "seed": row["seed"],
                "command": texts.number(visible(row["command"] or "")),
                "with": texts.number(visible(wording.made_with(row))),
                "weights": visible(row["weights"]),
                "when": row["created"],
                "seconds": round(row["seconds"], 2),
                "results": [name for name in results if name],
                "row": row["row_id"],
                "checked": standing.words.get(row["row_id"], REPORTED),
            }
        )
    return runs


def _drawn(entry: Entry, samples: SamplesOf) -> dict[str, Any]:
    """Curves of the first seed whose scores are here."""
    for seed in entry.seeds:
        rows = [row for (own, _), row in entry.rows.items() if own == seed and not row["is_mean"]]
        there = [(row, own) for row in rows if (own := samples(row)) is not None]
        if there and len(there) == len(rows):
            sets = [curves_of(own, [row])["sets"][0] for row, own in there]
            return {"curves": {"seed": seed, "sets": sets}}
    return {}


def _input(row: Row) -> str:
    return wording.input_text(row["preprocess"])


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=False)

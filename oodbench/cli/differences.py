"""``oodbench compare RESULT RESULT``: whether stored results differ by more than noise."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import typer

from oodbench.cli.tables import print_table
from oodbench.cli.terminal import printable
from oodbench.errors import OptionError
from oodbench.settings import Reporting, Selection

if TYPE_CHECKING:
    from oodbench.benchmark import Benchmark
    from oodbench.results.across import Across, Posthoc
    from oodbench.results.significance import Compared, Side

_TAKEN = {"stored", "id", "benchmark", "leaderboards", "json", "wide", "plot", "posthoc"}
"""Options that mean something where stored results are compared."""

Place = tuple[str, tuple[str, ...]]
"""A benchmark, and the networks (their weights) that results are on."""


def compare_stored(
    context: typer.Context,
    names: Sequence[str],
    selection: Selection,
    reporting: Reporting,
    plot: str | None,
    posthoc: str,
) -> None:
    """Compare stored results, of two or more names, on each kind of network that all are on."""
    from oodbench import files
    from oodbench.benchmark import get_benchmark
    from oodbench.results import finding, significance
    from oodbench.results.rows import METRICS
    from oodbench.results.significance import sides_of

    _refuse_others(context)
    if len(names) < 2 or len(set(names)) < len(names):
        raise OptionError("name two or more results, each once: `oodbench compare msp energy`.")
    if posthoc not in ("wilcoxon", "nemenyi"):
        raise OptionError(f"--posthoc {posthoc}: give wilcoxon or nemenyi.")
    asked = selection.id is not None or selection.benchmark is not None
    chosen = get_benchmark(selection.id, selection.benchmark) if asked else None
    folder = files.user_path(reporting.leaderboards or "leaderboards")
    all_files = all(name.endswith(".json") for name in names)
    folders = [] if all_files else finding.folders_of(folder, chosen.name if chosen else None)
    named = {name: _meant(name, sides_of(finding.find(name, folders))) for name in names}
    places = _places(named)
    comparisons: list[tuple[Side, Side, list[Compared], Benchmark | None]] = []
    for sides in _with_scores(places):
        significance.tell_apart(sides)
        benchmark = chosen or _benchmark_of(sides[0])
        metrics: Sequence[str] = _shown(benchmark) if len(sides) == 2 else (_rank_by(benchmark),)
        metrics = METRICS if reporting.json else metrics
        for one, other in itertools.combinations(sides, 2):
            compared = significance.compare_sides(one, other, metrics)
            comparisons.append((one, other, compared, benchmark))
    over_all = _across(list(names), places, chosen, cast("Posthoc", posthoc))
    if plot is not None:
        _draw(over_all, plot)
    if reporting.json:
        figures = [
            figure
            for one, other, compared, _ in comparisons
            for figure in significance.as_json(one, other, compared)
        ]
        typer.echo(json.dumps({"compared": figures, "across": _as_json(over_all)}, indent=1))
        return
    _show(comparisons, over_all, plot, reporting.wide)


def _refuse_others(context: typer.Context) -> None:
    """Refuse options that tell of networks to be run, of which there are none."""
    for option in context.command.params:
        name = option.name or ""
        source = context.get_parameter_source(name)
        if name not in _TAKEN and source is not None and source.name == "COMMANDLINE":
            raise OptionError(
                f"{option.opts[0]} means nothing where stored results are compared, as no network "
                "is run. Leave it out, or leave out the results to run networks."
            )


def _benchmark_of(side: Side) -> Benchmark | None:
    """The benchmark of a side's results; None if it is not known here."""
    from oodbench.benchmark import get_benchmark
    from oodbench.errors import OODBenchError

    try:
        return get_benchmark(benchmark=side.entry.first["benchmark"])
    except OODBenchError:
        return None


def _shown(benchmark: Benchmark | None) -> list[str]:
    """Figures of the table: AUROC, the FPR@95 of the benchmark's papers, and what it ranks by."""
    protocol = benchmark.protocol if benchmark else None
    names = ["auroc", *([protocol.fpr, protocol.rank_by] if protocol else ["fpr95_id"])]
    return list(dict.fromkeys(names))


def _rank_by(benchmark: Benchmark | None) -> str:
    return benchmark.protocol.rank_by if benchmark else "auroc"


def _meant(name: str, sides: list[Side]) -> list[Side]:
    """Of a detector alone its joint predictions, where those of modalities are scored too."""
    exact = [side for side in sides if side.entry.name == name]
    return exact or sides


def _places(named: Mapping[str, list[Side]]) -> dict[Place, list[Side]]:
    """One side of each name for each kind of network that all names are on.

    Results that are named one by one are compared on whatever networks they are.

    Raises:
        OptionError: there is no such network, or a name stands for several results on one.
    """
    if all(len(sides) == 1 for sides in named.values()):
        sides = [own[0] for own in named.values()]
        return {_place(sides[0]): sides}
    by_name = {name: _by_place(name, sides) for name, sides in named.items()}
    first, *others = by_name.values()
    shared = [place for place in first if all(place in other for other in others)]
    if not shared:
        raise OptionError(
            f"{' and '.join(named)} have no results on the same benchmark and networks. Name two "
            "results one by one, by their files."
        )
    return {place: [own[place] for own in by_name.values()] for place in shared}


def _place(side: Side) -> Place:
    return side.entry.first["benchmark"], tuple(sorted(side.networks))


def _by_place(name: str, sides: Sequence[Side]) -> dict[Place, Side]:
    by_place: dict[Place, Side] = {}
    for side in sides:
        place = _place(side)
        if place in by_place:
            raise OptionError(
                f"{name} stands for several results on the same network: {by_place[place].name}, "
                f"{side.name}. Name one of them by its file."
            )
        by_place[place] = side
    return by_place


def _with_scores(places: Mapping[Place, list[Side]]) -> list[list[Side]]:
    """The places all of whose results have scores; what is passed over is said.

    Where none has, all are given on, so that the comparison refuses them in words.
    """
    kept = [sides for sides in places.values() if all(side.samples for side in sides)]
    if not kept:
        return list(places.values())
    for place, sides in places.items():
        if sides not in kept:
            backbone = sides[0].entry.first["backbone"]
            without = ", ".join(side.name for side in sides if not side.samples)
            typer.echo(
                printable(
                    f"{place[0]}, {backbone} ({place[1][0][:12]}): passed over, as the scores of "
                    f"{without} were not kept"
                ),
                err=True,
            )
    return kept


# --- over sets and networks ----------------------------------------------------------------------


def _across(
    names: list[str],
    places: Mapping[Place, list[Side]],
    chosen: Benchmark | None,
    posthoc: Posthoc,
) -> Across | None:
    """Ranks over all OOD sets and networks; None where there is one block only."""
    import numpy as np

    from oodbench.results.across import across
    from oodbench.results.rows import cell

    if len(places) == 1 and len(names) == 2:  # sets of one network, which were compared above
        return None
    metrics = {_rank_by(chosen or _benchmark_of(sides[0])) for sides in places.values()}
    metric = metrics.pop() if len(metrics) == 1 else "auroc"
    blocks, values = [], []
    for (benchmark, _), sides in places.items():
        sets = {row["ood"]: None for row in sides[0].entry.rows.values() if not row["is_mean"]}
        for ood in sets:
            rows = [side.rows_of(ood) for side in sides]
            if all(rows):
                blocks.append(f"{benchmark}, {sides[0].entry.first['backbone']}, {ood}")
                values.append([np.mean([cell(row, metric) for row in own]) for own in rows])
    if len(blocks) < 2:
        return None
    labels = names
    if len(places) == 1:
        labels = [side.name for side in next(iter(places.values()))]
    figures = np.array(values, dtype=np.float64)
    low_is_good = metric.startswith("fpr")
    return across(labels, blocks, figures, low_is_good=low_is_good, posthoc=posthoc)


def _draw(over_all: Across | None, plot: str) -> None:
    from oodbench.results.across import diagram

    if over_all is None or len(over_all.names) < 3:
        raise OptionError(
            "--plot draws a critical-difference diagram of three or more results on two or more "
            "sets. Name more of them."
        )
    diagram(over_all, plot)


def _as_json(over_all: Across | None) -> Mapping[str, Any] | None:
    if over_all is None:
        return None
    return {
        "blocks": over_all.blocks,
        "mean_ranks": dict(zip(over_all.names, map(float, over_all.ranks), strict=True)),
        "friedman": None if over_all.statistic != over_all.statistic else over_all.statistic,
        "p": over_all.p,
        "posthoc": over_all.posthoc,
        "pairs": [{"one": a, "other": b, "p": p} for (a, b), p in over_all.pairs.items()],
    }


# --- for people ----------------------------------------------------------------------------------


def _show(
    comparisons: Sequence[tuple[Side, Side, list[Compared], Benchmark | None]],
    over_all: Across | None,
    plot: str | None,
    wide: bool,
) -> None:
    from oodbench.metrics.paired import holm
    from oodbench.results import across, significance

    chief = [
        significance.ranking_of(compared, benchmark) for _, _, compared, benchmark in comparisons
    ]
    if len(comparisons) > 1:  # each pair is one of many
        corrected = holm([one.p for one in chief])
        chief = [one.corrected(float(p)) for one, p in zip(chief, corrected, strict=True)]
    by_place: dict[str, list[tuple[Side, Side, Compared]]] = {}
    for (one, other, _, _), figure in zip(comparisons, chief, strict=True):
        first = one.entry.first
        networks = ", ".join(weights[:12] for weights in one.networks)
        place = f"{first['benchmark']}, {first['backbone']} ({networks})"
        by_place.setdefault(place, []).append((one, other, figure))
    if len(comparisons) == 1:
        (one, other, compared, _), *_ = comparisons
        left_out = print_table(*_table(compared, one.name, other.name), wide=wide)
        if left_out:
            typer.echo(f"--wide shows also: {', '.join(left_out)}")
    for place, own in by_place.items():
        typer.echo(printable(f"{place}:"))
        for line in [significance.sentence(*own[0])] if len(own) == 1 else _of_many(own):
            typer.echo(printable(line))
    if len(comparisons) > 1:
        typer.echo(f"(p-values by Holm's correction for {len(comparisons)} comparisons)")
    if over_all is not None:
        for line in across.sentences(over_all):
            typer.echo(printable(line))
    if plot is not None:
        typer.echo(f"plot: {plot}")


def _of_many(pairs: Sequence[tuple[Side, Side, Compared]]) -> list[str]:
    """Three or more on one kind of network: the best first, and what is not told apart."""
    from oodbench.results.rows import NAMES

    figure = pairs[0][2]
    values = {one.name: c.one for one, _, c in pairs} | {two.name: c.other for _, two, c in pairs}
    sign = 1 if figure.metric.startswith("fpr") else -1
    ranked = sorted(values, key=lambda name: sign * values[name])
    listing = ", ".join(f"{name} {100 * values[name]:.2f}" for name in ranked)
    same = [f"{one.name} and {two.name}" for one, two, c in pairs if not c.is_told_apart]
    over = f"over {figure.n_id:,} ID and {figure.n_ood:,} OOD samples"
    told = "All are told apart from each other."
    if same:
        others = "" if len(same) == len(pairs) else " All other pairs are."
        told = f"Not told apart: {'; '.join(same)}.{others}"
    return [f"{figure.ood} {NAMES[figure.metric]} {over}: {listing}.", told]


def _table(compared: Sequence[Compared], one: str, other: str) -> tuple[list[str], list[list[str]]]:
    from oodbench.results.rows import NAMES

    header = ["OOD", "figure", f"{one} %", f"{other} %", "difference", "95 % interval", "p (Holm)"]
    cells = [
        [
            figure.ood,
            NAMES[figure.metric],
            f"{100 * figure.one:.2f}",
            f"{100 * figure.other:.2f}",
            f"{100 * figure.difference:+.2f}",
            f"{100 * figure.low:+.2f} to {100 * figure.high:+.2f}",
            f"{figure.p_holm:.2g}",
            "told apart" if figure.is_told_apart else "not told apart",
        ]
        for figure in compared
    ]
    return [*header, "verdict"], cells

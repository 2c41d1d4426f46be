"""Whether several modalities together tell OOD better than the better one of them alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from oodbench.benchmark import SHIFTED, Benchmark
from oodbench.results.arranged import Arranged
from oodbench.results.entries import Entry, key_of
from oodbench.results.pagetables import Numbered, table
from oodbench.results.plain import markdown
from oodbench.results.rows import NAMES, cell, with_columns
from oodbench.results.wording import method_text


@dataclass(frozen=True)
class Family:
    """A detector on the same networks, on all modalities together and on each alone.

    Args:
        number: of the line of all together.
        together: that line.
        alone: the lines of single modalities, by their names.
    """

    number: int
    together: Entry
    alone: Mapping[str, Entry]

    def gain(self, ood: str, metric: str) -> Gain | None:
        """What the others add to the best modality alone; None where no seed has all rows."""
        sign = -1.0 if metric.startswith("fpr") else 1.0
        seeds = [entry.of(ood) for entry in (self.together, *self.alone.values())]
        shared = set.intersection(*({row["seed"] for row in rows} for rows in seeds))
        if not shared:
            return None
        whole, *single = (
            [sign * float(cell(row, metric)) for row in rows if row["seed"] in shared]
            for rows in seeds
        )
        best = max(single, key=statistics.fmean)
        return Gain(tuple(a - b for a, b in zip(whole, best, strict=True)))


@dataclass(frozen=True)
class Gain:
    """Differences of a figure, one for each network; above zero all together is better."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over networks."""
        return statistics.fmean(self.values)

    @property
    def half(self) -> float:
        """Half of the 95 % interval of the mean over networks, by Student's t."""
        n = len(self.values)
        if n < 2:
            return math.inf
        return float(stdtrit(n - 1, 0.975)) * statistics.stdev(self.values) / math.sqrt(n)

    @property
    def sign(self) -> int:
        """1 where the interval is above zero, -1 where it is below, 0 where it holds it."""
        return (self.mean > self.half) - (self.mean < -self.half)

    def __str__(self) -> str:
        shown = f"{100 * self.mean:+.2f}"
        if math.isinf(self.half):
            return shown
        return (
            f"{shown} [{100 * (self.mean - self.half):+.2f}, {100 * (self.mean + self.half):+.2f}]"
        )


def families_of(numbered: Numbered) -> list[Family]:
    """Lines that differ by their modality alone, of which all together and two or more are there.

    Args:
        numbered: entries of one section with their numbers, the best first.
    """
    if not any(entry.first.get("modality") for _, entry in numbered):
        return []
    together: dict[str, tuple[int, Entry]] = {}
    alone: dict[str, dict[str, Entry]] = {}
    for number, entry in numbered:
        key = key_of(with_columns(entry.first, {"modality": None}))
        if modality := entry.first.get("modality"):
            alone.setdefault(key, {})[modality] = entry
        else:
            together[key] = number, entry
    return [
        Family(number, entry, dict(sorted(alone[key].items())))
        for key, (number, entry) in together.items()
        if len(alone.get(key, ())) > 1
    ]


def section(benchmark: Benchmark, arranged: Arranged) -> list[str]:
    """The part of a page on this; none where nothing was measured on single modalities."""
    families = families_of(arranged.numbered)
    means = [name for group, name in arranged.means.items() if group != SHIFTED]
    if not families or not means:
        return []
    metric = benchmark.protocol.rank_by
    names = sorted({name for family in families for name in family.alone})
    return [
        "### Do several modalities help?",
        "",
        *(_answer(families, name, metric) for name in means),
        "",
        f"Lines that were scored on the predictions of all modalities together and of "
        f"{markdown(' and '.join(names))} alone, by the same detector on the same networks. Gain: "
        f"{NAMES[metric]} of all together less that of the better one alone (turned round where "
        "lower is better), mean over networks with its 95 % interval over them (Student's t); "
        "better and worse are intervals that leave zero out. Below, the best such line of each "
        "method; the others are in the csv.",
        "",
        *_table(families, means, names, metric),
    ]


def _answer(families: Sequence[Family], ood: str, metric: str) -> str:
    gains = [gain for family in families if (gain := family.gain(ood, metric)) is not None]
    signs = [gain.sign for gain in gains]
    median = statistics.median(gain.mean for gain in gains) if gains else math.nan
    return (
        f"- **{markdown(ood)}**: all together is better than the better one alone in "
        f"{signs.count(1)} of {len(gains)} lines, worse in {signs.count(-1)}, not told apart in "
        f"{signs.count(0)}; median gain {100 * median:+.2f} points."
    )


def _table(
    families: Sequence[Family], means: Sequence[str], names: Sequence[str], metric: str
) -> list[str]:
    best: dict[str, Family] = {}
    for family in families:
        best.setdefault(method_text(family.together.first), family)
    header = ["#", "Method", "Detector"]
    for name in means:
        header += [f"{name} {NAMES[metric]}: together", *names, "gain"]
    rows = []
    for method, family in best.items():
        cells = [str(family.number), method, family.together.name]
        for name in means:
            entries = (family.together, *(family.alone.get(one) for one in names))
            cells += [_mean(entry, name, metric) for entry in entries]
            gain = family.gain(name, metric)
            cells.append("–" if gain is None else str(gain))
        rows.append([markdown(text) for text in cells])
    return table([markdown(text) for text in header], rows)


def _mean(entry: Entry | None, ood: str, metric: str) -> str:
    figure = entry and entry.figure(ood, metric)
    return f"{100 * figure.mean:.2f}" if figure else "–"

"""How often the 95 % intervals hold the truth, by simulation; the table of docs/coverage.md.

Usage: ``python benchmarks/coverage.py [--repeats 1000] [--only normal] [--seed 0]``

Each setting draws ID scores and three OOD sets from known distributions, again and again. What the
intervals should hold are the metrics of the distributions themselves: those of a population of two
million scores at equally spaced quantiles, in the same ratio of ID to OOD. The five metrics are of
the first OOD set, the means and the gap (the first and the third set's mean AUROC minus the
second's) of all. Settings of more than 10,000 scores are drawn 400 times at most. Truths above and
below an interval are counted apart; shares outside of 93 to 97.5 % are marked with a star. About a
quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from oodbench import metrics

Array = npt.NDArray[np.float64]
Quantile = Callable[[Array], Array]
FIGURES = (
    *("auroc", "fpr95_id", "fpr95_ood", "aupr_in", "aupr_out"),
    *("mean auroc", "mean fpr95_id", "mean fpr95_ood", "mean aupr_in", "mean aupr_out", "gap"),
)


@dataclass(frozen=True)
class Setting:
    """Distributions of scores as functions of uniform numbers, and sizes of the sets."""

    name: str
    ids: Quantile
    oods: Sequence[Quantile]
    n: int
    m: int

    def draw(self, rng: np.random.Generator) -> tuple[Array, list[Array]]:
        """ID scores and those of three OOD sets."""
        return self.ids(rng.random(self.n)), [ood(rng.random(self.m)) for ood in self.oods]

    def truth(self, population: int = 2_000_000) -> dict[str, float]:
        """The metrics of the distributions."""
        times = max(1, population // (self.n + self.m))
        ids, *oods = (
            quantile((np.arange(size * times) + 0.5) / (size * times))
            for quantile, size in [(self.ids, self.n), *((ood, self.m) for ood in self.oods)]
        )
        each = [metrics.all_metrics(ids, ood) for ood in oods]
        means = {f"mean {k}": math.fsum(one[k] for one in each) / len(each) for k in each[0]}
        a, b, c = (one["auroc"] for one in each)
        return {**each[0], **means, "gap": (a + c) / 2 - b}


def normal(shift: float, scale: float = 1.0) -> Quantile:
    return lambda u: shift + scale * ndtri(u)


def student(shift: float, freedom: int) -> Quantile:
    return lambda u: shift + stdtrit(freedom, u)


def exponential(scale: float) -> Quantile:
    return lambda u: -scale * np.log1p(-u)


def rounded(quantile: Quantile, step: float) -> Quantile:
    return lambda u: np.round(quantile(u) / step) * step


def rectified(quantile: Quantile) -> Quantile:
    return lambda u: np.maximum(quantile(u), 0.0)


def mixed(share: float, few: Quantile, many: Quantile) -> Quantile:
    """A share of the scores comes from another distribution."""
    return lambda u: np.where(
        u < share,
        few(np.minimum(u / share, 1 - 1e-9)),
        many(np.maximum(u - share, 1e-9) / (1 - share)),
    )


NORMAL = {75: 0.954, 90: 1.812, 96: 2.5, 99.3: 3.5, 99.77: 4.01, 99.93: 4.52, 99.98: 5.0}
SIZES = ((50, 50), (200, 200), (1000, 1000), (1000, 100), (100, 1000))


def settings() -> Iterator[Setting]:
    """All rows of the table."""

    def around(
        name: str, ids: Quantile, of: Callable[[float], Quantile], n: int, m: int
    ) -> Setting:
        return Setting(name, ids, [of(1.0), of(0.8), of(1.2)], n, m)

    for percent, shift in NORMAL.items():
        for n, m in SIZES:
            yield around(f"normal {percent}", normal(0), lambda f, s=shift: normal(f * s), n, m)
    for percent, n, m in (
        *((96, 271, 714), (99.93, 271, 520), (99.98, 271, 520), (90, 10_000, 400)),
        *((75, 10_000, 10_000), (99.3, 10_000, 10_000), (99.98, 10_000, 10_000)),
    ):
        shift = NORMAL[percent]
        yield around(f"normal {percent}", normal(0), lambda f, s=shift: normal(f * s), n, m)
    for n, m in ((200, 200), (1000, 100), (100, 1000)):
        yield around("normal, wider OOD 75", normal(0), lambda f: normal(1.5 * f, 2.0), n, m)
        yield around("normal, wider OOD 91", normal(0), lambda f: normal(3 * f, 2.0), n, m)
        for shift in (1.0, 2.5):
            yield around(
                f"normal in steps of 0.5, shift {shift}",
                rounded(normal(0), 0.5),
                lambda f, s=shift: rounded(normal(f * s), 0.5),
                n,
                m,
            )
        yield around(
            "60 % of ID tied at 0", rectified(normal(-0.25)), lambda f: rectified(normal(f)), n, m
        )
        yield around("exponential 95", exponential(1), lambda f: exponential(20 * f), n, m)
        yield around("Student's t, 5 degrees, 95", student(0, 5), lambda f: student(3 * f, 5), n, m)
        yield around("Student's t, 3 degrees, 99", student(0, 3), lambda f: student(6 * f, 3), n, m)
        yield around(
            "3 % of OOD are as ID",
            normal(0),
            lambda f: mixed(0.03 * f, normal(0), normal(8)),
            n,
            m,
        )


def measure(
    setting: Setting, truth: dict[str, float], repeats: int, seed: int, draws: int = 1000
) -> dict[str, tuple[float, float]]:
    """Shares of the repeats with the truth below, and above, the interval of each figure."""
    below, above = dict.fromkeys(FIGURES, 0), dict.fromkeys(FIGURES, 0)
    rng = np.random.default_rng(seed)
    seeds = lambda: int(rng.integers(2**31))
    for _ in range(repeats):
        ids, oods = setting.draw(rng)
        single = metrics.all_intervals(ids, oods[0], draws=draws, seed=seeds())
        mean = metrics.mean_intervals(ids, oods, draws=draws, seed=seeds())
        _, low, high = metrics.auroc_gap(ids, [oods[0], oods[2]], [oods[1]])
        ends = {
            **single,
            **{f"mean {k}": v for k, v in mean.items()},
            "gap_low": low,
            "gap_high": high,
        }
        for figure in FIGURES:
            below[figure] += truth[figure] < ends[f"{figure}_low"] - 1e-12
            above[figure] += truth[figure] > ends[f"{figure}_high"] + 1e-12
    return {figure: (below[figure] / repeats, above[figure] / repeats) for figure in FIGURES}


def row(setting: Setting, auroc: float, missed: dict[str, tuple[float, float]]) -> str:
    """A row of the table."""
    cells = []
    for below, above in missed.values():
        covered = 100 * (1 - below - above)
        star = "" if 93 <= round(covered, 1) <= 97.5 else "*"
        cells.append(f"{covered:.1f}{star} ({100 * below:.1f}, {100 * above:.1f})")
    name = f"{setting.name} | {100 * auroc:.2f} | {setting.n} / {setting.m}"
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000, help="of each setting")
    parser.add_argument("--only", default="", help="settings whose name has this in it")
    parser.add_argument("--seed", type=int, default=0, help="of the scores")
    args = parser.parse_args()
    print("| scores | AUROC | ID / OOD | " + " | ".join(FIGURES) + " |")
    print("| --- " * (3 + len(FIGURES)) + "|")
    for setting in settings():
        if args.only in setting.name:
            repeats = min(args.repeats, 400) if setting.n + setting.m > 10_000 else args.repeats
            truth = setting.truth()
            missed = measure(setting, truth, repeats, args.seed)
            print(row(setting, truth["auroc"], missed), flush=True)


if __name__ == "__main__":
    main()

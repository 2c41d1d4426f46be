"""How often the 95 % interval of several seeds holds the truth; a table of docs/coverage.md.

Usage: ``python benchmarks/coverage_seeds.py [--repeats 1000] [--seed 0]``

Normal scores of 300 ID and 300 OOD images are d apart. A seed sees the same images as the others:
four fifths of a score's variance are the image's, a fifth is the seed's. And the seed has a d of
its own, normal around that of the setting. The truth is the mean AUROC of all seeds on all images.
Beside the interval of ``oodbench.results.seeds`` stands that of pooled degrees of freedom (Hillis
2007). A minute or two on one core.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, stdtrit

from oodbench import metrics
from oodbench.results.seeds import Interval, interval

IMAGES, OF_IMAGE = 300, 0.8
SETTINGS = (1.0, 0.1), (1.0, 0.2), (1.0, 0.4), (2.5, 0.1), (2.5, 0.3), (2.5, 0.8), (4.0, 0.5)
"""The mean and the standard deviation of d over seeds."""


def pooled(values: Sequence[float], own: Sequence[Interval]) -> Interval:
    """One quantile of both parts of the variance, by Satterthwaite's degrees of freedom."""
    angle = lambda p: math.asin(math.sqrt(p))
    between = statistics.variance([angle(v) for v in values]) / len(values)
    ends = []
    for side, sign in ((0, -1), (1, 1)):
        pairs = zip(values, own, strict=True)
        within = statistics.fmean([(angle(e[side]) - angle(v)) ** 2 for v, e in pairs]) / 1.96**2
        freedom = (len(values) - 1) * ((between + within) / max(between, 1e-12)) ** 2
        half = float(stdtrit(freedom, 0.975)) * math.sqrt(between + within)
        at = angle(statistics.fmean(values)) + sign * half
        ends.append(math.sin(min(max(at, 0.0), math.pi / 2)) ** 2)
    return ends[0], ends[1]


def measure(
    seeds: int, mean: float, spread: float, repeats: int, seed: int
) -> tuple[float, dict[str, tuple[float, float, float]]]:
    """The truth; by kind of interval, the shares with it below and above, and the mean width."""
    rng = np.random.default_rng(seed)
    apart = mean + spread * rng.standard_normal(200_000)
    truth = float(ndtr(apart / math.sqrt(2)).mean())
    intervals_of: dict[str, list[Interval]] = {"ours": [], "pooled": []}
    for _ in range(repeats):
        images = rng.standard_normal((2, IMAGES))
        values, own = [], []
        for _ in range(seeds):
            noise = rng.standard_normal((2, IMAGES))
            ids, oods = math.sqrt(OF_IMAGE) * images + math.sqrt(1 - OF_IMAGE) * noise
            oods = oods + mean + spread * rng.standard_normal()
            values.append(metrics.auroc(ids, oods))
            own.append(metrics.auroc_ci(ids, oods))
        intervals_of["ours"].append(interval(values, own))
        intervals_of["pooled"].append(pooled(values, own))
    shares = {}
    for name, intervals in intervals_of.items():
        low, high = np.asarray(intervals).T
        shares[name] = float((truth < low).mean()), float((truth > high).mean())
    return truth, {
        k: (*v, float(np.ptp(intervals_of[k], axis=1).mean())) for k, v in shares.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000, help="of each setting")
    parser.add_argument("--seed", type=int, default=0, help="of the scores")
    args = parser.parse_args()
    print("| seeds | AUROC | d | `oodbench.results.seeds` | width | pooled | width |")
    print("| --- " * 7 + "|")
    for seeds in (2, 3, 5):
        for mean, spread in SETTINGS:
            truth, shares = measure(seeds, mean, spread, args.repeats, args.seed)
            cells = [
                f"{100 * (1 - below - above):.1f} ({100 * below:.1f}, {100 * above:.1f}) | "
                f"{100 * width:.1f}"
                for below, above, width in shares.values()
            ]
            about = f"{seeds} | {100 * truth:.2f} | {mean} ± {spread}"
            print(f"| {about} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""Time ``all_metrics`` against scikit-learn, and compare their values, in one run.

Usage: ``python benchmarks/metrics.py [--n 1000000] [--repeat 5]``

scikit-learn's share is what the same five numbers take: ``roc_auc_score``, then ``roc_curve`` and
``average_precision_score`` once for each positive class. Both sides start from the same unsorted
float64 arrays; joining them to labels and scores for scikit-learn is not timed. The medians come
from alternating runs, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from oodbench.metrics import all_intervals, all_metrics

Array = npt.NDArray[np.float64]


def sklearn_metrics(is_ood: Array, scores: Array, is_id: Array, negated: Array) -> dict[str, float]:
    """The five metrics from scikit-learn."""
    rates = {}
    for name, labels, ranking in (("id", is_id, negated), ("ood", is_ood, scores)):
        fpr, tpr, _ = roc_curve(labels, ranking, drop_intermediate=False)
        rates[name] = float(fpr[np.argmax(tpr >= 0.95)])
    return {
        "auroc": float(roc_auc_score(is_ood, scores)),
        "fpr95_id": rates["id"],
        "fpr95_ood": rates["ood"],
        "aupr_in": float(average_precision_score(is_id, negated)),
        "aupr_out": float(average_precision_score(is_ood, scores)),
    }


def timed(
    function: Callable[..., dict[str, float]], *args: Array
) -> tuple[float, dict[str, float]]:
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def compare(name: str, ids: Array, oods: Array, repeat: int) -> None:
    is_ood = np.repeat([0.0, 1.0], [len(ids), len(oods)])
    scores = np.concatenate([ids, oods])
    reference = (is_ood, scores, 1.0 - is_ood, -scores)
    ours, theirs, intervals = [], [], []
    worst = 0.0
    for _ in range(repeat):
        seconds, mine = timed(all_metrics, ids, oods)
        ours.append(seconds)
        seconds, expected = timed(sklearn_metrics, *reference)
        theirs.append(seconds)
        intervals.append(timed(all_intervals, ids, oods)[0])
        worst = max(worst, *(abs(mine[key] - expected[key]) for key in expected))
    a, b, c = (statistics.median(times) for times in (ours, theirs, intervals))
    print(
        f"{name:<16}{a * 1e3:>10.1f} ms{b * 1e3:>12.1f} ms{b / a:>9.1f} x{worst:>14.1e}"
        f"{c * 1e3:>12.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000, help="scores of each class")
    parser.add_argument("--repeat", type=int, default=5, help="runs per median")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scores")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    print(f"{args.n} ID and {args.n} OOD scores, float64, median of {args.repeat} runs")
    print(
        f"{'scores':<16}{'all_metrics':>13}{'scikit-learn':>15}{'ratio':>11}{'max |diff|':>14}"
        f"{'intervals':>15}"
    )
    ids, oods = rng.normal(0.0, 1.0, args.n), rng.normal(1.0, 1.0, args.n)
    compare("continuous", ids, oods, args.repeat)
    compare("1000s of values", np.round(ids * 1000), np.round(oods * 1000), args.repeat)
    compare("heavily tied", np.round(ids * 4), np.round(oods * 4), args.repeat)
    compare("two values", (ids > 0) * 1.0, (oods > 0) * 1.0, args.repeat)


if __name__ == "__main__":
    main()

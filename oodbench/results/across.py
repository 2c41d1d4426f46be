"""Detectors over many sets, networks and benchmarks: do their ranks differ by more than chance?"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from oodbench import files
from oodbench.errors import OODBenchError, OptionError
from oodbench.metrics.paired import holm
from oodbench.results.plots import new_figure

Posthoc = Literal["wilcoxon", "nemenyi"]
"""How pairs are compared after Friedman's test: by Wilcoxon's signed-rank test with Holm's
correction, or by Nemenyi's test of the mean ranks."""


@dataclass(frozen=True)
class Across:
    """Detectors on blocks, each of which is an OOD set on one kind of network.

    Args:
        names: of K detectors.
        blocks: of B blocks.
        values: their figures, ``[B, K]``.
        ranks: their mean ranks over the blocks, 1 is best, ``[K]``.
        statistic: Friedman's chi-square; NaN of two detectors.
        p: of the hypothesis that none differs; of two detectors Wilcoxon's.
        pairs: corrected p-values of pairs of names.
        posthoc: the test that they are of.
    """

    names: tuple[str, ...]
    blocks: tuple[str, ...]
    values: np.ndarray
    ranks: np.ndarray
    statistic: float
    p: float
    pairs: Mapping[tuple[str, str], float]
    posthoc: Posthoc


def across(
    names: Sequence[str],
    blocks: Sequence[str],
    values: np.ndarray,
    *,
    low_is_good: bool = False,
    posthoc: Posthoc = "wilcoxon",
) -> Across:
    """Compare detectors on blocks by their ranks in each.

    Friedman's test asks whether any differs; then pairs are compared. Sources: Demšar, Journal of
    Machine Learning Research 7 (2006), of Friedman's and Nemenyi's tests and of the diagram of
    critical differences; Benavoli, Corani & Mangili, ibid. 17 (2016), of Wilcoxon's test in place
    of the latter, which does not depend on what else is compared.

    Args:
        names: of K detectors, each once.
        blocks: of B blocks.
        values: a figure of each, ``[B, K]``.
        low_is_good: whether a low figure is a good one.
        posthoc: how pairs are compared.

    Raises:
        OptionError: fewer than two detectors or blocks.
        OODBenchError: scikit-posthocs is needed, and not installed.
    """
    from scipy import stats

    if values.shape != (len(blocks), len(names)) or len(names) < 2 or len(blocks) < 2:
        raise OptionError(
            f"{len(names)} detectors on {len(blocks)} blocks cannot be compared by ranks: two of "
            "each are the least. A block is an OOD set on one kind of network."
        )
    good = values if low_is_good else -values
    ranks = np.asarray(stats.rankdata(good, axis=1).mean(axis=0))
    pairs = list(itertools.combinations(range(len(names)), 2))
    if len(names) == 2:
        statistic, p = float("nan"), _wilcoxon(values[:, 0], values[:, 1])
        p_values = [p]
        posthoc = "wilcoxon"
    else:
        if np.ptp(values, axis=1).any():
            statistic, p = map(float, stats.friedmanchisquare(*good.T))
        else:  # all are equal in each block, which the formula divides by
            statistic, p = 0.0, 1.0
        if posthoc == "nemenyi":
            matrix = _posthocs().posthoc_nemenyi_friedman(good).to_numpy()
            p_values = [float(matrix[i, j]) for i, j in pairs]
        else:
            p_values = list(holm([_wilcoxon(values[:, i], values[:, j]) for i, j in pairs]))
    by_pair = {(names[i], names[j]): float(p) for (i, j), p in zip(pairs, p_values, strict=True)}
    return Across(tuple(names), tuple(blocks), values, ranks, statistic, p, by_pair, posthoc)


def _wilcoxon(one: np.ndarray, other: np.ndarray) -> float:
    from scipy import stats

    if np.array_equal(one, other):
        return 1.0
    return float(stats.wilcoxon(one, other).pvalue)


def sentences(comparison: Across, level: float = 0.05) -> list[str]:
    """What follows from the tests, for people."""
    n = len(comparison.blocks)
    order = np.argsort(comparison.ranks, kind="stable")
    listing = ", ".join(f"{comparison.names[k]} {comparison.ranks[k]:.2f}" for k in order)
    lines = [f"Mean ranks over {n} blocks (a set on one kind of network each): {listing}."]
    if len(comparison.names) == 2:
        first, second = (comparison.names[k] for k in order)
        verdict = "ranks better than" if comparison.p < level else "is not told apart from"
        lines.append(
            f"Over all blocks {first} {verdict} {second} (Wilcoxon's signed-rank test, "
            f"p = {comparison.p:.4f})."
        )
    else:
        if comparison.p >= level:
            lines.append(
                f"Friedman's test finds no difference (chi-square {comparison.statistic:.2f}, "
                f"p = {comparison.p:.4f}), so pairs are not told apart."
            )
            return lines + _few(comparison)
        apart = [pair for pair, p in comparison.pairs.items() if p < level]
        test = (
            "Wilcoxon's test, Holm's correction" if comparison.posthoc == "wilcoxon" else "Nemenyi"
        )
        named = "; ".join(" and ".join(pair) for pair in apart) or "none"
        lines.append(
            f"Friedman's test finds a difference (chi-square {comparison.statistic:.2f}, "
            f"p = {comparison.p:.4f}). Pairs that are told apart ({test}): {named}."
        )
    return lines + _few(comparison)


def _few(comparison: Across) -> list[str]:
    n = len(comparison.blocks)
    if comparison.posthoc == "wilcoxon":
        least = 2.0 / 2.0**n * len(comparison.pairs)
        if least >= 0.05:
            return [
                f"Of {n} blocks this test can find no difference: its least p-value is "
                f"{min(1.0, least):.3f}. More benchmarks or networks are needed."
            ]
    return []


def diagram(comparison: Across, path: str | Path) -> Path:
    """Draw a critical-difference diagram as PNG: bars join detectors that are not told apart.

    Raises:
        OODBenchError: scikit-posthocs is not installed.
    """
    import pandas as pd

    library = _posthocs()
    matrix = pd.DataFrame(1.0, index=list(comparison.names), columns=list(comparison.names))
    for (one, other), p in comparison.pairs.items():
        # nothing is told apart where Friedman's test finds no difference
        matrix.loc[one, other] = matrix.loc[other, one] = p if comparison.p < 0.05 else 1.0
    figure = new_figure(8.0, 1.5 + 0.3 * len(comparison.names))
    axes = figure.subplots()
    ranks = dict(zip(comparison.names, map(float, comparison.ranks), strict=True))
    library.critical_difference_diagram(ranks, matrix, ax=axes)
    path = files.user_path(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    files.write_bytes(path, buffer.getvalue())
    return path


def _posthocs() -> Any:
    try:
        import scikit_posthocs
    except ImportError as error:
        raise OODBenchError(
            "Nemenyi's test and critical-difference diagrams need scikit-posthocs, which is not "
            "installed: pip install 'oodbench[statistics]'."
        ) from error
    return scikit_posthocs

"""A class-balanced part of samples, the same whenever it is drawn: what detectors are fitted on."""

from __future__ import annotations

import numpy as np

from oodbench.data.samples import ImageFiles, Samples, Subset
from oodbench.errors import OptionError

SEED = 0
"""Of the draw; part of the name that rows have."""


def count_of(asked: str | float, n: int) -> int:
    """How many of ``n`` samples are asked for: a number of 1 or more, or a share below 1.

    Raises:
        OptionError: it is neither.
    """
    try:
        number = float(asked)
    except ValueError:
        number = -1.0
    if 0 < number < 1:
        return max(1, round(number * n))
    if number >= 1 and number.is_integer():
        return int(number)
    raise OptionError(
        f"`fit_on={asked}`: give a number of images, such as 50000, or a share of them below 1, "
        "such as 0.1."
    )


def balanced_rows(labels: np.ndarray, classes: int, n: int, seed: int = SEED) -> np.ndarray:
    """``[n]``: positions in order, as many of each class as there are, up to one.

    A class that has fewer gives all that it has, and the others give more. Which ones a class gives
    is drawn by the seed and the class alone.

    Args:
        labels: ``[N]`` in [0, classes).
        classes: how many there are.
        n: how many rows, N at most.
        seed: of the draw.
    """
    counts = np.bincount(labels, minlength=classes)
    low, high = 0, int(counts.max(initial=0))
    while low < high:  # the most that each class may give without giving more than n in all
        middle = (low + high + 1) // 2
        if np.minimum(counts, middle).sum() <= n:
            low = middle
        else:
            high = middle - 1
    shares = np.minimum(counts, low)
    shares[np.flatnonzero(counts > low)[: n - int(shares.sum())]] += 1
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(counts) - counts
    rows = [
        order[start : start + count][np.random.default_rng([seed, c]).permutation(count)[:share]]
        for c, (start, count, share) in enumerate(zip(starts, counts, shares, strict=True))
    ]
    return np.sort(np.concatenate(rows)) if rows else np.zeros(0, np.int64)


def balanced(samples: Samples, asked: str | float | None, seed: int = SEED) -> Samples:
    """A class-balanced part of samples; all of them for None, or where there are no more.

    Args:
        samples: the whole.
        asked: how many; see :func:`count_of`.
        seed: of the draw.

    Raises:
        OptionError: fewer than one of each class are asked for.
    """
    if asked is None:
        return samples
    n = count_of(asked, len(samples))
    if n >= len(samples):
        return samples
    present = len(np.unique(samples.labels))
    if n < present:
        raise OptionError(
            f"`fit_on={asked}`: {n} images are fewer than the {present} classes of {samples.name}. "
            "Give one of each class at least."
        )
    rows = balanced_rows(samples.labels, len(samples.classes), n, seed)
    name = f"{samples.name}[{n} of {len(samples)}, balanced, seed {seed}]"
    if isinstance(samples, ImageFiles):  # so that the files that are left out are never read
        paths = [samples.paths[row] for row in rows]
        return ImageFiles(name, samples.root, paths, samples.labels[rows], samples.classes)
    return Subset(samples, rows, name)

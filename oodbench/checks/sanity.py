"""Whether an ID accuracy can be that of a network that sees what it was trained on.

Images of another size, another normalisation, or classes in another order give figures that look
like those of a poor network. What gives them away: an accuracy near chance, far below that on the
training images, or far below that under another order of the classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from oodbench.data.transforms import MultimodalPreprocess, Preprocess
from oodbench.metrics import proportion_ci
from oodbench.outputs import to_numpy

LEAST = 30
"""Samples from which another order of the classes is looked for."""

LEAST_FOR_CHANCE = 100
"""Samples from which an accuracy near chance is no accident."""

MOST = 4096
"""Classes up to which their order is looked into: all pairs of them are counted."""


def described(preprocess: Any, *, keeps_size: bool = False) -> str:
    """A network's input in one line of words: mode, size, normalisation.

    Args:
        preprocess: from a raw image to the network's input.
        keeps_size: whether the network takes images in their own size all the same.
    """
    if isinstance(preprocess, MultimodalPreprocess):
        parts = (f"{name}: {described(part)}" for name, part in preprocess.parts.items())
        return "; ".join(parts)
    if not isinstance(preprocess, Preprocess):
        text = " ".join(repr(preprocess).split())
        return text if len(text) <= 300 else f"{text[:299]}…"
    size = f"{preprocess.size} x {preprocess.size} pixels"
    if keeps_size:
        size = "images in their own size"
    elif preprocess.resize == "centre":
        size += " (the middle, not resized)"
    elif preprocess.resize == "crop" or preprocess.pre_size not in (None, preprocess.size):
        side = "the short side" if preprocess.resize == "crop" else "both sides"
        size += f" (the middle, after {side} became {preprocess.pre_size or preprocess.size})"
    if preprocess.native is not None:
        size += f" from central squares at {preprocess.native} x {preprocess.native}"
    mean, std = (", ".join(f"{v:.4g}" for v in vs) for vs in (preprocess.mean, preprocess.std))
    return f"{preprocess.mode}, {size}, {preprocess.interpolation}, mean {mean}, std {std}"


def predictions(logits: Tensor) -> np.ndarray:
    """``[N]``: the class of the largest logit of each of ``[N, C]``, piece by piece."""
    rows = max(1, 2**24 // max(logits.shape[1], 1))
    pieces = [to_numpy(logits[i : i + rows].argmax(dim=1)) for i in range(0, len(logits), rows)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """``[C, C]``: how many samples of a class (row) were predicted to be of a class (column)."""
    flat = labels.astype(np.int64) * classes + predicted
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def of_outputs(
    logits: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    input_text: str,
    train_accuracy: float | None = None,
) -> Iterator[str]:
    """What is odd about the accuracy of a network on ID test samples.

    Args:
        logits: ``[N, C]``, or whatever has its largest at the predicted class.
        labels: ``[N]`` in [0, C).
        classes: C names in their order.
        input_text: the network's input in words, as :func:`described` has it.
        train_accuracy: on the training images, where that is known.
    """
    n, c = len(labels), len(classes)
    if n < LEAST or not 2 <= c <= MOST or logits.shape[1] != c:
        return
    predicted, true = predictions(logits), to_numpy(labels)
    half = np.random.default_rng(0).permutation(n) < n // 2
    halves = [confusion(true[part], predicted[part], c) for part in (half, ~half)]
    yield from of_confusion((halves[0], halves[1]), classes, input_text, train_accuracy)


def of_confusion(
    halves: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str],
    input_text: str,
    train_accuracy: float | None = None,
    unit: str = "images",
) -> Iterator[str]:
    """The same of two confusion matrices ``[C, C]``, of a half of the samples each."""
    whole = halves[0] + halves[1]
    n, right = int(whole.sum()), int(whole.trace())
    if n < LEAST:
        return
    accuracy = right / n
    text = f"the ID accuracy is {100 * accuracy:.1f} %"
    moved = other_order(halves) if accuracy < 0.99 else None
    if moved is not None:
        order, reached = moved
        changed = np.flatnonzero(order != np.arange(len(order)))
        pairs = ", ".join(f"{classes[i]!r} as {classes[order[i]]!r}" for i in changed[:3])
        yield (
            f"{text}, and {100 * reached:.1f} % if the classes were in another order: {unit} of "
            f"{pairs}{' …' if len(changed) > 3 else ''} are predicted. Classes are numbered by the "
            "names of their folders in alphabetical order: name them so that this is the order "
            "that the network was trained in. Detectors that use labels are wrong until then."
        )
        return
    if unit != "images" or n < LEAST_FOR_CHANCE:  # most pixels are background: no measure
        return
    advice = (
        f"Look at what it is given ({input_text}: are size, mode, mean and std those of its "
        "training?) and at the order of the classes (folder names in alphabetical order)."
    )
    by_chance = float((whole.sum(axis=0) / n) @ (whole.sum(axis=1) / n))
    kappa = (accuracy - by_chance) / max(1 - by_chance, 1e-12)
    low, high = proportion_ci(right, n)
    if kappa <= 0.05 and low <= 3 * by_chance:
        yield f"{text} on {n:,} {unit} of {len(classes)} classes, which is near chance. {advice}"
    elif train_accuracy is not None and (
        train_accuracy - accuracy >= 0.3 and high <= 0.6 * train_accuracy
    ):
        yield (
            f"{text}, far below the {100 * train_accuracy:.1f} % on the training images. Are the "
            f"test images of another kind, or has it learned the training images by heart? {advice}"
        )


def other_order(halves: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, float] | None:
    """Another order of the classes under which predictions are far better, if there is one.

    The best order is found on each half of the samples and tried on the other, so that nothing is
    gained where there is nothing to find.

    Args:
        halves: confusion matrices ``[C, C]``.

    Returns:
        The class ``[C]`` as which each class is predicted, and the accuracy under that order.
    """
    gained = lost = of_moved = 0
    for fitted, tried in (halves, halves[::-1]):
        rows, order = _matched(fitted)
        moved = order != rows
        gained += int(tried[rows, order][moved].sum())
        lost += int(tried[rows, rows][moved].sum())
        of_moved += int(tried[moved].sum())
    whole = halves[0] + halves[1]
    rows, order = _matched(whole)
    if (order == rows).all() or gained == 0:
        return None
    is_sure = (gained - lost) / np.sqrt(gained + lost) >= 4
    share, lost_share = gained / of_moved, lost / of_moved
    if not is_sure or share < 0.42 or lost_share > 0.3 * share:
        return None
    return order, float(whole[rows, order].sum() / whole.sum())


def _matched(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order with the most hits; where several have as many, classes stay where they are."""
    rows, order = linear_sum_assignment(2 * matrix + np.eye(len(matrix)), maximize=True)
    return rows, order

r"""Agree-to-Disagree (A2D): modalities agree on the true class and are to disagree on the rest.

Paper: H. Dong, Y. Zhao, E. Chatzi, O. Fink, "MultiOOD: Scaling Out-of-Distribution Detection for
Multiple Modalities", NeurIPS 2024. arXiv:2405.17419
Code:  donghao51/MultiOOD @ ab7b221; written anew from the definition

A network has a head on each modality's embedding and one on their concatenation. With
:math:`f^m` the logits of modality m and y the true class,

.. math::
    L = \overline{\mathrm{CE}} - \gamma \, D(\{\sigma(f^m_{\setminus y})\}_m)

:math:`\overline{\mathrm{CE}}` is the mean cross-entropy over the fused head and those of the
modalities, :math:`f^m_{\setminus y}` the logits without the true class
(:func:`without_true_class`), and D the mean distance over all pairs of modalities
(:func:`pairwise_distance`). D is to grow: :func:`a2d_loss` is minus it. :math:`\gamma` is
``a2d_ratio``, as in the reference code.

In Hellinger's distance probabilities are at least 1e-6, as in the reference code: that moves its
value by up to :math:`10^{-3} \sqrt{C / 2}`. ``detectors/_multiood.py`` describes the recipes, and
how the encoders differ from MultiOOD's; ``detectors/a2d_npmix.py`` adds outliers.

Differs from the reference code: (1) Hellinger's distance has a gradient (zero) where two rows are
equal, theirs has NaN; (2) "nearest-row" is called Wasserstein there.
Checked against: the authors' functions on random cases in float64: L1, L2 and nearest-row within
1e-15, gradients too; Hellinger within 1e-7, which is what its constant leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.networks.modalities import MultimodalMethod, MultimodalRecipe
from oodbench.papers import Paper
from oodbench.registry import register_method

from ._multiood import FROZEN, PAPER, QUICK, RECIPE_IDS, WARM
from ._numerics import at_work

MINIMAL_P = 1e-6
"""What the reference code takes for smaller probabilities in Hellinger's distance."""

Modalities = Mapping[str, Tensor] | Sequence[Tensor]
"""One tensor per modality, by name or in order; the order does not matter."""


def without_true_class(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits of all classes but the sample's own, in their order.

    Shape: logits ``[B, C]``, labels ``[B]`` in ``[0, C)`` -> ``[B, C - 1]``.

    Raises:
        ValueError: shapes that do not fit, fewer than two classes, or a label out of range (looked
            for on the CPU only: elsewhere it would halt the device each step).
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"A2D wants logits [B, C] of at least two classes and labels [B], "
            f"not {list(logits.shape)} and {list(labels.shape)}."
        )
    check_labels(labels, logits.shape[1])
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, others + (others >= labels[:, None]).long())


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuses labels outside of ``[0, classes)``, on the CPU; elsewhere the check would wait.

    Raises:
        ValueError: a label is out of range.
    """
    if labels.device.type == "cpu" and labels.numel():
        low, high = (int(end) for end in labels.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(
                f"Labels of {classes} classes are in [0, {classes}), not in [{low}, {high}]."
            )


def hellinger(p: Tensor, q: Tensor) -> Tensor:
    r"""Hellinger's distance of each row, :math:`\frac{1}{\sqrt{2}} \|\sqrt{p} - \sqrt{q}\|_2`.

    Shape: ``[B, K]`` and ``[B, K]`` -> ``[B]``, in [0, 1].
    """
    # torch defines the norm's derivative at zero as zero, where that of a root would be infinite.
    return torch.linalg.vector_norm(p.sqrt() - q.sqrt(), dim=1) / math.sqrt(2)


def _nearest_row(p: Tensor, q: Tensor) -> Tensor:
    # Through products, torch's default for wide rows, near rows would lose half their digits.
    gaps = torch.cdist(p, q, compute_mode="donot_use_mm_for_euclid_dist")  # [B, B']
    return (gaps.amin(dim=1).mean() + gaps.amin(dim=0).mean()) / 2


_KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hellinger": lambda p, q: hellinger(p.clamp(min=MINIMAL_P), q.clamp(min=MINIMAL_P)).mean(),
    "l1": lambda p, q: (p - q).abs().mean(),
    "l2": lambda p, q: (p - q).square().mean(),
    "nearest-row": _nearest_row,
}

DISTANCES = tuple(_KINDS)
"""Names of the distances that a training loss takes between two modalities.

``modality-discrepancy`` scores each sample by distances of the same names, but stats over the
classes and without a smallest probability.
"""


def distance(p: Tensor, q: Tensor, kind: str = "hellinger") -> Tensor:
    r"""Distance between the distributions that two modalities predict, a scalar.

    Args:
        p: rows that sum to one, ``[B, K]``; zeros are allowed.
        q: the same of another modality.
        kind: one of ``DISTANCES``, all of them zero for equal rows. Ranges and reductions are those
            of the reference code, whose weights go with them:

            - ``"hellinger"``: :math:`\frac{1}{B} \sum_b \frac{1}{\sqrt{2}} \|\sqrt{p_b} -
              \sqrt{q_b}\|_2`, in [0, 1];
            - ``"l1"``: :math:`\frac{1}{BK} \sum |p - q|`, in [0, 2 / K];
            - ``"l2"``: :math:`\frac{1}{BK} \sum (p - q)^2`, in [0, 2 / K]: squared;
            - ``"nearest-row"``: :math:`\frac{1}{2B} \sum_b [\min_a \|p_b - q_a\|_2 + \min_a \|q_b -
              p_a\|_2]`, in :math:`[0, \sqrt{2}]`: between the two sets of rows (Chamfer's), so
              that a sample's two rows need not be each other's nearest. The reference code calls
              it Wasserstein.

    Returns:
        The distance in float64 if either is, else in float32. Gradients are finite everywhere;
        where rows are equal they are zero, so that equal predictions stay so.

    Raises:
        OptionError: no such kind.
        ValueError: shapes that differ, or no rows.
    """
    if kind not in _KINDS:
        hint = ' (the reference code\'s Wasserstein is "nearest-row")'
        raise OptionError(
            f"distance is one of {', '.join(DISTANCES)}, not {kind!r}"
            f"{hint if str(kind).lower() == 'wasserstein' else ''}."
        )
    if p.ndim != 2 or p.shape != q.shape or not p.numel():
        raise ValueError(
            f"A distance wants two tensors [B, K] of one shape, "
            f"not {list(p.shape)} and {list(q.shape)}."
        )
    p, q = at_work(p), at_work(q)
    return _KINDS[kind](p, q)


def tensors_of(modalities: Modalities) -> Iterable[Tensor]:
    """The tensors of all modalities, in their order."""
    return modalities.values() if isinstance(modalities, Mapping) else modalities


def pairwise_distance(ps: Modalities, kind: str = "hellinger") -> Tensor:
    """Mean :func:`distance` over all pairs of modalities, a scalar.

    Args:
        ps: two modalities or more, ``[B, K]`` each.
        kind: one of ``DISTANCES``.

    Raises:
        OptionError: no such kind.
        ValueError: fewer than two modalities, or shapes that differ.
    """
    pairs = [distance(p, q, kind) for p, q in combinations(tensors_of(ps), 2)]
    if not pairs:
        raise ValueError("Disagreement needs at least two modalities.")
    return torch.stack(pairs).mean()


def a2d_distance(logits: Modalities, labels: Tensor, kind: str = "hellinger") -> Tensor:
    """How far the modalities disagree on the classes that are not the true one: A2D's term.

    Softmax of each modality's logits without the true class, then :func:`pairwise_distance`. Add it
    to the loss with ``-a2d_ratio``. Both sides of a pair get gradients; the fused head gets none.

    Args:
        logits: ``[B, C]`` for each of two modalities or more.
        labels: ``[B]`` in ``[0, C)``.
        kind: one of ``DISTANCES``.

    Returns:
        A scalar; zero when C is 2, since one class is left.

    Raises:
        OptionError: no such kind.
        ValueError: as of the functions that it calls.
    """
    kept = [without_true_class(values, labels) for values in tensors_of(logits)]
    return pairwise_distance([at_work(values).softmax(dim=1) for values in kept], kind)


def a2d_loss(logits: Modalities, labels: Tensor, distance: str = "hellinger") -> Tensor:
    """What A2D adds to a training loss, before its weight: minus :func:`a2d_distance`.

    Args:
        logits: ``[B, C]`` for each of two modalities or more, by name.
        labels: ``[B]`` in ``[0, C)``.
        distance: one of ``DISTANCES``.
    """
    return -a2d_distance(logits, labels, distance)


@dataclass(frozen=True)
class A2DRecipe(MultimodalRecipe):
    """How A2D is trained; the defaults are MultiOOD's for HMDB51 and UCF101, near-OOD.

    Args:
        distance: one of ``DISTANCES``.
        a2d_ratio: weight of the modalities' disagreement on ID samples; 0 for none.
    """

    distance: str = "hellinger"
    a2d_ratio: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance not in DISTANCES:
            raise OptionError(
                f"recipe: distance is one of {', '.join(DISTANCES)}, not {self.distance!r}."
            )


@register_method("a2d")
class A2D(MultimodalMethod):
    """A2D: the modalities' predictions without the true class are pushed apart."""

    recipe: A2DRecipe
    paper: ClassVar[Paper | None] = PAPER
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": A2DRecipe(**FROZEN),
        "published-epic": A2DRecipe(**FROZEN),
        "published-kinetics": A2DRecipe(**FROZEN, epochs=20),
        "warm": A2DRecipe(**WARM),
        "quick": A2DRecipe(**QUICK),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {
        name: RECIPE_IDS[name]
        for name in ("published", "published-epic", "published-kinetics", "warm")
    }

    def extra_losses(
        self, joined: Tensor, alone: Mapping[str, Tensor], labels: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """Minus :func:`a2d_distance`, with ``a2d_ratio``."""
        if self.recipe.a2d_ratio == 0:
            return {}
        return {"a2d": (self.recipe.a2d_ratio, a2d_loss(alone, labels, self.recipe.distance))}

r"""Agree-to-Disagree and NP-Mix: disagreement of modalities, and outliers mixed between classes.

Paper: H. Dong, Y. Zhao, E. Chatzi, O. Fink, "MultiOOD: Scaling Out-of-Distribution Detection for
Multiple Modalities", NeurIPS 2024. arXiv:2405.17419
Code:  donghao51/MultiOOD @ ab7b221; written anew from the definition

A network has a head on each modality's embedding and one on their concatenation. With
:math:`f^m` the logits of modality m and y the true class,

.. math::
    L = \overline{\mathrm{CE}} - \gamma \, D(\{\sigma(f^m_{\setminus y})\}_m)
        - \gamma_1 \, \overline{H}(\{f^m(\tilde z)\}_m) - \gamma_2 \, D(\{\sigma(f^m(\tilde z))\}_m)

:math:`\overline{\mathrm{CE}}` is the mean cross-entropy over the fused head and those of the
modalities. The second term is A2D (:func:`a2d_distance`): on ID samples the modalities agree on the
true class and are to disagree on the rest. The last two belong to NP-Mix: on outliers
:math:`\tilde z` (:meth:`NPMix.mix`) each modality is to be unsure
(:func:`outlier_entropy`), and all of them to disagree (:func:`outlier_distance`). What these
functions return is to grow: whoever trains subtracts it. The weights are called ``a2d_ratio``,
``ood_entropy_ratio`` and ``a2d_ratio_ood`` in the reference code.

NP-Mix keeps the latest fused embeddings of every class. Once all queues are full, class c draws a
partner c' among its two nearest other class means, and

.. math::
    \tilde z_c = \lambda_c z + (1 - \lambda_c) z', \quad \lambda_c \sim
    \mathrm{Beta}(\alpha, \alpha), \; z \sim Q_c, \; z' \sim Q_{c'}

In Hellinger's distance probabilities are at least 1e-6, as in the reference code: that moves its
value by up to :math:`10^{-3} \sqrt{C / 2}`.

Recipes ``published*`` are those of MultiOOD's README by ID set: Adam 1e-4, weight decay 1e-4, batch
16 without an epoch's last incomplete one, dropout 0.5 on the embeddings of video and flow in
training (all heads see them so, and the queues of NP-Mix hold them so), the last stage of
pre-trained encoders, and the weights of the epoch with the best joint accuracy on the ID validation
split, the latest of equal ones.

Recipe ``warm`` is that order of things for encoders which nobody has pre-trained, as those of
avdigits, whose default it is: first ``multimodal-ce`` trains them (recipe ``quick``, once for all
methods), then the same settings for 20 epochs, as EPIC-Kitchens has, with new heads and the last
stage alone, every embedding dropped. Ratios are those of HMDB51 and UCF101: 1.0 for A2D, 0.5 each
with NP-Mix, whose outliers come from epoch 10. Of ``multimodal-ce`` it trains the single
predictions too, which the published baseline does not, since there would be nothing to compare the
modalities' disagreement with. Recipe ``quick`` is ours: from scratch, no dropout, the last weights.

Differs from the reference code: (1) Hellinger's distance has a gradient (zero) where two rows are
equal, theirs has NaN; (2) the entropy comes from log-softmax, theirs adds 1e-9 within the
logarithm; (3) a queue always holds a class's latest embeddings. Theirs holds the first ones until
the queues of all classes are full, and the batch that fills the last is not used yet; (4) a class
is never its own partner, and two classes are each other's; theirs takes the second and third of a
search that begins with the class itself where no means coincide, and fails with two classes; (5)
torch draws, theirs NumPy; (6) video: R(2+1)D-18, trained on Kinetics-400 in clips of 16 frames at
112 px, embeddings of 512; theirs SlowFast-R101 8x8, trained on Kinetics-400 in 32 frames at 224 px,
2,304. In MultiOOD both see 32 frames at 224 px, with ImageNet's moments, where R(2+1)D was trained
with Kinetics' (mean 0.432, 0.395, 0.376); (7) flow: that network's RGB weights, averaged over the
channels of the first convolution, 512; theirs SlowOnly-R50 8x8, trained on Kinetics-400's flow,
2,048; (8) audio: ResNet-18 with ImageNet's weights, 512, all of them; theirs VGGSound's ResNet-18
(AVENet), 512, whose first three stages are VGGSound's and whose last begins at random, since its
weights are looked up by names that the file does not have. "nearest-row" is called Wasserstein
there.
Checked against: the authors' functions on random cases in float64: L1, L2 and nearest-row within
1e-15, gradients too; Hellinger and entropy within 1e-7, which is what their constants leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.detector import Paper
from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.networks import clips as _clips  # noqa: F401  (registers backbones)
from oodbench.networks.modalities import MultimodalEncoders, MultimodalMethod, MultimodalRecipe
from oodbench.registry import register_method

from ._numerics import at_work, precise

MINIMAL_P = 1e-6

PAPER = Paper(
    title="MultiOOD: Scaling Out-of-Distribution Detection for Multiple Modalities",
    authors="Dong, Hao and Zhao, Yue and Chatzi, Eleni and Fink, Olga",
    venue="NeurIPS",
    year=2024,
    url="https://arxiv.org/abs/2405.17419",
    formula="L = CE - a2d_ratio D(p_video, p_flow) - ood_entropy_ratio H(p~) - a2d_ratio_ood D(p~)",
)

Modalities = Mapping[str, Tensor] | Sequence[Tensor]
"""One tensor a modality, by name or in order; the order does not matter."""


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
    _check_range(labels, logits.shape[1])
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, others + (others >= labels[:, None]).long())


def _check_range(labels: Tensor, classes: int) -> None:
    if labels.device.type == "cpu" and labels.numel():
        low, high = (int(end) for end in labels.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(
                f"Labels of {classes} classes are in [0, {classes}), not in [{low}, {high}]."
            )


def _hellinger(p: Tensor, q: Tensor) -> Tensor:
    p, q = (values.clamp(min=MINIMAL_P).sqrt() for values in (p, q))
    # the norm's derivative at zero is zero in torch, where that of a root would be infinite
    return (torch.linalg.vector_norm(p - q, dim=1) / math.sqrt(2)).mean()


def _nearest_row(p: Tensor, q: Tensor) -> Tensor:
    # Through products, torch's default for wide rows, near rows would lose half their digits.
    gaps = torch.cdist(p, q, compute_mode="donot_use_mm_for_euclid_dist")  # [B, B']
    return (gaps.amin(dim=1).mean() + gaps.amin(dim=0).mean()) / 2


_KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hellinger": _hellinger,
    "l1": lambda p, q: (p - q).abs().mean(),
    "l2": lambda p, q: (p - q).square().mean(),
    "nearest-row": _nearest_row,
}

DISTANCES = tuple(_KINDS)
"""Names of the distances between the distributions of two modalities."""


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
              that a sample's two rows need not be each other's nearest.

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


def pairwise_distance(ps: Modalities, kind: str = "hellinger") -> Tensor:
    """Mean :func:`distance` over all pairs of modalities, a scalar.

    Args:
        ps: two modalities or more, ``[B, K]`` each.
        kind: one of ``DISTANCES``.

    Raises:
        OptionError: no such kind.
        ValueError: fewer than two modalities, or shapes that differ.
    """
    pairs = [distance(p, q, kind) for p, q in combinations(_values(ps), 2)]
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
    kept = [without_true_class(values, labels) for values in _values(logits)]
    return pairwise_distance([at_work(values).softmax(dim=1) for values in kept], kind)


def a2d_loss(logits: Modalities, labels: Tensor, distance: str = "hellinger") -> Tensor:
    """What A2D adds to a training loss, before its weight: minus :func:`a2d_distance`.

    Args:
        logits: ``[B, C]`` for each of two modalities or more, by name.
        labels: ``[B]`` in ``[0, C)``.
        distance: one of ``DISTANCES``.
    """
    return -a2d_distance(logits, labels, distance)


def outlier_distance(logits: Modalities, kind: str = "hellinger") -> Tensor:
    """How far the modalities disagree on outliers, which have no true class: all classes count.

    Args:
        logits: ``[N, C]`` for each of two modalities or more.
        kind: one of ``DISTANCES``.

    Returns:
        A scalar, for the loss with ``-a2d_ratio_ood``.

    Raises:
        OptionError: no such kind.
        ValueError: as of :func:`pairwise_distance`.
    """
    return pairwise_distance([at_work(values).softmax(dim=1) for values in _values(logits)], kind)


def outlier_entropy(logits: Modalities) -> Tensor:
    r"""Normalised entropy of the predictions, mean over rows and modalities.

    :math:`-\frac{1}{\log C} \sum_c p_c \log p_c` with :math:`\log p` from log-softmax, so that
    neither it nor its gradient is lost where a probability vanishes.

    Args:
        logits: ``[N, C]`` for each of one modality or more, finite.

    Returns:
        A scalar in [0, 1] (up to rounding), for the loss with ``-ood_entropy_ratio``.

    Raises:
        ValueError: no modality, no row, or fewer than two classes.
    """
    entropies = []
    for values in _values(logits):
        if values.ndim != 2 or values.shape[1] < 2 or not len(values):
            raise ValueError(
                f"Entropy wants logits [N, C] of at least two classes, not {list(values.shape)}."
            )
        log_p = at_work(values).log_softmax(dim=1)
        entropy = -(log_p.exp() * log_p).sum(dim=1)
        entropies.append((entropy / math.log(values.shape[1])).mean())
    if not entropies:
        raise ValueError("Entropy needs at least one modality.")
    return torch.stack(entropies).mean()


def _values(modalities: Modalities) -> Iterable[Tensor]:
    return modalities.values() if isinstance(modalities, Mapping) else modalities


class NPMix(nn.Module):
    """The latest embeddings of every class, their means, and outliers mixed from them: NP-Mix.

    With several processes every one has to push the same batch, gathered from all, and to mix with
    a generator in the same state; then all hold the same queues and outliers. (The buffers take
    C x L x D values, also in each checkpoint: 260 MB for 229 classes of 65 x 4,352. There is no
    need for DistributedDataParallel to broadcast them each step.)

    A mean is summed anew from its queue whenever a sample entered it, hence no rounding is carried
    over from samples that left. Means and the products between them are kept, and only those of
    classes that changed are taken again: a step costs O(n (L + C) D), not O(C (L + C) D). Products
    are in float64 where there is such, since they are subtracted.

    Args:
        num_classes: C, at least 2.
        feature_dims: D of the fused embedding, or that of each modality, whose sum is D.
        queue_size: L, samples that a queue holds: 65 in the paper; 150 for EPIC-Kitchens with
            audio.
        neighbours: how many of the nearest classes a partner is drawn from, at most C - 1.
        beta: alpha of Beta(alpha, alpha), above 1/2: outliers lie between classes, not in them.

    Attributes:
        samples: ``[C, L, D]``, each queue a ring.
        counts: how much of it is filled, ``[C]``.
        heads: where the class's next sample goes, ``[C]``; in a full queue the oldest is there.

    Raises:
        OptionError: a value out of range.
    """

    samples: Tensor
    counts: Tensor
    heads: Tensor

    def __init__(
        self,
        num_classes: int,
        feature_dims: int | Sequence[int] | Mapping[str, int],
        queue_size: int = 65,
        neighbours: int = 2,
        beta: float = 10.0,
    ) -> None:
        super().__init__()
        if not isinstance(feature_dims, int):
            widths = feature_dims.values() if isinstance(feature_dims, Mapping) else feature_dims
            feature_dims = sum(widths)
        for name, value, low in (
            ("num_classes", num_classes, 2),
            ("feature_dims", feature_dims, 1),
            ("queue_size", queue_size, 1),
            ("neighbours", neighbours, 1),
        ):
            if value < low:
                why = ": it mixes different classes" if name == "num_classes" else ""
                raise OptionError(f"NP-Mix: {name} must be at least {low}, not {value}{why}.")
        if not 0.5 < beta < math.inf:
            raise OptionError(f"NP-Mix: beta must be above 0.5, not {beta}.")
        self.neighbours, self.beta = neighbours, beta
        self.classes, self.dim, self.length = num_classes, feature_dims, queue_size
        classes, dim, length = num_classes, feature_dims, queue_size
        self.register_buffer("samples", torch.zeros(classes, length, dim))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("heads", torch.zeros(classes, dtype=torch.int64))
        self._forget()

    def _forget(self) -> None:
        """All that is known of the buffers beside themselves."""
        self._full = False
        self._kept: tuple[Tensor, Tensor] | None = None  # means [C, D], their products [C, C]
        self._changed: list[Tensor] = []  # labels pushed since

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._forget()  # the module moves to another device or precision
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._forget()

    def extra_repr(self) -> str:
        """Sizes."""
        return f"classes={self.classes}, dim={self.dim}, length={self.length}"

    @property
    def full(self) -> bool:
        """Whether every queue is full: from then on for good, so the device is asked no more."""
        if not self._full:
            self._full = bool((self.counts == self.length).all())
        return self._full

    @torch.no_grad()
    def push(self, embeddings: Tensor, labels: Tensor) -> None:
        """Put a batch into the queues of its classes, first row first; the oldest samples leave.

        Of more samples of a class than its queue is long, the last ones stay. Nothing here waits
        for the device.

        Args:
            embeddings: ``[n, D]``, finite; detached, and rounded to the queues' precision.
            labels: ``[n]`` in ``[0, C)``.

        Raises:
            ValueError: shapes that do not fit, or a label out of range (looked for on the CPU
                only).
        """
        if embeddings.shape != (len(labels), self.dim) or labels.ndim != 1:
            raise ValueError(
                f"NPMix wants embeddings [n, {self.dim}] and labels [n], "
                f"not {list(embeddings.shape)} and {list(labels.shape)}."
            )
        if not len(labels):
            return
        _check_range(labels, self.classes)
        labels = labels.to(self.heads)
        order = labels.argsort(stable=True)
        y = labels[order]
        first, end = torch.searchsorted(y, y), torch.searchsorted(y, y, right=True)
        here = torch.arange(len(y), device=y.device)
        # Rows that go to the same place all bring what the last of them brings: no row has to be
        # left out, and it does not matter in which order they are written.
        bring = here + (end - 1 - here) // self.length * self.length
        head = self.heads.index_select(0, y)
        place = y * self.length + (head + here - first) % self.length
        rows = embeddings.detach()[order[bring]].to(self.samples)
        self.samples.view(-1, self.dim).index_copy_(0, place, rows)
        pushed = end - first
        count = self.counts.index_select(0, y) + pushed
        self.counts.index_copy_(0, y, count.clamp(max=self.length))
        self.heads.index_copy_(0, y, (head + pushed) % self.length)
        self._changed.append(y)
        if sum(map(len, self._changed)) >= self.classes:  # as well look at all of them
            self._kept, self._changed = None, []

    @torch.no_grad()
    def prototypes(self) -> Tensor:
        """The mean of each queue, ``[C, D]``.

        Raises:
            RuntimeError: the queues are not full yet.
        """
        return self._moments()[0].to(self.samples, copy=True)

    @torch.no_grad()
    def mix(self, generator: torch.Generator | None = None) -> Tensor:
        r"""One outlier a class, between a sample of it and one of a near class.

        :math:`\tilde z_c = \lambda_c z + (1 - \lambda_c) z'`: z from the queue of c, z' from that
        of a class drawn among the nearest by Euclidean distance of the means, :math:`\lambda_c`
        from Beta(alpha, alpha). All draws are uniform and independent.

        Args:
            generator: of the draws, on its own device: one on the CPU gives the same draws
                whatever the queues are on. Default: torch's on the CPU.

        Returns:
            ``[C, D]``, constants, in the queues' precision; row c starts from class c.

        Raises:
            RuntimeError: the queues are not full yet.
        """
        nearest = self._nearest(min(self.neighbours, self.classes - 1))  # [C, k]
        where = torch.device("cpu") if generator is None else generator.device

        def draw(below: int) -> Tensor:
            chosen = torch.randint(below, (self.classes, 1), generator=generator, device=where)
            return chosen.to(nearest.device)

        partner = nearest.gather(1, draw(nearest.shape[1]))
        own = torch.arange(self.classes, device=nearest.device)[:, None]
        z, other = (self._row(c * self.length + draw(self.length)) for c in (own, partner))
        share = _symmetric_beta(self.beta, self.classes, generator, where).to(z)
        return other.lerp_(z, share[:, None]).to(self.samples)

    def _row(self, places: Tensor) -> Tensor:
        return at_work(self.samples.view(-1, self.dim).index_select(0, places[:, 0]))

    def _nearest(self, k: int) -> Tensor:
        """The k nearest other classes of each, ``[C, k]``."""
        products = self._moments()[1]
        norms = products.diagonal()
        squared = norms[:, None] + norms - 2 * products
        return squared.fill_diagonal_(math.inf).topk(k, dim=1, largest=False).indices

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Means ``[C, D]`` of the queues, and the products ``[C, C]`` between them."""
        if not self.full:
            raise RuntimeError("NPMix: not all queues are full; see `full`.")
        device = self.samples.device
        with torch.autocast(device.type, enabled=False):
            if self._kept is None:
                means = self._means(torch.arange(self.classes, device=device))
                self._kept = means, means @ means.T
            elif self._changed:
                means, products = self._kept
                classes = torch.cat(self._changed)
                changed = self._means(classes)
                means[classes] = changed
                rows = changed @ means.T
                products[classes], products[:, classes] = rows, rows.T
        self._changed = []
        return self._kept

    def _means(self, classes: Tensor) -> Tensor:
        if self.samples.device.type == "cpu":
            # a bag sums its rows where they lie; indexing would first copy them, at twice the cost
            rows = classes[:, None] * self.length + torch.arange(self.length)
            means = F.embedding_bag(rows, self.samples.view(-1, self.dim), mode="mean")
        else:  # where copies are cheap, and bags not always at hand
            means = at_work(self.samples[classes]).mean(dim=1)
        return means.to(precise(means.device))


def _symmetric_beta(
    alpha: float, n: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    r"""``n`` draws from Beta(alpha, alpha), alpha > 1/2; torch's own takes no generator.

    :math:`\frac{1}{2} (1 + \sqrt{1 - u^{2 / (2 \alpha - 1)}} \cos 2 \pi v)` with u and v uniform:
    one coordinate of a point on the unit sphere in :math:`2 \alpha + 1` dimensions (G. Ulrich,
    "Computer generation of distributions on the m-sphere", Applied Statistics 33, 1984; Devroye,
    "Non-Uniform Random Variate Generation", 1986, ch. IX.4).
    """
    u, v = torch.rand(2, n, generator=generator, device=device)
    radius = (1 - u ** (2 / (2 * alpha - 1))).sqrt()
    return 0.5 + 0.5 * radius * (2 * math.pi * v).cos()


# --- training --------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class NPMixRecipe(A2DRecipe):
    """How NP-Mix is trained; the defaults are MultiOOD's for HMDB51 and UCF101, near-OOD.

    Args:
        a2d_ratio_ood: weight of the modalities' disagreement on outliers.
        ood_entropy_ratio: weight of their entropy there.
        start_epoch: first epoch with outliers, if the queues are full by then.
        queue_size: embeddings kept of a class.
        neighbours: nearest classes that a partner is drawn from.
        beta: of the Beta distribution of mixtures.
    """

    a2d_ratio: float = 0.5
    a2d_ratio_ood: float = 0.5
    ood_entropy_ratio: float = 0.5
    start_epoch: int = 10
    queue_size: int = 65
    neighbours: int = 2
    beta: float = 10.0


QUICK: Mapping[str, Any] = {
    "epochs": 20,
    "batch_size": 64,
    "lr": 1e-3,
    "dropout": 0.0,
    "keep": "last",
}
"""From scratch, in a minute."""

WARM: Mapping[str, Any] = {"epochs": 20, "frozen": True, "start_from": "multimodal-ce/quick"}
"""The published order of things for encoders that nobody has pre-trained."""

FROZEN: Mapping[str, Any] = {"backbone": "clips-r2plus1d-18-kinetics", "frozen": True}
"""Pre-trained encoders of which the last stage is trained. MultiOOD's are SlowFast and SlowOnly."""

HEARD: Mapping[str, Any] = {**FROZEN, "undropped": ("audio",)}
"""Of three modalities; MultiOOD's audio network has no dropout."""

HALF: Mapping[str, Any] = {"a2d_ratio": 0.5, "a2d_ratio_ood": 0.5, "ood_entropy_ratio": 0.5}
TENTH: Mapping[str, Any] = {"a2d_ratio": 0.1, "a2d_ratio_ood": 0.1, "ood_entropy_ratio": 0.1}

RECIPE_IDS: Mapping[str, tuple[str, ...]] = {
    "published": ("multiood-hmdb51-25", "multiood-ucf101-50"),
    "published-epic": ("multiood-epic-0-3",),
    "published-epic-audio": ("multiood-epic-0-3-audio",),
    "published-kinetics": ("multiood-kinetics600-129",),
    "published-kinetics-audio": ("multiood-kinetics600-129-audio",),
    "published-hmdb-far": ("multiood-hmdb51",),
    "published-kinetics-far": ("multiood-kinetics600",),
    "warm": ("avdigits",),
}
"""Recipes of MultiOOD's README and ``warm``, by ID set; a method has those that it gives for it."""


@register_method("multimodal-ce")
class MultimodalCE(MultimodalMethod):
    """Cross-entropy: of the joint prediction alone with ``single=False``, as MultiOOD's baseline.

    Else the mean over it and each modality's, without which ``modality-discrepancy`` and
    ``--modality`` have nothing to score.
    """

    paper: ClassVar[Paper | None] = PAPER
    trains_single: ClassVar[tuple[str, ...]] = ("a2d", "npmix", "a2d-npmix")
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": MultimodalRecipe(**FROZEN, single=False),
        "published-epic": MultimodalRecipe(**FROZEN, single=False, epochs=20),
        "published-epic-audio": MultimodalRecipe(**HEARD, single=False, epochs=20),
        "published-kinetics": MultimodalRecipe(**FROZEN, single=False, epochs=20),
        "published-kinetics-audio": MultimodalRecipe(**HEARD, single=False, epochs=20),
        "published-hmdb-far": MultimodalRecipe(**FROZEN, single=False),
        "published-kinetics-far": MultimodalRecipe(**FROZEN, single=False, epochs=10),
        "warm": MultimodalRecipe(**WARM),
        "quick": MultimodalRecipe(**QUICK),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = RECIPE_IDS


@register_method("a2d")
class A2D(MultimodalMethod):
    """Agree-to-Disagree: the modalities' predictions without the true class are pushed apart."""

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
        recipe = cast(A2DRecipe, self.recipe)
        if recipe.a2d_ratio == 0:
            return {}
        return {"a2d": (recipe.a2d_ratio, a2d_loss(alone, labels, recipe.distance))}


@register_method("a2d-npmix")
class A2DNPMix(A2D):
    """A2D, and outliers mixed between classes on which the modalities are to be unsure."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": NPMixRecipe(**FROZEN, **HALF),
        "published-epic": NPMixRecipe(**FROZEN, **TENTH, epochs=20),
        "published-epic-audio": NPMixRecipe(**HEARD, **HALF, epochs=20, queue_size=150),
        "published-kinetics": NPMixRecipe(**FROZEN, **TENTH, epochs=20),
        "published-kinetics-audio": NPMixRecipe(**HEARD, **HALF, epochs=20),
        "published-hmdb-far": NPMixRecipe(**FROZEN, **TENTH),
        "published-kinetics-far": NPMixRecipe(**FROZEN, **TENTH, epochs=10, start_epoch=3),
        "warm": NPMixRecipe(**WARM, **HALF),
        "quick": NPMixRecipe(**QUICK, start_epoch=5),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = RECIPE_IDS

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: NPMixRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        dims = cast(MultimodalEncoders, backbone).dims
        self.queues = NPMix(num_classes, dims, recipe.queue_size, recipe.neighbours, recipe.beta)

    def extra_losses(
        self, joined: Tensor, alone: Mapping[str, Tensor], labels: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """A2D's term, and on outliers minus entropy and minus disagreement."""
        recipe = cast(NPMixRecipe, self.recipe)
        losses = super().extra_losses(joined, alone, labels)
        self.queues.push(*self._of_all_processes(joined.detach(), labels))
        if self.current_epoch < recipe.start_epoch or not self.queues.full:
            return losses
        # the same on all processes, and in a run that was killed and goes on
        seed = (torch.initial_seed() + 1_000_003 * self.global_step) % 2**63
        generator = torch.Generator().manual_seed(seed)
        outliers = self.queues.mix(generator)
        found = self.heads.alone_of(outliers.to(joined))
        losses["outlier-entropy"] = (recipe.ood_entropy_ratio, -outlier_entropy(found))
        losses["outlier-a2d"] = (
            recipe.a2d_ratio_ood,
            -outlier_distance(found, recipe.distance),
        )
        return losses

    def _of_all_processes(self, joined: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and labels of all processes, in the order that one process would have."""
        if self.trainer.world_size == 1:
            return joined, labels
        everyone = cast(Tensor, self.all_gather(joined)).transpose(0, 1).flatten(0, 1)
        return everyone, cast(Tensor, self.all_gather(labels)).T.flatten()


@register_method("npmix")
class NPMixMethod(A2DNPMix):
    """Outliers mixed between classes, without A2D on ID samples."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "warm": NPMixRecipe(**WARM, a2d_ratio=0.0),
        "quick": NPMixRecipe(**QUICK, start_epoch=5, a2d_ratio=0.0),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"warm": RECIPE_IDS["warm"]}

r"""NP-Mix: outliers mixed between each class and a near one, on which modalities should be unsure.

Paper: H. Dong, Y. Zhao, E. Chatzi, O. Fink, "MultiOOD: Scaling Out-of-Distribution Detection for
Multiple Modalities", NeurIPS 2024. arXiv:2405.17419
Code:  donghao51/MultiOOD @ ab7b221; written anew from the definition

NP-Mix keeps the latest fused embeddings of every class c in a queue :math:`Q_c`. Once all queues
are full, class c draws a partner c' among its two nearest other class means, and

.. math::
    \tilde z_c = \lambda_c z + (1 - \lambda_c) z', \quad \lambda_c \sim
    \mathrm{Beta}(\alpha, \alpha), \; z \sim Q_c, \; z' \sim Q_{c'}

On outliers :math:`\tilde z` (:meth:`NPMix.mix`) each modality is to be unsure, and all of them are
to disagree. With :math:`f^m(\tilde z)` the logits of modality m on its part of the outlier,

.. math::
    L = \overline{\mathrm{CE}} - \gamma_1 \, \overline{H}(\{f^m(\tilde z)\}_m)
        - \gamma_2 \, D(\{\sigma(f^m(\tilde z))\}_m)

with :func:`outlier_entropy` as H and :func:`outlier_distance` as D. :math:`\gamma_1` and
:math:`\gamma_2` are ``ood_entropy_ratio`` and ``a2d_ratio_ood``, as in the reference code. The
method ``npmix`` trains with these terms alone; ``a2d-npmix`` adds A2D's, as the paper does.
``detectors/_multiood.py`` describes the recipes, and how the encoders differ from MultiOOD's.

Differs from the reference code: (1) the entropy comes from log-softmax, theirs adds 1e-9 within the
logarithm; (2) a queue always holds a class's latest embeddings. Theirs holds the first ones until
the queues of all classes are full, and the batch that fills the last is not used yet; (3) a class
is never its own partner, and two classes are each other's; theirs takes the second and third of a
search that begins with the class itself where no means coincide, and fails with two classes; (4)
torch draws, theirs NumPy.
Checked against: the authors' entropy on random cases in float64, within 1e-7, which is what their
constant leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.networks.modalities import MultimodalEncoders
from oodbench.registry import register_method

from ._multiood import QUICK, RECIPE_IDS, WARM
from ._numerics import at_work, precise
from .a2d import A2D, A2DRecipe, Modalities, check_labels, pairwise_distance, tensors_of


class NPMix(nn.Module):
    """The latest embeddings of every class, their means, and outliers mixed from them: NP-Mix.

    With several processes every one has to push the same batch, gathered from all, and to mix with
    a generator in the same state; then all hold the same queues and outliers. (The buffers take
    C x L x D values, also in each checkpoint: 260 MB for 229 classes of 65 x 4,352. There is no
    need for DistributedDataParallel to broadcast them each step.)

    A mean is stats anew from its queue whenever a sample entered it, hence no rounding is carried
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
        """Drop all that was computed from the buffers."""
        self._full = False
        self._kept: tuple[Tensor, Tensor] | None = None  # means [C, D], their products [C, C]
        self._changed: list[Tensor] = []  # labels pushed since

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._forget()  # since the module moves to another device or precision
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._forget()

    def extra_repr(self) -> str:
        """Settings, so that they are part of a network's content key."""
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
        check_labels(labels, self.classes)
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
        # Once that many samples came in, summing all queues anew costs no more than these.
        if sum(map(len, self._changed)) >= self.classes:
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
        r"""One outlier per class, between a sample of it and one of a near class.

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
            # A bag sums its rows where they lie; indexing would first copy them, at twice the cost.
            rows = classes[:, None] * self.length + torch.arange(self.length)
            means = F.embedding_bag(rows, self.samples.view(-1, self.dim), mode="mean")
        else:  # Copies are cheap here, and bags do not exist on every device.
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
    return pairwise_distance(
        [at_work(values).softmax(dim=1) for values in tensors_of(logits)], kind
    )


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
    for values in tensors_of(logits):
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


@register_method("npmix")
class NPMixMethod(A2D):
    """NP-Mix: outliers mixed between classes, on which the modalities should be unsure."""

    recipe: NPMixRecipe
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "warm": NPMixRecipe(**WARM, a2d_ratio=0.0),
        "quick": NPMixRecipe(**QUICK, start_epoch=5, a2d_ratio=0.0),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"warm": RECIPE_IDS["warm"]}

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: NPMixRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        dims = cast(MultimodalEncoders, backbone).dims
        self.queues = NPMix(num_classes, dims, recipe.queue_size, recipe.neighbours, recipe.beta)

    def extra_losses(
        self, joined: Tensor, alone: Mapping[str, Tensor], labels: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """A2D's term, and on outliers minus entropy and minus disagreement.

        Outliers come from ``start_epoch`` on, once all queues are full.
        """
        recipe = self.recipe
        losses = super().extra_losses(joined, alone, labels)
        self.queues.push(*self._of_all_processes(joined.detach(), labels))
        if self.current_epoch < recipe.start_epoch or not self.queues.full:
            return losses
        # This seed is the same on all processes, and in a run that was killed and goes on.
        seed = (torch.initial_seed() + 1_000_003 * self.global_step) % 2**63
        generator = torch.Generator().manual_seed(seed)
        outliers = self.queues.mix(generator)
        logits = self.heads.alone_of(outliers.to(joined))
        losses["outlier-entropy"] = recipe.ood_entropy_ratio, -outlier_entropy(logits)
        losses["outlier-a2d"] = recipe.a2d_ratio_ood, -outlier_distance(logits, recipe.distance)
        return losses

    def _of_all_processes(self, joined: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and labels of all processes, in the order that one process would have."""
        if self.trainer.world_size == 1:
            return joined, labels
        everyone = cast(Tensor, self.all_gather(joined)).transpose(0, 1).flatten(0, 1)
        return everyone, cast(Tensor, self.all_gather(labels)).T.flatten()

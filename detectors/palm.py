r"""PALM: a mixture of prototypes for each class, learned by assignment, EMA and contrast.

Paper: H. Lu, D. Gong, S. Wang, J. Xue, L. Yao, K. Moore, "Learning with Mixture of Prototypes for
Out-of-Distribution Detection", ICLR 2024. arXiv:2402.02653
Code:  jeff024/PALM @ eecb59a; written anew from the definition

K prototypes per class; prototype j belongs to class j mod C. Embeddings :math:`z` and prototypes
:math:`p` are unit vectors. One call of the loss:

(a) assignment of the whole batch to all prototypes by Sinkhorn-Knopp, no class mask:
    :math:`Q_{ij} \propto \exp(z_i^\top p_j / \varepsilon)`, three rounds, each normalising per
    prototype and then per sample;
(b) prototypes move: masked to the sample's class and pruned to its top k, Q is normalised per
    sample and then per prototype, and :math:`p_j \leftarrow \mathrm{norm}(\alpha p_j + (1 - \alpha)
    \sum_i w_{ij} z_i)`;
(c) assignment again with the moved prototypes, the same k kept, weights normalised per sample:
    :math:`L_{MLE} = -\frac{1}{N} \sum_i [\sum_j w'_{ij} z_i^\top p_j / \tau - \log \sum_j
    \exp(z_i^\top p_j / \tau)]`, prototypes constant;
(d) contrast between prototypes: :math:`L_{con} = -\frac{1}{KC} \sum_j [\overline{p_j^\top p_{j'} /
    0.5} - \log \sum_{m \ne j} \exp(p_j^\top p_m / 0.5)]`, the mean over the other prototypes of the
    class. Its only way to the network is this batch's step (b), so the prototypes are detached
    after it, not before.

The score is one Gaussian over all ID training data, in the SSD+ form: features before the
projection, L2-normalised, standardised by the training features' mean and deviation;
:math:`s(x) = u^\top \Sigma^{+} u`.

Recipe ``published`` is the authors' for CIFAR-100, the only set that their script trains on.
``openood`` and ``openood-cifar100`` are those of their contribution to OpenOOD v1.5, which its
figures are of: ResNet-18, 100 epochs, weight decay 1e-4; CIFAR-10 with 16 images per step, rate 0.1
and alpha 0.9, CIFAR-100 with 512, 0.5 and 0.999. CIFAR-10's default is ``openood``.

Differs from the reference code: (1) the loss runs in the log domain and at least in float32; theirs
takes similarities, and the mean that moves a prototype, in half precision (similarities over
epsilon are off by up to 0.013, those over tau by 0.006); (2) the score subtracts the training mean
once (theirs once more, un-standardised: ``centring="paper"``); (3) unlabelled data:
``labels=None``, our reading of the paper's Table 2, which is not in their code; fine-tuning a
pre-trained network's last stage on ImageNet-100, as their ``--fine_tune`` does, is not here; (4)
class logits, for the ID accuracy: :math:`\log \sum_{j \in c} \exp(z^\top p_j / \tau)`, the class
posterior of the paper's mixture up to a constant; theirs has none; (5) with several processes the
loss sees the whole batch, gathered with gradients; the reference code runs on one GPU; (6) the last
checkpoint is kept, theirs is the one of the lowest training loss; (7) step i is made at the rate
lr(i), so the first at 0; theirs sets lr(i) after step i, so the first is made at the full 0.5, the
second at 0 (unless its loss scale skips the first), and step i at lr(i - 1); (8) the network is
trained in single precision, theirs in half precision with a scaled loss (here: ``--precision
16-mixed``, for the network, not for (1)); (9) CIFAR-10 is divided by the deviations 0.2470, 0.2435,
0.2616 of its pixels, as in OpenOOD; theirs by 0.2023, 0.1994, 0.2010 (CIFAR-100's are the same);
(10) the random seed is 0, theirs 1; directions of less than 1e-13 of the largest variance do not
count in the pseudo-inverse, theirs 1e-15, which matters only where features have collapsed.

Recipes ``openood*`` differ from OpenOOD's code, besides (1) and (3) to (6) (the checkpoint there is
that of the lowest running mean, 0.8 old and 0.2 new, over an epoch's last steps), in that (11) the
rate rises from 0 to lr in 10 epochs and falls with every step along a cosine over the other 90;
theirs is 0.001 + (0.976 lr - 0.001) (e - 1) / 10 after e epochs for the first 11 of them, set each
step, so below zero, uphill, for most of the first, and then a cosine over all 100, set once an
epoch; (12) convolutions start from normal weights of variance 2 / fan-out, theirs from uniform ones
of variance 1 / (3 fan-in); (13) the score is the one above, theirs MDS on the L2-normalised
features: the distance to the nearest class mean under one covariance.
Checked against: a run of the authors' loss on random cases, loss, prototypes and gradients within
1e-6 in float64 over three consecutive calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.options import check_choices
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector, register_method

from ._contrastive import ContrastiveMethod, ContrastiveRecipe
from ._covariance import Shrinkage, precision
from ._numerics import Moments, in_blocks, moments, normalize, squared_mahalanobis

SINKHORN_ITERATIONS = 3
CONTRASTIVE_TEMPERATURE = 0.5
MINIMAL_MASS = 1e-12
"""What the reference code divides by where a sum of assignments is smaller still."""

PAPER = Paper(
    title="Learning with Mixture of Prototypes for Out-of-Distribution Detection",
    authors="Lu, Haodong and Gong, Dong and Wang, Shuo and Xue, Jason and Yao, Lina and "
    "Moore, Kristen",
    venue="ICLR",
    year=2024,
    url="https://arxiv.org/abs/2402.02653",
    formula="s(x) = u^T S^+ u, u the standardised L2-normalised penultimate feature, "
    "S the covariance of all ID training data",
    figures=(
        "Table 1, ResNet-34, CIFAR-100, mean of 5 sets: AUROC 93.82, FPR@95 (ID positive) 28.02",
        "Table 2, the same without labels: AUROC 88.07, FPR@95 (ID positive) 43.37",
        "OpenOOD v1.5, ResNet-18 + MDS, CIFAR-10: near-OOD AUROC 90.32, far-OOD AUROC 96.55",
        "OpenOOD v1.5, ResNet-18 + MDS, CIFAR-100: near-OOD AUROC 77.27, far-OOD AUROC 89.08",
    ),
)


def sinkhorn(similarity: Tensor, epsilon: float) -> Tensor:
    r"""Log of the soft assignment of samples to prototypes, step (a).

    Rounds of :math:`Q_{\cdot j} \leftarrow Q_{\cdot j} / \sum_i Q_{ij}` (per prototype), then
    :math:`Q_{i \cdot} \leftarrow Q_{i \cdot} / \sum_j Q_{ij}` (per sample), so that rows of the
    result sum to one.

    Shape: similarity ``[N, P]`` -> log Q ``[N, P]``.
    """
    samples, prototypes = similarity.shape
    log_q = similarity / epsilon
    log_q = log_q - log_q.flatten().logsumexp(dim=0)
    for _ in range(SINKHORN_ITERATIONS):
        log_q = _log_normalize(log_q, dim=0) - math.log(prototypes)
        log_q = _log_normalize(log_q, dim=1) - math.log(samples)
    return log_q + math.log(samples)


def _log_normalize(log_q: Tensor, dim: int) -> Tensor:
    """L1-normalise along ``dim`` in the log domain; a sum below ``MINIMAL_MASS`` counts as that."""
    return log_q - log_q.logsumexp(dim=dim, keepdim=True).clamp(min=math.log(MINIMAL_MASS))


class PALMLoss(nn.Module):
    """PALM's loss and its prototypes, which every call in training moves.

    Args:
        num_classes: C.
        prototypes_per_class: K.
        feature_dim: D of the embeddings.
        topk: prototypes that a sample is assigned to, at most K; all K if 0.
        proto_momentum: alpha of the prototypes' EMA.
        temperature: tau of the MLE term.
        epsilon: Sinkhorn's regularisation.
        contrastive_weight: weight of the prototypes' contrast.

    Attributes:
        prototypes: ``[K * C, D]``, unit vectors; row j belongs to class j mod C.
    """

    prototypes: Tensor
    prototype_classes: Tensor

    def __init__(
        self,
        num_classes: int,
        prototypes_per_class: int = 6,
        feature_dim: int = 128,
        topk: int = 5,
        proto_momentum: float = 0.999,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        contrastive_weight: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value, low in (
            ("num_classes", num_classes, 1),
            ("prototypes_per_class", prototypes_per_class, 1),
            ("feature_dim", feature_dim, 1),
            ("topk", topk, 0),
        ):
            if value < low:
                raise OptionError(f"PALMLoss: {name} must be at least {low}, not {value}.")
        if not (temperature > 0 and epsilon > 0):
            raise OptionError("PALMLoss: temperature and epsilon must be positive.")
        if not 0 <= proto_momentum <= 1:
            raise OptionError(f"PALMLoss: proto_momentum is in [0, 1], not {proto_momentum}.")
        self.num_classes = num_classes
        self.topk = topk
        self.proto_momentum = proto_momentum
        self.temperature = temperature
        self.epsilon = epsilon
        self.contrastive_weight = contrastive_weight
        prototypes = torch.rand(prototypes_per_class * num_classes, feature_dim)
        self.register_buffer("prototypes", F.normalize(prototypes, dim=1))
        classes = torch.arange(num_classes).repeat(prototypes_per_class)
        self.register_buffer("prototype_classes", classes, persistent=False)

    def forward(self, features: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """The loss of a batch, and the prototypes' next position.

        Args:
            features: L2-normalised embeddings of V views, ``[B, V, D]``.
            labels: ``[B]`` in ``[0, C)``; None for unlabelled ID data: then every prototype is a
                candidate for every sample, and prototypes only repel one another.

        Returns:
            Scalars: ``loss`` = ``mle`` + contrastive_weight x contrastive, ``mle`` and
            ``contrastive`` (its weighted part).

        Raises:
            ValueError: shapes that do not fit.
        """
        if features.ndim != 3 or features.shape[2] != self.prototypes.shape[1]:
            raise ValueError(
                f"PALMLoss wants features [B, V, {self.prototypes.shape[1]}], "
                f"not {list(features.shape)}."
            )
        if labels is not None and labels.shape != features.shape[:1]:
            raise ValueError(
                f"PALMLoss wants {len(features)} labels, one per sample, not {list(labels.shape)}."
            )
        with torch.autocast(features.device.type, enabled=False):
            dtype = torch.promote_types(features.dtype, self.prototypes.dtype)
            z = features.to(torch.promote_types(dtype, torch.float32))
            z = z.transpose(0, 1).flatten(0, 1)  # [N, D], N = V * B
            y = None if labels is None else labels.repeat(features.shape[1])
            return self._loss(z, y)

    def _loss(self, z: Tensor, y: Tensor | None) -> dict[str, Tensor]:
        before = self.prototypes.to(z)  # [P, D], P = K * C
        candidate = self._candidates(z, y)  # [N, P]

        # (a), (b): assign, prune to the top k, move
        with torch.no_grad():
            log_q = sinkhorn(z @ before.T, self.epsilon).masked_fill(~candidate, -torch.inf)
            kept = candidate & self._top(log_q, len(self.prototypes) if y is None else None)
            weights = _log_normalize(log_q.masked_fill(~kept, -torch.inf), dim=1).exp()
            total = weights.sum(dim=0)
            weights = weights / total.clamp(min=MINIMAL_MASS)  # [N, P]
        target = weights.T @ z  # [P, D]
        alpha = self.proto_momentum
        moved = F.normalize(alpha * before + (1 - alpha) * target, dim=1)
        prototypes = torch.where((total > 0)[:, None], moved, before)

        # (c): assign again; the prototypes are constants here
        fixed = prototypes.detach()
        similarity = z @ fixed.T
        with torch.no_grad():
            log_q = sinkhorn(similarity, self.epsilon)
            weights = _log_normalize(log_q.masked_fill(~kept, -torch.inf), dim=1).exp()
        logits = similarity / self.temperature
        mle = (logits.logsumexp(dim=1) - (weights * logits).sum(dim=1)).mean()

        contrastive = self.contrastive_weight * self._contrast(prototypes, labelled=y is not None)
        if self.training:
            self.prototypes = fixed.to(self.prototypes)
        return {"loss": mle + contrastive, "mle": mle, "contrastive": contrastive}

    def _candidates(self, z: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            return z.new_ones(len(z), len(self.prototypes), dtype=torch.bool)
        return y[:, None] == self.prototype_classes

    def _top(self, log_q: Tensor, candidates: int | None) -> Tensor:
        most = candidates or len(self.prototypes) // self.num_classes
        k = min(self.topk or most, most)
        chosen = log_q.topk(k, dim=1).indices
        return torch.zeros_like(log_q, dtype=torch.bool).scatter_(1, chosen, True)

    def _contrast(self, prototypes: Tensor, labelled: bool) -> Tensor:
        own = torch.eye(len(prototypes), dtype=torch.bool, device=prototypes.device)
        logits = prototypes @ prototypes.T / CONTRASTIVE_TEMPERATURE  # [P, P]
        repel = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
        if len(prototypes) == 1:
            return logits.sum() * 0
        if not labelled:
            return repel.mean()
        same = self.prototype_classes[:, None] == self.prototype_classes
        positive = (same & ~own).to(logits)
        attract = (positive * logits).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
        if positive.shape[0] == self.num_classes:
            # One prototype per class has no positive: its likeness to itself stands for it, a
            # constant (the reference code subtracts it from every logit).
            attract = attract + 1 / CONTRASTIVE_TEMPERATURE
        return (repel - attract).mean()

    def extra_repr(self) -> str:
        """Settings, so that they are part of a network's content key."""
        return f"{list(self.prototypes.shape)}, temperature={self.temperature}"

    def class_logits(self, z: Tensor) -> Tensor:
        """Log mixture density of each class up to a constant: ``[N, D] -> [N, C]``."""
        logits = z @ self.prototypes.to(z).T / self.temperature  # [N, K * C]
        return logits.unflatten(1, (-1, self.num_classes)).logsumexp(dim=1)


@dataclass(frozen=True)
class PALMRecipe(ContrastiveRecipe):
    """How PALM is trained; the defaults are the authors' for CIFAR-100.

    Args:
        prototypes_per_class: K.
        topk: prototypes that a sample is assigned to.
        proto_momentum: alpha of the prototypes' EMA.
        temperature: tau of the MLE term.
        epsilon: Sinkhorn's regularisation.
        contrastive_weight: weight of the prototypes' contrast.
        labelled: False trains without ID labels.
    """

    backbone: str | None = "resnet34-cifar"
    epochs: int = 500
    weight_decay: float = 1e-6
    prototypes_per_class: int = 6
    topk: int = 5
    proto_momentum: float = 0.999
    temperature: float = 0.1
    epsilon: float = 0.05
    contrastive_weight: float = 1.0
    labelled: bool = True


OPENOOD = PALMRecipe(backbone="resnet18-cifar", epochs=100, weight_decay=1e-4)
"""Of the authors' contribution to OpenOOD v1.5."""

QUICK = PALMRecipe(
    backbone=None,
    epochs=10,
    batch_size=64,
    lr=0.2,
    warmup_epochs=1,
    proto_momentum=0.99,
    min_scale=0.5,
)
"""For a CPU: few epochs, so more steps in each, milder crops, and prototypes that follow sooner.

The recipe for digits was chosen on ID training and validation data alone, by telling held-out ID
classes from the others, never by the benchmark's OOD sets.
"""


@register_method("palm")
class PALMMethod(ContrastiveMethod):
    """PALM: a mixture of prototypes for each class, learned on a projection head."""

    recipe: PALMRecipe
    paper: ClassVar[Paper | None] = PAPER
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": PALMRecipe(),
        "openood": replace(OPENOOD, batch_size=16, lr=0.1, proto_momentum=0.9),
        "openood-cifar100": OPENOOD,
        "quick": QUICK,
        "digits": replace(QUICK, epochs=50, batch_size=128, lr=0.5, proto_momentum=0.9),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "published": ("cifar100",),
        "openood": ("cifar10",),
        "digits": ("digits",),
    }

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: PALMRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.palm = PALMLoss(
            num_classes,
            prototypes_per_class=recipe.prototypes_per_class,
            feature_dim=recipe.embedding_dim,
            topk=recipe.topk,
            proto_momentum=recipe.proto_momentum,
            temperature=recipe.temperature,
            epsilon=recipe.epsilon,
            contrastive_weight=recipe.contrastive_weight,
        )

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """PALM's loss over the whole batch, gathered from all processes."""
        _, z = self.embed(images.flatten(0, 1))
        z, labels = self.gathered(z.unflatten(0, images.shape[:2]), labels)  # [B, V, D]
        return self.palm(z, labels if self.recipe.labelled else None)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Penultimate features, the embedding, and the mixture's class logits."""
        features, z = self.embed(images)
        return {"features": features, "logits": self.palm.class_logits(z), "embedding": z}


@register_detector("palm")
@dataclass
class PALM(Detector):
    """One Gaussian over standardised unit features (SSD+). Higher = more OOD; range [0, inf).

    Args:
        centring: ``"clean"``: the distance to the training mean; ``"paper"``: subtracts the
            un-standardised mean once more from data already centred, as the reference code does,
            to compare with published numbers.
        shrinkage: of the covariance of standardised features: ``"ledoit-wolf"``, ``"oas"``,
            ``"none"``, or ``"auto"``, which is Ledoit-Wolf where N < 2 D and none otherwise.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    method: ClassVar[str] = "palm"
    paper: ClassVar[Paper | None] = PAPER

    centring: Literal["clean", "paper"] = "clean"
    shrinkage: Shrinkage = "auto"
    mean_: Tensor = learned()  # [D]
    std_: Tensor = learned()  # [D]
    precision_: Tensor = learned()  # [D, D]

    def __post_init__(self) -> None:
        check_choices(self, "palm")

    def fit(self, train: Outputs) -> Self:
        """Mean, deviation and covariance of the normalised features ``[N, D]``."""
        stats = moments(train, "palm", transform=normalize)
        covariance = stats.scatter / stats.counts.sum()
        std = covariance.diagonal().sqrt()
        # a feature that is constant on all training data says nothing, and must not divide by zero
        self.std_ = torch.where(std > 0, std, 1.0)
        self.mean_ = stats.means[0]
        mean, scale = self.mean_, self.std_
        standardised = Moments(
            stats.counts, torch.zeros_like(stats.means), stats.scatter / scale / scale[:, None]
        )
        self.precision_ = precision(
            train,
            standardised,
            "palm",
            self.shrinkage,
            lambda z: (normalize(z) - mean.to(z)) / scale.to(z),
        )
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""
        mean, std, precision = self.mean_, self.std_, self.precision_

        def distance(features: Tensor) -> Tensor:
            centre = mean.to(features)
            u = (normalize(features) - centre) / std.to(features)  # [B, D]
            origin = centre if self.centring == "paper" else torch.zeros_like(centre)
            return squared_mahalanobis(u, origin[None], precision.to(features))[:, 0]

        return in_blocks(outputs, distance, "features", exact=True)

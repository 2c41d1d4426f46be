r"""Deep ensemble: several networks, alike but for their initialisation; their mean probability.

Paper: B. Lakshminarayanan, A. Pritzel, C. Blundell, "Simple and Scalable Predictive Uncertainty
Estimation using Deep Ensembles", NeurIPS 2017. arXiv:1612.01474
Code:  none by the authors; written from the definition

.. math::
    L = \sum_m \mathrm{CE}(f_m(x), y), \quad
    p(x) = \frac{1}{M} \sum_m \mathrm{softmax}(f_m(x))

The members share no parameter, so the sum of their losses trains each as its own loss would. What
the network says:

- ``logits``, the mean of the members' logits :math:`\bar f = \frac1M \sum_m f_m`, for detectors
  of logits. Its log-sum-exp is free, where that of :math:`\log p` is zero for every sample;
- ``log_probabilities``, :math:`\log p` (up to 1e-16), whose largest is the prediction: the ID
  accuracy is that of the mean probability;
- ``logits/<member>``, the members' own, from ``0``; ``features``, all members' one after the other.

Which MSP: ``msp`` on this network, as every detector of logits, reads :math:`\bar f`: the largest
of :math:`\operatorname{softmax}(\bar f)`, which is OpenOOD's postprocessor ``ensemble``. The
paper's own, the largest of the mean probability :math:`p`, is the detector ``deep-ensemble``.
The first is confident wherever one member is by far; the second falls with each that disagrees.

Recipe ``published``: five members, each trained as OpenOOD v1.5 trains with cross-entropy.

Differs from the paper: (1) no adversarial training, which the paper has as an option; (2) members
see the same batches and augmentations and differ by their initialisation alone, the paper's also
by the order of the data; (3) SGD with OpenOOD's settings, the paper's experiments use Adam;
(4) the paper scores OOD-ness by the entropy of p and shows histograms of its largest; ours is the
latter.
Differs from OpenOOD's postprocessor ``ensemble``: one run trains all members, theirs reads the
checkpoints of five.
Weights that a run starts from (``--checkpoint``) are those of the first member alone.
Checked against: the mean of the members' softmax, and of their logits
(tests/detectors/test_deep_ensemble.py).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.data.transforms import Augmentation, CropFlip, Preprocess
from oodbench.detector import Detector
from oodbench.errors import OptionError
from oodbench.method import Method, Recipe, num_features_of
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector, register_method

from ._modalities import two_opinions
from ._numerics import precise

PAPER = Paper(
    title="Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
    authors="Lakshminarayanan, Balaji and Pritzel, Alexander and Blundell, Charles",
    venue="NeurIPS",
    year=2017,
    url="https://arxiv.org/abs/1612.01474",
    formula="L = sum_m CE(f_m(x), y); p(x) = mean_m softmax(f_m(x))",
)


def reinitialize(network: nn.Module) -> nn.Module:
    """Draw a network's parameters anew, as its modules do when they are made; returns it.

    Each module's ``reset_parameters`` runs after those of its parts, so that a whole network's own
    initialisation has the last word, as has timm's ``init_weights``. Parameters of a module that
    has neither (a class token, a layer scale) keep their values.
    """
    for module in reversed(list(network.modules())):
        for name in ("reset_parameters", "_reset_parameters"):  # the latter is attention's
            reset = getattr(module, name, None)
            if callable(reset):
                reset()
                break
    if callable(getattr(network, "init_weights", None)):
        network.init_weights()  # type: ignore[operator]
    return network


class Members(nn.Module):
    """Backbones side by side: inputs to the features of all, ``[B, M * D]``.

    Args:
        backbone: the first member; the others are re-initialised copies.
        members: M.
    """

    def __init__(self, backbone: nn.Module, members: int) -> None:
        super().__init__()
        others = [reinitialize(copy.deepcopy(backbone)) for _ in range(members - 1)]
        self.members = nn.ModuleList([backbone, *others])
        self.num_features = members * num_features_of(backbone)

    def forward(self, images: Tensor) -> Tensor:
        """Features ``[B, M * D]``."""
        return torch.cat([member(images) for member in self.members], dim=1)


def log_mean_softmax(logits: Tensor) -> Tensor:
    """Log of the mean of the members' softmax: ``[M, B, C] -> [B, C]``.

    Computed in double precision, where there is one: a probability near 1 has its digits in what
    is missing to 1, and its logarithm keeps them.
    """
    log_p = F.log_softmax(logits.to(precise(logits.device)), dim=2)
    mean = log_p.logsumexp(dim=0) - math.log(len(logits))
    return mean.to(torch.promote_types(logits.dtype, torch.float32))


def _doubt(logits: Tensor) -> Tensor:
    """Minus the log of the largest mean probability, from what is missing to 1: ``[B]``.

    The logarithm of a sum that is rounded to 1 would be 0, or below, as the processor rounds.
    """
    p = logits.to(precise(logits.device)).softmax(dim=2)  # [M, B, C]
    top = p.mean(dim=0).argmax(dim=1)
    missing = p.scatter(2, top[None, :, None].expand(len(p), -1, 1), 0.0).sum(dim=2).mean(dim=0)
    return -torch.log1p(-missing).to(torch.promote_types(logits.dtype, torch.float32))


@dataclass(frozen=True)
class DeepEnsembleRecipe(Recipe):
    """How the members are trained; the defaults are the paper's M and OpenOOD's for CIFAR.

    Args:
        members: networks in the ensemble.
    """

    members: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.members < 1:
            raise OptionError(f"recipe: members must be at least 1, not {self.members}.")


@register_method("deep-ensemble")
class DeepEnsemble(Method):
    """Cross-entropy on linear heads of several networks."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": DeepEnsembleRecipe(backbone="resnet18-cifar"),
        "quick": DeepEnsembleRecipe(epochs=15, lr=0.1, warmup_epochs=1, members=3),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = PAPER

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: DeepEnsembleRecipe) -> None:
        super().__init__(Members(backbone, recipe.members), num_classes, recipe)
        dim = num_features_of(backbone)
        self.linears = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(recipe.members))

    def augmentation(self, preprocess: Preprocess) -> Augmentation:
        """Crop after padding, and flip."""
        return CropFlip(preprocess)

    def member_logits(self, features: Tensor) -> Tensor:
        """Each member's logits from all features: ``[B, M * D] -> [M, B, C]``."""
        parts = features.chunk(len(self.linears), dim=1)
        return torch.stack([head(z) for head, z in zip(self.linears, parts, strict=True)])

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The sum of the members' cross-entropies, and the ensemble's accuracy on the batch."""
        logits = self.member_logits(self.backbone(images[:, 0]))
        losses = [F.cross_entropy(each, labels) for each in logits]
        hits = log_mean_softmax(logits.detach()).argmax(dim=1) == labels
        return {"loss": torch.stack(losses).sum(), "accuracy": hits.float().mean()}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Features of all members, mean logits, log of the mean probability, members' logits."""
        features = self.backbone(images)
        logits = self.member_logits(features)
        return {
            "features": features,
            "logits": logits.mean(dim=0),
            "log_probabilities": log_mean_softmax(logits),
            **{f"logits/{member}": each for member, each in enumerate(logits)},
        }


@register_detector("deep-ensemble")
@dataclass
class MeanProbability(Detector):
    r"""Minus the log of the largest mean probability. Higher = more OOD; range [0, log C].

    .. math:: s(x) = -\log \max_c \frac1M \sum_m \operatorname{softmax}(f_m(x))_c

    over the members' logits. Of a network of several modalities these are the modalities'.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits/*"})
    toy = staticmethod(two_opinions)
    method: ClassVar[str] = "deep-ensemble"
    paper: ClassVar[Paper | None] = dataclasses.replace(
        PAPER, formula="s(x) = -log max_c mean_m softmax(f_m(x))_c"
    )

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]`` of each member."""
        parts = [torch.empty(0, dtype=torch.float64)]
        for batch in outputs.batches():
            members = torch.stack(list(batch.of_kind("logits/*").values()))
            parts.append(_doubt(members))
        return torch.cat(parts[1:] or parts)

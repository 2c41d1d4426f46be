r"""Feature Mixing: modalities exchange some of their features; of the mixture one should be unsure.

Paper: M. Liu, H. Dong, J. Kelly, O. Fink, M. Trapp, "Extremely Simple Multimodal Outlier Synthesis
for Out-of-Distribution Detection and Segmentation", 2025, section 3. arXiv:2505.16985
Code:  none was found; written from the definition

Of a sample with features :math:`f^1, f^2` of two modalities, N coordinates are drawn in each, one
draw a step, and their values change places. With :math:`\tilde f` the mixed features joined, and
:math:`\sigma` the softmax of the joint head,

.. math::
    L = \overline{\mathrm{CE}} - \gamma \, \frac{1}{B} \sum_i H(\sigma(W \tilde f_i + b))

so that predictions on mixtures have a high entropy. With more than two modalities each gives its N
values to the next, in a ring.

``detectors/_multiood.py`` describes the recipes, and how the encoders differ from MultiOOD's.

Differs from the paper, whose code is not known: (1) N is a share of the narrower modality's width,
``share``, at least one; (2) the entropy is over that of the uniform distribution, in [0, 1], as in
NP-Mix; (3) its weight is that of NP-Mix, 0.5; (4) mixtures train the encoders as well as the heads.
Checked against: exchanges by hand, and the loss beside its definition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.networks.modalities import MultimodalMethod, MultimodalRecipe
from oodbench.papers import Paper
from oodbench.registry import register_method

from ._multiood import FROZEN, QUICK, RECIPE_IDS, WARM
from ._outliers import check_positive
from .npmix import outlier_entropy


def exchanged(joined: Tensor, dims: Mapping[str, int], places: Mapping[str, Tensor]) -> Tensor:
    """Joined features ``[B, sum D_m]`` whose modalities have given values to each other.

    Args:
        joined: features of the modalities side by side.
        dims: D_m, the width of each, in their order.
        places: which N coordinates of each are exchanged, ``[N]``; the next modality gets them at
            its own places, and the first those of the last.
    """
    parts = dict(zip(dims, joined.split(list(dims.values()), dim=1), strict=True))
    names = list(dims)
    mixed = []
    for giver, taker in zip([names[-1], *names[:-1]], names, strict=True):
        given = parts[giver][:, places[giver]]
        mixed.append(parts[taker].index_copy(1, places[taker], given))
    return torch.cat(mixed, dim=1)


@dataclass(frozen=True)
class FeatureMixingRecipe(MultimodalRecipe):
    """How Feature Mixing is trained.

    Args:
        share: of the narrower modality's features that are exchanged, in (0, 1].
        entropy_ratio: gamma, the weight of the mixtures' entropy.
    """

    share: float = 0.25
    entropy_ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "entropy_ratio", zero=True)
        if not 0 < self.share <= 1:
            raise OptionError(f"recipe: share must be in (0, 1], not {self.share}.")


@register_method("feature-mixing")
class FeatureMixing(MultimodalMethod):
    """Cross-entropy, and predictions that are unsure where modalities have exchanged features."""

    recipe: FeatureMixingRecipe
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": FeatureMixingRecipe(**FROZEN),
        "warm": FeatureMixingRecipe(**WARM),
        "quick": FeatureMixingRecipe(**QUICK),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {
        name: RECIPE_IDS[name] for name in ("published", "warm")
    }
    paper: ClassVar[Paper | None] = Paper(
        title="Extremely Simple Multimodal Outlier Synthesis for Out-of-Distribution Detection and "
        "Segmentation",
        authors="Liu, Moru and Dong, Hao and Kelly, Jessica and Fink, Olga and Trapp, Mario",
        venue="arXiv",
        year=2025,
        url="https://arxiv.org/abs/2505.16985",
        formula="L = CE - g mean H(softmax(W f~ + b)), f~ with N features exchanged between "
        "modalities",
    )

    def places(self, dims: Mapping[str, int]) -> dict[str, Tensor]:
        """The coordinates of each modality that are exchanged in this step, ``[N]`` each."""
        n = max(1, math.floor(self.recipe.share * min(dims.values())))
        return {name: torch.randperm(width)[:n] for name, width in dims.items()}

    def extra_losses(
        self, joined: Tensor, alone: Mapping[str, Tensor], labels: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """Minus the entropy of the joint prediction on mixtures."""
        dims = {name: layer.in_features for name, layer in self.heads.layers.items()}
        places = {name: place.to(joined.device) for name, place in self.places(dims).items()}
        logits = self.heads.joint(exchanged(joined, dims, places))
        return {"mixed-entropy": (self.recipe.entropy_ratio, -outlier_entropy([logits]))}

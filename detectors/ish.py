r"""ISH: the head learns from the largest activations, the more the fewer of them carry the sum.

Paper: K. Xu, R. Chen, G. Franchi, A. Yao, "Scaling for Training Time and Post-hoc
Out-of-distribution Detection Enhancement", ICLR 2024. arXiv:2310.00227
Code:  kai422/SCALE; OpenOOD @ 3c35632; written anew from the definition

The forward pass is that of cross-entropy. Backwards, the gradient of the head's weight is taken as
if sample i had had other features: of :math:`x_i` the :math:`\lfloor D (1 - p) \rfloor` largest
:math:`|x_{ij}|` are kept, and scaled,

.. math::
    \tilde x_{ij} = |x_{ij}| \exp\left(\frac{\sum_j x_{ij}}{\sum_{j \text{ kept}} |x_{ij}|}\right),
    \qquad \frac{\partial L}{\partial W} = \sum_i \delta_i \tilde x_i^\top,
    \quad \delta_i = \frac{\partial L}{\partial z_i}

The gradients of the bias and of the features stay as they are. The sum over the kept ones says how
peaked a sample's features are; flat ones, which :mod:`scale` finds to be more like OOD, weigh more
here. The paper's score is SCALE.

Recipe ``published`` is OpenOOD v1.5's configuration (p 0.85, weight decay of the head 5e-5, and for
the rest that of cross-entropy). Both quote figures on ImageNet alone, after ten epochs from a
trained ResNet-50 with a rate of 0.003; none is known for CIFAR. The head's gradient is up to
:math:`e^{1 / (1 - p)}` times as large as cross-entropy's, so that a network that starts from
nothing needs a small rate: on ``digits`` 0.1 ends at chance, and ``quick`` takes 0.01.

Differs from the reference code: (1) a sample whose features are all zero has
:math:`\tilde x = 0`, theirs is NaN; (2) the exponent's quotient is at most 60, where theirs
overflows; (3) with fewer than :math:`1 / (1 - p)` features one is kept, theirs keeps none.
Checked against: the gradients by hand and by autograd of cross-entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.papers import Paper
from oodbench.registry import register_method

from .ce import CrossEntropy

LARGEST = 60.0
"""The largest exponent, e^60 = 1e26: a float32 gradient is finite, and no features reach it."""


def sharpened(x: Tensor, p: float) -> Tensor:
    """What the head's weight learns from, ``[B, D]``, of features ``[B, D]``.

    Args:
        x: features.
        p: the share of features that is left out, in [0, 1).
    """
    kept, places = x.abs().topk(max(1, int(x.shape[1] * (1 - p))), dim=1)
    carried = kept.sum(dim=1, keepdim=True)
    quotient = torch.where(carried > 0, x.sum(dim=1, keepdim=True) / carried, 0.0)
    scaled = kept * quotient.clamp(max=LARGEST).exp()
    return torch.zeros_like(x).scatter(1, places, scaled)


class SharpenedLinear(torch.autograd.Function):
    """A linear layer whose weight has the gradient of other features."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, p: float) -> Tensor:
        """``x W^T + b``."""
        ctx.save_for_backward(x, weight)
        ctx.p = p
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradients of the features, the weight and the bias."""
        (delta,) = grads
        x, weight = ctx.saved_tensors
        of_weight = delta.T @ sharpened(x, ctx.p).to(delta.dtype)
        return delta @ weight.to(delta.dtype), of_weight, delta.sum(dim=0), None


@dataclass(frozen=True)
class ISHRecipe(Recipe):
    """How ISH is trained; the defaults are OpenOOD's.

    Args:
        p: the share of features that the head does not learn from.
        head_weight_decay: L2 penalty of the head.
    """

    p: float = 0.85
    head_weight_decay: float = 5e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.p < 1:
            raise OptionError(f"recipe: p must be in [0, 1), not {self.p}.")
        if not 0 <= self.head_weight_decay < float("inf"):
            raise OptionError(
                f"recipe: head_weight_decay must be 0 or more, not {self.head_weight_decay}."
            )


@register_method("ish")
class ISH(CrossEntropy):
    """Cross-entropy and a linear head that learns from the largest activations."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": ISHRecipe(backbone="resnet18-cifar"),
        "quick": ISHRecipe(epochs=15, lr=0.01, warmup_epochs=1),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="Scaling for Training Time and Post-hoc Out-of-distribution Detection Enhancement",
        authors="Xu, Kai and Chen, Rongyu and Franchi, Gianni and Yao, Angela",
        venue="ICLR",
        year=2024,
        url="https://arxiv.org/abs/2310.00227",
        formula="dL/dW = sum_i delta_i x'_i, x' = |x| exp(sum x / sum of kept |x|) on the largest "
        "1 - p of |x|, else 0",
    )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: ISHRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.p = recipe.p
        self.head_weight_decay = recipe.head_weight_decay

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, and the accuracy on the batch."""
        features = self.backbone(images[:, 0])
        logits = SharpenedLinear.apply(features, self.linear.weight, self.linear.bias, self.p)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """As every method's, with a weight decay of the head's own."""
        head = list(self.linear.parameters())
        others = [p for p in self.parameters() if all(p is not own for own in head)]
        return [{"params": others}, {"params": head, "weight_decay": self.head_weight_decay}]

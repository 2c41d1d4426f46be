"""CE: cross-entropy, the network that post-hoc detectors are compared on.

Recipes: ``openood`` is OpenOOD v1.5's (ResNet-18 with a 3x3 stem, SGD 0.1, momentum 0.9, weight
decay 5e-4, batch 128, 100 epochs, cosine; crop and flip). ``quick`` trains on a CPU in minutes.

Differs from OpenOOD's code, as do all recipes that are "for the rest that of cross-entropy": (1)
convolutions start from normal weights of variance 2 / fan-out, theirs from torch's default, uniform
ones of variance 1 / (3 fan-in); (2) the cosine ends at 0, theirs at 1e-6; (3) the last checkpoint
is kept, theirs is the one with the best validation accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.data.transforms import Augmentation, CropFlip, Preprocess
from oodbench.method import Method, Recipe, num_features_of
from oodbench.outputs import Head
from oodbench.papers import Paper
from oodbench.registry import register_method


@register_method("ce")
class CrossEntropy(Method):
    """Cross-entropy on a linear head."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "openood": Recipe(backbone="resnet18-cifar"),
        "quick": Recipe(epochs=15, batch_size=128, lr=0.1, warmup_epochs=1),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"openood": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="OpenOOD v1.5: Enhanced Benchmark for Out-of-Distribution Detection",
        authors="Zhang, Jingyang and Yang, Jingkang and Wang, Pengyun and others",
        venue="arXiv",
        year=2023,
        url="https://arxiv.org/abs/2306.09301",
        formula="L = -log softmax(W z + b)_y",
        figures=("OpenOOD v1.5, CIFAR-10, ResNet-18: ID accuracy 95.06",),
    )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.linear = nn.Linear(num_features_of(backbone), num_classes)

    def augmentation(self, preprocess: Preprocess) -> Augmentation:
        """Crop after padding, and flip."""
        return CropFlip(preprocess)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, and the accuracy on the batch."""
        logits = self.linear(self.backbone(images[:, 0]))
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Penultimate features and logits."""
        features = self.backbone(images)
        return {"features": features, "logits": self.linear(features)}

    def head(self) -> Head:
        """The linear layer behind the features."""
        return Head(self.linear.weight, self.linear.bias)

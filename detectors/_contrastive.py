"""What contrastive methods share: several views of each image, and a projection head.

PALM, SupCon and CIDER train on unit embeddings behind a projection head, which is not part of the
features that detectors read; each of them adds a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.data.augmentation import SimCLR
from oodbench.data.batched import BatchedSimCLR
from oodbench.data.transforms import Augmentation, Preprocess
from oodbench.errors import OptionError
from oodbench.method import Method, Recipe, later, num_features_of


@dataclass(frozen=True)
class ContrastiveRecipe(Recipe):
    """How a contrastive network is trained; the defaults are what the papers share for CIFAR.

    Args:
        embedding_dim: width of the projection head's output.
        min_scale: smallest share of the image's area that a view keeps.
        colour: strength of a view's colour jitter.
        augment: ``"image"``: data workers make the views, image by image; ``"batch"``: the views of
            a whole batch are made at once where the network runs, others of the same distribution.
            On a CPU that takes less than half of the time, and a GPU need not wait for CPUs.
    """

    backbone: str | None = "resnet18-cifar"
    batch_size: int = 512
    lr: float = 0.5
    weight_decay: float = 1e-4
    warmup_epochs: float = 10
    final_lr: float = 1e-3
    embedding_dim: int = 128
    min_scale: float = 0.2
    colour: float = 0.4
    augment: Literal["image", "batch"] = later("image")


class ContrastiveMethod(Method):
    """Trains on several SimCLR views of each image, through a projection head.

    Args:
        backbone: module from images to penultimate features ``[B, D]``, with ``num_features`` D.
        num_classes: ID classes C.
        recipe: how it is trained.
    """

    views: ClassVar[int] = 2
    recipe: ContrastiveRecipe

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: ContrastiveRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.projection = mlp_head(num_features_of(backbone), recipe.embedding_dim)

    def augmentation(self, preprocess: Preprocess) -> Augmentation:
        """Random views as SimCLR has them."""
        return SimCLR(preprocess, self.recipe.min_scale, self.recipe.colour)

    def batched_augmentation(self, preprocess: Any, seed: int) -> BatchedSimCLR | None:
        """The same views of a whole batch at once, where the recipe asks for it.

        Raises:
            OptionError: the views of this method, or what the benchmark shows, cannot be made so.
        """
        if self.recipe.augment != "batch":
            return None
        augmentation = self.augmentation(preprocess)
        if type(augmentation) is not SimCLR or not self.receives(preprocess):
            raise OptionError(
                f"recipe of {self.name}: augment=batch is for SimCLR's views alone, and this "
                "method makes others or changes batches itself. Use augment=image."
            )
        if self.beside is not None or type(preprocess) is not Preprocess:
            raise OptionError(
                f"recipe of {self.name}: augment=batch is for images of the ID set alone, with "
                "oodbench's own preprocessing. Use augment=image."
            )
        self.batched = BatchedSimCLR(augmentation, self.views, seed)
        return self.batched

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Penultimate features ``[B, D]`` and unit embeddings ``[B, embedding_dim]``."""
        features = self.backbone(images)
        return features, F.normalize(self.projection(features).float(), dim=1)

    def gathered(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``[B, V, D]`` and labels ``[B]`` of all processes, with gradients.

        Processes take samples in turn, so theirs are interleaved: the result is in the order that a
        single process would have.
        """
        if self.trainer.world_size > 1:
            z = self.all_gather(z, sync_grads=True).transpose(0, 1).flatten(0, 1)  # type: ignore[union-attr]
            labels = self.all_gather(labels).T.flatten()  # type: ignore[union-attr]
        return z, labels


def mlp_head(features: int, out: int) -> nn.Sequential:
    """The projection head of SimCLR and SupCon: linear, ReLU, linear; ``[B, D] -> [B, out]``."""
    return nn.Sequential(
        nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, out)
    )

"""Methods that take a pre-trained network as it is, and learn from its outputs at most."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from oodbench.data.transforms import Preprocess
from oodbench.errors import OptionError
from oodbench.method import BaseRecipe, Method
from oodbench.networks.pretrained import LAYERS, PretrainedEncoder, create_pretrained
from oodbench.outputs import Head, Outputs


@dataclass(frozen=True)
class FrozenRecipe(BaseRecipe):
    """All that determines what a pre-trained network gives.

    Args:
        backbone: name of the network; None for the benchmark's.
        input_size: side of the images in pixels; None for the one that it was trained at.
        layers: how many inner layers' features are kept beside the last ones.
    """

    input_size: int | None = None
    layers: int = LAYERS

    def __post_init__(self) -> None:
        if self.input_size is not None and self.input_size < 1:
            raise OptionError(f"recipe: input_size must be at least 1, not {self.input_size}.")
        if self.layers < 0:
            raise OptionError(f"recipe: layers must not be negative, not {self.layers}.")

    def effort(self, samples: str) -> str:
        """What training takes, for messages, on that many samples of a split."""
        return "nothing to train"


class FrozenMethod(Method):
    """A method whose backbone was trained before, and stays as it is.

    The backbone is a :class:`~oodbench.networks.pretrained.PretrainedEncoder`. It sees each image
    once, in its own preprocessing; what the method learns, it learns from the cached features.
    ``summary`` tells people what ``learn`` chose.
    """

    names_backbones: ClassVar[bool] = True

    recipe: FrozenRecipe

    @classmethod
    def default_recipe(cls, id_name: str) -> str:
        """The name of the method's first recipe."""
        return next(iter(cls.recipes))

    @classmethod
    def make_backbone(
        cls, name: str, recipe: BaseRecipe, preprocess: Any, checkpoint: str | Path | None = None
    ) -> PretrainedEncoder:
        """The encoder with the weights of its pre-training, or of the checkpoint."""
        recipe = cast(FrozenRecipe, recipe)
        return create_pretrained(
            name,
            checkpoint=checkpoint,
            input_size=recipe.input_size,
            layers=recipe.layers,
            preprocess=preprocess,
        )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: FrozenRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.backbone.requires_grad_(False)

    @property
    def trunk(self) -> PretrainedEncoder:
        """What need not see an image twice; see ``oodbench.extract``."""
        return cast(PretrainedEncoder, self.backbone)

    @property
    def own_preprocess(self) -> Preprocess:
        """The preprocessing that the encoder was trained with."""
        return self.trunk.own_preprocess

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What the encoder gives, with ``logits [B, C]`` where there is a head."""
        columns = self.trunk.outputs(images)
        head = self.layer()
        return columns if head is None else {**columns, "logits": head(columns["features"])}

    def layer(self) -> nn.Linear | None:
        """What was learned, a linear layer on the features; None if nothing is."""
        return None

    def head(self) -> Head | None:
        """The linear layer, where there is one."""
        layer = self.layer()
        return None if layer is None else Head(layer.weight, layer.bias)

    def learn(
        self,
        train: Outputs,
        fitted: Tensor | None = None,
        val: Outputs | None = None,
        seed: int = 0,
    ) -> dict[str, str]:
        """Learn from the encoder's outputs; nothing here.

        Args:
            train: of the ID training split.
            fitted: ``[N]`` bool, the rows that are not among the validation images; None for all.
            val: of the ID validation split; None where the ID set has none.
            seed: of whatever is random.

        Returns:
            What was found, for people.
        """
        return {}

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """There is none: nothing is trained image by image."""
        raise OptionError(f"{self.name} is not trained on images; it learns from outputs.")

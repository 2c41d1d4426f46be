"""Classifiers of several modalities: an encoder each, a head each, and one on all embeddings.

The joint prediction is one linear layer on the embeddings, put side by side in the order of the
modalities (MultiOOD, arXiv:2405.17419); each modality has a prediction of its own beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import OptionError
from oodbench.method import Method, Recipe
from oodbench.outputs import Head
from oodbench.registry import register_backbone
from oodbench.transforms import Augmentation, MultimodalPreprocess


class MultimodalEncoders(nn.Module):
    """An encoder a modality.

    Args:
        encoders: by modality, from its tensor to embeddings ``[B, D_m]``; has ``num_features`` D_m.
            ``nn.Identity`` will do for features that were extracted before, with ``dims``.
        dims: D_m of encoders without ``num_features``.

    Raises:
        OptionError: no encoder, or one of unknown width.
    """

    def __init__(
        self, encoders: Mapping[str, nn.Module], dims: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        if not encoders:
            raise OptionError("a network of several modalities needs an encoder for each.")
        self.encoders = nn.ModuleDict(encoders)
        self.dims: dict[str, int] = {}
        for name, encoder in encoders.items():
            width = (dims or {}).get(name) or getattr(encoder, "num_features", None)
            if width is None:
                raise OptionError(
                    f"the encoder of {name} does not say how wide its embeddings are: give it "
                    "num_features, or give dims."
                )
            self.dims[name] = int(width)

    @property
    def num_features(self) -> int:
        """Width of all embeddings side by side."""
        return sum(self.dims.values())

    def freeze(self) -> None:
        """Leave the last stage of each encoder alone to be trained.

        Raises:
            OptionError: an encoder without ``freeze``.
        """
        for name, encoder in self.encoders.items():
            if not hasattr(encoder, "freeze"):
                raise OptionError(
                    f"the encoder of {name} ({type(encoder).__name__}) does not say what its last "
                    "stage is: give it a method freeze(), or train all of it (frozen=False)."
                )
            cast(Any, encoder).freeze()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings ``[B, D_m]`` by modality.

        Raises:
            OptionError: a modality is missing.
        """
        missing = [name for name in self.encoders if name not in inputs]
        if missing:
            raise OptionError(
                f"the network wants {', '.join(self.encoders)}, but the samples have no "
                f"{' and no '.join(missing)}."
            )
        return {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}


def _pooled(*widths: int) -> nn.Sequential:
    """3x3 convolutions with batch normalisation, each halving the map, and a mean over it."""
    layers: list[nn.Module] = []
    for inside, out in pairwise(widths):
        layers += [
            nn.Conv2d(inside, out, 3, 2, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@register_backbone("avdigits-cnn")
def avdigits_cnn(channels: Mapping[str, int]) -> MultimodalEncoders:
    """Three small convolutions a modality, for images and spectrograms; 64 features each."""
    encoders = {name: _pooled(count, 16, 32, 64) for name, count in channels.items()}
    return MultimodalEncoders(encoders, dict.fromkeys(channels, 64))


class ModalityHeads(nn.Module):
    """A linear layer on each modality's embeddings, and one on all of them side by side.

    Args:
        dims: D_m by modality, in their order.
        num_classes: C.
    """

    def __init__(self, dims: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        self.single = nn.ModuleDict({name: nn.Linear(d, num_classes) for name, d in dims.items()})
        self.joint = nn.Linear(sum(dims.values()), num_classes)

    @property
    def layers(self) -> dict[str, nn.Linear]:
        """The layer of each modality."""
        return {name: cast(nn.Linear, layer) for name, layer in self.single.items()}

    def alone(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits ``[B, C]`` of each modality by itself."""
        return {name: layer(embeddings[name]) for name, layer in self.layers.items()}

    def alone_of(self, joined: Tensor) -> dict[str, Tensor]:
        """The same of embeddings that are joined, ``[B, sum D_m]``."""
        parts = joined.split([layer.in_features for layer in self.layers.values()], dim=1)
        return self.alone(dict(zip(self.single, parts, strict=True)))

    def join(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """``[B, sum D_m]``."""
        return torch.cat([embeddings[name] for name in self.single], dim=1)

    def forward(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All that is made of embeddings, as columns of ``Outputs``.

        ``features [B, sum D_m]`` and ``logits [B, C]``, joint and as ``<column>/<modality>``.
        """
        joined = self.join(embeddings)
        return {
            "features": joined,
            "logits": self.joint(joined),
            **{f"features/{name}": embeddings[name] for name in self.single},
            **{f"logits/{name}": value for name, value in self.alone(embeddings).items()},
        }

    def as_heads(self) -> dict[str, Head]:
        """The layer of each modality, for detectors."""
        return {name: Head(layer.weight, layer.bias) for name, layer in self.layers.items()}

    def as_head(self) -> Head:
        """The joint layer, for detectors."""
        return Head(self.joint.weight, self.joint.bias)


class MultimodalClassifier(nn.Module):
    """Encoders and heads: a network that extraction and every detector take.

    Args:
        encoders: by modality (see :class:`MultimodalEncoders`), or these.
        num_classes: C.
        dims: widths of encoders that do not tell theirs.
    """

    def __init__(
        self,
        encoders: MultimodalEncoders | Mapping[str, nn.Module],
        num_classes: int,
        dims: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(encoders, MultimodalEncoders):
            encoders = MultimodalEncoders(encoders, dims)
        self.encoders = encoders
        self.heads = ModalityHeads(encoders.dims, num_classes)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Joint logits ``[B, C]``."""
        logits: Tensor = self.heads.joint(self.heads.join(self.encoders(inputs)))
        return logits

    def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`ModalityHeads.forward`."""
        found: dict[str, Tensor] = self.heads(self.encoders(inputs))
        return found

    def head(self) -> Head:
        """The joint layer."""
        return self.heads.as_head()

    def modality_heads(self) -> dict[str, Head]:
        """The layer of each modality."""
        return self.heads.as_heads()


@dataclass(frozen=True)
class MultimodalRecipe(Recipe):
    """How a network of several modalities is trained; the defaults are MultiOOD's.

    Args:
        optimizer: ``"adam"`` or ``"sgd"``.
        single: whether each modality's own prediction is trained, the loss being the mean of the
            cross-entropies; else the joint prediction alone.
        frozen: whether all but the last stage of each encoder stays as it was.
    """

    epochs: int = 50
    batch_size: int = 16
    lr: float = 1e-4
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step"] = "step"
    drop_last: bool = True
    optimizer: Literal["adam", "sgd"] = "adam"
    single: bool = True
    frozen: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer not in ("adam", "sgd"):
            raise OptionError(f"recipe: optimizer is 'adam' or 'sgd', not {self.optimizer!r}.")


class MultimodalMethod(Method):
    """Cross-entropy of the joint prediction and of each modality's.

    The backbone is a :class:`MultimodalEncoders`. A subclass adds ``extra_losses``.
    """

    recipes: ClassVar[Mapping[str, Recipe]] = {}

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        if not isinstance(backbone, MultimodalEncoders):
            raise OptionError(
                f"{type(backbone).__name__} is no network of several modalities. This method wants "
                "a benchmark of several, such as avdigits, and a backbone for it."
            )
        super().__init__(backbone, num_classes, recipe)
        self.heads = ModalityHeads(backbone.dims, num_classes)
        if recipe.frozen:  # type: ignore[attr-defined]
            backbone.freeze()

    def augmentation(self, preprocess: Any) -> Augmentation:
        """Each modality's own.

        Raises:
            OptionError: the benchmark has no modalities.
        """
        if not isinstance(preprocess, MultimodalPreprocess):
            raise OptionError(f"{self.name} wants a benchmark of several modalities.")
        return preprocess.augment

    def loss(self, images: Any, labels: Tensor) -> dict[str, Tensor]:
        """The mean cross-entropy of all predictions, and what a subclass adds.

        Args:
            images: by modality ``[B, 1, ...]``.
            labels: ``[B]``.
        """
        embeddings = self.backbone({name: value[:, 0] for name, value in images.items()})
        joined = self.heads.join(embeddings)
        joint = self.heads.joint(joined)
        alone = self.heads.alone(embeddings)
        predictions = [joint, *alone.values()] if self.recipe.single else [joint]
        each = torch.stack([F.cross_entropy(logits.float(), labels) for logits in predictions])
        losses = {"loss": each.mean(), "cross-entropy": each.mean().detach()}
        for name, (weight, value) in self.extra_losses(joined, alone, labels).items():
            losses["loss"] = losses["loss"] + weight * value
            losses[name] = value.detach()
        losses["accuracy"] = (joint.argmax(dim=1) == labels).float().mean()
        return losses

    def extra_losses(
        self, joined: Tensor, alone: Mapping[str, Tensor], labels: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """Further terms of the loss, by name: their weight and value.

        Args:
            joined: all embeddings ``[B, sum D_m]``.
            alone: logits ``[B, C]`` by modality.
            labels: ``[B]``.
        """
        return {}

    def outputs(self, images: Any) -> dict[str, Tensor]:
        """See :meth:`ModalityHeads.forward`."""
        found: dict[str, Tensor] = self.heads(self.backbone(images))
        return found

    def head(self) -> Head:
        """The joint layer."""
        return self.heads.as_head()

    def modality_heads(self) -> dict[str, Head]:
        """The layer of each modality."""
        return self.heads.as_heads()

    def configure_optimizers(self) -> Any:
        """As the recipe says, with a learning rate that changes every step."""
        configured = super().configure_optimizers()
        if self.recipe.optimizer == "sgd":
            return configured
        recipe = self.recipe
        adam = torch.optim.Adam(
            [p for p in self.parameters() if p.requires_grad],
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches) // recipe.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            adam, lambda step: recipe.lr_factor(step / steps)
        )
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

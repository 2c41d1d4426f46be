"""Classifiers of several modalities: an encoder each, a head each, and one on all embeddings.

The joint prediction is one linear layer on the embeddings, put side by side in the order of the
modalities (MultiOOD, arXiv:2405.17419); each modality has a prediction of its own beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.data.transforms import Augmentation, MultimodalPreprocess
from oodbench.errors import OptionError
from oodbench.method import Method, Recipe
from oodbench.outputs import Head
from oodbench.registry import register_backbone


@runtime_checkable
class Freezing(Protocol):
    """What a recipe with ``frozen=True`` asks of an encoder."""

    def freeze(self) -> None:
        """Leave the last stage alone to be trained."""


class MultimodalEncoders(nn.Module):
    """One encoder per modality.

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
            if not isinstance(encoder, Freezing):
                raise OptionError(
                    f"the encoder of {name} ({type(encoder).__name__}) does not say what its last "
                    "stage is: give it a method freeze(), or train all of it (frozen=False)."
                )
            encoder.freeze()

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


class PooledConvolutions(nn.Sequential):
    """3x3 convolutions with batch normalisation, each halving the map, and a mean over it.

    Args:
        widths: channels of the input, and of each convolution's output.
    """

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for inside, out in pairwise(widths):
            layers += [
                nn.Conv2d(inside, out, 3, 2, 1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.num_features = widths[-1]

    def freeze(self) -> None:
        """Leave the last convolution and its normalisation alone to be trained."""
        self.requires_grad_(False)
        convolutions = [i for i, layer in enumerate(self) if isinstance(layer, nn.Conv2d)]
        for layer in list(self)[convolutions[-1] :]:
            layer.requires_grad_(True)


@register_backbone("avdigits-cnn", takes="modalities", gives="features")
def avdigits_cnn(channels: Mapping[str, int]) -> MultimodalEncoders:
    """Three small convolutions per modality, for images and spectrograms: 64 features each."""
    encoders = {name: PooledConvolutions(n, 16, 32, 64) for name, n in channels.items()}
    return MultimodalEncoders(encoders)


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
        """The embeddings side by side, ``[B, sum D_m]``."""
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
        """Features and logits as :meth:`ModalityHeads.forward` has them."""
        columns: dict[str, Tensor] = self.heads(self.encoders(inputs))
        return columns

    def head(self) -> Head:
        """The linear layer behind the joint embedding."""
        return self.heads.as_head()

    def modality_heads(self) -> dict[str, Head]:
        """The linear layer of each modality, by its name."""
        return self.heads.as_heads()


@dataclass(frozen=True)
class MultimodalRecipe(Recipe):
    """How a network of several modalities is trained; the defaults are MultiOOD's.

    Args:
        optimizer: ``"adam"`` or ``"sgd"``.
        single: whether each modality's own prediction is trained, the loss being the mean of the
            cross-entropies; else the joint prediction alone.
        frozen: whether all but the last stage of each encoder stays as it was.
        dropout: share of an embedding's values that are zeroed in training, each modality's by
            itself, and the rest scaled up. All that training makes of embeddings sees them so: the
            joint and the single predictions, and what a method keeps of them.
        undropped: modalities whose embeddings are left whole.
        keep: ``"best"`` for the weights of the epoch with the highest joint accuracy on the ID
            validation split (the latest of equal ones), ``"last"`` for the last ones.
        start_from: ``METHOD/RECIPE`` of a run with the same network, data and seed, whose trained
            encoders training starts from; it is made first, if it is not there. None for the
            encoders' own weights.
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
    dropout: float = 0.5
    undropped: tuple[str, ...] = ()
    keep: Literal["best", "last"] = "best"
    start_from: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise OptionError(f"recipe: dropout must be in [0, 1), not {self.dropout}.")
        if self.start_from is not None and self.start_from.count("/") != 1:
            raise OptionError(
                f"recipe: start_from is METHOD/RECIPE, or none, not {self.start_from!r}."
            )


class MultimodalMethod(Method):
    """Cross-entropy of the joint prediction and of each modality's.

    The backbone is a :class:`MultimodalEncoders`. A subclass adds ``extra_losses``. Under a recipe
    that trains the joint prediction alone (``single=False``) those of the modalities are withheld:
    their layers are as they were drawn. ``trains_single`` names other methods that train them, for
    messages.
    """

    task: ClassVar[str] = "multimodal"
    recipes: ClassVar[Mapping[str, Recipe]] = {}
    trains_single: ClassVar[tuple[str, ...]] = ()

    recipe: MultimodalRecipe

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: MultimodalRecipe) -> None:
        if not isinstance(backbone, MultimodalEncoders):
            raise OptionError(
                f"{type(backbone).__name__} is no network of several modalities. This method wants "
                "a benchmark of several, and a backbone for it."
            )
        super().__init__(backbone, num_classes, recipe)
        self.heads = ModalityHeads(backbone.dims, num_classes)
        if recipe.frozen:
            backbone.freeze()

    def augmentation(self, preprocess: Any) -> Augmentation:
        """The augmentation of each modality, as the benchmark's preprocessing has it.

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
        embeddings = {
            name: value
            if name in self.recipe.undropped
            else F.dropout(value, self.recipe.dropout, self.training)
            for name, value in embeddings.items()
        }
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
            joined: all embeddings ``[B, sum D_m]``, after dropout.
            alone: logits ``[B, C]`` by modality.
            labels: ``[B]``.
        """
        return {}

    @property
    def withheld(self) -> dict[str, str]:
        """Why outputs are not given, by the name that a detector may need them by."""
        if self.recipe.single:
            return {}
        names = list(self.heads.layers)
        recipes = [
            name
            for name, recipe in self.recipes.items()
            if isinstance(recipe, MultimodalRecipe) and recipe.single
        ]
        ways = [
            "`recipe_options` single=true",
            *(f"`recipe={name}`" for name in recipes),
            *(f"`method={name}`" for name in self.trains_single),
        ]
        why = (
            f"{self.name or type(self).__name__} was trained with single=False, which trains the "
            f"joint prediction alone: the layers of {' and '.join(names)} are as they were drawn, "
            f"and what they say is withheld. Train them: {' or '.join(ways)}."
        )
        return dict.fromkeys(["logits/*", *(f"logits/{name}" for name in names)], why)

    def outputs(self, images: Any) -> dict[str, Tensor]:
        """See :meth:`ModalityHeads.forward`; without predictions that were never trained."""
        columns: dict[str, Tensor] = self.heads(self.backbone(images))
        return {name: value for name, value in columns.items() if name not in self.withheld}

    def head(self) -> Head:
        """The linear layer behind the joint embedding."""
        return self.heads.as_head()

    def modality_heads(self) -> dict[str, Head]:
        """The layer of each modality, where it was trained."""
        return self.heads.as_heads() if self.recipe.single else {}

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

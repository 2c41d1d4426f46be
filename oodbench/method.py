"""The Method base class: how a network is trained, and what it says of a batch.

A method is a LightningModule. What determines a training run stands in its :class:`Recipe`, a
frozen dataclass that the method extends with its own hyper-parameters; a recipe and a seed make
the run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from oodbench.data.transforms import Augmentation, Preprocess
from oodbench.errors import OptionError, UnknownNameError
from oodbench.feeding import Arrival, to_device
from oodbench.options import check_choices
from oodbench.outputs import Head
from oodbench.papers import Paper

if TYPE_CHECKING:
    from oodbench.data.batched import BatchedSimCLR
    from oodbench.data.samples import Samples


def later(default: Any) -> Any:
    """A field that recipes did not always have; keys and rows do not tell it at its default."""
    return dataclasses.field(default=default, metadata={"later": True})


def told_fields(recipe: BaseRecipe) -> dict[str, Any]:
    """What keys and rows tell of a recipe: its fields; see :func:`later`."""
    unsaid = {
        f.name
        for f in dataclasses.fields(recipe)
        if f.metadata.get("later") and getattr(recipe, f.name) == f.default
    }
    return {name: value for name, value in asdict(recipe).items() if name not in unsaid}


@dataclass(frozen=True)
class BaseRecipe:
    """What every recipe has, of networks that are trained and of those that stay as they are.

    A subclass may have two more fields that are understood for every method, ``keep`` and
    ``start_from``, in the place of the properties here.

    Args:
        backbone: name of the network; None for the benchmark's.
    """

    backbone: str | None = None

    @property
    def keep(self) -> str:
        """``"best"`` for the weights of the epoch best on validation data, else ``"last"``."""
        return "last"

    @property
    def start_from(self) -> str | None:
        """``"METHOD/RECIPE"`` of a run, made first, whose trained backbone training starts from."""
        return None

    def for_classes(self, names: Sequence[str]) -> Self:
        """The recipe with what it takes from the names of the ID classes; itself for nothing."""
        return self

    def effort(self, samples: str) -> str:
        """What training takes, for messages, on that many samples of a split."""
        raise NotImplementedError


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """All that determines a training run besides data and seed.

    Args:
        backbone: name of the network; None for the benchmark's small one.
        epochs: passes over the training set.
        batch_size: samples per step, over all processes.
        lr: peak learning rate of SGD.
        momentum: of SGD.
        nesterov: whether momentum is Nesterov's.
        weight_decay: L2 penalty.
        warmup_epochs: linear rise of the learning rate from zero; the schedule follows it.
        schedule: ``"cosine"`` down to ``final_lr * lr``, or ``"step"``: x0.1 at each milestone.
        final_lr: share of ``lr`` at the end of the cosine.
        milestones: epochs of the steps.
        drop_last: whether an epoch's last, incomplete batch is left out. It is in any case where
            it would be a single sample (of a process, where there are several).
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    warmup_epochs: float = 0
    schedule: Literal["cosine", "step"] = "cosine"
    final_lr: float = 0.0
    milestones: tuple[int, ...] = ()
    drop_last: bool = False

    def __post_init__(self) -> None:
        check_choices(self, "recipe")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise OptionError(f"recipe: {name} must be at least 1, not {getattr(self, name)}.")
        for name, low, high in (
            ("lr", 1e-300, math.inf),
            ("momentum", 0, 1),
            ("weight_decay", 0, math.inf),
            ("warmup_epochs", 0, math.inf),
            ("final_lr", 0, 1),
        ):
            value = getattr(self, name)
            if not (low <= value <= high and math.isfinite(value)):
                wanted = "positive" if name == "lr" else f"in [{low}, {high}]"
                raise OptionError(f"recipe: {name} must be {wanted}, not {value}.")

    def effort(self, samples: str) -> str:
        """What training takes, for messages, on that many samples of a split."""
        return f"{self.epochs} epochs on {samples}"

    def lr_factor(self, epoch: float) -> float:
        """The learning rate after that many epochs (a fraction is a part of one), over ``lr``."""
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        if self.schedule == "step":
            return 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        progress = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        return self.final_lr + (1 - self.final_lr) * cosine


def of_training(recipe: BaseRecipe) -> Recipe:
    """A recipe that says how a network is trained, step by step.

    Raises:
        OptionError: it is that of a network which is not trained.
    """
    if not isinstance(recipe, Recipe):
        raise OptionError(
            f"a {type(recipe).__name__} says nothing of epochs and learning rates. A method that "
            "is trained image by image has an oodbench.method.Recipe."
        )
    return recipe


def num_features_of(backbone: nn.Module) -> int:
    """``num_features``, the width D of a backbone's features."""
    width: Any = backbone.num_features
    return int(width)


class Method(pl.LightningModule):
    """How a network is trained, and what it outputs.

    A subclass names its ``recipes``, and implements ``loss`` and ``outputs``. The first recipe
    whose ``ids`` (in ``recipe_ids``) contain the ID set is that set's default; else ``"quick"``.
    ``summary`` tells people what training chose.

    ``task`` is the name of the task that its networks are for. ``stands_for`` names a method of
    another task whose place it takes there, so that a detector which was designed for that one
    finds it. ``compares`` says that networks are compared by it where nothing else is asked for.

    ``names_backbones`` says that ``make_backbone`` has names of its own, which neither the registry
    of backbones nor timm knows.

    ``fits_detectors_of`` names methods whose detectors fit its networks as well as its own
    detectors do, and ``gives`` what its networks output where that is less than features, logits
    and a head.

    ``auxiliary`` is the field of its recipes that names a further set of images, which training
    sees beside the ID set, such as ``"outliers"``; ``""`` where there is none. The set itself is
    ``beside`` while the network is trained. ``outliers_per_image`` of its images, drawn anew each
    time, come with each ID image as further views, behind its own.

    ``given_if_asked`` names what of ``gives`` is so large that it is given only where a detector
    reads it, which ``asked`` says then.

    A class whose loss in some steps does not depend on some of its parameters, such as those of a
    part that comes late, says ``has_idle_parameters = True``: several processes wait for the
    gradients of all parameters else.

    Args:
        backbone: module from inputs to penultimate features ``[B, D]``, with ``num_features`` D.
        num_classes: ID classes C.
        recipe: how it is trained.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    recipes: ClassVar[Mapping[str, BaseRecipe]] = {}
    recipe: BaseRecipe
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    task: ClassVar[str] = "classification"
    stands_for: ClassVar[str | None] = None
    compares: ClassVar[bool] = False
    views: ClassVar[int] = 1
    fits_detectors_of: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[frozenset[str] | None] = None
    backbone_gives: ClassVar[str | None] = "features"
    auxiliary: ClassVar[str] = ""
    names_backbones: ClassVar[bool] = False
    summary: str = ""
    beside: Samples | None = None
    given_if_asked: ClassVar[frozenset[str]] = frozenset()
    asked: frozenset[str] = frozenset()
    arrival: Arrival | None = None
    batched: BatchedSimCLR | None = None
    channels_last: bool = False

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: BaseRecipe) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.recipe = recipe

    @classmethod
    def default_recipe(cls, id_name: str) -> str:
        """Name of the recipe for an ID set: the published one where the paper has the set."""
        return next((name for name, ids in cls.recipe_ids.items() if id_name in ids), "quick")

    @classmethod
    def make_backbone(
        cls, name: str, recipe: BaseRecipe, preprocess: Any, checkpoint: str | Path | None = None
    ) -> nn.Module | None:
        """The network that training starts from, where the method makes one of its own.

        Args:
            name: of the backbone.
            recipe: how it will be trained.
            preprocess: of what it sees.
            checkpoint: weights to start from; a classifier's head in it is left out.

        Returns:
            None for the registered backbone; see ``oodbench.networks.backbones.starting_backbone``.
        """
        return None

    @classmethod
    def get_recipe(cls, name: str) -> BaseRecipe:
        """The recipe of that name.

        Raises:
            UnknownNameError: the method has no such recipe.
        """
        if name not in cls.recipes:
            raise UnknownNameError(
                f"method {cls.name} has no recipe {name!r}. Its recipes: {', '.join(cls.recipes)}."
            )
        return cls.recipes[name]

    @classmethod
    def caveats(cls, recipe: str, checkpoint: str | Path | None) -> tuple[str, ...]:
        """What a reader of the rows of such a network has to know, a sentence or a few each.

        Args:
            recipe: the name of the one that it was trained by.
            checkpoint: weights that training started from, or None.
        """
        return ()

    @property
    def outliers_per_image(self) -> int:
        """How many images of ``beside`` come with each ID image."""
        return 0

    def receives(self, preprocess: Any) -> bool:
        """Make ready for images that come as bytes; whether the method can take them.

        One that has hooks of its own for batches that arrive is given what networks see.
        """
        if type(self).on_after_batch_transfer is not Method.on_after_batch_transfer:
            return False
        self.arrival = Arrival(preprocess)
        return True

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Lightning's, with copies to CUDA that overlap with its work."""
        return to_device(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """A batch as ``training_step`` takes it: images that came as bytes are normalised."""
        if self.arrival is None or not isinstance(batch, list | tuple):
            return batch
        images, *others = batch
        if self.batched is not None and isinstance(images, Mapping):
            levels = self.batched.levels(images)
            images = self.arrival.normalized(levels.movedim(-3, -1))
        elif isinstance(images, Tensor) and images.dtype is torch.uint8:
            images = self.arrival(images)
        else:
            return batch
        images = images if self.channels_last else images.contiguous()
        if self._trainer is not None:  # which would have been applied to what is no bytes
            images = self.trainer.precision_plugin.convert_input(images)
        return [images, *others]

    def batched_augmentation(self, preprocess: Any, seed: int) -> BatchedSimCLR | None:
        """What augments a whole batch where the network runs; None for each image by itself.

        Args:
            preprocess: the ID set's.
            seed: of all that is drawn.
        """
        return None

    def augmentation(self, preprocess: Preprocess) -> Augmentation:
        """What is done to a training image, for each view of it."""
        return lambda image, _: preprocess(image)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``{"loss": scalar, ...}`` of images ``[B, views, C, H, W]`` and labels ``[B]``.

        Where outliers come with the images, theirs are views ``[:, views:]``.
        """
        raise NotImplementedError

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """``features [B, D]``, ``logits [B, C]`` and extras of images ``[B, C, H, W]``."""
        raise NotImplementedError

    def head(self) -> Head | None:
        """The linear layer behind the features, where there is one."""
        return None

    def all_gather(
        self, data: Any, group: Any | None = None, sync_grads: bool = False
    ) -> Tensor | dict[str, Any] | list[Any] | tuple[Any, ...]:
        """Lightning's: tensors of all processes, stacked along a new first dimension.

        Its backward pass (torch 2.14 with gloo) exchanges gradients as they lie in memory and puts
        those of a transposed view in the wrong places, so they are made contiguous before.
        """
        gathered = super().all_gather(data, group, sync_grads)
        for tensor in tree_leaves(gathered):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(Tensor.contiguous)
        return gathered

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step: the loss, logged part by part."""
        images, labels = batch
        losses = self.loss(images, labels)
        self.log_dict(
            {f"train/{name}": value for name, value in losses.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(labels),
            prog_bar=True,
            sync_dist=True,
        )
        return losses["loss"]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, in groups as ``torch.optim.SGD`` takes them: all parameters alike."""
        return [{"params": list(self.parameters())}]

    def configure_optimizers(self) -> Any:
        """SGD and a learning rate that changes every step, both as the recipe says."""
        recipe = of_training(self.recipe)
        optimizer = torch.optim.SGD(
            self.parameter_groups(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov and recipe.momentum > 0,
            weight_decay=recipe.weight_decay,
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches) // recipe.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: recipe.lr_factor(step / steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

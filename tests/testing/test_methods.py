"""Each check of methods can fail: a broken method for each."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench import Head, Method, Paper, Recipe
from oodbench.errors import OODBenchError
from oodbench.testing import method_checks


class Sound(Method):
    """Cross-entropy on a linear head."""

    recipes: ClassVar[Any] = {"quick": Recipe(epochs=1)}

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.linear = nn.Linear(int(backbone.num_features), num_classes)  # type: ignore[arg-type]

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.linear(self.backbone(images[:, 0])), labels)}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        return {"features": features, "logits": self.linear(features)}

    def head(self) -> Head | None:
        return Head(self.linear.weight, self.linear.bias)


class Undocumented(Sound):
    pass


class BadPaper(Sound):
    """Names a paper without an address."""

    paper: ClassVar[Paper | None] = Paper("A paper", "Somebody", "ICLR", 2026, "")


class OtherTask(Sound):
    """Trains networks of no task that there is."""

    task: ClassVar[str] = "shapes"


class StandsForNothing(Sound):
    """Stands for a method that there is not."""

    stands_for: ClassVar[str | None] = "their-ce"


class StandsForItsOwn(Sound):
    """Stands for a method of its own task."""

    stands_for: ClassVar[str | None] = "ce"


class NoDefault(Sound):
    """Has no recipe for other ID sets."""

    recipes: ClassVar[Any] = {"published": Recipe()}


class UnknownRecipe(Sound):
    """Names a recipe that it has not."""

    recipe_ids: ClassVar[Any] = {"published": ("cifar10",)}


class Idle(Sound):
    """Has a layer that its loss leaves out, and does not say so."""

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.spare = nn.Linear(2, 2)


class NoJSON(Sound):
    """Has a recipe that is no dataclass."""

    recipes: ClassVar[Any] = {"quick": {"epochs": 1}}


class NaN(Sound):
    """Diverges at once."""

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": super().loss(images, labels)["loss"] * float("nan")}


class Vector(Sound):
    """Logs one value per sample."""

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {**super().loss(images, labels), "each": labels.float()}


class Detached(Sound):
    """Gives a number."""

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": super().loss(images, labels)["loss"].detach()}


class Flat(Sound):
    """Has a gradient of zero everywhere."""

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": 0 * super().loss(images, labels)["loss"]}


class Stuck(Sound):
    """Has a learning rate of zero."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.linear.parameters(), lr=0.0)

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone.eval().requires_grad_(False), num_classes, recipe)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats, module.running_mean, module.running_var = False, None, None  # noqa: E501  # fmt: skip
                module.num_batches_tracked = None


class Entropy(Sound):
    """Draws its head from the system's randomness."""

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "little"))
        nn.init.normal_(self.linear.weight, generator=generator)


class Hidden(Sound):
    """Keeps what it drew where no state is saved."""

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.shift = torch.randn(num_classes)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        outputs = super().outputs(images)
        return {**outputs, "logits": outputs["logits"] + self.shift}


class LogitsAlone(Sound):
    """Does not say that it gives logits alone."""

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": super().outputs(images)["logits"]}


class NoHead(Sound):
    """Promises a head."""

    gives: ClassVar[frozenset[str] | None] = frozenset({"features", "logits", "head"})

    def head(self) -> None:
        return None


class Wide(Sound):
    """Has a logit too many."""

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        outputs = super().outputs(images)
        return {**outputs, "logits": F.pad(outputs["logits"], (0, 1))}


class Summed(Sound):
    """Gives one row per batch."""

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {name: value.sum(0, keepdim=True) for name, value in super().outputs(images).items()}


class Centred(Sound):
    """Depends on the batch."""

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {name: value - value.mean(0) for name, value in super().outputs(images).items()}


class Turned(Sound):
    """Gives rows in another order."""

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {name: value.flip(0) for name, value in super().outputs(images).items()}


class Dropping(Sound):
    """Drops in evaluation mode, too."""

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {name: F.dropout(value) for name, value in super().outputs(images).items()}


class Learning(Sound):
    """Changes a weight whenever it is asked."""

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        outputs = super().outputs(images)
        self.linear.bias.data += 1
        return outputs


class OtherHead(Sound):
    """Gives a head without the bias."""

    def head(self) -> Head:
        return Head(2 * self.linear.weight)


BROKEN: dict[str, tuple[type[Method], ...]] = {
    "check_described": (Undocumented, BadPaper),
    "check_task": (OtherTask, StandsForNothing, StandsForItsOwn),
    "check_recipes": (NoDefault, UnknownRecipe, NoJSON),
    "check_loss": (NaN, Vector, Detached, Flat),
    "check_idle_parameters": (Idle,),
    "check_training": (Stuck,),
    "check_same_seed": (Entropy,),
    "check_state_dict": (Hidden,),
    "check_outputs": (LogitsAlone, NoHead, Wide, Summed),
    "check_batch_size": (Centred, Turned),
    "check_deterministic": (Dropping, Learning),
    "check_head": (OtherHead,),
}
CHECKS = {check.__name__: check for check in method_checks()}


def test_there_is_a_broken_one_for_each_check() -> None:
    assert set(BROKEN) == set(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_checks_can_fail(name: str) -> None:
    for broken in BROKEN[name]:
        with pytest.raises(AssertionError, match=broken.__name__):
            CHECKS[name](broken)


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_one_passes(name: str) -> None:
    CHECKS[name](Sound)


def test_an_unknown_task_is_refused_in_words() -> None:
    with pytest.raises(OODBenchError, match="shapes"):
        CHECKS["check_outputs"](OtherTask)

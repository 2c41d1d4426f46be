"""What is asked of a network, and what else it may say of itself: each part has one reader here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from oodbench.errors import OptionError
from oodbench.outputs import Head

if TYPE_CHECKING:
    from oodbench.data.transforms import Preprocess


@runtime_checkable
class Network(Protocol):
    """What extraction asks of a network: a module with ``outputs(images)`` and ``head()``.

    It may have further parts: ``own_preprocess`` (see :func:`own_preprocess_of`), ``trunk``,
    ``withheld``, ``notes`` and ``modality_heads``, each told of at the function that reads it.
    """

    def outputs(self, images: Any) -> dict[str, Tensor]:
        """Named tensors with one row a sample; ``features`` and ``logits`` among them."""

    def head(self) -> Head | None:
        """The linear layer behind the features, where there is one."""


@runtime_checkable
class BoxPredicting(Protocol):
    """What detection asks of a network: a module with ``detect`` and ``head``."""

    def detect(self, images: list[Tensor], least: float) -> dict[str, Tensor]:
        """The boxes of at least that confidence on images ``[channels, H, W]``, one row a box."""

    def head(self) -> Head | None:
        """The linear layer from a box's features to its logits without background."""


def network_of(module: nn.Module) -> Network:
    """A module that is a :class:`Network`, as one.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(module, Network):
        raise OptionError(
            f"the {type(module).__name__} has no outputs(images) and head(). Give it these, or "
            "wrap it with oodbench.extract.as_network, which finds them."
        )
    return module


def box_predicting(module: nn.Module) -> BoxPredicting:
    """A module that is :class:`BoxPredicting`, as one.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(module, BoxPredicting):
        raise OptionError(
            f"the {type(module).__name__} has no detect(images, least) and head(). Give it these, "
            "as oodbench.networks.boxes.BoxNetwork has them."
        )
    return module


def own_preprocess_of(network: nn.Module) -> Preprocess | None:
    """``own_preprocess``, what the network was trained to see; None where it does not say."""
    own: Preprocess | None = getattr(network, "own_preprocess", None)
    return own


def trunk_of(network: nn.Module) -> nn.Module | None:
    """``trunk``, the frozen network whose features the head of this one reads; None without one.

    A trunk need not see an image twice, however many heads there are.
    """
    trunk = getattr(network, "trunk", None)
    return trunk if isinstance(trunk, nn.Module) else None


def withheld_by(network: nn.Module) -> Mapping[str, str]:
    """``withheld``, names of outputs that the network does not give, and why not."""
    withheld: Mapping[str, str] = getattr(network, "withheld", {})
    return withheld


def head_notes_of(network: nn.Module) -> dict[str, str] | None:
    """``notes`` of a network that has checked its head itself; None of one that has not."""
    notes = getattr(network, "notes", None)
    return notes if isinstance(notes, dict) else None


def modality_heads_of(network: nn.Module) -> dict[str, Head]:
    """``modality_heads()``, the linear layer behind each modality's features, by modality."""
    heads: dict[str, Head] = getattr(network, "modality_heads", dict)()
    return heads

"""A network on a leaderboard: what it is, and how it came to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from oodbench.data.samples import Samples
from oodbench.data.transforms import Transform
from oodbench.networks.inputs import Said
from oodbench.preprocessing import Asked


@dataclass
class Contender:
    """A network on a leaderboard: what it is, and how it came to be.

    Args:
        network: any PyTorch classifier, or a module with ``outputs`` and ``head``.
        method: how it was trained; ``"external"`` for a network that oodbench did not train.
        backbone: its architecture's name.
        recipe: the recipe's name, or None.
        recipe_options: the recipe's fields.
        seed: of its training.
        preprocess: what its owner says of its preprocessing: a callable, a name, or parts; see
            :func:`oodbench.preprocessing.choose`, which also asks the network.
        said: what is known of that besides, such as a checkpoint's metadata.
        layer: the name of its linear head, if that cannot be found.
        trained_on: the ID training set, where oodbench trained it.
        claimed_method: the method that an external network's owner names.
        digest: what tells its weights, where they cannot be read.
        notes: what a reader of its rows has to know.
        auxiliary: what training saw beside the ID set, as rows tell it; None for nothing.
        beside: those images.
        arguments: what was asked for to get it, as far as nothing else here tells; see
            :class:`oodbench.results.rows.Row`.
    """

    network: nn.Module
    method: str = "external"
    backbone: str = ""
    recipe: str | None = None
    recipe_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    preprocess: Transform | str | Asked | None = None
    said: tuple[Said, ...] = ()
    layer: str | None = None
    trained_on: Samples | None = None
    claimed_method: str | None = None
    notes: tuple[str, ...] = ()
    digest: str | None = None
    auxiliary: dict[str, Any] | None = None
    beside: Samples | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def is_external(self) -> bool:
        """Whether oodbench did not train it."""
        return self.method == "external"

    @property
    def name(self) -> str:
        """What messages call the network: its class if it is somebody's, else its backbone."""
        return type(self.network).__name__ if self.is_external else self.backbone

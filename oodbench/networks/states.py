"""State dicts: which part of one is a network's, and which its head, under whatever prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from oodbench.networks.checkpoints import _AVERAGED as AVERAGED
from oodbench.networks.checkpoints import HEAD_NAMES, State

# A method call on an imported name is compiled in another way, which keys of runs would see.
_AVERAGED = AVERAGED


@dataclass(frozen=True)
class Part:
    """A network's weights in a state dict.

    Args:
        prefix: what their names begin with.
        state: names without the prefix, and values.
        inside: other names with the prefix.
        outside: names without it.
    """

    prefix: str
    state: State
    inside: list[str]
    outside: list[str]


def parts_of(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[Part]:
    """Where in a state dict a network's weights are, all of them and of the right shapes.

    Those of a moving average come last.

    Args:
        state: of a checkpoint.
        wanted: of the network.
    """
    needed = [key for key in wanted if not _is_counter(key)]
    if not needed:
        return []
    probe = needed[0]
    prefixes = [k.removesuffix(probe) for k in state if k == probe or k.endswith(f".{probe}")]
    parts = []
    for prefix in sorted(prefixes, key=lambda p: (bool(_AVERAGED.search(p)), len(p))):
        entries = {key: state[prefix + key] for key in wanted if prefix + key in state}
        if all(key in entries and entries[key].shape == wanted[key].shape for key in needed):
            rest = [k for k in state if not (k.startswith(prefix) and k[len(prefix) :] in entries)]
            inside = [k for k in rest if k.startswith(prefix)]
            outside = [k for k in rest if not k.startswith(prefix)]
            parts.append(Part(prefix, entries, inside, outside))
    return parts


def head_in(
    state: Mapping[str, Tensor], part: Part, classes: int, width: int
) -> tuple[str, Tensor, Tensor | None] | None:
    """The linear head behind a network: its name, weight ``[C, D]`` and bias; None if it has none.

    Args:
        state: of a checkpoint.
        part: the network's weights in it.
        classes: C.
        width: D.
    """
    rest = [k.removesuffix(".weight") for k in part.inside + part.outside if k.endswith(".weight")]
    fitting = [n for n in rest if _matrix(state[f"{n}.weight"]).shape == (classes, width)]
    levels = [part.prefix]
    while levels[-1]:
        levels.append(re.sub(r"[^.]*\.$", "", levels[-1]))
    usual = [f"{level}{name}" for level in levels for name in HEAD_NAMES]
    name = next((n for n in usual if n in fitting), fitting[0] if len(fitting) == 1 else None)
    if name is None:
        return None
    return name, _matrix(state[f"{name}.weight"]), state.get(f"{name}.bias")


def _matrix(weight: Tensor) -> Tensor:
    """A linear layer's weight, also of a 1x1 convolution."""
    is_pointwise = weight.ndim > 2 and weight.shape[2:].numel() == 1
    return weight.flatten(1) if is_pointwise else weight


def common_prefix(state: Mapping[str, Tensor]) -> str:
    """What all names begin with, up to a dot."""
    names = list(state)
    prefix = ""
    while names and all("." in name[len(prefix) :] for name in names):
        longer = names[0][: names[0].index(".", len(prefix)) + 1]
        if not all(name.startswith(longer) for name in names):
            break
        prefix = longer
    return prefix


def misfit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], most: int = 2) -> str:
    """Which names of a state dict are missing, unexpected or of another shape; ``""`` if it fits.

    How many batches a normalisation has seen may be missing. At most ``most`` of each are named.
    """
    missing = [k for k in wanted if k not in state and not _is_counter(k)]
    unexpected = [key for key in state if key not in wanted]
    misshapen = [
        f"{key} {list(state[key].shape)} instead of {list(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    return "; ".join(f"{what}: {_first(keys, most)}" for what, keys in kinds if keys)


def _first(keys: list[str], most: int) -> str:
    # the first, and a weight, which tells more than what stands beside it
    telling = [key for key in keys[1:] if ".weight" in key] + keys[1:]
    shown = [*keys[:1], *dict.fromkeys(telling)][:most]
    rest = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")

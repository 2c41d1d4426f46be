"""State dicts: which entry of a checkpoint is the weights, and which of these are a network's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

State = dict[str, Tensor]

# --- which entry is the weights --------------------------------------------------------------

_BESIDE = re.compile(
    r"(optim|opt$|sched|lr_|scaler|amp$|criterion|loss|sampler|rng|hyper|callbacks|loops|config"
    r"|cfg|args|stats|history|metric)",
    re.IGNORECASE,
)
_AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averaged?|momentum|target|teacher|encoder_k)", re.I)
_PREFERRED = (
    "state_dict model_state_dict model_state model net network module weights params teacher "
    "student"
).split()
_BODIES = ("backbone", "encoder", "feature_extractor", "features", "model", "net")
_HEADS = ("linear", "fc", "classifier", "head")
HEAD_NAMES = (*_HEADS, "head.fc")
"""How linear heads are called."""


def unpacked(value: Any) -> tuple[State | None, dict[str, str]]:
    """The weights in what a file holds, and which entry they are if there are several."""
    entries = dict(_entries(value))
    if not entries:
        return ({} if value == {} else None), {}
    if parts := _parts(entries):
        return parts, {}
    order = [name.rpartition("/")[2] for name in entries]
    places = {name: i for i, name in enumerate(_PREFERRED)}
    ranked = sorted(
        zip(entries, order, strict=True),
        key=lambda pair: (
            places.get(pair[1], 99),
            bool(_AVERAGED.search(pair[1])),
        ),
    )
    taken = ranked[0][0]
    if len(entries) == 1:
        return entries[taken], {}
    text = f"the checkpoint holds {_and(list(entries))}; {taken!r} was taken"
    return entries[taken], {"entries": text}


def _entries(value: Any, name: str = "", depth: int = 3) -> Iterator[tuple[str, State]]:
    """State dicts in nested mappings, by their path."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return
    tensors = {key: item for key, item in value.items() if isinstance(item, Tensor)}
    inner = [
        pair
        for key, item in value.items()
        if depth and not _BESIDE.match(key)
        for pair in _entries(item, f"{name}/{key}".lstrip("/"), depth - 1)
    ]
    if tensors and (not inner or any("." in key for key in tensors)):
        yield name, tensors
    else:
        yield from inner


def _parts(entries: Mapping[str, State]) -> State:
    """A body and a head that were saved side by side, as one."""
    body = next((name for name in _BODIES if name in entries), None)
    head = next((name for name in _HEADS if name in entries), None)
    if body is None or head is None or len(entries[head]) > 2:
        return {}
    return {f"{part}.{k}": v for part in (body, head) for k, v in entries[part].items()}


def unwrapped(state: State) -> State:
    """Without the prefixes of wrappers, and without the counters of averaged weights."""
    state = {k: v for k, v in state.items() if k.rpartition(".")[2] != "n_averaged"}
    state = {re.sub(r"(^|\.)_orig_mod\.", r"\1", key): value for key, value in state.items()}
    while state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _and(names: list[str]) -> str:
    shown = [repr(name) for name in names[:6]] + (["more"] if len(names) > 6 else [])
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


# --- which part of it is a network's ---------------------------------------------------------


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

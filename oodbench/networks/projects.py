"""Checkpoints of the projects that publish encoders, told by their names and given timm's."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from oodbench.errors import (
    CheckpointError,
)
from oodbench.networks.checkpoints import read_checkpoint
from oodbench.networks.states import misfit, parts_of

State = dict[str, Tensor]


def first_line(error: Exception) -> str:
    """The first line of what an error says, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


@dataclass(frozen=True)
class Table:
    """Names of a family of checkpoints.

    Args:
        name: the family.
        mark: a pattern that some name of such a checkpoint matches.
        translate: ``translate(state, model)`` gives timm's names.
    """

    name: str
    mark: str
    translate: Callable[[State, nn.Module], State]


def _below(prefix: str, *dropped: str) -> Callable[[State, nn.Module], State]:
    """Takes what is below a prefix, but for some of it."""

    def translate(state: State, _: nn.Module) -> State:
        inner = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
        return {key: value for key, value in inner.items() if not key.startswith(dropped)}

    return translate


def _without(*dropped: str) -> Callable[[State, nn.Module], State]:
    return _below("", *dropped)


_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_project_conv": "conv_pwl",
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_bn1": "bn2",
    "_bn2": "bn3",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
}


_FIRST_BLOCK = {**_BLOCK, "_project_conv": "conv_pw", "_bn1": "bn1", "_bn2": "bn2"}
"""Of a block that does not expand, whose first convolution is the depthwise one."""


_AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}


def efficientnet_pytorch(state: State, model: nn.Module) -> State:
    """Blocks are numbered through; timm numbers them within their stages."""
    stages: Any = getattr(model, "blocks", ())
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(stages) for b in range(len(stage))]
    expands = {
        key.split(".")[1] for key in state if key.startswith("_blocks.") and "_expand" in key
    }
    renamed = {}
    for key, value in state.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", key):
            number, part, rest = match.groups()
            names = _BLOCK if number in expands else _FIRST_BLOCK
            if int(number) < len(places) and part in names:
                key = f"{places[int(number)]}.{names[part]}.{rest}"
        elif (part := key.partition(".")[0]) in _AROUND:
            key = key.replace(part, _AROUND[part], 1)
        elif part == "_fc":
            continue
        renamed[key] = value
    return renamed


TABLES = (
    Table("EfficientNet-PyTorch", r"_blocks\.\d+\._depthwise_conv", efficientnet_pytorch),
    Table("MoCo v3", r"base_encoder\.", _below("base_encoder.", "head.", "fc.")),
    Table("MoCo v1 and v2", r"encoder_q\.", _below("encoder_q.", "fc.")),
    Table("DINO", r"backbone\.", _below("backbone.")),
    Table("MAE", r"decoder_embed\.", _without("decoder", "mask_token")),
)
"""Checkpoints that are told from timm's by a name in them; timm's own converters come after these
(CLIP's and OpenCLIP's image towers, DINOv2 and many more)."""


def load_weights(model: nn.Module, name: str, checkpoint: str | Path) -> dict[str, str]:
    """Fill a network with a checkpoint's weights, all of them; returns the file's metadata."""
    state, metadata = read_checkpoint(checkpoint)
    used = [table for table in TABLES if any(re.match(table.mark, key) for key in state)][:1]
    for table in used:
        state = table.translate(state, model)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None and hasattr(model, "pretrained_cfg"):
        try:
            state = convert(state, model)
        except Exception as error:  # timm's converters take names for granted
            raise _unfit(
                name, checkpoint, f"timm's conversion fails: {first_line(error)}"
            ) from error
    classifiers: Any = getattr(model, "pretrained_cfg", {}).get("classifier") or _HEADS
    heads = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    tops = {head.partition(".")[0] for head in heads}  # some are more than a linear layer
    wanted = model.state_dict()
    state = {k: v for k, v in state.items() if k in wanted or k.partition(".")[0] not in tops}
    if misfit(state, wanted):  # perhaps it fits below a prefix
        parts = parts_of(state, wanted)
        inside = [key.removeprefix(part.prefix) for part in parts[:1] for key in part.inside]
        if parts and all(key.partition(".")[0] in tops for key in inside):
            state = parts[0].state
    if reason := misfit(state, wanted):
        read = f"read as one of {used[0].name}; " if used else ""
        raise _unfit(name, checkpoint, read + reason)
    model.load_state_dict(state, strict=False)
    return metadata


_HEADS = ("linear", "fc", "classifier", "head")


def _unfit(name: str, checkpoint: str | Path, reason: str) -> CheckpointError:
    tables = ", ".join(table.name for table in TABLES)
    return CheckpointError(
        f"the names in {checkpoint} match no table for {name} ({reason}). Is it of another "
        f"architecture (`backbone`)? Known are timm's own names and those of {tables}; rename "
        "others to timm's."
    )

"""Trained classifiers: a backbone by name, with the weights and the linear head of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from oodbench.errors import CheckpointError
from oodbench.networks.backbones import create_backbone, is_registered
from oodbench.networks.checkpoints import HEAD_NAMES, read_checkpoint
from oodbench.networks.classifier import Classifier
from oodbench.networks.door import single_precision
from oodbench.networks.lookalikes import looks_like
from oodbench.networks.states import Part, common_prefix, head_in, misfit, parts_of
from oodbench.outputs import Head


class HeadedBackbone(nn.Module):
    """A backbone with a linear head, as checkpoints of trained classifiers have it.

    Args:
        backbone: ``[B, ...] -> [B, D]`` with ``num_features``.
        num_classes: C.
    """

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.linear = nn.Linear(int(backbone.num_features), num_classes)  # type: ignore[arg-type]

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """``features [B, D]`` and ``logits [B, C]``."""
        features = self.backbone(images)
        return {"features": features, "logits": self.linear(features)}

    def head(self) -> Head:
        """The linear layer behind the features."""
        return Head(self.linear.weight, self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        return self.outputs(images)["logits"]


@single_precision()
def load_classifier(
    name: str, checkpoint: str | Path, num_classes: int, channels: int = 3
) -> tuple[nn.Module, dict[str, str]]:
    """A trained classifier: a backbone by name, weights and linear head from a checkpoint.

    The head is the checkpoint's ``linear``, ``fc``, ``classifier``, ``head`` or ``head.fc``, or the
    only layer of its shape. The backbone may be under any prefix: a checkpoint of one of oodbench's
    own runs (``backbone.`` and ``linear.``) is read as well as Lightning's (``model.``).

    Returns:
        The network, and the checkpoint's metadata (safetensors may carry ``mean`` and ``std``;
        ``entries`` tells which of several networks in it was taken).

    Raises:
        CheckpointError: names or shapes that do not fit; tells which, and what it looks like.
    """
    state, metadata = read_checkpoint(checkpoint)
    network = HeadedBackbone(create_backbone(name, channels), num_classes)
    width = network.linear.in_features
    candidates: list[tuple[Part, tuple[str, Tensor, Tensor | None]]] = []
    for part in parts_of(state, network.backbone.state_dict()):
        head = head_in(state, part, num_classes, width)
        if head and all(key.startswith(f"{head[0]}.") for key in part.inside):
            candidates.append((part, head))
    if not candidates:
        if (whole := _with_own_head(name, state, num_classes, channels)) is not None:
            return whole, metadata
        raise CheckpointError(_unfit(state, network, checkpoint, name))
    part, (_, weight, bias) = candidates[0]
    bias = network.linear.bias.new_zeros(num_classes) if bias is None else bias
    network.backbone.load_state_dict(part.state, strict=False)
    network.linear.load_state_dict({"weight": weight, "bias": bias})
    if len(candidates) > 1 and "entries" not in metadata:
        prefixes = [repr(one.prefix) for one, _ in candidates]
        text = f"the checkpoint holds networks under {', '.join(prefixes)}; the first was taken"
        metadata = {**metadata, "entries": text}
    return network.eval(), metadata


def classes_in(name: str, checkpoint: str | Path, channels: int = 3) -> int | None:
    """How many classes a checkpoint's head has, by its usual names; None where none is found.

    Args:
        name: of the backbone.
        checkpoint: the file.
        channels: of its images.

    Raises:
        CheckpointError: the file holds no weights.
    """
    state, _ = read_checkpoint(checkpoint)
    backbone = create_backbone(name, channels)
    width = int(backbone.num_features)  # type: ignore[arg-type]
    for part in parts_of(state, backbone.state_dict()):
        weights = (key for key in (*part.inside, *part.outside) if key.endswith(".weight"))
        heads = (key for key in weights if f".{key}".endswith(_HEAD_WEIGHTS))
        counts = {_classes(state[key], width) for key in heads} - {None}
        if len(counts) == 1:
            return counts.pop()
    return None


_HEAD_WEIGHTS = tuple(f".{name}.weight" for name in HEAD_NAMES)


def _classes(weight: Tensor, width: int) -> int | None:
    """C of a linear layer's weight ``[C, D]``; None for another."""
    matrix = weight.flatten(1)
    return len(matrix) if matrix.ndim == 2 and matrix.shape[1] == width else None


def _with_own_head(
    name: str, state: Mapping[str, Tensor], num_classes: int, channels: int
) -> nn.Module | None:
    """A network of timm's with the head that timm gives it, if the weights are all of it.

    Some have more than a linear layer there: two whose mean is taken, one per stage, or a
    normalisation.
    """
    import timm

    if is_registered(name) or not timm.is_model(name):
        return None
    network = timm.create_model(name, num_classes=num_classes, in_chans=channels)
    prefix = common_prefix(state)
    head_state = {key.removeprefix(prefix): value for key, value in state.items()}
    if misfit(head_state, network.state_dict()):
        return None
    network.load_state_dict(head_state, strict=False)
    return Classifier(network.eval(), classes=num_classes)


def _unfit(
    state: Mapping[str, Tensor], network: HeadedBackbone, checkpoint: str | Path, name: str
) -> str:
    """Why a checkpoint does not fit: some names, and which backbone it looks like."""
    classes, prefix = network.linear.out_features, common_prefix(state)
    like = looks_like(state, name) or "Is it another architecture, or of another ID set?"
    state = {key.removeprefix(prefix): value for key, value in state.items()}
    parts = parts_of(state, network.backbone.state_dict())
    head = next((n for n in HEAD_NAMES if f"{n}.weight" in state), "linear")
    inner = parts[0].prefix if parts else "backbone."
    renamed = {}
    for key, value in state.items():
        if key.startswith(f"{head}."):
            renamed[f"linear.{key.removeprefix(head + '.')}"] = value
        else:
            renamed[key.removeprefix(inner)] = value
    wanted = {
        **network.backbone.state_dict(),
        **{f"linear.{key}": value for key, value in network.linear.state_dict().items()},
    }
    reason = misfit(renamed, wanted).replace("linear.", f"{head}.") or "its head is not clear"
    return (
        f"{checkpoint} does not fit {name} with {classes} classes; {reason}. "
        f"{like} One without a head for these classes is for methods for pre-trained networks."
    )

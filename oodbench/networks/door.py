"""What goes into a network and comes out: in its own number type, and with errors for people."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils._pytree import tree_leaves, tree_map

from oodbench.errors import OODBenchError
from oodbench.outputs import Head

_CLOSED = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


@contextlib.contextmanager
def single_precision() -> Iterator[None]:
    """New tensors are float32 here, whatever a caller has chosen, as the figures are ours."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        if torch.get_default_dtype() is torch.float32:  # who changed it in the block is to be seen
            torch.set_default_dtype(before)


def number_type(network: nn.Module) -> torch.dtype | None:
    """The type of numbers that a network computes in: of its first weights, else buffers.

    None for a network without any, which takes images as they are.
    """
    values = chain(network.parameters(), network.buffers())
    return next((v.dtype for v in values if v.is_floating_point() and v.element_size() > 1), None)


def fed(network: nn.Module, inputs: Any) -> Any:
    """Images, or tensors by modality, in the network's type of numbers; whole numbers stay."""
    dtype = number_type(network)

    def cast(value: Any) -> Any:
        is_other = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != dtype
        return value.to(dtype) if is_other and dtype is not None else value

    return tree_map(cast, inputs)


def check_weights(network: nn.Module) -> None:
    """Refuse a network that has no weights yet.

    Raises:
        OODBenchError: a lazy layer has not seen its first batch.
    """
    lazy = [
        name
        for name, module in network.named_modules()
        if any(isinstance(p, UninitializedParameter) for p in module._parameters.values())
    ]
    if lazy:
        raise OODBenchError(
            f"the {called(network)} has layers without weights so far ({', '.join(lazy[:3])}): "
            "lazy ones, whose size the first batch tells. Pass one through it, then give it."
        )


def called(network: nn.Module) -> str:
    """What messages call a network: its class, or that of the model inside wrappers of ours."""
    parts = (getattr(network, name, None) for name in ("model", "backbone", "detector"))
    inner = next((part for part in parts if isinstance(part, nn.Module)), None)
    if inner is None or not type(network).__module__.startswith("oodbench."):
        return type(network).__name__
    return called(inner)


@contextlib.contextmanager
def explained(network: nn.Module, inputs: Any) -> Iterator[None]:
    """What a network raises becomes an error that names it, what it was given, and a way out.

    Raises:
        OODBenchError: the network fails; what it raised is the cause.
    """
    try:
        yield
    except OODBenchError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _too_large(network, inputs) from error
    except Exception as error:  # whatever a stranger's code makes of images
        if "can't allocate memory" in str(error):
            raise _too_large(network, inputs) from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OODBenchError(
            f"the {called(network)} cannot take {_kind_of(inputs)} ({lines[0].rstrip('.')[:200]}). "
            f"{_advice(network, inputs)}"
        ) from error


@contextlib.contextmanager
def size_errors_explained(method: Any, batches: Iterable[Any]) -> Iterator[None]:
    """Training that fails because the backbone cannot take its images says so.

    Args:
        method: with a ``backbone``, which is looked at alone when something fails.
        batches: of images ``[B, views, ...]`` and labels.

    Raises:
        OODBenchError: the backbone cannot take the first batch.
    """
    try:
        yield
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        arrived = getattr(method, "on_after_batch_transfer", lambda batch, _: batch)
        first = arrived(next(iter(batches)), 0)[0]
        if not isinstance(error, OODBenchError) and all(
            isinstance(value, Tensor) and value.ndim > 2 for value in tree_leaves(first)
        ):
            device = next((p.device for p in method.backbone.parameters()), torch.device("cpu"))
            images = tree_map(lambda value: value[:, 0].to(device), first)
            with torch.no_grad(), explained(method.backbone.eval(), images):
                method.backbone(images)
        raise


def _too_large(network: nn.Module, inputs: Any) -> OODBenchError:
    return OODBenchError(
        f"there is not enough memory for the {called(network)} on {_kind_of(inputs)}. Give it "
        "fewer at a time: hardware=Hardware(batch_size=16), or another device."
    )


def _kind_of(inputs: Any) -> str:
    """The inputs for a message, such as ``images of 3 x 32 x 32 (float32)``."""

    def one(value: Tensor) -> str:
        return f"{' x '.join(map(str, value.shape[1:]))} ({str(value.dtype).partition('.')[2]})"

    if isinstance(inputs, Mapping):
        parts = (f"{key} of {one(v)}" for key, v in inputs.items() if isinstance(v, Tensor))
        return ", ".join(parts)
    return f"images of {one(inputs)}" if isinstance(inputs, Tensor) else "its inputs"


def _advice(network: nn.Module, inputs: Any) -> str:
    types = {str(p.dtype).partition(".")[2] for p in network.parameters()}
    if len(types) > 1:
        return (
            f"Its weights are of several types, {', '.join(sorted(types))}: cast between them in "
            "its forward, or give it in one (model.float())."
        )
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    wanted = None if first is None else first.in_channels
    channels = inputs.shape[1] if isinstance(inputs, Tensor) and inputs.ndim == 4 else None
    if None not in (wanted, channels) and wanted != channels:
        mode = {1: ", mode='L'", 3: ", mode='RGB'"}.get(wanted or 0, "")
        return (
            f"It wants {wanted} channel(s), and the images have {channels}: say how they are made "
            f"for it, preprocess=Preprocess(size, mean, std{mode})."
        )
    return (
        "Were they prepared for a network of another kind? Say how they are made for this one, "
        "preprocess=Preprocess(size, mean, std), or choose a network for such images."
    )


def kept(network: nn.Module, outputs: Any, n: int) -> dict[str, Tensor]:
    """What a network says of ``n`` samples, in types that detectors and files can hold.

    Half precision becomes float32, which holds it exactly; features and logits that are whole
    numbers become float64.

    Raises:
        OODBenchError: an output is no tensor with one row per sample, or is complex.
    """
    who = f"the {called(network)}"
    if not isinstance(outputs, Mapping) or not outputs:
        raise OODBenchError(
            f"{who} must give named tensors, {{'features': ..., 'logits': ...}}, but its outputs() "
            f"gives {type(outputs).__name__}."
        )
    columns = {}
    for name, value in outputs.items():
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != n:
            what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise OODBenchError(f"{who} must give {name} with one row per sample, {n}, not {what}.")
        if value.is_complex():
            raise OODBenchError(
                f"{who} gives complex {name} ({value.dtype}), which have no order. Give real ones: "
                "their magnitude, or real and imaginary parts side by side."
            )
        if value.is_floating_point() and value.element_size() < 4:
            value = value.float()
        elif value.dtype in _CLOSED and name.partition("/")[0] in ("features", "logits"):
            value = value.double()
        columns[name] = value
    return columns


def kept_head(head: Head | None) -> Head | None:
    """A head whose weights detectors and files can hold: half precision becomes float32."""
    if head is None or head.weight.element_size() > 2:
        return head
    return head.each(lambda value: value.float() if value.is_floating_point() else value)


def at_door(network: nn.Module) -> None:
    """Have a network take float32 images and give what :func:`kept` gives, whatever its own type.

    For a detector that looks into it, and calculates with images and outputs itself. The network's
    own methods are replaced, so that its layers keep their names: give it a copy.
    """
    module: Any = network
    outputs, head, forward = module.outputs, module.head, module.forward

    def say(images: Any) -> dict[str, Tensor]:
        with explained(network, images):
            return kept(network, outputs(fed(network, images)), len(tree_leaves(images)[0]))

    def through(images: Any) -> Any:
        with explained(network, images):
            return forward(fed(network, images))

    module.outputs, module.head, module.forward = say, lambda: kept_head(head()), through

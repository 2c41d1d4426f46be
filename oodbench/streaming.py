"""Outputs at a device, whatever their size: what a detector asks for is moved when it asks.

A column of :func:`streamed` outputs stays where it is, in memory or in a mapped file, and says that
it is on the device. A piece of it is a column of the same kind, as is a piece of that; as soon as
something is calculated with one, its values are copied to the device. So code that goes through
outputs in blocks needs no more of the device's memory than a block, and is the same code
everywhere; what wants a whole column (a bank of neighbours) gets a whole one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from oodbench.errors import ChangedInputsError, OODBenchError
from oodbench.outputs import Outputs

KEPT = 2**26
"""Bytes of a piece whose values stay at the device as long as the piece lives."""

_ATEN = torch.ops.aten
_SLICES = (_ATEN.slice.Tensor,)
_SAME = (_ATEN.detach.default, _ATEN.alias.default)
_GATHERS = (_ATEN.index.Tensor, _ATEN.index_select.default)


class Streamed(Tensor):
    """A column that is calculated with at a device, and lies elsewhere.

    Args:
        source: where it lies.
        device: where it is calculated with.
    """

    _source: Tensor
    _there: Tensor | None

    @staticmethod
    def __new__(cls, source: Tensor, device: torch.device) -> Streamed:
        """A tensor without memory of its own."""
        made: Streamed = torch.Tensor._make_wrapper_subclass(
            cls, source.shape, strides=source.stride(), dtype=source.dtype, device=device
        )
        return made

    def __init__(self, source: Tensor, device: torch.device) -> None:
        super().__init__()
        self._source, self._there = source, None

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """An operation: pieces are cut where the column lies, all else happens at the device."""
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if isinstance(first, Streamed):
            if (cut := _cut(func, first, args, kwargs)) is not None:
                return cut
            if _writes(func):
                raise ChangedInputsError(
                    "outputs that are scored at a device cannot be changed in place: others read "
                    "them too. Work on a copy, such as value.clone()."
                )
            if _makes_new(func):
                args = (_without_values(first), *args[1:])
        return func(*tree_map(_moved, args), **tree_map(_moved, kwargs))

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Streamed({list(self.shape)}, {self.dtype}, to {self.device})"

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.moved().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.moved().__reduce_ex__(protocol)

    def tolist(self) -> Any:
        """Its values as Python's numbers."""
        return self._source.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """What any tensor at such a device does: refuses, unless it is forced."""
        return self.moved().numpy(force=force)

    def moved(self) -> Tensor:
        """Its values at the device; a small piece's stay there."""
        if self._there is not None:
            return self._there
        source = self._source
        there = source.to(self.device, copy=source.device == self.device)
        if source.nbytes <= KEPT:
            self._there = there
        return there


def _cut(
    func: Any, column: Streamed, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Streamed | Tensor | tuple[Streamed, ...] | list[Streamed] | None:
    """A piece of a column, where that is what is asked for."""
    source, device = column._source, column.device
    if func in _SAME:
        return _of(source, device, column._there)
    if column._there is not None:  # the piece's values are at the device already
        return None
    if func in _SLICES:
        return Streamed(func(source, *args[1:], **kwargs), device)
    if func is _ATEN.split.Tensor:
        return [Streamed(part, device) for part in func(source, *args[1:], **kwargs)]
    if func in _GATHERS:
        here = tree_map(lambda value: value.to(source.device) if _is(value) else value, args[1:])
        gathered: Tensor = func(source, *here, **kwargs)
        return gathered.to(device)
    if func is _ATEN._to_copy.default and kwargs.get("device") == source.device:
        copied: Tensor = func(source, *args[1:], **kwargs)
        return copied
    return None


def _of(source: Tensor, device: torch.device, there: Tensor | None) -> Streamed:
    same = Streamed(source, device)
    same._there = there
    return same


def _is(value: Any) -> bool:
    return isinstance(value, Tensor)


def _moved(value: Any) -> Any:
    return value.moved() if isinstance(value, Streamed) else value


def _writes(func: Any) -> bool:
    alias = func._schema.arguments[0].alias_info
    return alias is not None and bool(alias.is_write)


def _makes_new(func: Any) -> bool:
    """Whether a function reads nothing of a tensor but its shape, its type and where it is."""
    name: str = func._schema.name.partition("::")[2]
    return name.startswith("new_") or name.endswith("_like")


def _without_values(column: Streamed) -> Tensor:
    return torch.empty((), dtype=column.dtype, device=column.device).expand(column.shape)


def streamed(outputs: Outputs, device: torch.device | str) -> Outputs:
    """The same outputs, which are calculated with at a device; the head, which is small, is there.

    Nothing is copied but the head. What was looked through stays so.
    """
    device = torch.empty(0, device=device).device  # with its number
    columns = {name: Streamed(value, device) for name, value in outputs.columns()}
    head = outputs.head and outputs.head.each(lambda value: value.to(device))
    moved = Outputs.of_columns(columns, head, outputs.notes)
    moved.looks_of(outputs)
    return moved


def at_device(
    device: torch.device, detector: Any, outputs: Outputs, work: Callable[[Outputs], Any]
) -> Any:
    """What a detector does with outputs, at a device; what it holds is on the CPU afterwards.

    Args:
        device: where; on the CPU the outputs are what they are.
        detector: whose work it is.
        outputs: what it reads.
        work: its ``fit`` or its ``score``.

    Raises:
        OODBenchError: the device has not enough memory.
    """
    if device.type == "cpu":
        return work(outputs)
    try:
        put(detector, device)
        result = work(streamed(outputs, device))
        return result.cpu() if isinstance(result, Tensor) else result
    except torch.OutOfMemoryError as error:
        raise OODBenchError(
            f"{device} has not enough memory for {detector.label} on {len(outputs):,} samples. "
            "Score on the CPU: `scoring_device=cpu`."
        ) from error
    finally:
        put(detector, "cpu")


def put(holder: Any, device: torch.device | str) -> None:
    """Move what a fitted detector holds to a device: its tensors, and those in what it holds."""
    for name, value in list(vars(holder).items()):
        moved = _put(value, torch.device(device))
        if moved is not value:
            object.__setattr__(holder, name, moved)


def _put(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, nn.Module):
        return value.to(device)
    if isinstance(value, Mapping):
        return _same_kind(value, {key: _put(item, device) for key, item in value.items()}, dict)
    if type(value) in (list, tuple):
        return _same_kind(value, [_put(item, device) for item in value], type(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        put(value, device)
    return value


def _same_kind(before: Any, after: Any, kind: Callable[[Any], Any]) -> Any:
    """What was moved, in a container of its kind; the container itself where nothing was."""
    old: Iterable[Any] = before.values() if isinstance(before, Mapping) else before
    new: Iterable[Any] = after.values() if isinstance(after, Mapping) else after
    is_same = all(one is other for one, other in zip(old, new, strict=True))
    return before if is_same else kind(after)

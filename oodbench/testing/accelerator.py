"""A stand-in for an accelerator: a device that refuses what a CUDA device refuses.

Its values lie in memory and are calculated on the CPU, so results are right; but a tensor on it
says that it is elsewhere (on ``meta``, the only device that needs no driver), an operation on
tensors of both places raises as CUDA does, and NumPy cannot read it. So a detector that makes a
tensor in the wrong place fails on a machine without any accelerator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
"""Where its tensors say that they are."""


class Elsewhere(Tensor):
    """A tensor of the stand-in.

    Args:
        values: what it holds, on the CPU.
    """

    _held: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Elsewhere:
        """A tensor without memory of its own."""
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        return made

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self._held = values

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """An operation on such tensors, and on no others."""
        if any(map(_is_foreign, types)):
            return NotImplemented
        return _calculated(func, args, dict(kwargs or {}))

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Elsewhere({self._held!r})"

    def tolist(self) -> Any:
        """Its values as Python's numbers, which any device gives."""
        return self._held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refuses, as NumPy has no access to a device.

        Raises:
            TypeError: always, unless it is forced.
        """
        if force:
            return self._held.numpy(force=True)
        raise TypeError(
            "can't convert a tensor of an accelerator to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def __deepcopy__(self, memo: Any) -> Elsewhere:
        return Elsewhere(self._held.clone())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (Elsewhere, (self._held,))


_FREE = ("aten::copy_", "aten::_to_copy", "aten::index_put_", "aten::_index_put_impl_")
"""Operations that take tensors of two places: a copy, and an index that is on the CPU."""


def _calculated(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    asked = kwargs.get("device")
    if asked is not None:
        asked = torch.device(asked)
        kwargs["device"] = torch.device("cpu") if asked.type == DEVICE.type else asked
    there = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    name = func._schema.name
    _check(name, args, there)
    is_there = asked.type == DEVICE.type if asked is not None else _is_there(name, args, there)
    result = func(*tree_map(_values, args), **tree_map(_values, kwargs))
    written = _written(func, args, kwargs)
    if written is not None:  # what was changed in place is what it was, with other values
        return written
    if not is_there:
        return result
    return tree_map(lambda value: Elsewhere(value) if isinstance(value, Tensor) else value, result)


def _check(name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """Refuse what mixes places; numbers (of no dimension) on the CPU go everywhere.

    Raises:
        RuntimeError: as CUDA does.
    """
    if name in _FREE[:2]:
        return
    if name in ("aten::index.Tensor", "aten::index", *_FREE[2:]):
        # an index may be on the CPU where the values are not, but not the other way round
        wrong = not isinstance(args[0], Elsewhere) and any(
            isinstance(value, Elsewhere) for value in tree_leaves(args[1])
        )
    else:
        places = {isinstance(value, Elsewhere) for value in tensors if value.ndim}
        wrong = len(places) > 1
    if wrong:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} got tensors of the "
            "accelerator and of the CPU."
        )


def _is_there(name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> bool:
    if name in _FREE or name.startswith("aten::index"):
        return isinstance(args[0], Elsewhere)
    return any(isinstance(value, Elsewhere) for value in tensors)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation was to write to, in the order in which it gives it back."""
    written = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        if number < len(args) and not argument.kwarg_only:
            written.append(args[number])
        elif argument.name in kwargs:
            written.append(kwargs[argument.name])
    if not written or not all(isinstance(value, Elsewhere) for value in written):
        return None
    for value in written:
        if value.shape != value._held.shape:  # an empty `out` took the result's shape
            raise RuntimeError("resizing in place is not told of by the stand-in")
    return written[0] if len(written) == 1 else tuple(written)


def _is_foreign(kind: type) -> bool:
    """Whether a kind of tensor has its own way to calculate."""
    return kind not in (Tensor, nn.Parameter) and not issubclass(kind, Elsewhere)


def _values(value: Any) -> Any:
    return value._held if isinstance(value, Elsewhere) else value


class _Making(TorchDispatchMode):
    """Tensors that are made on the stand-in."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if any(map(_is_foreign, types)):
            return NotImplemented  # another kind of tensor knows what to do, with this mode on
        return _calculated(func, args, dict(kwargs or {}))


class _Calls(TorchFunctionMode):
    """What torch does below the reach of the mode above."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        asked = kwargs.get("device")
        is_here = asked is None or torch.device(asked).type != DEVICE.type
        if func in (torch.tensor, torch.as_tensor) and not is_here:
            # its values are copied before a mode sees them
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        if func in _PRODUCTS and args[0].ndim == 1 and args[1].ndim == 2:
            return torch.mv(args[1].T, args[0])  # theirs takes a dimension away in place
        if func in _QUANTILES and isinstance(args[0], Elsewhere):  # theirs does so too
            return Elsewhere(func(args[0]._held, *args[1:], **kwargs))
        return func(*args, **kwargs)


_QUANTILES = (torch.quantile, Tensor.quantile)
_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)


@contextlib.contextmanager
def stand_in() -> Iterator[torch.device]:
    """The device; tensors can be made on it, and moved to it, within the block."""
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Making(), _Calls():  # type: ignore[no-untyped-call]
            yield DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)

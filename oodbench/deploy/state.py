"""What a fitted detector holds, as JSON and named tensors: no pickle, and no code when it is read.

A value is written by what it is: None, bool, int, float and str as JSON has them; a tensor, a NumPy
array and a random generator as a name, under which its numbers lie beside the JSON, with their type
and strides, so that a product of them rounds as before; a list, tuple, dict or set as its items; an
object as the name of its class and its attributes. When it is read, an object is made without its
``__init__``, of a class that is one of a short list:

- a registered detector, built of its options as ever;
- a dataclass, enum or module of the file in which the detector's class (or a base of it) stands,
  and what the detector names in ``state_classes``;
- a layer of ``torch.nn`` and an estimator of scikit-learn, both of the installed version.

A folder can name no other class, so a stranger's folder runs nothing that is not part of these.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import importlib
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.caching.fingerprint import code_digest
from oodbench.detector import Detector
from oodbench.errors import FittedError, OODBenchError, OODBenchWarning
from oodbench.options import build
from oodbench.outputs import Head, Outputs
from oodbench.registry import DETECTORS

DEEPEST = 60
"""Levels of nested values; more of them is an object that holds itself."""

_OWN_KINDS = (Head, Outputs)
_SEQUENCES: Mapping[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_MAPPINGS: Mapping[str, Any] = {"dict": dict, "ordered": collections.OrderedDict}


@dataclass
class State:
    """A fitted detector as data.

    Args:
        tree: what JSON can hold.
        tensors: the numbers, by the names that stand in the tree.
    """

    tree: Any
    tensors: dict[str, Tensor]


def state_of(detector: Detector) -> State:
    """What a detector is and has learned, as data.

    Raises:
        FittedError: it holds what cannot be written without pickle; names it, and says what to do.
    """
    writer = _Writer(detector.label)
    tree = writer.detector(detector, detector.label)
    return State(tree, writer.tensors)


def detector_of(
    state: State, device: torch.device | str = "cpu", *, strict: bool = True
) -> Detector:
    """The detector that such data tells of.

    Args:
        state: the data.
        device: where its tensors are put.
        strict: whether other code than it was fitted with is refused; else it is a warning.

    Raises:
        UnknownNameError: no detector of that name is installed.
        FittedError: the data is damaged, or made by other code than is installed.
    """
    return _Reader(state.tensors, torch.device(device), strict).detector(state.tree)


def moved(detector: Detector, device: torch.device | str) -> Detector:
    """A copy of a fitted detector whose tensors are on a device."""
    return detector_of(state_of(detector), device)


# --- writing ----------------------------------------------------------------------------------


@dataclass
class _Writer:
    who: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    known: dict[int, tuple[Any, str]] = field(default_factory=dict)

    def detector(self, detector: Detector, where: str) -> dict[str, Any]:
        cls = type(detector)
        name = cls.name
        if name not in DETECTORS or DETECTORS.get(name) is not cls:
            raise FittedError(
                f"{cls.__name__} is not registered, so nobody could find it when it is loaded. "
                'Decorate the class with @oodbench.register_detector("name").'
            )
        return {
            "detector": name,
            "code": code_digest(cls),
            "options": detector.options(),
            "fitted": bool(detector._is_fitted),
            "state": {
                key: self.value(value, f"{where}.{key}", detector)
                for key, value in detector.fitted_state().items()
            },
        }

    def value(self, value: Any, where: str, owner: Detector, depth: int = 0) -> Any:
        if depth > DEEPEST:
            raise self._refused(where, "is nested without end: it holds itself")
        if value is None or type(value) in (bool, str):
            return value
        if type(value) is int:
            return value if abs(value) < 2**53 else {"int": str(value)}
        if type(value) is float:
            return value if math.isfinite(value) else {"float": str(value)}

        def inner(one: Any, name: object) -> Any:
            return self.value(one, f"{where}[{name!r}]", owner, depth + 1)

        if isinstance(value, Detector):
            return self.detector(value, where)
        if isinstance(value, enum.Enum):  # before int and str, which it may be as well
            return {"enum": self._class(type(value), where, owner), "name": value.name}
        for name, kind in _SEQUENCES.items():
            if type(value) is kind:
                items = list(value)
                if kind in (set, frozenset):
                    items = sorted(items, key=repr)
                return {name: [inner(one, i) for i, one in enumerate(items)]}
        for name, kind in _MAPPINGS.items():
            if type(value) is kind:
                return {name: [[inner(k, k), inner(v, k)] for k, v in value.items()]}
        if isinstance(value, Tensor):
            return self._tensor(value, where)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value, where)
        if isinstance(value, torch.dtype | torch.device):
            word = "dtype" if isinstance(value, torch.dtype) else "device"
            return {word: str(value).removeprefix("torch.")}
        if isinstance(value, torch.Generator):
            return {"generator": self._keep(value.get_state(), where)}
        if isinstance(value, nn.Module):
            return self._module(value, where, owner, inner)
        if dataclasses.is_dataclass(value) or _is_estimator(type(value)):
            attributes = {name: inner(part, name) for name, part in vars(value).items()}
            return {"object": self._class(type(value), where, owner), "attributes": attributes}
        raise self._refused(where, f"is a {type(value).__module__}.{type(value).__qualname__}")

    def _class(self, cls: type, where: str, owner: Detector) -> str:
        name = f"{cls.__module__}:{cls.__qualname__}"
        if _is_estimator(cls):
            name += f"@{_version_of('sklearn')}"
        elif cls.__module__.split(".")[:2] == ["torch", "nn"]:
            name += f"@{_version_of('torch')}"
        try:
            named = _class_named(name, type(owner))
        except FittedError as error:
            raise self._refused(where, f"is a {cls.__module__}.{cls.__qualname__}") from error
        if named is not cls:
            raise self._refused(where, f"is a {name}, which is not what its name stands for")
        return name

    def _module(
        self, module: nn.Module, where: str, owner: Detector, inner: Callable[[Any, object], Any]
    ) -> dict[str, Any]:
        hooks = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
        plain = vars(nn.Module()).keys()
        return {
            "module": self._class(type(module), where, owner),
            "attributes": {
                name: inner(value, name)
                for name, value in vars(module).items()
                if name not in plain | hooks
            },
            "training": module.training,
            "parameters": [
                [name, inner(None if one is None else one.detach(), name), _has_grad(one)]
                for name, one in module._parameters.items()
            ],
            "buffers": [
                [name, inner(one, name), name in module._non_persistent_buffers_set]
                for name, one in module._buffers.items()
            ],
            "modules": [[name, inner(one, name)] for name, one in module._modules.items()],
        }

    def _tensor(self, value: Tensor, where: str) -> dict[str, Any]:
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise self._refused(where, f"is a tensor of the layout {value.layout}")
        plain = value.detach().resolve_conj().resolve_neg().cpu()
        node: dict[str, Any] = {"tensor": self._keep(plain, where, value)}
        if isinstance(value, nn.Parameter):
            node["parameter"] = value.requires_grad
        if not plain.is_contiguous() and _is_dense(plain):
            node["strides"] = list(plain.stride())
        return node

    def _array(self, value: np.ndarray | np.generic, where: str) -> dict[str, Any]:
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise self._refused(where, f"is an array of {array.dtype}")
        try:
            tensor = torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype, copy=True)))
        except TypeError:
            raise self._refused(where, f"is an array of {array.dtype}") from None
        order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        name = self._keep(tensor.reshape(array.shape), where, value)
        return {kind: name, "type": array.dtype.str, "order": order}

    def _keep(self, tensor: Tensor, where: str, whose: Any = None) -> str:
        """The name under which a tensor lies; that of the same object is the same."""
        if whose is not None and id(whose) in self.known:
            return self.known[id(whose)][1]
        name = f"{len(self.tensors):03d} {re.sub(r'[^A-Za-z0-9_.-]+', '-', where).strip('-')}"
        self.tensors[name] = tensor.contiguous().clone()
        if whose is not None:
            self.known[id(whose)] = whose, name
        return name

    def _refused(self, where: str, what: str) -> FittedError:
        return FittedError(
            f"{self.who} cannot be saved: its {where} {what}, which is not written without pickle. "
            "Hold tensors, arrays, numbers, text, lists, dicts, dataclasses of the detector's own "
            "module, layers of torch.nn or estimators of scikit-learn; or give the detector "
            "fitted_state() and restore(state), which tell it in these."
        )


def _has_grad(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _is_dense(value: Tensor) -> bool:
    """Whether its strides name each element of a block of memory once."""
    pairs = [(stride, size) for stride, size in zip(value.stride(), value.shape, strict=True)]
    expected = 1
    for stride, size in sorted(pairs):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


# --- reading ----------------------------------------------------------------------------------


def _is_estimator(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "sklearn" and hasattr(cls, "get_params")


def _version_of(package: str) -> str:
    return str(importlib.import_module(package).__version__)


def _class_named(name: str, owner: type[Detector]) -> type:
    """The class that a tree names, if it is one that a detector's state may hold.

    Raises:
        FittedError: it may not, or it is another version's.
    """
    place, _, version = name.partition("@")
    module, _, path = place.partition(":")
    top = module.partition(".")[0]
    for cls in (*_OWN_KINDS, *owner.state_classes):
        if f"{cls.__module__}:{cls.__qualname__}" == place:
            return cls
    if top == "sklearn" or module.split(".")[:2] == ["torch", "nn"]:
        if not re.fullmatch(r"(sklearn|torch\.nn)(\.[A-Za-z_]\w*)*", module):
            raise FittedError(f"it names a class in {module!r}.")
        here = _version_of(top)
        if version != here:
            raise FittedError(
                f"it holds a {path} of {top} {version}, and this is {top} {here}. Fit it again."
            )
        try:
            named: Any = _attribute(importlib.import_module(module), path)
        except ImportError:
            named = None
        if _is_class_of(named, module) and (_is_estimator(named) or issubclass(named, nn.Module)):
            return cast(type, named)
        raise FittedError(f"it names {place}, which is no layer and no estimator.")
    if module not in {base.__module__ for base in owner.__mro__ if issubclass(base, Detector)}:
        raise FittedError(
            f"it names the class {place}, which is not of the detector {owner.name}'s own module."
        )
    named = _attribute(sys.modules.get(module), path)
    if _is_class_of(named, module) and (
        dataclasses.is_dataclass(named) or issubclass(named, enum.Enum | nn.Module)
    ):
        return cast(type, named)
    raise FittedError(f"it names {place}, which is no dataclass, enum or module.")


def _is_class_of(value: Any, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module


def _attribute(module: Any, path: str) -> Any:
    value = module
    for part in path.split("."):
        if part.startswith("__"):
            return None
        value = getattr(value, part, None)
    return value


@dataclass
class _Reader:
    tensors: Mapping[str, Tensor]
    device: torch.device
    strict: bool = True
    made: dict[str, Tensor] = field(default_factory=dict)

    def detector(self, tree: Any) -> Detector:
        if not (isinstance(tree, dict) and {"detector", "options", "state", "code"} <= set(tree)):
            raise _damaged("it tells of no detector")
        cls = DETECTORS.get(str(tree["detector"]))
        if tree["code"] != code_digest(cls):
            text = (
                f"the code of the detector {cls.name} is not what it was when this was fitted, so "
                "its scores may be others. Fit it again (`oodbench fit`)."
            )
            if self.strict:
                raise FittedError(text)
            warnings.warn(text, OODBenchWarning, stacklevel=2)
        detector = build(cls, f"detector {cls.name}", _mapping(tree["options"]))
        state = {
            _plain_name(name): self.value(value, cls)
            for name, value in _mapping(tree["state"]).items()
        }
        detector.restore(state)
        object.__setattr__(detector, "_is_fitted", bool(tree.get("fitted", True)))
        return detector

    def value(self, node: Any, owner: type[Detector], depth: int = 0) -> Any:
        if depth > DEEPEST:
            raise _damaged("it is nested too deeply")
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if not isinstance(node, dict) or not node:
            raise _damaged(f"there is {json.dumps(node)[:40]} where a value is told of")
        kind, content = next(iter(node.items()))

        def inner(one: Any) -> Any:
            return self.value(one, owner, depth + 1)

        if kind == "detector":
            return self.detector(node)
        if kind in _SEQUENCES:
            return _SEQUENCES[kind](inner(one) for one in _list(content))
        if kind in _MAPPINGS:
            return _MAPPINGS[kind]((inner(k), inner(v)) for k, v in map(_list, _list(content)))
        if kind in ("int", "float"):
            return int(content) if kind == "int" else float(content)
        if kind == "enum":
            return _class_named(str(content), owner)[str(node["name"])]  # type: ignore[index]
        if kind == "tensor":
            return self._tensor(node)
        if kind in ("array", "scalar"):
            return self._array(node, kind)
        if kind in ("dtype", "device"):
            made = getattr(torch, str(content), None) if kind == "dtype" else torch.device(content)
            if not isinstance(made, torch.dtype | torch.device):
                raise _damaged(f"{content!r} is no type of numbers")
            return made
        if kind == "generator":
            generator = torch.Generator()
            generator.set_state(self._raw(content).clone())
            return generator
        if kind in ("object", "module"):
            cls = _class_named(str(content), owner)
            return self._module(cls, node, inner) if kind == "module" else _made(cls, node, inner)
        raise _damaged(f"it tells of a {kind!r}")

    def _raw(self, name: Any) -> Tensor:
        if name not in self.tensors:
            raise _damaged(f"there is no tensor {name!r}")
        return self.tensors[name]

    def _tensor(self, node: Mapping[str, Any]) -> Tensor:
        name = str(node["tensor"])
        if name not in self.made:
            # a copy in memory of torch's own, aligned as what was fitted was: sums round alike
            raw = self._raw(name)
            tensor = raw.clone()
            if "strides" in node:
                strides = [int(stride) for stride in _list(node["strides"])]
                tensor = torch.empty_strided(raw.shape, strides, dtype=raw.dtype)
                if not _is_dense(tensor):
                    raise _damaged(f"the tensor {name!r} has overlapping elements")
                tensor.copy_(raw)
            self.made[name] = tensor.to(self.device)
        made = self.made[name]
        if "parameter" in node:
            made = nn.Parameter(made, requires_grad=bool(node["parameter"]))
        return made

    def _array(self, node: Mapping[str, Any], kind: str) -> Any:
        array = self._raw(node[kind]).numpy().copy()
        wanted = np.dtype(str(node["type"]))
        if wanted.kind not in "biufc":
            raise _damaged(f"an array of {wanted}")
        array = array.astype(wanted, copy=False)
        return array[()] if kind == "scalar" else np.asarray(array, order=node.get("order", "C"))

    def _module(self, cls: type, node: Mapping[str, Any], inner: Callable[[Any], Any]) -> nn.Module:
        if not issubclass(cls, nn.Module):
            raise _damaged(f"{cls.__name__} is no module")
        module: Any = cls.__new__(cls)
        nn.Module.__init__(module)
        for name, value in _mapping(node["attributes"]).items():
            vars(module)[_plain_name(name)] = inner(value)
        for name, value, learns in map(_list, _list(node["parameters"])):
            made = inner(value)
            made = None if made is None else nn.Parameter(made, requires_grad=bool(learns))
            module.register_parameter(_plain_name(name), made)
        for name, value, is_passing in map(_list, _list(node["buffers"])):
            module.register_buffer(_plain_name(name), inner(value), persistent=not is_passing)
        for name, value in map(_list, _list(node["modules"])):
            module.add_module(str(name), inner(value))
        module.training = bool(node["training"])
        return cast(nn.Module, module)


def _made(cls: type, node: Mapping[str, Any], inner: Callable[[Any], Any]) -> Any:
    """An object without its ``__init__``, with these attributes."""
    if issubclass(cls, Detector | nn.Module | enum.Enum):
        raise _damaged(f"{cls.__name__} is not made so")
    made = object.__new__(cls)
    for name, value in _mapping(node["attributes"]).items():
        object.__setattr__(made, _plain_name(name), inner(value))
    return made


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _damaged("there is no mapping where one is told of")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _damaged("there is no list where one is told of")
    return value


def _plain_name(name: Any) -> str:
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("__"):
        raise _damaged(f"{name!r} is no attribute")
    return name


def _damaged(why: str) -> OODBenchError:
    return FittedError(f"the state of the detector is damaged: {why}. Fit it again.")

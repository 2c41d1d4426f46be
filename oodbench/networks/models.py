"""What people give as a model: a module that runs as it is, or an error that says what it is."""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.errors import OODBenchError, OptionError
from oodbench.networks.closures import Closures

ONNX_WRAPPER = (
    "class Net(torch.nn.Module):\n"
    "    def outputs(self, images):\n"
    '        return {"logits": torch.from_numpy(session.run(None, '
    "{session.get_inputs()[0].name: images.cpu().numpy()})[0])}\n"
    "    def head(self): return None\n"
)
"""How a session of onnxruntime becomes a network."""


def as_module(model: Any) -> nn.Module:
    """The module that a model is, out of the wrappers that cannot be copied or looked into.

    Those of ``torch.compile`` and of data parallelism are taken off; an exported program
    (``torch.export``) becomes its module.

    Raises:
        OptionError: it is no PyTorch module; says what it is and what to do.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return _Exported(model.module())
    if not isinstance(model, nn.Module):
        raise OptionError(_what(model))
    while isinstance(inner := getattr(model, _wraps(model), None), nn.Module):
        model = inner
    if isinstance(model, torch.fx.GraphModule) and "train" in vars(model):
        return _Exported(model)  # of an exported program, which refuses to be switched
    is_own = hasattr(model, "outputs") or hasattr(model, "detect")
    if not isinstance(model, torch.jit.ScriptModule) and not is_own:
        kind = type(model)
        runs = kind.forward is not nn.Module.forward or kind.__call__ is not nn.Module.__call__
        if not runs and "forward" not in vars(model):
            raise OptionError(
                f"the {type(model).__name__} has no forward(images), so it is no network that "
                "could be run. Give the module that calls its parts."
            )
    whole: nn.Module = model
    return whole


def _wraps(model: nn.Module) -> str:
    """The attribute in which a wrapper holds the module that it wraps; ``""`` if it is none."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "module"
    return "_orig_mod" if type(model).__name__ == "OptimizedModule" else ""


class _Exported(nn.Module):
    """The module of an exported program, which has no modes to be switched between."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> _Exported:
        """Nothing to do."""
        return self

    def forward(self, images: Tensor) -> Any:
        """What the program returns."""
        return self.program(images)


def _what(model: Any) -> str:
    """What to tell somebody who gave this as a model."""
    kind = type(model)
    package = str(kind.__module__).partition(".")[0]
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    if isinstance(model, str | Path):
        return _what_text(str(model))
    if package in ("onnx", "onnxruntime"):
        maker = "yours" if package == "onnxruntime" else "onnxruntime.InferenceSession(path)"
        return (
            f"the model is an ONNX {kind.__name__}, not a PyTorch module. Wrap it, with "
            f"session = {maker}, and give Net():\n{ONNX_WRAPPER}"
        )
    if isinstance(model, Mapping):
        weights = any(isinstance(value, Tensor) for value in model.values())
        what = "a state dict: weights without a network" if weights else f"a {name}"
        return (
            f"the model is {what}, not a PyTorch module. Make the network, fill it with "
            "load_state_dict, and give it; or give backbone=NAME and checkpoint=FILE."
        )
    if isinstance(model, type):
        return f"the model is the class {model.__name__}, not a network. Make one: call it."
    if package in (
        "keras",
        "tensorflow",
        "tf_keras",
        "jax",
        "flax",
        "sklearn",
        "xgboost",
        "paddle",
    ):
        return (
            f"the model is a {name}, not a PyTorch module. Wrap it in a torch.nn.Module whose "
            "forward(images) returns its logits [B, C] as a tensor; or save what it says of each "
            "set as oodbench.Outputs, which detectors fit and score."
        )
    if isinstance(model, Tensor) or package == "numpy":
        return (
            f"the model is a {name}, not a PyTorch module. Logits and features that you have "
            "already are oodbench.Outputs, which detectors fit and score; evaluate wants the "
            "network."
        )
    if callable(model):
        return (
            f"the model is a {name}, not a PyTorch module. Wrap it in a torch.nn.Module whose "
            "forward(images) calls it."
        )
    return (
        f"the model is a {name}, not a PyTorch module. Give a torch.nn.Module that maps images "
        "[B, C, H, W] to logits."
    )


def _what_text(text: str) -> str:
    if Path(text).suffix or Path(text).exists():
        kind = Path(text).suffix.lower()
        if kind == ".onnx":
            return (
                f"the model is the path {text!r} of an ONNX file, not a PyTorch module. Wrap it, "
                f"with session = onnxruntime.InferenceSession(path), and give Net():\n"
                f"{ONNX_WRAPPER}"
            )
        return (
            f"the model is the path {text!r}, not a PyTorch module. Weights in a file: "
            "checkpoint=FILE with backbone=NAME. A TorchScript file: give torch.jit.load(path); "
            "an exported program: torch.export.load(path).module()."
        )
    return (
        f"the model is the text {text!r}, not a PyTorch module. A network by its name: "
        f"backbone={text!r} trains it, with checkpoint=FILE it has your weights, and with a method "
        "for pre-trained networks its published ones (`oodbench list methods`); timm.create_model "
        "makes it yourself."
    )


def copied(model: nn.Module) -> Any:
    """A deep copy of a module, whatever it holds; the module stays as it is.

    Tensors that some computation left in an attribute (such as the ``weight`` of the old
    ``torch.nn.utils.weight_norm``, which is made anew in each forward pass) are copied by value.
    What cannot be copied and is neither module nor tensor (a session, a lock, an open file) is
    shared. Functions that refer to the module, as hooks do, refer to the copy in it.

    Raises:
        OODBenchError: it cannot be copied all the same.
    """
    functions = Closures()
    memo = _computed(model, functions)
    try:
        return _copied(model, memo, functions)
    except Exception:  # whatever the parts of a stranger's network raise
        functions = Closures()
        memo = _computed(model, functions)
    for module in model.modules():
        for value in list(vars(module).values()):
            if not _is_copied(value, memo):
                memo[id(value)] = value
    try:
        return _copied(model, memo, functions)
    except Exception as error:
        raise OODBenchError(
            f"cannot copy the {type(model).__name__} to leave yours untouched ({error}). Give it a "
            "__deepcopy__ that returns what may be used in its place."
        ) from error


def _copied(model: nn.Module, memo: dict[int, Any], functions: Closures) -> Any:
    copy_ = copy.deepcopy(model, memo)
    functions.fill(memo)
    return copy_


def _computed(model: nn.Module, functions: Closures) -> dict[int, Any]:
    """A memo for ``copy.deepcopy``: copies of tensors, generators and functions."""
    memo: dict[int, Any] = {}
    held = [value for module in model.modules() for value in vars(module).values()]
    seen: set[int] = set()
    while held:
        value = held.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
        elif isinstance(value, torch.Generator):
            memo[id(value)] = value.clone_state()
        elif isinstance(value, types.FunctionType):
            functions.add(value, memo)
        elif isinstance(value, dict):
            held += value.values()
        elif isinstance(value, list | tuple | set):
            held += value
    return memo


def _is_copied(value: Any, memo: dict[int, Any]) -> bool:
    """Whether a module's attribute can be copied, or is looked into by itself."""
    if isinstance(value, dict):
        return all(isinstance(v, nn.Module | Tensor | None) or _is_copied(v, memo)
                   for v in value.values())  # fmt: skip
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:  # of any kind
        return False
    return True

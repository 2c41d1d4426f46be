"""What is asked of a network, and what people give as one, which may be no module at all.

A network may say more of itself than it has to; each such part has one reader here.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from oodbench.errors import OODBenchError, OptionError
from oodbench.networks.closures import Closures
from oodbench.outputs import Head

if TYPE_CHECKING:
    from oodbench.data.transforms import Preprocess

ONNX_WRAPPER = (
    "class Net(torch.nn.Module):\n"
    "    def outputs(self, images):\n"
    '        return {"logits": torch.from_numpy(session.run(None, '
    "{session.get_inputs()[0].name: images.cpu().numpy()})[0])}\n"
    "    def head(self): return None\n"
)
"""How a session of onnxruntime becomes a network."""


@runtime_checkable
class GivesOutputs(Protocol):
    """What detectors that look into a network ask of it: a module with ``outputs(images)``."""

    def outputs(self, images: Any) -> dict[str, Tensor]:
        """Named tensors with one row per sample; ``features`` and ``logits`` among them.

        Of a network that says its ``sample_column`` there may be any number of rows for a sample;
        see :func:`sample_column_of`.
        """


@runtime_checkable
class Network(GivesOutputs, Protocol):
    """What extraction asks of a network: a module with ``outputs(images)`` and ``head()``.

    It may have further parts: ``own_preprocess`` (see :func:`own_preprocess_of`), ``digest``,
    ``trunk``, ``withheld``, ``notes``, ``modality_heads``, ``sample_column`` and
    ``pixels_at_once``, each told of at the function that reads it.
    """

    def head(self) -> Head | None:
        """The linear layer behind the features, where there is one."""


@runtime_checkable
class BoxPredicting(Protocol):
    """What detection asks of a network: a module with ``detect`` and ``head``."""

    def detect(self, images: list[Tensor], least: float) -> dict[str, Tensor]:
        """The boxes of at least that confidence on images ``[channels, H, W]``, one row per box."""

    def head(self) -> Head | None:
        """The linear layer from a box's features to its logits without background."""


@runtime_checkable
class GivesSmallMaps(Protocol):
    """A network of pixels whose ``outputs`` are these maps, enlarged to the size of the images."""

    def small_maps(self, images: Tensor) -> dict[str, Tensor]:
        """``logits [B, C, h, w]`` and further maps, each in the size in which it is computed."""


def network_of(module: nn.Module) -> Network:
    """A module that is a :class:`Network`, as one.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(module, Network):
        raise OptionError(
            f"the {type(module).__name__} has no outputs(images) and head(). Give it these, or "
            "wrap it with oodbench.extract.as_network, which finds them."
        )
    return module


def outputs_of(module: nn.Module) -> Callable[[Any], dict[str, Tensor]]:
    """``outputs`` of a module, from a batch of inputs to named tensors.

    Raises:
        OptionError: it has none.
    """
    if not isinstance(module, GivesOutputs):
        raise OptionError(
            f"the {type(module).__name__} has no outputs(images). Give it that, or wrap it with "
            "oodbench.extract.as_network."
        )
    return module.outputs


def box_predicting(module: nn.Module) -> BoxPredicting:
    """A module that is :class:`BoxPredicting`, as one.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(module, BoxPredicting):
        raise OptionError(
            f"the {type(module).__name__} has no detect(images, least) and head(). Give it these, "
            "as oodbench.networks.boxes.BoxNetwork has them."
        )
    return module


def own_preprocess_of(network: nn.Module) -> Preprocess | None:
    """``own_preprocess``, what the network was trained to see; None where it does not say.

    Also that of a model inside a wrapper.
    """
    own: Preprocess | None = getattr(network, "own_preprocess", None)
    if own is None:
        own = getattr(getattr(network, "model", None), "own_preprocess", None)
    return own


def digest_of(network: nn.Module) -> str | None:
    """``digest``, a text that tells the weights of a network where they cannot be read.

    A session of another runtime, a client, a device: whoever knows what is behind it says so. Also
    that of a model inside a wrapper. None where nothing is said.
    """
    own = getattr(network, "digest", None)
    if own is None:
        own = getattr(getattr(network, "model", None), "digest", None)
    return own if isinstance(own, str) else None


def trunk_of(network: nn.Module) -> nn.Module | None:
    """``trunk``, the frozen network whose features the head of this one reads; None without one.

    A trunk need not see an image twice, however many heads there are.
    """
    trunk = getattr(network, "trunk", None)
    return trunk if isinstance(trunk, nn.Module) else None


def sample_column_of(network: nn.Module) -> str | None:
    """``sample_column``, the output that says which sample of the batch each row is of.

    Its rows need not be samples then: a network of boxes gives some for each image, and names the
    image of each. None of a network that gives one row per sample.
    """
    column: str | None = getattr(network, "sample_column", None)
    return column


def pixels_at_once_of(network: nn.Module) -> int | None:
    """``pixels_at_once``, how many pixels of images in their own sizes go through together.

    None of a network that does not say so, which takes a fixed number of images.
    """
    pixels: int | None = getattr(network, "pixels_at_once", None)
    return pixels


def withheld_by(network: nn.Module) -> Mapping[str, str]:
    """``withheld``, names of outputs that the network does not give, and why not."""
    withheld: Mapping[str, str] = getattr(network, "withheld", {})
    return withheld


def head_notes_of(network: nn.Module) -> dict[str, str] | None:
    """``notes`` of a network that has checked its head itself; None of one that has not."""
    notes = getattr(network, "notes", None)
    return notes if isinstance(notes, dict) else None


def modality_heads_of(network: nn.Module) -> dict[str, Head]:
    """``modality_heads()``, the linear layer behind each modality's features, by modality."""
    heads: dict[str, Head] = getattr(network, "modality_heads", dict)()
    return heads


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
        """Do nothing: an exported program has one mode."""
        return self

    def forward(self, images: Tensor) -> Any:
        """The program's own outputs."""
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

"""Networks of other runtimes: ONNX files through onnxruntime, and programs of ``torch.export``.

Both have the logits of the file, and the features where its last layer is a linear one that can be
read, or where the name of an inner tensor is given. Gradients do not pass through ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench import files
from oodbench.errors import CheckpointError, OODBenchError, OptionError
from oodbench.outputs import Head


def in_batches(run: Callable[[Tensor], list[Tensor]], images: Tensor, size: Any) -> list[Tensor]:
    """What a program says of images, as many at a time as it was made for; the last are filled up.

    Args:
        run: from images to outputs, one row an image.
        images: ``[B, C, H, W]``.
        size: of its batches; whatever is no whole number stands for any.
    """
    if not isinstance(size, int) or size < 1 or len(images) == size:
        return run(images)
    parts = []
    for piece in images.split(size):
        rest = piece[-1:].expand(size - len(piece), *piece.shape[1:])
        parts.append([out[: len(piece)] for out in run(torch.cat([piece, rest]))])
    return [torch.cat(outs) for outs in zip(*parts, strict=True)]


class ONNXNetwork(nn.Module):
    """The network in an ONNX file.

    Args:
        path: the file.
        features: the name of the inner tensor ``[B, D]`` that the features are; None for the input
            of its last layer, where that is linear.

    Raises:
        OODBenchError: onnxruntime is not installed.
        CheckpointError: the file cannot be read.
        OptionError: no such tensor.
    """

    def __init__(self, path: str | Path, features: str | None = None) -> None:
        super().__init__()
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise OODBenchError(
                "an ONNX network needs onnx and onnxruntime: pip install 'oodbench[onnx]'."
            ) from error
        self.path = files.user_path(path)
        self.digest = files.sha256(self.path) + (f" {features}" if features else "")
        try:
            graph = onnx.load(str(self.path))
            tensor, self.head_ = _features_of(graph.graph, features, self.path.name)
            if tensor is not None and all(out.name != tensor for out in graph.graph.output):
                graph.graph.output.append(onnx.ValueInfoProto(name=tensor))
            self.features = tensor
            self.session = onnxruntime.InferenceSession(
                graph.SerializeToString(), providers=onnxruntime.get_available_providers()
            )
        except OODBenchError:
            raise
        except Exception as error:  # of either library's own kinds
            raise CheckpointError(
                f"cannot read the ONNX file {self.path} ({str(error).splitlines()[0][:200]})."
            ) from error
        self.input = self.session.get_inputs()[0]
        self.metadata: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.logits = self.session.get_outputs()[0].name

    @property
    def size(self) -> int | None:
        """Side of the images that it was made for; None where it takes any."""
        shape = self.input.shape
        is_square = len(shape) == 4 and isinstance(shape[2], int) and shape[2] == shape[3]
        return shape[2] if is_square else None

    def _run(self, images: Tensor) -> list[Tensor]:
        names = [self.logits] + ([self.features] if self.features else [])
        array = np.ascontiguousarray(images.detach().cpu().float().numpy())
        if "float16" in self.input.type:
            array = array.astype(np.float16)
        return [torch.from_numpy(a) for a in self.session.run(names, {self.input.name: array})]

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """``logits [B, C]`` and, where there are any, ``features [B, D]``.

        Raises:
            OODBenchError: gradients are asked for.
        """
        if images.requires_grad:
            raise OODBenchError(
                "an ONNX network has no gradients, which this detector needs. Give the network as "
                "a PyTorch module, or choose a detector that reads outputs."
            )
        logits, *inner = in_batches(self._run, images, self.input.shape[0])
        columns = {"logits": logits.flatten(1).to(images.device)}
        if inner and inner[0].flatten(1).shape[0] == len(images):
            columns["features"] = inner[0].flatten(1).to(images.device)
        return columns

    def head(self) -> Head | None:
        """The last layer, where it is a linear one that can be read."""
        return self.head_

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        return self.outputs(images)["logits"]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "features": self.features if self.head_ is None else None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["path"], state["features"])  # type: ignore[misc]


def _features_of(graph: Any, asked: str | None, file: str) -> tuple[str | None, Head | None]:
    """The name of the inner tensor that the features are, and the head behind it."""
    if asked is None:
        return _last_layer(graph)
    known = _tensors(graph)
    if asked not in known:
        raise OptionError(
            f"{file} has no inner tensor {asked!r}; its last ones are {', '.join(known[-6:])}."
        )
    name, head = _last_layer(graph)
    return asked, head if name == asked else None


def _tensors(graph: Any) -> list[str]:
    return [name for node in graph.node for name in node.output if name]


def _last_layer(graph: Any) -> tuple[str | None, Head | None]:
    """The input of the last layer and its weights, where it is linear: Gemm, or MatMul and Add."""
    from onnx import numpy_helper

    makers = {name: node for node in graph.node for name in node.output}
    known = {one.name: one for one in graph.initializer}

    def array(name: str) -> np.ndarray | None:
        return numpy_helper.to_array(known[name]) if name in known else None

    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in ("Identity", "Flatten", "Squeeze"):
        node = makers.get(node.input[0])
    bias: np.ndarray | None = None
    if node is not None and node.op_type == "Add":
        sides = [name for name in node.input if name in known]
        others = [name for name in node.input if name not in known]
        if len(sides) != 1 or len(others) != 1:
            return None, None
        bias, node = array(sides[0]), makers.get(others[0])
    if node is None or node.op_type not in ("Gemm", "MatMul"):
        return None, None
    weight = array(node.input[1])
    options = {one.name: one for one in node.attribute}
    scaled = any(name in options and options[name].f != 1 for name in ("alpha", "beta"))
    turned = "transA" in options and options["transA"].i
    if weight is None or weight.ndim != 2 or scaled or turned:
        return None, None
    if not ("transB" in options and options["transB"].i):
        weight = weight.T
    if node.op_type == "Gemm" and len(node.input) > 2:
        bias = array(node.input[2])
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    if bias.shape != (len(weight),):
        return None, None
    return node.input[0], Head(
        torch.from_numpy(np.array(weight, np.float32)), torch.from_numpy(np.array(bias, np.float32))
    )


class ExportedNetwork(nn.Module):
    """A program of ``torch.export``, with the input of its last layer where that is linear.

    Args:
        program: the program.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.module = program.module()
        graph: Any = self.module.graph
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise OptionError(
                f"the exported program takes {len(inputs)} inputs; a network here takes one, a "
                "batch of images. Export a module whose forward has the images alone."
            )
        (images,) = inputs
        shape = [dim if isinstance(dim, int) else None for dim in images.meta["val"].shape]
        self.batch = shape[0]
        self.size = shape[2] if len(shape) == 4 and shape[2] == shape[3] else None
        last = _last_linear(graph)
        # by its name, which a copy of the program keeps: its nodes are others
        self.layer: str | None = None if last is None else last.name
        self.digest: str | None = None

    def train(self, mode: bool = True) -> ExportedNetwork:
        """A program has no modes: nothing to do."""
        return self

    def _run(self, images: Tensor) -> list[Tensor]:
        if self.layer is None:
            return [_tensor(self.module(images))]
        inputs: list[Tensor] = []
        layer = self.layer

        class Watch(torch.fx.Interpreter):
            def run_node(self, n: Any) -> Any:
                if n.name == layer:
                    arguments: Any = self.map_nodes_to_values(n.args, n)
                    inputs.append(arguments[0])
                return super().run_node(n)

        logits = _tensor(Watch(self.module).run(images))
        return [logits, *inputs]

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """``logits [B, C]`` and, where there are any, ``features [B, D]``."""
        logits, *inner = in_batches(self._run, images, self.batch)
        return {"logits": logits, **({"features": inner[0]} if inner else {})}

    def head(self) -> Head | None:
        """The last layer, where it is linear."""
        if self.layer is None:
            return None
        graph: Any = self.module.graph
        layer = next(node for node in graph.nodes if node.name == self.layer)
        weight, bias = (
            None if arg is None else _reached(self.module, str(arg.target))
            for arg in (layer.args[1], (*layer.args, None, None)[2])
        )
        assert weight is not None  # noqa: S101 - a linear layer has weights
        return Head(weight, weight.new_zeros(len(weight)) if bias is None else bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        return self.outputs(images)["logits"]


def _tensor(value: Any) -> Tensor:
    while not isinstance(value, Tensor):
        value = next(iter(value.values() if isinstance(value, Mapping) else value))
    return value


def _reached(module: nn.Module, name: str) -> Tensor:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return torch.as_tensor(value)


def _last_linear(graph: Any) -> Any:
    """The node of the linear layer that gives the program's first output; None if none does."""
    output = next(node for node in graph.nodes if node.op == "output")
    last = output.args[0]
    while isinstance(last, list | tuple):
        last = last[0]
    is_linear = last.op == "call_function" and last.target is torch.ops.aten.linear.default
    if not is_linear or any(a is not None and a.op != "get_attr" for a in last.args[1:]):
        return None
    return last if last.args[0].meta["val"].ndim == 2 else None

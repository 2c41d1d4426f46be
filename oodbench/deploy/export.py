"""Export: network and detector as one ONNX graph, from pixels to class, score and flag.

The graph is what one run of network and detector records, so it is compared with them before it is
kept: on other images and in other numbers of them, in onnxruntime. A detector whose score is no
algebra on the network's outputs (one that needs gradients, asks Python, or draws numbers) does not
pass, and is refused with what differs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench import files
from oodbench.data.transforms import Preprocess
from oodbench.deploy.fitted import FittedDetector
from oodbench.errors import ExportError, OODBenchError
from oodbench.networks.models import outputs_of
from oodbench.outputs import Outputs

TOLERANCE = 1e-4
"""How far scores of the graph may be from PyTorch's, over the larger of 1 and their size."""

OPSET = 18

_BATCHES = (1, 5, 8)
"""Images at a time of the comparison; the graph is recorded of three."""


class _Graph(nn.Module):
    """From pixels in [0, 1] to class, score and flag."""

    mean: Tensor
    std: Tensor

    def __init__(self, fitted: FittedDetector, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = fitted._network
        self.fitted = fitted
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        columns = dict(outputs_of(self.network)((images - self.mean) / self.std))
        logits = columns.get("log_probabilities", columns.get("logits"))
        head = (self.fitted._head or (None, {}))[0]
        outputs = Outputs.of_columns(columns, head)
        scores = self.fitted.detector.graph_score(outputs)
        predicted = torch.zeros_like(scores) if logits is None else logits.argmax(dim=1)
        return predicted.long(), scores.float(), scores > self.fitted.threshold


def export(fitted: FittedDetector, path: str | Path) -> Path:
    """Write network and detector as one ONNX graph.

    Input ``images`` ``[B, C, size, size]`` float32: pixels in [0, 1], resized and cropped as the
    preprocessing says, which is in the graph's metadata (``oodbench_preprocess``, JSON) beside the
    names of the classes; the normalisation is part of the graph. Outputs ``class`` ``[B]`` int64,
    ``score`` ``[B]`` float32 (higher = more OOD) and ``flag`` ``[B]`` bool, by the first threshold.

    Args:
        fitted: on the processor.
        path: the file.

    Returns:
        The file.

    Raises:
        ExportError: the detector or the network cannot be written as such a graph, or the graph
            gives other scores; says why.
        OODBenchError: onnx or onnxruntime is not installed.
    """
    where = files.user_path(path)
    _libraries()
    detector, preprocess = fitted.detector, fitted.preprocess
    if "model" in detector.needs:
        raise ExportError(
            f"{detector.label} cannot be exported: it needs the network itself (gradients, layers "
            "or dropout), not its outputs alone. Choose one that reads outputs: "
            "`oodbench list detectors`."
        )
    if not isinstance(preprocess, Preprocess):
        raise ExportError(
            "the graph takes pixels that oodbench's Preprocess made ready; this detector was "
            f"fitted with {preprocess!r}."
        )
    if fitted.device.type != "cpu":
        raise ExportError("export a detector that is on the processor: fitted.to('cpu').")
    with torch.no_grad():  # what a network finds out of itself, it finds before it is recorded
        fitted.outputs(_images(preprocess, 3, seed=0))
    graph = _Graph(fitted, preprocess).eval()
    content = _recorded(graph, _images(preprocess, 3, seed=0), detector.label)
    content = _with_metadata(content, fitted, preprocess)
    _compare(fitted, preprocess, content)
    files.write_bytes(where, content)
    return where


def _libraries() -> None:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise OODBenchError(
            "graphs are written with onnx and compared in onnxruntime, which are not installed: "
            "pip install 'oodbench[onnx]'."
        ) from error
    _ = onnx, onnxruntime


def _images(preprocess: Preprocess, n: int, seed: int) -> Tensor:
    """Blocks of noise in [0, 1], ``[n, C, size, size]``."""
    generator = torch.Generator().manual_seed(seed)
    size = preprocess.size
    coarse = torch.rand(n, preprocess.channels, 8, 8, generator=generator)
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear").clamp(0, 1)


def _recorded(graph: nn.Module, images: Tensor, who: str) -> bytes:
    """The graph of one run, as a file's content.

    Raises:
        ExportError: an operation that ONNX has not.
    """
    buffer: Any = io.BytesIO()
    names = ["class", "score", "flag"]
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                graph,
                (images,),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=names,
                dynamic_axes={name: {0: "batch"} for name in ("images", *names)},
            )
    except Exception as error:  # exporters raise anything
        line = str(error).strip().partition("\n")[0].rstrip(".")
        raise ExportError(
            f"{who} cannot be exported with this network: {type(error).__name__}: {line}."
        ) from error
    content: bytes = buffer.getvalue()
    return content


def _with_metadata(content: bytes, fitted: FittedDetector, preprocess: Preprocess) -> bytes:
    """The graph with what has to be done before it, and what its numbers mean."""
    import onnx

    graph = onnx.load_from_string(content)
    about = {
        "oodbench_preprocess": dataclasses.asdict(preprocess),
        "oodbench_classes": list(fitted.classes),
        "oodbench_detector": fitted.detector.label,
        "oodbench_threshold": fitted.threshold,
    }
    for key, value in about.items():
        graph.metadata_props.append(onnx.StringStringEntryProto(key=key, value=json.dumps(value)))
    written: bytes = graph.SerializeToString()
    return written


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's advice, and the graph that it prints where it fails."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nowhere = io.StringIO()
            with (
                contextlib.redirect_stdout(nowhere),
                contextlib.redirect_stderr(nowhere),
                _nothing_printed_below(),
            ):
                yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _nothing_printed_below() -> Iterator[None]:
    """The standard output's descriptor, to which C++ prints the graph, leads nowhere meanwhile."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()  # what was said before is not lost
    kept = []
    try:
        with Path(os.devnull).open("wb") as nowhere:
            for descriptor in (1, 2):
                with contextlib.suppress(OSError):  # a program without a console has none
                    kept.append((os.dup(descriptor), descriptor))
                    os.dup2(nowhere.fileno(), descriptor)
        yield
    finally:
        for copy, descriptor in kept:
            os.dup2(copy, descriptor)
            os.close(copy)


def _compare(fitted: FittedDetector, preprocess: Preprocess, content: bytes) -> None:
    """Refuse a graph that does not give what network and detector give.

    Raises:
        ExportError: says by how much.
    """
    import onnxruntime

    who = fitted.detector.label
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"{who} cannot be exported: onnxruntime refuses it ({error}).") from error
    for n in _BATCHES:
        images = _images(preprocess, n, seed=n)
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std)
        )
        judged = fitted.judge((images - mean) / std)
        try:
            returned = session.run(["class", "score"], {"images": images.numpy()})
        except Exception:  # of onnxruntime's own
            returned = []
        if not returned or np.shape(returned[1]) != (n,):
            raise ExportError(
                f"{who} cannot be exported: its graph is for as many images as it was recorded "
                "with, since its score counts on how many there are."
            )
        _agree(who, returned, judged.scores, judged.predicted)


def _agree(who: str, returned: list[Any], scores: np.ndarray, predicted: np.ndarray | None) -> None:
    off = float(np.abs(returned[1] - scores).max() / max(1.0, float(np.abs(scores).max())))
    if not off <= TOLERANCE:
        raise ExportError(
            f"{who} cannot be exported: its graph gives other scores (by {off:.2g}) than PyTorch. "
            "Its score is no algebra on the network's outputs that one run records; a detector "
            "says in graph_score(outputs) what is."
        )
    if predicted is not None and not np.array_equal(returned[0], predicted):
        raise ExportError(f"{who} cannot be exported: the network's graph gives other classes.")

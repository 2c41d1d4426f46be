"""Training steps of oodbench against a bare PyTorch loop, in images a second.

Usage: ``python benchmarks/training.py [--method ce,palm] [--device cpu] [--augment image,batch]
[--steps 12] [--repeat 3] [--workers 0]``

Both train the same network on the same drawn images with the same augmentation, batch size, data
workers and optimiser. The bare loop is what one would write: a DataLoader of augmented images, a
forward pass, the loss, a step. It always augments image by image; ``batch`` is oodbench's alone.
Steps are timed from the third on, so starting workers and Lightning's set-up are left out; each
side's figure is the best of several runs in turn.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oodbench import Benchmark, DatasetSpec, Hardware
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import CropFlip, Preprocess
from oodbench.method import Method
from oodbench.networks.backbones import create_backbone
from oodbench.training.run import plan
from oodbench.training.train import train

PREPROCESS = Preprocess(32, (0.5,) * 3, (0.25,) * 3)
WARM = 2
"""Steps before the clock starts."""
CLASSES = 10


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Args:
        method: ``"ce"`` or ``"palm"``.
        backbone: its name.
        batch_size: samples a step.
        views: of each.
    """

    method: str
    backbone: str
    batch_size: int
    views: int


SETTINGS = {
    "ce": Setting("ce", "resnet20", 128, 1),
    "palm": Setting("palm", "resnet18-cifar", 128, 2),
}


def images(n: int, side: int = 32) -> ImageArrays:
    """Drawn images and labels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return ImageArrays("drawn", pixels, np.arange(n) % CLASSES, tuple(map(str, range(CLASSES))))


@dataclass
class Clock:
    """Time between the beginning of a step and that of the last one.

    Args:
        steps: how many there are.
        device: whose work is waited for at both ends.
    """

    steps: int
    device: torch.device
    at: list[float] = field(default_factory=list)
    count: int = 0
    now: ClassVar[Callable[[], float]] = staticmethod(time.perf_counter)

    def tick(self) -> None:
        """A step begins."""
        if self.count in (WARM, self.steps - 1):
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.at.append(self.now())
        self.count += 1

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return (self.at[1] - self.at[0]) / (self.steps - 1 - WARM)


class Augmented(Dataset[tuple[Tensor, int]]):
    """Views of images, as a bare loop has them."""

    def __init__(self, samples: ImageArrays, augmentation: Any, views: int) -> None:
        self.samples, self.augmentation, self.views = samples, augmentation, views
        self.rng = random.Random(0)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.samples[index]
        views = [self.augmentation(image, self.rng) for _ in range(self.views)]
        return torch.stack(views), int(self.samples.labels[index])


def loss_of(setting: Setting) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], Any]:
    """Modules, their loss of ``[B, V, C, H, W]`` and labels, and the augmentation."""
    backbone: Any = create_backbone(setting.backbone, 3)
    if setting.method == "ce":
        linear = nn.Linear(backbone.num_features, CLASSES)
        return (
            nn.ModuleList([backbone, linear]),
            lambda x, y: F.cross_entropy(linear(backbone(x[:, 0])), y),
            CropFlip(PREPROCESS),
        )
    from oodbench.data.augmentation import SimCLR
    from oodbench.detectors.palm import PALMLoss

    width = backbone.num_features
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))
    palm = PALMLoss(CLASSES)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        z = F.normalize(head(backbone(x.flatten(0, 1))).float(), dim=1)
        return palm(z.unflatten(0, x.shape[:2]), y)["loss"]

    return nn.ModuleList([backbone, head, palm]), loss, SimCLR(PREPROCESS)


def bare(setting: Setting, steps: int, hardware: Hardware) -> float:
    """Seconds of a step of the loop that one would write."""
    device = hardware.own_device
    torch.manual_seed(0)
    modules, loss, augmentation = loss_of(setting)
    modules.to(device, memory_format=torch.channels_last).train()
    loader = DataLoader(
        Augmented(images(steps * setting.batch_size), augmentation, setting.views),
        batch_size=setting.batch_size,
        shuffle=True,
        num_workers=hardware.workers or 0,
        pin_memory=device.type == "cuda",
    )
    optimizer = torch.optim.SGD(
        modules.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    clock = Clock(steps, device)
    for batch, labels in loader:
        clock.tick()
        x, y = batch.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with _autocast(hardware, device):
            value = loss(x, y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return clock.step


def _autocast(hardware: Hardware, device: torch.device) -> AbstractContextManager[Any]:
    is_half = hardware.precision == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16) if is_half else nullcontext()


def ours(setting: Setting, steps: int, hardware: Hardware, augment: str = "image") -> float:
    """Seconds of a step of ``oodbench train``."""
    samples = images(steps * setting.batch_size)
    spec = DatasetSpec("drawn", lambda _: samples, ("train", "test"))
    benchmark = Benchmark("drawn", spec, (), (), PREPROCESS, backbone=setting.backbone)
    overrides: dict[str, Any] = {"epochs": 1, "batch_size": setting.batch_size, "lr": 0.01}
    if setting.method != "ce":
        overrides["augment"] = augment
    recipe = "quick"
    run = plan(
        benchmark, setting.method, recipe=recipe, backbone=setting.backbone, overrides=overrides
    )
    clock = Clock(steps, hardware.own_device)
    step = Method.training_step

    def timed(self: Method, batch: Any, batch_idx: int) -> Tensor:
        clock.tick()
        return step(self, batch, batch_idx)

    before = os.environ.get("OODBENCH_CACHE")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["OODBENCH_CACHE"] = cache
        Method.training_step = timed  # type: ignore[method-assign]
        try:
            train(run, hardware)
        finally:
            Method.training_step = step  # type: ignore[method-assign]
            os.environ.pop("OODBENCH_CACHE")
            if before is not None:
                os.environ["OODBENCH_CACHE"] = before
    return clock.step


def compared(
    setting: Setting, steps: int, hardware: Hardware, augments: list[str], repeat: int
) -> dict[str, float]:
    """Images a second of the bare loop and of oodbench with each augmentation, the best of each."""
    found = {"bare": 0.0} | dict.fromkeys(augments, 0.0)
    for _ in range(repeat):
        for name in found:
            step = (
                bare(setting, steps, hardware)
                if name == "bare"
                else ours(setting, steps, hardware, name)
            )
            found[name] = max(found[name], setting.batch_size / step)
    return found


def main() -> None:
    """Print a line a method and augmentation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="ce,palm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--augment", default="image,batch")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch", type=int, help="Samples a step; default 128.")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument(
        "--processor", action="store_true", help="The processor's time, on a busy machine."
    )
    given = parser.parse_args()
    if given.steps < WARM + 2:
        parser.error(f"--steps must be {WARM + 2} or more: the first {WARM} are not counted")
    if given.processor:
        Clock.now = staticmethod(time.process_time)
    warnings.filterwarnings("ignore")
    kind = "gpu" if given.device == "cuda" else given.device
    hardware = Hardware(kind, "1", precision=given.precision, workers=given.workers, progress=False)
    for name in given.method.split(","):
        setting = SETTINGS[name]
        if given.batch:
            setting = Setting(name, setting.backbone, given.batch, setting.views)
        augments = given.augment.split(",") if name != "ce" else ["image"]
        found = compared(setting, given.steps, hardware, augments, given.repeat)
        for augment in augments:
            print(
                f"{name:5s} {setting.backbone:15s} augment={augment:6s} "
                f"{found[augment]:9.1f} images/s, "
                f"bare {found['bare']:9.1f}, ratio {found[augment] / found['bare']:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Images a second of extraction from a frozen backbone, against a bare PyTorch loop.

Usage: ``python benchmarks/extraction.py [--backbone tf_efficientnet_lite0.pypi] [--images 512]
[--batch 64] [--repeat 3] [--folder PATH]``

The loops run ``model(batch)`` in ``torch.inference_mode``: over the batches of a DataLoader with
extraction's own workers, images, preprocessing and memory format, which is what it is compared
with; and, for what the network alone can do, over batches that are in memory as tensors, in timm's
memory format and in channels_last. Extraction reads the images from their
files, decodes and preprocesses them in a worker beside the network, and writes the outputs to the
cache. Both use the same batch size and threads; each side's time is the least of several runs in
turn. Starting the worker, the digests and Lightning's set-up are within extraction's time; what it
does once these are paid, as in a data set of thousands, is said beside it: of the images beyond the
first batches, whose time alone is taken off.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oodbench.data.samples import Samples, Subset, image_folder
from oodbench.data.transforms import Transform
from oodbench.extract import extract
from oodbench.hardware import Hardware
from oodbench.networks.pretrained import create_pretrained
from oodbench.passes import Preprocessed

START = 2
"""So many batches are the start, whose time says what setting up takes."""
STARTED = ", its start"
CLOCK = [time.perf_counter]
"""What seconds are read from."""


def photographs(folder: Path, n: int) -> Path:
    """JPEG files of 240 x 180 pixels, pieces of two photographs."""
    rng = np.random.default_rng(0)
    sources = load_sample_images().images
    for number in range(n):
        source = sources[number % 2]
        height, width, _ = source.shape
        y, x = int(rng.integers(0, height - 180)), int(rng.integers(0, width - 240))
        piece = Image.fromarray(source[y : y + 180, x : x + 240])
        piece.save(folder / f"{number}.jpg", quality=90)
    return folder


def bare(model: nn.Module, batches: list[Tensor]) -> float:
    with torch.inference_mode():
        model(batches[0])
        began = CLOCK[0]()
        for batch in batches:
            model(batch)
    return CLOCK[0]() - began


def loop(model: nn.Module, samples: Samples, preprocess: Transform, hardware: Hardware) -> float:
    """The loop that one would write, features kept in memory."""
    began = CLOCK[0]()
    loader = DataLoader(
        Preprocessed(samples, preprocess),
        batch_size=hardware.batch_size,
        num_workers=hardware.workers_for(samples, preprocess),
    )
    found = []
    with torch.inference_mode():
        for batch, _ in loader:
            found.append(model(batch.contiguous(memory_format=torch.channels_last)))
    torch.cat(found)
    return CLOCK[0]() - began


def extraction(
    model: nn.Module, samples: Samples, preprocess: Transform, hardware: Hardware
) -> float:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["OODBENCH_CACHE"] = cache
        began = CLOCK[0]()
        extract(model, samples, preprocess, hardware=hardware)
        return CLOCK[0]() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0.pypi")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, help="Processes that read; default: as extraction.")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Photographs; some are made if not given.")
    parser.add_argument(
        "--processor", action="store_true", help="The processor's time, on a busy machine."
    )
    given = parser.parse_args()
    if given.processor:
        CLOCK[0] = time.process_time
    encoder = create_pretrained(given.backbone)
    preprocess = encoder.own_preprocess
    hardware = Hardware("cpu", "1", batch_size=given.batch, workers=given.workers)
    with tempfile.TemporaryDirectory() as folder:
        found = image_folder("photographs", given.folder or photographs(Path(folder), given.images))
        n = min(given.images, len(found))
        samples = Subset(found, range(n))
        tensors = torch.stack([preprocess(samples[i]) for i in range(n)])
        plain = list(tensors.split(given.batch))
        last = [batch.contiguous(memory_format=torch.channels_last) for batch in plain]
        start = Subset(samples, range(START * given.batch))
        least = dict.fromkeys(("bare", "bare, channels_last"), float("inf"))
        model = encoder.model
        ways = {"loop, same loader": (loop, model), "extraction": (extraction, encoder)}
        least |= {f"{name}{end}": float("inf") for name in ways for end in ("", STARTED)}
        for _ in range(given.repeat):
            model.to(memory_format=torch.contiguous_format)
            _note(least, "bare", bare(model, plain))
            model.to(memory_format=torch.channels_last)
            _note(least, "bare, channels_last", bare(model, last))
            for name, (way, network) in ways.items():
                _note(least, f"{name}{STARTED}", way(network, start, preprocess, hardware))
                _note(least, name, way(network, samples, preprocess, hardware))
    print(
        f"{given.backbone}, {preprocess.size} px, {n} images in batches of {given.batch}, "
        f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    )
    whole = {name: n / seconds for name, seconds in least.items() if STARTED not in name}
    for name, speed in whole.items():
        print(f"{name:20s} {speed:7.1f} images/s  ({whole['extraction'] / speed:.0%} reached)")
    beyond = {name: (n - len(start)) / (least[name] - least[f"{name}{STARTED}"]) for name in ways}
    print(f"beyond the first {len(start)} images:")
    for name, speed in beyond.items():
        print(f"{name:20s} {speed:7.1f} images/s  ({beyond['extraction'] / speed:.0%} reached)")


def _note(least: dict[str, float], name: str, seconds: float) -> None:
    least[name] = min(least[name], seconds)


if __name__ == "__main__":
    main()

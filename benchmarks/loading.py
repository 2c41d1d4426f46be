"""Share of a training step that waits for clips to be decoded, on a tree of videos made here.

Usage: ``python benchmarks/loading.py [--clips 24] [--workers 2] [--backbone clips-r3d-18]``

A tree in the layout of MultiOOD's HMDB51 (320 x 240, 60 frames, MPEG-4 video and two grey flow
videos) is trained on as ``multiood/hmdb51-25-26`` is: clips of 32 frames and of 8 flow fields,
random crops, batches of ``--batch``. Waiting is the time from asking the loader for a batch to
having it, after the first batch, which waits for the workers to start.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oodbench.data.flow import FlowFiles
from oodbench.data.samples import MultimodalSamples
from oodbench.data.video import VideoFile
from oodbench.datasets.multiood.benchmarks import near_hmdb
from oodbench.detectors.a2d import A2D, A2DRecipe
from oodbench.networks.backbones import create_backbone
from oodbench.training.train import _Views


def write(path: Path, codec: str, seed: int, frames: int = 60) -> Path:
    """A camera that moves over a photograph."""
    photograph = load_sample_images().images[seed % 2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for i in range(frames):
            y, x = 60 + (seed + i) % 100, (3 * seed + 2 * i) % 300
            pixels = np.ascontiguousarray(photograph[y : y + 240, x : x + 320])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


class Tree(MultimodalSamples):
    """Videos with their flow."""

    def __init__(self, root: Path, n: int) -> None:
        super().__init__("tree", np.arange(n) % 4, "abcd", ("video", "flow"))
        self.video = [VideoFile(write(root / f"{i}.avi", "mpeg4", i)) for i in range(n)]
        self.flow = [
            FlowFiles(*(write(root / f"{i}_{part}.mp4", "libx264", i) for part in "xy"))
            for i in range(n)
        ]

    def __getitem__(self, index: int) -> dict[str, VideoFile | FlowFiles]:
        return {"video": self.video[index], "flow": self.flow[index]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backbone", default="clips-r3d-18")
    arguments = parser.parse_args()
    preprocess = near_hmdb().preprocess
    recipe = A2DRecipe(frozen=True)
    method = A2D(create_backbone(arguments.backbone, preprocess.channels), 4, recipe).train()
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad])
    with tempfile.TemporaryDirectory() as folder:
        samples = Tree(Path(folder), arguments.clips)
        loader = DataLoader(
            _Views(samples, method.augmentation(preprocess), 1, 0),
            batch_size=arguments.batch,
            num_workers=arguments.workers,
        )
        waits, steps = [], []
        batches = iter(loader)
        for _ in range(len(loader)):
            began = time.perf_counter()
            images, labels = next(batches)
            ready = time.perf_counter()
            loss = method.loss(images, labels)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            waits.append(ready - began)
            steps.append(time.perf_counter() - ready)
    waited, worked = sum(waits[1:]), sum(steps[1:])
    print(
        f"{arguments.backbone}, {arguments.workers} workers, batches of "
        f"{arguments.batch}: a step computes "
        f"{statistics.median(steps[1:]):.2f} s and waits {statistics.median(waits[1:]):.3f} s "
        f"(median); waiting is {waited / (waited + worked):.1%} of the time"
    )


if __name__ == "__main__":
    main()

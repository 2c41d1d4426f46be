"""Time what a fitted detector adds to the network and to the reading of images.

Usage: ``python benchmarks/serving.py --checkpoint cifar10_resnet20.safetensors [--images 10000]
[--detectors msp,energy,mahalanobis,vim,knn] [--repeat 5] [--singles 300]``

CIFAR-10 under ``OODBENCH_DATA`` is the ID set. Detectors learn from 50,000 x 64 features: those of
5,000 training images, and nine slightly moved copies of each, which cost a search as much as others
do. Test images are read from their files.

Many images: ``Scorer``, which is what ``oodbench score`` runs, beside a plain loop that does what
cannot be spared: threads that decode and preprocess the same files, and the network on the same
batches. One image: ``FittedDetector.score`` of an image that was read before, as a tensor that is
preprocessed and as Pillow image, beside the network alone and the network behind the preprocessing.

Both sides of each pair run in turn in one process, so that a busy machine slows both; of many
images the least time of each counts, of single ones the median. Seconds of the processor, over all
threads, stand beside those of the clock: they hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import oodbench
from oodbench import Outputs
from oodbench.benchmark import get_benchmark
from oodbench.data.balanced import balanced
from oodbench.data.images import decode
from oodbench.data.transforms import Preprocess
from oodbench.deploy.calibration import Calibration, thresholds_of
from oodbench.deploy.fitted import FittedDetector
from oodbench.deploy.scoring import Scorer
from oodbench.deploy.sources import items
from oodbench.hardware import spare_cores
from oodbench.networks.headed import load_classifier

Seconds = tuple[float, float]
"""By the clock, and of the processor."""


def timed(work: Callable[[], Any]) -> Seconds:
    """How long it takes."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def files_of(limit: int) -> list[str]:
    """Files of so many test images, of all classes."""
    samples: Any = get_benchmark("cifar10").id.load("test")
    paths = [str(samples.root / path) for path in samples.paths]
    step = max(1, len(paths) // limit)
    return paths[::step][:limit]


def looked_at(network: nn.Module, preprocess: Preprocess, split: str, n: int) -> Outputs:
    """What the network says of so many images of a split."""
    samples = balanced(get_benchmark("cifar10").id.load(split), n)
    columns: dict[str, list[Tensor]] = {"features": [], "logits": []}
    with torch.inference_mode():
        for start in range(0, n, 100):
            batch = torch.stack([preprocess(samples[i]) for i in range(start, start + 100)])
            out = network.outputs(batch)  # type: ignore[operator]
            for name, parts in columns.items():
                parts.append(out[name].clone())
    whole = {name: torch.cat(parts) for name, parts in columns.items()}
    return Outputs(**whole, labels=torch.from_numpy(samples.labels), head=network.head())  # type: ignore[operator]


def widened(outputs: Outputs, times: int) -> Outputs:
    """As many samples times so many, features and logits of the copies moved a little."""
    torch.manual_seed(0)
    features, logits = (
        torch.cat([value * (1 + 0.02 * i * torch.randn_like(value)) for i in range(times)])
        for value in (outputs.features, outputs.logits)
    )
    return Outputs(features, logits, outputs.labels.repeat(times), outputs.head)


def plain_loop(network: nn.Module, preprocess: Any, paths: list[str], batch: int) -> int:
    """Files, threads that read them, and the network: what no detector can do without."""

    def read(path: str) -> Tensor:
        tensor: Tensor = preprocess(decode(Path(path), path))
        return tensor

    seen = 0
    with ThreadPoolExecutor(max(1, spare_cores())) as pool, torch.inference_mode():
        for some in batches(pool, read, paths, batch):
            seen += len(network(torch.stack(some)).argmax(dim=1).tolist())
    return seen


def batches(
    pool: ThreadPoolExecutor, read: Callable[[str], Tensor], paths: list[str], size: int
) -> Iterator[list[Tensor]]:
    """Images in lists of so many, the next ones being read meanwhile."""
    left = iter(paths)
    ahead = [pool.submit(read, path) for path in islice(left, 2 * size)]
    while ahead:
        yield [future.result() for future in ahead[:size]]
        ahead = ahead[size:] + [pool.submit(read, path) for path in islice(left, size)]


def many(
    fitted: FittedDetector, network: nn.Module, paths: list[str], repeat: int
) -> list[Seconds]:
    """The least seconds of the plain loop, and of the scorer."""
    runs: list[list[Seconds]] = [[], []]

    def scored() -> None:
        rows = list(Scorer(fitted).rows(items(paths)))
        assert len(rows) == len(paths)
        assert not any(row.error for row in rows)

    for _ in range(repeat):
        runs[0].append(
            timed(lambda: plain_loop(network, fitted.preprocess, paths, fitted.batch_size))
        )
        runs[1].append(timed(scored))
    return [(min(run)[0], min(cpu for _, cpu in run)) for run in runs]


def single(fitted: FittedDetector, network: nn.Module, paths: list[str]) -> tuple[float, float]:
    """Milliseconds of a tensor beyond the network; of an image, beyond preprocessing as well."""
    images = [decode(Path(path), path) for path in paths]
    tensors = [fitted.preprocess(image) for image in images]

    def alone(tensor: Tensor) -> None:
        with torch.inference_mode():
            network(tensor[None]).argmax(dim=1).item()

    pairs: list[tuple[Callable[[int], Any], Callable[[int], Any]]] = [
        (lambda i: alone(tensors[i]), lambda i: fitted.score(tensors[i])),
        (lambda i: alone(fitted.preprocess(images[i])), lambda i: fitted.score(images[i])),
    ]
    beyond = []
    for plain, ours in pairs:
        times: list[list[float]] = [[], []]
        for i in range(len(images)):
            for work, kept in zip((plain, ours), times, strict=True):
                kept.append(timed(lambda work=work, i=i: work(i))[1])  # type: ignore[misc]
        beyond.append(1000 * (statistics.median(times[1]) - statistics.median(times[0])))
    return beyond[0], beyond[1]


def main() -> None:
    """Fit, time, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--detectors", default="msp,energy,mahalanobis,vim,knn")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--singles", type=int, default=300)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    network, said = load_classifier("resnet20", asked.checkpoint, 10)
    statistics_ = {key: tuple(map(float, said[key].split(","))) for key in ("mean", "std")}
    shown = Preprocess(32, **statistics_)
    paths = files_of(asked.images)
    table = Table(
        "detector", "images/s, plain", "images/s, score", "overhead", "of the processor",
        "one tensor, ms more", "one image, ms more",
    )  # fmt: skip
    train, calibrating = (looked_at(network, shown, split, 5000) for split in ("train", "test"))
    bank = widened(train, 10)
    for name in asked.detectors.split(","):
        detector = oodbench.create_detector(name).fit(bank)
        scores = Calibration(detector.score(calibrating))
        fitted = FittedDetector(detector, network, shown, scores, thresholds_of(scores, None, None))
        (plain, busy), (ours, ours_busy) = many(fitted, network, paths, asked.repeat)
        tensor, image = single(fitted, network, paths[: asked.singles])
        table.add_row(
            name, f"{len(paths) / plain:,.0f}", f"{len(paths) / ours:,.0f}",
            f"{100 * (ours / plain - 1):.1f} %", f"{100 * (ours_busy / busy - 1):.1f} %",
            f"{tensor:.2f}", f"{image:.2f}",
        )  # fmt: skip
        print(f"{name}: done", file=sys.stderr)
    console = Console(width=140)
    console.print(table)
    console.print(
        f"{len(paths):,} images, {len(bank):,} training features, {torch.get_num_threads()} "
        f"threads of torch, {max(1, spare_cores())} reading, Python {sys.version.split()[0]}, "
        f"torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()

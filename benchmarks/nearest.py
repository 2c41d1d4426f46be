"""Time each post-hoc detector of 2023 to 2026 against the nearest one that there was before.

Usage: ``python benchmarks/nearest.py --checkpoint cifar10_resnet20.safetensors
[--benchmark cifar10/openood] [--ood cifar100,tin] [--repeat 5] [--images 1000] [--only ras]``

Seconds of processor time of one thread, the least of several runs in turn. From cached outputs a
detector is fitted on the whole ID training set and scores all test sets; outputs are in memory. For
those that look into the network it is the scoring of ``--images`` test images. One forward pass of
the network over the same images ends the table: all that read cached outputs, together, should stay
within it.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import oodbench
from benchmarks.classifier import add_options, given, in_memory
from oodbench import Outputs
from oodbench.benchmark import get_benchmark

warnings.filterwarnings("ignore")

NEAREST: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "mahalanobis-pp": ("ssd", {}, "one covariance, of unit features"),
    "rmds-pp": ("rmds", {}, "two covariances"),
    "caref": ("she", {}, "means by class, and the predicted one's"),
    "cadref": ("she", {}, "means by class, and the predicted one's"),
    "actsub": ("nnguide", {"share": 1.0}, "the energy times cosines to the whole training set"),
    "weiper": ("nnguide", {"share": 1.0}, "a product with a thousand rows or more"),
    "optfs": ("nac", {}, "activations in bins"),
    "core": ("neco", {}, "the energy and a projection"),
    "ras": ("react", {}, "features shaped by a profile of ID, then the energy"),
    "grood": ("knn", {}, "the nearest of the training samples"),
    "cfood": ("knn", {}, "the nearest of the training samples"),
    "grad-uncertainty": ("gradnorm", {}, "the last layer's gradient, in closed form"),
}
"""Detectors that read cached outputs: the nearest older one, its options, and what both do."""
INSIDE: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "iodin": ("odin", {}, "a backward pass and a second forward pass"),
    "mahalanobis-odin": ("odin", {}, "a backward pass and a second forward pass"),
    "adascale-a": ("odin", {}, "a backward pass and a second forward pass"),
    "adascale-l": ("odin", {}, "a backward pass and a second forward pass"),
    "multi-mahalanobis": ("gram", {}, "statistics of maps of several layers"),
}
"""Detectors that look into the network, in the same way."""


def cached_seconds(
    name: str, options: Mapping[str, Any], train: Outputs, tests: list[Outputs]
) -> float:
    """Processor time of one fit and of the scores of all test sets."""
    detector = oodbench.create_detector(name, **options)
    start = time.process_time()
    if detector.needs_fit:
        detector.fit(train)
    for outputs in tests:
        detector.score(outputs)
    return time.process_time() - start


def inside_seconds(
    name: str, options: Mapping[str, Any], network: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> float:
    """Processor time of one scoring of batches, network and all; they are fitted on before."""
    detector = oodbench.create_detector(name, **options)
    if detector.needs_fit_batches:
        detector.fit_batches(network, batches)
    start = time.process_time()
    for images, _ in batches:
        detector.score_batch(network, images)
    return time.process_time() - start


def table(
    pairs: Mapping[str, tuple[str, Mapping[str, Any], str]],
    seconds: Callable[[str, Mapping[str, Any]], float],
    repeat: int,
    only: list[str],
) -> float:
    """One line for each; returns the sum of the new ones' times."""
    whole = 0.0
    print(f"{'detector':18s} {'seconds':>8s}  {'nearest':18s} {'seconds':>8s} {'ratio':>6s}")
    for name, (old, options, common) in pairs.items():
        if only and name not in only:
            continue
        times = [(seconds(name, {}), seconds(old, options)) for _ in range(repeat)]
        new, before = (min(column) for column in zip(*times, strict=True))
        whole += new
        shown = old + "".join(f" {key}={value}" for key, value in options.items())
        print(f"{name:18s} {new:8.3f}  {shown:18s} {before:8.3f} {new / before:6.2f}  {common}",
              flush=True)  # fmt: skip
    return whole


def forward_seconds(network: nn.Module, images: Tensor) -> float:
    """Processor time of a forward pass, for each image."""
    network = network.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        network.outputs(images)  # type: ignore[operator]
        start = time.process_time()
        for _ in range(16):
            network.outputs(images)  # type: ignore[operator]
    return (time.process_time() - start) / 16 / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--benchmark", default="cifar10/openood")
    parser.add_argument("--ood", default="cifar100,tin")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    only = [name for name in arguments.only.split(",") if name]
    benchmark = get_benchmark(arguments.benchmark)
    sets, preprocess, network = given(arguments, benchmark)
    network.eval()
    seen = in_memory(network, sets, preprocess)
    counts = f"{len(seen[0]):,} training samples, {sum(map(len, seen[1:])):,} test samples"
    print(f"from cached outputs ({seen[0].features.shape[1]} features); {counts}")
    whole = table(NEAREST, lambda n, o: cached_seconds(n, o, seen[0], seen[1:]),
                  arguments.repeat, only)  # fmt: skip
    step = max(1, len(sets[1]) // arguments.images)  # some list them class by class
    rows = range(0, len(sets[1]), step)[: arguments.images]
    images = torch.stack([preprocess(sets[1][row]) for row in rows])
    one = forward_seconds(network, images[:256])
    print(f"together {whole:.2f}; one forward pass over these {sum(map(len, seen)):,} images "
          f"{one * sum(map(len, seen)):.2f}")  # fmt: skip
    labels = torch.from_numpy(sets[1].labels[list(rows)])
    batches = list(zip(images.split(128), labels.split(128), strict=True))
    network.preprocess = preprocess
    print(f"\nwith the network; scoring {arguments.images:,} images, without the fit on them")
    table(INSIDE, lambda n, o: inside_seconds(n, o, network, batches), min(arguments.repeat, 3),
          only)  # fmt: skip
    print(f"one forward pass over them {one * arguments.images:.2f}")


if __name__ == "__main__":
    main()

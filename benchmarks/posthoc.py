"""Time our post-hoc detectors against pytorch-ood's on the same outputs, and compare their AUROC.

Usage: ``python benchmarks/posthoc.py --checkpoint cifar10_resnet20.safetensors
[--ood cifar100,mnist,textures10] [--width 64,512] [--repeat 3] [--only knn,vim]``

One network runs over the ID training set, the ID test set and the OOD sets (its outputs are
cached); then every detector is fitted and scores all sets. Each side's time is the least of several
runs in turn, so that a busy machine slows both. Options are those under which both compute the same
(tests/helpers/peers.py); the AUROC differences are against pytorch-ood with those options. Outputs
are in memory, as pytorch-ood wants them.

A width that is a multiple of the network's takes its last feature map in that many more pieces,
averaged within each, with the head's weights shared out among them: real features of that width,
and the same logits.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import oodbench
from benchmarks.classifier import add_options, given, in_memory
from oodbench import Outputs, metrics
from oodbench.benchmark import get_benchmark
from oodbench.detectors._network import hooked, last_maps
from oodbench.outputs import Head
from tests.helpers.peers import PEERS

warnings.filterwarnings("ignore")


class Wide(nn.Module):
    """A network whose features are its last map averaged within ``parts`` pieces."""

    def __init__(self, network: nn.Module, parts: int) -> None:
        super().__init__()
        self.network, self.parts = network, parts

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Features of the pieces, and the classifier's logits."""
        kept: list[Tensor] = []
        name = last_maps(self.network, images, "this benchmark")[-1]
        with hooked({name: self.network.get_submodule(name)}, lambda _, maps: kept.append(maps)):
            self.network.outputs(images)
        rows = 2 ** (self.parts.bit_length() // 2)
        features = F.adaptive_avg_pool2d(kept[0], (rows, self.parts // rows)).flatten(1)
        return {"features": features, "logits": self.head()(features)}

    def head(self) -> Head:
        """The classifier's head, shared out among the pieces."""
        head = self.network.head()
        weight = head.weight.detach().repeat_interleave(self.parts, dim=1) / self.parts
        return Head(weight, head.bias.detach())


def run(
    fit: Callable[[Outputs], Any],
    score: Callable[[Outputs], Tensor],
    train: Outputs,
    tests: list[Outputs],
) -> tuple[float, list[Tensor]]:
    start = time.perf_counter()
    fit(train)
    scores = [score(outputs) for outputs in tests]
    return time.perf_counter() - start, scores


def aurocs(scores: list[Tensor]) -> list[float]:
    return [metrics.auroc(scores[0], ood) for ood in scores[1:]]


def ours(name: str, options: dict[str, Any]) -> tuple[Callable[..., Any], Callable[..., Tensor]]:
    detector = oodbench.create_detector(name, **options)
    return (detector.fit if detector.needs_fit else lambda _: None), detector.score


def compare(name: str, train: Outputs, tests: list[Outputs], repeat: int) -> tuple[float, float]:
    """One line; returns our time and the peer's (0 where it has none)."""
    peer = PEERS.get(name)
    best = [float("inf"), float("inf")]
    mine: list[Tensor] = []
    theirs: list[Tensor] = []
    for _ in range(repeat):
        seconds, mine = run(*ours(name, peer.options if peer else {}), train, tests)
        best[0] = min(best[0], seconds)
        if peer:
            seconds, theirs = run(*peer.make(train.head), train, tests)
            best[1] = min(best[1], seconds)
    figures = " ".join(f"{100 * value:6.2f}" for value in aurocs(mine))
    if not peer:
        print(f"{name:16s} {best[0]:9.4f} {'–':>9s} {'–':>7s} {'–':>8s}   {figures}", flush=True)
        return best[0], 0.0
    difference = max(abs(a - b) for a, b in zip(aurocs(mine), aurocs(theirs), strict=True))
    print(
        f"{name:16s} {best[0]:9.4f} {best[1]:9.4f} {best[1] / best[0]:7.2f} "
        f"{100 * difference:8.4f}   {figures}",
        flush=True,
    )
    return best[0], best[1]


def forward_seconds(network: nn.Module, total: int) -> float:
    """What one forward pass over ``total`` images takes, from 8,192 random ones."""
    images = torch.randn(256, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    network = network.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        network.outputs(images)
        start = time.perf_counter()
        for _ in range(32):
            network.outputs(images)
    return (time.perf_counter() - start) / 8192 * total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--id", default="cifar10")
    parser.add_argument("--ood", default="cifar100,mnist,textures10")
    parser.add_argument("--width", default="64,512")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    benchmark = get_benchmark(arguments.id)
    sets, preprocess, classifier = given(arguments, benchmark)
    for width in map(int, arguments.width.split(",")):
        native = int(classifier.backbone.num_features)
        network = classifier if width == native else Wide(classifier, width // native)
        outputs = in_memory(network, sets, preprocess)
        train, tests = outputs[0], outputs[1:]
        shape = f"{len(train):,} training samples, {sum(map(len, tests)):,} test samples"
        print(f"\n{width} features, {shape}, {torch.get_num_threads()} threads; seconds")
        names = [f"{name[:8]:>6s}" for name in arguments.ood.split(",")]
        print(f"{'detector':16s} {'ours':>9s} {'theirs':>9s} {'ratio':>7s} {'max diff':>8s}   "
              f"AUROC % on {' '.join(names)}")  # fmt: skip
        chosen = arguments.only.split(",") if arguments.only else oodbench.list_detectors()
        seconds, everything = {}, 0.0
        for name in chosen:
            detector = oodbench.create_detector(name)
            if detector.method != "ce" or not all(map(train.has, detector.needs)):
                continue  # another training's, or one that reads the network, text, ...
            seconds[name] = compare(name, train, tests, arguments.repeat)
            everything += seconds[name][0]
            if name in PEERS and PEERS[name].options:  # what it takes with our own defaults
                everything += run(*ours(name, {}), train, tests)[0] - seconds[name][0]
        both = [pair for pair in seconds.values() if pair[1]]
        mine, theirs = sum(a for a, _ in both), sum(b for _, b in both)
        total = sum(map(len, outputs))
        print(f"detectors that both have: {mine:.2f} s, theirs {theirs:.2f} s, "
              f"ratio {theirs / max(mine, 1e-9):.2f}")  # fmt: skip
        forward = forward_seconds(classifier, total)
        print(f"all of ours, by default: {everything:.2f} s")
        print(
            f"one forward pass of {arguments.backbone} over these {total:,} images: {forward:.2f} s"
        )


if __name__ == "__main__":
    main()

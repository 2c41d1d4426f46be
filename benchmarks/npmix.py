"""Time NP-Mix's step against a loop over samples and classes, in one run.

Usage: ``python benchmarks/npmix.py [--classes 229] [--dim 4352] [--length 65] [--batch 16]
[--steps 20] [--threads 2]``

A step pushes a batch into full queues, takes the class means and mixes one outlier a class. The
loop does it as the reference code does: a queue is concatenated anew for each sample, every mean
is taken from its whole queue, and a k-d tree of the means is asked once a class. Both hold the same
samples; each step their means are compared, and so are the partners that they may draw. Steps
alternate, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oodbench.detectors.npmix import NPMix


class Loop:
    """The queues as a dictionary of tensors, oldest sample first."""

    def __init__(self, samples: Tensor) -> None:
        self.queues = {c: samples[c].clone() for c in range(len(samples))}
        self.means = torch.zeros(len(samples), samples.shape[2])
        self.near: list[list[int]] = []
        self.rng = np.random.default_rng(0)

    def step(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Push a batch, take the means, mix: ``[C, D]``."""
        for embedding, label in zip(embeddings, labels.tolist(), strict=True):
            self.queues[label] = torch.cat([self.queues[label][1:], embedding[None]])
        for c, queue in self.queues.items():
            self.means[c] = queue.mean(dim=0)
        tree = KDTree(self.means)
        outliers, self.near = [], []
        for c, queue in self.queues.items():
            near = tree.query(self.means[c], k=3)[1][1:]
            self.near.append(sorted(near.tolist()))
            other = self.queues[int(self.rng.choice(near))]
            i, j = self.rng.integers(len(queue)), self.rng.integers(len(other))
            share = float(self.rng.beta(10.0, 10.0))
            outliers.append(share * queue[i] + (1 - share) * other[j])
        return torch.stack(outliers)


def timed(function: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, default=229)
    parser.add_argument("--dim", type=int, default=4352)
    parser.add_argument("--length", type=int, default=65)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    classes, dim, length = arguments.classes, arguments.dim, arguments.length
    data = torch.Generator().manual_seed(0)
    centres = torch.rand(classes, 1, dim, generator=data)
    samples = torch.rand(classes, length, dim, generator=data).add_(centres)
    queues, loop = NPMix(classes, dim, length), Loop(samples)
    queues.push(samples.flatten(0, 1), torch.arange(classes).repeat_interleave(length))
    draws = torch.Generator().manual_seed(0)

    ours, loops, worst, same = [], [], 0.0, 0
    pushes, mixes = [], []
    for step in range(arguments.steps + 2):
        y = torch.randint(classes, (arguments.batch,), generator=data)
        z = torch.rand(arguments.batch, dim, generator=data) + centres[y, 0]

        def push(z: Tensor = z, y: Tensor = y) -> Tensor:
            queues.push(z, y)
            return z

        seconds = timed(push), timed(lambda: queues.mix(draws))
        theirs = timed(lambda z=z, y=y: loop.step(z, y))  # type: ignore[misc]
        worst = max(worst, float((queues.prototypes() - loop.means).abs().max()))
        same += queues._nearest(2).sort(dim=1).values.tolist() == loop.near
        if step >= 2:  # the first ones take all means, and touch their memory for the first time
            pushes.append(seconds[0])
            mixes.append(seconds[1])
            ours.append(sum(seconds))
            loops.append(theirs)

    size = 4 * classes * length * dim / 1e6
    print(
        f"{classes} classes, queues of {length}, {dim:,} dimensions ({size:.0f} MB), batches of "
        f"{arguments.batch}, {arguments.threads} threads, {arguments.steps} steps; ms a step"
    )
    print(f"{'':24}{'median':>10}{'least':>10}")
    for name, times in (
        ("ours", ours),
        ("  of it the push", pushes),
        ("  of it means and mix", mixes),
        ("loop over classes", loops),
    ):
        print(f"{name:24}{statistics.median(times):10.2f}{min(times):10.2f}")
    ratio = statistics.median(loops) / statistics.median(ours)
    print(f"{'ratio':24}{ratio:10.1f}{min(loops) / min(ours):10.1f}")
    print(
        f"means differ by at most {worst:.1e}; "
        f"the same nearest classes in {same} of {arguments.steps + 2} steps"
    )


if __name__ == "__main__":
    main()

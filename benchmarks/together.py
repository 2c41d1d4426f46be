"""Two networks in one pass against two passes, where decoding is the bottleneck.

    python benchmarks/together.py FOLDER [--repeat 5] [--size 64] [--networks test_resnet,test_vit]

FOLDER is searched for images. The networks are timm's by name, without weights, and small, so that
decoding and resizing take most of the time. Both ways end with the same outputs in the cache, which
is asserted, and each way begins with an empty one. Printed are the best seconds of processor time
(of this process: data is read in it) and of the clock, each way, and their ratios.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

from oodbench import Hardware
from oodbench.data.samples import Samples, image_folder
from oodbench.data.transforms import Preprocess
from oodbench.extract import extract
from oodbench.together import extract_together

HARDWARE = Hardware("cpu", "1", workers=0, batch_size=50, progress=False)


def apart(networks: list[nn.Module], samples: Samples, preprocess: Preprocess) -> None:
    """A pass for each network."""
    for network in networks:
        extract(network, samples, preprocess, hardware=HARDWARE)


def together(networks: list[nn.Module], samples: Samples, preprocess: Preprocess) -> None:
    """One pass for all, then what each is asked for is read from the cache."""
    seen = extract_together(networks, samples, preprocess, hardware=HARDWARE)
    assert seen == len(networks), f"only {seen} networks saw the samples"
    apart(networks, samples, preprocess)


def measured(way: Callable[[], None]) -> tuple[float, float]:
    """Seconds of processor time and of the clock with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OODBENCH_CACHE"] = folder
        processor, clock = time.process_time(), time.perf_counter()
        way()
        return time.process_time() - processor, time.perf_counter() - clock


def same(networks: list[nn.Module], samples: Samples, preprocess: Preprocess) -> bool:
    """Whether both ways give the same logits, bit by bit."""
    found = []
    for way in (apart, together):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["OODBENCH_CACHE"] = folder
            way(networks, samples, preprocess)
            outputs = [extract(n, samples, preprocess, hardware=HARDWARE) for n in networks]
            found.append([torch.as_tensor(each.logits).clone() for each in outputs])
    return all(one.equal(other) for one, other in zip(*found, strict=True))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--size", type=int, default=64, help="side that images are resized to")
    parser.add_argument("--networks", default="test_resnet,test_efficientnet")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    networks = [
        timm.create_model(name, num_classes=10).eval() for name in asked.networks.split(",")
    ]
    samples = image_folder("photographs", asked.folder)
    preprocess = Preprocess(asked.size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    print(f"{len(samples)} images, {asked.networks}, {asked.size} pixels, one thread")
    print(f"the same outputs: {same(networks, samples, preprocess)}")
    ways = (apart, together)
    times: dict[str, list[tuple[float, float]]] = {way.__name__: [] for way in ways}
    for _ in range(asked.repeat):
        for way in ways:  # in turn, as a machine's speed changes from minute to minute
            times[way.__name__].append(measured(lambda way=way: way(networks, samples, preprocess)))
    best = {name: tuple(map(min, zip(*own, strict=True))) for name, own in times.items()}
    for name, (processor, clock) in best.items():
        print(f"{name:9} processor {processor:.2f} s, clock {clock:.2f} s")
    ratios = [one / other for one, other in zip(best["together"], best["apart"], strict=True)]
    print(f"ratio     processor {ratios[0]:.3f}, clock {ratios[1]:.3f}")


if __name__ == "__main__":
    main()

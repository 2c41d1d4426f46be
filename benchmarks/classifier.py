"""What benchmarks of post-hoc detectors share: a given classifier, and sets of a benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from oodbench import Outputs
from oodbench.benchmark import Benchmark
from oodbench.data.samples import Samples
from oodbench.data.transforms import Preprocess
from oodbench.extract import extract
from oodbench.hardware import Hardware
from oodbench.networks.headed import load_classifier


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that name the classifier and say what it sees."""
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--backbone", default="resnet20")
    parser.add_argument("--mean", default="0.485,0.456,0.406")
    parser.add_argument("--std", default="0.229,0.224,0.225")


def given(
    arguments: argparse.Namespace, benchmark: Benchmark
) -> tuple[list[Samples], Preprocess, Any]:
    """The ID training and test sets and the OOD sets that ``--ood`` names; the images; the network.

    Args:
        arguments: with the options above.
        benchmark: whose sets they are.
    """
    mean, std = (tuple(map(float, text.split(","))) for text in (arguments.mean, arguments.std))
    sets = [benchmark.id.load("train"), benchmark.id.load("test")] + [
        choice.spec.load(choice.spec.splits[-1])
        for choice in benchmark.choose(arguments.ood.split(","))
    ]
    network, _ = load_classifier(arguments.backbone, arguments.checkpoint, len(sets[0].classes))
    return sets, Preprocess(32, mean, std), network


def in_memory(network: Any, sets: Sequence[Samples], preprocess: Preprocess) -> list[Outputs]:
    """What the network says of each set, copied so that the arrays are in no file."""
    seen = (extract(network, one, preprocess, hardware=Hardware(batch_size=256)) for one in sets)
    return [Outputs(o.features.clone(), o.logits.clone(), o.labels.clone(), o.head) for o in seen]

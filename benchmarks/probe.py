"""Accuracy and time of the linear probe against scikit-learn's logistic regression.

Usage: ``python benchmarks/probe.py [--backbone tf_efficientnet_lite0.pypi] [--input-size 96]
[--images 20000] [--decays 1e-1,1e-2,1e-3,1e-4]``

Both read the same features of the same images, CIFAR-100's first ones by content, from a frozen
network (its outputs are cached), and are tested on the official test images. For each weight decay
``lambda`` scikit-learn solves the same problem, ``C = 1 / (n lambda)``, on the features centred and
scaled as ours are; single precision, L-BFGS, its default tolerance, and no limit on iterations that
it would reach. Our time has the eigendecomposition that all decays share in the first. The last
lines are the whole probe, chosen on validation images and fitted again on all, against
scikit-learn doing the same with the same decays, and against its fit with the chosen one alone.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oodbench import Outputs, metrics
from oodbench.data.samples import Samples
from oodbench.datasets.cifar import CIFAR100
from oodbench.datasets.validation import held_out
from oodbench.detectors.ptood import LinearProbe, ProbeRecipe
from oodbench.extract import extract
from oodbench.hardware import Hardware
from oodbench.networks import linear
from oodbench.networks.pretrained import create_pretrained

warnings.filterwarnings("ignore")


def in_memory(outputs: Outputs) -> Outputs:
    return Outputs(outputs.features.clone(), labels=outputs.labels.clone())


def peer(x: np.ndarray, y: np.ndarray, decay: float) -> tuple[float, LogisticRegression]:
    began = time.perf_counter()
    fitted = LogisticRegression(C=1 / (len(y) * decay), max_iter=10_000).fit(x, y)
    return time.perf_counter() - began, fitted


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0.pypi")
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--decays", default="1e-1,1e-2,1e-3,1e-4")
    arguments = parser.parse_args()
    encoder = create_pretrained(arguments.backbone, input_size=arguments.input_size, layers=0)
    whole = CIFAR100.load("train")
    some: Samples = held_out(whole, arguments.images / len(whole))[1]
    seen = [
        in_memory(extract(encoder, part, encoder.own_preprocess, hardware=Hardware("cpu")))
        for part in (some, CIFAR100.load("test"))
    ]
    train, test = seen
    print(f"{len(train)} x {train.features.shape[1]} features, {len(some.classes)} classes, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    data = linear.Regression(train.features, train.labels, len(some.classes))
    mean, scale, *_ = data.basis
    x, xt = (((part.features - mean) / scale).numpy() for part in (train, test))
    y, yt = train.labels.numpy(), test.labels.numpy()

    print(
        f"{'decay':>8s} {'ours s':>8s} {'theirs s':>9s} {'ratio':>6s} {'passes':>12s}   accuracy %"
    )
    for decay in map(float, arguments.decays.split(",")):
        fresh = linear.Regression(train.features, train.labels, len(some.classes))
        began = time.perf_counter()
        fit = linear.fit(fresh, decay)
        mine = time.perf_counter() - began
        theirs, fitted = peer(x, y, decay)
        ours = 100 * metrics.accuracy(fit.head(test.features), test.labels)
        print(
            f"{decay:8g} {mine:8.2f} {theirs:9.2f} {mine / theirs:6.2f} "
            f"{fit.passes:5d}, {int(fitted.n_iter_[0]):5d}   {ours:.2f}, "
            f"{100 * fitted.score(xt, yt):.2f}",
            flush=True,
        )

    held = torch.arange(len(train)) % 10 == 0
    val = Outputs(train.features[held], labels=train.labels[held])
    decays = ProbeRecipe().weight_decays
    probe = LinearProbe(encoder, len(some.classes), ProbeRecipe())
    began = time.perf_counter()
    learnt = probe.learn(train, ~held, val)
    mine = time.perf_counter() - began
    ours = 100 * metrics.accuracy(probe.linear(test.features), test.labels)
    kept = (~held).numpy()
    total, scores = 0.0, {}
    for decay in decays:
        seconds, fitted = peer(x[kept], y[kept], decay)
        scores[decay] = fitted.score(x[~kept], y[~kept])
        total += seconds
    best = max(scores, key=lambda decay: (scores[decay], decay))
    last, fitted = peer(x, y, best)
    alone, same = peer(x, y, float(learnt["weight_decay"]))
    print(
        f"whole probe: {mine:.2f} s, decay {learnt['weight_decay']}, {ours:.2f} %\n"
        f"scikit-learn, the same search: {total + last:.2f} s, decay {best:g}, "
        f"{100 * fitted.score(xt, yt):.2f} %; ratio {mine / (total + last):.2f}\n"
        f"scikit-learn, one fit with the decay that we chose: {alone:.2f} s, "
        f"{100 * same.score(xt, yt):.2f} %; ratio {mine / alone:.2f}"
    )


if __name__ == "__main__":
    main()

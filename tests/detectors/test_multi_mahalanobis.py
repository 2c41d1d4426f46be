"""Mahalanobis distances in several layers: sample by sample, and pytorch-ood's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import oodbench
from oodbench.errors import BadScoresError, OptionError
from tests.helpers.scores import Network, images, same, small_cnn

LAYERS = ("stages.1", "stages.4")


def fitted(model: Network, batch: int = 7, **options: object) -> oodbench.Detector:
    x, y = images(80), torch.arange(80) % 4
    detector = oodbench.create_detector("multi-mahalanobis", **options)
    return detector.fit_batches(model, zip(x.split(batch), y.split(batch), strict=True))


@pytest.mark.parametrize("alpha", [(), (0.5, 3.0)])
def test_sample_by_sample(alpha: tuple[float, ...]) -> None:
    model, y = small_cnn(), np.arange(80) % 4
    test = images(9, seed=1) * 1.5
    expected = np.zeros(9)
    for end, weight in zip((2, 5), alpha or (1, 1), strict=True):
        with torch.no_grad():
            z, t = (
                model.stages[:end](x).flatten(2).mean(dim=2).numpy() for x in (images(80), test)
            )
        means = [z[y == c].mean(axis=0) for c in range(4)]
        scatter = sum(np.outer(row - means[c], row - means[c]) for row, c in zip(z, y, strict=True))
        precision = np.linalg.inv(scatter + 1e-6 * np.eye(len(scatter)))
        for i, row in enumerate(t):
            expected[i] += weight / 2 * min((row - m) @ precision @ (row - m) for m in means)
    detector = fitted(model, layers=LAYERS, alpha=alpha)
    same(detector.score_batch(model, test), expected, rtol=1e-8)


def test_it_is_pytorch_oods() -> None:
    peer = pytest.importorskip("pytorch_ood.detector", reason="the test extra has it")
    model, x, test = small_cnn().float(), images(80).float(), images(9, seed=1).float() * 1.5
    y = torch.arange(80) % 4
    theirs = peer.MultiMahalanobis([model.stages[:2], model.stages[2:]])
    with torch.no_grad():
        pooled = [model.stages[:end](x).mean(dim=(2, 3)) for end in (2, 5)]
        theirs.to("cpu")
        theirs.fit_structured(pooled, y)
        expected = theirs.predict(test)
    detector = oodbench.create_detector("multi-mahalanobis", layers=LAYERS)
    detector.fit_batches(model, [(x, y)])
    same(detector.score_batch(model, test), expected.numpy(), rtol=2e-3)


def test_layers_are_the_ends_of_stages_unless_they_are_named() -> None:
    model = small_cnn()
    found = fitted(model)
    # of maps of one size and as many channels the last counts: behind the ReLU, the pool, the ReLU
    assert list(found.means_) == ["stages.1", "stages.2", "stages.4"]  # type: ignore[attr-defined]


def test_refusals() -> None:
    model = small_cnn()
    with pytest.raises(OptionError, match="1 weights for 2 layers"):
        oodbench.create_detector("multi-mahalanobis", layers=LAYERS, alpha=(1.0,))
    with pytest.raises(OptionError, match="2 weights for 3 layers"):
        fitted(model, alpha=(1.0, 2.0))
    with pytest.raises(OptionError, match="the network has no layer 'nowhere'"):
        fitted(model, layers="nowhere")
    detector = oodbench.create_detector("multi-mahalanobis")
    with pytest.raises(BadScoresError, match="no training sample of classes"):
        detector.fit_batches(model, [(images(9), torch.zeros(9, dtype=torch.int64))])
    with pytest.raises(BadScoresError, match="fit got no training samples"):
        detector.fit_batches(model, [])

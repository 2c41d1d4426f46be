"""Mahalanobis after a step: on a linear network by hand, and pytorch-ood's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import oodbench
from oodbench.errors import OptionError
from tests.helpers.scores import images, same, small_cnn


@pytest.mark.parametrize("std", [None, (0.2, 0.25, 0.4)])
def test_sample_by_sample(std: tuple[float, ...] | None) -> None:
    model, x, y = small_cnn(), images(80), np.arange(80) % 4
    if std is not None:
        model.preprocess = type("Preprocess", (), {"std": std})()  # type: ignore[assignment]
    test = images(6, seed=1) * 1.5
    with torch.no_grad():
        z = model.outputs(x)["features"].numpy()
    means = np.stack([z[y == c].mean(axis=0) for c in range(4)])
    scatter = sum(np.outer(row - means[c], row - means[c]) for row, c in zip(z, y, strict=True))
    precision = np.linalg.inv(scatter + 1e-6 * np.eye(8))

    def distances(f: np.ndarray) -> list[float]:
        return [float((f - m) @ precision @ (f - m)) / 2 for m in means]

    expected = []
    for one in test:
        leaf = one[None].clone().requires_grad_()
        f = model.outputs(leaf)["features"][0]
        near = int(np.argmin(distances(f.detach().numpy())))
        # M's gradient by the features is P (f - m); the network's part is autograd's
        along = torch.from_numpy(precision @ (f.detach().numpy() - means[near]))
        (gradient,) = torch.autograd.grad(f @ along, leaf)
        scale = np.array(std or (1, 1, 1))[:, None, None]
        stepped = one.numpy() - 0.01 * np.sign(gradient[0].numpy()) / scale
        with torch.no_grad():
            after = model.outputs(torch.from_numpy(stepped)[None])["features"][0].numpy()
        expected.append(min(distances(after)))
    detector = oodbench.create_detector("mahalanobis-odin", noise=0.01)
    labels = torch.from_numpy(y)
    detector.fit_batches(model, zip(x.split(9), labels.split(9), strict=True))
    same(detector.score_batch(model, test), expected, rtol=1e-7)
    with torch.inference_mode():
        same(detector.score_batch(model, images(6, seed=1) * 1.5), expected, rtol=1e-7)


def test_it_is_pytorch_oods() -> None:
    peer = pytest.importorskip("pytorch_ood.detector", reason="the test extra has it")
    model, x, y = small_cnn().float(), images(80).float(), torch.arange(80) % 4
    test = images(6, seed=1).float() * 1.5
    theirs = peer.MahalanobisODIN(lambda x: model.outputs(x)["features"], eps=0.01)
    with torch.no_grad():
        theirs.fit_features(model.outputs(x)["features"], y)
    expected = theirs.predict(test).numpy()
    detector = oodbench.create_detector("mahalanobis-odin", noise=0.01)
    detector.fit_batches(model, [(x, y)])
    same(detector.score_batch(model, test), expected, rtol=2e-3)


def test_the_step_comes_closer() -> None:
    model, x, y = small_cnn(), images(80), torch.arange(80) % 4
    plain, stepped = (
        oodbench.create_detector("mahalanobis-odin", noise=noise).fit_batches(model, [(x, y)])
        for noise in (0.0, 0.001)
    )
    test = images(9, seed=1)
    assert (stepped.score_batch(model, test) < plain.score_batch(model, test)).all()


def test_refusals() -> None:
    with pytest.raises(OptionError, match="mahalanobis-odin: noise must not be negative"):
        oodbench.create_detector("mahalanobis-odin", noise=-1.0)

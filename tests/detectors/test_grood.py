"""GROOD's gradient is autograd's; its score sample by sample, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import oodbench
from oodbench import Outputs
from oodbench.detectors import grood
from oodbench.errors import BadScoresError
from tests.helpers.problems import Problem, arrays, problem
from tests.helpers.scores import same


def gradient(f: np.ndarray, means: np.ndarray, outlier: np.ndarray) -> np.ndarray:
    distances = [np.linalg.norm(f - m) for m in [*means, outlier]]
    q = np.exp(-np.array(distances))
    return q[-1] / q.sum() * (f - outlier) / distances[-1]


def class_means(p: Problem) -> np.ndarray:
    f, _, y = arrays(p.train)
    return np.stack([f[y == c].mean(axis=0) for c in range(5)])


def test_the_gradient_is_autograds() -> None:
    p = problem(test=9)
    means = torch.from_numpy(class_means(p))
    outlier = means.mean(dim=0)
    q = grood.outlier_probability(p.test.features, means, outlier)
    found = grood.prototype_gradient(p.test.features, q, outlier)
    for f, z, g in zip(p.test.features, p.test.logits, found, strict=True):
        outlier = means.mean(dim=0).requires_grad_()
        away = torch.cat([means, outlier[None]]) - f
        loss = -(-away.norm(dim=1)).log_softmax(dim=0)[z.argmax()]
        torch.testing.assert_close(torch.autograd.grad(loss, outlier)[0], g)


@pytest.mark.parametrize("variant", ["neighbour", "norm", "distance"])
@pytest.mark.parametrize("given", [False, True])
def test_sample_by_sample(variant: str, given: bool) -> None:
    p = problem(rectified=False, dim=6)
    means = class_means(p)
    outlier = arrays(p.ood)[0].mean(axis=0) if given else means.mean(axis=0)
    f, z, y = arrays(p.train)
    right = z.argmax(axis=1) == y
    assert not right.all()
    bank = [gradient(row, means, outlier) for row in f[right]]
    expected = []
    for row in arrays(p.test)[0]:
        g = gradient(row, means, outlier)
        if variant == "neighbour":
            expected.append(min(((g - b) ** 2).sum() for b in bank))
        elif variant == "norm":
            expected.append(np.abs(g).sum())
        else:
            expected.append(-np.linalg.norm(row - outlier))
    detector = oodbench.create_detector("grood", variant=variant)
    if given:
        detector.with_outliers(p.ood.features)  # type: ignore[attr-defined]
    same(detector.fit(p.train).score(p.test).numpy(), expected, rtol=1e-8)


def test_by_hand() -> None:
    """Class means 3 and -3, prototype 0; the training samples lie on the means."""
    f = torch.tensor([[3.0], [-3.0]], dtype=torch.float64)
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    detector = oodbench.create_detector("grood").fit(Outputs(f, z, torch.tensor([0, 1])))
    q = lambda x: np.exp(-x) / (np.exp(-x) + np.exp(-abs(x - 3)) + np.exp(-x - 3))
    x = torch.tensor([[1.0]], dtype=torch.float64)
    found = detector.score(Outputs(x, z[:1], torch.tensor([0])))
    np.testing.assert_allclose(found, [(q(1.0) - q(3.0)) ** 2])


def test_no_sample_that_is_right_is_refused() -> None:
    p = problem()
    wrong = (p.train.logits.argmax(dim=1) + 1) % 5
    with pytest.raises(BadScoresError, match="grood: the network classifies no training sample"):
        oodbench.create_detector("grood").fit(
            Outputs(p.train.features, p.train.logits, wrong, p.train.head)
        )


@pytest.mark.parametrize("name", ["grood", "knn"])
def test_the_graph_gives_the_same(name: str) -> None:
    p = problem(rectified=False)
    options = {"normalize": False, "k": 1} if name == "knn" else {}
    detector = oodbench.create_detector(name, **options).fit(p.train)
    torch.testing.assert_close(detector.graph_score(p.test), detector.score(p.test))

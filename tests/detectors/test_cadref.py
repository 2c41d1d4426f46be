"""CARef and CADRef sample by sample, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

import oodbench
from oodbench import Outputs
from oodbench.errors import OODBenchWarning
from oodbench.outputs import Head
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import head_of, same, scores


def confidence(kind: str, z: np.ndarray) -> float:
    if kind == "energy":
        return float(logsumexp(z))
    if kind == "maxlogit":
        return float(z.max())
    p = softmax(z)
    if kind == "msp":
        return float(p.max())
    most = max(10, len(z) // 10)
    return float(1 / sum(q**0.1 * (1 - q) ** 0.1 for q in sorted(p)[-most:]))


@pytest.mark.parametrize(("kind", "classes"), [
    ("energy", 5), ("maxlogit", 5), ("msp", 5), ("gen", 5), ("gen", 13),
])  # fmt: skip
def test_sample_by_sample(kind: str, classes: int) -> None:
    p = problem(n=400, classes=classes, rectified=False)
    weight, _ = head_of(p)
    f, z, y = arrays(p.train)
    predicted = z.argmax(axis=1)
    assert (predicted != y).any()  # or the test could not tell the two groupings apart
    means = np.stack([f[predicted == c].mean(axis=0) for c in range(classes)])
    mean_s = np.mean([confidence(kind, row) for row in z])
    careful, decoupled = [], []
    for row, logits in zip(*arrays(p.test)[:2], strict=True):
        c = logits.argmax()
        d, s = row - means[c], np.sign(weight[c])
        norm = np.abs(row).sum()
        plus = np.maximum(d * s, 0).sum() / norm
        minus = np.maximum(-d * s, 0).sum() / norm
        careful.append(np.abs(d).sum() / norm)
        np.testing.assert_allclose(plus + minus, careful[-1])
        decoupled.append(plus / confidence(kind, logits) + minus / mean_s)
    same(scores("caref", p), careful)
    same(scores("cadref", p, confidence=kind), decoupled)


def test_by_hand() -> None:
    head = Head(np.array([[1.0, -1.0], [-1.0, 2.0]]), np.array([1.0, 0.0]))  # type: ignore[arg-type]
    f = torch.tensor([[3.0, 1.0], [1.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    # logits (3, -1), (1, 1), (-1, 4): predicted 0, 0, 1; labels say otherwise and do not count
    train = Outputs(f, head(f), torch.tensor([1, 1, 0]), head)
    x = torch.tensor([[4.0, 1.0]], dtype=torch.float64)
    test = Outputs(x, head(x), torch.tensor([0]), head)  # logits (4, -2), class 0
    # m_0 = (2, 1): d = (2, 0), |d| / |f| = 2 / 5, all of it along the sign (1, -1)
    same_as = [2 / 5]
    np.testing.assert_allclose(oodbench.create_detector("caref").fit(train).score(test), same_as)
    cadref = oodbench.create_detector("cadref", confidence="maxlogit").fit(train)
    np.testing.assert_allclose(cadref.score(test), [2 / 5 / 4])
    y = torch.tensor([[1.0, 0.0]], dtype=torch.float64)  # logits (2, -1); d = (-1, -1)
    # against the sign: 1 of the first unit; along it: 1 of the second; mean S = (3 + 1 + 4) / 3
    found = cadref.score(Outputs(y, head(y), torch.tensor([0]), head))
    np.testing.assert_allclose(found, [1 / 2 + 1 / (8 / 3)])


def test_a_class_that_is_never_predicted_takes_the_mean_of_all() -> None:
    p = problem()
    logits = p.train.logits.clone()
    logits[:, 3] = -100.0
    train = Outputs(p.train.features, logits, p.train.labels, p.train.head)
    caref = oodbench.create_detector("caref").fit(train)
    rows = p.test.logits.argmax(dim=1) == 3
    found = caref.score(p.test)[rows].numpy()
    f = arrays(p.test)[0][rows.numpy()]
    mean = arrays(p.train)[0].mean(axis=0)
    same(found, np.abs(f - mean).sum(axis=1) / np.abs(f).sum(axis=1))


def test_a_confidence_that_is_not_positive_is_said() -> None:
    p = problem()
    low = Outputs(p.test.features, p.test.logits - 50, p.test.labels, p.test.head)
    cadref = oodbench.create_detector("cadref").fit(p.train)
    with pytest.warns(OODBenchWarning, match="energy of 40 of 40 samples is not positive"):
        cadref.score(low)

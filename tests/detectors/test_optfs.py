"""OptFS sample by sample, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

import oodbench
from oodbench import Outputs
from oodbench.errors import OptionError
from oodbench.outputs import Head
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import head_of, same, scores


@pytest.mark.parametrize("variant", ["V", "E"])
@pytest.mark.parametrize("rectified", [True, False])
def test_sample_by_sample(variant: str, rectified: bool) -> None:
    p = problem(rectified=rectified)
    weight, bias = head_of(p)
    f, z, _ = arrays(p.train)
    low, high = np.quantile(f, 0.001), np.quantile(f, 0.999)
    width = (high - low) / 100
    edges = low + width * np.arange(100)
    importance = np.zeros(100)
    for row, logits in zip(f, z, strict=True):
        part = weight[logits.argmax()] * row
        for i, edge in enumerate(edges):
            importance[i] += part[(row >= edge) & (row < edge + width)].sum() / len(f)
    theta = 1000 * importance / np.linalg.norm(importance)
    expected = []
    for row, logits in zip(*arrays(p.test)[:2], strict=True):
        shaped = np.zeros_like(row)
        for i, edge in enumerate(edges):
            inside = (row >= edge) & (row < edge + width)
            shaped[inside] = theta[i] * row[inside]
        if variant == "V":
            expected.append(-weight[logits.argmax()] @ shaped)
        else:
            expected.append(-logsumexp(weight @ shaped + bias))
    same(scores("optfs", p, variant=variant), expected, rtol=1e-6)


def test_by_hand() -> None:
    head = Head(np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([0.5, 0.0]))  # type: ignore[arg-type]
    f = torch.tensor([[0.0, 1.0], [2.0, 4.0]], dtype=torch.float64)
    optfs = oodbench.create_detector("optfs", bins=2, tail=0.0)
    optfs.fit(Outputs(f, head(f), torch.tensor([0, 0]), head))
    # bins [0, 2) and [2, 4): I = (1, 2) / 2, as 4 is in none; theta = 1000 (1, 2) / sqrt 5
    x = torch.tensor([[1.0, 3.0], [5.0, -1.0]], dtype=torch.float64)
    test = Outputs(x, head(x), torch.tensor([0, 0]), head)
    np.testing.assert_allclose(optfs.score(test), [-7000 / np.sqrt(5), 0.0], rtol=1e-9)


def test_refusals() -> None:
    for options, message in (({"bins": 0}, "bins must be"), ({"tail": 50.0}, "tail is in")):
        with pytest.raises(OptionError, match=f"optfs: {message}"):
            oodbench.create_detector("optfs", **options)
    p = problem()
    flat = Outputs(torch.ones_like(p.train.features), p.train.logits, p.train.labels, p.train.head)
    assert oodbench.create_detector("optfs").fit(flat).score(p.test).isfinite().all()

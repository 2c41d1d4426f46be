"""RAS sample by sample, by hand, and what its ranks promise."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import logsumexp

import oodbench
from oodbench import Outputs
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import head_of, same, scores


def test_sample_by_sample() -> None:
    p = problem()
    weight, bias = head_of(p)
    profile = np.sort(arrays(p.train)[0], axis=1).mean(axis=0)
    expected = []
    for f in arrays(p.test)[0]:
        shaped = np.empty_like(f)
        for rank, unit in enumerate(np.argsort(f, kind="stable")):
            shaped[unit] = profile[rank]
        expected.append(-logsumexp(weight @ shaped + bias))
    same(scores("ras", p), expected)


def test_by_hand() -> None:
    head = oodbench.outputs.Head(np.array([[1.0, 0.0], [0.0, 1.0]]))  # type: ignore[arg-type]
    f = torch.tensor([[1.0, 4.0], [3.0, 2.0]], dtype=torch.float64)  # sorted: 1 4, 2 3
    ras = oodbench.create_detector("ras", score="maxlogit")
    ras.fit(Outputs(f, head(f), torch.tensor([0, 1]), head))
    x = torch.tensor([[9.0, -9.0], [0.0, 0.0]], dtype=torch.float64)
    # the profile is (1.5, 3.5): the largest logit is 3.5 for both, whatever their size
    found = ras.score(Outputs(x, head(x), torch.tensor([0, 1]), head))
    np.testing.assert_allclose(found, [-3.5, -3.5])


def test_only_the_order_counts() -> None:
    p = problem(rectified=False)
    ras = oodbench.create_detector("ras").fit(p.train)
    other = Outputs(p.test.features.exp() * 3 - 7, p.test.logits, p.test.labels, p.test.head)
    torch.testing.assert_close(ras.score(other), ras.score(p.test))

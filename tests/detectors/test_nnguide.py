"""NNGuide, sample by sample, and the bank that it keeps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

import oodbench
from oodbench.detectors import _numerics
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores, unit


def test_a_whole_bank_does_not_depend_on_the_order() -> None:
    p = problem(n=301)
    order = torch.randperm(301, generator=torch.Generator().manual_seed(1))
    whole = oodbench.create_detector("nnguide", share=1, k=7)
    expected = copy.deepcopy(whole).fit(p.train).score(p.test)
    same(copy.deepcopy(whole).fit(p.train[order]).score(p.test), expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize(("k", "share"), [(10, 1.0), (7, 0.2), (40, 0.01)])
def test_nnguide_sample_by_sample(k: int, share: float) -> None:
    p = problem()
    z, f, y = arrays(p.train)
    # a share of each class, in even steps; k at least
    rows = np.argsort(y, kind="stable")
    size = max(k, round(share * len(rows)))
    rows = rows[[i * len(rows) // size for i in range(size)]]
    bank = unit(z)[rows] * logsumexp(f, axis=1)[rows, None]
    expected = []
    for x, logits in zip(unit(arrays(p.test)[0]), p.test.logits.numpy(), strict=True):
        expected.append(-logsumexp(logits) * np.sort(bank @ x)[-k:].mean())
    same(scores("nnguide", p, k=k, share=share), expected, rtol=1e-5)


def test_nnguides_bank() -> None:
    p = problem(n=1000, dtype=torch.float32)
    bank = lambda p, **options: (
        oodbench.create_detector("nnguide", **options).fit(p.train).bank_  # type: ignore[attr-defined]
    )
    whole = bank(p, k=5, share=0.1)
    assert len(whole) == 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_numerics, "BLOCK", 1)
        assert torch.equal(bank(p, k=5, share=0.1), whole)
    # at least k rows, and as many of each class as the training set's share of it
    assert len(bank(p, k=300, share=0.01)) == 300
    assert len(bank(p, k=1000, share=0.01)) == 1000
    rows = oodbench.create_detector("nnguide", k=5, share=0.1)._rows(p.train.labels)  # type: ignore[attr-defined]
    assert torch.bincount(p.train.labels[rows]).tolist() == [20] * 5
    assert len(set(rows.tolist())) == 100

"""CFOOD sample by sample, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import oodbench
from oodbench import Outputs
from oodbench.detectors import cfood
from oodbench.errors import OptionError
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same


@pytest.mark.parametrize("k", [0.001, 0.01, 0.05, 0.3])
def test_sample_by_sample(k: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cfood, "AT_ONCE", 1000)  # several parts
    monkeypatch.setattr(cfood, "LEAST", 1)
    p = problem(rectified=False)
    u, test = (f / (np.linalg.norm(f, axis=1, keepdims=True) + 1e-10)
               for f in (arrays(p.train)[0], arrays(p.test)[0]))  # fmt: skip
    n = len(u)
    shares: list[float] = []
    positions: list[int] = []
    grid = [
        *np.linspace(0.001, 0.1, 100),
        *np.linspace(0.105, 0.5, 81),
        *np.linspace(0.51, 0.99, 49),
    ]
    before = -1
    for share in grid:
        position = int(share * n - 1)
        if position > before:
            shares.append(share)
            positions.append(position)
        before = position
    radii = [sorted(((row - u) ** 2).sum(axis=1)) for row in u]
    expected = []
    for row in test:
        distances = ((row - u) ** 2).sum(axis=1)
        score = 1.0
        for share, position in zip(shares, positions, strict=True):
            reached = np.mean([radii[i][position + 1] >= distances[i] for i in range(n)])
            if reached >= k:
                score = share
                break
        expected.append(score)
    found = oodbench.create_detector("cfood", share=1.0, k=k).fit(p.train).score(p.test)
    same(found.numpy(), expected, rtol=1e-12)


def test_by_hand() -> None:
    """Four reference samples at 0, 90, 180 and 270 degrees: each has others at 2, 2 and 4."""
    f = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    detector = oodbench.create_detector("cfood", share=1.0, k=0.6)
    detector.fit(Outputs(f, labels=torch.arange(4)))
    k, position = cfood.grid_of_shares(4)
    np.testing.assert_array_equal(position, [0, 1, 2])
    np.testing.assert_allclose(k, [0.001, 0.5, 0.75])
    # at 10 degrees the squared distances are below 2 for two of four, below 4 for all of them
    t = np.pi / 18
    x = Outputs(torch.tensor([[np.cos(t), np.sin(t)]]), labels=torch.tensor([0]))
    assert detector.score(x).tolist() == [0.75]
    near = oodbench.create_detector("cfood", share=1.0, k=0.5).fit(
        Outputs(f, labels=torch.arange(4))
    )
    assert near.score(x).tolist() == [0.001]


def test_reference_samples_are_drawn_by_the_seed() -> None:
    p = problem()
    one, other = (oodbench.create_detector("cfood", seed=s, share=0.2).fit(p.train) for s in (0, 1))
    again = oodbench.create_detector("cfood", share=0.2).fit(p.train)
    assert torch.equal(one.score(p.test), again.score(p.test))
    assert len(one.bank_) == 60  # type: ignore[attr-defined]
    assert not torch.equal(one.bank_, other.bank_)  # type: ignore[attr-defined]


def test_refusals() -> None:
    for options, message in (({"share": 0.0}, "share must be"), ({"k": 1.0}, "k must be")):
        with pytest.raises(OptionError, match=f"cfood: {message}"):
            oodbench.create_detector("cfood", **options)
    with pytest.raises(OptionError, match="leaves 0 reference samples"):
        oodbench.create_detector("cfood", share=0.01).fit(problem(n=50).train)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_reference_sample_has_one_score_in_any_batch(dtype: torch.dtype) -> None:
    """Its distance to another one is a radius of that one."""
    features = torch.randn(200, 24, generator=torch.Generator().manual_seed(0), dtype=dtype)
    train = Outputs(features, labels=torch.arange(200) % 5)
    detector = oodbench.create_detector("cfood", share=1.0, k=0.02).fit(train)
    u = features / (features.norm(dim=1, keepdim=True) + 1e-10)
    squares = (u[:, None] - u).square().sum(dim=2)
    k, position = cfood.grid_of_shares(200)
    radii = squares.sort(dim=1).values[:, torch.from_numpy(position) + 1]
    count = (radii >= squares[:, :, None]).sum(dim=1)
    expected = k[(count >= 4).int().argmax(dim=1).numpy()]
    for size in (1, 7, 200):
        parts = [detector.score(some) for some in train.batches(size)]
        np.testing.assert_allclose(torch.cat(parts), expected, rtol=1e-12, err_msg=str(size))

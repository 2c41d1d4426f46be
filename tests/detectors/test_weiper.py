"""WeiPer's perturbed heads, histograms and score, sample by sample and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import softmax

import oodbench
from oodbench.detectors import weiper
from oodbench.errors import OptionError
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import head_of, same


def histogram(values: np.ndarray, low: float, high: float, bins: int) -> np.ndarray:
    edges = np.linspace(low, high + 1e-8, bins + 1)
    return np.array(
        [np.sum((values >= a) & (values < b)) for a, b in itertools.pairwise(edges)]
    ) / len(values)


def smooth(q: np.ndarray, size: int) -> np.ndarray:
    left = (size - 1) // 2
    right = size - 1 - left
    n = len(q)
    return np.array(
        [np.mean([q[min(max(j, 0), n - 1)] for j in range(i - left, i + right + 1)])
         for i in range(n)]
    )  # fmt: skip


def symmetric_kl(p: np.ndarray, q: np.ndarray, eps: float) -> float:
    p, q = (p + eps) / (p + eps).sum(), (q + eps) / (q + eps).sum()
    return float(sum(p * np.log(p / q)) + sum(q * np.log(q / p)))


@pytest.mark.parametrize("bins", [100, 60])
def test_sample_by_sample(bins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weiper, "AT_ONCE", 7 * 7 * 5)  # several blocks
    monkeypatch.setattr(weiper, "LEAST", 1)
    p = problem(n=60, test=20)
    weight, bias = head_of(p)
    detector = oodbench.create_detector("weiper", repeats=7, bins=bins)
    detector.fit(p.train)
    heads = detector.weights_.numpy()  # type: ignore[attr-defined]
    gone = heads - weight
    np.testing.assert_allclose(
        np.linalg.norm(gone, axis=2), np.tile(1.8 * np.linalg.norm(weight, axis=1), (7, 1))
    )

    def perturbed(f: np.ndarray) -> np.ndarray:
        return np.concatenate([W @ f + bias for W in heads])

    train = arrays(p.train)[0]
    space = np.stack([perturbed(f) for f in train])
    ends_f, ends_w = (train.min(), train.max()), (space.min(), space.max())
    p_f = np.mean([histogram(f, *ends_f, bins) for f in train], axis=0)
    p_w = np.mean([histogram(w, *ends_w, bins) for w in space], axis=0)
    expected = []
    for f in arrays(p.test)[0]:
        w = perturbed(f)
        k_f = symmetric_kl(p_f, smooth(histogram(f, *ends_f, bins), 4), 0.01)
        k_w = symmetric_kl(p_w, smooth(histogram(w, *ends_w, bins), 15), 0.025)
        msp = np.mean([softmax(part).max() for part in w.reshape(7, 5)])
        expected.append(k_f + 2.5 * k_w - 0.1 * msp)
    same(detector.score(p.test).numpy(), expected, rtol=1e-8)


def test_histogram_and_average_by_hand() -> None:
    values = torch.tensor([[0.0, 0.9, 1.0, 3.9, 4.0, 7.0, -1.0, 2.0]], dtype=torch.float64)
    found = weiper.shares(values, 0.0, 4.0, 4)
    # 4 bins of width 1: {0, .9, 1 (just below 1 + 2.5e-9)}, {}, ... by the 1e-8 of the range
    assert found.tolist() == [[3 / 8, 1 / 8, 0.0, 2 / 8]]  # 7 and -1 are in none, but count
    q = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    assert weiper.moving_average(q, 2).tolist() == [[1.5, 3.0, 6.0, 8.0]]  # one more on the right
    assert weiper.moving_average(q, 3)[0, 0] == pytest.approx(4 / 3)
    assert weiper.moving_average(q, 1).tolist() == q.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_value_is_in_the_last_bin(dtype: torch.dtype) -> None:
    values = torch.tensor([[0.0, 123456.7]], dtype=dtype)
    found = weiper.shares(values, 0.0, float(values.max()), 10)
    assert found[0, -1] == 0.5
    assert found.sum() == 1


def test_heads_are_drawn_once_by_the_seed() -> None:
    p = problem(n=60)
    one, other = (
        oodbench.create_detector("weiper", repeats=5, seed=s).fit(p.train) for s in (0, 1)
    )
    assert torch.equal(one.score(p.test), one.score(p.test))
    again = oodbench.create_detector("weiper", repeats=5).fit(p.train)
    assert torch.equal(one.score(p.test), again.score(p.test))
    assert not torch.allclose(one.score(p.test), other.score(p.test))


def test_options() -> None:
    with pytest.raises(OptionError, match="weiper: repeats must be at least 1"):
        oodbench.create_detector("weiper", repeats=0)
    with pytest.raises(OptionError, match="smoothing is over 10 bins at most"):
        oodbench.create_detector("weiper", bins=10)

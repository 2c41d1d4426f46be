"""ReAct, VRA, ASH, SCALE, LTS and DICE: what they do to features, weights and logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

import oodbench
from oodbench import Outputs
from oodbench.errors import OODBenchWarning, OptionError
from oodbench.outputs import Head
from tests.helpers.problems import Problem, arrays, problem
from tests.helpers.scores import head_of, same, scores


def _shaped(p: Problem, shape: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Energies of the logits of what each test feature is shaped to."""
    weight, bias = head_of(p)
    return np.array([-logsumexp(weight @ shape(z) + bias) for z in arrays(p.test)[0]])


@pytest.mark.parametrize("percentile", [90.0, 60.0])
def test_react_clips(percentile: float) -> None:
    p = problem()
    c = np.percentile(arrays(p.train)[0], percentile)
    expected = _shaped(p, lambda z: np.minimum(z, c))
    same(scores("react", p, percentile=percentile), expected, rtol=1e-6)


def test_the_score_behind_a_shaping() -> None:
    p = problem()
    weight, bias = head_of(p)
    clipped = np.minimum(arrays(p.test)[0], np.percentile(arrays(p.train)[0], 90))
    expected = entropy(softmax(clipped @ weight.T + bias, axis=1), axis=1)
    same(scores("react", p, score="entropy"), expected, rtol=1e-6)
    # and one that learns, from shaped training logits
    train, test = (
        np.minimum(arrays(o)[0], np.percentile(arrays(p.train)[0], 90)) @ weight.T + bias
        for o in (p.train, p.test)
    )
    inner = Outputs(logits=torch.from_numpy(train), labels=p.train.labels)
    klm = oodbench.create_detector("klm").fit(inner)
    expected = klm.score(Outputs(logits=torch.from_numpy(test))).numpy()
    same(scores("react", p, score="klm"), expected, rtol=1e-6)


@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize("below", ["zero", "clip"])
def test_vra_clips_and_suppresses(below: str, per_unit: bool) -> None:
    p = problem(rectified=False)
    axis = 0 if per_unit else None
    low, high = np.percentile(arrays(p.train)[0], [15, 80], axis=axis)

    def shape(z: np.ndarray) -> np.ndarray:
        under = np.zeros_like(z) if below == "zero" else np.broadcast_to(low, z.shape)
        return np.where(z < low, under, np.minimum(z, high))

    options = {"percentile_low": 15.0, "percentile_high": 80.0, "below": below}
    same(scores("vra", p, per_unit=per_unit, **options), _shaped(p, shape), rtol=1e-6)


@pytest.mark.parametrize("percentile", [65.0, 90.0])
@pytest.mark.parametrize("name", ["ash-p", "ash-b", "ash-s", "scale", "lts"])
@pytest.mark.filterwarnings("ignore::oodbench.errors.OODBenchWarning")
def test_pruning_and_scaling(name: str, percentile: float) -> None:
    p = problem(dim=64)
    weight, bias = head_of(p)
    k = 64 - int(np.round(64 * percentile / 100))
    expected = []
    for z in arrays(p.test)[0]:
        top = np.argsort(-z)[:k]
        pruned = np.zeros(64)
        pruned[top] = z[top]
        logits = {
            "ash-p": weight @ pruned + bias,
            "ash-b": weight @ np.where(pruned > 0, z.sum() / k, 0) + bias,
            "ash-s": weight @ (pruned * np.exp(z.sum() / pruned.sum())) + bias,
            "scale": weight @ (z * np.exp(z.sum() / pruned.sum())) + bias,
            "lts": (weight @ z + bias) * (z.sum() / pruned.sum()) ** 2,
        }[name]
        expected.append(-logsumexp(logits))
    same(scores(name, p, percentile=percentile), expected)


def test_scaling_of_features_that_may_be_negative() -> None:
    """The ratio of sums is held in the range that it has for features that are not."""
    p = problem(dim=128, rectified=False)
    p.test.features[20:] -= 4
    weight, bias = head_of(p)
    ratios = []
    expected = []
    for z in arrays(p.test)[0]:
        ratios.append(z.sum() / np.sort(z)[-64:].sum())
        scale = np.exp(np.clip(ratios[-1], 1, 2))  # 128 / 64
        expected.append(-logsumexp(weight @ z * scale + bias))
    assert min(ratios) < 1
    assert max(ratios) > 2
    same(scores("scale", p, percentile=50), expected)


@pytest.mark.parametrize("share", [90.0, 40.0])
def test_dice_cuts_weights(share: float) -> None:
    p = problem()
    weight, bias = head_of(p)
    contribution = weight * arrays(p.train)[0].mean(axis=0)
    sparse = np.where(contribution > np.percentile(contribution, share), weight, 0)
    z = arrays(p.test)[0]
    same(scores("dice", p, p=share), -logsumexp(z @ sparse.T + bias, axis=1))
    clipped = np.minimum(z, np.percentile(arrays(p.train)[0], 80))
    expected = -logsumexp(clipped @ sparse.T + bias, axis=1)
    same(scores("react-dice", p, p=share, percentile=80), expected, rtol=1e-6)


def test_no_scaling_where_there_is_nothing_to_scale() -> None:
    p = problem(dim=200)
    p.test.features[:] = 0
    energy = -torch.logsumexp(p.head.bias, dim=0)
    for name in ("ash-p", "ash-s", "scale", "lts"):
        found = scores(name, p)
        np.testing.assert_allclose(found, float(energy), err_msg=name)


@pytest.mark.parametrize(("name", "percentile"), [("ash-s", 90.0), ("scale", 85.0)])
def test_scaling_by_few_units_warns(name: str, percentile: float) -> None:
    detector = oodbench.create_detector(name)
    assert detector.options()["percentile"] == percentile
    narrow, wide = problem(dim=64), problem(dim=512)
    with pytest.warns(OODBenchWarning, match=rf"{name}: percentile={percentile:g} keeps \d+ of 64"):
        detector.score(narrow.test)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.score(wide.test)
        oodbench.create_detector(name, percentile=50).score(narrow.test)


def test_no_unit_left() -> None:
    p = problem(dim=4)
    for name in ("ash-p", "ash-b", "ash-s", "scale"):
        with pytest.raises(OptionError, match=f"{name}: pruning 95% of 4 features leaves none"):
            oodbench.create_detector(name, percentile=95).score(p.test)
    assert oodbench.create_detector("lts", percentile=95).score(p.test).isfinite().all()


def test_a_head_without_bias() -> None:
    p = problem()
    bare = Head(p.head.weight)
    for outputs in (p.train, p.test):
        outputs.head = bare
    weight, _ = head_of(p)
    z = arrays(p.test)[0]
    clipped = np.minimum(z, np.percentile(arrays(p.train)[0], 90))
    same(scores("react", p), -logsumexp(clipped @ weight.T, axis=1), rtol=1e-6)

"""A2D: distances between modalities by hand, and against loops written from the definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodbench.detectors.a2d import (
    DISTANCES,
    a2d_distance,
    distance,
    pairwise_distance,
    without_true_class,
)
from oodbench.errors import OptionError
from tests.helpers.distances import F64, extreme_logits, random_logits, rows, slow_distance, softmax


def slow_a2d(logits: list[np.ndarray], labels: np.ndarray, kind: str) -> float:
    ps = [
        np.stack([softmax(np.delete(f, y)) for f, y in zip(values, labels, strict=True)])
        for values in logits
    ]
    pairs = list(itertools.combinations(ps, 2))
    return sum(slow_distance(p, q, kind) for p, q in pairs) / len(pairs)


# ---------------------------------------------------------------- the true class


def test_without_true_class_by_hand() -> None:
    logits = rows([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11])
    found = without_true_class(logits, torch.tensor([0, 2, 3]))
    assert found.tolist() == [[1, 2, 3], [4, 5, 7], [8, 9, 10]]


def test_without_true_class_gives_it_no_gradient() -> None:
    logits = random_logits(0, 5, 7).requires_grad_()
    labels = torch.tensor([0, 6, 3, 3, 1])
    without_true_class(logits, labels).sum().backward()
    expected = torch.ones(5, 7, dtype=F64).scatter(1, labels[:, None], 0.0)
    assert logits.grad is not None
    assert torch.equal(logits.grad, expected)


@pytest.mark.parametrize("labels", [[0, 4], [-1, 0], [-100, 2]])
def test_labels_out_of_range_are_named(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"\[0, 4\)"):
        without_true_class(torch.zeros(2, 4), torch.tensor(labels))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\[2, 4\] and \[3\]"):
        without_true_class(torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least two classes"):
        without_true_class(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\[B, K\]"):
        distance(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"\[B, K\]"):
        distance(torch.ones(0, 3), torch.ones(0, 3))
    with pytest.raises(ValueError, match="two modalities"):
        pairwise_distance([torch.ones(2, 3)])


# ---------------------------------------------------------------- distances


def test_distances_by_hand() -> None:
    p, q = rows([1, 0], [0.5, 0.5]), rows([0, 1], [0.5, 0.5])
    # disjoint rows are at Hellinger distance 1 (but for the least probability), equal ones at 0
    assert distance(p, q).item() == pytest.approx(0.999 / 2, abs=1e-12)
    assert distance(p, q, "l1").item() == pytest.approx((1 + 1 + 0 + 0) / 4, abs=1e-12)
    assert distance(p, q, "l2").item() == pytest.approx((1 + 1 + 0 + 0) / 4, abs=1e-12)
    # (1, 0) is nearest to (1/2, 1/2), at 1/sqrt 2, and so is (0, 1); the other rows coincide
    expected = (math.sqrt(0.5) + 0 + math.sqrt(0.5) + 0) / 4
    assert distance(p, q, "nearest-row").item() == pytest.approx(expected, abs=1e-12)


def test_hellinger_by_hand() -> None:
    # sqrt gives (0.6, 0.8) and (0.8, 0.6): a gap of 0.2 sqrt 2, over sqrt 2
    assert distance(rows([0.36, 0.64]), rows([0.64, 0.36])).item() == pytest.approx(0.2, abs=1e-12)


def test_nearest_row_is_between_sets() -> None:
    p, q = torch.eye(3, dtype=F64), torch.eye(3, dtype=F64)[[2, 0, 1]]
    assert distance(p, q, "nearest-row").item() == pytest.approx(0, abs=1e-12)
    assert distance(p, q).item() == pytest.approx(0.999, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(DISTANCES),
    size=st.integers(1, 40),
    classes=st.integers(1, 40),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_distances_equal_their_definition(
    seed: int, kind: str, size: int, classes: int, scale: float
) -> None:
    p, q = random_logits(seed, 2, size, classes, scale=scale).softmax(dim=2)
    found = distance(p, q, kind).item()
    assert found == pytest.approx(slow_distance(p.numpy(), q.numpy(), kind), abs=1e-10)
    assert found == pytest.approx(distance(q, p, kind).item(), abs=1e-12)
    assert distance(p, p, kind).item() == 0
    highest = {"hellinger": 1.0, "nearest-row": math.sqrt(2)}.get(kind, 2 / classes)
    assert 0 <= found <= highest + 1e-12
    order = torch.randperm(size), torch.randperm(classes)
    permuted_p, permuted_q = (x[order[0]][:, order[1]] for x in (p, q))
    assert distance(permuted_p, permuted_q, kind).item() == pytest.approx(found, abs=1e-10)


@pytest.mark.parametrize("kind", DISTANCES)
def test_gradients_equal_finite_differences(kind: str) -> None:
    logits = random_logits(1, 2, 5, 6)
    labels = torch.tensor([0, 1, 5, 2, 2])
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: a2d_distance(list(f), labels, kind), logits)


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equal_predictions_have_a_gradient(kind: str, dtype: torch.dtype) -> None:
    p = random_logits(2, 4, 5).softmax(dim=1).to(dtype).requires_grad_()
    q = p.detach().clone().requires_grad_()
    gap = distance(p, q, kind)
    gap.backward()
    assert gap == 0
    for x in (p, q):
        assert x.grad is not None
        assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_vanishing_probabilities_have_a_gradient(kind: str, dtype: torch.dtype) -> None:
    smallest = torch.finfo(dtype).tiny
    p = rows([1, 0, 0], [0, 0.5, 0.5], [1, smallest, 0]).to(dtype).requires_grad_()
    q = rows([0, 1, 0], [0, 0.5, 0.5], [1, 0, smallest]).to(dtype).requires_grad_()
    gap = distance(p, q, kind)
    gap.backward()
    expected = slow_distance(p.detach().double().numpy(), q.detach().double().numpy(), kind)
    assert gap.item() == pytest.approx(expected, abs=1e-6)
    for x in (p, q):
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(kind: str, dtype: torch.dtype) -> None:
    logits = extreme_logits(dtype)
    value = a2d_distance(list(logits), torch.tensor([0, 1, 3]), kind)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    logits = random_logits(3, 2, 8, 50).half()
    labels = torch.arange(8)
    exact = a2d_distance(list(logits.double()), labels).item()
    assert a2d_distance(list(logits), labels).item() == pytest.approx(exact, abs=1e-6)


def test_near_rows_keep_their_digits() -> None:
    # wide enough for torch.cdist to go through products by default
    p = random_logits(4, 40, 40).softmax(dim=1)
    q = (p + 1e-5 * torch.eye(40, dtype=F64)).float()
    found = distance(p.float(), q, "nearest-row").item()
    expected = slow_distance(p.float().double().numpy(), q.double().numpy(), "nearest-row")
    assert found == pytest.approx(expected, rel=1e-4)


def test_unknown_distances_are_named() -> None:
    p = torch.ones(2, 2) / 2
    with pytest.raises(OptionError, match=r"hellinger, l1, l2, nearest-row, not 'kl'\.$"):
        distance(p, p, "kl")
    with pytest.raises(OptionError, match='Wasserstein is "nearest-row"'):
        distance(p, p, "wasserstein")


# ---------------------------------------------------------------- A2D


def test_a2d_by_hand() -> None:
    # Without class 0, video says (0.36, 0.64) and flow (0.64, 0.36) whatever they say of class 0.
    log = math.log
    video = rows([5.0, log(0.36), log(0.64)])
    flow = rows([-2.0, log(0.64), log(0.36)])
    found = a2d_distance({"video": video, "flow": flow}, torch.tensor([0]))
    assert found.item() == pytest.approx(0.2, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(DISTANCES),
    modalities=st.integers(2, 4),
    size=st.integers(1, 12),
    classes=st.integers(2, 12),
)
def test_a2d_equals_its_definition(
    seed: int, kind: str, modalities: int, size: int, classes: int
) -> None:
    logits = random_logits(seed, modalities, size, classes)
    labels = torch.randint(classes, (size,), generator=torch.Generator().manual_seed(seed))
    found = a2d_distance(list(logits), labels, kind).item()
    expected = slow_a2d(list(logits.numpy()), labels.numpy(), kind)
    assert found == pytest.approx(expected, abs=1e-10)
    named = {str(m): values for m, values in enumerate(logits.flip(0))}
    assert a2d_distance(named, labels, kind).item() == pytest.approx(expected, abs=1e-10)


def test_three_modalities_are_three_pairs() -> None:
    p, q, r = rows([1, 0]), rows([0, 1]), rows([0.5, 0.5])
    found = pairwise_distance({"video": p, "audio": q, "flow": r}, "l1").item()
    assert found == pytest.approx((1 + 2 * 0.5) / 3, abs=1e-12)


def test_a2d_trains_every_modality_but_not_its_true_class() -> None:
    logits = [random_logits(seed, 4, 5).requires_grad_() for seed in (1, 2, 3)]
    labels = torch.tensor([0, 1, 2, 4])
    a2d_distance(logits, labels).backward()
    for values in logits:
        assert values.grad is not None
        assert values.grad.abs().sum(dim=1).min() > 0
        assert values.grad.gather(1, labels[:, None]).abs().max() == 0


def test_two_classes_leave_nothing_to_disagree_on() -> None:
    logits = random_logits(0, 2, 3, 2).requires_grad_()
    value = a2d_distance(list(logits), torch.tensor([0, 1, 1]))
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_ascent_makes_modalities_disagree() -> None:
    logits = random_logits(5, 2, 6, 4, scale=0.5).requires_grad_()
    labels = torch.arange(6) % 4
    before = a2d_distance(list(logits), labels).item()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (-a2d_distance(list(logits), labels)).backward()
        optimizer.step()
    assert a2d_distance(list(logits), labels).item() > max(0.9, before)


def test_autocast_changes_nothing() -> None:
    logits, labels = random_logits(0, 2, 6, 9).float(), torch.arange(6)
    plain = a2d_distance(list(logits), labels, "nearest-row")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = a2d_distance(list(logits), labels, "nearest-row")
    torch.testing.assert_close(mixed, plain)

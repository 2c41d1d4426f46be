"""NP-Mix: entropy by hand, the queues against deques, and outliers against their definition."""

from __future__ import annotations

import copy
import itertools
import math
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodbench.detectors.a2d import DISTANCES
from oodbench.detectors.npmix import NPMix, _symmetric_beta, outlier_distance, outlier_entropy
from oodbench.errors import OptionError
from tests.helpers.distances import F64, extreme_logits, random_logits, rows, slow_distance, softmax

# ---------------------------------------------------------------- entropy


def test_entropy_by_hand() -> None:
    log = math.log
    uniform = torch.zeros(1, 4, dtype=F64)
    half = rows([0, 0, -1e4, -1e4])  # one bit of two
    sure = rows([1e4, 0, 0, 0])
    assert outlier_entropy([uniform]).item() == pytest.approx(1, abs=1e-12)
    assert outlier_entropy([half]).item() == pytest.approx(0.5, abs=1e-12)
    assert outlier_entropy([sure]).item() == pytest.approx(0, abs=1e-12)
    assert outlier_entropy({"a": uniform, "b": half}).item() == pytest.approx(0.75, abs=1e-12)
    skew = rows([log(0.25), log(0.75)])
    bits = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert outlier_entropy([skew]).item() == pytest.approx(bits, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    modalities=st.integers(1, 3),
    size=st.integers(1, 12),
    classes=st.integers(2, 30),
    scale=st.sampled_from([0.01, 1.0, 10.0]),
)
def test_entropy_and_outlier_distance_equal_their_definition(
    seed: int, modalities: int, size: int, classes: int, scale: float
) -> None:
    logits = random_logits(seed, modalities, size, classes, scale=scale)
    total = 0.0
    for values in logits.numpy():
        for f in values:
            p = softmax(f)
            total -= np.sum(p[p > 0] * np.log(p[p > 0])) / np.log(classes)
    found = outlier_entropy(list(logits)).item()
    assert found == pytest.approx(total / modalities / size, abs=1e-10)
    assert 0 <= found <= 1 + 1e-12
    if modalities > 1:
        ps = [np.stack([softmax(f) for f in values]) for values in logits.numpy()]
        pairs = list(itertools.combinations(ps, 2))
        gap = sum(slow_distance(p, q, "hellinger") for p, q in pairs) / len(pairs)
        assert outlier_distance(list(logits)).item() == pytest.approx(gap, abs=1e-10)


@pytest.mark.parametrize("kind", DISTANCES)
def test_gradients_equal_finite_differences(kind: str) -> None:
    logits = random_logits(1, 2, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: outlier_distance(list(f), kind), logits)
    assert torch.autograd.gradcheck(lambda f: outlier_entropy(list(f)), logits)


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(kind: str, dtype: torch.dtype) -> None:
    logits = extreme_logits(dtype)
    value = outlier_distance(list(logits), kind) + outlier_entropy(list(logits))
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    logits = random_logits(3, 2, 8, 50).half()
    exact = outlier_entropy(list(logits.double())).item()
    assert outlier_entropy(list(logits)).item() == pytest.approx(exact, abs=1e-6)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="at least two classes"):
        outlier_entropy([torch.zeros(2, 1)])
    with pytest.raises(ValueError, match="at least one modality"):
        outlier_entropy([])


# ---------------------------------------------------------------- queues


def contents(queues: NPMix, c: int) -> Tensor:
    """The samples of class c, the oldest first."""
    count, head = int(queues.counts[c]), int(queues.heads[c])
    ring = torch.cat([queues.samples[c, head:], queues.samples[c, :head]])
    return ring[len(ring) - count :]


def filled(
    seed: int, classes: int, dim: int, length: int, dtype: torch.dtype = torch.float32
) -> NPMix:
    queues = NPMix(classes, dim, length).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(classes * length, dim, generator=generator).to(dtype)
    queues.push(z, torch.arange(classes).repeat(length))
    return queues


@pytest.mark.parametrize("labels", [[0, 4], [-1, 0], [-100, 2]])
def test_labels_out_of_range_are_named(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"\[0, 4\)"):
        NPMix(4, 3, 2).push(torch.zeros(2, 3), torch.tensor(labels))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), classes=st.integers(2, 5), length=st.integers(1, 6))
def test_queues_are_deques(data: st.DataObject, classes: int, length: int) -> None:
    batches = data.draw(
        st.lists(st.lists(st.integers(0, classes - 1), max_size=20), max_size=8), "labels"
    )
    queues = NPMix(classes, 2, length)
    expected: list[deque[float]] = [deque(maxlen=length) for _ in range(classes)]
    stamp = 0.0
    for labels in batches:
        z = torch.arange(stamp, stamp + len(labels))
        queues.push(torch.stack([z, -z], dim=1), torch.tensor(labels, dtype=torch.int64))
        for y in labels:
            expected[y].append(stamp)
            stamp += 1
        for c in range(classes):
            found = contents(queues, c)
            assert found[:, 0].tolist() == list(expected[c])
            assert torch.equal(found[:, 1], -found[:, 0])
        assert queues.full == all(len(queue) == length for queue in expected)
        if queues.full:
            means = torch.tensor([sum(queue) / length for queue in expected])
            torch.testing.assert_close(queues.prototypes()[:, 0], means)


def test_push_by_hand() -> None:
    queues = NPMix(2, 1, 3)
    z = torch.tensor([[1.0], [2], [3], [4], [5], [6]])
    queues.push(z, torch.tensor([0, 1, 0, 0, 0, 0]))  # five of class 0: the last three stay
    assert contents(queues, 0).flatten().tolist() == [4, 5, 6]
    assert contents(queues, 1).flatten().tolist() == [2]
    assert queues.counts.tolist() == [3, 1]
    before = queues.full
    queues.push(torch.tensor([[7.0], [8], [9]]), torch.tensor([1, 0, 1]))
    assert contents(queues, 0).flatten().tolist() == [5, 6, 8]
    assert contents(queues, 1).flatten().tolist() == [2, 7, 9]
    assert (before, queues.full) == (False, True)
    assert queues.prototypes().flatten().tolist() == pytest.approx([19 / 3, 6])


def test_one_push_equals_many() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 5, generator=generator)
    y = torch.randint(4, (200,), generator=generator)
    whole, single = NPMix(4, 5, 7), NPMix(4, 5, 7)
    whole.push(z, y)
    for embedding, label in zip(z, y, strict=True):
        single.push(embedding[None], label[None])
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), single.buffers(), strict=True))


def test_order_of_writes_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    # Devices other than the CPU write rows that go to the same place in any order.
    write = Tensor.index_copy_

    def backwards(self: Tensor, dim: int, places: Tensor, rows: Tensor) -> Tensor:
        return write(self, dim, places.flip(0), rows.flip(0))

    z, y = torch.arange(40.0)[:, None], torch.arange(40) % 3 % 2
    forth, back = NPMix(2, 1, 4), NPMix(2, 1, 4)
    forth.push(z, y)
    monkeypatch.setattr(Tensor, "index_copy_", backwards)
    back.push(z, y)
    assert all(torch.equal(a, b) for a, b in zip(forth.buffers(), back.buffers(), strict=True))


def test_embeddings_are_detached_and_copied() -> None:
    queues = NPMix(2, 3, 1)
    z = torch.ones(2, 3, dtype=torch.float16, requires_grad=True)
    queues.push(z, torch.tensor([0, 1], dtype=torch.int32))
    assert queues.samples.dtype == torch.float32
    assert not queues.samples.requires_grad
    assert not queues.mix().requires_grad
    with torch.no_grad():
        z.zero_()
    assert torch.equal(queues.samples, torch.ones(2, 1, 3))


def test_prototypes_follow_what_is_pushed() -> None:
    # Asked in between, before, and never, so that kept means meet every kind of change.
    generator = torch.Generator().manual_seed(0)
    queues = filled(0, 12, 6, 5, F64)
    for step in range(60):
        size = (1, 3, 11, 12, 40)[step % 5]
        y = torch.randint(12, (size,), generator=generator)
        queues.push(torch.randn(size, 6, generator=generator, dtype=F64), y)
        if step % 3:
            means = queues.samples.mean(dim=1)
            torch.testing.assert_close(queues.prototypes(), means, atol=1e-12, rtol=0)
            exact = torch.cdist(means, means).fill_diagonal_(math.inf)
            assert torch.equal(queues._nearest(3), exact.topk(3, largest=False).indices)


def test_only_means_that_changed_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    queues = filled(0, 9, 4, 5)
    taken: list[int] = []
    means = queues._means

    def counted(classes: Tensor) -> Tensor:
        taken.append(len(classes))
        return means(classes)

    monkeypatch.setattr(queues, "_means", counted)
    for labels in ([], [3], [], [8, 0, 8], list(range(9)) * 2):
        queues.push(torch.ones(len(labels), 4), torch.tensor(labels, dtype=torch.int64))
        queues.mix()
        queues.prototypes()
    assert taken == [9, 1, 3, 9]
    for _ in range(100):
        queues.push(torch.ones(1, 4), torch.tensor([3]))
    queues.mix()
    assert taken[4:] == [9]


def test_prototypes_carry_no_error_of_samples_that_left() -> None:
    queues = filled(0, 3, 4, 5)
    queues.prototypes()
    queues.push(torch.full((1, 4), 1e30), torch.tensor([1]))
    queues.prototypes()
    for _ in range(5):
        queues.push(torch.ones(1, 4), torch.tensor([1]))
        queues.prototypes()
    assert torch.equal(queues.prototypes()[1], torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prototypes_are_the_callers_own(dtype: torch.dtype) -> None:
    queues = filled(0, 3, 4, 5, dtype)
    queues.prototypes().zero_()
    torch.testing.assert_close(queues.prototypes(), queues.samples.mean(dim=1))


def test_near_prototypes_far_from_the_origin() -> None:
    # Squared norms are 1e8 times the squared gaps: float32 products would lose the neighbours.
    queues = NPMix(3, 64, 1)
    offsets = torch.tensor([0.0, 1.0, 3.0])[:, None] / 8 + 1000.0
    queues.push(offsets.expand(3, 64), torch.arange(3))
    assert queues._nearest(2).tolist() == [[1, 2], [0, 2], [1, 0]]


def test_state_survives_a_checkpoint(tmp_path: Path) -> None:
    queues = filled(1, 6, 4, 3)
    queues.push(torch.ones(2, 4), torch.tensor([5, 2]))
    queues.mix()
    torch.save(queues.state_dict(), tmp_path / "queues.pt")
    other = NPMix(6, 4, 3)
    before = other.full
    other.load_state_dict(torch.load(tmp_path / "queues.pt", weights_only=True))
    assert (before, other.full) == (False, True)
    assert set(queues.state_dict()) == {"samples", "counts", "heads"}
    for step in range(5):
        z, y = torch.full((4, 4), float(step)), torch.tensor([5, 5, 0, step])
        queues.push(z, y)
        other.push(z, y)
        pairs = zip(queues.buffers(), other.buffers(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        drawn = [q.mix(torch.Generator().manual_seed(step)) for q in (queues, other)]
        assert torch.equal(*drawn)


def test_loading_forgets_what_was_known() -> None:
    queues, empty, other = filled(0, 4, 3, 2), NPMix(4, 3, 2), filled(9, 4, 3, 2)
    queues.mix()
    queues.load_state_dict(other.state_dict())
    torch.testing.assert_close(queues.prototypes(), other.samples.mean(dim=1))
    torch.nn.Sequential(queues).load_state_dict(torch.nn.Sequential(empty).state_dict())
    assert not queues.full


def test_moving_keeps_the_means_right() -> None:
    queues = filled(0, 4, 3, 2)
    queues.prototypes()
    queues.to(F64)
    assert queues.prototypes().dtype == F64
    torch.testing.assert_close(queues.prototypes(), queues.samples.mean(dim=1))
    queues.half()
    rounded = NPMix(4, 3, 2)
    rounded.load_state_dict(queues.state_dict())
    means = queues._moments()[0]
    torch.testing.assert_close(means, rounded._moments()[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(means, queues._means(torch.arange(4)), atol=0, rtol=0)
    twin = copy.deepcopy(queues.float())
    twin.push(torch.ones(2, 3), torch.tensor([0, 0]))
    assert not torch.equal(twin.prototypes(), queues.prototypes())
    torch.testing.assert_close(queues.prototypes(), queues.samples.mean(dim=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_queues(dtype: torch.dtype) -> None:
    queues = filled(0, 5, 32, 4, dtype)
    queues.push(torch.ones(3, 32), torch.tensor([1, 1, 2]))
    outliers = queues.mix(torch.Generator().manual_seed(0))
    assert outliers.dtype == dtype
    assert outliers.isfinite().all()
    exact = queues.samples.float().mean(dim=1)
    torch.testing.assert_close(queues.prototypes().float(), exact, atol=1e-2, rtol=1e-2)


def test_full_asks_the_buffers_only_until_it_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    queues = filled(0, 3, 2, 2)
    assert queues.full
    monkeypatch.setitem(queues._buffers, "counts", None)
    assert queues.full


# ---------------------------------------------------------------- NP-Mix


def slow_partners(means: np.ndarray, neighbours: int) -> list[set[int]]:
    found = []
    for c, mean in enumerate(means):
        others = [d for d in range(len(means)) if d != c]
        others.sort(key=lambda d: float(np.linalg.norm(mean - means[d])))
        found.append(set(others[:neighbours]))
    return found


def between(outlier: np.ndarray, z: np.ndarray, other: np.ndarray) -> float | None:
    """The lambda that mixes z and other to the outlier, if one in [0, 1] does."""
    line = z - other
    share = float((outlier - other) @ line / (line @ line))
    on_it = np.allclose(other + share * line, outlier, atol=1e-9)
    return share if on_it and -1e-9 <= share <= 1 + 1e-9 else None


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 6),
    length=st.integers(1, 4),
    neighbours=st.integers(1, 4),
)
def test_outliers_lie_between_a_class_and_a_near_one(
    seed: int, classes: int, length: int, neighbours: int
) -> None:
    queues = filled(seed, classes, 16, length, F64)
    samples = queues.samples.numpy()
    partners = slow_partners(samples.mean(axis=1), neighbours)
    queues.neighbours = neighbours
    outliers = queues.mix(torch.Generator().manual_seed(seed))
    assert outliers.shape == (classes, 16)
    for c, outlier in enumerate(outliers.numpy()):
        shares = [
            between(outlier, z, other)
            for z in samples[c]
            for d in range(classes)
            if d in partners[c]
            for other in samples[d]
        ]
        assert sum(share is not None for share in shares) == 1


def test_mix_by_hand() -> None:
    # Three classes on a line at 0, 1 and 10, one sample each: the nearest is certain.
    queues = NPMix(3, 1, 1, neighbours=1).to(F64)
    queues.push(rows([0.0], [1.0], [10.0]), torch.arange(3))
    for seed in range(20):
        a, b, c = queues.mix(torch.Generator().manual_seed(seed)).flatten().tolist()
        assert 0 <= a <= 1
        assert 0 <= b <= 1
        assert 1 <= c <= 10


def test_draws_are_uniform_and_independent() -> None:
    # Coordinates tell which class and which sample took part: a sum of one-hot vectors.
    classes, length, steps = 4, 3, 3000
    queues = NPMix(classes, classes * length, length, neighbours=3).to(F64)
    queues.push(
        torch.eye(classes * length, dtype=F64), torch.arange(classes).repeat_interleave(length)
    )
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([queues.mix(generator) for _ in range(steps)])
    parts = drawn.unflatten(2, (classes, length))  # [steps, C, class, sample]
    weights = parts.sum(dim=3)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(steps, classes, dtype=F64))
    assert ((parts > 0).sum(dim=(2, 3)) == 2).all()
    own = torch.arange(classes)
    assert (weights[:, own, own] > 0).all()
    # five standard deviations of a share of 3,000 draws
    for c in range(classes):
        others = [d for d in range(classes) if d != c]
        took_part = (weights[:, c, others] > 0).double()
        assert (took_part.mean(dim=0) - 1 / 3).abs().max() < 0.05
        which = (parts[:, c, c] > 0).double()
        assert (which.mean(dim=0) - 1 / length).abs().max() < 0.05
        their = (parts[:, c, others].sum(dim=1) > 0).double()
        assert (their.mean(dim=0) - 1 / length).abs().max() < 0.05
        together = which[:, 0] * took_part[:, 0] * their[:, 0]
        assert abs(together.mean().item() - 1 / 27) < 0.02
    shares = weights[:, own, own]
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.var().item() == pytest.approx(1 / 84, rel=0.1)  # of Beta(10, 10)
    assert np.corrcoef(shares.T.numpy())[np.triu_indices(classes, 1)] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("alpha", [0.75, 1.0, 2.0, 10.0, 200.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    found = _symmetric_beta(alpha, n, generator, torch.device("cpu")).double()
    assert found.min() >= 0
    assert found.max() <= 1
    # the distribution function by Simpson's rule between the order statistics, and the
    # Kolmogorov-Smirnov statistic, which exceeds 2 / sqrt(n) once in 1,500 draws
    grid = torch.linspace(0, 1, 200_001, dtype=F64)[1:-1]
    density = ((alpha - 1) * (grid.log() + (-grid).log1p())).exp()
    distribution = density.cumsum(0) / density.sum()
    ranks = torch.searchsorted(found.sort().values, grid) / n
    assert (ranks - distribution).abs().max().item() < 2 / math.sqrt(n)


def test_same_generator_same_outliers() -> None:
    one, two = filled(0, 7, 5, 4), filled(0, 7, 5, 4)
    a, b = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    first = [one.mix(a), one.mix(a)]
    torch.manual_seed(1)
    second = [two.mix(b), two.mix(b)]
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    assert not torch.equal(*first)
    torch.manual_seed(0)
    default = one.mix()
    torch.manual_seed(0)
    assert torch.equal(default, one.mix())


def test_outliers_train_heads_but_no_embedding() -> None:
    queues = NPMix(3, 6, 2)
    z = torch.randn(6, 6, requires_grad=True)
    queues.push(z, torch.arange(3).repeat(2))
    outliers = queues.mix()
    heads = torch.nn.Linear(4, 3), torch.nn.Linear(2, 3)
    logits = [head(part) for head, part in zip(heads, outliers.split([4, 2], dim=1), strict=True)]
    (-outlier_entropy(logits) - outlier_distance(logits)).backward()
    assert z.grad is None
    for head in heads:
        assert head.weight.grad is not None
        assert head.weight.grad.isfinite().all()
        assert head.weight.grad.any()


def test_autocast_changes_nothing() -> None:
    one, two = filled(0, 9, 40, 4), filled(0, 9, 40, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = one.mix(torch.Generator().manual_seed(0))
    assert torch.equal(mixed, two.mix(torch.Generator().manual_seed(0)))
    logits = random_logits(0, 2, 6, 9).float()
    plain = outlier_entropy(list(logits))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outlier_entropy(list(logits))
    torch.testing.assert_close(found, plain)


def test_two_classes_are_each_others_neighbour() -> None:
    queues = NPMix(2, 1, 1)
    queues.push(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
    outliers = queues.mix(torch.Generator().manual_seed(0))
    assert ((outliers > 0) & (outliers < 1)).all()


def test_mixing_waits_for_full_queues() -> None:
    queues = NPMix(2, 1, 2)
    queues.push(torch.ones(3, 1), torch.tensor([0, 0, 1]))
    with pytest.raises(RuntimeError, match="not all queues are full"):
        queues.mix()
    with pytest.raises(RuntimeError, match="not all queues are full"):
        queues.prototypes()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(OptionError, match="at least 2, not 1: it mixes different classes"):
        NPMix(1, 4, 5)
    with pytest.raises(OptionError, match="feature_dims"):
        NPMix(2, {"video": 0}, 5)
    with pytest.raises(OptionError, match="queue_size"):
        NPMix(2, 4, 0)
    queues = filled(0, 3, 4, 5)
    with pytest.raises(OptionError, match="beta"):
        NPMix(3, 4, beta=0.5)
    with pytest.raises(OptionError, match="neighbours"):
        NPMix(3, 4, neighbours=0)
    assert NPMix(3, {"video": 4, "flow": 2}).dim == NPMix(3, [4, 2]).dim == 6
    with pytest.raises(ValueError, match=r"\[n, 4\]"):
        queues.push(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels \[n\]"):
        queues.push(torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64))

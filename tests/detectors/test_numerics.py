"""What detectors compute with: percentiles, moments, subspaces, against NumPy."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from oodbench import Outputs
from oodbench.detectors import _numerics
from oodbench.errors import BadScoresError, OptionError

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def rows_of(features: np.ndarray | Tensor, labels: np.ndarray | None = None) -> Outputs:
    return Outputs(features, labels=labels)  # type: ignore[arg-type]


def pieces(rows: int = 256) -> mock._patch[int]:
    """Blocks of that many rows (256 is the least there is), while it lasts."""
    return mock.patch.object(_numerics, "BLOCK", rows)


# --- percentiles -----------------------------------------------------------------------------

BOUND = {"float16": 6e4, "float32": 1e30, "float64": 1e30}
"""Not the whole range: between the ends of float32's own, NumPy's interpolation overflows."""


@st.composite
def activations(draw: st.DrawFn) -> np.ndarray:
    name = draw(st.sampled_from(sorted(BOUND)))
    width = int(name.removeprefix("float"))
    bound = float(np.dtype(name).type(BOUND[name]))
    values = st.floats(-bound, bound, width=width)  # type: ignore[arg-type]
    few = st.sampled_from([-2.0, -0.0, 0.0, 0.25, 0.25, 3.0])  # ties
    shape = st.tuples(st.integers(1, 40), st.integers(1, 5))
    return draw(hnp.arrays(name, shape, elements=draw(st.sampled_from([values, few]))))


@quick
@given(activations(), st.lists(st.floats(0, 1), min_size=1, max_size=4))
@example(np.array([[-1.5]], dtype=np.float16), [0.0, 0.3, 1.0])
@example(np.array([[-0.0, 0.0], [0.0, -0.0]], dtype=np.float32), [0.1, 0.9])
@example(-(np.arange(12, dtype=np.float64).reshape(4, 3) ** 3), [0.9, 0.1, 0.5, 0.9])
@example(np.full((7, 3), 1e-42, dtype=np.float32), [0.5])  # a subnormal number
def test_percentiles_are_numpys(features: np.ndarray, shares: list[float]) -> None:
    found = _numerics.percentiles(rows_of(features), shares)
    expected = np.percentile(features.astype(np.float64), [100 * share for share in shares])
    scale = np.abs(features.astype(np.float64)).max()
    # exact but for the interpolation
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * scale + 1e-45)


def test_percentiles_of_double_precision_are_not_rounded() -> None:
    """Activations closer than single precision tells apart, over several blocks."""
    rng = np.random.default_rng(0)
    features = 1 + 1e-12 * rng.integers(0, 5000, (1000, 3))
    features[::2] = 0
    with pieces():
        found = _numerics.percentiles(rows_of(features), [0.3, 0.6, 0.999])
    expected = np.percentile(features, [30, 60, 99.9])
    assert expected[1] < expected[2]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_percentiles_over_blocks_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0.3, 1, (1000, 7)).astype(np.float32)
    features[features < 0] = 0  # more than a third of all, as after a ReLU
    features[999, 6] = 1e6  # in the last block alone
    shares = [0.0, 0.1, 0.5, 0.9, 0.99, 1.0]
    expected = np.percentile(features.astype(np.float64), [100 * s for s in shares])
    assert expected[1] == 0
    with pieces():
        found = _numerics.percentiles(rows_of(features), shares)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_unit_percentiles_are_numpys_of_each_unit() -> None:
    rng = np.random.default_rng(0)
    shares = [0.05, 0.5, 0.95]
    for dtype in (np.float16, np.float32, np.float64):
        features = (rng.normal(0, 1, (200, 5)) * [1, -2, 3, 0, 1e3]).astype(dtype)
        found = _numerics.unit_percentiles(rows_of(features), shares).numpy()
        expected = np.quantile(features.astype(np.float64), shares, axis=0)
        assert found.shape == (3, 5)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unit_percentiles_in_stripes() -> None:
    # so many rows that a stripe is one unit wide; they are all the same and take no memory
    features = torch.tensor([[3.0, -1.0, 2.0]]).expand(2**24, 3)
    widths = []

    def first_row(stripe: np.ndarray, _: list[float], axis: int) -> np.ndarray:
        widths.append(stripe.shape[1])
        return stripe[:1]

    with mock.patch.object(np, "quantile", first_row):
        found = _numerics.unit_percentiles(rows_of(features), [0.2])
    assert widths == [1, 1, 1]
    assert found.tolist() == [[3.0, -1.0, 2.0]]


# --- moments and subspaces -------------------------------------------------------------------


def labelled(n: int, dim: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    labels[: n // 2] = np.minimum(labels[: n // 2], classes - 2)  # the last comes in late
    features = rng.normal(0, 1, (n, dim)) @ rng.normal(0, 1, (dim, dim)) + 5 * labels[:, None]
    return features, labels


@pytest.mark.parametrize("rows", [256, 2**20])
@pytest.mark.parametrize("order", ["mixed", "sorted", "skewed"])
def test_class_moments_are_numpys(order: str, rows: int) -> None:
    features, labels = labelled(900, 6, 4)
    if order == "skewed":  # one class has nearly all, the others a few each
        labels[labels != 3] = 1
        labels[[0, 5, 700, 899]] = [0, 2, 2, 0]
    if order == "sorted":  # a block has one class or two
        features, labels = features[labels.argsort()], np.sort(labels)
    with pieces(rows):
        counts, means, scatter = _numerics.class_moments(rows_of(features, labels), "test", 4)
    for c in range(4):
        own = features[labels == c]
        assert counts[c] == len(own)
        np.testing.assert_allclose(means[c], own.mean(axis=0), rtol=1e-12)
        expected = (len(own) - 1) * np.cov(own, rowvar=False)
        np.testing.assert_allclose(scatter[c], expected, rtol=1e-10, atol=1e-9)


def test_class_moments_are_made_of_a_few_matrices_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels = labelled(900, 6, 4)
    whole = _numerics.class_moments(rows_of(features, labels), "test", 4)
    monkeypatch.setattr(_numerics, "at_once", lambda _: 1)
    for one, same in zip(
        _numerics.class_moments(rows_of(features, labels), "test", 4), whole, strict=True
    ):
        torch.testing.assert_close(one, same, rtol=1e-12, atol=1e-9)


def test_matrices_that_do_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = labelled(30, 3, 2)
    monkeypatch.setattr(_numerics, "free_memory", lambda _: 2 * 2 * 3**2 * 8)
    _numerics.class_moments(rows_of(features, labels), "who", 2)
    monkeypatch.setattr(_numerics, "free_memory", lambda _: 2 * 2 * 3**2 * 8 - 1)
    with pytest.raises(OptionError, match=r"who: .* 2 classes of 3 features .*covariance=tied"):
        _numerics.class_moments(rows_of(features, labels), "who", 2)


@pytest.mark.parametrize("rows", [256, 2**20])
def test_pooled_moments_are_numpys(rows: int) -> None:
    features, labels = labelled(900, 6, 4)
    with pieces(rows):
        pooled = _numerics.moments(rows_of(features, labels), "test", groups=4)
        one = _numerics.moments(rows_of(features, labels), "test")
    within = np.concatenate(
        [features[labels == c] - features[labels == c].mean(0) for c in range(4)]
    )
    np.testing.assert_allclose(pooled.scatter, within.T @ within, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(one.means[0], features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(one.scatter, 899 * np.cov(features, rowvar=False), rtol=1e-10)


def test_moments_of_single_precision_products_are_close() -> None:
    features, labels = labelled(900, 6, 4)
    outputs = rows_of(features.astype(np.float32), labels)
    exact = _numerics.moments(outputs, "test", groups=4)
    rough = _numerics.moments(outputs, "test", groups=4, exact=False)
    scale = exact.scatter.abs().max()
    torch.testing.assert_close(rough.scatter / scale, exact.scatter / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grouped", [_numerics.moments, _numerics.class_moments])
def test_moments_want_every_class(grouped: object) -> None:
    features, labels = labelled(30, 3, 2)
    with pytest.raises(BadScoresError, match=r"who: .*classes \[2, 3\]"):
        grouped(rows_of(features, labels), "who", 4)  # type: ignore[operator]


def test_features_whose_sum_overflows_are_finite_all_the_same() -> None:
    large = torch.full((2, 2), 1.5e308, dtype=torch.float64)
    rows_of(large.numpy()).require_finite({"features"}, "test")


def test_principal_axes_are_those_of_the_covariance() -> None:
    features, _ = labelled(200, 6, 4)
    found = _numerics.principal_axes(_numerics.moments(rows_of(features), "test"))
    _, singular, right = np.linalg.svd(features - features.mean(0), full_matrices=False)
    np.testing.assert_allclose(found.variances, singular**2 / 200, rtol=1e-9)
    np.testing.assert_allclose(found.axes.T @ found.axes, np.eye(6), atol=1e-12)
    # an axis has no sign of its own
    np.testing.assert_allclose(np.abs(np.diag(right @ found.axes.numpy())), 1, atol=1e-9)


def test_principal_axes_about_another_centre() -> None:
    features, _ = labelled(200, 6, 4)
    centre = np.arange(6.0)
    moments = _numerics.moments(rows_of(features), "test")
    found = _numerics.principal_axes(moments, torch.from_numpy(centre))
    _, singular, right = np.linalg.svd(features - centre, full_matrices=False)
    np.testing.assert_allclose(found.variances, singular**2 / 200, rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.diag(right @ found.axes.numpy())), 1, atol=1e-9)
    np.testing.assert_array_equal(found.centre, centre)


def test_pseudo_inverse_of_a_singular_matrix() -> None:
    half = np.random.default_rng(0).normal(size=(6, 3))
    found = _numerics.pseudo_inverse(torch.from_numpy(half @ half.T))
    np.testing.assert_allclose(found, np.linalg.pinv(half @ half.T, hermitian=True), atol=1e-9)


def test_squared_mahalanobis_is_the_quadratic_form() -> None:
    rng = np.random.default_rng(0)
    z, means = rng.normal(size=(9, 4)), rng.normal(size=(3, 4))
    halves = rng.normal(size=(3, 4, 4))
    precisions = halves @ halves.transpose(0, 2, 1)
    one = np.empty((9, 3))
    each = np.empty((9, 3))
    for i in range(9):
        for g in range(3):
            off = z[i] - means[g]
            one[i, g], each[i, g] = off @ precisions[0] @ off, off @ precisions[g] @ off
    tensors = [torch.from_numpy(a) for a in (z, means, precisions)]
    found = _numerics.squared_mahalanobis(*tensors[:2], tensors[2][0])
    np.testing.assert_allclose(found, one, rtol=1e-10)
    np.testing.assert_allclose(_numerics.squared_mahalanobis_each(*tensors), each, rtol=1e-10)


def test_squared_mahalanobis_in_parts() -> None:
    # 64 groups of 64 features: 1,024 rows at a time
    generator = torch.Generator().manual_seed(0)
    z, means = torch.randn(1100, 64, generator=generator), torch.randn(64, 64, generator=generator)
    precisions = torch.eye(64).expand(64, 64, 64)
    found = _numerics.squared_mahalanobis_each(z, means, precisions)
    torch.testing.assert_close(found, torch.cdist(z, means).square(), rtol=1e-4, atol=1e-3)


# --- log-sum-exp -----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 20.0, 1e3, 1e30])
@pytest.mark.parametrize("weighted", [False, True])
def test_log_sum_exp_at_any_scale(scale: float, weighted: bool) -> None:
    logits = scale * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.0, 1e-12, 1.0, 1e12, 2.0, 3.0, 0.5]).log() if weighted else None
    found = _numerics.log_sum_exp(logits, weights)
    exact = (logits.double() + (0 if weights is None else weights.double())).logsumexp(dim=1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-5)


def test_log_sum_exp_of_nothing() -> None:
    assert _numerics.log_sum_exp(torch.empty(0, 3)).shape == (0,)


# --- the rest --------------------------------------------------------------------------------


def test_normalize_leaves_a_zero_row_zero() -> None:
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-1e-30, 0.0]], dtype=torch.float64)
    found = _numerics.normalize(z)
    torch.testing.assert_close(found[0], torch.tensor([0.6, 0.8], dtype=torch.float64))
    assert torch.equal(found[1], torch.zeros(2, dtype=torch.float64))
    assert found.isfinite().all()


def test_blocks_cover_all_rows_once() -> None:
    outputs = Outputs(torch.arange(1000.0)[:, None], torch.zeros(1000, 9))
    with pieces():
        found = list(_numerics.blocks(outputs, "features", "logits"))
    assert [len(block) for block in found] == [256, 256, 256, 232]
    assert torch.equal(torch.cat([block.features for block in found]), outputs.features)
    assert [len(block) for block in _numerics.blocks(outputs, "features")] == [1000]
    assert list(_numerics.blocks(outputs[:0], "features")) == []
    with pieces(300 * 10):
        assert [len(b) for b in _numerics.blocks(outputs, "features", "logits")] == [300] * 3 + [
            100
        ]


def test_feature_mean_over_blocks() -> None:
    features = torch.randn(1000, 3).half()
    with pieces():
        found = _numerics.feature_mean(rows_of(features))
    # blocks are summed in single precision, their sums in double
    torch.testing.assert_close(found, features.double().mean(dim=0), rtol=1e-6, atol=1e-7)


def test_work_is_done_in_the_values_own_precision_or_better() -> None:
    for dtype, own in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32)):
        assert _numerics.at_work(torch.zeros(2, dtype=dtype)).dtype == own
    for dtype in (torch.float32, torch.float64):
        values = torch.zeros(2, dtype=dtype)
        assert _numerics.at_work(values) is values
        assert _numerics.at_work(values, exact=True).dtype == torch.float64


def test_units_that_remain() -> None:
    # the rounding of NumPy, half to even: 0.5 of 5 units prunes 2
    found = [_numerics.kept_units(n, s, "test") for n, s in ((64, 0.9), (512, 0.85), (5, 0.5))]
    assert found == [6, 77, 3]
    with pytest.raises(OptionError, match="who: pruning 90% of 4 features leaves none"):
        _numerics.kept_units(4, 0.9, "who")

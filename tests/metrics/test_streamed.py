"""Metrics of a stream of pixel scores: exact, or within the bounds that they come with."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from oodbench import metrics
from oodbench.data.samples import OOD, VOID
from oodbench.errors import BadScoresError, DataError
from oodbench.metrics.streamed import StreamedScores
from oodbench.results.rows import METRICS

Array = np.ndarray[Any, np.dtype[Any]]

TIED = st.integers(-3, 3).map(float)
FEW = st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1.0])
# beyond 1e300 sums of scores overflow in what the results are compared with
ANY = st.floats(-1e300, 1e300, allow_nan=False)


@st.composite
def pixels(draw: st.DrawFn) -> tuple[Array, Array]:
    """Scores and which of them are OOD, at least one of each kind."""
    values = draw(st.sampled_from([TIED, FEW, ANY]))
    scores = draw(st.lists(values, min_size=2, max_size=60))
    ood = [False, True, *draw(st.lists(st.booleans(), min_size=58, max_size=58))]
    return np.array(scores), np.array(ood[: len(scores)])


def streamed(
    scores: Array, ood: Array, limit: int | None = None, order: int | None = None
) -> StreamedScores:
    """All scores at once; with ``order`` in an order and in pieces that depend on that seed."""
    stream = StreamedScores() if limit is None else StreamedScores(limit)
    if order is None:
        stream.add(scores, ood)
        return stream
    rng = np.random.default_rng(order)
    places = rng.permutation(len(scores))
    cuts = np.sort(rng.integers(0, len(scores) + 1, rng.integers(0, 12)))  # some pieces are empty
    for piece in np.split(places, cuts):
        stream.add(scores[piece], ood[piece])
    return stream


def exact(scores: Array, ood: Array) -> dict[str, float]:
    return metrics.all_metrics(scores[~ood], scores[ood])


def is_within_bounds(stream: StreamedScores, scores: Array, ood: Array) -> None:
    found, bounds = stream.metrics()
    for name, value in exact(scores, ood).items():
        assert abs(found[name] - value) <= bounds[name] + 1e-12, (name, found, bounds, value)
        assert 0 <= found[name] <= 1
        assert 0 <= bounds[name] <= 1


# --- exact ------------------------------------------------------------------------------------


def test_by_hand() -> None:
    stream = StreamedScores()
    stream.add([2.0, 3.0], [True, True])
    stream.add([1.0, 2.0, 2.0], [False] * 3)
    found, bounds = stream.metrics()
    assert list(found) == list(bounds) == list(METRICS)
    # 4 of 6 pairs in order and 2 ties; the thresholds take 3 of 3 ID with 1 of 2 OOD pixels, and
    # 2 of 2 OOD with 2 of 3 ID pixels
    assert found == pytest.approx(
        {
            "auroc": 5 / 6,
            "fpr95_id": 1 / 2,
            "fpr95_ood": 2 / 3,
            "aupr_in": 1 / 3 * 1 + 2 / 3 * 3 / 4,
            "aupr_out": 1 / 2 * 1 + 1 / 2 * 2 / 4,
        }
    )
    assert set(bounds.values()) == {0.0}
    assert (stream.n_id, stream.n_ood) == (3, 2)
    assert stream.counts().tolist() == [[1, 0], [2, 1], [0, 1]]


@settings(max_examples=150, deadline=None)
@given(pixels())
def test_equals_the_exact_metrics_and_scikit_learn(drawn: tuple[Array, Array]) -> None:
    scores, ood = drawn
    found, bounds = streamed(scores, ood).metrics()
    assert found == pytest.approx(exact(scores, ood), abs=1e-12)
    assert found["auroc"] == pytest.approx(roc_auc_score(ood, scores), abs=1e-12)
    assert found["aupr_out"] == pytest.approx(average_precision_score(ood, scores), abs=1e-12)
    assert found["aupr_in"] == pytest.approx(average_precision_score(~ood, -scores), abs=1e-12)
    assert set(bounds.values()) == {0.0}


@settings(max_examples=150, deadline=None)
@given(pixels(), st.integers(0, 2**31))
def test_neither_order_nor_pieces_matter(drawn: tuple[Array, Array], order: int) -> None:
    """As long as the limit holds the values that there are, which it does to the last one."""
    scores, ood = drawn
    whole = streamed(scores, ood)
    limit = max(2, len(np.unique(scores)))
    pieces = streamed(scores, ood, limit, order)
    assert pieces.metrics() == whole.metrics()
    assert np.array_equal(pieces.counts(), whole.counts())
    assert (pieces.n_id, pieces.n_ood) == (whole.n_id, whole.n_ood)


@settings(max_examples=150, deadline=None)
@given(pixels(), st.integers(2, 40), st.integers(0, 2**31), st.integers(1, 4))
def test_shares_add_up_to_the_whole(
    drawn: tuple[Array, Array], limit: int, order: int, shares: int
) -> None:
    """To the last bit, also where there are more values than are told apart."""
    scores, ood = drawn
    whole = streamed(scores, ood, limit)
    parts = [streamed(scores[i::shares], ood[i::shares], limit, order) for i in range(shares)]
    first, *others = parts
    for other in others:
        first.merge(other)
    assert first.metrics() == whole.metrics()
    assert np.array_equal(first.counts(), whole.counts())
    assert (first.n_id, first.n_ood, first.shift) == (whole.n_id, whole.n_ood, whole.shift)


@pytest.mark.parametrize("empty_is_first", [True, False])
def test_a_share_may_be_empty_where_another_is_coarse(empty_is_first: bool) -> None:
    """A process with no image beside one with more values than are told apart."""
    scores, ood = np.array([0.0, 1.0, -1.0]), np.array([False, True, False])
    whole = streamed(scores, ood, 2)
    first, second = streamed(scores, ood, 2), StreamedScores(2)
    if empty_is_first:
        first, second = second, first
    first.merge(second)
    assert whole.shift > 0
    assert first.metrics() == whole.metrics()
    assert np.array_equal(first.counts(), whole.counts())


def test_what_tells_other_numbers_of_values_apart_is_not_merged() -> None:
    with pytest.raises(ValueError, match="limits of 4 and 8"):
        StreamedScores(4).merge(StreamedScores(8))


@settings(max_examples=60, deadline=None)
@given(pixels(), st.integers(0, 2**31))
def test_counts_ascend_by_score(drawn: tuple[Array, Array], order: int) -> None:
    scores, ood = drawn
    values = np.unique(scores)
    expected = [[int((scores[~ood] == v).sum()), int((scores[ood] == v).sum())] for v in values]
    assert streamed(scores, ood, order=order).counts().tolist() == expected


def test_many_scores_of_half_precision_tie() -> None:
    rng = np.random.default_rng(0)
    ood = rng.random(200_000) < 0.02
    scores = (rng.normal(size=len(ood)) + 1.5 * ood).astype(np.float16)
    stream = streamed(scores, ood, order=0)
    found, bounds = stream.metrics()
    assert found == pytest.approx(exact(scores.astype(np.float64), ood), abs=1e-12)
    assert set(bounds.values()) == {0.0}
    assert len(stream.counts()) == len(np.unique(scores))


def test_metrics_may_be_asked_for_in_between() -> None:
    rng = np.random.default_rng(0)
    scores, ood = rng.normal(size=300), rng.random(300) < 0.3
    stream = StreamedScores()
    for stop in range(50, 301, 50):
        stream.add(scores[stop - 50 : stop], ood[stop - 50 : stop])
        found, _ = stream.metrics()
        assert found == pytest.approx(exact(scores[:stop], ood[:stop]), abs=1e-12)


# --- coarse -----------------------------------------------------------------------------------


def test_the_limit_is_what_is_told_apart() -> None:
    assert StreamedScores().limit == 2**21
    scores = np.linspace(-1, 1, 65)
    ood = np.arange(65) % 3 == 0
    for limit, is_exact in ((65, True), (64, False)):
        for order in (None, 0, 1):
            stream = streamed(scores, ood, limit, order)
            _, bounds = stream.metrics()
            assert (set(bounds.values()) == {0.0}) == is_exact
            assert len(stream.counts()) <= limit


@settings(max_examples=200, deadline=None)
@given(pixels(), st.integers(2, 12), st.integers(0, 2**31))
def test_errors_are_within_their_bounds(drawn: tuple[Array, Array], limit: int, order: int) -> None:
    scores, ood = drawn
    stream = streamed(scores, ood, limit, order)
    is_within_bounds(stream, scores, ood)
    assert len(stream.counts()) <= limit
    assert stream.counts().sum(axis=0).tolist() == [(~ood).sum(), ood.sum()]


@pytest.mark.parametrize("limit", [2, 7, 100, 3000])
@pytest.mark.parametrize("kind", ["normal", "wide", "close", "apart", "wrong"])
def test_errors_of_many_scores_are_within_their_bounds(limit: int, kind: str) -> None:
    rng = np.random.default_rng(limit)
    ood = rng.random(20_000) < 0.1
    scores = rng.normal(size=len(ood)) + 1.0 * ood
    if kind == "wide":
        scores = scores * 10.0 ** rng.uniform(-300, 300, len(ood))
    elif kind == "close":  # as AbeT's: far from zero, and next to each other
        scores = -98 + 1e-3 * scores
    elif kind == "apart":
        scores = np.where(ood, 1.5, 1.0) + rng.random(len(ood)) / 10
    elif kind == "wrong":
        scores = -scores
    stream = streamed(scores, ood, limit, order=limit)
    assert len(stream.counts()) <= limit
    is_within_bounds(stream, scores, ood)


def in_one_cell(scores: Array, ood: Array) -> StreamedScores:
    """Scores that are told apart in none of their first bits, counted as one value."""
    stream = streamed(scores, ood, limit=2)
    stream.counts()
    stream._shift_to(40)
    return stream


def test_bounds_are_reached() -> None:
    """All scores in one cell: half of the pairs are called right, all of them or none are."""
    rng = np.random.default_rng(0)
    scores = 1 + rng.random(100) / 1e6
    for ood in (scores > np.median(scores), scores <= np.median(scores)):
        stream = in_one_cell(scores, ood)
        found, bounds = stream.metrics()
        assert len(stream.counts()) == 1
        assert found["auroc"] == bounds["auroc"] == 0.5
        assert abs(found["auroc"] - exact(scores, ood)["auroc"]) == 0.5
        is_within_bounds(stream, scores, ood)


def test_few_that_come_first_cost_more_than_they_could_gain() -> None:
    """3 OOD scores below 97 ID ones, in one cell: precision is below that of ties for most."""
    scores = 1 + np.arange(100.0) / 1e9
    for ood, metric in ((scores < scores[3], "aupr_in"), (scores < scores[97], "aupr_out")):
        stream = in_one_cell(scores, ood)
        found, _ = stream.metrics()
        assert found[metric] == pytest.approx(0.97)
        assert exact(scores, ood)[metric] < 0.9, "further below 0.97 than 1 is above it"
        is_within_bounds(stream, scores, ood)


def test_bounds_are_of_use() -> None:
    """Cells of a few bits less tell nearly the same, and say so."""
    rng = np.random.default_rng(0)
    ood = rng.random(100_000) < 0.1
    scores = rng.normal(size=len(ood)) + 1.5 * ood
    stream = streamed(scores, ood, limit=2**13, order=0)
    _, bounds = stream.metrics()
    assert 0 < max(bounds.values()) < 5e-3
    is_within_bounds(stream, scores, ood)


# --- memory -----------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_pixels() -> None:
    rng = np.random.default_rng(0)
    stream = StreamedScores(limit=2**12)
    ood = np.arange(2**10) % 7 == 0
    tracemalloc.start()
    try:
        for i in range(400):  # 3.3 MB of scores, each another
            stream.add(rng.normal(size=len(ood)) * 10.0 ** rng.integers(-9, 9), ood)
            if i >= 20:
                held, _ = tracemalloc.get_traced_memory()
                assert held < 64 * stream.limit
    finally:
        tracemalloc.stop()
    assert len(stream.counts()) <= stream.limit
    assert stream.n_id + stream.n_ood == stream.counts().sum() == 400 * 2**10


def test_one_addition_may_be_larger_than_the_limit() -> None:
    scores = np.random.default_rng(0).normal(size=5000)
    stream = streamed(scores, scores > 0, limit=16)
    assert len(stream.counts()) <= 16
    is_within_bounds(stream, scores, scores > 0)


# --- maps -------------------------------------------------------------------------------------


def test_maps_are_counted_without_void_pixels() -> None:
    rng = np.random.default_rng(0)
    masks = rng.choice(np.array([0, 1, 5, OOD, VOID], np.uint8), (3, 7, 5))
    maps = rng.integers(0, 9, masks.shape) / 4
    maps[masks == VOID] = np.nan  # nobody looks there
    stream = StreamedScores()
    for scores, mask in zip(maps, masks, strict=True):
        stream.add_map(scores.astype(np.float32), mask)
    assert stream.n_id == (masks < OOD).sum()
    assert stream.n_ood == (masks == OOD).sum()
    found, _ = stream.metrics()
    known = masks != VOID
    assert found == pytest.approx(exact(maps[known], masks[known] == OOD), abs=1e-12)


def test_a_map_of_another_size_is_refused() -> None:
    stream = StreamedScores()
    for shape in ((3, 4), (4, 3, 1), (12,), (2, 3)):
        with pytest.raises(DataError, match="size") as error:
            stream.add_map(np.zeros(shape), np.zeros((4, 3), np.uint8))
        assert "4 x 3" in str(error.value)
        assert " x ".join(map(str, shape)) in str(error.value)
    assert (stream.n_id, stream.n_ood) == (0, 0)


def test_void_maps_say_nothing() -> None:
    stream = StreamedScores()
    void = np.full((2, 3), VOID, np.uint8)
    for _ in range(3):
        stream.add_map(np.ones((2, 3)), void)
    assert stream.counts().shape == (0, 2)
    with pytest.raises(DataError, match="0 ID and 0 OOD pixels") as error:
        stream.metrics()
    assert "void" in str(error.value)
    stream.add_map(np.array([[0.0, 1.0]]), np.array([[0, OOD]], np.uint8))
    stream.add_map(np.ones((2, 3)), void)
    assert stream.metrics()[0]["auroc"] == 1.0


@pytest.mark.parametrize(
    ("value", "told"), [(0, "6 ID and 0 OOD pixels"), (OOD, "0 ID and 6 OOD pixels")]
)
def test_masks_of_one_kind_are_refused(value: int, told: str) -> None:
    stream = StreamedScores()
    stream.add_map(np.arange(6.0).reshape(2, 3), np.full((2, 3), value, np.uint8))
    with pytest.raises(DataError, match=told):
        stream.metrics()


# --- what cannot be counted -------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_cannot_be_ranked(bad: float) -> None:
    """They are refused with their map, of which nothing is counted."""
    stream = StreamedScores()
    stream.add([0.0, 1.0], [False, True])
    before = stream.metrics()
    with pytest.raises(BadScoresError, match="2 of 3 pixels"):
        stream.add([bad, 1.0, bad], [True, False, True])
    with pytest.raises(BadScoresError):
        stream.add_map(np.array([[0.0, bad]]), np.array([[OOD, 0]], np.uint8))
    assert stream.metrics() == before
    assert (stream.n_id, stream.n_ood) == (1, 1)


def test_impossible_arguments() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        StreamedScores(1)
    with pytest.raises(ValueError, match="3 scores, but 2 pixels"):
        StreamedScores().add([1.0, 2.0, 3.0], [True, False])

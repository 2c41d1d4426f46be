"""Nearest neighbours in a bank of features: exact, whatever the way, and however it is kept."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import oodbench
from oodbench import Outputs
from oodbench.detectors import _neighbours
from oodbench.outputs import Head
from tests.helpers.problems import problem

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def products(draw: st.DrawFn) -> tuple[Tensor, int]:
    rows = draw(st.integers(1, 6))
    # wide ones go in two steps, from 16 columns a neighbour on
    columns = draw(st.one_of(st.integers(1, 40), st.integers(41, 3000)))
    k = draw(st.one_of(st.integers(1, columns), st.integers(1, max(1, columns // 16))))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(rows, columns, generator=generator)
    return (values.mul(2).round() if draw(st.booleans()) else values), k


@quick
@given(products())
@example((torch.arange(256.0)[None], 1))
@example((torch.arange(1023.0).flip(0)[None], 7))
@example((torch.zeros(2, 500), 3))
def test_largest_is_topk(case: tuple[Tensor, int]) -> None:
    values, k = case
    found, where = _neighbours._largest(values, k)
    assert torch.equal(found, values.topk(k, dim=1).values)
    # among ties any will do, but each of them once
    assert torch.equal(values.gather(1, where), found)
    assert all(len(set(row)) == k for row in where.tolist())


def test_largest_takes_both_ways() -> None:
    values = torch.randn(3, 1000)
    with mock.patch.object(torch.Tensor, "amax", side_effect=AssertionError):
        _neighbours._largest(values, 500)  # one step
        with pytest.raises(AssertionError):
            _neighbours._largest(values, 3)  # two steps


@st.composite
def searches(draw: st.DrawFn) -> tuple[Tensor, Tensor, int, Tensor | None, int]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n, m, dim = draw(st.integers(0, 20)), draw(st.integers(1, 400)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    queries, bank = (torch.randn(s, dim, generator=generator).to(dtype) for s in (n, m))
    offset = torch.randn(m, generator=generator).to(dtype) if draw(st.booleans()) else None
    return queries, bank, draw(st.integers(1, min(m, 30))), offset, draw(st.integers(1, 500))


@quick
@given(searches())
def test_most_similar_is_the_sorted_products(
    case: tuple[Tensor, Tensor, int, Tensor | None, int],
) -> None:
    queries, bank, k, offset, block = case
    values, rows = _neighbours.most_similar(queries, bank, k, offset, block)
    everything = queries @ bank.T + (0 if offset is None else offset)
    torch.testing.assert_close(values, everything.topk(k, dim=1).values)
    torch.testing.assert_close(everything.gather(1, rows), values)
    assert all(len(set(row)) == k for row in rows.tolist())


def test_more_queries_than_fit_at_once() -> None:
    queries, bank = torch.randn(1200, 3), torch.randn(50, 3)  # 512 at a time
    values, _ = _neighbours.most_similar(queries, bank, 4)
    torch.testing.assert_close(values, (queries @ bank.T).topk(4, dim=1).values)


def banks(kind: str) -> tuple[Tensor, Tensor]:
    """Queries ``[140, 128]`` and a bank ``[6000, 128]`` that a coarse search gets right or not."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(140, 128, generator=generator)
    bank = torch.randn(6000, 128, generator=generator)
    match kind:
        case "spread":
            pass
        case "near zero":
            queries[:20] = 0
            bank[::3] *= 1e-30
        case "large":
            bank *= 1e15
        case "far from zero":
            bank += 100
        case "one cluster":  # closer to each other than bfloat16 can tell
            bank = bank[:1] + 1e-4 * bank
        case "some clusters":  # few queries without proof
            bank[:600] = bank[:1] + 1e-4 * bank[:600]
            queries[:10] = bank[0]
        case "equal":
            bank = bank[:1].repeat(6000, 1)
    return queries, bank


@pytest.mark.parametrize("with_offset", [False, True], ids=["", "offset"])
@pytest.mark.parametrize(
    "kind",
    ["spread", "near zero", "large", "far from zero", "one cluster", "some clusters", "equal"],
)
def test_a_coarse_search_finds_what_the_exact_one_finds(
    kind: str, with_offset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, bank = banks(kind)
    offset = _neighbours.half_squares(bank) if with_offset else None
    monkeypatch.setattr(_neighbours, "_has_bfloat16_units", lambda: True)
    assert _neighbours._pays(queries, bank, 5)
    values, rows = _neighbours.most_similar(queries, bank, 5, offset)
    everything = queries.double() @ bank.double().T
    everything += 0 if offset is None else offset.double()
    size = float(everything.abs().max()) or 1.0
    best = everything.topk(5, dim=1).values
    assert float((values - best).abs().max()) <= 1e-5 * size
    assert float((everything.gather(1, rows) - best).abs().max()) <= 1e-5 * size


@pytest.mark.parametrize(
    ("kind", "again"), [("spread", range(1)), ("some clusters", range(10, 35))]
)
def test_queries_without_proof_are_searched_again(
    kind: str, again: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, bank = banks(kind)
    asked = []
    search = _neighbours._search

    def counted(queries: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        asked.append(len(queries))
        return search(queries, *rest)

    monkeypatch.setattr(_neighbours, "_has_bfloat16_units", lambda: True)
    monkeypatch.setattr(_neighbours, "_search", counted)
    _neighbours.most_similar(queries, bank, 5)
    assert sum(asked) in again


def test_a_bank_that_is_too_close_is_not_searched_coarsely_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, bank = banks("one cluster")
    coarse = _neighbours._Coarse.of(bank, None, 5)
    coarse.search(bank[:200], torch.empty(200 * len(bank)))
    assert not coarse.useful


def faiss() -> ModuleType:
    return pytest.importorskip("faiss", reason="the faiss extra is not installed")


@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.parametrize("with_faiss", [False, True], ids=["without faiss", "with faiss"])
def test_neighbour_distances_with_and_without_faiss(
    with_faiss: bool, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = faiss() if with_faiss else None
    monkeypatch.setattr(_neighbours, "_faiss", lambda: module)
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(300, 8, generator=generator)
    queries = torch.cat([torch.randn(40, 8, generator=generator), bank[:3]])
    found = _neighbours.kth_neighbour_distance(queries, bank, k)
    expected = torch.cdist(
        queries.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist"
    ).sort(dim=1).values[:, k - 1]  # fmt: skip
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    if k == 1:
        assert torch.equal(found[-3:], torch.zeros(3))


def test_faiss_is_asked_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def knn(queries: np.ndarray, bank: np.ndarray, k: int) -> tuple[None, np.ndarray]:
        asked.append(queries.dtype)
        return None, np.zeros((len(queries), k), dtype=np.int64)

    fake = ModuleType("faiss")
    fake.knn = knn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faiss", fake)
    _neighbours._faiss.cache_clear()
    try:
        queries, bank = torch.randn(4, 3), torch.randn(9, 3)
        found = _neighbours.kth_neighbour_distance(queries, bank, 2)
        torch.testing.assert_close(found, (queries - bank[0]).norm(dim=1))
        _neighbours.kth_neighbour_distance(queries.double(), bank.double(), 2)
    finally:
        _neighbours._faiss.cache_clear()
    assert asked == [np.float32]  # double precision is searched here


# --- banks that are kept as they came ----------------------------------------------------------

BANKS = [
    ("knn", {"k": 5}),
    ("knn", {"k": 5, "normalize": False}),
    ("ptood", {}),
    ("grood", {}),
    ("relation", {}),
    ("relation", {"power": 2.0}),
]


def halved(outputs: Outputs, dtype: torch.dtype) -> Outputs:
    assert outputs.head is not None
    head = Head(outputs.head.weight.float(), outputs.head.bias.float())
    features, logits = outputs.features.to(dtype), outputs.logits.to(dtype)
    return Outputs(features, logits, outputs.labels, head)


def widened(outputs: Outputs) -> Outputs:
    return Outputs(outputs.features.float(), outputs.logits.float(), outputs.labels, outputs.head)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), BANKS)
def test_half_precision_is_kept_as_it_came(
    name: str, options: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the memory, and the scores of the same values in float32, bit by bit."""
    monkeypatch.setattr("oodbench.detectors._neighbours.PIECE", 7 * 24)  # pieces that do not fit
    drawn = problem(n=2500, test=600)
    train, test = halved(drawn.train, dtype), halved(drawn.test, dtype)
    kept = oodbench.create_detector(name, **options).fit(train)
    wide = oodbench.create_detector(name, **options).fit(widened(train))
    assert kept.bank_.dtype == dtype
    assert wide.bank_.dtype == torch.float32
    expected = wide.score(widened(test))
    assert expected.unique().numel() > 500
    assert torch.equal(kept.score(test), expected)
    assert torch.equal(kept.score(widened(test)), expected)


def test_what_is_kept_is_a_copy() -> None:
    """Who changes the features afterwards changes no scores."""
    drawn = problem()
    for name, options in BANKS:
        train = halved(drawn.train, torch.float16)
        detector = oodbench.create_detector(name, **options).fit(train)
        before = detector.score(drawn.test)
        train.features.zero_()
        train.logits.zero_()
        assert torch.equal(detector.score(drawn.test), before), name


def test_whitened_features_are_kept_in_float32() -> None:
    """To whiten all of them in each call would cost more than the search."""
    train = halved(problem().train, torch.float16)
    detector = oodbench.create_detector("ptood", whiten=True).fit(train)
    assert detector.bank_.dtype == torch.float32


def test_only_correctly_classified_gradients_are_kept() -> None:
    train = halved(problem().train, torch.float16)
    right = train.logits.float().argmax(dim=1) == train.labels
    assert 0 < right.sum() < len(train)
    detector = oodbench.create_detector("grood").fit(train)
    assert torch.equal(detector.bank_, train.features[right])

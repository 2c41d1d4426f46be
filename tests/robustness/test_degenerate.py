"""Detectors on input that is hardly any: finite scores, or an error that says whose and why.

And what holds for all detectors that read outputs, however these are cut, stored or computed.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

import oodbench
from oodbench import Detector, Outputs, metrics
from oodbench.detectors import _numerics
from oodbench.errors import BadScoresError, OODBenchError, OODBenchWarning, OptionError
from oodbench.outputs import Head
from tests.helpers.problems import OF_OUTPUTS, Problem, problem

SIZED = ("actsub", "cfood", "knn", "kpca", "nnguide")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in OF_OUTPUTS if name not in SIZED),
    # the toy problem is smaller than what these detectors' defaults are for
    ("actsub", {"neighbours": 1}),
    ("cfood", {"share": 1.0}),
    ("knn", {"k": 5}),
    ("nnguide", {"k": 5, "share": 0.1}),
    ("kpca", {"kernel": "cosine"}),
    ("kpca", {"kernel": "cosine-gaussian", "M": 64}),
    # options that take another way through the code
    ("ensemble", {"members": ("gmm", "msp")}),
    ("fdbd", {"normalizer": "norm"}),
    ("gen", {"clip": 1e-7}),
    ("gmm", {"covariance": "tied"}),
    ("nac", {"bins": "geometric", "eps": 1e-12}),
    ("neco", {"standardize": False}),
    ("openmax", {"correct_only": False}),
    ("palm", {"centring": "paper"}),
    ("react", {"score": "openmax"}),
    ("she", {"metric": "cosine"}),
    ("she", {"metric": "euclidean"}),
    ("ssd", {"clusters": "classes"}),
    ("vra", {"per_unit": True, "below": "clip"}),
]
every_detector = pytest.mark.parametrize(
    ("name", "options"),
    VARIANTS,
    ids=["-".join([name, *map(str, options.values())]) for name, options in VARIANTS],
)


@pytest.fixture(autouse=True)
def _narrow_on_purpose() -> Iterator[None]:
    """ASH-S and SCALE rightly say that the toy problem's features are few."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", OODBenchWarning)
        yield


# --- degenerate input ------------------------------------------------------------------------


def _features(change: Callable[[Tensor], Tensor]) -> Callable[[Problem], tuple[Outputs, Outputs]]:
    """Both sets with other features, and the logits that the head makes of them."""

    def changed(p: Problem) -> tuple[Outputs, Outputs]:
        both = []
        for outputs in (p.train, p.test):
            features = change(outputs.features.clone())
            both.append(Outputs(features, p.head(features), outputs.labels, p.head))
        return both[0], both[1]

    return changed


def _logit(value: float, trained: bool) -> Callable[[Problem], tuple[Outputs, Outputs]]:
    def changed(p: Problem) -> tuple[Outputs, Outputs]:
        p.test.logits[3, 1] = value
        if trained:
            p.train.logits[7, 2] = value
        return p.train, p.test

    return changed


def _only(which: Callable[[Tensor], Tensor]) -> Callable[[Problem], tuple[Outputs, Outputs]]:
    def changed(p: Problem) -> tuple[Outputs, Outputs]:
        return p.train[which(p.train.labels).nonzero().flatten()], p.test

    return changed


def _set(features: Tensor, where: Any, value: Any) -> Tensor:
    features[where] = value
    return features


def _one_class(p: Problem) -> tuple[Outputs, Outputs]:
    head = Head(p.head.weight[:1], p.head.bias[:1])
    train, test = (
        Outputs(o.features, o.logits[:, :1], torch.zeros_like(o.labels), head)
        for o in (p.train, p.test)
    )
    return train, test


def _place(labels: Tensor) -> Tensor:
    return torch.arange(len(labels))


DEGENERATE: dict[str, Callable[[Problem], tuple[Outputs, Outputs]]] = {
    "a class with one sample": _only(lambda y: (y != 2) | (_place(y) == 2)),
    "fewer samples than dimensions": _only(lambda y: _place(y) < 10),
    "one sample per class": _only(lambda y: _place(y) < 5),
    "one sample": _only(lambda y: _place(y) < 1),
    "constant features": _features(lambda z: _set(z, (slice(None), slice(0, None, 2)), 1.5)),
    "nothing but constant features": _features(lambda z: torch.full_like(z, 0.7)),
    "nothing but zeros": _features(torch.zeros_like),
    "collinear features": _features(lambda z: _set(z, (slice(None), slice(12, 24)), 2 * z[:, :12])),
    "features on a line": _features(lambda z: z[:, :1] * torch.arange(24).to(z)),
    "a zero feature vector": _features(lambda z: _set(z, 0, 0.0)),
    "a huge feature vector": lambda p: (p.train, _features(lambda z: _set(z, 0, 5e3))(p)[1]),
    "a huge logit": _logit(1e4, trained=False),
    "a huge negative logit": _logit(-1e4, trained=False),
    "a huge logit in training": _logit(1e4, trained=True),
    "a huge negative logit in training": _logit(-1e4, trained=True),
    "one class": _one_class,
    "nothing to score": lambda p: (p.train, p.test[:0]),
    "a class without a sample": _only(lambda y: y != 2),
    "the last class without a sample": _only(lambda y: y != 4),
    "nothing to learn from": lambda p: (p.train[:0], p.test),
}

BY_CLASS = {"core", "ensemble", "gmm", "grood", "mahalanobis", "mahalanobis-pp", "rmds", "rmds-pp"}
BY_CLASS |= {"she", "ssd"}
"""These read each class's own samples, and say so where it has none."""


def may_refuse(detector: Detector, case: str) -> bool:
    name = detector.name
    if case == "nothing to learn from":
        return type(detector).fit is not Detector.fit
    if case == "one sample":
        return name in ("cfood", "core", "grood", "knn", "nnguide", "ptood", "she")
    if case == "a class without a sample":
        return name in BY_CLASS
    return case == "the last class without a sample" and name in ("core", "grood", "she")


@every_detector
def test_degenerate_input(name: str, options: dict[str, Any]) -> None:
    """All cases in one test: as tests of their own, 1,100 of them took longer to be told apart."""
    for case, dtype in itertools.product(DEGENERATE, (torch.float32, torch.float16)):
        train, test = DEGENERATE[case](problem(n=100, dtype=dtype))
        detector = oodbench.create_detector(name, **options)
        where = f"{case}, {dtype}"
        said = None
        try:
            scores = detector.fit(train).score(test)
        except OODBenchError as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(where) from error
        if said is None:
            assert scores.shape == (len(test),), where
            assert scores.isfinite().all(), where
        else:
            # an ensemble passes on what its member says, and the member has the option that helps
            names = [name, *getattr(detector, "members", ())]
            assert said.startswith(tuple(f"{n}: " for n in names)), f"{where}: {said}"
            assert "NaN" not in said, f"{where}: {said}"
            assert may_refuse(detector, case), f"{where}: {said}"


@pytest.mark.parametrize("name", ["knn", "nnguide", "ptood"])
def test_more_neighbours_than_training_samples(name: str) -> None:
    p = problem(n=30)
    message = rf"{name}: k=31 exceeds the 30 training samples; choose a smaller k"
    with pytest.raises(OptionError, match=message):
        oodbench.create_detector(name, k=31).fit(p.train)
    assert oodbench.create_detector(name, k=30).fit(p.train).score(p.test).isfinite().all()


@every_detector
def test_one_value_that_is_not_finite(name: str, options: dict[str, Any]) -> None:
    """Also where it is seen through an argmax, a clip or a bin alone, which would hide it."""
    values = (float("nan"), float("inf"), -float("inf"))
    for bad, column in itertools.product(values, ("features", "logits")):
        p = problem(n=100)
        detector = oodbench.create_detector(name, **options).fit(p.train)
        if column not in detector.needs:
            continue
        getattr(p.test, column)[5, 1] = bad
        getattr(p.train, column)[7, 2] = bad
        with pytest.raises(BadScoresError, match=rf"^{name}: the {column} hold NaN .* row 5\)"):
            detector.score(p.test)
        if detector.needs_fit:
            with pytest.raises(BadScoresError, match=rf"^{name}: the {column} hold NaN .* row 7\)"):
                detector.fit(p.train)


def test_a_shaping_speaks_for_the_score_behind_it() -> None:
    p = problem(n=100)
    p.test.features[5] = 1e300  # what the head makes of it overflows
    p.head.weight[:] *= 1e300
    with pytest.raises(BadScoresError, match=r"^ash-p: the logits hold .* row 5\)"):
        oodbench.create_detector("ash-p", score="msp").score(p.test)


# --- what is cut, stored or computed in another way ------------------------------------------


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to a share of the scores' spread, below which no order changes that matters."""
    assert found.shape == expected.shape
    spread = float(expected.max() - expected.min())
    assert spread > 0
    worst = float((found.double() - expected.double()).abs().max())
    assert worst <= tolerance * spread, f"off by {worst / spread:.2g} of the spread"


def fitted(name: str, options: dict[str, Any], train: Outputs) -> Detector:
    return oodbench.create_detector(name, **options).fit(train)


@pytest.fixture(scope="module")
def single() -> Problem:
    """A problem in single precision, as networks give it, of three blocks of 256 rows."""
    return problem(n=700, dtype=torch.float32, test=300)


Plain = Callable[[str, dict[str, Any]], tuple[Detector, Tensor]]


@pytest.fixture(scope="module")
def plain(single: Problem) -> Plain:
    """A detector that learned from the problem, and its scores; nothing is to change either."""
    known: dict[str, tuple[Detector, Tensor]] = {}

    def get(name: str, options: dict[str, Any]) -> tuple[Detector, Tensor]:
        key = f"{name} {options}"
        if key not in known:
            detector = fitted(name, options, single.train)
            known[key] = detector, detector.score(single.test)
        return known[key]

    return get


@every_detector
def test_one_batch_or_many(
    name: str, options: dict[str, Any], single: Problem, plain: Plain
) -> None:
    detector, whole = plain(name, options)
    for size, rows in ((1, 20), (7, 70), (64, 300)):
        batches = single.test[:rows].batches(size)
        close(torch.cat([detector.score(batch) for batch in batches]), whole[:rows])


@every_detector
def test_one_block_or_many(
    name: str, options: dict[str, Any], single: Problem, plain: Plain
) -> None:
    p = single
    _, whole = plain(name, options)
    with mock.patch.object(_numerics, "BLOCK", 1):
        assert len(list(_numerics.blocks(p.train, "features"))) == 3
        detector = fitted(name, options, p.train)
        close(detector.score(p.test), whole)
    close(detector.score(p.test), whole)


@every_detector
def test_one_thread_or_two(
    name: str, options: dict[str, Any], single: Problem, plain: Plain
) -> None:
    before = torch.get_num_threads()
    other = 2 if before == 1 else 1
    _, usual = plain(name, options)
    try:
        torch.set_num_threads(other)
        found = fitted(name, options, single.train).score(single.test)
    finally:
        torch.set_num_threads(before)
    close(found, usual)


@pytest.fixture(scope="module")
def stored(single: Problem, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Problem]:
    """The problem as it comes from disk, by precision."""
    folder = tmp_path_factory.mktemp("outputs")
    mapped = {}
    for dtype in (torch.float32, torch.float16):
        sets = {}
        for part in ("train", "test", "ood"):
            outputs: Outputs = getattr(single, part)
            path = Path(folder) / str(dtype) / part
            path.parent.mkdir(exist_ok=True)
            Outputs(
                outputs.features.to(dtype), outputs.logits.to(dtype), outputs.labels, outputs.head
            ).save(path)
            sets[part] = Outputs.load(path)
            assert sets[part].features.dtype == dtype
        mapped[str(dtype).removeprefix("torch.")] = Problem(**sets)
    return mapped


@every_detector
def test_from_memory_or_from_disk(
    name: str, options: dict[str, Any], stored: dict[str, Problem], plain: Plain
) -> None:
    _, expected = plain(name, options)
    disk = stored["float32"]
    close(fitted(name, options, disk.train).score(disk.test), expected)


@every_detector
def test_half_precision_on_disk(
    name: str, options: dict[str, Any], single: Problem, stored: dict[str, Problem], plain: Plain
) -> None:
    half = stored["float16"]
    exact, scores = plain(name, options)
    rough = fitted(name, options, half.train)
    ones = scores, exact.score(single.ood)
    others = rough.score(half.test), rough.score(half.ood)
    rank = spearmanr(torch.cat(ones).numpy(), torch.cat(others).numpy()).statistic
    assert rank > 0.99
    assert metrics.auroc(*others) == pytest.approx(metrics.auroc(*ones), abs=0.005)

"""The check suite that every detector passes; plug-ins run it on theirs.

    import pytest
    from oodbench.testing import detector_checks

    @pytest.mark.parametrize("check", detector_checks(), ids=lambda check: check.__name__)
    def test_mine(check):
        check(Mine())

Each check takes a fresh, unfitted detector and raises an ``AssertionError`` that names it. For what
uses somebody's network there are ``untouched`` and ``network_checks``; see
``oodbench.testing.untouched``.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench import metrics
from oodbench.detector import (
    Detector,
    build,
)
from oodbench.errors import ChangedInputsError, MissingOutputError, NotFittedError, OptionError
from oodbench.outputs import Head, Outputs, to_numpy
from oodbench.runtime.process import ProcessState
from oodbench.testing.untouched import network_checks as network_checks
from oodbench.testing.untouched import untouched as untouched

Check = Callable[[Detector], None]
Toy = Callable[[dict[str, Tensor], Head], tuple[dict[str, Tensor], Head]]
CLASSES, DIM, UNITS = 4, 64, 8


@dataclass
class Blobs:
    """A toy problem that every detector must solve.

    Features are rectified Gaussian blobs: each class lights eight units of its own, and each OOD
    blob eight units that no class lights. So it is far from every class, in direction as in
    distance, and the linear head says little of it.

    Args:
        train: ID training outputs.
        test: ID test outputs.
        ood: OOD outputs.
    """

    train: Outputs
    test: Outputs
    ood: Outputs


def blobs(seed: int = 0, dtype: torch.dtype = torch.float32) -> Blobs:
    """The toy problem, with features, logits, labels and head."""
    generator = torch.Generator().manual_seed(seed)
    lit = torch.eye(DIM // UNITS).repeat_interleave(UNITS, dim=1)  # [blobs, D]
    weight = 0.25 * lit[:CLASSES]
    head = Head(weight, torch.zeros(CLASSES))

    def outputs(n: int, is_ood: bool) -> Outputs:
        labels = torch.arange(n) % CLASSES
        centre = 3.0 * lit[labels + CLASSES if is_ood else labels]
        features = (centre + 0.5 * torch.randn(n, DIM, generator=generator)).relu()
        return Outputs(features.to(dtype), head(features).to(dtype), labels, head)

    return Blobs(outputs(1200, False), outputs(200, False), outputs(120, True))


def _problem(detector: Detector, dtype: torch.dtype = torch.float32) -> Blobs:
    """The toy problem as the network shows it that the detector was designed for."""
    plain = blobs(dtype=dtype)

    def shown(outputs: Outputs) -> Outputs:
        assert outputs.head is not None
        columns, head = detector.toy(dict(outputs.columns()), outputs.head)
        named = {name: columns.get(name) for name in ("features", "logits", "labels")}
        extra = {name: value for name, value in columns.items() if name not in named}
        return Outputs(**named, head=head, extra=extra)  # type: ignore[arg-type]

    return Blobs(shown(plain.train), shown(plain.test), shown(plain.ood))


class _Toy(nn.Module):
    """The toy problem's network, for detectors that need one.

    An image is a ``[D, 2, 2]`` map whose spatial mean is the features; see :func:`_images`.

    Args:
        head: the linear one.
        shown: what else it says, and how; see :meth:`Detector.toy`.
    """

    def __init__(self, head: Head, shown: Toy = Detector.toy) -> None:
        super().__init__()
        self.shown = shown
        self.conv = nn.Conv2d(DIM, DIM, 1, bias=False)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(DIM, CLASSES)
        self.conv.load_state_dict({"weight": torch.eye(DIM)[:, :, None, None]})
        self.linear.load_state_dict({"weight": head.weight, "bias": head.bias})

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.relu(self.conv(images)).mean(dim=(2, 3))
        columns = {"features": features, "logits": self.linear(features)}
        return self.shown(columns, self.head())[0]

    def head(self) -> Head:
        return Head(self.linear.weight, self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(images)["logits"]


def _images(outputs: Outputs) -> Tensor:
    """Maps ``[N, D, 2, 2]``: features times a pattern of mean 1 that turns with the channel."""
    quarter = torch.tensor([[1.5, 0.5], [0.5, 1.5]])
    pattern = torch.stack([quarter, 2 - quarter]).repeat(DIM // 2, 1, 1)
    return outputs.features.float()[:, :, None, None] * pattern


def _network(detector: Detector, outputs: Outputs) -> _Toy:
    assert outputs.head is not None
    with torch.random.fork_rng(devices=[]):  # layers draw weights before they get these
        return _Toy(outputs.head, detector.toy).to(outputs.head.weight.device).eval()


def _fit(detector: Detector, train: Outputs) -> Detector:
    if detector.needs_fit_batches:
        images = _images(train)
        batches = zip(images.split(64), train.labels.split(64), strict=True)
        return detector.fit_batches(_network(detector, train), batches)
    return detector.fit(train)


def _score(detector: Detector, outputs: Outputs) -> Tensor:
    if "model" not in detector.needs:
        return detector.score(outputs)
    return detector.score_batch(_network(detector, outputs), _images(outputs)).detach()


def _close(one: Tensor, other: Tensor, what: str, tolerance: float = 1e-5) -> None:
    a, b = to_numpy(one).astype(np.float64), to_numpy(other).astype(np.float64)
    scale = max(1.0, float(np.abs(b).max(initial=0)))
    worst = float(np.abs(a - b).max(initial=0))
    assert worst <= tolerance * scale, f"{what}: scores differ by {worst:.3g}"


def check_scores_are_floats(detector: Detector) -> None:
    """Scores are ``[N]``, floating and finite."""
    toy = _problem(detector)
    scores = _score(_fit(detector, toy.train), toy.test)
    assert scores.shape == (len(toy.test),), f"{detector.label}: shape {tuple(scores.shape)}"
    assert scores.is_floating_point(), f"{detector.label}: {scores.dtype}"
    assert scores.isfinite().all(), f"{detector.label}: scores that are not finite"


def check_higher_is_ood(detector: Detector) -> None:
    """Blobs far away score higher: AUROC above 0.9."""
    toy = _problem(detector)
    _fit(detector, toy.train)
    auroc = metrics.auroc(_score(detector, toy.test), _score(detector, toy.ood))
    assert auroc > 0.9, f"{detector.label}: AUROC {auroc:.3f} on the toy problem; is it inverted?"


def check_permutation(detector: Detector) -> None:
    """A permuted input gives permuted scores."""
    toy = _problem(detector)
    _fit(detector, toy.train)
    order = torch.randperm(len(toy.test), generator=torch.Generator().manual_seed(1))
    test = toy.test
    _close(_score(detector, test[order]), _score(detector, test)[order], detector.label)


def check_batch_size(detector: Detector) -> None:
    """Scoring in batches gives what scoring all at once gives."""
    toy = _problem(detector)
    _fit(detector, toy.train)
    pieces = torch.cat([_score(detector, batch) for batch in toy.test.batches(7)])
    _close(pieces, _score(detector, toy.test), detector.label)


def check_deterministic(detector: Detector) -> None:
    """The same scores each time, and fitting twice equals fitting once."""
    toy = _problem(detector)
    first = _score(_fit(detector, toy.train), toy.test)
    assert torch.equal(first, _score(detector, toy.test)), f"{detector.label}: another score"
    assert torch.equal(first, _score(_fit(detector, toy.train), toy.test)), (
        f"{detector.label}: fitting again changes scores"
    )


def check_fit_returns_self(detector: Detector) -> None:
    """``fit`` returns the detector."""
    assert _fit(detector, _problem(detector).train) is detector, (
        f"{detector.label}: fit must return self"
    )


def check_inputs_untouched(detector: Detector) -> None:
    """Neither ``fit`` nor ``score`` changes what it is given, by whatever view of the memory."""
    toy, reference = _problem(detector), _problem(detector)
    try:
        _fit(detector, toy.train)
        for outputs in (toy.test, toy.ood):
            _score(detector, outputs)
    except ChangedInputsError as error:
        raise AssertionError(str(error)) from error
    for mine, fresh in (
        (toy.train, reference.train),
        (toy.test, reference.test),
        (toy.ood, reference.ood),
    ):
        given, expected = dict(mine.arrays()), dict(fresh.arrays())
        assert given.keys() == expected.keys(), f"{detector.label} added or removed a column"
        for name, value in expected.items():
            assert torch.equal(given[name], value), f"{detector.label} changed {name}"
    if "model" in detector.needs:
        images, same = _images(reference.test), _images(reference.test)
        detector.score_batch(_network(detector, reference.test), images)
        assert torch.equal(images, same), f"{detector.label} changed the images"


def check_process_untouched(detector: Detector) -> None:
    """It leaves random numbers, torch's modes, the environment and the like as they were."""
    toy = _problem(detector)
    before = ProcessState(surroundings=True).values
    _score(_fit(detector, toy.train), toy.test)
    now = ProcessState(surroundings=True).values
    left = [name for name, value in now.items() if value != before[name]]
    assert not left, f"{detector.label} changed {', '.join(left)}"


def check_state_is_its_own(detector: Detector) -> None:
    """What it learned does not change when the training arrays change afterwards."""
    toy = _problem(detector)
    before = _score(_fit(detector, toy.train), toy.test)
    toy.train.features.zero_()
    toy.train.logits.zero_()
    after = _score(detector, toy.test)
    assert torch.equal(before, after), f"{detector.label} keeps a view of the caller's arrays"


def check_numpy(detector: Detector) -> None:
    """NumPy arrays give what tensors give."""
    toy = _problem(detector)
    expected = _score(_fit(detector, toy.train), toy.test)

    def as_numpy(outputs: Outputs) -> Outputs:
        features, logits, labels = (
            to_numpy(value) for value in (outputs.features, outputs.logits, outputs.labels)
        )
        extra: Any = {name: to_numpy(value) for name, value in outputs.extra.items()}
        return Outputs(features, logits, labels, outputs.head, extra)  # type: ignore[arg-type]

    _close(
        _score(_fit(detector, as_numpy(toy.train)), as_numpy(toy.test)), expected, detector.label
    )


def check_low_precision(detector: Detector) -> None:
    """Half-precision and bfloat16 outputs are scored, and tell the toy problem apart as well."""
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        toy = _problem(detector, dtype)
        fresh = _fit(copy.deepcopy(detector), toy.train)
        auroc = metrics.auroc(_score(fresh, toy.test), _score(fresh, toy.ood))
        assert auroc > 0.9, f"{detector.label}: AUROC {auroc:.3f} on {dtype} outputs"


def check_level(detector: Detector) -> None:
    """Of log-probabilities its score is no rounding noise, or it says ``reads_level``."""
    if detector.reads_level or not {"logits"} <= detector.needs <= {"features", "logits"}:
        return
    toy, bare = _problem(detector), _problem(detector)
    for outputs in (bare.train, bare.test):
        outputs.logits = outputs.logits.double().log_softmax(dim=1).to(outputs.logits)
    expected = _score(_fit(copy.deepcopy(detector), toy.train), toy.test)
    scores = _score(_fit(detector, bare.train), bare.test)
    assert _range(scores) >= 1e-5 * _range(expected), (
        f"{detector.label}: its scores of log-probabilities are rounding noise. They live on the "
        "log-sum-exp of the logits: say so in `reads_level`, and such networks are refused"
    )


def _range(scores: Tensor) -> float:
    return float(scores.max() - scores.min())


def check_copies(detector: Detector) -> None:
    """Copied and pickled detectors score as the original does."""
    toy = _problem(detector)
    expected = _score(_fit(detector, toy.train), toy.test)
    for copied in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):  # noqa: S301
        assert torch.equal(_score(copied, toy.test), expected), f"{detector.label}: a copy differs"


def check_fit_comes_first(detector: Detector) -> None:
    """``score`` before ``fit`` is a NotFittedError that names the detector."""
    if not (detector.needs_fit or detector.needs_fit_batches):
        return
    try:
        _score(detector, _problem(detector).test)
    except NotFittedError as error:
        assert detector.label in str(error), f"the error does not name {detector.label}: {error}"
    else:
        raise AssertionError(f"{detector.label}: score() came before fit(), and nothing was said")


def _parts(outputs: Outputs) -> set[str]:
    """What can be removed from outputs: their columns, by name, and the head."""
    return {name for name, _ in outputs.columns()} | ({"head"} if outputs.head else set())


def _without(outputs: Outputs, parts: Set[str]) -> Outputs:
    bare = outputs[:]
    bare.extra = {name: value for name, value in bare.extra.items() if name not in parts}
    for name in parts & {"features", "logits", "labels", "head"}:
        setattr(bare, name, None)
    return bare


def _behind(need: str, outputs: Outputs) -> set[str]:
    """The parts of outputs that a need stands on."""
    if need.endswith("/*"):
        return {name for name in outputs.extra if name.startswith(need.removesuffix("*"))}
    parts = _parts(outputs)
    return {need} & parts or {part for part in parts if not _without(outputs, {part}).has(need)}


def check_missing_needs(detector: Detector) -> None:
    """Outputs without what it needs are a MissingOutputError that names detector and need."""
    toy = _problem(detector)
    _fit(detector, toy.train)
    for need in detector.needs - {"model"}:
        try:
            detector.score(_without(toy.test, _behind(need, toy.test)))
        except MissingOutputError as error:
            for word in (detector.label, need):
                assert word in str(error), f"the error does not name {word}: {error}"
        else:
            raise AssertionError(f"{detector.label} says it needs {need}, but scores without")


def check_needs_are_honest(detector: Detector) -> None:
    """Scoring works with everything that is not in ``needs`` removed, labels too."""
    toy = _problem(detector)
    expected = _score(_fit(detector, toy.train), toy.test)
    if "model" in detector.needs:
        return
    read = set[str]().union(*(_behind(need, toy.test) for need in detector.needs))
    bare = _without(toy.test, _parts(toy.test) - read)
    _close(detector.score(bare), expected, detector.label)


def check_options(detector: Detector) -> None:
    """Default-constructible; options go into rows as JSON; an unknown one is refused by name."""
    build(type(detector), detector.label, {})
    options = detector.options()
    assert json.loads(json.dumps(options)) == options, f"{detector.label}: options are not JSON"
    assert not set(options) & {"name", "needs", "method", "paper"}, f"{detector.label}: {options}"
    try:
        build(type(detector), detector.label, {"no_such_option": 1})
    except OptionError as error:
        assert "no_such_option" in str(error), f"the error does not name the option: {error}"
    else:
        raise AssertionError(f"{detector.label} takes an option that does not exist")


def check_documented(detector: Detector) -> None:
    """The docstring says which way the score points."""
    assert "higher = more ood" in (type(detector).__doc__ or "").lower(), (
        f"{detector.label}: its docstring must say 'Higher = more OOD', and the range"
    )


def check_one_sample(detector: Detector) -> None:
    """A single sample is scored as it is among others."""
    toy = _problem(detector)
    everything = _score(_fit(detector, toy.train), toy.test)
    _close(_score(detector, toy.test[:1]), everything[:1], detector.label)


def check_accelerator(detector: Detector) -> None:
    """Scores on an accelerator equal those on the CPU (where there is one)."""
    if not torch.cuda.is_available():
        return
    toy = _problem(detector)
    expected = _score(_fit(copy.deepcopy(detector), toy.train), toy.test)
    found = _score(_fit(detector, toy.train.to("cuda")), toy.test.to("cuda"))
    _close(found, expected, detector.label, tolerance=1e-4)


def detector_checks() -> list[Check]:
    """All checks, in the order of this file."""
    return [
        value
        for name, value in globals().items()
        if name.startswith("check_") and getattr(value, "__module__", "") == __name__
    ]

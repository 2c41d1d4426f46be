"""The checks that every detector passes: each takes a fresh, unfitted detector."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import tempfile
from collections.abc import Callable, Set
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oodbench import metrics
from oodbench.deploy.folder import read_state, write_state
from oodbench.deploy.state import detector_of, state_of
from oodbench.detector import Detector
from oodbench.errors import ChangedInputsError, MissingOutputError, NotFittedError, OptionError
from oodbench.options import build
from oodbench.outputs import Outputs, to_numpy
from oodbench.registry import DETECTORS
from oodbench.runtime.process import ProcessState
from oodbench.streaming import put, streamed
from oodbench.testing.accelerator import stand_in
from oodbench.testing.problems import fit, images_of, network_of, problem, score
from oodbench.testing.suite import checks_in

Check = Callable[[Detector], None]


def _close(one: Tensor, other: Tensor, what: str, tolerance: float = 1e-5) -> None:
    a, b = to_numpy(one).astype(np.float64), to_numpy(other).astype(np.float64)
    scale = max(1.0, float(np.abs(b).max(initial=0)))
    worst = float(np.abs(a - b).max(initial=0))
    assert worst <= tolerance * scale, f"{what}: scores differ by {worst:.3g}"


def check_scores_are_floats(detector: Detector) -> None:
    """Scores are ``[N]``, floating and finite."""
    toy = problem(detector)
    scores = score(fit(detector, toy.train), toy.test)
    assert scores.shape == (len(toy.test),), f"{detector.label}: shape {tuple(scores.shape)}"
    assert scores.is_floating_point(), f"{detector.label}: {scores.dtype}"
    assert scores.isfinite().all(), f"{detector.label}: scores that are not finite"


def check_higher_is_ood(detector: Detector) -> None:
    """Blobs far away score higher: AUROC above 0.9."""
    toy = problem(detector)
    fit(detector, toy.train)
    auroc = metrics.auroc(score(detector, toy.test), score(detector, toy.ood))
    assert auroc > 0.9, f"{detector.label}: AUROC {auroc:.3f} on the toy problem; is it inverted?"


def check_permutation(detector: Detector) -> None:
    """A permuted input gives permuted scores."""
    toy = problem(detector)
    fit(detector, toy.train)
    order = torch.randperm(len(toy.test), generator=torch.Generator().manual_seed(1))
    test = toy.test
    _close(score(detector, test[order]), score(detector, test)[order], detector.label)


def check_batch_size(detector: Detector) -> None:
    """Scoring in batches gives what scoring all at once gives."""
    toy = problem(detector)
    fit(detector, toy.train)
    pieces = torch.cat([score(detector, batch) for batch in toy.test.batches(7)])
    _close(pieces, score(detector, toy.test), detector.label)


def check_deterministic(detector: Detector) -> None:
    """The same scores each time, and fitting twice equals fitting once."""
    toy = problem(detector)
    first = score(fit(detector, toy.train), toy.test)
    assert torch.equal(first, score(detector, toy.test)), f"{detector.label}: another score"
    assert torch.equal(first, score(fit(detector, toy.train), toy.test)), (
        f"{detector.label}: fitting again changes scores"
    )


def check_fit_returns_self(detector: Detector) -> None:
    """``fit`` returns the detector."""
    assert fit(detector, problem(detector).train) is detector, (
        f"{detector.label}: fit must return self"
    )


def check_inputs_untouched(detector: Detector) -> None:
    """Neither ``fit`` nor ``score`` changes what it is given, by whatever view of the memory."""
    toy, reference = problem(detector), problem(detector)
    try:
        fit(detector, toy.train)
        for outputs in (toy.test, toy.ood):
            score(detector, outputs)
    except ChangedInputsError as error:
        raise AssertionError(str(error)) from error
    for used, fresh in (
        (toy.train, reference.train),
        (toy.test, reference.test),
        (toy.ood, reference.ood),
    ):
        arrays, expected = dict(used.arrays()), dict(fresh.arrays())
        assert arrays.keys() == expected.keys(), f"{detector.label} added or removed a column"
        for name, value in expected.items():
            assert torch.equal(arrays[name], value), f"{detector.label} changed {name}"
    if "model" in detector.needs:
        images, same = images_of(reference.test), images_of(reference.test)
        detector.score_batch(network_of(detector, reference.test), images)
        assert torch.equal(images, same), f"{detector.label} changed the images"


def check_process_untouched(detector: Detector) -> None:
    """It leaves random numbers, torch's modes, the environment and the like as they were."""
    toy = problem(detector)
    before = ProcessState(surroundings=True).values
    score(fit(detector, toy.train), toy.test)
    now = ProcessState(surroundings=True).values
    left = [name for name, value in now.items() if value != before[name]]
    assert not left, f"{detector.label} changed {', '.join(left)}"


def check_state_is_its_own(detector: Detector) -> None:
    """What it learned does not change when the training arrays change afterwards."""
    toy = problem(detector)
    before = score(fit(detector, toy.train), toy.test)
    toy.train.features.zero_()
    toy.train.logits.zero_()
    after = score(detector, toy.test)
    assert torch.equal(before, after), f"{detector.label} keeps a view of the caller's arrays"


def check_numpy(detector: Detector) -> None:
    """NumPy arrays give what tensors give."""
    toy = problem(detector)
    expected = score(fit(detector, toy.train), toy.test)

    def as_numpy(outputs: Outputs) -> Outputs:
        columns = {name: to_numpy(value) for name, value in outputs.columns()}
        return Outputs.of_columns(columns, outputs.head)

    _close(score(fit(detector, as_numpy(toy.train)), as_numpy(toy.test)), expected, detector.label)


def check_low_precision(detector: Detector) -> None:
    """Half-precision and bfloat16 outputs are scored, and tell the toy problem apart as well."""
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        toy = problem(detector, dtype)
        fresh = fit(copy.deepcopy(detector), toy.train)
        auroc = metrics.auroc(score(fresh, toy.test), score(fresh, toy.ood))
        assert auroc > 0.9, f"{detector.label}: AUROC {auroc:.3f} on {dtype} outputs"


def check_level(detector: Detector) -> None:
    """Of log-probabilities its score is no rounding noise, or it says ``reads_level``."""
    if detector.reads_level or not {"logits"} <= detector.needs <= {"features", "logits"}:
        return
    toy, bare = problem(detector), problem(detector)
    for outputs in (bare.train, bare.test):
        outputs.logits = outputs.logits.double().log_softmax(dim=1).to(outputs.logits)
    expected = score(fit(copy.deepcopy(detector), toy.train), toy.test)
    scores = score(fit(detector, bare.train), bare.test)
    assert _range(scores) >= 1e-5 * _range(expected), (
        f"{detector.label}: its scores of log-probabilities are rounding noise. They live on the "
        "log-sum-exp of the logits: say so in `reads_level`, and such networks are refused"
    )


def _range(scores: Tensor) -> float:
    return float(scores.max() - scores.min())


def check_copies(detector: Detector) -> None:
    """Copied and pickled detectors score as the original does."""
    toy = problem(detector)
    expected = score(fit(detector, toy.train), toy.test)
    for copied in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):  # noqa: S301
        assert torch.equal(score(copied, toy.test), expected), f"{detector.label}: a copy differs"


def check_saved(detector: Detector) -> None:
    """Saved without pickle and loaded again it scores as before, bit for bit.

    That is asked of registered classes alone: another could not be found when it is loaded.
    """
    cls = type(detector)
    if cls.name not in DETECTORS or DETECTORS.get(cls.name) is not cls:
        return
    toy = problem(detector)
    fit(detector, toy.train)
    expected = [score(detector, outputs) for outputs in (toy.test, toy.ood)]
    with tempfile.TemporaryDirectory() as folder:
        write_state(Path(folder) / "fitted", state_of(detector))
        loaded = detector_of(read_state(Path(folder) / "fitted"))
    assert loaded is not detector
    assert loaded.options() == detector.options(), f"{detector.label}: a loaded one's options"
    for outputs, before in zip((toy.test, toy.ood), expected, strict=True):
        assert torch.equal(score(loaded, outputs), before), (
            f"{detector.label}: scores differ after it was saved and loaded"
        )


def check_fit_comes_first(detector: Detector) -> None:
    """``score`` before ``fit`` is a NotFittedError that names the detector."""
    if not (detector.needs_fit or detector.needs_fit_batches):
        return
    try:
        score(detector, problem(detector).test)
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
    toy = problem(detector)
    fit(detector, toy.train)
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
    toy = problem(detector)
    expected = score(fit(detector, toy.train), toy.test)
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
    toy = problem(detector)
    everything = score(fit(detector, toy.train), toy.test)
    _close(score(detector, toy.test[:1]), everything[:1], detector.label)


def check_accelerator(detector: Detector) -> None:
    """Scores at an accelerator equal those on the CPU, of whole outputs and of streamed ones.

    The accelerator is CUDA or Apple's MPS; on a machine without either, a stand-in on which
    tensors in the wrong place are refused as CUDA refuses them.
    """
    toy = problem(detector)
    expected = score(fit(copy.deepcopy(detector), toy.train), toy.test)
    ways = [Outputs.to] if "model" in detector.needs else [Outputs.to, streamed]
    for way in ways:
        fresh = copy.deepcopy(detector)
        with _accelerator() as device:
            scores = score(fit(fresh, way(toy.train, device)), way(toy.test, device)).cpu()
            put(fresh, "cpu")
        _close(scores, expected, f"{detector.label} at {device}", tolerance=1e-4)
        back = score(fresh, toy.test)
        _close(back, expected, f"{detector.label}, back from {device}", tolerance=1e-4)


def _accelerator() -> contextlib.AbstractContextManager[torch.device]:
    if torch.cuda.is_available():
        return contextlib.nullcontext(torch.device("cuda"))
    if torch.backends.mps.is_available():
        return contextlib.nullcontext(torch.device("mps"))
    return stand_in()


def detector_checks() -> list[Check]:
    """All checks, in the order of this file."""
    return checks_in(globals())

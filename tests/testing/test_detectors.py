"""Each check of detectors can fail: a broken detector for each."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from oodbench import Detector, Outputs
from oodbench.errors import OODBenchError
from oodbench.registry import DETECTORS
from oodbench.testing import detector_checks


@dataclass
class Broken(Detector):
    """Says what a subclass says."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})


class Inverted(Broken):
    """Lower = more OOD, wrongly. Higher = more OOD."""

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features[:, :4].sum(dim=1)


class Whole(Broken):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.sum(dim=1).long()


class Mutating(Broken):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.mul_(2).sum(dim=1)


class Random(Broken):
    def score(self, outputs: Outputs) -> Tensor:
        return torch.rand(len(outputs))


class BatchDependent(Broken):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.sum(dim=1) - outputs.features.sum()


class Liar(Broken):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.sum(dim=1)


class Keeper(Broken):
    def fit(self, train: Outputs) -> Keeper:
        self.kept = train.features
        return self

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.sum(dim=1) + self.kept.sum()


class Silent(Broken):
    def fit(self, train: Outputs) -> Any:
        self.kept = train.features.sum()


class Level(Broken):
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, outputs: Outputs) -> Tensor:
        return -outputs.logits.logsumexp(dim=1)


class Drawing(Broken):
    def score(self, outputs: Outputs) -> Tensor:
        random.random()
        return outputs.features.sum(dim=1)


class Counting(Broken):
    """Depends on how often it was asked."""

    calls = 0

    def score(self, outputs: Outputs) -> Tensor:
        self.calls += 1
        return outputs.features.sum(dim=1) + 1000 * self.calls


class Overflowing(Broken):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.pow(16).sum(dim=1)


class Forgetful(Broken):
    scale = 1.0

    def score(self, outputs: Outputs) -> Tensor:
        return self.scale * outputs.features.sum(dim=1)

    def __deepcopy__(self, memo: Any) -> Forgetful:
        copied = Forgetful()
        copied.scale = 2.0
        return copied


class Unsaved(Broken):
    """Says of itself that it learned nothing."""

    name = "unsaved"
    offset = 0.0

    def fit(self, train: Outputs) -> Unsaved:
        self.offset = 1.0
        return self

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.sum(dim=1) + self.offset

    def fitted_state(self) -> dict[str, Any]:
        return {"_is_fitted": True}


class _Unchecked:
    """Methods of a class that is no detector: the base class does not check what they are given."""

    def fit(self, train: Outputs) -> Any:
        return self

    def score(self, outputs: Outputs) -> Tensor:
        some = next(value for _, value in outputs.columns())
        return some.reshape(len(some), -1).double().sum(dim=1)


class Lenient(_Unchecked, Broken):
    """Scores whatever is there, fitted or not."""


@dataclass
class Options(Broken):
    """Has an option that JSON cannot hold."""

    ids: frozenset[int] = frozenset({1})


class OnCPU(Broken):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.sum(dim=1) * (1 if outputs.features.device.type == "cpu" else 2)


BROKEN: dict[str, type[Detector]] = {
    "check_scores_are_floats": Whole,
    "check_higher_is_ood": Inverted,
    "check_permutation": Random,
    "check_batch_size": BatchDependent,
    "check_deterministic": Random,
    "check_fit_returns_self": Silent,
    "check_inputs_untouched": Mutating,
    "check_process_untouched": Drawing,
    "check_state_is_its_own": Keeper,
    "check_numpy": Counting,
    "check_low_precision": Overflowing,
    "check_level": Level,
    "check_copies": Forgetful,
    "check_saved": Unsaved,
    "check_fit_comes_first": Lenient,
    "check_missing_needs": Lenient,
    "check_needs_are_honest": Liar,
    "check_options": Options,
    "check_documented": Liar,
    "check_one_sample": BatchDependent,
    "check_accelerator": OnCPU,
}
CHECKS = {check.__name__: check for check in detector_checks()}


def test_there_is_a_broken_one_for_each_check() -> None:
    assert set(BROKEN) == set(CHECKS)


@pytest.mark.parametrize("name", BROKEN)
def test_checks_can_fail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS._objects, "unsaved", Unsaved)
    if name == "check_accelerator" and not torch.cuda.is_available():
        pytest.skip("there is no accelerator")
    with pytest.raises((AssertionError, AttributeError, TypeError, OODBenchError)):
        CHECKS[name](BROKEN[name]())

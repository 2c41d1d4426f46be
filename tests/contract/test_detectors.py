"""Registered means tested: the public check suite over every detector of this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import oodbench
from oodbench import Detector, Outputs
from oodbench.testing import Check, detector_checks

# a detector may fail a check only with a reason, and only as long as it does:
# {"name": {"check": "reason"}}
_RANK_ONE = (
    "the toy problem's feature maps are of rank two at most: what RankFeat removes is most of what "
    "tells a class, so the energy of the rest tells little (the paper is about deep maps)"
)
KNOWN_FAILURES: dict[str, dict[str, str]] = {
    "rankfeat": {"check_higher_is_ood": _RANK_ONE, "check_low_precision": _RANK_ONE},
}


@pytest.mark.parametrize("check", detector_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", oodbench.list_detectors())
def test_contract(name: str, check: Check, request: pytest.FixtureRequest) -> None:
    reason = KNOWN_FAILURES.get(name, {}).get(check.__name__)
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    check(oodbench.create_detector(name))


@dataclass
class _Broken(Detector):
    """Says what a subclass says."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})


class _Inverted(_Broken):
    """Lower = more OOD, wrongly. Higher = more OOD."""

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features[:, :4].sum(dim=1)


class _Mutating(_Broken):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.mul_(2).sum(dim=1)


class _Random(_Broken):
    def score(self, outputs: Outputs) -> Tensor:
        return torch.rand(len(outputs))


class _BatchDependent(_Broken):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.sum(dim=1) - outputs.features.sum()


class _Liar(_Broken):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.sum(dim=1)


class _Keeper(_Broken):
    def fit(self, train: Outputs) -> _Keeper:
        self.kept = train.features
        return self

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.sum(dim=1) + self.kept.sum()


class _Level(_Broken):
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, outputs: Outputs) -> Tensor:
        return -outputs.logits.logsumexp(dim=1)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (_Inverted, "check_higher_is_ood"),
        (_Mutating, "check_inputs_untouched"),
        (_Random, "check_deterministic"),
        (_Random, "check_permutation"),
        (_BatchDependent, "check_batch_size"),
        (_BatchDependent, "check_one_sample"),
        (_Liar, "check_needs_are_honest"),
        (_Liar, "check_documented"),
        (_Keeper, "check_state_is_its_own"),
        (_Level, "check_level"),
    ],
)
def test_checks_can_fail(broken: type[Detector], check: str) -> None:
    checks = {c.__name__: c for c in detector_checks()}
    with pytest.raises((AssertionError, AttributeError)):
        checks[check](broken())


def test_every_builtin_has_a_paper() -> None:
    for name in oodbench.list_detectors():
        detector = oodbench.create_detector(name)
        assert detector.name == name
        assert detector.paper is not None, name
        assert detector.paper.url.startswith("https://"), name
        assert detector.paper.formula, name
        assert detector.method in oodbench.list_methods(), name

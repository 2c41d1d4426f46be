"""MaxLogit: minus the largest logit, whatever the others are."""

from __future__ import annotations

import torch

import oodbench
from oodbench import Outputs
from tests.helpers.problems import problem
from tests.helpers.scores import same, scores


def test_maxlogit_is_minus_the_largest() -> None:
    p = problem()
    same(scores("maxlogit", p), -p.test.logits.numpy().max(axis=1))


def test_maxlogit_by_hand() -> None:
    outputs = Outputs(logits=torch.tensor([[1.0, -5.0, 3.0], [-2.0, -4.0, -9.0]]))
    assert oodbench.create_detector("maxlogit").score(outputs).tolist() == [-3, 2]

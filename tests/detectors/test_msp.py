"""MSP: minus the logarithm of the largest probability."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import log_softmax

import oodbench
from oodbench import Outputs
from tests.helpers.problems import problem
from tests.helpers.scores import same, scores


def test_msp_is_scipys() -> None:
    p = problem()
    same(scores("msp", p), -log_softmax(p.test.logits.numpy(), axis=1).max(axis=1))


def test_msp_from_no_doubt_to_none_at_all() -> None:
    sure, torn = torch.tensor([100.0, 0.0, 0.0, 0.0]), torch.full((4,), -3.0)
    found = oodbench.create_detector("msp").score(Outputs(logits=torch.stack([sure, torn])))
    assert found.tolist() == pytest.approx([0, math.log(4)], abs=1e-6)

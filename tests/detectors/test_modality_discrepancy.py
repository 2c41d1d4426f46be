"""Modality discrepancy: distances between what modalities say, by hand."""

from __future__ import annotations

import pytest
import torch

import oodbench
from oodbench import Outputs
from oodbench.errors import MissingOutputError


def test_discrepancy_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.5, 0.5], [0.1, 0.9]])
    outputs = Outputs(extra={"logits/a": p.log(), "logits/b": q.log() + 3})
    hellinger = 2 * (0.9**0.5 - 0.1**0.5) ** 2
    expected = {"hellinger": (hellinger / 2) ** 0.5, "l1": 1.6, "l2": 0.8}
    for kind, value in expected.items():
        scores = oodbench.create_detector("modality-discrepancy", distance=kind).score(outputs)
        assert scores.tolist() == pytest.approx([0.0, value], abs=1e-7)
    three = Outputs(extra={**outputs.extra, "logits/c": p.log()})
    found = oodbench.create_detector("modality-discrepancy").score(three)
    assert found.tolist() == pytest.approx([0.0, expected["hellinger"] * 2 / 3], abs=1e-7)
    with pytest.raises(MissingOutputError, match="modality-discrepancy needs"):
        oodbench.create_detector("modality-discrepancy").score(Outputs(extra={"logits/a": p.log()}))

"""Outputs that stay where they are, and are calculated with at a device."""

from __future__ import annotations

import pytest
import torch

import oodbench
from oodbench.errors import ChangedInputsError, OptionError
from oodbench.hardware import MANY_VALUES, Hardware
from oodbench.outputs import Outputs
from oodbench.streaming import Streamed, streamed
from oodbench.testing.accelerator import stand_in
from oodbench.testing.problems import problem


def outputs() -> Outputs:
    generator = torch.Generator().manual_seed(0)
    return Outputs(torch.randn(50, 4, generator=generator), labels=torch.arange(50) % 2)


def test_a_piece_stays_where_it_is_until_something_is_calculated_with_it() -> None:
    plain = outputs()
    with stand_in() as device:
        column = streamed(plain, device).features
        piece = column[10:20]
        assert isinstance(piece, Streamed)
        assert piece._source.data_ptr() == plain.features[10:].data_ptr()
        assert piece.device == device
        total = piece.sum(dim=0)
        assert total.device == device
        assert torch.equal(total.cpu(), plain.features[10:20].sum(dim=0))
        rows = torch.tensor([3, 1], device=device)
        assert torch.equal(column[rows].cpu(), plain.features[[3, 1]])
        assert column.new_zeros(2).device == device


def test_it_cannot_be_changed_in_place() -> None:
    with stand_in() as device, pytest.raises(ChangedInputsError, match="in place"):
        streamed(outputs(), device).features[:5].mul_(2)


def test_the_stand_in_refuses_what_an_accelerator_refuses() -> None:
    plain = outputs()
    with stand_in() as device:
        there = plain.features.to(device)
        with pytest.raises(RuntimeError, match="same device"):
            there + plain.features
        with pytest.raises(RuntimeError, match="same device"):
            there.index_add_(0, plain.labels, there)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


def test_where_detectors_score() -> None:
    here = Hardware(accelerator="cpu")
    assert here.scoring_device_for(100 * MANY_VALUES) == torch.device("cpu")
    with pytest.raises(OptionError, match="no device of this machine"):
        Hardware(scoring_device="nowhere").scoring_device_for(1)


@pytest.mark.parametrize("name", ["knn", "mahalanobis", "msp"])
def test_scores_at_a_device_are_the_same(name: str) -> None:
    detector = oodbench.create_detector(name)
    toy = problem(detector)
    expected = detector.fit(toy.train).score(toy.ood)
    with stand_in() as device:
        found = detector.fit(streamed(toy.train, device)).score(streamed(toy.ood, device))
        assert found.device == device
        assert torch.allclose(found.cpu(), expected)

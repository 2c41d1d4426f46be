"""How linearly separable two sets of features are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oodbench.detectors.separability as separability_module
from oodbench import Outputs
from oodbench.detectors.separability import Separability, separability
from oodbench.errors import DataError
from oodbench.registry import MEASURES


def test_separability_of_what_is_apart_and_what_is_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    here = torch.randn(200, 10, generator=generator)
    there = torch.randn(150, 10, generator=generator)
    assert separability(here, there + torch.eye(10)[0] * 8) > 0.999
    assert abs(separability(here, there) - 0.5) < 0.12


def test_separability_is_not_fooled_by_more_dimensions_than_samples() -> None:
    """A classifier that is tested on what it was fitted on would tell any two sets apart."""
    generator = torch.Generator().manual_seed(0)
    here, there = torch.randn(2, 60, 300, generator=generator)
    assert separability(here, there) < 0.7


def test_separability_is_linear() -> None:
    """A ball within a shell: told apart by the distance, by no hyperplane."""
    generator = torch.Generator().manual_seed(0)
    here = torch.nn.functional.normalize(torch.randn(400, 8, generator=generator))
    assert separability(here, 5 * here.flip(0)) < 0.6


def test_separability_looks_at_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separability_module, "SAMPLES", 50)
    generator = torch.Generator().manual_seed(0)
    here, there = torch.randn(2, 2000, 6, generator=generator)
    evenly = torch.linspace(0, 1999, 50).long()
    assert separability(here, there) == separability(here[evenly], there[evenly])


def test_separability_wants_two_samples_a_side() -> None:
    with pytest.raises(DataError, match="two samples"):
        separability(torch.randn(1, 3), torch.randn(5, 3))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50), scale=st.floats(0.01, 100))
def test_separability_does_not_depend_on_unit_or_origin(
    seed: int, shift: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    here = torch.from_numpy(rng.normal(size=(40, 5))).float()
    there = torch.from_numpy(rng.normal(0.7, 1, size=(30, 5))).float()
    moved = separability(scale * here + shift * scale, scale * there + shift * scale)
    assert abs(moved - separability(here, there)) < 0.02


def test_the_measure_is_that_of_features_or_none() -> None:
    generator = torch.Generator().manual_seed(0)
    here = Outputs(torch.randn(40, 5, generator=generator))
    there = Outputs(torch.randn(30, 5, generator=generator) + 1)
    assert MEASURES.get("separability") is Separability
    assert Separability().of(here, there) == separability(here.features, there.features)
    assert Separability().of(here, there[:1]) is None
    assert Separability().of(here[:1], there) is None

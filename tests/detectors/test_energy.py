"""Energy: SciPy's log-sum-exp at any temperature."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import logsumexp

import oodbench
from oodbench import Outputs
from oodbench.errors import OptionError
from tests.helpers.problems import problem
from tests.helpers.scores import same, scores


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0, 1000.0])
def test_energy_is_scipys(temperature: float) -> None:
    p = problem()
    expected = -temperature * logsumexp(p.test.logits.numpy() / temperature, axis=1)
    same(scores("energy", p, temperature=temperature), expected)
    if temperature == 1:
        same(scores("energy", p), expected)


def test_energy_by_hand() -> None:
    outputs = Outputs(logits=torch.tensor([[2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]]))
    found = oodbench.create_detector("energy").score(outputs)
    assert found.tolist() == pytest.approx([-2 - math.log(4), -math.log(4)])


def test_only_at_temperature_one_does_the_level_of_the_logits_matter() -> None:
    """Log-probabilities as logits have no level, and the energy at one is zero."""
    assert oodbench.create_detector("energy").reads_level
    assert not oodbench.create_detector("energy", temperature=2).reads_level


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(OptionError, match="energy: temperature must be positive"):
        oodbench.create_detector("energy", temperature=temperature)

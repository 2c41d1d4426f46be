"""Several detectors: the mean of their standard scores."""

from __future__ import annotations

import numpy as np
import pytest

import oodbench
from oodbench.detectors import ensemble
from tests.helpers.problems import problem
from tests.helpers.scores import same, scores


@pytest.mark.parametrize("samples", [5000, 100])
def test_ensemble_is_the_mean_of_standard_scores(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "SAMPLES", samples)
    p = problem()
    step = 3 if samples == 100 else 1  # of 300
    names = ("msp", "mahalanobis", "she")
    expected = np.zeros(len(p.test))
    for name in names:
        detector = oodbench.create_detector(name).fit(p.train)
        own = detector.score(p.train).numpy()[::step]
        expected += (detector.score(p.test).numpy() - own.mean()) / own.std() / 3
    same(scores("ensemble", p, members=names), expected)

"""SSD, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores, unit


@pytest.mark.parametrize("clusters", ["one", "classes"])
def test_ssd_sample_by_sample(clusters: str) -> None:
    p = problem(n=400, dim=10)
    z, y = unit(arrays(p.train)[0]), arrays(p.train)[2]
    groups = [z] if clusters == "one" else [z[y == c] for c in range(5)]
    models = [(g.mean(axis=0), np.linalg.pinv(np.cov(g, rowvar=False, bias=True))) for g in groups]
    expected = [
        min((x - mean) @ inverse @ (x - mean) for mean, inverse in models)
        for x in unit(arrays(p.test)[0])
    ]
    same(scores("ssd", p, clusters=clusters), expected, rtol=1e-7)

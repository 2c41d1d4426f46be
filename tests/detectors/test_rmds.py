"""The relative Mahalanobis distance, sample by sample."""

from __future__ import annotations

import numpy as np

from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores


def test_rmds_sample_by_sample() -> None:
    p = problem(n=403)
    z, _, y = arrays(p.train)
    means = [z[y == c].mean(axis=0) for c in range(5)]
    within = np.concatenate([z[y == c] - means[c] for c in range(5)])
    inverse = np.linalg.pinv(within.T @ within / len(z))
    whole = np.linalg.pinv(np.cov(z, rowvar=False, bias=True))
    expected = []
    for x in arrays(p.test)[0]:
        to_all = (x - z.mean(axis=0)) @ whole @ (x - z.mean(axis=0))
        expected.append(min((x - m) @ inverse @ (x - m) for m in means) - to_all)
    same(scores("rmds", p), expected)

"""A mixture of Gaussians is SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_gmm_is_scipys_mixture(covariance: str) -> None:
    p = problem(n=403, dim=10)  # not as many of each class
    z, _, y = arrays(p.train)
    reg = 1e-3
    within = np.concatenate([z[y == c] - z[y == c].mean(axis=0) for c in range(5)])
    terms = []
    for c in range(5):
        own = z[y == c]
        sigma = np.cov(own if covariance == "full" else within, rowvar=False, bias=True)
        density = multivariate_normal(own.mean(axis=0), sigma + reg * np.eye(10))
        terms.append(np.log(len(own) / len(z)) + density.logpdf(arrays(p.test)[0]))
    same(scores("gmm", p, covariance=covariance, reg=reg), -logsumexp(terms, axis=0))

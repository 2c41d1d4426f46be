"""ViM and its residual are NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

import oodbench
from oodbench.errors import OptionError
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import head_of, same, scores


@pytest.mark.parametrize("dim", [None, 5])
def test_residual_and_vim_are_numpys(dim: int | None) -> None:
    p = problem()
    weight, bias = head_of(p)
    u = -np.linalg.pinv(weight) @ bias
    train, test = arrays(p.train)[0] - u, arrays(p.test)[0] - u
    _, vectors = np.linalg.eigh(train.T @ train)
    R = vectors[:, ::-1][:, dim or 12 :]  # half of 24
    residual = np.linalg.norm(test @ R, axis=1)
    same(scores("residual", p, dim=dim), residual)
    alpha = p.train.logits.numpy().max(axis=1).sum() / np.linalg.norm(train @ R, axis=1).sum()
    energy = logsumexp(p.test.logits.numpy(), axis=1)
    same(scores("vim", p, dim=dim), alpha * residual - energy)


@pytest.mark.parametrize(("width", "dim"), [(3000, 1000), (2048, 1000), (768, 512), (512, 256)])
def test_vims_rule_for_dimensions(width: int, dim: int) -> None:
    from oodbench.detectors.vim import default_dim

    assert default_dim(width) == dim


def test_options_that_only_the_data_can_refuse() -> None:
    p = problem()
    for name in ("vim", "residual"):
        for dim in (0, 24):
            with pytest.raises(OptionError, match=rf"{name}: dim={dim} must be in \[1, 23\]"):
                oodbench.create_detector(name, dim=dim).fit(p.train)
    with pytest.raises(OptionError, match="weighted-energy: 2 weights for 5 classes"):
        oodbench.create_detector("weighted-energy", weights=(1.0, 2.0)).fit(p.train)

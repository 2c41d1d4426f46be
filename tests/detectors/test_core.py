"""CORE's confidence and membership, sample by sample and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

import oodbench
from oodbench import Outputs
from oodbench.errors import OODBenchWarning
from oodbench.outputs import Head
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import head_of, same, scores


@pytest.mark.parametrize("aligned", ["all", "predicted"])
@pytest.mark.parametrize("against", ["nearest", "predicted"])
def test_sample_by_sample(against: str, aligned: str) -> None:
    p = problem()
    weight, bias = head_of(p)
    outside = np.eye(24) - np.linalg.pinv(weight) @ weight
    f, z, y = arrays(p.train)

    def residual(f: np.ndarray) -> np.ndarray:
        row = weight[(weight @ f + bias).argmax()]
        r = outside @ f if aligned == "all" else f - (row @ f) / (row @ row) * row
        return r / np.linalg.norm(r)

    means = [np.mean([residual(row) for row in f[y == c]], axis=0) for c in range(5)]
    directions = [m / np.linalg.norm(m) for m in means]

    def both(f: np.ndarray, z: np.ndarray) -> tuple[float, float]:
        cosines = [residual(f) @ v for v in directions]
        member = max(cosines) if against == "nearest" else cosines[z.argmax()]
        return logsumexp(z), member

    known = np.array([both(*row) for row in zip(f, z, strict=True)])
    expected = []
    for row in zip(*arrays(p.test)[:2], strict=True):
        expected.append(-((np.array(both(*row)) - known.mean(axis=0)) / known.std(axis=0)).sum())
    same(scores("core", p, against=against, aligned=aligned), expected, rtol=1e-8)


def test_by_hand() -> None:
    """The head reads the first unit alone; residuals of the classes are (1, 0) and (0, 1)."""
    head = Head(np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))  # type: ignore[arg-type]
    f = torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [-1.0, 0.0, 3.0]], dtype=torch.float64)
    core = oodbench.create_detector("core").fit(Outputs(f, head(f), torch.tensor([0, 0, 1]), head))
    # all have membership 1, which does not vary, so it counts as it is
    e = np.array([logsumexp([a, -a]) for a in (1.0, 2.0, 1.0)])
    x = torch.tensor([[2.0, 3.0, -4.0]], dtype=torch.float64)
    expected = -(e[1] - e.mean()) / e.std() - (3 / 5 - 1)
    found = core.score(Outputs(x, head(x), torch.tensor([0]), head))
    np.testing.assert_allclose(found, [expected], rtol=1e-8)


def test_no_residual_is_said() -> None:
    p = problem(dim=5)
    with pytest.warns(OODBenchWarning, match="core: the head's rows span all 5 features"):
        core = oodbench.create_detector("core").fit(p.train)
    energy = oodbench.create_detector("energy").score(p.test).numpy()
    order = np.argsort(core.score(p.test).numpy())
    np.testing.assert_array_equal(order, np.argsort(energy))


def test_a_row_alone_leaves_a_residual_where_all_rows_leave_none() -> None:
    """By hand: the rows span the plane, and what the row (1, 0) leaves of (3, 1) is (0, 1)."""
    head = Head(np.eye(2))  # type: ignore[arg-type]
    f = torch.tensor([[3.0, 1.0], [2.0, 1.0], [1.0, 2.0], [-1.0, 4.0]], dtype=torch.float64)
    train = Outputs(f, head(f), torch.tensor([0, 0, 1, 1]), head)
    core = oodbench.create_detector("core", aligned="predicted").fit(train)
    # of class 0: (0, 1) twice; of class 1: (1, 0) and (-1, 0), whose mean has no direction
    e = np.array([logsumexp(row) for row in f.numpy()])
    members = np.array([1.0, 1.0, 0.0, 0.0])
    x = torch.tensor([[5.0, -2.0]], dtype=torch.float64)  # its residual is (0, -1)
    energy, member = logsumexp([5.0, -2.0]), max(-1.0, 0.0)
    expected = -(energy - e.mean()) / e.std() - (member - members.mean()) / members.std()
    np.testing.assert_allclose(
        core.score(Outputs(x, head(x), torch.tensor([0]), head)), [expected], rtol=1e-8
    )

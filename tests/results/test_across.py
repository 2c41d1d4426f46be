"""Detectors over many sets and networks, by their ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scikit_posthocs
from PIL import Image
from scipy import stats

from oodbench.errors import OptionError
from oodbench.results.across import across, diagram, sentences

NAMES = ("a", "b", "c")


def figures(blocks: int = 12, gap: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (
        rng.uniform(0.6, 0.8, (blocks, 1))
        + gap * np.arange(3)[::-1]
        + rng.normal(0, 0.01, (blocks, 3))
    )


def names(n: int) -> list[str]:
    return [f"block {i}" for i in range(n)]


def test_ranks_by_hand() -> None:
    values = np.array([[0.9, 0.8, 0.7], [0.9, 0.8, 0.8], [0.7, 0.9, 0.8], [0.9, 0.7, 0.8]])
    found = across(NAMES, names(4), values)
    np.testing.assert_allclose(found.ranks, [(1 + 1 + 3 + 1) / 4, 8.5 / 4, 9.5 / 4])
    turned = across(NAMES, names(4), values, low_is_good=True)
    np.testing.assert_allclose(turned.ranks, 4 - found.ranks)


def test_what_the_tests_say_is_what_libraries_say() -> None:
    values = figures()
    found = across(NAMES, names(12), values)
    assert found.p == pytest.approx(stats.friedmanchisquare(*values.T).pvalue)
    p = [stats.wilcoxon(values[:, i], values[:, j]).pvalue for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.pairs["a", "b"] == pytest.approx(min(1, 3 * p[0]), rel=0.5)
    assert max(found.pairs.values()) < 0.05
    nemenyi = across(NAMES, names(12), values, posthoc="nemenyi")
    matrix = scikit_posthocs.posthoc_nemenyi_friedman(values).to_numpy()
    assert nemenyi.pairs["a", "c"] == pytest.approx(matrix[0, 2])


def test_noise_has_no_ranks() -> None:
    found = across(NAMES, names(12), figures(gap=0.0))
    assert found.p > 0.05
    assert "finds no difference" in sentences(found)[1]


def test_few_blocks_are_said_to_be_few() -> None:
    lines = sentences(across(("a", "b"), names(3), figures(3)[:, :2]))
    assert "not told apart" in lines[1]
    assert lines[2].startswith("Of 3 blocks this test can find no difference")
    with pytest.raises(OptionError, match="two of each are the least"):
        across(NAMES, names(1), figures(1))


def test_equal_figures() -> None:
    found = across(NAMES, names(4), np.ones((4, 3)))
    assert (found.p, set(found.pairs.values())) == (1.0, {1.0})


def test_the_diagram(tmp_path: Path) -> None:
    path = diagram(across(NAMES, names(12), figures()), tmp_path / "cd.png")
    with Image.open(path) as image:
        assert image.size[0] > 300
        assert len(np.unique(np.asarray(image))) > 10

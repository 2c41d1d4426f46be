"""Scores on disk: every order and every tie is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from oodbench import metrics
from oodbench.errors import OODBenchError
from oodbench.results import scores

FLOATS = arrays.arrays(
    np.float64, st.integers(1, 12), elements=st.floats(allow_nan=False, allow_infinity=False)
)


def kept(values: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    (folder / "x.safetensors").write_bytes(scores.encode(values))
    return scores.read(folder / "x.safetensors")


@given(id_scores=FLOATS, ood_scores=FLOATS)
def test_every_figure_is_that_of_the_scores(
    id_scores: np.ndarray, ood_scores: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    read = kept({"id": id_scores, "ood/x": ood_scores}, tmp_path_factory.mktemp("scores"))
    given_figures = metrics.all_metrics(id_scores, ood_scores)
    assert metrics.all_metrics(read["id"], read["ood/x"]) == given_figures


def test_float32_where_it_is_enough(tmp_path: Path) -> None:
    near = np.array([1.0, 1.0 + 1e-12])
    assert kept({"id": np.arange(4.0), "ood/x": np.arange(3.0)}, tmp_path)["id"].dtype == np.float32
    assert kept({"id": near, "ood/x": np.arange(3.0)}, tmp_path)["ood/x"].dtype == np.float64
    apart = {"id": near[:1], "ood/x": near[1:]}  # a tie between sets would change every figure
    assert kept(apart, tmp_path)["id"].dtype == np.float64
    assert kept({"id": np.array([0, 1e300])}, tmp_path)["id"].dtype == np.float64


def test_what_was_right_takes_a_byte(tmp_path: Path) -> None:
    read = kept({"id": np.arange(3.0), "correct/id": np.array([True, False, True])}, tmp_path)
    assert read["correct/id"].dtype == np.uint8
    assert read["correct/id"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("content", [None, b"", b"not scores", b"\x08\0\0\0\0\0\0\0{}"])
def test_what_holds_no_scores_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(OODBenchError, match="holds no scores"):
        scores.read(tmp_path / "x")


def test_names_of_what_is_kept() -> None:
    """Files of everybody have them."""
    assert scores.of_ood("digits-6-9") == "ood/digits-6-9"
    assert scores.of_ood("caf\udce9") == "ood/caf\\udce9", "no Unicode: a file of Latin-1"
    assert scores.correct("id") == "correct/id"
    assert scores.correct(scores.of_ood("x")) == "correct/ood/x"

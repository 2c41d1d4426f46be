"""Scores to measure, and the same measures by others."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

Array = np.ndarray[Any, np.dtype[np.float64]]

TIED = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=60)

FEW = st.lists(st.sampled_from([0.0, -0.0, 1.0]), min_size=1, max_size=5)

ANY = st.lists(
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300),
    min_size=1,
    max_size=40,
)

SCORES = st.one_of(TIED, FEW, ANY).map(np.array)

PAIRS = st.one_of(st.tuples(TIED.map(np.array), TIED.map(np.array)), st.tuples(SCORES, SCORES))

quick = settings(max_examples=60, deadline=None)


def normal_scores(n: int, m: int, shift: float = 1.0, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.0, 1.0, n), rng.normal(shift, 1.0, m)

"""Figures of several seeds: an interval over seeds and images, by hand and in simulation."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest

from oodbench import metrics
from oodbench.results.seeds import Figure, Lines, interval

T2, T1 = 4.302652729911275, 12.706204736432095  # Student's 97.5 % quantiles of 2 and 1
Z = 1.959963984540054


def angle(p: float) -> float:
    return math.asin(math.sqrt(p))


def test_by_hand() -> None:
    values = [0.766, 0.902, 0.947]
    own = [(0.75, 0.78), (0.89, 0.912), (0.94, 0.954)]
    low, high = interval(values, own)
    # arcsin sqrt of the values: 1.06588, 1.25239, 1.33850; their variance 0.019420, a third of it
    # 18.5128 times: 0.119841; mean squared distances of the ends 0.000322 and 0.000279
    assert low == pytest.approx(0.572122, abs=1e-6)
    assert high == pytest.approx(0.999608, abs=1e-6)
    assert low < statistics.fmean(values) < high


def test_differences_by_hand() -> None:
    low, high = interval([0.10, 0.12, 0.14], [(0.05, 0.2), (0.02, 0.2), (0.1, 0.2)], share=False)
    seeds = T2**2 * 0.0004 / 3
    assert low == pytest.approx(0.12 - math.sqrt(seeds + (0.0025 + 0.01 + 0.0016) / 3))
    assert high == pytest.approx(0.12 + math.sqrt(seeds + (0.01 + 0.0064 + 0.0036) / 3))
    assert interval([-0.9, 0.9], [(-1, 0), (0, 1)], share=False) == (-1.0, 1.0)


def test_one_seed_keeps_its_own() -> None:
    assert interval([0.9], [(0.85, 0.93)]) == (0.85, 0.93)


def test_equal_seeds_have_the_interval_over_images() -> None:
    """They share their images: three that agree know no more of other images than one."""
    low, high = interval([0.9] * 3, [(0.85, 0.93)] * 3)
    assert (low, high) == pytest.approx((0.85, 0.93))


def test_images_that_say_nothing_leave_students_interval() -> None:
    values = [0.70, 0.73, 0.79]
    low, high = interval(values, [(value, value) for value in values])
    scaled = [angle(value) for value in values]
    half = T2 * statistics.stdev(scaled) / math.sqrt(3)
    centre = angle(statistics.fmean(values))
    assert low == pytest.approx(math.sin(centre - half) ** 2)
    assert high == pytest.approx(math.sin(centre + half) ** 2)
    low, high = interval([0.5, 0.52], [(0.5, 0.5), (0.52, 0.52)])
    half = T1 * (angle(0.52) - angle(0.5)) / 2
    assert low == pytest.approx(math.sin(angle(0.51) - half) ** 2)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [1.0, 0.99999, 1.0], [0.0, 0.0], [0.0, 1.0]])
def test_ends_stay_where_figures_can_be(values: list[float]) -> None:
    own = [(max(0.0, v - 0.014), min(1.0, v + 0.014)) for v in values]
    low, high = interval(values, own)
    assert 0 <= low <= statistics.fmean(values) <= high <= 1


def test_near_one_it_does_not_jump() -> None:
    """The ends are continuous: a hundred-thousandth less in one seed is no other interval."""
    perfect = interval([1.0] * 3, [(0.986, 1.0)] * 3)
    almost = interval([1.0, 1.0, 0.99999], [(0.986, 1.0)] * 3)
    assert perfect == pytest.approx((0.986, 1.0))
    assert almost == pytest.approx(perfect, abs=2e-3)


def test_more_of_either_is_wider() -> None:
    def width(spread: float, around: float) -> float:
        values = [0.8 - spread, 0.8, 0.8 + spread]
        low, high = interval(values, [(v - around, v + around) for v in values])
        return high - low

    assert width(0.01, 0.02) < width(0.02, 0.02) < width(0.02, 0.04)


def test_an_interval_each() -> None:
    for values, own in (([], []), ([0.5, 0.6], [(0.4, 0.6)])):
        with pytest.raises(ValueError, match="as many intervals"):
            interval(values, own)


def row(seed: int, **fields: Any) -> dict[str, Any]:
    return {"seed": seed, **fields}


def test_figures_of_rows() -> None:
    one = row(0, auroc=0.7, auroc_low=0.65, auroc_high=0.75, fpr95_id=0.5, gap=-0.1)
    two = row(1, auroc=0.8, auroc_low=0.75, auroc_high=0.85, fpr95_id=0.3)
    found = Figure.of([one, two], "auroc")
    assert found is not None
    assert found.ends == interval([0.7, 0.8], [(0.65, 0.75), (0.75, 0.85)])
    assert found.of_images == pytest.approx(0.1)
    assert str(found) == f"75.00 [{100 * found.ends[0]:.2f}, {100 * found.ends[1]:.2f}]"
    assert str(Figure.of([one], "auroc")) == "70.00 [65.00, 75.00]"
    assert str(Figure.of([one, two], "fpr95_id")) == "40.00 ± 14.14"
    assert str(Figure.of([one], "fpr95_id")) == "50.00"
    assert str(Figure.of([one, two], "gap")) == "-10.00"
    assert Figure.of([one, two], "aupr_in") is None
    half = row(1, auroc=0.8, auroc_low=None, auroc_high=None)
    assert str(Figure.of([one, half], "auroc")) == "75.00 ± 7.07"  # not of one seed's images


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.0), (3, 0.2), (5, 0.1)])
def test_coverage(seeds: int, spread: float) -> None:
    """Seeds with one set of images, nominal 95 %: what is said to be wide is not narrow."""
    rng = np.random.default_rng(seeds)
    n, repeats, kept = 150, 300, 0
    shifts = 1.5 + spread * rng.standard_normal(20_000)
    truth = float(np.mean([statistics.NormalDist().cdf(s / math.sqrt(2)) for s in shifts]))
    for _ in range(repeats):
        images = rng.standard_normal((2, n))
        values, own = [], []
        for _ in range(seeds):
            known, new = math.sqrt(0.8) * images + math.sqrt(0.2) * rng.standard_normal((2, n))
            new = new + 1.5 + spread * rng.standard_normal()
            values.append(metrics.auroc(known, new))
            own.append(metrics.auroc_ci(known, new))
        low, high = interval(values, own)
        kept += low <= truth <= high
    assert kept / repeats >= 0.93


def test_many_lines_at_once_have_the_figures_of_each() -> None:
    generator = np.random.default_rng(0)
    lines: list[list[Any]] = [[], [{"seed": 0, "auroc": None}]]
    for n in (1, 2, 3, 5, 1, 2):
        values = generator.uniform(size=n)
        ends = values + generator.uniform(0, 0.05, n), values - generator.uniform(0, 0.05, n)
        lines.append(
            [
                {"seed": seed, "auroc": v, "auroc_low": max(low, 0), "auroc_high": min(high, 1)}
                for seed, (v, high, low) in enumerate(zip(values, *ends, strict=True))
            ]
        )
    lines.append([{**row, "auroc_low": None, "auroc_high": None} for row in lines[3]])
    lines.append([lines[4][0], {**lines[4][1], "auroc_low": None}])
    lines.append(
        [
            {"seed": seed, "auroc": v, "auroc_low": v, "auroc_high": v}
            for seed, v in ((0, 1.0), (1, 1.0))
        ]
    )
    found = Lines.of(lines, ["auroc"]).figures("auroc")
    for place, rows in enumerate(lines):
        one = Figure.of(rows, "auroc")
        got = [x[place] for x in (found.mean, found.low, found.high, found.deviation)]
        if one is None:
            assert np.isnan(got).all()
            continue
        low, high = one.ends or (None, None)
        expected = [np.nan if v is None else v for v in (one.mean, low, high, one.deviation)]
        assert got == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert got[0] == one.mean


def test_many_differences_at_once() -> None:
    rows: list[Any] = [
        {"seed": seed, "gap": v, "gap_low": v - 0.1, "gap_high": min(v + 0.2, 1.0)}
        for seed, v in enumerate((-0.5, 0.9, 0.2))
    ]
    one, many = Figure.of(rows, "gap"), Lines.of([rows], ["auroc", "gap"]).figures("gap")
    assert one is not None
    assert (many.low[0], many.high[0]) == pytest.approx(one.ends)


def test_the_width_of_a_figure() -> None:
    assert Figure((0.9,), (0.85, 0.93)).width == pytest.approx(0.08)
    assert Figure((0.9,), None).width == 0.0

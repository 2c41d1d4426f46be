"""Groups of OOD sets of any name, the contrast of two, and measures of anybody's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench import Benchmark, Detector, Measure, Outputs, Protocol, get_benchmark
from oodbench.errors import MissingOutputError, OptionError
from oodbench.hardware import Hardware
from oodbench.metrics import auroc_gap
from oodbench.outputs import Head
from oodbench.registry import MEASURES, NEEDS, register_measure, register_need
from oodbench.results import compare
from oodbench.results.leaderboard import render
from oodbench.results.rows import row_id
from oodbench.results.store import ResultStore
from oodbench.testing import detector_checks

DIGITS = get_benchmark("digits")
CPU = Hardware(accelerator="cpu", progress=False)
CONTRAST = Protocol(contrast=("easy", "hard"), contrast_remark="They differ in colour as well.")


def grouped(**changes: Any) -> Benchmark:
    """The benchmark of digits with groups of its own names."""
    options: dict[str, Any] = {"easy": DIGITS.far, "hard": DIGITS.near, "protocol": CONTRAST}
    return Benchmark(
        name="digits/grouped", id=DIGITS.id, preprocess=DIGITS.preprocess, **{**options, **changes}
    )


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6)).eval()


def names(benchmark: Benchmark) -> list[tuple[str, str]]:
    return [(one.group, one.spec.name) for one in benchmark.ood]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[oodbench.Results, Path]:
    folder = tmp_path_factory.mktemp("boards")
    detectors = ["msp", "energy"]
    results = oodbench.evaluate(
        network(),
        benchmark=grouped(),
        detectors=detectors,
        hardware=CPU,
        leaderboards=folder,
        preprocess="benchmark",
    )
    return results, folder


def test_groups_are_the_same_however_they_are_given() -> None:
    near, far = DIGITS.near, DIGITS.far
    short, mapped = grouped(), grouped(easy=(), hard=(), groups={"easy": far, "hard": near})
    assert names(short) == [("easy", far[0].name), ("hard", near[0].name)]
    assert replace(mapped, easy=far, hard=near).ood == short.ood
    by_mapping = Benchmark(
        "x", DIGITS.id, preprocess=DIGITS.preprocess, groups={"hard": near, "easy": far}
    )
    assert [group for group, _ in names(by_mapping)] == ["hard", "easy"], "in the order given"
    assert by_mapping.group_names == ("near", "far", "hard", "easy", "shifted")
    assert by_mapping.protocol.rank_group == "hard", "the first that has sets"
    assert replace(DIGITS, near=()).near == ()
    assert replace(DIGITS, groups={}).ood == ()


def test_sets_are_chosen_by_group() -> None:
    chosen = grouped().choose(["hard=mnist", "svhn", DIGITS.near[0].name])
    assert [one.group for one in chosen] == ["hard", "far", "hard"]
    with pytest.raises(OptionError, match="'near', 'far', 'easy', 'hard', 'shifted', not 'hrad'"):
        grouped().choose(["hrad=mnist"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"protcol": Protocol()}, "'protcol' is no option of a benchmark, and no group"),
        ({"hard": "mnist"}, "'hard' is no option"),
        ({"groups": {"a,b": ()}}, "cannot be called 'a,b'"),
        ({"groups": {"shifted": ()}}, "given as `shifted="),
        ({"protocol": Protocol(contrast=("easy", "herd"))}, "names the group 'herd'.*'easy'"),
        ({"protocol": Protocol(rank_group="middle")}, "names the group 'middle'"),
        ({"protocol": Protocol(group_of_others="middle")}, "names the group 'middle'"),
        ({"preprocess": None}, "preprocess=Preprocess"),
    ],
)
def test_what_is_no_group_is_told(changes: dict[str, Any], told: str) -> None:
    options = {"preprocess": DIGITS.preprocess, "easy": (), "hard": (), **changes}
    with pytest.raises(OptionError, match=told):
        Benchmark("digits/wrong", DIGITS.id, **options)


def test_means_and_their_contrast_are_rows(evaluated: tuple[oodbench.Results, Path]) -> None:
    results, _ = evaluated
    rows = {(row["detector"], row["ood"]): row for row in results}
    for detector in ("msp", "energy"):
        easy, hard = rows[detector, "easy"], rows[detector, "hard"]
        assert easy["is_mean"]
        assert hard["is_mean"]
        assert hard["gap"] == pytest.approx(easy["auroc"] - hard["auroc"], abs=1e-12)
        assert hard["gap_low"] < hard["gap"] < hard["gap_high"]
        assert easy["gap"] is None
    assert [row["group"] for row in results if row["detector"] == "msp"] == ["easy", "hard"] * 2


def test_the_contrast_has_the_interval_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    ids, easier, harder = rng.normal(size=300), rng.normal(2, 1, 200), rng.normal(1, 1, 200)
    gap, low, high = auroc_gap(ids, [easier], [harder])
    assert low < gap < high
    assert auroc_gap(ids, [harder], [easier])[0] == pytest.approx(-gap)


def test_store_page_and_comparison_have_them(evaluated: tuple[oodbench.Results, Path]) -> None:
    results, folder = evaluated
    stored = ResultStore(folder).rows("digits/grouped")
    assert {row["row_id"] for row in stored} == {row["row_id"] for row in results}
    assert len(stored) == len(results.rows)
    page = render(grouped(), stored)
    assert "## easy, hard" in page
    assert "Ranked by the easy-OOD mean" in page
    assert "Gap: AUROC of the easy sets' mean minus that of the hard sets' mean" in page
    assert "They differ in colour as well. Its interval lies above zero in" in page
    assert "hard FPR@95 (OOD positive) | Gap | ID accuracy" in page
    header, cells = compare.table(results, grouped())
    assert header[2:] == [
        *("easy AUROC", "easy FPR@95 ID+", "hard AUROC", "hard FPR@95 ID+"),
        *("gap", "ID accuracy"),
    ]
    assert len(cells) == 2


def test_a_benchmark_without_a_contrast_has_no_gap() -> None:
    results = oodbench.evaluate(
        network(),
        benchmark=grouped(protocol=Protocol()),
        detectors="msp",
        hardware=CPU,
        preprocess="benchmark",
    )
    assert {row["gap"] for row in results} == {None}
    assert "Gap" not in render(grouped(protocol=Protocol()), list(results))


# Measures


@pytest.fixture
def measure() -> Iterator[str]:
    @register_measure("certainty")
    class Certainty(Measure):
        """The share of a set's largest probability."""

        title: ClassVar[str] = "Certainty of predictions"
        about: ClassVar[str] = "The mean of the largest probability."
        needs: ClassVar[frozenset[str]] = frozenset({"logits"})

        def of(self, test: Outputs, ood: Outputs) -> float | None:
            return float(ood.logits.softmax(dim=1).amax(dim=1).mean()) if len(ood) > 1 else None

    yield "certainty"
    MEASURES.unregister("certainty")


def test_a_measure_is_a_column_a_section_and_an_axis(measure: str, tmp_path: Path) -> None:
    benchmark = grouped(measures=(measure,))
    results = oodbench.evaluate(
        network(),
        benchmark=benchmark,
        detectors="msp",
        hardware=CPU,
        leaderboards=tmp_path,
        preprocess="benchmark",
    )
    rows = {row["ood"]: row for row in results}
    assert all(0 < row["certainty"] < 1 for row in results)
    assert rows["hard"]["certainty"] == rows[DIGITS.near[0].name]["certainty"]
    assert "certainty" in results.to_pandas().columns
    changed = {**results.rows[0], "certainty": 0.5}
    assert row_id(changed) != results.rows[0]["row_id"]
    assert row_id({**changed, "certainty": None}) == row_id(
        {name: value for name, value in changed.items() if name != "certainty"}
    )
    page = render(benchmark, ResultStore(tmp_path).rows(benchmark.name))
    assert "### Certainty of predictions\n\nThe mean of the largest probability." in page
    assert "hard certainty" in compare.table(results, benchmark)[0]
    assert compare.scatter(results, benchmark, tmp_path / "plot.png").is_file()
    bare = oodbench.evaluate(
        network(), benchmark=grouped(), detectors="msp", hardware=CPU, preprocess="benchmark"
    )
    assert "certainty" not in bare.rows[0]


def test_a_measure_that_nothing_is_there_for_is_none(measure: str) -> None:
    outputs = Outputs(features=torch.rand(5, 3))
    assert oodbench.measures.of_sets((measure,), outputs, [outputs]) == [{measure: None}]


# Needs and toy problems


@dataclass
class Tilted(Detector):
    """Minus the largest product of features and a head of cosines. Higher = more OOD; unbounded."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "tilt", "normalised-head"})

    @staticmethod
    def toy(columns: dict[str, Tensor], head: Head) -> tuple[dict[str, Tensor], Head]:
        tilt = columns["features"].float().mean(dim=1).to(columns["features"].dtype)
        return {**columns, "tilt": tilt}, Head(head.weight, norm_eps=1e-3)

    def score(self, outputs: Outputs) -> Tensor:
        assert outputs.head is not None
        return -outputs.head(outputs.features.double()).amax(dim=1) + 0 * outputs.extra["tilt"]


@pytest.fixture
def need() -> Iterator[None]:
    @register_need("normalised-head")
    def normalised(outputs: Outputs) -> bool:
        return outputs.head is not None and outputs.head.norm_eps is not None

    yield
    NEEDS.unregister("normalised-head")


@pytest.mark.usefixtures("need")
def test_the_check_suite_makes_what_a_detector_of_anybodys_needs() -> None:
    for check in detector_checks():
        check(Tilted())


@pytest.mark.usefixtures("need")
def test_a_registered_need_is_looked_for_and_listed() -> None:
    weight = torch.rand(2, 3)
    linear, cosines = Outputs(torch.rand(4, 3), head=Head(weight)), Outputs(torch.rand(4, 3))
    cosines.head = Head(weight, norm_eps=1e-4)
    assert (linear.has("head"), linear.has("normalised-head")) == (True, False)
    assert (cosines.has("head"), cosines.has("normalised-head")) == (False, True)
    with pytest.raises(MissingOutputError, match=r"tilted needs head, but .*normalised-head"):
        cosines.require({"head"}, "tilted")
    with pytest.raises(MissingOutputError, match="tilted needs normalised-head"):
        linear.require({"normalised-head"}, "tilted")

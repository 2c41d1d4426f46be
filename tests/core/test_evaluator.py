"""The evaluator: which sets it looks at, what it refuses, and what it says of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import oodbench
from oodbench import Contender, DatasetSpec, Detector, Evaluator, Outputs, metrics, streaming
from oodbench.data.samples import ImageArrays, Samples
from oodbench.errors import (
    DataError,
    MissingDataError,
    MissingOutputError,
    OODBenchError,
    OptionError,
)
from oodbench.registry import BENCHMARKS, DETECTORS
from oodbench.results import leaderboard
from oodbench.results.rows import METRICS
from oodbench.tasks import runner
from oodbench.testing.accelerator import stand_in
from tests.helpers.networks import flat6
from tests.helpers.pages import tables
from tests.helpers.rows import (
    CPU,
    FAR_A,
    FAR_B,
    ID,
    NEAR_A,
    PREPROCESS,
    TOY,
    absent,
    by_ood,
    evaluate,
    images,
    model,
    scores_of,
    spec,
)


def test_figures_are_those_of_the_scores() -> None:
    """A row is what the metrics say of the detector's scores, nothing in between."""
    rows = by_ood(evaluate(detectors="energy"))
    test = ID.load("test")
    for chosen in TOY.ood:
        row = rows[chosen.spec.name]
        expected = metrics.all_metrics(scores_of(ID), scores_of(chosen.spec))
        for name in METRICS:
            assert row[name] == pytest.approx(expected[name], abs=1e-4), (row["ood"], name)
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
        assert (row["n_id"], row["n_ood"]) == (60, len(chosen.spec.load("test")))
        assert row["group"] == chosen.group
        assert row["is_mean"] is False

    x = torch.stack([PREPROCESS(test[i]) for i in range(60)])
    with torch.no_grad():
        right = model()(x).argmax(dim=1).numpy() == test.labels
    assert all(row["id_accuracy"] == pytest.approx(right.mean()) for row in rows.values())


def test_a_row_says_at_which_device_it_was_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for an accelerator; the figures, and so the rows' ids, are the CPU's."""

    def there(*given: Any) -> Any:
        with stand_in():
            return streaming.at_device(*given)

    monkeypatch.setattr(runner, "at_device", there)
    at_device = evaluate(
        detectors="mahalanobis", hardware=dataclasses.replace(CPU, scoring_device="meta")
    )
    plain = evaluate(detectors="mahalanobis", hardware=CPU)
    assert {row["scored_on"] for row in at_device.rows} == {"meta"}
    assert {row["scored_on"] for row in plain.rows} == {None}
    assert [row["auroc"] for row in at_device.rows] == [row["auroc"] for row in plain.rows]


# What is missing, and what was chosen


def test_missing_sets_are_named_and_left_out_of_the_averages() -> None:
    lines: list[str] = []
    some = dataclasses.replace(TOY, near=(NEAR_A, absent("tin")), far=(FAR_A, FAR_B))
    results = evaluate(some, report=lines.append)
    rows = by_ood(results)
    assert set(rows) == {"near-a", "near(near-a)", "far-a", "far-b", "far"}
    assert rows["near(near-a)"]["auroc"] == rows["near-a"]["auroc"]
    assert set(results.missing) == {"tin"}
    assert "/data/tin" in results.missing["tin"]
    assert any("tin" in line and "missing" in line for line in lines)


def test_chosen_sets_name_the_average_that_they_are() -> None:
    rows = by_ood(evaluate(ood=["near-b", "far-c", "far-a"]))
    assert set(rows) == {"near-b", "far-a", "far-c", "near(near-b)", "far(far-c, far-a)"}
    mean = (rows["far-a"]["auroc"] + rows["far-c"]["auroc"]) / 2
    assert rows["far(far-c, far-a)"]["auroc"] == pytest.approx(mean)
    assert rows["near(near-b)"]["group"] == "near"


def test_whole_groups_keep_their_names_however_they_are_chosen() -> None:
    rows = by_ood(evaluate(ood=["near-b", "near-a"]))
    assert set(rows) == {"near-a", "near-b", "near"}


def test_a_group_without_sets_has_no_average() -> None:
    some = dataclasses.replace(TOY, near=(absent("tin"),))
    rows = by_ood(evaluate(some))
    assert set(rows) == {"far-a", "far-b", "far-c", "far"}


def test_no_ood_set_at_all() -> None:
    nothing = dataclasses.replace(TOY, near=(absent("tin"),), far=(absent("svhn"),))
    with pytest.raises(MissingDataError, match=r"/data/tin.*/data/svhn"):
        evaluate(nothing)
    with pytest.raises(OptionError, match="`ood="):
        evaluate(dataclasses.replace(TOY, near=(), far=()))


def test_a_set_cannot_bear_the_name_of_an_average() -> None:
    with pytest.raises(OptionError, match="'near'"):
        evaluate(dataclasses.replace(TOY, near=(spec("near", 9, 150, 3),)))


def test_missing_id_set_is_an_error() -> None:
    with pytest.raises(MissingDataError, match="/data/toy"):
        evaluate(dataclasses.replace(TOY, id=absent("toy")))


def test_missing_training_images_matter_only_where_something_is_fitted() -> None:
    def load(split: str) -> Samples:
        if split == "train":
            raise MissingDataError("toy/train: not found in /data/toy/train.")
        return ID.load(split)

    some = dataclasses.replace(TOY, id=DatasetSpec("toy", load, ("train", "test")))
    assert len(evaluate(some)) == 7
    assert evaluate(some).rows[0]["id_train_fingerprint"] is None
    with pytest.raises(MissingDataError, match="/data/toy/train"):
        evaluate(some, detectors="knn")


def test_one_class_is_an_error() -> None:
    def load(split: str) -> Samples:
        return images(f"toy/{split}", 9, 100, 0, classes=1)

    with pytest.raises(DataError, match="one class"):
        evaluate(dataclasses.replace(TOY, id=DatasetSpec("toy", load, ("train", "test"))))


def test_splits_of_different_classes_are_an_error() -> None:
    def load(split: str) -> Samples:
        return images(f"toy/{split}", 9, 100, 0, classes=3 if split == "train" else 2)

    with pytest.raises(DataError, match=r"toy/train and toy/test.*'c'"):
        evaluate(
            dataclasses.replace(TOY, id=DatasetSpec("toy", load, ("train", "test"))),
            detectors="knn",
        )


def test_ood_images_that_are_id_test_images_are_warned_about() -> None:
    def load(split: str) -> Samples:
        both = np.concatenate([ID.load("test").images[:3], FAR_A.load("test").images])  # type: ignore[attr-defined]
        return ImageArrays("mixed/test", both, np.zeros(33, int), ("x",))

    lines: list[str] = []
    mixed = dataclasses.replace(TOY, far=(DatasetSpec("mixed", load),))
    results = evaluate(mixed, report=lines.append)
    assert len(results.warnings) == 1
    for word in ("3 of the 33", "mixed", "toy/test"):
        assert word in results.warnings[0]
    assert any(results.warnings[0] in line for line in lines)
    assert evaluate().warnings == []


def test_detector_that_needs_what_the_network_lacks_names_it() -> None:
    @dataclass
    class Thermometer(Detector):
        needs: ClassVar[frozenset[str]] = frozenset({"temperature"})

        def score(self, outputs: Outputs) -> Tensor:
            return outputs.extra["temperature"]

    with pytest.raises(MissingOutputError, match=r"Thermometer.*temperature"):
        evaluate(detectors=Thermometer())


def test_without_detectors() -> None:
    with pytest.raises(OptionError, match="at least one detector"):
        evaluate(detectors=[])


def test_an_evaluation_that_fails_stores_nothing(tmp_path: Path) -> None:
    network = model()
    with torch.no_grad():
        network[3].weight.fill_(torch.nan)  # type: ignore[index]
    with pytest.raises(OODBenchError, match="toy/test"):
        evaluate(model=network, leaderboards=tmp_path / "boards")
    assert not (tmp_path / "boards").exists()


# In a few lines of Python


@pytest.fixture
def forgotten() -> Iterator[None]:
    yield
    DETECTORS.unregister("largest-feature")
    BENCHMARKS.unregister("toy")


@pytest.mark.usefixtures("forgotten")
def test_a_detector_in_ten_lines(tmp_path: Path) -> None:
    @oodbench.register_detector("largest-feature")
    @dataclass
    class LargestFeature(Detector):
        """Minus the largest feature. Higher = more OOD."""

        needs = frozenset({"features"})
        power: float = 1.0

        def score(self, outputs: Outputs) -> Tensor:
            return -(outputs.features.max(dim=1).values ** self.power)

    oodbench.register_benchmark("toy")(TOY)

    assert "largest-feature" in oodbench.list_detectors()
    assert "toy" in oodbench.list_benchmarks()
    results = oodbench.evaluate(
        model(),
        id="toy",
        detectors=["largest-feature", "msp"],
        leaderboards=tmp_path,
        hardware=CPU,
        preprocess="benchmark",
    )
    table = results.to_pandas()
    assert set(table.detector) == {"largest-feature", "msp"}
    assert table[table.ood == "near"].auroc.between(0, 1).all()
    page = leaderboard.write(oodbench.get_benchmark("toy"), tmp_path).read_text()
    assert {line["Detector"] for line in tables(page)[0]} == {"largest-feature", "msp"}
    assert "power=1.0" in page

    tuned = oodbench.create_detector("largest-feature", power="2")
    assert tuned.options() == {"power": 2.0}
    with pytest.raises(OptionError, match="power"):
        oodbench.create_detector("largest-feature", powr=2)


def test_evaluator_takes_detector_objects_and_counts_images() -> None:
    evaluator = Evaluator(TOY, hardware=CPU)
    results = evaluator.run(
        Contender(model(), method="mine", backbone="mlp", seed=4),
        [oodbench.create_detector("msp"), oodbench.create_detector("energy")],
    )
    assert evaluator.forward_passes == 60 + 20 + 50 + 30 + 40 + 9
    for made in results:
        assert (made["method"], made["backbone"], made["seed"]) == ("mine", "mlp", 4)


def test_own_preprocessing_belongs_to_the_network() -> None:
    own = dataclasses.replace(PREPROCESS, mean=(0.1,), std=(0.9,))
    rows = evaluate(preprocess=own).rows
    assert rows[0]["preprocess"]["mean"] == (0.1,)
    assert evaluate(mean=(0.1,), std=(0.9,)).rows[0]["row_id"] == rows[0]["row_id"]
    with pytest.raises(OptionError, match="Preprocess"):
        evaluate(preprocess=lambda image: PREPROCESS(image), mean=(0.1,))


def test_second_evaluation_does_no_forward_pass() -> None:
    benchmark = oodbench.get_benchmark("digits")
    model = flat6()
    first = Evaluator(benchmark, hardware=CPU)
    rows = first.run(
        Contender(model, preprocess="benchmark"), [oodbench.create_detector("msp")]
    ).rows
    assert first.forward_passes == len(first.test) + sum(len(o.samples) for o in first.ood)

    second = Evaluator(benchmark, hardware=CPU)
    again = second.run(
        Contender(model, preprocess="benchmark"), [oodbench.create_detector("energy")]
    )
    assert second.forward_passes == 0
    assert len(again) == len(rows)

    with torch.no_grad():
        model[1].weight[0, 0] += 1e-4
    third = Evaluator(benchmark, hardware=CPU)
    third.run(Contender(model, preprocess="benchmark"), [oodbench.create_detector("msp")])
    assert third.forward_passes == first.forward_passes


def test_many_detectors_cost_one_forward_pass() -> None:
    benchmark = oodbench.get_benchmark("digits")
    evaluator = Evaluator(benchmark, hardware=CPU)
    names = ["msp", "maxlogit", "energy", "knn", "mahalanobis", "palm"]
    evaluator.run(
        Contender(flat6(), preprocess="benchmark"),
        [oodbench.create_detector(name) for name in names],
    )
    train = len(benchmark.id.load("train"))
    everything = train + len(evaluator.test) + sum(len(o.samples) for o in evaluator.ood)
    assert evaluator.forward_passes == everything

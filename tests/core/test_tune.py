"""Choosing hyper-parameters: the best on validation data, each network and image seen once."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench import Benchmark, DatasetSpec, Detector, Networks, Outputs, files
from oodbench.data.samples import Samples
from oodbench.detector import learned
from oodbench.errors import OODBenchWarning, OptionError
from oodbench.registry import DETECTORS
from oodbench.tune import candidates, word, words
from oodbench.tuning import Validation
from tests.conftest import write_images
from tests.helpers.few import few_digits
from tests.helpers.tuning import (
    CPU,
    OVERLAPPING,
    TOY,
    Brightness,
    Counted,
    Distance,
    images,
    load_overlapping,
    model,
    only,
    ood,
    search,
)

pytestmark = pytest.mark.usefixtures("none_seen")


# What is chosen


def test_the_best_is_chosen_and_of_equals_the_first() -> None:
    tuning = search()
    (choice,) = tuning.choices
    assert choice.best.values == {"gain": 2.0}, "2, 3 and the default 1 rank alike"
    assert choice.chosen.options() == {"gain": 2.0, "offset": 0.0}
    assert choice.original.options()["gain"] == 1.0, "what was given stays as it is"
    told = {trial.values["gain"]: trial.auroc for trial in choice.trials}
    assert list(told) == [-1.0, 0.0, 2.0, 3.0, 1.0], "the default is among them, last"
    assert told[2.0] == told[3.0] == told[1.0] > 0.99
    assert told[0.0] == 0.5
    assert told[-1.0] == pytest.approx(1 - told[2.0])
    assert choice.chosen.tuned == {
        "ood": ["bright"],
        "fingerprint": tuning.validation.fingerprint,
        "auroc": told[2.0],
        "tried": 5,
    }
    assert Brightness.tuned is None


def test_the_default_wins_where_it_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Brightness, "grid", {"gain": (-1.0, 0.0)})
    assert only(search()) == {"gain": 1.0}


def test_the_mean_over_the_sets_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dark sets are the other way round; each weighs as much, whatever it is best for."""
    monkeypatch.setattr(Brightness, "grid", {"gain": (2.0, -1.0)})
    sets = (ood("bright", 160), ood("dark", 40), ood("darker", 20))
    tuning = search(dataclasses.replace(TOY, validation=sets))
    assert only(tuning) == {"gain": -1.0}
    assert tuning.choices[0].best.auroc == pytest.approx(2 / 3, abs=0.01)
    assert tuning.choices[0].chosen.tuned["ood"] == ["bright", "dark", "darker"]


def test_candidates() -> None:
    assert candidates(Distance(), (), "toy") == [
        {"power": -1.0, "at_most": 1000},
        {"power": -1.0, "at_most": 10},
        {"power": 1.0, "at_most": 1000},
        {"power": 1.0, "at_most": 10},
    ]
    assert candidates(Distance(), ("power",), "toy") == [{"at_most": 1000}, {"at_most": 10}]
    assert candidates(Distance(power=3.0), (), "toy") == [{"at_most": 1000}, {"at_most": 10}]
    assert candidates(oodbench.create_detector("msp"), (), "toy") == [{}]


def test_an_id_sets_own_defaults_are_no_deliberate_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Brightness, "id_options", {"toy": {"gain": 5.0}})
    assert [one["gain"] for one in candidates(Brightness(gain=5.0), (), "toy")] == [
        *Brightness.grid["gain"],
        5.0,
    ]
    assert candidates(Brightness(gain=5.0), (), "other") == [{}]


def test_tuples_in_a_grid() -> None:
    @dataclass
    class Several(Detector):
        grid: ClassVar = {"layers": (("a",), ("a", "b"))}
        layers: tuple[str, ...] = ("a", "b")

    assert candidates(Several(), (), "toy") == [{"layers": ["a"]}, {"layers": ["a", "b"]}]


def test_words() -> None:
    assert words({"k": 5, "flag": True, "dim": None}) == "k=5, flag=true, dim=none"
    assert word(["a", 2]) == "a,2"
    knn = oodbench.create_detector("knn", k=word(7), normalize=word(False))
    assert knn.options() == {"k": 7, "normalize": False}


def test_what_is_set_is_not_searched() -> None:
    tuning = search(fixed={"Brightness": {"gain"}})
    assert tuning.choices == []
    assert tuning.untuned == {"Brightness": "all of its grid is set"}
    assert search(detectors=Brightness(gain=-1.0)).choices == []
    assert only(search(detectors=Distance(), fixed={"Distance": ["power"]})) == {"at_most": 1000}
    assert only(search(detectors=Distance(at_most=10**6))) == {"power": 1.0}


def test_detectors_without_a_grid_pass() -> None:
    lines: list[str] = []
    tuning = search(detectors=["msp", Brightness()], report=lines.append)
    assert len(tuning.choices) == 1
    assert tuning.untuned == {"msp": "it has no grid"}
    assert "not tuned: msp: it has no grid" in lines
    # and where none has one, no validation data is asked for
    assert search(dataclasses.replace(TOY, validation=()), "msp").choices == []


def test_a_search_is_deterministic() -> None:
    detectors = [Brightness(), Distance(), oodbench.create_detector("knn")]
    assert search(detectors=detectors).to_dict() == search(detectors=detectors).to_dict()
    told = json.loads(search(detectors=detectors).to_json())
    assert [choice["detector"] for choice in told["choices"]] == ["Brightness", "Distance", "knn"]
    assert told["validation"]["ood"] == {"bright": 20}
    for choice in told["choices"]:
        (best,) = [trial for trial in choice["trials"] if trial["chosen"]]
        assert best["values"].items() <= choice["detector_options"].items()
        assert best["auroc"] == choice["auroc"]


def test_seeds_share_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """All networks of an entry are read with the same options, so that it is one entry."""
    monkeypatch.setattr(Brightness, "grid", {"gain": (-1.0, 1.0)})
    lines: list[str] = []
    benchmark = oodbench.get_benchmark("digits")
    options = {"epochs": 1, "batch_size": 32}
    networks = Networks(recipe="quick", recipe_options=options, seeds=(0, 1))
    tuning = search(benchmark, networks=networks, report=lines.append)
    for trial in tuning.choices[0].trials:
        assert len(trial.aurocs) == 2
        assert trial.auroc == pytest.approx(np.mean(trial.aurocs))
    assert len([line for line in lines if line.startswith("training")]) == 2


# What is looked at


def test_an_image_goes_through_the_network_once() -> None:
    search(OVERLAPPING, [Distance(), Brightness(), oodbench.create_detector("knn")])
    assert Counted.read == 60 + 20, "train, of which val is a part, and the OOD set"
    search(OVERLAPPING, [Brightness(), Distance()])
    assert Counted.read == 60 + 20, "it is in the cache"


@pytest.mark.parametrize("train_first", [True, False])
def test_val_is_taken_from_train_only_where_train_was_seen(train_first: bool) -> None:
    if train_first:
        search(OVERLAPPING, Distance())
        before = Counted.read
        search(OVERLAPPING, Brightness())
        assert Counted.read == before
    else:
        search(OVERLAPPING, Brightness())
        assert Counted.read == 10 + 20


def test_outputs_are_those_of_val_itself(new_cache: Any) -> None:
    """Taken from train or looked at anew: the same figures."""
    direct = search(OVERLAPPING, Brightness()).to_dict()
    new_cache()
    search(OVERLAPPING, Distance())
    assert search(OVERLAPPING, Brightness()).to_dict() == direct


# Detectors that need the network


@dataclass
class Looks(Detector):
    """Distance of the images' mean to the training images', by the network itself."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    grid: ClassVar = {"gain": (-1.0, 1.0)}
    seen: ClassVar[list[int]] = []

    gain: float = -1.0
    mean_: Tensor = learned()

    def fit_batches(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Self:
        x = torch.cat([images for images, _ in batches])
        Looks.seen.append(len(x))
        self.mean_ = x.mean()
        return self

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        assert not model.training
        return self.gain * (batch.mean(dim=(1, 2, 3)) - self.mean_)


@pytest.mark.parametrize(("benchmark", "fitted"), [(TOY, 60), (OVERLAPPING, 50)])
def test_detectors_that_need_the_network(benchmark: Benchmark, fitted: int) -> None:
    Looks.seen.clear()
    tuning = search(benchmark, Looks())
    assert only(tuning) == {"gain": 1.0}
    assert Looks.seen == [fitted] * 2


# What goes wrong


def test_values_that_the_data_refuse_are_skipped_and_told() -> None:
    lines: list[str] = []
    tuning = search(detectors="knn", report=lines.append)
    (choice,) = tuning.choices
    refused = [trial.values["k"] for trial in choice.trials if trial.refused]
    assert refused == [100, 200, 500, 1000]
    assert all(trial.auroc is None for trial in choice.trials if trial.refused)
    assert choice.chosen.tuned["tried"] == 5
    for k in refused:
        (line,) = [line for line in lines if line.startswith(f"skipped: knn, k={k}:")]
        assert "60 training samples" in line
    told = tuning.to_dict()["choices"][0]["trials"]
    assert "exceeds" in told[-1]["refused"]


def test_values_with_scores_that_cannot_be_ranked_are_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Brightness, "grid", {"gain": (float("inf"), 2.0)})
    (choice,) = search().choices
    assert choice.best.values == {"gain": 2.0}
    assert "toy/val" in choice.trials[0].refused


@dataclass
class Small(Distance):
    """Takes fewer samples than there are, whatever is chosen."""

    grid: ClassVar = {"at_most": (1, 2)}

    at_most: int = 3


def test_no_value_is_left() -> None:
    with pytest.raises(OptionError, match=r"no value of its grid.*at_most=1, not 60"):
        search(detectors=Small())


def test_a_grid_that_names_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Brightness, "grid", {"gian": (1.0,)})
    with pytest.raises(OptionError, match=r"Brightness.*gian.*gain, offset"):
        search()


def test_one_detectors_failure_does_not_end_the_others_search() -> None:
    @dataclass
    class Broken(Brightness):
        def score(self, outputs: Outputs) -> Tensor:
            raise ZeroDivisionError("broken")

    lines: list[str] = []
    broken, whole = Broken(), Brightness()
    tuning = search(detectors=[broken, whole], report=lines.append)
    assert only(tuning) == {"gain": 2.0}
    assert tuning.failures == {"Broken": "ZeroDivisionError('broken')"}
    assert tuning.apply([broken, whole]) == [tuning.choices[0].chosen]
    with pytest.raises(ZeroDivisionError):
        search(detectors=[broken])


def test_what_a_detector_says_of_the_chosen_values_is_told_once() -> None:
    @dataclass
    class Wary(Brightness):
        def score(self, outputs: Outputs) -> Tensor:
            warnings.warn(f"gain {self.gain}", OODBenchWarning, stacklevel=2)
            return super().score(outputs)

    lines: list[str] = []
    tuning = search(detectors=Wary(), report=lines.append)
    assert tuning.warnings == ["gain 2.0"]
    assert [line for line in lines if line.startswith("warning")] == ["warning: gain 2.0"]
    lines.clear()
    results = evaluate(Wary(), tune=True, report=lines.append)
    assert results.warnings == ["gain 2.0"]


# Evaluation with what was chosen


def load_whole(split: str) -> Samples:
    return load_overlapping(split) if split != "test" else images("toy/test", 40, 100, 77)


TESTABLE = dataclasses.replace(
    OVERLAPPING,
    id=dataclasses.replace(TOY.id, load=load_whole),
    near=(DatasetSpec("near-a", lambda split: images(f"near-a/{split}", 30, 130, 5)),),
)


def evaluate(detectors: Any, benchmark: Benchmark = TESTABLE, **options: Any) -> oodbench.Results:
    network = None if "recipe" in options else model()
    return oodbench.evaluate(
        network,
        benchmark=benchmark,
        detectors=detectors,
        hardware=CPU,
        **{"preprocess": "benchmark", **options},
    )


def test_rows_carry_the_chosen_values() -> None:
    results = evaluate([Brightness(), "msp"], tune=True)
    by = {row["detector"]: row for row in results}
    tuned = by["Brightness"]["tuned"]
    assert by["Brightness"]["detector_options"] == {"gain": 2.0, "offset": 0.0}
    assert tuned["ood"] == ["bright"]
    assert tuned["tried"] == 5
    assert tuned["auroc"] > 0.9
    assert tuned["fingerprint"] == Validation(TESTABLE).fingerprint
    assert by["msp"]["tuned"] is None
    json.loads(results.to_json())
    # the figures are those of these values, fitted on the whole training split
    plain = evaluate(Brightness(gain=2.0)).rows
    assert [row["auroc"] for row in plain] == [
        row["auroc"] for row in results if row["detector"] == "Brightness"
    ]
    assert all(row["tuned"] is None for row in plain)
    assert not {row["row_id"] for row in plain} & {row["row_id"] for row in results}
    Distance.fits.clear()
    evaluate(Distance(), tune=True)
    assert [len(fit) for fit in Distance.fits] == [50, 50, 50, 50, 60]


def test_evaluation_keeps_what_is_set() -> None:
    rows = evaluate([Brightness(gain=-1.0), Distance()], tune=True, fixed={"Distance": {"power"}})
    options = {row["detector"]: row["detector_options"] for row in rows}
    assert options["Brightness"]["gain"] == -1.0
    assert options["Distance"]["power"] == -1.0
    assert {row["detector"]: bool(row["tuned"]) for row in rows} == {
        "Brightness": False,
        "Distance": True,
    }


def test_networks_are_trained_and_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    fits: list[Any] = []
    fit = oodbench.training.train._fit
    monkeypatch.setattr(
        oodbench.training.train, "_fit", lambda *given: (fits.append(given), fit(*given))
    )
    results = evaluate(
        ["knn", "msp"],
        few_digits(),
        tune=True,
        recipe="quick",
        recipe_options={"epochs": 1, "batch_size": 32},
        seed=[0, 1],
        retrain=True,
        report=lines.append,
    )
    assert len([line for line in lines if line.startswith("train")]) == len(fits) == 2
    knn = [row for row in results if row["detector"] == "knn"]
    assert {row["seed"] for row in knn} == {0, 1}
    assert len({json.dumps(row["detector_options"]) for row in knn}) == 1
    assert len({row["tuned"]["fingerprint"] for row in knn}) == 1


def test_a_detector_that_cannot_be_tuned_is_a_failure() -> None:
    results = evaluate([Small(), Brightness()], tune=True)
    assert {row["detector"] for row in results} == {"Brightness"}
    assert "no value of its grid" in results.failures["Small"]
    with pytest.raises(OptionError, match="no value of its grid"):
        evaluate(Small(), tune=True)


def test_choosing_on_images_that_are_tested_on_is_warned_of() -> None:
    def load(split: str) -> Samples:
        return load_whole("test") if split == "val" else load_whole(split)

    leaky = dataclasses.replace(TESTABLE, id=dataclasses.replace(TESTABLE.id, load=load))
    results = evaluate(Brightness(), leaky, tune=True)
    (warning,) = results.warnings
    assert "40 of the 40 images of toy/test" in warning
    assert "tested on" in warning
    assert evaluate(Brightness(), tune=True).warnings == []


# fit_split


@dataclass
class FitsOn(Detector):
    """Says what it was fitted on."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    fits: ClassVar[dict[str, list[int]]] = {}

    fit_split: Literal["train", "val"] = "val"

    def fit(self, train: Outputs) -> Self:
        FitsOn.fits[self.fit_split] = train.labels.tolist()
        return self

    def score(self, outputs: Outputs) -> Tensor:
        return -outputs.features.norm(dim=1)


@pytest.fixture
def fits_on() -> Iterator[str]:
    oodbench.register_detector("fits-on")(FitsOn)
    yield "fits-on"
    DETECTORS.unregister("fits-on")
    FitsOn.name = ""


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar10/held-out"])
def test_a_detector_may_be_fitted_on_val(name: str, fits_on: str) -> None:
    for split, seed in (("train", 1), ("test", 2)):
        folder = files.data_dir() / "cifar10" / split
        write_images(folder, {"cat": 20, "dog": 20}, seed=seed)
    write_images(files.data_dir() / "mnist" / "test", {"0": 5})
    benchmark = oodbench.get_benchmark(benchmark=name)
    classes = len(benchmark.id.load("val").classes)
    side, channels = benchmark.preprocess.size, benchmark.preprocess.channels
    network = nn.Sequential(nn.Flatten(), nn.Linear(side * side * channels, classes))
    results = oodbench.evaluate(
        network,
        benchmark=benchmark,
        detectors=[fits_on, oodbench.create_detector(fits_on, fit_split="train")],
        ood=["mnist"] if "cifar" in name else None,
        hardware=CPU,
        preprocess="benchmark",
    )
    assert results.failures == {}
    for split in ("train", "val"):
        assert FitsOn.fits[split] == benchmark.id.load(split).labels.tolist()
    assert {row["detector_options"]["fit_split"] for row in results} == {"train", "val"}
    assert all(
        row["id_train_fingerprint"] == benchmark.id.load("train").fingerprint for row in results
    )

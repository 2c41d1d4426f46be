"""Choosing hyper-parameters: the best on validation data, and nothing else is looked at."""

from __future__ import annotations

import dataclasses
import json
import shlex
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import oodbench
from oodbench import (
    Benchmark,
    DatasetSpec,
    Detector,
    Hardware,
    Networks,
    Outputs,
    Preprocess,
    cli,
    files,
)
from oodbench.data.samples import ImageArrays, Samples, Subset
from oodbench.detector import learned
from oodbench.disk import mapped
from oodbench.errors import DataError, MissingDataError, OODBenchWarning, OptionError
from oodbench.registry import BENCHMARKS, DETECTORS
from oodbench.results.store import ResultStore
from oodbench.tune import candidates, tune, word, words
from oodbench.tuning import Tuning, Validation
from tests.conftest import SHARED, write_images
from tests.helpers.cli import CLI

CPU = Hardware(accelerator="cpu")
PREPROCESS = Preprocess(4, (0.5,), (0.25,), mode="L")


# A problem whose best values are known: OOD images are brighter than ID images


class Counted(ImageArrays):
    """Counts the images that are read."""

    read = 0

    def __getitem__(self, index: int) -> Image.Image:
        Counted.read += 1
        return super().__getitem__(index)


def images(name: str, n: int, level: int, seed: int) -> Counted:
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(level, 20, (n, 4, 4)), 0, 255).astype(np.uint8)
    return Counted(name, pixels, np.arange(n) % 2, ("a", "b"))


def untouchable(split: str) -> Samples:
    raise AssertionError(f"the split {split} was read")


def load_id(split: str) -> Samples:
    if split == "test":
        untouchable(split)
    return images(f"toy/{split}", 60 if split == "train" else 30, 100, len(split))


def load_overlapping(split: str) -> Samples:
    """``val`` is a part of ``train``, as for CIFAR."""
    train = load_id("train")
    return train if split == "train" else Subset(train, np.arange(0, 60, 6), "toy/val")


def ood(name: str, level: int, seed: int = 9) -> DatasetSpec:
    def load(split: str) -> Samples:
        assert split == "val"
        return images(f"{name}/{split}", 20, level, seed)

    return DatasetSpec(name, load, ("train", "val", "test"))


TEST_SETS = (DatasetSpec("tested", untouchable),)
TOY = Benchmark(
    "toy",
    DatasetSpec("toy", load_id, ("train", "val", "test")),
    TEST_SETS,
    (),
    PREPROCESS,
    validation=(ood("bright", 160),),
)
OVERLAPPING = dataclasses.replace(TOY, id=dataclasses.replace(TOY.id, load=load_overlapping))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


@dataclass
class Brightness(Detector):
    """Gain times the mean of the features. Higher = more OOD where the gain is positive."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    grid: ClassVar = {"gain": (-1.0, 0.0, 2.0, 3.0)}

    gain: float = 1.0
    offset: float = 0.0

    def score(self, outputs: Outputs) -> Tensor:
        return self.gain * outputs.features.mean(dim=1) + self.offset


@dataclass
class Distance(Detector):
    """Distance to the training mean, to a power."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    grid: ClassVar = {"power": (-1.0, 1.0), "at_most": (1000, 10)}
    fits: ClassVar[list[Outputs]] = []
    scored: ClassVar[list[Outputs]] = []

    power: float = -1.0
    at_most: int = 1000
    fit_split: Literal["train", "val"] = "train"
    mean_: Tensor = learned()

    def fit(self, train: Outputs) -> Self:
        Distance.fits.append(train)
        if len(train) > self.at_most:
            raise OptionError(f"distance: at_most={self.at_most}, not {len(train)}.")
        self.mean_ = train.features.mean(dim=0)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        Distance.scored.append(outputs)
        return (outputs.features - self.mean_).norm(dim=1) ** self.power


@pytest.fixture(autouse=True)
def _none_seen() -> None:
    Counted.read = 0
    Distance.fits.clear()
    Distance.scored.clear()


def search(benchmark: Benchmark = TOY, detectors: Any = None, **options: Any) -> Tuning:
    networks = options.pop("networks", None) or Networks(
        model(), preprocess="benchmark", **options.pop("of", {})
    )
    detectors = Brightness() if detectors is None else detectors
    return tune(benchmark, detectors, networks, hardware=CPU, **options)


def only(tuning: Tuning) -> dict[str, Any]:
    (choice,) = tuning.choices
    return choice.best.values


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


def test_no_test_split_is_read() -> None:
    """In TOY, whatever is tested on raises when it is read."""
    assert only(search(detectors=[Brightness()])) == {"gain": 2.0}
    for split in ("test", "other"):
        with pytest.raises(OptionError, match=f"toy/{split}"):
            TOY.without_test().id.load(split)
    assert TOY.without_test().ood == ()
    assert TOY.without_test().id.splits == ("train", "val")
    data = Validation(TOY)
    assert not hasattr(data, "test")
    with pytest.raises(OptionError, match="tested on"):
        data._benchmark.id.load("test")


def test_training_reads_no_test_split_either() -> None:
    digits = oodbench.get_benchmark("digits")

    def load(split: str) -> Samples:
        return untouchable(split) if split == "test" else digits.id.load(split)

    sealed = dataclasses.replace(
        digits, id=dataclasses.replace(digits.id, load=load), near=TEST_SETS, far=()
    )
    options = {"epochs": 1, "batch_size": 32}
    tuning = search(sealed, "knn", networks=Networks(recipe="quick", recipe_options=options))
    assert "k" in only(tuning)
    # val and the images made of it are no images that are tested on
    data = tuning.validation
    chosen_on = np.concatenate([data.val.digests, *(s.digests for s in data.ood.values())])
    tested = [digits.id.load("test"), *(chosen.spec.load("test") for chosen in digits.ood)]
    assert not np.isin(chosen_on, np.concatenate([s.digests for s in tested])).any()


def test_val_is_left_out_of_what_is_fitted() -> None:
    tuning = search(OVERLAPPING, Distance())
    assert only(tuning) == {"power": 1.0, "at_most": 1000}
    train, val = load_overlapping("train"), load_overlapping("val")
    rest = ~np.isin(train.digests, val.digests)
    assert rest.sum() == 50
    for outputs in Distance.fits:
        assert len(outputs) == 50
        assert outputs.labels.tolist() == train.labels[rest].tolist()
    x = torch.stack([PREPROCESS(train[int(i)]) for i in np.flatnonzero(rest)]).flatten(1)
    torch.testing.assert_close(Distance.fits[0].features, x)


def test_nothing_is_copied_where_nothing_is_left_out() -> None:
    search(TOY, Distance())
    # each has outputs of its own, which are the same file mapped again
    files = {mapped._SOURCES[outputs.features.data_ptr()].file for outputs in Distance.fits}
    assert len(files) == 1
    assert len(Distance.fits[0]) == 60
    data = Validation(TOY)
    assert data.fitted_on is data.train


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


def test_what_is_fitted_on_val_is_scored_on_its_other_half() -> None:
    search(TOY, Distance(fit_split="val"))
    val = load_id("val")
    first, second = Validation(TOY).halves
    assert len(first) == len(second) == 15
    assert not np.isin(first.digests, second.digests).any()
    assert sorted([*first.rows, *second.rows]) == list(range(len(val)))
    assert abs(np.bincount(first.labels) - np.bincount(second.labels)).max() <= 1
    assert Distance.fits
    for outputs in Distance.fits:
        assert outputs.labels.tolist() == first.labels.tolist()
    x = torch.stack([PREPROCESS(second[i]) for i in range(15)]).flatten(1)
    known = [outputs for outputs in Distance.scored if len(outputs) != 20]
    assert known
    for outputs in known:
        torch.testing.assert_close(outputs.features, x)


def test_train_and_val_of_the_same_images() -> None:
    same = dataclasses.replace(TOY.id, load=lambda split: load_id("train"))
    with pytest.raises(DataError, match="nothing is left to fit on"):
        search(dataclasses.replace(TOY, id=same), Distance())
    assert only(search(dataclasses.replace(TOY, id=same), Brightness())) == {"gain": 2.0}


def test_a_missing_train_split_matters_only_to_what_is_fitted() -> None:
    def load(split: str) -> Samples:
        if split == "train":
            raise MissingDataError("toy/train: not found in /data/toy.")
        return load_id(split)

    some = dataclasses.replace(TOY, id=dataclasses.replace(TOY.id, load=load))
    assert only(search(some)) == {"gain": 2.0}
    with pytest.raises(MissingDataError, match="/data/toy"):
        search(some, Distance())


def test_splits_of_different_classes() -> None:
    def load(split: str) -> Samples:
        found = load_id(split)
        found.classes = ("a", "c") if split == "train" else found.classes
        return found

    other = dataclasses.replace(TOY, id=dataclasses.replace(TOY.id, load=load))
    with pytest.raises(DataError, match=r"toy/train and toy/val.*'b'"):
        search(other, Distance())


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


def test_a_benchmark_without_validation_data() -> None:
    with pytest.raises(OptionError, match="toy has no validation OOD sets"):
        search(dataclasses.replace(TOY, validation=()))
    spec = dataclasses.replace(TOY.id, splits=("train", "test"))
    with pytest.raises(OptionError, match="toy has no val split"):
        search(dataclasses.replace(TOY, id=spec))


def test_missing_validation_sets() -> None:
    def load(split: str) -> Samples:
        raise MissingDataError(f"away/{split}: not in /data/away.")

    away = DatasetSpec("away", load)
    lines: list[str] = []
    some = dataclasses.replace(TOY, validation=(*TOY.validation, away))
    tuning = search(some, report=lines.append)
    assert tuning.choices[0].chosen.tuned["ood"] == ["bright"]
    assert any("/data/away" in line and "missing" in line for line in lines)
    with pytest.raises(MissingDataError, match="/data/away"):
        search(dataclasses.replace(TOY, validation=(away,)))


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
        oodbench.get_benchmark("digits"),
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


# The command line


def test_the_command_prints_a_table_and_the_command_to_go_on_with(run: CLI, digits: list) -> None:
    ran = run("tune", "--detector", "knn,msp", *digits)
    assert ran.status == 0, ran.both
    assert ran.err == ""
    for k in (1, 5, 10, 20, 50, 100, 200, 500):
        assert f"k={k} " in ran.out
    refused = [line for line in ran.out.splitlines() if "refused" in line]
    assert any("k=1000" in line for line in refused)
    (chosen,) = [line for line in ran.out.splitlines() if " * " in line]
    assert "not tuned: msp" in ran.out
    assert not Path("leaderboards").exists(), "nothing was tested"
    (command,) = [line for line in ran.out.splitlines() if line.startswith("evaluate: ")]
    program, *arguments = shlex.split(command.removeprefix("evaluate: "))
    assert program == "oodbench"
    assert arguments[:3] == ["eval", "--detector", "knn,msp"]
    assert arguments[-1].removeprefix("knn.") in chosen
    after = run(*arguments, "--json", "--ood", "photo-patches")
    assert after.status == 0, after.both
    options = {r["detector"]: r["detector_options"] for r in json.loads(after.out)["rows"]}
    assert f"k={options['knn']['k']}" == arguments[-1].removeprefix("knn.")
    assert f"{' '.join(map(str, ['eval', '--detector', 'knn,msp', *digits]))} --tune" in ran.out


def test_the_commands_json_is_json_alone(run: CLI, digits: list) -> None:
    ran = run("tune", "--detector", "knn", "--json", *digits)
    assert ran.status == 0, ran.both
    assert ran.err == ""
    told = json.loads(ran.out)
    assert told["benchmark"] == "digits"
    assert told["validation"]["id"] == "digits/val"
    assert told["validation"]["ood"] == {"digits-synthetic": 163}
    (choice,) = told["choices"]
    (best,) = [trial for trial in choice["trials"] if trial["chosen"]]
    assert best["auroc"] == max(t["auroc"] for t in choice["trials"] if t["auroc"] is not None)
    assert told["command"].endswith(f"--set knn.k={best['values']['k']}")
    assert "--json" not in told["command"]


def test_eval_tune_is_tune_and_eval(run: CLI, digits: list) -> None:
    chosen = json.loads(run("tune", "--detector", "knn", "--json", *digits).out)["choices"][0]
    ran = run("eval", "--tune", "--detector", "knn,msp", "--json", *digits)
    assert ran.status == 0, ran.both
    rows = {row["detector"]: row for row in json.loads(ran.out)["rows"]}
    assert rows["knn"]["detector_options"] == chosen["detector_options"]
    assert rows["knn"]["tuned"]["auroc"] == chosen["auroc"]
    assert rows["knn"]["tuned"]["ood"] == ["digits-synthetic"]
    assert rows["msp"]["tuned"] is None
    assert "--tune" in rows["knn"]["command"]
    page = Path("leaderboards/digits.md").read_text(encoding="utf-8")
    assert "| knn † ‡ |" in page  # ‡: the network is untrained, which rows and page say
    assert "| msp ‡ |" in page
    stored = ResultStore("leaderboards").rows("digits")
    assert len(stored) == 8
    # the same again adds nothing
    assert run("eval", "--tune", "--detector", "knn,msp", *digits).status == 0
    assert ResultStore("leaderboards").rows("digits") == stored
    assert Path("leaderboards/digits.md").read_text(encoding="utf-8") == page


def test_what_set_says_is_not_searched(run: CLI, digits: list) -> None:
    """Even where it says what is the default anyway."""
    for words_ in (["--set", "knn.k=50"], ["--set", "k=50"]):
        ran = run("eval", "--tune", "--detector", "knn", "--json", *words_, *digits)
        assert ran.status == 0, ran.both
        for row in json.loads(ran.out)["rows"]:
            assert row["detector_options"]["k"] == 50
            assert row["tuned"] is None


def test_a_trained_network_end_to_end(run: CLI) -> None:
    quick = ["--id", "digits", "--recipe", "quick", "--epochs", "2"]
    ran = run("tune", "--detector", "knn", *quick)
    assert ran.status == 0, ran.both
    assert ran.err == ""
    assert "training: ce, recipe quick" in ran.out
    again = run("eval", "--tune", "--detector", "knn", *quick)
    assert again.status == 0, again.both
    assert "trained already" in again.out
    assert "training: " not in again.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tune"], "--detector"),
        (["tune", "--detector", "knn"], "--id"),
        (["tune", "--detector", "no-such", "--id", "digits"], "no-such"),
        (["tune", "--detector", "knn", "--set", "kk=3", "--id", "digits"], "kk"),
        (["tune", "--detector", "knn", "--id", "cifar10"], "Get it:"),
        (["tune", "--detector", "knn", "--id", "digits", "--checkpoint", "x.pt"], "--backbone"),
        (["tune", "--detector", "knn", "--id", "digits", "--ood", "mnist"], "--ood"),
        (["tune", "--detector", "knn", "--id", "digits", "--epochs", "0"], "--epochs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_errors(run: CLI, words: list[str], told: str) -> None:
    assert told in run.refuses(*words)


def test_nothing_to_tune_is_an_error(run: CLI, digits: list) -> None:
    assert "msp (it has no grid)" in run.refuses("tune", "--detector", "msp", *digits)
    message = run.refuses("tune", "--detector", "knn", "--set", "k=5", *digits)
    assert "knn (all of its grid is set)" in message


def test_a_folder_without_val_is_an_error(run: CLI, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / "birds" / split, {"jay": 9, "owl": 9})
    bird = ["--id", f"folder:{tmp_path}/birds", "--detector", "knn", "--recipe", "quick"]
    for command in (["tune"], ["eval", "--tune", "--ood", f"folder:{tmp_path}/birds/train/owl"]):
        message = run.refuses(*command, *bird)
        assert str(tmp_path / "birds" / "val") in message
        assert "Make it" in message


def test_a_benchmark_of_ones_own_without_validation_data(run: CLI) -> None:
    oodbench.register_benchmark("toy-bare")(dataclasses.replace(TOY, validation=()))
    try:
        message = run.refuses("tune", "--detector", "knn", "--benchmark", "toy-bare")
        assert "validation=" in message
    finally:
        BENCHMARKS.unregister("toy-bare")


def test_a_failing_detector_is_named_and_the_others_are_tuned(run: CLI, digits: list) -> None:
    @dataclass
    class Broken(Brightness):
        def score(self, outputs: Outputs) -> Tensor:
            raise ZeroDivisionError("broken")

    oodbench.register_detector("broken")(Broken)
    try:
        ran = run("tune", "--detector", "broken,knn", *digits)
        assert ran.status == cli.SOME_FAILED
        assert "failed: broken: ZeroDivisionError" in ran.err
        assert "tuned: knn" in ran.out
    finally:
        DETECTORS.unregister("broken")


def test_the_published_network_on_real_images(
    run: CLI, shared_data: Path, real_outputs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = SHARED / "models" / "cifar10_resnet20.safetensors"
    monkeypatch.setenv("OODBENCH_DATA", str(shared_data))
    network = ["--backbone", "resnet20", "--checkpoint", checkpoint]
    network += ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    ran = run("tune", "--detector", "knn", "--id", "cifar10", "--json", *network)
    assert ran.status == 0, ran.both
    told = json.loads(ran.out)
    assert told["validation"]["n_id"] == 500
    assert told["validation"]["ood"] == {"cifar10-synthetic": 500}
    by_k = {t["values"]["k"]: t["auroc"] for t in told["choices"][0]["trials"]}
    assert by_k[10] == pytest.approx(0.9027, abs=0.003)
    assert by_k[1000] < 0.5, "more neighbours than a class has images"
    assert told["choices"][0]["detector_options"]["k"] in (5, 10, 20)

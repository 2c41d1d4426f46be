"""What hyper-parameters are chosen on: validation data alone, and nothing that is fitted on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import oodbench
from oodbench import DatasetSpec, Networks
from oodbench.data.samples import Samples
from oodbench.disk import mapped
from oodbench.errors import DataError, MissingDataError, OptionError
from oodbench.tuning import Validation
from tests.helpers.tuning import (
    OVERLAPPING,
    PREPROCESS,
    TEST_SETS,
    TOY,
    Brightness,
    Distance,
    load_id,
    load_overlapping,
    only,
    search,
    untouchable,
)

pytestmark = pytest.mark.usefixtures("none_seen")


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


# What goes wrong


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

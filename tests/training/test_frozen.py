"""Pre-trained networks as they are: each image goes through one once, whatever is put on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import oodbench
import oodbench.passes as extraction
from oodbench.caching import probe as second_look
from oodbench.detectors.ptood import Frozen
from oodbench.errors import OptionError
from oodbench.evaluator import Evaluator
from oodbench.networks.pretrained import create_pretrained
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.ptood import CPU, NETWORK, OPTIONS, SIZE, benchmark, evaluated, id_set, images


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images each forward pass of an encoder has, counted from outside of the network.

    A network that was changed to count would be one with a user's code.
    """
    counts: list[int] = []
    step = extraction.Pass.predict_step

    def counting(self: extraction.Pass, batch: tuple[Any, torch.Tensor]) -> None:
        counts.append(len(batch[1]))
        step(self, batch)

    def refuse(*_: Any) -> None:
        raise AssertionError("a network without a user's code is looked at again")

    monkeypatch.setattr(extraction.Pass, "predict_step", counting)
    monkeypatch.setattr(second_look, "still_says", refuse)
    return counts


# one pass


def test_the_network_sees_each_image_once_whatever_is_put_on_it(
    checkpoint: Path, seen: list[int]
) -> None:
    evaluated(checkpoint, ["msp"], backbone=NETWORK)
    assert sum(seen) == 60 + 30 + 24 + 20 + 18  # train, test, the OOD sets; val is within train
    seen.clear()
    evaluated(checkpoint, ["ptood", "energy", "knn", "vim"], backbone=NETWORK)  # other detectors
    evaluated(  # another probe
        checkpoint,
        ["msp"],
        backbone=NETWORK,
        recipe_options={**OPTIONS, "weight_decays": "0.3"},
    )
    evaluated(checkpoint, ["ptood"], method="frozen", backbone=NETWORK)  # none
    evaluated(checkpoint, ["msp"], seed=[1, 2], backbone=NETWORK)
    assert seen == []


def test_a_second_evaluation_runs_no_pass_at_all(checkpoint: Path, seen: list[int]) -> None:
    at_its_own_size: dict[str, Any] = {"backbone": NETWORK, "recipe_options": {}}
    evaluated(checkpoint, ["msp"], **at_its_own_size)
    assert sum(seen) == 152
    seen.clear()

    found = evaluated(checkpoint, ["ptood", "energy", "vim"], seed=1, **at_its_own_size)
    assert not found.failures
    assert seen == []


def test_a_validation_split_of_its_own_is_seen_once(checkpoint: Path, seen: list[int]) -> None:
    spec = id_set()
    apart = images("toy/val", 15, 9)
    load = lambda split: apart if split == "val" else spec.load(split)
    given = benchmark(id=dataclasses.replace(spec, load=load))
    evaluated(checkpoint, ["msp"], benchmark=given, backbone=NETWORK)
    assert sum(seen) == 60 + 15 + 30 + 24 + 20 + 18


def test_what_went_through_the_network_is_counted(checkpoint: Path) -> None:
    evaluator = Evaluator(benchmark(), hardware=CPU)
    run = plan(evaluator.benchmark, "linear-probe", overrides=OPTIONS, checkpoint=checkpoint)
    train(run, CPU, on_forward=evaluator.count)
    assert evaluator.forward_passes == 60
    train(dataclasses.replace(run, seed=1), CPU, on_forward=evaluator.count)
    assert evaluator.forward_passes == 60


def test_other_weights_or_another_size_are_another_network(
    checkpoint: Path, tmp_path: Path, seen: list[int]
) -> None:
    evaluated(checkpoint, ["ptood"], backbone=NETWORK)
    once = sum(seen)
    other = tmp_path / "other.safetensors"
    torch.manual_seed(8)
    save_file(timm.create_model(NETWORK, num_classes=5).state_dict(), other)
    evaluated(other, ["ptood"], backbone=NETWORK)
    assert sum(seen) == 2 * once
    evaluated(checkpoint, ["ptood"], backbone=NETWORK, recipe_options={"input_size": 48})
    assert sum(seen) == 3 * once


def test_a_run_is_named_by_the_weights_not_by_the_files_name(
    checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(checkpoint.read_bytes())
    keys = {
        plan(benchmark(), "linear-probe", overrides=OPTIONS, checkpoint=path).key
        for path in (checkpoint, copy)
    }
    assert len(keys) == 1


# methods


def test_a_frozen_network_has_features_and_no_classifier(checkpoint: Path) -> None:
    results = evaluated(checkpoint, ["knn", "msp"], method="frozen", backbone=NETWORK)
    assert "logits" in results.failures["msp"]
    assert {row["detector"] for row in results.rows} == {"knn"}
    assert results.rows[0]["id_accuracy"] is None
    run = plan(benchmark(), "frozen", overrides=OPTIONS, checkpoint=checkpoint)
    assert isinstance(train(run, CPU), Frozen)
    assert not run.folder.exists()


def test_detectors_find_their_own_method_where_networks_are_pre_trained(
    checkpoint: Path,
) -> None:
    results = evaluated(checkpoint, ["ptood", "msp"], backbone=NETWORK)
    found = {row["detector"]: row["method"] for row in results.rows}
    assert found == {"ptood": "frozen", "msp": "linear-probe"}
    row = results.rows[0]
    assert row["backbone"] == f"{NETWORK} (weights.safetensors)"
    assert row["preprocess"]["size"] == SIZE
    assert row["recipe_options"]["input_size"] == SIZE


def test_an_encoder_is_evaluated_in_its_own_preprocessing(checkpoint: Path) -> None:
    encoder = create_pretrained(NETWORK, checkpoint=checkpoint, input_size=SIZE)
    given = oodbench.evaluate(encoder, benchmark=benchmark(), detectors="knn", hardware=CPU)
    named = evaluated(checkpoint, ["knn"], backbone=NETWORK, method="frozen")
    assert [row["auroc"] for row in given.rows] == [row["auroc"] for row in named.rows]
    assert given.rows[0]["preprocess"]["size"] == SIZE


def test_the_preprocessing_of_a_frozen_network_is_not_changed(checkpoint: Path) -> None:
    for given in ({"mean": (0.1, 0.2, 0.3)}, {"preprocess": benchmark().preprocess}):
        with pytest.raises(OptionError, match="input_size"):
            evaluated(checkpoint, ["ptood"], backbone=NETWORK, **given)

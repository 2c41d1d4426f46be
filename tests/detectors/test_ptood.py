"""PT-OOD: the probe on a pre-trained network, and the distance to the nearest instances."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from sklearn.neighbors import NearestNeighbors

import oodbench
from oodbench import Outputs, Preprocess, metrics
from oodbench.detectors.ptood import PTOOD, LinearProbe
from oodbench.detectors.separability import separability
from oodbench.errors import DataError, MissingOutputError, OptionError
from oodbench.extract import extract
from oodbench.networks.pretrained import PretrainedEncoder
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.conftest import SHARED
from tests.helpers.problems import problem
from tests.helpers.ptood import CPU, NETWORK, OPTIONS, SIZE, benchmark, evaluated, images

# methods


def test_the_probe_is_a_head_on_the_encoders_features(checkpoint: Path) -> None:
    run = plan(benchmark(), "linear-probe", overrides=OPTIONS, checkpoint=checkpoint)
    method = train(run, CPU)
    assert isinstance(method, LinearProbe)
    test = run.benchmark.id.load("test")
    outputs = extract(method, test, method.own_preprocess, hardware=CPU)
    torch.testing.assert_close(outputs.head(outputs.features), outputs.logits)
    batch = torch.stack([method.own_preprocess(test[i]) for i in range(4)])
    direct = method.outputs(batch)
    torch.testing.assert_close(direct["logits"], outputs.logits[:4], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(direct["features"], outputs.features[:4], atol=1e-4, rtol=1e-4)
    assert metrics.accuracy(outputs.logits, outputs.labels) > 0.8
    assert "weight decay" in method.summary


def test_detectors_that_look_into_the_network_work_behind_a_probe(checkpoint: Path) -> None:
    results = evaluated(checkpoint, ["odin", "gram"], method="linear-probe", backbone=NETWORK)
    assert not results.failures
    assert {row["detector"] for row in results.rows} == {"odin", "gram"}


def probe(recipe: Any = None, classes: int = 5, width: int = 24) -> LinearProbe:
    class Features(torch.nn.Module):
        num_features = width

    encoder = PretrainedEncoder("features", Features(), Preprocess(8, (0.5,) * 3, (0.5,) * 3))
    return LinearProbe(encoder, classes, recipe or LinearProbe.get_recipe("default"))


def recipe(*decays: float) -> Any:
    return dataclasses.replace(LinearProbe.get_recipe("default"), weight_decays=decays)


def test_the_weight_decay_is_chosen_on_validation_data_alone() -> None:
    """Validation images say that the labels of training images are noise."""
    toy = problem(dtype=torch.float32)
    noise = torch.randint(5, (len(toy.train),), generator=torch.Generator().manual_seed(0))
    train = Outputs(toy.train.features, labels=torch.where(noise % 2 == 0, noise, toy.train.labels))
    clean = probe(recipe(1e1, 1e-1, 1e-6)).learn(train, None, toy.test)
    assert float(clean["weight_decay"]) > 1e-6
    overfit = probe(recipe(1e1, 1e-1, 1e-6)).learn(train, None, train)
    assert float(overfit["weight_decay"]) == 1e-6


def test_of_equal_weight_decays_the_strongest_is_taken() -> None:
    features = torch.eye(5).repeat(20, 1) * 10
    train = Outputs(features, labels=torch.arange(100) % 5)
    found = probe(recipe(1e-5, 1e-3, 1e-4), width=5).learn(train, None, train)
    assert found == {"weight_decay": "0.001", "val_accuracy": "1.0000"}


def test_validation_images_are_not_fitted_on_while_the_weight_decay_is_chosen() -> None:
    """Copies of validation images with other labels would spoil the choice if they counted."""
    toy = problem(dtype=torch.float32)
    val = toy.test
    features = torch.cat([toy.train.features, val.features.repeat(50, 1)])
    wrong = (val.labels.repeat(50) + 1) % 5
    train = Outputs(features, labels=torch.cat([toy.train.labels, wrong]))
    fitted = torch.arange(len(train)) < len(toy.train)
    found = probe(recipe(1e-3)).learn(train, fitted, val)
    assert float(found["val_accuracy"]) > 0.7


def test_without_validation_images_folds_of_the_training_images_choose() -> None:
    toy = problem(dtype=torch.float32)
    train = Outputs(toy.train.features, labels=toy.train.labels)
    first = probe().learn(train)
    assert first == probe().learn(train)
    assert 0.6 < float(first["val_accuracy"]) < 1
    alone = Outputs(toy.train.features[:6], labels=torch.tensor([0, 0, 1, 1, 2, 3]))
    with pytest.raises(DataError, match="one training image"):
        probe(classes=4).learn(alone)
    with pytest.raises(DataError, match=r"no training image of the classes \[4\]"):
        probe(classes=5).learn(alone)


def test_a_wrong_recipe_is_refused() -> None:
    for wrong in (
        {"weight_decays": ""},
        {"weight_decays": "-1"},
        {"iterations": 0},
        {"input_size": 0},
        {"layers": -1},
        {"epochs": 3},
    ):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            plan(benchmark(), "linear-probe", overrides=wrong)


# the detector


def test_ptood_is_the_mean_cosine_distance_to_the_nearest_instances() -> None:
    toy = problem(dtype=torch.float32)
    detector = PTOOD(k=7).fit(toy.train)
    bank, queries = toy.train.features.double().numpy(), toy.ood.features.double().numpy()
    peer = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(bank)
    wanted = peer.kneighbors(queries)[0].mean(axis=1)
    np.testing.assert_allclose(detector.score(toy.ood), wanted, atol=1e-5)


def test_with_one_instance_it_ranks_as_knn_does() -> None:
    toy = problem(dtype=torch.float32)
    ours = PTOOD(k=1).fit(toy.train).score(toy.ood).double()
    knn = oodbench.create_detector("knn", k=1).fit(toy.train).score(toy.ood).double()
    torch.testing.assert_close(ours, knn.square() / 2, atol=1e-6, rtol=1e-4)


def test_whitened_features_have_the_unit_covariance() -> None:
    toy = problem(n=2000, rectified=False)
    detector = PTOOD(whiten=True, shrinkage=0.0).fit(toy.train)
    z = (toy.train.features - detector.mean_).float() @ detector.whitening_.float()
    torch.testing.assert_close(z.T.cov(correction=0), torch.eye(24), atol=1e-2, rtol=0)


def test_whitening_does_not_depend_on_a_turn_and_scale_of_the_features() -> None:
    toy = problem(dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64))[0] * 3

    def turned(outputs: Outputs) -> Outputs:
        return Outputs(outputs.features @ turn + 2, labels=outputs.labels)

    plain = PTOOD(whiten=True).fit(toy.train).score(toy.ood)
    other = PTOOD(whiten=True).fit(turned(toy.train)).score(turned(toy.ood))
    torch.testing.assert_close(plain, other, atol=1e-4, rtol=0)


def test_fewer_samples_than_dimensions_can_be_whitened() -> None:
    toy = problem(n=15)
    scores = PTOOD(k=2, whiten=True, shrinkage=0.0).fit(toy.train).score(toy.ood)
    assert scores.isfinite().all()


def test_layers_and_tokens() -> None:
    encoder = create_pretrained_vit()
    samples = images("toy", 12, 0)
    outputs = extract(encoder, samples, encoder.own_preprocess, hardware=CPU)
    for options in ({}, {"token": "cls"}, {"token": "patches"}, {"layer": "blocks.2"}):
        detector = PTOOD(k=1, **options).fit(outputs)
        assert detector.score(outputs).abs().max() < 1e-5
        column = next(iter(detector.needs))
        kept = outputs.features if column == "features" else outputs.extra[column]
        torch.testing.assert_close(detector.bank_, torch.nn.functional.normalize(kept))
    with pytest.raises(MissingOutputError, match=r"blocks\.99.*blocks\.2"):
        PTOOD(layer="blocks.99").fit(outputs)
    with pytest.raises(OptionError, match="inner layer"):
        PTOOD(layer="blocks.2", token="cls")
    for wrong in ({"k": 0}, {"shrinkage": -1.0}, {"k": 13}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            PTOOD(**wrong).fit(outputs)


def create_pretrained_vit() -> PretrainedEncoder:
    model = timm.create_model("test_vit", num_classes=0, img_size=SIZE)
    preprocess = Preprocess(SIZE, (0.5,) * 3, (0.5,) * 3)
    return PretrainedEncoder("test_vit", model.eval(), preprocess, fixed=True)


# the real thing


def test_real_weights_tell_real_textures_from_real_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_cache: Callable[[], None]
) -> None:
    if not (SHARED / "data" / "textures10.zip").is_file():
        pytest.skip("the folder with real data is not at hand")
    for name in ("textures10", "imagenet500"):
        with zipfile.ZipFile(SHARED / "data" / f"{name}.zip") as archive:
            photographs = [one for one in archive.namelist() if one.endswith(".jpg")]
            # half of the textures and every sixth of 500 photographs are enough to see it
            archive.extractall(tmp_path, photographs[:: 6 if name == "imagenet500" else 2])
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(separability, "__defaults__", (2,))  # folds, each of which takes a second
    results = oodbench.evaluate(
        benchmark="ptood/textures10",
        detectors=["ptood", "msp", "energy"],
        ood=["imagenet500-without:textures10"],
        recipe_options={"input_size": 112},  # a quarter of the work
        hardware=CPU,
    )
    rows = {row["detector"]: row for row in results.rows if not row["is_mean"]}
    assert rows["ptood"]["auroc"] > 0.9
    assert rows["msp"]["auroc"] > 0.7
    assert rows["msp"]["id_accuracy"] > 0.7
    assert rows["ptood"]["separability"] > 0.95
    assert any("cobwebbed (" in text for text in results.warnings)

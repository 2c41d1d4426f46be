"""Pre-trained networks as they are: what is learned on them, instance-wise scores, the gap."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.neighbors import NearestNeighbors
from torchvision import transforms

import oodbench
import oodbench.passes as extraction
from oodbench import Benchmark, DatasetSpec, Outputs, Preprocess, metrics
from oodbench.caching import probe as second_look
from oodbench.data.samples import ImageArrays, Subset
from oodbench.datasets.ptood import PROTOCOL, KnownClasses
from oodbench.detectors.ptood import PTOOD, Frozen, LinearProbe
from oodbench.errors import DataError, MissingOutputError, OptionError
from oodbench.evaluator import Evaluator
from oodbench.extract import extract
from oodbench.hardware import Hardware
from oodbench.networks.pretrained import PretrainedEncoder, create_pretrained
from oodbench.results import leaderboard
from oodbench.selection import expanded
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.conftest import SHARED
from tests.helpers.problems import problem

CPU = Hardware("cpu", "1", workers=0, batch_size=64)
SIZE = 32
NETWORK = "test_resnet"
OPTIONS = {"input_size": SIZE}
CLASSES = ("a", "b", "c")


def images(name: str, n: int, seed: int, hue: float = 0.0) -> ImageArrays:
    """Stripes whose direction tells the class, with noise; another hue for OOD."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(CLASSES)
    y, x = np.mgrid[:24, :24]
    waves = np.stack([np.sin(x / 2), np.sin(y / 2), np.sin((x + y) / 3)])[labels]
    pixels = 128 + 70 * waves[..., None] + rng.normal(0, 25, (n, 24, 24, 3))
    pixels[..., 0] += 60 * hue
    return ImageArrays(name, pixels.clip(0, 255).astype(np.uint8), labels, CLASSES)


def id_set(val: bool = True) -> DatasetSpec:
    whole = images("toy/train", 60, 0)
    parts = {
        "train": whole,
        "test": images("toy/test", 30, 1),
        "val": Subset(whole, np.arange(12), "toy/val"),
    }
    splits = ("train", "val", "test") if val else ("train", "test")
    return DatasetSpec("toy", parts.__getitem__, splits)


def of(name: str, n: int, seed: int, hue: float) -> DatasetSpec:
    return DatasetSpec(name, lambda split: images(f"{name}/{split}", n, seed, hue))


def benchmark(**changes: Any) -> Benchmark:
    made = Benchmark(
        name="ptood/toy",
        id=id_set(),
        near=(),
        far=(),
        familiar=(of("seen", 24, 2, 0.4),),
        unfamiliar=(of("unseen", 20, 3, 1.0), of("other", 18, 4, -1.0)),
        preprocess=Preprocess(24, (0.5,) * 3, (0.5,) * 3),
        protocol=PROTOCOL,
        backbone=NETWORK,
        standard_method="linear-probe",
        own_inputs=True,
        caveats=KnownClasses("toy", {"a": ("tabby", "tiger cat", "lynx", "cougar"), "b": ()}),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Weights of a small timm network, drawn at random."""
    torch.manual_seed(7)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model(NETWORK, num_classes=5).state_dict(), path)
    return path


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


def evaluated(checkpoint: Path, detectors: Any, **options: Any) -> oodbench.Results:
    given: dict[str, Any] = {"benchmark": benchmark(), "recipe_options": OPTIONS, "hardware": CPU}
    return oodbench.evaluate(checkpoint=checkpoint, detectors=detectors, **{**given, **options})


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


def test_a_frozen_network_has_features_and_no_classifier(checkpoint: Path) -> None:
    results = evaluated(checkpoint, ["knn", "msp"], method="frozen", backbone=NETWORK)
    assert "logits" in results.failures["msp"]
    assert {row["detector"] for row in results.rows} == {"knn"}
    assert results.rows[0]["id_accuracy"] is None
    run = plan(benchmark(), "frozen", overrides=OPTIONS, checkpoint=checkpoint)
    assert isinstance(train(run, CPU), Frozen)
    assert not run.folder.exists()


def test_all_stands_for_what_suits_the_method() -> None:
    frozen, probe = (set(expanded(["all"], name)) for name in ("frozen", "linear-probe"))
    assert {"ptood", "knn", "mahalanobis", "ssd"} <= frozen
    assert not frozen & {"msp", "energy", "vim", "odin", "palm"}
    assert {"ptood", "knn", "msp", "energy", "react", "vim"} <= probe
    assert "palm" not in probe


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


# the gap


def test_rows_tell_familiar_from_unfamiliar(checkpoint: Path, tmp_path: Path) -> None:
    given = benchmark(measures=("separability",))
    results = evaluated(
        checkpoint, ["ptood", "msp"], benchmark=given, backbone=NETWORK, leaderboards=tmp_path
    )
    rows = {(row["detector"], row["ood"]): row for row in results.rows}
    for detector in ("ptood", "msp"):
        familiar, unfamiliar = rows[detector, "familiar"], rows[detector, "unfamiliar"]
        assert familiar["gap"] == pytest.approx(unfamiliar["auroc"] - familiar["auroc"])
        assert familiar["gap_low"] <= familiar["gap"] <= familiar["gap_high"]
        assert unfamiliar["gap"] is None
        alone = [rows[detector, name]["separability"] for name in ("unseen", "other")]
        assert unfamiliar["separability"] == pytest.approx(np.mean(alone))
        assert all(0.5 < value <= 1 for value in alone)
    assert rows["ptood", "seen"]["separability"] == rows["msp", "seen"]["separability"]
    page = leaderboard.write(given, tmp_path).read_text()
    assert "| Gap |" in page
    assert "### Linear separability of features" in page
    assert page.count("## familiar, unfamiliar") == 1


def test_rows_of_networks_with_other_sizes_share_a_table(checkpoint: Path, tmp_path: Path) -> None:
    for size in (32, 48):
        options = {"input_size": size}
        evaluated(
            checkpoint,
            ["ptood"],
            backbone=NETWORK,
            recipe_options=options,
            leaderboards=tmp_path,
        )
    page = leaderboard.write(benchmark(), tmp_path).read_text()
    assert page.count("## familiar, unfamiliar") == 1
    assert f"{NETWORK} (weights.safetensors), RGB, 32 px (crop)" in page
    assert f"{NETWORK} (weights.safetensors), RGB, 48 px (crop)" in page


def at(native: int | None) -> Benchmark:
    return benchmark(preprocess=dataclasses.replace(benchmark().preprocess, native=native))


def test_networks_see_all_images_at_the_native_size(checkpoint: Path) -> None:
    """Those that learn here, those that are given, and those with a transform of somebody's own."""
    run = plan(at(12), "linear-probe", overrides=OPTIONS, checkpoint=checkpoint)
    assert (run.encoder.own_preprocess.native, run.encoder.own_preprocess.size) == (12, SIZE)
    assert run.key != plan(at(None), "linear-probe", overrides=OPTIONS, checkpoint=checkpoint).key
    named = evaluated(checkpoint, ["knn"], benchmark=at(12), backbone=NETWORK, method="frozen")
    encoder = create_pretrained(NETWORK, checkpoint=checkpoint, input_size=SIZE)
    assert encoder.own_preprocess.native is None
    own = transforms.Compose(
        [
            transforms.Resize(
                encoder.input["pre_size"],
                transforms.InterpolationMode(encoder.input["interpolation"]),
            ),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(encoder.input["mean"], encoder.input["std"]),
        ]
    )
    given = [
        oodbench.evaluate(encoder, benchmark=at(12), detectors="knn", hardware=CPU, **transform)
        for transform in ({}, {"preprocess": own})
    ]
    for found in (named, *given):
        assert found.rows[0]["preprocess"]["native"] == 12
        assert [row["auroc"] for row in found.rows] == pytest.approx(
            [row["auroc"] for row in named.rows], abs=1e-6
        )
    unlike = evaluated(checkpoint, ["knn"], benchmark=at(None), backbone=NETWORK, method="frozen")
    assert [row["auroc"] for row in unlike.rows] != [row["auroc"] for row in named.rows]


def test_rows_at_another_native_size_have_a_table_of_their_own(
    checkpoint: Path, tmp_path: Path
) -> None:
    for native in (None, 12):
        evaluated(
            checkpoint,
            ["ptood"],
            benchmark=at(native),
            backbone=NETWORK,
            leaderboards=tmp_path,
        )
    page = leaderboard.write(at(12), tmp_path).read_text()
    assert page.count("## familiar, unfamiliar") == 2
    assert page.count(", RGB, 32 px (crop, from 12 px)") == 1
    assert page.count(", RGB, 32 px (crop) |") == 1


def waves(name: str, size: int, noise: float, seed: int) -> ImageArrays:
    """The same stripes at another size, with noise in each pixel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 2
    phase = rng.uniform(0, 7, (60, 1, 1))
    y, x = np.mgrid[:size, :size] * 12 / size
    stripes = np.sin(np.where(labels[:, None, None], x, y) + phase)[..., None]
    pixels = 128 + 60 * stripes + rng.normal(0, noise, (60, size, size, 3))
    return ImageArrays(name, pixels.clip(0, 255).astype(np.uint8), labels, ("across", "along"))


def test_sharpness_alone_tells_no_ood_image(checkpoint: Path) -> None:
    """Images of the ID set's kind at four times its size are the same at its own."""
    known = {"train": waves("w/train", 24, 8, 0), "test": waves("w/test", 24, 8, 1)}
    own = DatasetSpec("waves", known.__getitem__, ("train", "test"))
    large = DatasetSpec("large", lambda split: waves("large", 96, 39, 2))

    def auroc(native: int | None) -> float:
        given = dataclasses.replace(at(native), id=own, familiar=(large,), unfamiliar=())
        options = {"benchmark": given, "recipe_options": {"input_size": 96}, "backbone": NETWORK}
        found: float = evaluated(checkpoint, ["ptood"], **options).rows[0]["auroc"]
        return found

    assert auroc(None) > 0.95
    assert 0.35 < auroc(24) < 0.7


def test_the_page_counts_where_familiar_ood_is_harder(checkpoint: Path, tmp_path: Path) -> None:
    results = evaluated(checkpoint, ["ptood", "knn"], backbone=NETWORK, leaderboards=tmp_path)
    gaps = [row for row in results.rows if row["gap"] is not None]
    above = sum(row["gap_low"] > 0 for row in gaps)
    below = sum(row["gap_high"] < 0 for row in gaps)
    page = leaderboard.write(benchmark(), tmp_path).read_text()
    wanted = (
        f"Its interval lies above zero in {above} of {len(gaps)} measurements here, below it in"
    )
    assert f"{wanted} {below}." in page


def test_benchmarks_that_ask_for_no_measure_have_none(checkpoint: Path) -> None:
    near = (of("near-by", 20, 3, 1.0),)
    given = benchmark(familiar=(), unfamiliar=(), near=near)
    rows = evaluated(checkpoint, ["ptood"], benchmark=given, backbone=NETWORK).rows
    assert {(row.get("separability"), row["gap"]) for row in rows} == {(None, None)}


def test_an_id_class_that_was_pre_trained_on_is_warned_of(checkpoint: Path) -> None:
    told: list[str] = []
    results = evaluated(checkpoint, ["ptood"], backbone=NETWORK, report=told.append)
    wanted = "1 of the 3 ID classes of toy are also in the pre-training set: a (tabby, tiger cat"
    assert any(wanted in text for text in results.warnings)
    assert any(wanted in line for line in told)


def test_the_gap_is_the_difference_of_the_means() -> None:
    ids = np.arange(10.0)
    gap, low, high = metrics.auroc_gap(ids, [ids + 100, ids], [ids])
    assert gap == pytest.approx(0.25)
    assert low < gap < high
    gap, low, high = metrics.auroc_gap(ids, [ids + 100], [ids + 200])
    assert gap == 0
    assert -0.3 < low < -0.03  # AUROCs of 1 are not known exactly
    assert high == pytest.approx(-low)
    with pytest.raises(ValueError, match="each side"):
        metrics.auroc_gap(ids, [], [ids])


@pytest.mark.parametrize(
    ("ids", "easier", "harder"),
    [
        (np.arange(4.0), [[2.5]], [[1.5]]),
        (np.arange(4.0), [np.arange(9.0), [2.5]], [np.arange(8.0)]),
        (np.arange(4.0), [np.arange(9.0)], [[2.5]]),
        ([0.0], [np.arange(9.0)], [np.arange(8.0)]),
    ],
)
def test_the_gap_has_no_interval_where_a_set_has_one_score(
    ids: Any, easier: list[Any], harder: list[Any]
) -> None:
    gap, low, high = metrics.auroc_gap(ids, easier, harder)
    means = [np.mean([metrics.auroc(ids, s) for s in side]) for side in (easier, harder)]
    assert gap == pytest.approx(means[0] - means[1])
    assert np.isnan(low)
    assert np.isnan(high)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_the_gaps_interval_is_never_a_point(n: int) -> None:
    ids, constant = np.arange(float(n)), np.zeros(n)
    for base, easier, harder in (
        (ids, ids + 100, ids + 200),
        (ids, ids + 100, ids - 100),
        (ids, ids, ids),
        (constant, constant, constant),
        (constant, constant + 1, constant),
    ):
        gap, low, high = metrics.auroc_gap(base, [easier], [harder])
        assert -1 <= low <= gap <= high <= 1
        assert high - low > 0.01


def test_rows_and_warnings_tell_that_the_gap_has_no_interval(checkpoint: Path) -> None:
    given = benchmark(familiar=(of("seen", 1, 2, 0.4),))
    results = evaluated(checkpoint, ["ptood"], benchmark=given, backbone=NETWORK)
    row = next(row for row in results.rows if row["gap"] is not None)
    assert (row["gap_low"], row["gap_high"]) == (None, None)
    assert any("the gap has no interval: of seen there is one image" in t for t in row["notes"])
    results = evaluated(checkpoint, ["ptood"], backbone=NETWORK)
    assert all(row["gap_low"] < row["gap_high"] for row in results.rows if row["gap"] is not None)
    assert not any("no interval" in text for text in results.warnings)


def test_the_gaps_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = {}
    for shift in (0.5, 1.2):
        normal = rng.normal(size=400_000)
        truth[shift] = metrics.auroc(normal, rng.normal(shift, 1, 400_000))
    wanted = truth[1.2] - truth[0.5]
    hits = 0
    for _ in range(400):
        ids = rng.normal(size=60)
        _, low, high = metrics.auroc_gap(
            ids, [rng.normal(1.2, 1, 50), rng.normal(1.2, 1, 40)], [rng.normal(0.5, 1, 70)]
        )
        hits += low <= wanted <= high
    assert 0.91 < hits / 400 < 0.98


def test_the_gap_changes_its_sign_with_the_sides() -> None:
    rng = np.random.default_rng(0)
    ids, a, b = rng.normal(size=30), [rng.normal(size=20)], [rng.normal(1, 1, 25)]
    gap, low, high = metrics.auroc_gap(ids, a, b)
    assert metrics.auroc_gap(ids, b, a) == pytest.approx((-gap, -high, -low))


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


def test_photographs_are_not_told_from_enlarged_images_by_their_sharpness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFAR-10 against photographs: through 32 pixels they are no longer all told apart."""
    if not (SHARED / "data" / "cifar10.zip").is_file():
        pytest.skip("the folder with real data is not at hand")
    for name, step in (("cifar10", 10), ("imagenet500", 10)):
        with zipfile.ZipFile(SHARED / "data" / f"{name}.zip") as archive:
            pictures = [one for one in archive.namelist() if one.endswith((".jpg", ".png"))]
            archive.extractall(tmp_path, pictures[::step])
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path))
    given = oodbench.get_benchmark(benchmark="ptood/cifar10-small")
    found = {}
    for native in (32, None):
        preprocess = dataclasses.replace(given.preprocess, native=native)
        found[native] = oodbench.evaluate(
            benchmark=dataclasses.replace(given, preprocess=preprocess),
            detectors="ptood",
            ood="imagenet500-without:cifar10-small",
            recipe_options={"input_size": 112},
            hardware=CPU,
        ).rows[0]
    assert found[None]["auroc"] - found[32]["auroc"] > 0.1
    assert found[32]["separability"] < found[None]["separability"]

"""Segmentation: what can score pixels, and rows that are what the pixels' scores say."""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import oodbench
from oodbench import Benchmark, DatasetSpec, Detector, Outputs, Preprocess
from oodbench import metrics as exact
from oodbench.data.samples import OOD, VOID, MaskedSamples, Samples
from oodbench.data.transforms import to_tensor
from oodbench.datasets import scenes as embedded
from oodbench.detectors.abet import AbeTSegmentation
from oodbench.errors import BadScoresError, DataError, OptionError, StorageError
from oodbench.networks.backbones import create_backbone
from oodbench.results.outcome import Results
from oodbench.results.rows import METRICS, row_id
from oodbench.tasks import segmentation
from oodbench.tasks.pixels import Quality, picture, segment
from oodbench.tasks.segmentation import PixelRunner, Segmentation
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.cli import CLI
from tests.helpers.pixels import (
    CPU,
    GREY,
    RECIPE,
    Array,
    Drawn,
    Pixelwise,
    by_name,
    drawn,
    evaluate,
    run_evaluator,
    spec,
    toy,
)


@dataclass
class Breaks(Detector):
    """MSP, until it has seen some images."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    images: int = 3

    def score(self, outputs: Outputs) -> Tensor:
        self.images -= 1
        if self.images < 0:
            raise RuntimeError("the well is dry")
        return -outputs.logits.softmax(dim=1).amax(dim=1)


# --- classes of the network, and of the masks -------------------------------------------------


class Constant(nn.Module):
    """Says one class of C everywhere."""

    def __init__(self, classes: int, said: int) -> None:
        super().__init__()
        self.classes, self.said = classes, said

    def forward(self, images: Tensor) -> Tensor:
        logits = images.new_zeros(len(images), self.classes, *images.shape[2:])
        logits[:, self.said] = 3 + images[:, 0]
        return logits


@pytest.mark.parametrize(("classes", "said"), [(4, 3), (4, 1), (20, 19), (91, 2), (300, 290)])
def test_a_network_of_more_classes(classes: int, said: int, tmp_path: Path) -> None:
    told: list[str] = []
    found = evaluate(
        ["msp", "energy"],
        model=Constant(classes, said),
        report=told.append,
        pictures=tmp_path,
    )
    said_of_it = [w for w in found.warnings if f"predicts {classes} classes, but toy has 3" in w]
    assert len(said_of_it) == 1
    assert sum(said_of_it[0] in line for line in told) == 1
    test = toy().id.load("test")
    assert isinstance(test, Drawn)
    truth = np.concatenate([m[m != VOID] for m in test.masks])
    assert found.rows[0]["id_accuracy"] == pytest.approx((truth == said).mean())
    share = (truth == said).mean()
    assert found.rows[0]["id_miou"] == pytest.approx(share / 3)
    assert list(tmp_path.glob("*/*.png"))


@pytest.mark.parametrize("classes", [1, 2])
def test_a_network_of_fewer_classes_is_refused(classes: int) -> None:
    with pytest.raises(OptionError, match=f"predicts {classes} classes, but toy has 3 classes"):
        evaluate("msp", model=Constant(classes, 0))


def test_a_network_of_as_many_classes_is_nothing_to_speak_of() -> None:
    warnings = evaluate("msp", model=Constant(3, 1)).warnings
    assert not [text for text in warnings if "predicts" in text]


# --- detectors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("knn", "needs features"),
        ("mahalanobis", "needs features"),
        ("react", "needs features and head"),
        ("abet-react", "needs cosine_head and features"),
        ("odin", "needs model"),
        ("klm", "learns from training outputs"),
        ("tempscale", "learns from training outputs"),
    ],
)
def test_detectors_that_cannot_score_pixels(name: str, why: str) -> None:
    with pytest.raises(OptionError, match=f"^{name} {why}, which pixels do not have") as error:
        Segmentation().check(
            toy(), [oodbench.create_detector("msp"), oodbench.create_detector(name)]
        )
    able = str(error.value).partition("Pixels are scored by: ")[2].rstrip(".").split(", ")
    assert {"msp", "maxlogit", "energy", "abet"} <= set(able), "what can be used instead"
    Segmentation().check(toy(), [oodbench.create_detector(name) for name in able])


def test_detectors_that_can() -> None:
    """Those that the message names, and no other that is installed."""

    def is_able(name: str) -> bool:
        try:
            Segmentation().check(toy(), [oodbench.create_detector(name)])
        except OptionError:
            return False
        return True

    able = {name for name in oodbench.list_detectors() if is_able(name)}
    ablations = {"abet-energy", "abet-msp", "abet-temperature"}
    assert able == {"msp", "maxlogit", "energy", "entropy", "gen", "abet"} | ablations


def test_a_detector_that_learns_with_the_network_cannot() -> None:
    class Learns(Breaks):
        def fit_batches(self, model: nn.Module, batches: Any) -> Any:
            return self

    with pytest.raises(OptionError, match="Learns learns from training outputs"):
        Segmentation().check(toy(), [Learns()])


# --- pictures ---------------------------------------------------------------------------------


def test_a_picture_that_fails_loses_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(segmentation, "save_picture", full)
    found = evaluate(["msp", "energy"], pictures=tmp_path)
    assert len(found.rows) == 8
    assert sum("not all pictures" in text and "no space" in text for text in found.warnings) == 1


# --- rows -------------------------------------------------------------------------------------


def pooled(
    network: nn.Module, samples: Samples, preprocess: Preprocess, detector: Detector
) -> tuple[Array, Array]:
    """All scores of ID and of OOD pixels."""
    return of_pixels(segment(network, samples, preprocess, CPU), detector)


def of_pixels(images: Iterable[Any], detector: Detector) -> tuple[Array, Array]:
    """The same of images that the network has seen."""
    ids, oods = [], []
    for found in images:
        scores = found.score(detector)
        ids.append(scores[(found.mask != OOD) & (found.mask != VOID)])
        oods.append(scores[found.mask == OOD])
    return np.concatenate(ids), np.concatenate(oods)


def test_rows_of_a_given_network() -> None:
    """Images of different sizes; a network that is the user's own."""
    benchmark, network = toy(), Pixelwise()
    rows = by_name(evaluate(["msp", "abet", "abet-temperature"], benchmark, model=network))
    for name in ("msp", "abet", "abet-temperature"):
        detector = oodbench.create_detector(name)
        for ood in ("toy-near", "toy-far"):
            samples = next(c.spec.load("test") for c in benchmark.ood if c.spec.name == ood)
            ids, oods = pooled(network, samples, GREY, detector)
            row = rows[name, ood]
            assert (row["n_id"], row["n_ood"]) == (len(ids), len(oods))
            assert {m: row[m] for m in METRICS} == pytest.approx(
                exact.all_metrics(ids, oods), abs=1e-12
            )
            assert row["binning_error"] == 0
            assert row["auroc_low"] is row["auroc_high"] is None, "pixels are not independent"
            assert row["method"] == "external"
            assert row["id_accuracy_low"] is None
        for group in ("near", "far"):
            mean, single = rows[name, group], rows[name, f"toy-{group}"]
            assert mean["is_mean"]
            assert [mean[m] for m in METRICS] == [single[m] for m in METRICS]
            assert mean["binning_error"] == 0
    test = benchmark.id.load("test")
    assert isinstance(test, Drawn)
    prediction = [(np.where(i < 127.5, 0, 2)) for i in test.images]  # -2x or 3x is the largest
    right = [(p == m)[m != VOID] for p, m in zip(prediction, test.masks, strict=True)]
    assert row["id_accuracy"] == pytest.approx(np.concatenate(right).mean())


MANY = ("msp", "energy", "abet", "abet-msp", "entropy")


@pytest.mark.parametrize("kept", [True, False])
def test_each_image_is_seen_once_however_many_the_detectors(
    kept: bool, monkeypatch: pytest.MonkeyPatch, new_cache: Any
) -> None:
    if not kept:
        monkeypatch.setattr(segmentation, "MOST_KEPT", 100)
    for detectors in (MANY[:1], MANY):
        new_cache()
        assert run_evaluator(detectors, Pixelwise())[0] == 3 + 4 + 2
        again = run_evaluator(detectors, Pixelwise())[0]
        assert again == (0 if kept else 3 + 4 + 2)


class Counting(Drawn):
    """Counts how often its images are read."""

    reads = 0

    def __getitem__(self, index: int) -> Image.Image:
        self.reads += 1
        return super().__getitem__(index)


def test_an_image_is_read_once_for_all_evaluations() -> None:
    near = drawn("toy-near/test", seed=1)
    counting = Counting(near.name, near.images, near.masks)
    network = create_backbone("scenes-unet", 1)
    method = AbeTSegmentation(network, 3, RECIPE).eval()
    first = run_evaluator(["msp", "abet"], method, toy(near=counting))[1]
    reads = counting.reads
    assert reads <= len(counting) + 1  # one tells how many go through together
    second = run_evaluator([*MANY], method, toy(near=counting))[1]
    assert counting.reads == reads
    known = by_name(second)
    for key, row in by_name(first).items():
        assert {m: row[m] for m in METRICS} == {m: known[key][m] for m in METRICS}
        assert row["row_id"] == known[key]["row_id"]


@pytest.mark.parametrize("why", ["too large", "no room", "read-only"])
def test_what_cannot_be_kept_is_made_anew_with_the_same_figures(
    why: str, monkeypatch: pytest.MonkeyPatch, new_cache: Any
) -> None:
    expected = by_name(evaluate(MANY))
    new_cache()
    if why == "too large":
        monkeypatch.setattr(segmentation, "MOST_KEPT", 100)
    elif why == "no room":
        usage = shutil.disk_usage(".")._replace(free=100)
        monkeypatch.setattr(segmentation.shutil, "disk_usage", lambda _: usage)
    else:

        def refused() -> Path:
            raise StorageError("the cache cannot be written to")

        monkeypatch.setattr(segmentation.files, "writable_cache", refused)
    for _ in range(2):
        passes, rows = run_evaluator(MANY, Pixelwise())
        assert passes == 3 + 4 + 2
        found = by_name(rows)
        assert found.keys() == expected.keys()
        for key, row in found.items():
            assert row["row_id"] == expected[key]["row_id"]
            assert {m: row[m] for m in METRICS} == {m: expected[key][m] for m in METRICS}


def test_one_failing_detector_does_not_lose_the_others() -> None:
    alone = by_name(evaluate(["msp", "energy"]))
    # within the first OOD set, and within the second one
    for images in (2, 5):
        found = evaluate([oodbench.create_detector("msp"), Breaks(images), "energy"])
        assert list(found.failures) == ["Breaks"]
        assert "the well is dry" in found.failures["Breaks"]
        rows = by_name(found)
        assert set(rows) == set(alone)
        assert all(rows[key]["row_id"] == alone[key]["row_id"] for key in alone)
    plain = evaluate(["abet", "msp"], model=Pixelwise(tempered=False))
    assert "needs temperature" in plain.failures["abet"]
    assert {row["detector"] for row in plain} == {"msp"}
    with pytest.raises(RuntimeError, match="the well is dry"):
        evaluate([Breaks(2)])


@dataclass
class Meddles(Detector):
    """Changes what it reads, in some way."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    way: str = "torch"

    def score(self, outputs: Outputs) -> Tensor:
        scores = -outputs.logits.amax(dim=1)
        if self.way == "torch":
            outputs.logits.sub_(outputs.logits.amax(dim=1, keepdim=True))
        elif self.way == "numpy":
            outputs.logits.numpy()[:, 1] = 3
        else:
            outputs.extra["temperature"].numpy().sort()
        torch.manual_seed(1)
        torch.set_num_threads(3)
        return scores


@pytest.mark.parametrize("way", ["torch", "numpy", "extra"])
def test_a_detector_that_changes_its_inputs_harms_no_other(way: str) -> None:
    network = Pixelwise(tempered=True)
    threads = torch.get_num_threads()
    alone = by_name(evaluate(["msp", "abet"], model=network))
    found = evaluate([Meddles(way), "msp", "abet"], model=network)
    assert list(found.failures) == ["Meddles"]
    assert "changed the" in found.failures["Meddles"]
    rows = by_name(found)
    assert {key: row["row_id"] for key, row in rows.items()} == {
        key: row["row_id"] for key, row in alone.items()
    }
    assert torch.get_num_threads() == threads


def test_detectors_of_one_name_are_kept_apart() -> None:
    given = [oodbench.create_detector("gen", gamma=gamma) for gamma in (0.1, 0.9)]
    rows = [row for row in evaluate(given) if not row["is_mean"]]
    assert [row["detector_options"]["gamma"] for row in rows] == [0.1, 0.1, 0.9, 0.9]
    alone = [row for row in evaluate(given[:1]) if not row["is_mean"]]
    assert [row["auroc"] for row in rows[:2]] == [row["auroc"] for row in alone]


def test_a_diverged_network_is_no_result() -> None:
    network = Pixelwise()
    with torch.no_grad():
        network.scale[1] = float("nan")
    with pytest.raises(BadScoresError, match="logits that are NaN or infinite on toy/test"):
        evaluate(["msp", "energy"], model=network)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((VOID,), "0 ID and 0 OOD pixels"),
        ((0, 1, VOID), "ID and 0 OOD pixels"),
        ((OOD, VOID), " 0 ID and"),
    ],
)
def test_an_ood_set_without_id_or_without_ood_pixels(values: tuple[int, ...], told: str) -> None:
    with pytest.raises(DataError, match=r"^bare/test: there are") as error:
        evaluate("msp", toy(far=drawn("bare/test", values=values)))
    assert told in str(error.value)
    assert "masks" in str(error.value), "where to look"


def test_a_void_id_set_has_no_quality() -> None:
    benchmark = toy()
    void = drawn("void/test", values=(VOID, OOD))
    rows = evaluate("msp", dataclasses.replace(benchmark, id=spec("toy", void, ("train", "test"))))
    assert {(row["id_accuracy"], row["id_miou"]) for row in rows} == {(None, None)}
    assert all(row["auroc"] is not None for row in rows)


def test_another_callable_is_no_preprocessing_of_pixels() -> None:
    with pytest.raises(OptionError, match="Preprocess"):
        evaluate("msp", preprocess=lambda image: to_tensor(image))


# --- scenes, from training to pictures --------------------------------------------------------


OPTIONS = {"epochs": 1, "batch_size": 4}


def evaluate_scenes(detectors: Any, **options: Any) -> Results:
    return oodbench.evaluate(
        id="scenes",
        task="segmentation",
        detectors=detectors,
        recipe="quick",
        recipe_options=OPTIONS,
        hardware=CPU,
        **options,
    )


@pytest.mark.usefixtures("few_scenes")
def test_scenes_from_training_to_rows_and_pictures(tmp_path: Path) -> None:
    names = {"abet": "abet", "abet-temperature": "abet", "msp": "ce", "energy": "ce"}
    results = evaluate_scenes(list(names), pictures=tmp_path / "pictures")
    assert results.failures == results.missing == {}
    rows = by_name(results)
    benchmark = embedded.segmentation()
    test = benchmark.id.load("test")
    seen: dict[tuple[str, str], list[Any]] = {}
    qualities: dict[str, Quality] = {}
    for method in dict.fromkeys(names.values()):
        run_of = plan(benchmark, method, recipe="quick", overrides=OPTIONS)
        network = train(run_of, CPU)  # as the evaluation trained it
        qualities[method] = Quality(7)
        for found in segment(network, test, benchmark.preprocess, CPU):
            qualities[method].add(found.prediction, found.mask)
        for chosen in benchmark.ood:
            samples = chosen.spec.load("test")
            seen[method, chosen.spec.name] = [*segment(network, samples, benchmark.preprocess, CPU)]
    for name, method in names.items():
        quality, detector = qualities[method], oodbench.create_detector(name)
        for chosen in benchmark.ood:
            samples = chosen.spec.load("test")
            assert isinstance(samples, MaskedSamples)
            masks = np.stack([samples.mask(i) for i in range(6)])
            ids, oods = of_pixels(seen[method, chosen.spec.name], detector)
            row = rows[name, chosen.spec.name]
            assert (row["n_id"], row["n_ood"]) == (len(ids), len(oods))
            assert row["n_ood"] == (masks == OOD).sum() > 0
            assert row["n_id"] == (masks < 7).sum()
            assert row["n_id"] + row["n_ood"] == 6 * 54 * 54
            assert {m: row[m] for m in METRICS} == pytest.approx(
                exact.all_metrics(ids, oods), abs=1e-12
            )
            assert row["method"] == f"{method}-segmentation"
            assert row["group"] == chosen.group
            assert row["id_miou"] == pytest.approx(quality.miou)
            assert row["id_accuracy"] == pytest.approx(quality.accuracy)
            assert row["ood_fingerprint"] == samples.fingerprint
    far = {name: seen[method, "scenes-shapes"] for name, method in names.items()}
    check_pictures(tmp_path / "pictures", benchmark, far)


def check_pictures(folder: Path, benchmark: Benchmark, names: dict[str, list[Any]]) -> None:
    assert {path.name for path in folder.iterdir()} == set(names)
    for name, seen in names.items():
        files = sorted(path.name for path in (folder / name).iterdir())
        assert files == [
            f"scenes-{kind}-test-{i:03}.png" for kind in ("6-9", "shapes") for i in range(6)
        ]
        detector = oodbench.create_detector(name)
        samples = benchmark.far[0].load("test")
        for found in seen:
            path = folder / name / f"scenes-shapes-test-{found.index:03}.png"
            expected = picture(samples[found.index], found, found.score(detector))
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                assert image.format == "PNG"
                assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.usefixtures("few_scenes")
def test_evaluations_are_repeatable(new_cache: Any) -> None:
    first = evaluate_scenes(["abet"])
    new_cache()
    second = evaluate_scenes(["abet"])
    assert [row["row_id"] for row in first] == [row["row_id"] for row in second]
    assert all(row["row_id"] == row_id(row) for row in first)
    other = evaluate_scenes(["abet"], seed=1)
    assert other.rows[0]["auroc"] != first.rows[0]["auroc"]


def test_no_more_pictures_than_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PixelRunner, "PICTURES", 2)
    evaluate("msp", pictures=tmp_path)
    names = sorted(path.name for path in (tmp_path / "msp").iterdir())
    assert names == [f"toy-{group}-test-00{i}.png" for group in ("far", "near") for i in range(2)]


@pytest.mark.usefixtures("few_scenes")
def test_command_line(run: CLI, tmp_path: Path) -> None:
    words = ["eval", "--id", "scenes", "--task", "segmentation", "--epochs", "1"]
    words += ["--batch-size", "4", "--accelerator", "cpu"]
    ran = run(*words, "--detector", "msp", "--pictures", tmp_path)
    assert ran.status == 0, ran.both
    assert "ID mIoU" in ran.out
    assert "pixels" in ran.out
    assert len(list((tmp_path / "msp").glob("*.png"))) == 12
    message = run.refuses(*words, "--detector", "msp,knn")
    assert "knn needs features, which pixels do not have" in message
    assert all(f" {name}" in message for name in ("msp", "maxlogit", "energy"))


def test_all_detectors_are_those_that_can_score_pixels() -> None:
    told: list[str] = []
    found = evaluate("all", report=told.append)
    names = {row["detector"] for row in found}
    assert names == {"msp", "maxlogit", "energy", "entropy", "gen"}
    (left,) = [text for text in found.warnings if text.startswith("left out")]
    assert sum(left in line for line in told) == 1
    for name, why in (("knn", "needs features"), ("odin", "needs model"), ("klm", "learns")):
        assert name in left
        assert why in left
    assert not [name for name in names if f" {name}," in left]
    with pytest.raises(OptionError, match="knn needs features, which pixels do not have"):
        evaluate(["all", "knn"])


def test_a_detector_that_cannot_is_told_before_data_is_read() -> None:
    def load(_: str) -> Samples:
        raise AssertionError("read")

    unread = dataclasses.replace(toy(), id=DatasetSpec("toy", load, ("train", "test")))
    with pytest.raises(OptionError, match="knn needs features"):
        evaluate("knn", unread)


@pytest.mark.usefixtures("few_scenes")
def test_a_detector_that_cannot_score_pixels_is_told_before_training() -> None:
    told: list[str] = []
    with pytest.raises(OptionError, match="knn needs features"):
        evaluate_scenes("knn", report=told.append)
    assert not [line for line in told if line.startswith("training")]


class _Somebodys(nn.Module):
    """Half-size logits in a mapping, as torchvision's networks have them."""

    def __init__(self, key: str = "out") -> None:
        super().__init__()
        self.key = key
        self.layer = nn.Conv2d(1, 7, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {self.key: self.layer(x)}


@pytest.mark.usefixtures("few_scenes")
def test_somebody_elses_network() -> None:
    network = _Somebodys()
    bare = nn.Sequential(network.layer, nn.Upsample(scale_factor=2, mode="bilinear"))
    rows = [
        oodbench.evaluate(
            model,
            id="scenes",
            task="segmentation",
            detectors="msp",
            hardware=CPU,
            preprocess="benchmark",
        ).rows
        for model in (network, bare)
    ]
    assert [r["auroc"] for r in rows[0]] == pytest.approx([r["auroc"] for r in rows[1]])
    assert rows[0][0]["method"] == "external"
    with pytest.raises(OptionError, match=r"gives no logits \[B, C, H, W\]"):
        oodbench.evaluate(
            _Somebodys("other"),
            id="scenes",
            task="segmentation",
            detectors="msp",
            hardware=CPU,
            preprocess="benchmark",
        )

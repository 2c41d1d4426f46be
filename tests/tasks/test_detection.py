"""Detection: boxes are predicted once and kept, and the scores of an evaluation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import detection as zoo

import oodbench
from oodbench import Detector, Outputs, metrics
from oodbench.benchmark import Benchmark
from oodbench.data.transforms import InOwnSize
from oodbench.dataset import DatasetSpec
from oodbench.datasets.scenes import SceneBoxes, scenes
from oodbench.detectors.abet import AbeTDetection
from oodbench.detectors.ce_detection import CEDetection
from oodbench.errors import BadScoresError, DataError, OODBenchWarning, OptionError
from oodbench.evaluator import Evaluator
from oodbench.networks.boxes import BoxNetwork, scenes_frcnn
from oodbench.networks.rows import AT_ONCE
from oodbench.results.store import ResultStore
from oodbench.tasks.boxes import mean_average_precision
from oodbench.tasks.contender import Contender
from oodbench.tasks.detection import BoxRunner
from oodbench.training.boxes import DetectionMethod
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.boxes import CPU, PREPROCESS, at_work, few_scenes, untrained

# --- boxes, predicted and kept ---------------------------------------------------------------


def predicted(method: DetectionMethod, samples: SceneBoxes, least: float) -> Outputs:
    """What a method says of samples, without anything that keeps it."""
    parts = []
    for start in range(0, len(samples), AT_ONCE):
        rows = range(start, min(start + AT_ONCE, len(samples)))
        with torch.inference_mode():
            said = method.detect([InOwnSize(PREPROCESS)(samples[row]) for row in rows], least)
        parts.append({**said, "image": said["image"] + start})
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    features, logits, labels = (whole.pop(n) for n in ("features", "logits", "predicted"))
    return Outputs(features, logits, labels, method.head(), whole)


def test_boxes_are_predicted_once_and_kept() -> None:
    looks: list[int] = []
    method = untrained(AbeTDetection)
    samples = few_scenes(AT_ONCE + 3)
    assert not at_work(method).is_cached(samples)
    first = at_work(method, counter=looks.append).outputs_of(samples).outputs
    assert at_work(method).is_cached(samples)
    again = at_work(method, counter=looks.append)
    seen = again.outputs_of(samples)
    assert looks == [AT_ONCE + 3]
    assert set(first.extra) == {"image", "corners", "confidence", "cosine", "temperature"}
    for name in ("features", "logits", "labels"):
        assert torch.equal(getattr(first, name), getattr(seen.outputs, name))
    for name, value in first.extra.items():
        assert torch.equal(value, seen.outputs.extra[name])
    assert first.head is not None
    assert seen.outputs.head is not None
    assert seen.outputs.head.norm_eps == first.head.norm_eps
    assert int(first.extra["image"].max()) >= AT_ONCE  # counted over all batches
    expected = predicted(method, samples, 0.05)
    assert torch.equal(expected.logits, first.logits)
    assert torch.equal(expected.extra["corners"], first.extra["corners"])
    assert again.quality(seen)["id_map"] == mean_average_precision(expected, samples)
    assert not method.training


def test_confidence_selects_boxes() -> None:
    method = untrained(CEDetection)
    samples = few_scenes(4)
    looks: list[int] = []
    low = at_work(method, 0.05, looks.append).outputs_of(samples).outputs
    middle = float(low.extra["confidence"].median())
    high = at_work(method, middle, looks.append).outputs_of(samples).outputs
    chosen = low.extra["confidence"] >= middle
    assert 0 < len(high) < len(low)
    assert torch.equal(high.logits, low.logits[chosen])
    # nothing ran again, and average precision is of all boxes, whatever counts
    assert looks == [4]
    of_high = at_work(method, middle)
    of_low = at_work(method, 0.05)
    assert of_high.quality(of_high.outputs_of(samples)) == of_low.quality(
        of_low.outputs_of(samples)
    )


def test_no_box_at_all() -> None:
    found = at_work(untrained(CEDetection), 0.999).outputs_of(few_scenes(3))
    with pytest.raises(DataError, match=r"no box with a confidence of 0\.999.*id/test.*longer"):
        _ = found.outputs


def test_networks_that_predict_no_boxes() -> None:
    with pytest.raises(OptionError, match=r"Sequential predicts no boxes.*FasterRCNN"):
        at_work(nn.Sequential(nn.Flatten()))
    with pytest.raises(OptionError, match="Preprocess"):
        at_work(untrained(CEDetection), preprocess=cast(Any, lambda image: image))


def test_a_network_that_diverged() -> None:
    method = untrained(CEDetection)
    predictor = cast(Any, method.backbone).detector.roi_heads.box_predictor
    with torch.no_grad():
        predictor.classify.weight.fill_(float("nan"))
    with pytest.raises(BadScoresError, match=r"on id/test: .* NaN or infinite"):
        _ = at_work(method).outputs_of(few_scenes(2)).outputs


def test_somebody_elses_faster_rcnn() -> None:
    """As torchvision makes it, with normalisation and predictor of its own."""
    torch.manual_seed(0)
    theirs = scenes_frcnn().detector
    theirs.roi_heads.box_predictor = zoo.faster_rcnn.FastRCNNPredictor(128, 7)
    seen = at_work(theirs).outputs_of(few_scenes(3))
    assert seen.outputs.logits.shape == (len(seen.outputs), 6)
    head = seen.outputs.head
    assert head is not None
    assert torch.allclose(head(seen.outputs.features), seen.outputs.logits, atol=1e-5)
    assert BoxNetwork(theirs).num_classes == 6
    assert BoxNetwork(theirs).num_features == 128


class Theirs(nn.Module):
    """Somebody's own module, with no more than is asked for; it reads a file when it runs."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.inner, self.file = untrained(CEDetection), str(file)

    def detect(self, images: list[Tensor], least: float) -> dict[str, Tensor]:
        found = self.inner.detect(images, least)
        return {**found, "corners": found["corners"] + float(Path(self.file).read_text())}

    def head(self) -> Any:
        return self.inner.head()


def test_a_module_with_detect_and_head(tmp_path: Path) -> None:
    """Its boxes are kept, and looked at again, since its code may read anything."""
    samples, looks = few_scenes(9), list[int]()
    shift = tmp_path / "shift"
    shift.write_text("0")
    first = at_work(Theirs(shift), counter=looks.append).outputs_of(samples).outputs
    again = at_work(Theirs(shift), counter=looks.append)
    assert torch.equal(again.outputs_of(samples).outputs.logits, first.logits)
    assert looks == [9]
    assert again.has_known_weights()
    before = first.extra["corners"].clone()
    shift.write_text("3")
    changed = at_work(Theirs(shift), counter=looks.append)
    moved = changed.outputs_of(samples)
    with pytest.warns(OODBenchWarning, match="Theirs gives other outputs on id/test"):
        corners = moved.outputs.extra["corners"]
    assert torch.equal(corners, before + 3)
    assert looks == [9, 9]
    assert not changed.has_known_weights()
    assert changed.weights(moved).startswith("unknown:")


def of_classes(classes: int, seed: int = 0) -> zoo.FasterRCNN:
    torch.manual_seed(seed)
    theirs = scenes_frcnn().detector
    theirs.roi_heads.box_predictor = zoo.faster_rcnn.FastRCNNPredictor(128, 1 + classes)
    with torch.no_grad():
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(20)
    return theirs


# --- evaluation ------------------------------------------------------------------------------


def spec(name: str, content: Any, n: int) -> DatasetSpec:
    return DatasetSpec(
        name,
        lambda split: SceneBoxes(f"{name}/{split}", scenes(split, content)[: 2 * n]),
        ("train", "test") if content == "id" else ("test",),
    )


@pytest.fixture
def small() -> Benchmark:
    """A few scenes, with boxes of any confidence: one epoch gives no sure ones."""
    return Benchmark(
        "small/detection",
        spec("small", "id", 12),
        (spec("small-6-9", "near", 6),),
        (spec("small-pieces", "far", 6),),
        PREPROCESS,
        backbone="scenes-frcnn",
        task="detection",
        task_options={"confidence": 0.02},
    )


@dataclass
class Broken(Detector):
    """Fails."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, outputs: Outputs) -> Tensor:
        raise RuntimeError("on purpose")


@dataclass
class Meddles(Detector):
    """Changes what it reads."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def score(self, outputs: Outputs) -> Tensor:
        scores = outputs.features[:, 0].clone()
        outputs.features.numpy()[...] = 0
        outputs.extra["corners"].mul_(0)
        return scores


def test_a_detector_that_changes_its_inputs_harms_no_other(small: Benchmark) -> None:
    network = untrained(CEDetection)
    few: Any = dataclasses.replace(small, task_options={"confidence": 0.0})
    first = oodbench.evaluate(
        network, benchmark=few, detectors=["knn", "msp"], hardware=CPU, preprocess="benchmark"
    )
    found = oodbench.evaluate(
        network,
        benchmark=few,
        detectors=[Meddles(), "knn", "msp"],
        hardware=CPU,
        preprocess="benchmark",
    )
    assert list(found.failures) == ["Meddles"]
    assert [row["row_id"] for row in found] == [row["row_id"] for row in first]
    assert len(first) == 8


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of each set and detector; a picture of many boxes takes a while."""
    monkeypatch.setattr(BoxRunner, "PICTURES", 2)


@pytest.mark.usefixtures("few_pictures")
def test_an_evaluation(small: Benchmark, tmp_path: Path) -> None:
    options = {"epochs": 1, "batch_size": 8}
    results = oodbench.evaluate(
        benchmark=small,
        detectors=["abet", "abet-msp", "abet-react", "knn", cast(Any, Broken())],
        method="abet",
        recipe_options=options,
        hardware=CPU,
        pictures=tmp_path / "pictures",
        leaderboards=tmp_path / "leaderboards",
    )
    assert {row["detector"] for row in results} == {"abet", "abet-msp", "abet-react", "knn"}
    assert "on purpose" in results.failures["Broken"]
    method = train(plan(small, "abet", overrides=options), CPU)
    boxes = {
        samples.name: predicted(method, samples, 0.02)
        for samples in (
            small.id.load("test"),
            small.near[0].load("test"),
            small.far[0].load("test"),
        )
    }
    detector = oodbench.create_detector("abet")
    scores = {name: detector.score(found).numpy() for name, found in boxes.items()}
    for row in results:
        assert row["method"] == "abet-detection"
        assert row["id_accuracy"] is None
        assert 0 <= row["id_map"] <= 1
        assert row["n_id"] == len(boxes["small/test"])
        if row["detector"] == "abet" and not row["is_mean"]:
            ood = scores[f"{row['ood']}/test"]
            assert row["n_ood"] == len(ood)
            assert row["auroc"] == pytest.approx(metrics.auroc(scores["small/test"], ood))
    for name in ("abet", "knn"):
        drawn = sorted((tmp_path / "pictures" / name).glob("*.png"))
        assert len(drawn) == 3 * BoxRunner.PICTURES
        with Image.open(drawn[0]) as image:
            assert image.size == (384, 384)
    assert len(ResultStore(tmp_path / "leaderboards").rows("small/detection")) == len(results.rows)


@dataclass
class LearnsWithNetwork(Broken):
    def fit_batches(self, model: nn.Module, batches: Any) -> Any:
        return self


@pytest.mark.parametrize("detector", ["odin", "gram", "mcdropout", LearnsWithNetwork()])
def test_detectors_that_need_the_network_are_told_before_data_is_read(
    small: Benchmark, detector: Any
) -> None:
    def load(_: str) -> SceneBoxes:
        raise AssertionError("read")

    unread = replace(small, id=DatasetSpec("small", load, ("train", "test")))
    with pytest.raises(OptionError, match=r"network itself.* Boxes are scored by: .*energy"):
        oodbench.evaluate(benchmark=unread, detectors=["msp", detector], hardware=CPU)


def test_all_detectors_are_those_that_can_score_boxes(small: Benchmark) -> None:
    results = oodbench.evaluate(
        untrained(CEDetection),
        benchmark=small,
        detectors="all",
        hardware=CPU,
        preprocess="benchmark",
    )
    (left,) = [text for text in results.warnings if text.startswith("left out")]
    assert "odin" in left
    assert "knn" not in left
    assert {"msp", "knn", "vim"} <= {row["detector"] for row in results} | set(results.failures)
    assert "odin" not in results.failures


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("classes", [7, 90])
def test_a_detector_of_more_classes(small: Benchmark, classes: int, tmp_path: Path) -> None:
    """Its boxes of other classes are drawn, and match no object; it is said once."""
    sets = {"near": (one_class(small.near[0]),), "far": (one_class(small.far[0]),)}
    told: list[str] = []
    results = oodbench.evaluate(
        of_classes(classes),
        benchmark=replace(small, **cast(Any, sets)),
        detectors=["msp", "knn"],
        hardware=CPU,
        pictures=tmp_path,
        report=told.append,
        preprocess="benchmark",
    )
    said = [w for w in results.warnings if f"predicts {classes} classes, but the ID set has 6" in w]
    assert len(said) == 1
    assert sum(said[0] in line for line in told) == 1
    assert {row["detector"] for row in results} == {"msp", "knn"}
    assert len(list((tmp_path / "msp").glob("*.png"))) == 3 * BoxRunner.PICTURES


@pytest.mark.parametrize("classes", [1, 5])
def test_a_detector_of_fewer_classes_is_refused(small: Benchmark, classes: int) -> None:
    with pytest.raises(OptionError, match=f"predicts {classes} classes, but the ID set has 6"):
        oodbench.evaluate(
            of_classes(classes), benchmark=small, hardware=CPU, preprocess="benchmark"
        )


def one_class(spec: DatasetSpec) -> DatasetSpec:
    """The same images, as those of an OOD set that knows one class, as COCO's and OpenImages'."""

    def load(split: str) -> SceneBoxes:
        samples = cast(SceneBoxes, spec.load(split))
        samples.classes = ("not ID",)
        return samples

    return replace(spec, load=load)


def test_a_second_evaluation_runs_nothing(small: Benchmark) -> None:
    network = untrained(CEDetection)
    counts = []
    rows = []
    for _ in range(2):
        evaluator = Evaluator(small, hardware=CPU)
        rows.append(
            evaluator.run(
                Contender(network, preprocess="benchmark"), [oodbench.create_detector("msp")]
            ).rows
        )
        counts.append(evaluator.forward_passes)
    assert counts == [24 + 12 + 12, 0]
    assert [r["row_id"] for r in rows[0]] == [r["row_id"] for r in rows[1]]


def test_an_ood_set_without_a_box(small: Benchmark) -> None:
    """It is said, rather than left out of a mean."""
    sure = replace(small, task_options={"confidence": 0.99})
    with pytest.raises(DataError, match="no box"):
        oodbench.evaluate(
            untrained(CEDetection), benchmark=sure, hardware=CPU, preprocess="benchmark"
        )


def test_a_checkpoint_of_a_classifier_is_not_one_of_a_detector(small: Benchmark) -> None:
    with pytest.raises(OptionError, match="checkpoint"):
        oodbench.evaluate(
            benchmark=small, backbone="scenes-frcnn", checkpoint="x.safetensors", hardware=CPU
        )

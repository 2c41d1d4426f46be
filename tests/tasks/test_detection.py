"""Detection: what is said of boxes, how a network learns them, and the scores of an evaluation."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import detection as zoo

import oodbench
from oodbench import Detector, Outputs, Preprocess, metrics
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.data.samples import BoxedSamples, Boxes, Subset
from oodbench.data.transforms import InOwnSize
from oodbench.dataset import DatasetSpec
from oodbench.datasets.scenes import SceneBoxes, scenes
from oodbench.detectors.abet import AbeTDetection
from oodbench.detectors.ce_detection import CEDetection
from oodbench.errors import BadScoresError, DataError, OODBenchWarning, OptionError
from oodbench.evaluator import Evaluator
from oodbench.method import Recipe
from oodbench.networks.boxes import BoxNetwork, scenes_frcnn
from oodbench.networks.rows import AT_ONCE
from oodbench.results.store import ResultStore
from oodbench.tasks.boxes import mean_average_precision, picture
from oodbench.tasks.contender import Contender
from oodbench.tasks.detection import BoxRunner
from oodbench.training.boxes import DetectionMethod, FlipBoxes
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.boxes import CPU, PREPROCESS, at_work, few_scenes, untrained


def tensors(*sizes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(1, h, w, generator=generator) for h, w in sizes]


@dataclass
class Few(BoxedSamples):
    """Images and boxes that are given one by one."""

    images: list[np.ndarray]
    objects: list[Boxes]

    def __post_init__(self) -> None:
        super().__init__("few", np.zeros(len(self.images)), ("a", "b"))

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def boxes(self, index: int) -> Boxes:
        return self.objects[index]

    def _digests(self) -> np.ndarray:
        return np.arange(len(self.images), dtype=np.uint64)


def no_boxes() -> Boxes:
    return Boxes(np.zeros((0, 4)), np.zeros(0))


# --- what is said of boxes -------------------------------------------------------------------


@pytest.mark.parametrize("own_predictor", [True, False])
def test_boxes_are_those_of_torchvision(own_predictor: bool) -> None:
    """Of images of several sizes, at once, also where the network enlarges them."""
    torch.manual_seed(0)
    network = scenes_frcnn().eval()
    if own_predictor:
        network = cast(BoxNetwork, CEDetection(network, 6, Recipe()).eval().backbone)
        # as it starts, it moves no box, and many overlap as much as the next
        network.detector.roi_heads.box_predictor.regress.reset_parameters()
    images = tensors((64, 64), (48, 60), (30, 64))
    found = network.detect(images)
    with torch.no_grad():
        expected = network.detector(images)
    assert sum(len(e["boxes"]) for e in expected) > 20
    for i, theirs in enumerate(expected):
        mine = found["image"] == i
        assert torch.allclose(found["corners"][mine], theirs["boxes"], atol=1e-4)
        assert torch.allclose(found["confidence"][mine], theirs["scores"], atol=1e-6)
        assert torch.equal(found["predicted"][mine] + 1, theirs["labels"])


@pytest.mark.parametrize("kind", [CEDetection, AbeTDetection])
def test_a_row_has_what_its_class_was_predicted_from(kind: type[DetectionMethod]) -> None:
    method = untrained(kind)
    found = method.detect(tensors((64, 64), (64, 64)))
    head = method.head()
    assert head is not None
    assert found["logits"].shape == (len(found["image"]), 6)
    said = head(found["features"])
    if kind is AbeTDetection:
        assert torch.allclose(found["cosine"], said, atol=1e-6)
        said = said / found["temperature"][:, None]
    assert torch.allclose(found["logits"], said, rtol=1e-4, atol=1e-5)
    rows = torch.arange(len(found["image"]))
    # the background is part of the confidence, and of nothing else
    assert (found["confidence"] <= found["logits"].softmax(dim=1)[rows, found["predicted"]]).all()
    assert (found["confidence"] >= 0.05).all()


def test_a_box_on_nothing_else_than_what_is_asked_for() -> None:
    method = untrained(CEDetection)
    assert len(method.detect(tensors((64, 64)), least=0.999)["image"]) == 0
    many = method.detect(tensors((64, 64)), least=1e-6)
    assert len(many["image"]) == 100  # torchvision's limit


def test_batches_of_images_do_not_change_boxes() -> None:
    method = untrained(AbeTDetection)
    images = tensors((64, 64), (64, 64), (64, 64))
    together = method.detect(images)
    for i, image in enumerate(images):
        alone = method.detect([image])
        mine = together["image"] == i
        assert torch.allclose(together["corners"][mine], alone["corners"], atol=1e-4)
        assert torch.allclose(together["logits"][mine], alone["logits"], rtol=1e-3, atol=1e-4)


# --- learning --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CEDetection, AbeTDetection])
def test_images_without_objects_are_learned_from(kind: type[DetectionMethod]) -> None:
    method = untrained(kind).train()
    flip = FlipBoxes(PREPROCESS)
    images = [Image.fromarray(np.full((64, 64), v, np.uint8)) for v in (10, 200)]
    one = Boxes(np.array([[10, 10, 40, 40]]), np.array([2]))
    unknown = Boxes(np.array([[10, 10, 40, 40]]), np.array([-1]))
    for second in (one, unknown, no_boxes()):
        batch = [flip(images[0], no_boxes(), random.Random(0))]
        batch.append(flip(images[1], second, random.Random(0)))
        losses = method.loss(*method.collate(batch))
        parts = [value for name, value in losses.items() if name != "loss"]
        assert len(parts) == 4
        assert torch.allclose(losses["loss"], sum(parts, torch.tensor(0.0)))
        losses["loss"].backward()
        grads = [p.grad for p in method.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        assert (losses["loss_box_reg"] > 0) == (second is one)


def test_boxes_are_flipped_with_their_image() -> None:
    image = np.zeros((40, 60), np.uint8)
    image[5:15, 8:30] = 255
    boxes = Boxes(np.array([[8, 5, 30, 15], [0, 0, 5, 5]]), np.array([3, -1]))
    flips = FlipBoxes(Preprocess(64, (0.0,), (1.0,), mode="L", flip=True))
    seen = set()
    for seed in range(8):
        pixels, target = flips(Image.fromarray(image), boxes, random.Random(seed))
        assert target["labels"].tolist() == [4]  # torchvision's 0 is the background
        left, top, right, bottom = (int(v) for v in target["boxes"][0])
        assert bool((pixels[0, top:bottom, left:right] == 1).all())
        assert float(pixels.sum()) == (bottom - top) * (right - left)
        seen.add(left)
    assert seen == {8, 30}
    _, target = FlipBoxes(PREPROCESS)(Image.fromarray(image), boxes, random.Random(1))
    assert target["boxes"].tolist() == [[8, 5, 30, 15]]


def test_a_backbone_that_predicts_no_boxes() -> None:
    with pytest.raises(OptionError, match=r"predicts no boxes.*scenes-frcnn"):
        CEDetection(nn.Identity(), 6, Recipe())
    with pytest.raises(OptionError, match=r"gives features, but boxes are needed.*scenes-frcnn"):
        plan(get_benchmark("scenes", task="detection"), "ce", backbone="digits-cnn").build()


# --- mean average precision ------------------------------------------------------------------


def table(*rows: tuple[int, tuple[float, ...], float, int]) -> Outputs:
    image, corners, confidence, predicted = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Outputs(
        labels=torch.tensor(predicted, dtype=torch.int64),
        extra={
            "image": torch.tensor(image, dtype=torch.int64),
            "corners": torch.tensor(corners).reshape(-1, 4),
            "confidence": torch.tensor(confidence),
        },
    )


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


def test_mean_average_precision_by_hand() -> None:
    image = np.zeros((64, 64), np.uint8)
    first = Boxes(
        np.array([[0, 0, 10, 10], [20, 20, 40, 40], [0, 50, 9, 60]]), np.array([0, 0, -1])
    )
    samples = Few([image, image], [first, Boxes(np.array([[5, 5, 15, 15]]), np.array([1]))])
    right = (0, (0, 0, 10, 10), 0.9, 0)
    also = (0, (21, 21, 40, 40), 0.6, 0)
    other = (1, (5, 5, 15, 15), 0.4, 1)
    assert mean_average_precision(table(right, also, other), samples) == pytest.approx(1.0)
    # a mistake between the two: precision 1 up to a recall of 1/2, 2/3 beyond; COCO's 101 points
    wrong = (1, (40, 40, 60, 60), 0.7, 0)
    half = (51 * 1 + 50 * 2 / 3) / 101
    found = mean_average_precision(table(right, wrong, also, other), samples)
    assert found == pytest.approx((half + 1) / 2, abs=1e-6)
    # of two boxes on one object, the second is a mistake, but below all others
    again = (0, (0, 0, 10, 9), 0.1, 0)
    assert mean_average_precision(table(right, also, other, again), samples) == pytest.approx(1.0)
    # rows in any order; a class without boxes has precision 0
    assert mean_average_precision(table(also, right), samples) == pytest.approx(0.5)
    assert mean_average_precision(table(), samples) == 0.0


def test_no_objects_have_no_precision() -> None:
    samples = Few([np.zeros((64, 64), np.uint8)], [no_boxes()])
    assert mean_average_precision(table(), samples) is None
    assert mean_average_precision(table((0, (0, 0, 9, 9), 0.9, 1)), samples) is None


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


def test_samples_without_boxes() -> None:
    """They will do as OOD images, but not as ID ones."""
    digits = get_benchmark("digits").id.load("test")
    runner = at_work(untrained(CEDetection))
    seen = runner.outputs_of(Subset(digits, range(5)))
    assert len(seen.outputs) > 0
    with pytest.raises(DataError, match="has no boxes"):
        runner.quality(seen)
    with pytest.raises(DataError, match="has no boxes"):
        CEDetection.target(digits, 0)


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


def test_labels_beyond_the_classes_are_named() -> None:
    samples = Few([np.zeros((8, 8), np.uint8)], [Boxes(np.array([[0, 0, 4, 4]]), np.array([2]))])
    with pytest.raises(DataError, match=r"few, image 0: a box has the label 2, .* 0 to 1"):
        DetectionMethod.target(samples, 0)
    with pytest.raises(DataError, match="count from 1"):
        mean_average_precision(table((0, (0, 0, 4, 4), 0.9, 1)), samples)


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


def test_objects_that_are_predicted_as_no_class_are_missed() -> None:
    samples = Few([np.zeros((9, 9), np.uint8)], [Boxes(np.array([[0, 0, 9, 9]]), np.array([1]))])
    right = mean_average_precision(table((0, (0, 0, 9, 9), 0.9, 1)), samples)
    wrong = mean_average_precision(table((0, (0, 0, 9, 9), 0.9, 57)), samples)
    both = table((0, (0, 0, 9, 9), 0.9, 57), (0, (0, 0, 9, 9), 0.8, 1))
    assert right == mean_average_precision(both, samples) == pytest.approx(1)
    assert wrong == pytest.approx(0)


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


# --- pictures --------------------------------------------------------------------------------


def test_pictures_show_boxes() -> None:
    grey = Image.fromarray(np.full((64, 64), 90, np.uint8))
    corners = np.array([[10, 20, 30, 40], [40, 5, 60, 25]], np.float32)
    colours = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    drawn = np.asarray(picture(grey, corners, ["1 -3.20", "2 0.10"], colours))
    assert drawn.shape == (384, 384, 3)
    assert drawn[6 * 30, 60].tolist() == [255, 0, 0]
    assert drawn[6 * 15, 240].tolist() == [0, 0, 255]
    assert drawn[6 * 50, 30].tolist() == [90, 90, 90]
    empty = np.asarray(picture(grey, corners[:0], [], colours[:0]))
    assert (empty == 90).all()


@pytest.mark.parametrize(("height", "width"), [(1200, 1600), (5000, 20), (40, 3000)])
def test_pictures_of_large_photographs_are_shrunk_with_their_boxes(height: int, width: int) -> None:
    large = Image.fromarray(np.full((height, width, 3), 90, np.uint8))
    corners = np.array([[0, 0, width, height]], np.float32)
    colours = np.array([[255, 0, 0]], np.uint8)
    drawn = picture(large, corners, [""], colours)
    assert max(drawn.size) == 512
    pixels = np.asarray(drawn)
    assert pixels[drawn.height // 2, 0].tolist() == [255, 0, 0]
    assert large.size == (width, height)

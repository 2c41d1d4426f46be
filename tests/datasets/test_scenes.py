"""The embedded scenes: the same each time, with masks and boxes that fit what is drawn."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from oodbench import DatasetSpec, get_benchmark
from oodbench.data.samples import OOD, BoxedSamples, MaskedSamples
from oodbench.datasets import scenes as embedded
from oodbench.datasets.digits import DIGITS, DIGITS_6_9
from oodbench.datasets.scenes import COUNTS, SIZE, Content, Scene, SceneMasks, scenes
from oodbench.errors import OptionError
from tests.helpers.attempts import Server

Array = np.ndarray[Any, np.dtype[Any]]

CONTENTS: tuple[Content, ...] = get_args(Content)
ALL = [(split, content) for split in COUNTS for content in CONTENTS]


def specs() -> dict[str, tuple[DatasetSpec, str]]:
    """Every split of every dataset of both benchmarks."""
    found = {}
    for task in ("segmentation", "detection"):
        benchmark = get_benchmark("scenes", task=task)
        for spec in (benchmark.id, *benchmark.near, *benchmark.far):
            for split in spec.splits:
                found[f"{task} {spec.name}/{split}"] = (spec, split)
    return found


def boxes_of(scene: Scene) -> list[tuple[int, int, int, int]]:
    return [tuple(map(int, corners)) for corners in scene.boxes.corners.tolist()]  # type: ignore[misc]


# --- the same each time -----------------------------------------------------------------------


def fingerprints() -> dict[str, str]:
    return {name: spec.load(split).fingerprint for name, (spec, split) in specs().items()}


def test_the_same_each_time() -> None:
    first = fingerprints()
    embedded.scenes.cache_clear()
    assert fingerprints() == first
    assert len(set(first.values())) == len(first), "no two sets are one"


def test_the_same_in_another_process(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import {__name__} as scenes; print(scenes.fingerprints())")
    assert server.prints(script).strip() == str(fingerprints())


def test_what_is_in_a_scene_is_in_its_fingerprint() -> None:
    whole = scenes("val", "id")[:4]
    before = SceneMasks("a", whole).digests
    for field in ("image", "classes"):
        changed = getattr(whole[2], field).copy()
        changed[5, 5] ^= 1
        others = (*whole[:2], dataclasses.replace(whole[2], **{field: changed}), whole[3])
        assert (SceneMasks("a", others).digests != before).tolist() == [False, False, True, False]


def test_no_scene_is_another() -> None:
    """Training on what is tested on would show here first."""
    images = [scene.image.tobytes() for split, c in ALL for scene in scenes(split, c)]
    assert len(set(images)) == len(images)


# --- counts and labels ------------------------------------------------------------------------


def test_counts() -> None:
    found = {name: len(spec.load(split)) for name, (spec, split) in specs().items()}
    assert found == {
        f"{task} {name}": n
        for task in ("segmentation", "detection")
        for name, n in (
            ("scenes/train", 600),
            ("scenes/val", 100),
            ("scenes/test", 200),
            ("scenes-6-9/test", 200),
            ("scenes-shapes/test", 200),
        )
    }


def test_samples_are_their_scenes() -> None:
    for spec, split in specs().values():
        samples = spec.load(split)
        assert samples.in_memory
        assert samples.labels.tolist() == [0] * len(samples)
        assert len({samples[i].size for i in range(len(samples))} | {(SIZE, SIZE)}) == 1
        assert {samples[i].mode for i in range(len(samples))} == {"L"}
        if isinstance(samples, MaskedSamples):
            assert samples.classes == ("background", *"012345")
        else:
            assert samples.classes == tuple("012345")


@pytest.mark.parametrize(("split", "content"), ALL)
def test_labels_are_in_their_range(split: str, content: Content) -> None:
    for scene in scenes(split, content):
        known = scene.boxes.labels[scene.boxes.labels >= 0]
        strangers = int((scene.boxes.labels == -1).sum())
        assert 1 <= len(scene.boxes.labels) <= 3
        assert len(known) + strangers == len(scene.boxes.labels)
        assert known.max(initial=0) <= 5
        assert set(np.unique(scene.classes)) <= {0, *(known + 1), OOD}
        if content == "id":
            assert strangers == 0
        elif content.startswith("id+"):
            assert strangers == 1
        else:
            assert len(known) == 0


def test_all_classes_occur() -> None:
    for split in COUNTS:
        drawn = np.concatenate([scene.boxes.labels for scene in scenes(split, "id")])
        assert np.bincount(drawn, minlength=6).min() > len(drawn) / 12
        numbers = [len(scene.boxes.labels) for scene in scenes(split, "id")]
        assert np.mean([n >= 2 for n in numbers]) > 0.95, "few have no room for a second object"


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_ood_sets_of_the_benchmarks(task: str) -> None:
    """Pixels: OOD objects among ID ones. Boxes: no ID object, since every box is called OOD."""
    benchmark = get_benchmark("scenes", task=task)
    assert [c.group for c in benchmark.ood] == ["near", "far"]
    for chosen in benchmark.ood:
        samples = chosen.spec.load("test")
        if isinstance(samples, MaskedSamples):
            masks = np.stack([samples.mask(i) for i in range(len(samples))])
            assert (masks == OOD).any(axis=(1, 2)).all()
            assert ((masks > 0) & (masks < OOD)).any(axis=(1, 2)).mean() > 0.9
        else:
            assert isinstance(samples, BoxedSamples)
            labels = [samples.boxes(i).labels for i in range(len(samples))]
            assert min(map(len, labels)) >= 1
            assert set(np.concatenate(labels)) == {-1}
    for split in ("train", "test"):
        samples = benchmark.id.load(split)
        for i in range(len(samples)):
            if isinstance(samples, MaskedSamples):
                assert samples.mask(i).max() <= 6
            elif isinstance(samples, BoxedSamples):
                assert samples.boxes(i).labels.min() >= 0


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_unknown_split(task: str) -> None:
    with pytest.raises(OptionError, match="train, val, test, not 'dev'"):
        get_benchmark("scenes", task=task).id.load("dev")


# --- boxes, masks and images ------------------------------------------------------------------


@pytest.mark.parametrize(("split", "content"), ALL)
def test_each_box_bounds_its_object(split: str, content: Content) -> None:
    """Boxes do not overlap, so the pixels in one are its object's; there are no others."""
    for scene in scenes(split, content):
        covered = np.zeros((SIZE, SIZE), int)
        boxes = boxes_of(scene)
        for (left, top, right, bottom), label in zip(boxes, scene.boxes.labels, strict=True):
            assert 0 <= left < right <= SIZE
            assert 0 <= top < bottom <= SIZE
            assert max(right - left, bottom - top) <= 28
            covered[top:bottom, left:right] += 1
            inside = scene.classes[top:bottom, left:right]
            assert set(np.unique(inside)) <= {0, 1 + label if label >= 0 else OOD}
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any(), "the box is no larger than the object"
        assert covered.max() == 1
        assert not scene.classes[covered == 0].any()


def test_a_digit_is_light() -> None:
    """What is under a digit's mask is lighter than the scene was: its ink is white."""
    for scene in scenes("test", "id")[:50]:
        assert scene.image[scene.classes > 0].min() >= 32 + 0.35 * (255 - 32) - 1
        background = scene.image[scene.classes == 0]
        assert np.median(background) <= 32 + 255 / 2


@pytest.mark.parametrize("content", ["id", "near"])
def test_digits_are_those_of_the_split(content: Content) -> None:
    """Each is one of the split's own digits, enlarged, and has its label."""
    kind = DIGITS if content == "id" else DIGITS_6_9
    for split in ("train", "test"):
        samples = kind.load(split if content == "id" else "test")
        shapes: dict[tuple[int, bytes], set[int]] = {}
        sides = range(20, 29)
        for i in range(len(samples)):
            for side in sides:
                large = samples[i].resize((side, side), Image.Resampling.BICUBIC)
                shape = np.asarray(large) / 255 > 0.35
                ys, xs = np.nonzero(shape)
                cut = shape[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
                key = (cut.shape[1], cut.tobytes())
                shapes.setdefault(key, set()).add(int(samples.labels[i]))
        for scene in scenes(split, content)[:60]:
            for (left, top, right, bottom), label in zip(
                boxes_of(scene), scene.boxes.labels, strict=True
            ):
                cut = scene.classes[top:bottom, left:right] > 0
                found = shapes.get((cut.shape[1], cut.tobytes()), set())
                assert found, "a digit that this split does not have"
                assert content == "near" or int(label) in found


def photograph() -> Array:
    return np.asarray(Image.fromarray(load_sample_images().images[0]).convert("L"))


def places(whole: Array, crop: Array, known: Array) -> list[int]:
    """Where the known pixels of a crop are in a photograph: the left sides."""
    height, width = crop.shape
    lasts = whole.shape[0] - height + 1, whole.shape[1] - width + 1
    tops, lefts = (axis.ravel() for axis in np.indices(lasts))
    for y, x in np.argwhere(known):
        fits = whole[tops + y, lefts + x] == crop[y, x]
        tops, lefts = tops[fits], lefts[fits]
    return sorted(set(lefts.tolist()))


@pytest.mark.parametrize("split", list(COUNTS))
def test_splits_have_other_halves_of_the_photograph(split: str) -> None:
    """All but the shapes is the photograph, at half its contrast."""
    ground = photograph()
    half = ground.shape[1] // 2
    dulled = np.rint(32 + ground / 2).astype(np.uint8)
    for scene in scenes(split, "far")[:12]:
        at = places(dulled, scene.image, scene.classes == 0)
        assert at
        assert is_in_half(split, at, half, SIZE)


def is_in_half(split: str, lefts: list[int], half: int, side: int) -> bool:
    """Whether one of the places (a bare sky has several) is where the split may look."""
    if split == "train":
        return any(left + side <= half for left in lefts)
    return any(left >= half for left in lefts)


# --- far-OOD shapes ---------------------------------------------------------------------------


def shapes_of(scene: Scene) -> list[tuple[Array, Array]]:
    """Each OOD object's pixels and mask, cut to its box."""
    found = []
    for (left, top, right, bottom), label in zip(boxes_of(scene), scene.boxes.labels, strict=True):
        window = np.s_[top:bottom, left:right]
        if label < 0:
            found.append((scene.image[window], scene.classes[window] == OOD))
    return found


@pytest.mark.parametrize("content", ["far", "id+far"])
def test_far_ood_is_no_photograph(content: Content) -> None:
    """A piece of a photograph would be background: what a network is right to call background.

    Backgrounds have half a photograph's contrast, 32 to 160; a shape has pixels beyond both ends
    of the middle and its neighbouring pixels differ as those of no photograph do.
    """
    steps = []
    for scene in scenes("test", content):
        for image, shape in shapes_of(scene):
            inside = image[shape].astype(float)
            assert inside.min() < 96
            assert inside.max() > 160, "a background has no pixel as light"
            both = shape[:, 1:] & shape[:, :-1]
            steps.append(np.abs(np.diff(image.astype(float), axis=1))[both].mean())
    background = np.rint(32 + photograph() / 2)
    usual = np.abs(np.diff(background, axis=1)).mean()
    assert np.median(steps) > 5 * usual


def test_far_ood_is_no_digit() -> None:
    """Shapes are convex and fill their box as no stroke does; each is there to be seen."""
    for scene in scenes("test", "far"):
        for _, shape in shapes_of(scene):
            assert shape.sum() >= 100
            assert shape.mean() > 0.35
            for lines in (shape, shape.T):
                starts = np.diff(lines.astype(int), axis=1, prepend=0) == 1
                assert starts.sum(axis=1).max() == 1, "one run of pixels a line"


def test_shapes_and_patterns_are_of_every_kind() -> None:
    rng = np.random.default_rng(0)
    sizes = {int(embedded._shape(rng, 28).sum()) // 40 for _ in range(200)}
    assert len(sizes) >= 5
    patterns = {embedded._pattern(rng, 20).round(3).tobytes() for _ in range(200)}
    assert len(patterns) == 200
    levels = [len(np.unique(embedded._pattern(rng, 20))) for _ in range(200)]
    assert min(levels) == 2
    assert 0.1 < np.mean([n > 2 for n in levels]) < 0.4, "a quarter is noise"


def test_the_page_says_how_much_is_background() -> None:
    benchmark = get_benchmark("scenes", task="segmentation")
    counts = np.zeros(256, int)
    for chosen in benchmark.ood:
        samples = chosen.spec.load("test")
        assert isinstance(samples, MaskedSamples)
        for i in range(len(samples)):
            counts += np.bincount(samples.mask(i).ravel(), minlength=256)
    share = counts[0] / counts[:OOD].sum()
    assert f"{100 * share:.0f} % are background" in benchmark.remarks[0]

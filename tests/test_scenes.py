"""The embedded scenes: the same each time, with masks and boxes that fit what is drawn."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from oodbench import DatasetSpec, get_benchmark
from oodbench.datasets import scenes as embedded
from oodbench.datasets.digits import DIGITS, DIGITS_6_9
from oodbench.datasets.scenes import COUNTS, SIZE, Content, Scene, SceneMasks, scenes
from oodbench.errors import OptionError
from oodbench.samples import OOD, BoxedSamples, MaskedSamples

from .conftest import REPOSITORY

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


def test_the_same_in_another_process() -> None:
    code = "from tests.test_scenes import fingerprints; print(fingerprints())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert found.stdout.strip() == str(fingerprints())


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
            ("scenes-pieces/test", 200),
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


def photographs() -> list[Array]:
    return [np.asarray(Image.fromarray(p).convert("L")) for p in load_sample_images().images]


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
def test_splits_have_other_halves_of_the_photographs(split: str) -> None:
    ground, pieces = photographs()
    half = ground.shape[1] // 2
    dulled = np.rint(32 + ground / 2).astype(np.uint8)
    for scene in scenes(split, "far")[:12]:
        known = np.ones((SIZE, SIZE), bool)
        for left, top, right, bottom in boxes_of(scene):
            known[top:bottom, left:right] = False
            piece = scene.image[top:bottom, left:right]
            at = places(pieces, piece, np.ones(piece.shape, bool))
            assert at
            assert is_in_half(split, at, half, right - left)
        at = places(dulled, scene.image, known)
        assert at
        assert is_in_half(split, at, half, SIZE)


def is_in_half(split: str, lefts: list[int], half: int, side: int) -> bool:
    """Whether one of the places (a bare sky has several) is where the split may look."""
    if split == "train":
        return any(left + side <= half for left in lefts)
    return any(left >= half for left in lefts)

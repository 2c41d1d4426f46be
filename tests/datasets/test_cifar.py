"""CIFAR: OpenOOD's and PALM's benchmarks, and torchvision's archives."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oodbench import DatasetSpec, files, get_benchmark
from oodbench.datasets import _sources, images
from oodbench.download.described import Download
from oodbench.errors import DataError
from oodbench.registry import DATASETS
from tests.conftest import SHARED
from tests.helpers import layouts
from tests.helpers.cli import CLI
from tests.helpers.datasets import images_of
from tests.helpers.layouts import Part, as_published
from tests.helpers.networks import untrained
from tests.helpers.publisher import Publisher, publish_on_hub, publishing

CIFAR = {
    # dataset: archive's folder, files (split, name), label key, class names' file and key
    "cifar10": (
        "cifar-10-batches-py",
        [("train", f"data_batch_{i}") for i in range(1, 6)] + [("test", "test_batch")],
        "labels",
        ("batches.meta", "label_names"),
    ),
    "cifar100": (
        "cifar-100-python",
        [("train", "train"), ("test", "test")],
        "fine_labels",
        ("meta", "fine_label_names"),
    ),
}


# The definitions


def test_cifar_benchmarks_have_openoods_and_palms_sets() -> None:
    def sets(name: str) -> tuple[list[str], list[str]]:
        found = get_benchmark(benchmark=name)
        return [s.name for s in found.near], [s.name for s in found.far]

    openood = ["mnist", "svhn", "textures", "places365"]
    assert sets("cifar10") == (["cifar100", "tin"], openood)
    assert sets("cifar100") == (["cifar10", "tin"], openood)
    assert sets("cifar100/palm") == ([], ["svhn", "places365", "lsun-c", "isun", "textures"])
    assert get_benchmark(benchmark="cifar100/palm").protocol.fpr == "fpr95_id"
    assert get_benchmark("cifar100").protocol.fpr == "fpr95_ood"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_openoods_benchmarks_crop_what_is_not_square(name: str) -> None:
    """Resize(32) of the short side and CenterCrop(32); without ``/openood`` both sides at once."""
    bars = Image.fromarray(np.repeat(np.uint8([[255] * 32 + [0] * 64 + [255] * 32]), 64, axis=0))
    stretched, cropped = (
        get_benchmark(benchmark=full).preprocess.fit_image(bars)
        for full in (name, f"{name}/openood")
    )
    assert np.asarray(cropped).max() < 40, "the dark middle alone"
    assert np.asarray(stretched)[:, [0, -1]].min() > 200, "the bright ends too"
    whole, openood = get_benchmark(name), get_benchmark(benchmark=f"{name}/openood")
    assert openood.preprocess == dataclasses.replace(whole.preprocess, resize="crop")


def _write_cifar(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A small archive in the layout of the real one, and its checksums in torchvision's list."""
    from torchvision import datasets

    folder, members, label_key, (meta, meta_key) = CIFAR[name]
    cls = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    (root / folder).mkdir(parents=True)
    sums: dict[str, list] = {"train": [], "test": []}
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for number, (split, member) in enumerate(members):
        part = images_of(3, seed=number)
        images[split].append(part)
        rows = part.transpose(0, 3, 1, 2).reshape(3, -1)
        content = pickle.dumps({"data": rows, label_key: [0, 1, 0]})
        (root / folder / member).write_bytes(content)
        sums[split].append([member, hashlib.md5(content).hexdigest()])
    content = pickle.dumps({meta_key: ["cat", "dog"]})
    (root / folder / meta).write_bytes(content)
    monkeypatch.setattr(cls, "train_list", sums["train"])
    monkeypatch.setattr(cls, "test_list", sums["test"])
    md5 = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(cls, "meta", {"filename": meta, "key": meta_key, "md5": md5})
    return {split: np.concatenate(parts) for split, parts in images.items()}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("inside", [".", "{name}"])
def test_torchvisions_cifar(name: str, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files.data_dir() / inside.format(name=name)
    images = _write_cifar(name, root, monkeypatch)
    for split in ("train", "test"):
        samples = DATASETS.get(name).load(split)
        assert samples.name == f"{name}/{split}"
        assert samples.classes == ("cat", "dog")
        assert samples.labels.tolist()[:3] == [0, 1, 0]
        for i, expected in enumerate(images[split]):
            assert np.array_equal(np.asarray(samples[i]), expected)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_changed_torchvision_cifar_is_not_unpickled(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, members, *_ = CIFAR[name]
    _write_cifar(name, files.data_dir(), monkeypatch)
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    for _, member in members:
        (files.data_dir() / folder / member).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="incomplete or changed") as error:
        DATASETS.get(name).load("test")
    assert str(files.data_dir() / folder) in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar10/openood", "cifar100/palm", "cifar100/abet"])
def test_networks_of_a_few_epochs_are_short_runs(name: str) -> None:
    protocol = get_benchmark(benchmark=name).protocol
    assert protocol.least_accuracy == {"cifar10": 0.90, "cifar100": 0.65}[name.split("/")[0]]
    assert "arXiv" in protocol.least_accuracy_source


# From an empty data folder to rows in one command: real images, packed as their publishers do

CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
Sets = Mapping[str, Mapping[str, Part]]


def part_of(pixels: np.ndarray, classes: Sequence[str]) -> Part:
    labels = [i % len(classes) for i in range(len(pixels))]
    return Part([layouts.encoded(one) for one in pixels], labels, classes)


@pytest.fixture(scope="module")
def few() -> Sets:
    """Pieces of photographs, and handwritten digits, of the package that everybody has."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.kron(digits.images[:60] / 16 * 255, np.ones((3, 3))).astype(np.uint8)
    grey = np.pad(grey, ((0, 0), (2, 2), (2, 2)))
    numbers = [int(one) for one in digits.target[:60]]
    written = [layouts.encoded(one) for one in grey]
    names = [str(i) for i in range(10)]
    hundred = [f"class{i:02}" for i in range(100)]
    return {
        "cifar10": {
            "train": part_of(layouts.patches(50, 32, 1), CIFAR10_CLASSES),
            "test": part_of(layouts.patches(30, 32, 2), CIFAR10_CLASSES),
        },
        "cifar100": {
            "train": part_of(layouts.patches(200, 32, 3), hundred),
            "test": part_of(layouts.patches(100, 32, 4), hundred),
        },
        "mnist": {
            "train": Part(written[:40], numbers[:40], names),
            "test": Part(written[40:], numbers[40:], names),
        },
    }


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    """Samples of the sets themselves, of the folder with real data."""
    root = tmp_path_factory.mktemp("samples")
    sets = {}
    for name in ("cifar10", "cifar100", "mnist"):
        with zipfile.ZipFile(SHARED / "data" / f"{name}.zip") as archive:
            archive.extractall(root)
        sets[name] = {split: part_below(root / name / split) for split in ("train", "test")}
    return sets


def part_below(folder: Path) -> Part:
    paths = sorted(folder.glob("*/*.*"))
    classes = sorted({path.parent.name for path in paths})
    labels = [classes.index(path.parent.name) for path in paths]
    return Part([path.read_bytes() for path in paths], labels, classes)


def put(publisher: Publisher, download: Download, contents: Sequence[bytes]) -> None:
    for file, content in zip(download.files, contents, strict=True):
        publisher.put("/" + file.url.partition("://")[2], content)


def publish_parquet(publisher: Publisher, sets: Sets) -> None:
    """CIFAR and MNIST as the hub has them."""
    columns = {
        "uoft-cs/cifar10": ("cifar10", "plain_text", "img", "label"),
        "uoft-cs/cifar100": ("cifar100", "cifar100", "img", "fine_label"),
        "ylecun/mnist": ("mnist", "mnist", "image", "label"),
    }
    for repository, (name, config, image, label) in columns.items():
        shards = {
            f"{config}/{split}-00000-of-00001.parquet": layouts.parquet(
                part, image, label, coarse=label != "label"
            )
            for split, part in sets[name].items()
        }
        publish_on_hub(publisher, repository, shards)


def publish_archives(publisher: Publisher, patch: pytest.MonkeyPatch, sets: Sets) -> None:
    """CIFAR and MNIST as torchvision fetches them; the hub has none of them."""
    for dataset, make, (_, source) in (
        ("CIFAR10", layouts.cifar10_archive, _sources.CIFAR10),
        ("CIFAR100", layouts.cifar100_archive, _sources.CIFAR100),
    ):
        splits = sets[dataset.lower()]
        members = make(splits["train"], splits["test"])
        layouts.known_to_torchvision(patch, members, dataset)
        packed = [layouts.tarred(members)]
        as_published(patch, source, packed)
        put(publisher, source, packed)
    raw = layouts.mnist_files(sets["mnist"]["train"], sets["mnist"]["test"])
    for name, content in raw.items():
        patch.setitem(images._MNIST_SHA256, name, hashlib.sha256(content).hexdigest())
    source = _sources.MNIST[0]
    packed = [layouts.gzipped(raw[Path(file.path).stem]) for file in source.files]
    as_published(patch, source, packed)
    put(publisher, source, packed)


def check_from_nothing_to_rows(
    run: CLI, patch: pytest.MonkeyPatch, sets: Sets, layout: str, name: str, network: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Rows by set of ``msp``, in one command; what was fetched is what was served, and no more."""
    other = {"cifar10": "cifar100", "cifar100": "cifar10"}[name]
    words = ["eval", "--detector", "msp,mahalanobis", "--id", name, "--ood", f"{other},mnist"]
    words += [*network, "--accelerator", "cpu", "--download"]
    assert not files.data_dir().exists()
    with publishing() as publisher:
        patch.setenv("OODBENCH_MIRROR", publisher.base)
        if layout == "hub":
            publish_parquet(publisher, sets)
        else:
            publish_archives(publisher, patch, sets)
        ran = run(*words, "--json")
        assert ran.status == 0, ran.both
        asked = len(publisher.asked)
        assert run(*words).status == 0
        assert len(publisher.asked) == asked, "all is there"
    rows = json.loads(ran.out)["rows"]
    assert {row["detector"] for row in rows} == {"msp", "mahalanobis"}
    by_set = {row["ood"]: row for row in rows if row["detector"] == "msp" and not row["is_mean"]}
    assert set(by_set) == {other, "mnist"}
    for ood, row in by_set.items():
        assert (row["n_id"], row["n_ood"]) == tuple(
            len(sets[one]["test"].images) for one in (name, ood)
        )
    for one in (name, other, "mnist"):
        spec = DATASETS.get(one)
        assert isinstance(spec, DatasetSpec)
        found, served = spec.load("test"), sets[one]["test"]
        assert sorted(
            (int(label), np.asarray(found[i].convert("RGB")).tobytes())
            for i, label in enumerate(found.labels)
        ) == sorted(zip(served.labels, map(np.ndarray.tobytes, served.pixels()), strict=True))
    shown = run("data", "status", name).out
    count = len(sets[name]["test"].images)
    assert f"part: {count:,} of 10,000" in shown
    return by_set


@pytest.mark.parametrize("layout", ["hub", "torchvision"])
@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_from_nothing_to_rows(
    run: CLI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, few: Sets,
    layout: str, name: str, classes: int,
) -> None:  # fmt: skip
    network = untrained(tmp_path, classes)
    check_from_nothing_to_rows(run, monkeypatch, few, layout, name, network)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder with real data is not at hand")
@pytest.mark.parametrize("layout", ["hub", "torchvision"])
@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_from_nothing_to_rows_of_real_samples(
    run: CLI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, samples: Sets,
    layout: str, name: str, classes: int,
) -> None:  # fmt: skip
    network = untrained(tmp_path, classes)
    if name == "cifar10":
        trained = SHARED / "models" / "cifar10_resnet20.safetensors"
        network = ["--backbone", "resnet20", "--checkpoint", str(trained)]
    rows = check_from_nothing_to_rows(run, monkeypatch, samples, layout, name, network)
    if name == "cifar10":
        assert {round(row["id_accuracy"], 4) for row in rows.values()} == {0.9160}
        assert rows["cifar100"]["auroc"] == pytest.approx(0.8547, abs=0.002)
        assert rows["mnist"]["auroc"] == pytest.approx(0.9163, abs=0.002)

"""Benchmarks and datasets: what is in them, how they are split, and where they are found."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import oodbench
from oodbench import files, get_benchmark
from oodbench.benchmark import resolve_dataset
from oodbench.errors import DataError, MissingDataError, OptionError, UnknownNameError
from oodbench.registry import DATASETS
from tests.conftest import write_images
from tests.helpers.datasets import images_of, names, png, toy, write_parquet

FACTORIES = {"folder", "imagenet-without", "imagenet500-without"}
"""Datasets that are made of what stands behind a colon."""

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


# The embedded default


def test_digits_splits_are_stratified_disjoint_and_complete() -> None:
    from sklearn.datasets import load_digits

    digits = get_benchmark("digits")
    parts = {split: digits.id.load(split) for split in digits.id.splits}
    assert set(parts) == {"train", "val", "test"}
    known = load_digits().target < 6
    everything = load_digits().images[known]
    seen = np.concatenate([part.images for part in parts.values()])
    assert len(seen) == len(everything)
    # every image is in one split, once: as multisets they are the same
    scaled = np.rint(everything * 255 / 16).astype(np.uint8).reshape(len(seen), -1)
    assert np.array_equal(
        np.unique(seen.reshape(len(seen), -1), axis=0, return_counts=True)[1],
        np.unique(scaled, axis=0, return_counts=True)[1],
    )
    digests = [set(part.digests.tolist()) for part in parts.values()]
    assert sum(map(len, digests)) == len(set.union(*digests)), "splits share an image"
    whole = np.bincount(load_digits().target[known]) / known.sum()
    for split, part in parts.items():
        assert part.classes == ("0", "1", "2", "3", "4", "5")
        shares = np.bincount(part.labels, minlength=6) / len(part)
        assert np.abs(shares - whole).max() * len(part) <= 1.5, f"{split} is not stratified"


def test_digits_ood_sets() -> None:
    digits = get_benchmark("digits")
    assert [(chosen.spec.name, chosen.group) for chosen in digits.ood] == [
        ("digits-6-9", "near"),
        ("photo-patches", "far"),
    ]
    near = digits.near[0].load("test")
    assert near.classes == ("6", "7", "8", "9")
    assert len(near) == 1797 - sum(len(digits.id.load(split)) for split in digits.id.splits)
    known = np.concatenate([digits.id.load(split).digests for split in digits.id.splits])
    for ood in (near, digits.far[0].load("test")):
        assert ood[0].size == (8, 8)
        assert ood[0].mode == "L"
        assert not np.isin(ood.digests, known).any()
        assert np.bincount(ood.labels).min() > 100


def test_photograph_patches_are_area_means() -> None:
    from sklearn.datasets import load_sample_images

    far = get_benchmark("digits").far[0].load("test")
    assert far.classes == ("china", "flower")
    china = load_sample_images().images[0]
    grey = np.asarray(Image.fromarray(china).convert("L")).astype(float)
    mean = grey[:32, :32].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.abs(np.asarray(far[0]) - mean).max() < 1  # PIL rounds after each direction


def test_digits_are_the_same_in_every_process() -> None:
    code = (
        "from oodbench import get_benchmark\n"
        "b = get_benchmark('digits')\n"
        "print(*(b.id.load(s).fingerprint for s in b.id.splits),"
        " *(o.spec.load('test').fingerprint for o in b.ood))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    ).stdout.split()
    digits = get_benchmark("digits")
    here = [digits.id.load(split).fingerprint for split in digits.id.splits]
    here += [chosen.spec.load("test").fingerprint for chosen in digits.ood]
    assert told == here
    assert len(set(here)) == 5


def test_digits_preprocessing_is_that_of_its_training_set() -> None:
    digits = get_benchmark("digits")
    pixels = digits.id.load("train").images / 255
    assert digits.preprocess.mean[0] == pytest.approx(pixels.mean(), abs=2e-3)
    assert digits.preprocess.std[0] == pytest.approx(pixels.std(), abs=2e-3)
    assert not digits.preprocess.flip, "a mirrored digit is another sign"


def test_digits_has_no_other_split() -> None:
    with pytest.raises(OptionError, match=r"train, val, test.*'extra'"):
        get_benchmark("digits").id.load("extra")


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


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100", "cifar100/palm"])
def test_every_benchmark_is_whole(name: str) -> None:
    found = get_benchmark(benchmark=name)
    assert found.name == name
    assert {"train", "test"} <= set(found.id.splits)
    assert found.ood
    assert any(chosen.group == found.protocol.rank_group for chosen in found.ood)
    assert found.citation
    for part in (found.id, *(chosen.spec for chosen in found.ood)):
        assert part.name in oodbench.list_datasets()
        assert part.splits
        assert all([part.description, part.source, part.licence, part.citation])


def test_get_benchmark() -> None:
    assert get_benchmark("cifar100").name == "cifar100"
    assert get_benchmark("cifar100", "cifar100/palm").name == "cifar100/palm"
    assert get_benchmark(benchmark="cifar100/palm").id.name == "cifar100"
    with pytest.raises(OptionError, match=r"'cifar100', not 'cifar10'"):
        get_benchmark("cifar10", "cifar100/palm")
    with pytest.raises(OptionError, match=r'`id="cifar10"`'):
        get_benchmark()
    with pytest.raises(UnknownNameError, match="'cifar100/palm'"):
        get_benchmark(benchmark="cifar100/plam")
    with pytest.raises(OptionError, match="folder:PATH"):
        get_benchmark("folder")


def test_a_registered_benchmark_may_be_a_value_or_a_function() -> None:
    from oodbench.registry import BENCHMARKS

    try:
        oodbench.register_benchmark("toy-value")(toy())
        oodbench.register_benchmark("toy-function")(toy)
        oodbench.register_benchmark("toy-wrong")(lambda: 3)
        assert get_benchmark("toy-value").name == "toy"
        assert get_benchmark("toy-function").name == "toy"
        with pytest.raises(OptionError, match=r"toy-wrong.*int"):
            get_benchmark("toy-wrong")
    finally:
        for name in ("toy-value", "toy-function", "toy-wrong"):
            BENCHMARKS.unregister(name)


def test_choose_nothing_is_all() -> None:
    assert names(toy().choose(None)) == [("n1", "near"), ("n2", "near"), ("f1", "far")]


@given(
    picked=st.lists(st.sampled_from(["n1", "n2", "f1", "mnist", "svhn"]), min_size=1, unique=True)
)
def test_choose_keeps_order_and_groups(picked: list[str]) -> None:
    groups = {"n1": "near", "n2": "near", "f1": "far", "mnist": "far", "svhn": "far"}
    assert names(toy().choose(picked)) == [(name, groups[name]) for name in picked]


def test_choose_a_group() -> None:
    assert names(toy().choose(["near=mnist", "far=n1", "near=n2"])) == [
        ("mnist", "near"),
        ("n1", "far"),
        ("n2", "near"),
    ]


@pytest.mark.parametrize(
    ("picked", "error", "told"),
    [
        (["n1", "n1"], OptionError, "'n1' twice"),
        (["n1", "far=n1"], OptionError, "'n1' twice"),
        (["middle=n1"], OptionError, "not 'middle'"),
        (["=n1"], OptionError, "not ''"),
        ([], OptionError, "no dataset"),
        (["n3"], UnknownNameError, "'n1'"),
        (["mnits"], UnknownNameError, "'mnist'"),
        (["near=svnh"], UnknownNameError, "'svhn'"),
        (["mnist:x"], UnknownNameError, "mnist"),
        (["folder"], UnknownNameError, "folder:PATH"),
        (["folder:"], OptionError, "folder:PATH"),
        (["folder:/no/such/place"], MissingDataError, "/no/such/place"),
        (["../etc"], UnknownNameError, "folder:PATH"),
        ([".."], UnknownNameError, "folder:PATH"),
        ([""], UnknownNameError, "folder:PATH"),
    ],
)
def test_choose_what_is_not_there(picked: list[str], error: type[Exception], told: str) -> None:
    files.data_dir().mkdir(parents=True)
    with pytest.raises(error, match=told):
        toy().choose(picked)


def test_a_mean_bears_its_groups_name_only_over_the_whole_group() -> None:
    bench = toy()
    assert bench.is_complete("near", ["n2", "n1"])
    assert not bench.is_complete("near", ["n1"])
    assert not bench.is_complete("near", ["n1", "n2", "mnist"])
    assert bench.is_complete("far", ["f1"])
    # a benchmark that has no near sets has no near mean that others could compare with
    assert not toy(near=()).is_complete("near", ["n1"])
    # one that defines no sets at all: whatever was chosen is whole
    assert toy(near=(), far=()).is_complete("far", ["mnist"])


# Datasets in the data folder


def test_any_image_folder_in_the_data_folder_is_a_dataset() -> None:
    root = files.data_dir() / "textures10"
    write_images(root / "test", {"banded": 2, "dotted": 1})
    found = resolve_dataset("textures10")
    assert found.name == "textures10"
    assert len(found.load("test")) == 3
    flat = files.data_dir() / "scenes"
    write_images(flat, {"forest": 2})
    assert len(resolve_dataset("scenes").load("test")) == 2


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "svhn"])
@pytest.mark.parametrize("layout", ["{name}/test", "images_classic/{name}/test"])
def test_image_folder_layout(name: str, layout: str) -> None:
    write_images(files.data_dir() / layout.format(name=name), {"a": 2, "b": 1})
    samples = DATASETS.get(name).load("test")
    assert samples.name == f"{name}/test"
    assert samples.classes == ("a", "b")
    assert samples.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("textures", "textures"),
        ("textures", "dtd/dtd/images"),
        ("textures", "images_classic/texture"),
        ("places365", "places365"),
        ("places365", "val_256"),
        ("tin", "tiny-imagenet-200/val/images"),
        ("tin", "images_classic/tin/val"),
        ("lsun-c", "LSUN"),
        ("isun", "iSUN"),
    ],
)
def test_ood_layouts(name: str, layout: str) -> None:
    write_images(files.data_dir() / layout, {".": 3})
    assert len(DATASETS.get(name).load("test")) == 3


@pytest.mark.parametrize("name", sorted(set(oodbench.list_datasets()) - FACTORIES))
def test_missing_data_says_where_it_looked_and_how_to_get_it(name: str) -> None:
    found = DATASETS.get(name)
    for split in found.splits:
        if name in ("digits", "digits-6-9", "photo-patches"):
            assert len(found.load(split)), "embedded: nothing to download"
            continue
        with pytest.raises(MissingDataError) as error:
            found.load(split)
        message = str(error.value)
        assert str(files.data_dir()) in message
        assert "Get it:" in message
        assert "OODBENCH_DATA" in message
        assert name in message
        assert split in message
        assert "{" not in message, "a layout's placeholder was left in"


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


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def _write_mnist(root: Path) -> dict[str, np.ndarray]:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = {}
    for seed, (split, prefix) in enumerate((("train", "train"), ("test", "t10k"))):
        images[split] = images_of(3, (28, 28), seed)
        labels = np.array([0, 9, 4], np.uint8)
        for kind, array in (("images-idx3", images[split]), ("labels-idx1", labels)):
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(_idx(array))
            (raw / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(_idx(array)))
    return images


def test_torchvisions_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[DATASETS.get("mnist").load.__module__]
    images = _write_mnist(files.data_dir())
    raw = files.data_dir() / "MNIST" / "raw"
    sums = {name: files.sha256(raw / name) for name in module._MNIST_SHA256}
    monkeypatch.setattr(module, "_MNIST_SHA256", sums)
    for split in ("train", "test"):
        samples = DATASETS.get("mnist").load(split)
        assert len(samples.classes) == 10
        assert samples.labels.tolist() == [0, 9, 4]
        assert np.array_equal(np.asarray(samples[1]), images[split][1])
        assert samples[1].mode == "L"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damage", ["another", "truncated", "gone"])
def test_an_mnist_that_is_not_mnist(split: str, damage: str) -> None:
    _write_mnist(files.data_dir())
    raw = files.data_dir() / "MNIST" / "raw"
    for path in raw.glob("*-images-*ubyte"):
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:100])
        elif damage == "gone":
            path.unlink()
    with pytest.raises(DataError, match=r"mnist.*incomplete or changed") as error:
        DATASETS.get("mnist").load(split)
    assert str(raw) in str(error.value)
    assert "Download it again" in str(error.value)


def test_torchvisions_svhn(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    images = images_of(4)
    files.data_dir().mkdir(parents=True)
    path = files.data_dir() / "test_32x32.mat"
    # SVHN writes its zeros as 10
    savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.array([[1], [10], [3], [2]])})
    with pytest.raises(DataError, match=r"svhn.*incomplete or changed"):
        DATASETS.get("svhn").load("test")
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(SVHN, "split_list", {"test": ["", path.name, md5]})
    samples = DATASETS.get("svhn").load("test")
    assert samples.labels.tolist() == [1, 0, 3, 2]
    for i in range(4):
        assert np.array_equal(np.asarray(samples[i]), images[i])


@pytest.mark.parametrize(
    ("name", "column", "label"),
    [
        ("cifar10", "img", "label"),
        ("cifar100", "img", "fine_label"),
        ("mnist", "image", "label"),
        ("svhn", "image", "label"),
    ],
)
@pytest.mark.parametrize("classes", [[], ["cat", "dog", "eel"]])
def test_parquet_snapshot(name: str, column: str, label: str, classes: list[str]) -> None:
    images = images_of(4)
    snapshot = files.data_dir() / name / "snapshots" / "abc" / "data"
    for shard, labels in enumerate(([2, 0], [1, 2])):
        write_parquet(
            snapshot / f"test-0000{shard}-of-00002.parquet",
            images[2 * shard : 2 * shard + 2],
            column,
            label,
            labels,
            classes,
        )
    samples = DATASETS.get(name).load("test")
    assert samples.name == f"{name}/test"
    assert samples.labels.tolist() == [2, 0, 1, 2]
    assert samples.classes == tuple(classes or ["0", "1", "2"])
    for i in range(4):
        assert np.array_equal(np.asarray(samples[i]), images[i])
    # the same content as image files has the same digests, so overlap is found across layouts
    folder = files.data_dir() / "as-files"
    folder.mkdir()
    (folder / "0.png").write_bytes(png(images[0]))
    assert resolve_dataset("as-files").load("test").digests[0] == samples.digests[0]


def test_parquet_that_is_damaged() -> None:
    shard = files.data_dir() / "mnist" / "test-00000-of-00001.parquet"
    write_parquet(shard, images_of(2), "image", "label", [0, 1], [])
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged") as error:
        DATASETS.get("mnist").load("test")
    assert str(shard) in str(error.value)
    write_parquet(shard, images_of(2), "picture", "label", [0, 1], [])
    with pytest.raises(DataError, match="no column") as error:
        DATASETS.get("mnist").load("test")
    assert str(shard) in str(error.value)


def test_parquet_with_a_damaged_image() -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    shard = files.data_dir() / "mnist" / "test-00000-of-00001.parquet"
    shard.parent.mkdir(parents=True)
    good = png(images_of(1)[0])
    records = [{"bytes": good, "path": None}, {"bytes": good[:99], "path": None}]
    parquet.write_table(pa.table({"image": records, "label": [0, 1]}), shard)
    samples = DATASETS.get("mnist").load("test")
    assert samples[0].size == (32, 32)
    with pytest.raises(DataError, match=r"mnist/test: image 1 is damaged"):
        samples[1]


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = files.data_dir() / "mnist" / "test-00000-of-00001.parquet"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDataError, match=r"oodbench\[parquet\]"):
        DATASETS.get("mnist").load("test")


# folder:PATH


def test_folder_as_ood(tmp_path: Path) -> None:
    write_images(tmp_path / "birds", {"jay": 2, "owl": 1})
    chosen = toy().choose([f"folder:{tmp_path}/birds", f"near=folder:{tmp_path}/birds/owl", "f1"])
    assert names(chosen) == [
        (f"folder:{tmp_path}/birds", "far"),
        (f"folder:{tmp_path}/birds/owl", "near"),
        ("f1", "far"),
    ]
    assert [len(one.spec.load("test")) for one in chosen[:2]] == [3, 1]


def test_folder_with_a_test_split_is_that_split(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"jay": 5})
    write_images(tmp_path / "test", {"jay": 2})
    assert len(resolve_dataset(f"folder:{tmp_path}").load("test")) == 2


def test_a_path_may_have_any_sign(tmp_path: Path) -> None:
    root = write_images(tmp_path / "size=8: new", {"a": 1})
    assert names(toy().choose([f"folder:{root}"])) == [(f"folder:{root}", "far")]
    assert names(toy().choose([f"near=folder:{root}"])) == [(f"folder:{root}", "near")]


def test_relative_path_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "birds", {"jay": 2})
    monkeypatch.chdir(tmp_path)
    found = resolve_dataset("folder:birds")
    monkeypatch.chdir("/")
    assert len(found.load("test")) == 2, "the folder is where it was when it was named"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(resolve_dataset("folder:~/birds").load("test")) == 2


def test_folder_as_id(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"jay": 3, "owl": 3})
    write_images(tmp_path / "test", {"jay": 1, "owl": 2})
    found = get_benchmark(f"folder:{tmp_path}")
    assert found.name == f"folder:{tmp_path}"
    assert found.ood == ()
    assert found.preprocess.size == 32
    assert [len(found.id.load(split)) for split in ("train", "test")] == [6, 3]
    assert found.id.load("test").classes == ("jay", "owl")
    assert names(found.choose(["mnist"])) == [("mnist", "far")]
    assert get_benchmark(f"folder:{tmp_path}@64").preprocess.size == 64
    assert len(get_benchmark(f"folder:{tmp_path}@64").id.load("test")) == 3


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_id_folder_without_one_of_its_splits(tmp_path: Path, split: str) -> None:
    """Its other folders must not be taken for the missing split's classes."""
    for there in {"train", "val", "test"} - {split}:
        write_images(tmp_path / there, {"jay": 2, "owl": 2})
    with pytest.raises(MissingDataError) as error:
        get_benchmark(f"folder:{tmp_path}").id.load(split)
    assert str(tmp_path / split) in str(error.value)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    for named in (f"folder:{tmp_path}/none", f"folder:{tmp_path}/none@64"):
        with pytest.raises(MissingDataError, match="none"):
            get_benchmark(named)
    with pytest.raises(OptionError, match="folder:PATH"):
        get_benchmark("folder:")
    write_images(tmp_path / "train", {"a": 1})
    with pytest.raises(OptionError, match="size"):
        get_benchmark(f"folder:{tmp_path}@0")

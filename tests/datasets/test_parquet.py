"""Snapshots of parquet files: layouts, configurations, labels of every kind, rows without any."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from timm.data import ImageNetInfo

import oodbench
from oodbench import files
from oodbench.checks.classes import id_samples
from oodbench.data.samples import Samples
from oodbench.dataset import resolve_dataset
from oodbench.errors import DataError, MissingDataError
from oodbench.registry import DATASETS
from tests.conftest import write_images
from tests.helpers.datasets import images_of, png, write_parquet

IMAGES = images_of(4)


def write(
    where: str,
    labels: Any = (0, 1, 0, 1),
    *,
    label: str = "label",
    column: str = "image",
    images: Any = None,
    names: list[str] | None = None,
    kind: Any = None,
) -> Path:
    """A parquet file of four images below the data folder."""
    path = files.data_dir() / where
    path.parent.mkdir(parents=True, exist_ok=True)
    if images is None:
        images = [{"bytes": png(image), "path": None} for image in IMAGES]
    columns = {column: images}
    if labels is not None:
        columns[label] = pa.array(list(labels), type=kind) if kind else list(labels)
    table = pa.table(columns)
    if names:
        info = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    parquet.write_table(table, path)
    return path


def load(name: str = "mnist", split: str = "test") -> Samples:
    return DATASETS.get(name).load(split)


def one(index: int) -> list[dict[str, Any]]:
    """A single image, as a file of its own."""
    return [{"bytes": png(IMAGES[index]), "path": None}]


# Where the files are


@pytest.mark.parametrize(
    "where",
    [
        "mnist/test-00000-of-00001.parquet",
        "mnist/test.parquet",
        "mnist/data/test-00000-of-00001-a09b74b3ef9c3b56.parquet",
        "mnist/mnist/test-00000-of-00001.parquet",
        "mnist/default/test/0000.parquet",
        "mnist/test/0000.parquet",
        "mnist/plain_text/test/0.parquet",
        "mnist/snapshots/abc/data/test-00000-of-00001.parquet",
        "mnist/snapshots/abc/test-00000-of-00001.parquet",
    ],
)
def test_layouts(where: str) -> None:
    write(where)
    write("mnist/.cache/huggingface/download/data/test-00000-of-00001.parquet")
    samples = load()
    assert (len(samples), samples.name, samples.classes) == (4, "mnist/test", ("0", "1"))
    assert np.array_equal(np.asarray(samples[3]), IMAGES[3])


@pytest.mark.parametrize("tree", ["svhn/{}", "svhn/snapshots/abc/{}"])
def test_svhn_is_the_cropped_digits(tree: str) -> None:
    write(tree.format("full_numbers/test-00000-of-00001.parquet"), None)
    with pytest.raises(DataError, match=r"full_numbers.*cropped_digits"):
        load("svhn")
    for split in ("train", "test", "extra"):
        write(tree.format(f"cropped_digits/{split}-00000-of-00001.parquet"), [7, 1, 2, 3])
    samples = load("svhn")
    assert len(samples) == 4
    assert samples.labels.tolist() == [7, 1, 2, 3]


def test_several_configurations_are_not_mixed() -> None:
    write("mnist/a/test-00000-of-00001.parquet")
    write("mnist/b/test-00000-of-00001.parquet")
    with pytest.raises(DataError, match="several times") as error:
        load()
    assert "a, b" in str(error.value)


def test_extra_images_are_not_training_images() -> None:
    write("mnist/train-00000-of-00001.parquet", images=one(0), labels=[1])
    write("mnist/train-extra-00000-of-00001.parquet")
    write("mnist/trainer-00000-of-00001.parquet")
    assert len(load("mnist", "train")) == 1
    with pytest.raises(MissingDataError):
        load("mnist", "test")


def test_revisions_of_a_cache() -> None:
    for revision, index in (("abc", 0), ("def", 1)):
        write(f"mnist/snapshots/{revision}/test-00000-of-00001.parquet", [1], images=one(index))
    with pytest.raises(DataError, match="several revisions") as error:
        load()
    assert "abc" in str(error.value)
    (files.data_dir() / "mnist" / "refs").mkdir()
    (files.data_dir() / "mnist" / "refs" / "main").write_text("def\n")
    assert np.array_equal(np.asarray(load()[0]), IMAGES[1])


def test_links_to_blobs() -> None:
    blob = write("mnist/blobs/0123abcd")
    shard = files.data_dir() / "mnist/snapshots/abc/data/test-00000-of-00001.parquet"
    shard.parent.mkdir(parents=True)
    shard.symlink_to(os.path.relpath(blob, shard.parent))
    assert len(load()) == 4
    blob.unlink()
    with pytest.raises(DataError, match="leads nowhere"):
        load()


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (["test-00000-of-00002"], r"lacks parts of 2.*number 1\."),
        (["test-00001-of-00003"], r"lacks parts of 3.*number 0, 2\."),
        (["test/0000", "test/0002"], r"lacks parts.*number 1\."),
        (["test-00000-of-00001", "test-00000-of-00002", "test-00001-of-00002"], "several sets"),
        (["test-00000-of-00001-aaaaaaaa", "test-00000-of-00001-bbbbbbbb"], "several sets"),
        (["partial-test/0000"], "only the first part"),
    ],
)
def test_sets_that_are_not_whole(there: list[str], told: str) -> None:
    for name in there:
        write(f"mnist/{name}.parquet")
    with pytest.raises(DataError, match=told) as error:
        load()
    assert str(files.data_dir() / "mnist") in str(error.value)


def test_parts_are_read_in_the_order_of_their_numbers() -> None:
    for number in (2, 0, 10, 1, 3, 4, 5, 6, 7, 8, 9):
        write(f"mnist/default/test/{number}.parquet", [number], images=one(number % 4))
    assert load().labels.tolist() == list(range(11))


# Every image dataset


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("tin", "tin/data/valid-00000-of-00001-70d52db3c749a935.parquet"),
        ("tin", "tin/data/test-00000-of-00001.parquet"),
        ("tin", "tin/validation.parquet"),
        ("places365", "places365/data/val-00000-of-00001.parquet"),
        ("places365", "places365/default/validation/0000.parquet"),
        ("textures", "textures/data/test-00000-of-00001.parquet"),
        ("textures", "textures/test/0000.parquet"),
        ("lsun-c", "lsun-c/test.parquet"),
        ("isun", "isun/data/test-00000-of-00001.parquet"),
        ("dtd", "dtd/data/test-00000-of-00001.parquet"),
        ("pets", "pets/data/test-00000-of-00001.parquet"),
        ("food101", "food101/data/validation-00000-of-00001.parquet"),
        ("caltech101", "caltech101/data/test-00000-of-00001.parquet"),
        ("cifar10", "cifar10/plain_text/test-00000-of-00001.parquet"),
        ("cifar100", "cifar100/cifar100/test-00000-of-00001.parquet"),
        ("svhn", "svhn/test/0000.parquet"),
        ("mnist", "mnist/test/0000.parquet"),
    ],
)
def test_every_set_of_images_is_read(name: str, where: str) -> None:
    write(where)
    (files.data_dir() / name / "README.md").write_text("a card")
    write_images(files.data_dir() / name, {".": 1}, size=8)  # a preview beside
    samples = load(name)
    assert (len(samples), samples.name) == (4, f"{name}/test")
    assert np.array_equal(np.asarray(samples[1]), IMAGES[1])


def test_textures_are_all_of_its_images() -> None:
    for index, split in enumerate(("train", "test", "validation")):
        write(f"textures/data/{split}-00000-of-00001.parquet", [index], images=one(index))
    assert sorted(load("textures").labels.tolist()) == [0, 1, 2]


def test_the_labelled_images_are_preferred() -> None:
    write("tin/data/test-00000-of-00001.parquet", [-1] * 4)
    write("tin/data/valid-00000-of-00001.parquet", [3], images=one(3))
    assert load("tin").labels.tolist() == [3]


def test_folders_of_images_are_read_before() -> None:
    write("tin/data/valid-00000-of-00001.parquet")
    write_images(files.data_dir() / "tin" / "test", {"a": 1, "b": 1})
    assert load("tin").classes == ("a", "b")


def test_imagenet_by_its_names() -> None:
    info = ImageNetInfo("imagenet-1k")
    names = info.label_descriptions()
    where = "imagenet/data/validation-00000-of-00001.parquet"
    write(where, [0, 1, 999, 5], names=names)
    samples = load("imagenet")
    assert samples.labels.tolist() == [0, 1, 999, 5]
    assert samples.classes[0].startswith("n01440764")
    assert samples.classes[999].startswith(info.label_names()[999])
    write(where, [0, 1, 999, 5], names=names[1:] + names[:1])
    with pytest.raises(DataError, match="WordNet"):
        load("imagenet")


# Columns


@pytest.mark.parametrize(
    "label", ["label", "labels", "fine_label", "target", "targets", "class", "category"]
)
def test_columns_of_labels(label: str) -> None:
    write("mnist/test.parquet", [2, 0, 1, 2], label=label)
    assert load().labels.tolist() == [2, 0, 1, 2]
    write("mnist/test.parquet", [2, 0, 1, 2], label=label, names=["x", "y", "z"])
    assert load().classes == ("x", "y", "z")


def test_a_column_that_the_metadata_calls_labels() -> None:
    write("mnist/test.parquet", [2, 0, 1, 2], label="digit", names=["x", "y", "z"])
    assert load().labels.tolist() == [2, 0, 1, 2]


def test_the_dataset_s_own_column_goes_first() -> None:
    path = write("cifar100/test.parquet", [5, 6, 7, 8], label="fine_label", column="img")
    table = parquet.read_table(path)
    table = table.append_column("label", pa.array([0] * 4)).append_column(
        "coarse_label", pa.array([1] * 4)
    )
    parquet.write_table(table, path)
    assert load("cifar100").labels.tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("labels", "kind", "numbers", "classes"),
    [
        (["owl", "ant", "owl", "bee"], None, [2, 0, 2, 1], ("ant", "bee", "owl")),
        (["2", "10", "0", "2"], None, [2, 10, 0, 2], tuple(map(str, range(11)))),
        ([True, False, True, True], None, [1, 0, 1, 1], ("0", "1")),
        ([1.0, 0.0, 2.0, 0.0], None, [1, 0, 2, 0], ("0", "1", "2")),
        ([1, 0, 2, 0], pa.uint8(), [1, 0, 2, 0], ("0", "1", "2")),
        ([-1] * 4, None, [0] * 4, ("unlabelled",)),
        ([None] * 4, pa.int64(), [0] * 4, ("unlabelled",)),
        ([None] * 4, pa.null(), [0] * 4, ("unlabelled",)),
    ],
)
def test_labels_of_every_kind(labels: list, kind: Any, numbers: list[int], classes: tuple) -> None:
    write("mnist/test.parquet", labels, kind=kind)
    samples = load()
    assert samples.labels.tolist() == numbers
    assert samples.classes == classes


def test_labels_of_a_dictionary() -> None:
    path = write("mnist/test.parquet", ["owl", "ant", "owl", "bee"])
    table = parquet.read_table(path)
    parquet.write_table(
        table.set_column(1, "label", table["label"].dictionary_encode()), path
    )  # as pandas writes categories
    assert load().labels.tolist() == [2, 0, 2, 1]


def test_texts_are_sorted_over_all_files() -> None:
    write("mnist/test-00000-of-00002.parquet", ["owl", "ant", "owl", "owl"])
    write("mnist/test-00001-of-00002.parquet", ["bee", "ant", "bee", "bee"])
    assert load().labels.tolist() == [2, 0, 2, 2, 1, 0, 1, 1]
    write("mnist/test-00000-of-00002.parquet", ["owl", "ant", "owl", "owl"], names=["owl", "ant"])
    with pytest.raises(DataError, match="other names"):
        load()


@pytest.mark.parametrize(
    ("labels", "options", "row", "told"),
    [
        ([0, 1, -1, 1], {}, 2, "the label -1"),
        ([0, 1, 0, -7], {}, 3, "the label -7"),
        ([0, None, 1, 1], {}, 1, "no label"),
        (["a", "b", None, "a"], {}, 2, "no label"),
        ([0, 1, 2, 1], {"names": ["a", "b"]}, 2, "the label 2; there are 2 class names"),
        (["a", "c", "b", "a"], {"names": ["a", "b"]}, 1, "'c'"),
        ([0.0, 0.5, 1.0, 1.0], {}, 1, "0.5"),
        ([0.0, 0.0, float("nan"), 1.0], {}, 2, "nan"),
        ([[0], [1], [0], [1]], {}, 0, "list"),
    ],
)
def test_labels_that_are_none_are_named(
    labels: list, options: dict[str, Any], row: int, told: str
) -> None:
    path = write("mnist/test.parquet", labels, **options)
    with pytest.raises(DataError) as error:
        load()
    for word in (str(path), f"row {row} ", "'label'", told):
        assert word in str(error.value)


def test_rows_are_counted_in_their_file() -> None:
    write("mnist/test-00000-of-00002.parquet")
    path = write("mnist/test-00001-of-00002.parquet", [0, 1, 1, -1])
    with pytest.raises(DataError, match="row 3 ") as error:
        load()
    assert str(path) in str(error.value)


GOOD = [{"bytes": png(image), "path": "a.png"} for image in IMAGES]


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ([*GOOD[:2], None, GOOD[3]], "row 2 "),
        ([GOOD[0], {"bytes": None, "path": "b.png"}, *GOOD[2:]], "path 'b.png'"),
        ([{"bytes": None, "path": f"{i}.png"} for i in range(4)], "row 0 "),
        (["a.png"] * 4, "encoded image"),
        ([image.tolist() for image in IMAGES], "encoded image"),
        ([{"path": "a.png"}] * 4, "encoded image"),
        ([{"image": one} for one in GOOD], "encoded image"),
    ],
    ids="null path-only paths-only text arrays no-bytes nested".split(),
)
@pytest.mark.parametrize("statistics", [True, False])
def test_images_that_are_none_are_named(images: list, told: str, statistics: bool) -> None:
    path = write("mnist/test.parquet", images=images)
    parquet.write_table(parquet.read_table(path), path, write_statistics=statistics)
    with pytest.raises(DataError) as error:
        load()
    for word in (str(path), "'image'", told):
        assert word in str(error.value)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes_are_images(kind: Any) -> None:
    write("mnist/test.parquet", images=pa.array([png(image) for image in IMAGES], type=kind))
    assert np.array_equal(np.asarray(load()[2]), IMAGES[2])


def test_a_damaged_image_is_named_by_file_row_and_column() -> None:
    write("mnist/test-00000-of-00002.parquet")
    images = [GOOD[0], {"bytes": GOOD[1]["bytes"][:60], "path": None}, GOOD[2], {"bytes": b""}]
    path = write("mnist/test-00001-of-00002.parquet", images=images)
    samples = load()
    for index, told in ((5, "image 5 is damaged"), (7, "it is empty")):
        with pytest.raises(DataError, match=told) as error:
            samples[index]
        assert f"row {index - 4} (from 0) of column 'image' of {path}" in str(error.value)


def test_damage_within_a_file_is_told() -> None:
    path = write("mnist/test.parquet")
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="damaged") as error:
        _ = load().fingerprint
    assert str(path) in str(error.value)


def test_an_unlabelled_split_is_for_ood_alone() -> None:
    write("cifar10/test.parquet", [-1] * 4)
    assert len(load("cifar10")) == 4
    with pytest.raises(DataError, match="one class"):
        id_samples(oodbench.get_benchmark("cifar10"), "test")


# What it costs


def test_images_are_read_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    write("mnist/test.parquet")
    read = parquet.ParquetFile.read
    columns: list[Any] = []

    def noted(self: Any, columns_: Any = None, **more: Any) -> Any:
        columns.append(more.get("columns", columns_))
        return read(self, **more)

    monkeypatch.setattr(parquet.ParquetFile, "read", noted)
    samples = load()
    assert columns == [["label"]]
    assert samples.digests_are_cheap
    _ = samples.fingerprint, samples[0], samples[1]
    assert columns == [["label"], ["image.bytes"]]


def test_large_files_are_not_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    from oodbench.datasets import _parquet

    write("mnist/test.parquet")
    monkeypatch.setattr(_parquet, "_FEW_BYTES", 10)
    samples = load()
    assert not samples.digests_are_cheap
    _ = samples.digests
    assert samples.digests_are_cheap


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

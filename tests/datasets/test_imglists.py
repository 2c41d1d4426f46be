"""Sets that lists define: exactly their images, in their order, and nothing else."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench import files
from oodbench.data.samples import ImageArrays, image_folder
from oodbench.datasets import imglists
from oodbench.datasets.imglists import (
    LISTS,
    Listed,
    listed_cifar,
    listed_files,
    own_list,
    published,
)
from oodbench.errors import DataError, MissingDataError
from tests.conftest import SHARED, write_images
from tests.helpers.datasets import images_of

FACTS = SHARED / "facts" / "image_benchmarks.yaml"

# The lists


def test_the_43_lists_are_those_of_the_table() -> None:
    assert len(LISTS) == 43
    for name, (count, _) in LISTS.items():
        rows = published(name).rows()  # refused if it has another digest
        assert len(rows) == count, name
        assert len({path for path, _ in rows}) == count, f"{name} names an image twice"


def test_the_table_is_that_of_the_facts() -> None:
    if not FACTS.is_file():
        pytest.skip("the facts are not at hand")
    lines = [line.strip() for line in FACTS.read_text(encoding="utf-8").splitlines()]
    found = {}
    for name, count, digest in zip(lines, lines[1:], lines[2:], strict=False):
        if digest.startswith("sha256_lf:"):
            place = name.removeprefix("imglist: benchmark_imglist/")
            found[place] = (int(count.removeprefix("n: ")), digest.removeprefix("sha256_lf: "))
    assert found == LISTS


def changed_archive(tmp_path: Path, name: str, old: bytes, new: bytes) -> Path:
    path = tmp_path / "lists.zip"
    with zipfile.ZipFile(imglists.ARCHIVE) as whole, zipfile.ZipFile(path, "w") as archive:
        content = whole.read(name)
        assert old in content
        archive.writestr(name, content.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"cifar10/test/airplane/0298.png 0", b"cifar10/test/airplane/0187.png 0"),
        (b"cifar10/test/airplane/0298.png 0", b"cifar10/test/airplane/0298.png 1"),
        (b"cifar10/test/airplane/0298.png 0\n", b""),
    ],
    ids=["an image", "a label", "a line"],
)
def test_a_changed_list_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes
) -> None:
    name = "cifar10/test_cifar10.txt"
    monkeypatch.setattr(imglists, "ARCHIVE", changed_archive(tmp_path, name, old, new))
    with pytest.raises(DataError, match="not the published one: its sha256 is"):
        published(name).rows()
    with pytest.raises(DataError, match="damaged"):
        published("cifar10/test_tin.txt").rows()


@pytest.mark.parametrize("line", ["../../etc/passwd 0", "/etc/passwd 0", "no-label"])
def test_lists_name_files_below_the_data_folder_alone(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"list.txt, line 1"):
        own_list(tmp_path / "list.txt").rows()


def test_line_ends_of_windows_make_no_other_list(tmp_path: Path) -> None:
    (tmp_path / "unix.txt").write_bytes(b"a/b.png 0\na/c.png 1\n")
    (tmp_path / "windows.txt").write_bytes(b"a/b.png 0\r\na/c.png 1\r\n")
    unix, windows = (own_list(tmp_path / f"{name}.txt") for name in ("unix", "windows"))
    assert unix.sha256 == windows.sha256
    assert unix.rows() == windows.rows() == [("a/b.png", 0), ("a/c.png", 1)]


# Files


def listing(tmp_path: Path, *lines: str) -> imglists.ImageList:
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return own_list(path)


def birds(tmp_path: Path, *lines: str) -> Listed:
    return listed_files("birds/test", listing(tmp_path, *lines), ("jay", "owl"), "the birds")


def test_exactly_the_listed_files_are_read_in_the_lists_order(tmp_path: Path) -> None:
    root = write_images(files.data_dir() / "birds" / "test", {"jay": 3, "owl": 3})
    found = birds(tmp_path, "birds/test/owl/2.png 1", "birds/test/jay/0.png 0")
    assert found.labels.tolist() == [1, 0]
    assert found.classes == ("jay", "owl")
    for image, path in zip(found, ["owl/2.png", "jay/0.png"], strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(root / path)))


def test_the_list_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    write_images(files.data_dir() / "birds" / "test", {"jay": 2, "owl": 2})
    lines = ["birds/test/jay/0.png 0", "birds/test/owl/0.png 1"]
    known = birds(tmp_path, *lines).fingerprint
    assert birds(tmp_path, *lines).fingerprint == known
    assert birds(tmp_path, *lines[::-1]).fingerprint != known, "another order"
    assert birds(tmp_path, lines[0], "birds/test/owl/0.png 0").fingerprint != known, "a label"
    plain = image_folder("x", files.data_dir() / "birds" / "test")
    twin = files.data_dir() / "birds" / "test" / "owl" / "1.png"
    shutil.copy(files.data_dir() / "birds" / "test" / "owl" / "0.png", twin)
    same = birds(tmp_path, lines[0], "birds/test/owl/1.png 1")
    assert same.digests.tolist() == birds(tmp_path, *lines).digests.tolist()
    assert same.fingerprint != known, "the same images by another list"
    assert known != plain.fingerprint


def test_a_set_with_a_missing_image_is_not_there(tmp_path: Path) -> None:
    root = write_images(files.data_dir() / "birds" / "test", {"jay": 4})
    lines = [f"birds/test/jay/{i}.png 0" for i in (2, 0, 3, 1)]
    assert len(birds(tmp_path, *lines)) == 4
    (root / "jay" / "0.png").unlink()
    (root / "jay" / "1.png").unlink()
    with pytest.raises(
        MissingDataError,
        match=r"birds/test: 4 images expected, those of list list.txt \([0-9a-f]{12}…\), found 2: "
        r"2 missing or changed, first birds/test/jay/0.png",
    ):
        birds(tmp_path, *lines)
    shutil.rmtree(root)
    with pytest.raises(MissingDataError, match=r"none of the 4 images.*Get it: the birds"):
        birds(tmp_path, *lines)


def test_the_layout_that_has_all_files_is_taken(tmp_path: Path) -> None:
    whole = write_images(files.data_dir() / "tiny-imagenet-200" / "val" / "images", {".": 3})
    (part := files.data_dir() / "images_classic" / "tin" / "val" / "images").mkdir(parents=True)
    shutil.copy(whole / "0.png", part)
    lines = [f"tin/val/images/{i}.png -1" for i in range(3)]
    one = listing(tmp_path, *lines)
    found = listed_files("tin/test", one, ("all",), "it")
    assert found.labels.tolist() == [0, 0, 0], "OOD has one class"
    assert "tiny-imagenet-200" in found.samples.paths[0]
    for i in (1, 2):
        shutil.copy(whole / f"{i}.png", part)
    again = listed_files("tin/test", one, ("all",), "it")
    assert "images_classic" in again.samples.paths[0]
    assert again.fingerprint == found.fingerprint


def test_a_changed_file_of_tinyimagenet_is_caught(tmp_path: Path) -> None:
    archive = SHARED / "data" / "tin.zip"
    if not archive.is_file():
        pytest.skip("TinyImageNet is not at hand")
    with zipfile.ZipFile(archive) as whole:
        whole.extractall(files.data_dir())
    fingerprints = {}
    for name in ("cifar10/test", "cifar10/val", "cifar100/test", "cifar100/val"):
        one = published(f"{name}_tin.txt")
        found = listed_files("tin/test", one, ("all",), "it", known="tin")
        fingerprints[name] = found.fingerprint[:12]
        assert len(found) == one.count
    assert fingerprints == {
        "cifar10/test": "53c121b40ab2",
        "cifar10/val": "41a59bb0bfce",
        "cifar100/test": "4b8348bc4127",
        "cifar100/val": "7616f3b3824d",
    }
    image = files.data_dir() / "tiny-imagenet-200" / "val" / "images" / "val_1.JPEG"
    content = bytearray(image.read_bytes())
    content[-3] ^= 1
    image.write_bytes(content)
    with pytest.raises(
        MissingDataError,
        match=r"found 7,792 as published: 1 missing or changed, first tin/val/images/val_1.JPEG",
    ):
        listed_files("tin/test", published("cifar10/test_tin.txt"), ("all",), "it", known="tin")


# CIFAR's numbers


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, ImageArrays]:
    """Six images of two classes in the order of an archive, and the digests of them."""
    images = images_of(6)
    archive = ImageArrays("cifar10/test", images, [1, 0, 0, 1, 0, 1], ["cat", "dog"])
    digests = imglists.pixel_digests(archive)
    known = np.stack([digests[[1, 2, 4]], digests[[0, 3, 5]]])
    monkeypatch.setattr(imglists, "known_digests", lambda _: known)
    return images, archive


def test_numbers_are_places_within_the_class_in_the_archive(
    cifar: tuple[np.ndarray, ImageArrays], tmp_path: Path
) -> None:
    images, archive = cifar
    lines = ["cifar10/test/dog/0002.png 1", "cifar10/test/cat/0003.png 0"]
    one = listing(tmp_path, *lines)
    found = listed_cifar("cifar10/test", one, archive, "cifar10", ("cat", "dog"))
    assert [np.asarray(image).tolist() for image in found] == [
        images[3].tolist(),
        images[4].tolist(),
    ]
    assert found.labels.tolist() == [1, 0]
    for i, (label, cls) in enumerate(zip(archive.labels, ("dog", "cat") * 3, strict=False)):
        folder = tmp_path / "png" / archive.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(folder / f"{cls}_{9 - i}.png")
    as_files = image_folder("cifar10/test", tmp_path / "png")
    again = listed_cifar("cifar10/test", one, as_files, "cifar10", ("cat", "dog"))
    assert again.fingerprint == found.fingerprint, "whatever the files are called"


def test_a_changed_image_of_cifar_is_a_missing_one(
    cifar: tuple[np.ndarray, ImageArrays], tmp_path: Path
) -> None:
    images, archive = cifar
    one = listing(tmp_path, "cifar10/test/dog/0002.png -1", "cifar10/test/cat/0003.png -1")
    found = listed_cifar("cifar10/test", one, archive, "cifar10", ("all",))
    assert (found.classes, found.labels.tolist()) == (("all",), [0, 0])
    changed = images.copy()
    changed[4, 9, 9, 2] ^= 1
    other = ImageArrays("cifar10/test", changed, archive.labels, archive.classes)
    with pytest.raises(MissingDataError, match=r"1 missing or changed, first .*/cat/0003.png"):
        listed_cifar("cifar10/test", one, other, "cifar10", ("all",))
    labels = archive.labels.copy()
    labels[3] = 0  # the label of one image on disk
    other = ImageArrays("cifar10/test", images, labels, archive.classes)
    with pytest.raises(MissingDataError, match=r"1 missing or changed, first .*/dog/0002.png"):
        listed_cifar("cifar10/test", one, other, "cifar10", ("all",))


def test_the_known_digests_are_of_whole_test_splits() -> None:
    assert imglists.known_digests("cifar10").shape == (10, 1000)
    assert imglists.known_digests("cifar100").shape == (100, 100)
    assert imglists.known_digests("tin").shape == (1, 10_000)


def test_the_real_cifar_images_are_among_the_known_ones(shared_data: Path) -> None:
    for name in ("cifar10", "cifar100"):
        found = image_folder(name, shared_data / name / "test")
        known = imglists.known_digests(name)
        for label, digest in zip(found.labels, imglists.pixel_digests(found), strict=True):
            assert digest in known[label]

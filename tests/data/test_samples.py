"""Samples, content fingerprints, image folders, and files that are whole or not there."""

from __future__ import annotations

import io
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from oodbench.data.samples import (
    Boxes,
    ImageArrays,
    ImageFiles,
    Subset,
    content_digest,
    image_folder,
)
from oodbench.errors import DataError, MissingDataError
from tests.conftest import write_images


def arrays(n: int = 5, classes: int = 2, seed: int = 0, shape: tuple[int, ...] = (4, 4)):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
    return ImageArrays("toy/test", images, np.arange(n) % classes, [str(c) for c in range(classes)])


def age(root: Path, seconds: float = 60) -> None:
    """Waits until the clock has left the moment of writing: change times cannot be set."""
    newest = max(path.stat().st_ctime for path in root.rglob("*"))
    time.sleep(max(0.0, newest + seconds - time.time()))


# Fingerprints: the content, all of it, and nothing but


def test_equal_content_has_an_equal_fingerprint() -> None:
    assert arrays().fingerprint == arrays().fingerprint
    assert len(arrays().fingerprint) == 64
    assert arrays().digests.dtype == np.uint64
    assert arrays().digests.shape == (5,)


@settings(max_examples=50)
@given(
    sample=st.integers(0, 4),
    row=st.integers(0, 3),
    column=st.integers(0, 3),
    change=st.integers(1, 255),
)
def test_any_changed_pixel_changes_the_fingerprint(
    sample: int, row: int, column: int, change: int
) -> None:
    before, after = arrays(), arrays()
    after.images[sample, row, column] ^= np.uint8(change)
    assert before.fingerprint != after.fingerprint
    differs = before.digests != after.digests
    assert differs.tolist() == [i == sample for i in range(5)]


def test_labels_class_names_and_order_count() -> None:
    base = arrays()
    images, labels = base.images, base.labels
    others = [
        ImageArrays("toy", images, np.roll(labels, 1), base.classes),
        ImageArrays("toy", images, labels, ("0", "one")),
        ImageArrays("toy", images[::-1], labels, base.classes),
        ImageArrays("toy", images[:-1], labels[:-1], base.classes),
        # the same bytes are other images in another shape
        ImageArrays("toy", images.reshape(-1, 2, 8), labels, base.classes),
    ]
    assert len({samples.fingerprint for samples in [base, *others]}) == len(others) + 1


def test_the_name_is_no_content() -> None:
    base = arrays()
    assert (
        ImageArrays("other", base.images, base.labels, base.classes).fingerprint == base.fingerprint
    )


def test_a_fingerprint_does_not_depend_on_memory_layout() -> None:
    base = arrays()
    fortran = np.asfortranarray(base.images)
    assert (
        ImageArrays("toy", fortran, base.labels.tolist(), list(base.classes)).fingerprint
        == base.fingerprint
    )


def test_samples_of_arrays() -> None:
    samples = arrays(shape=(4, 6, 3))
    assert len(samples) == 5
    assert samples[3].mode == "RGB"
    assert samples[3].size == (6, 4)
    assert np.array_equal(np.asarray(samples[3]), samples.images[3])
    assert samples.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((3, 4, 4), np.uint8), [0, 1]),
        (np.zeros((2, 4, 4), np.float32), [0, 1]),
    ],
)
def test_arrays_that_are_no_images(images: np.ndarray, labels: list[int]) -> None:
    with pytest.raises(DataError, match=r"toy/test.*uint8"):
        ImageArrays("toy/test", images, labels, ["a", "b"])


# Some rows of others


@settings(max_examples=30)
@given(rows=st.lists(st.integers(0, 4), max_size=9))
def test_a_subset_is_its_rows(rows: list[int]) -> None:
    whole = arrays(classes=3)
    part = Subset(whole, rows)
    assert len(part) == len(rows)
    assert part.classes == whole.classes
    assert part.labels.tolist() == whole.labels[rows].tolist()
    assert part.digests.tolist() == whole.digests[rows].tolist()
    for i, row in enumerate(rows):
        assert np.array_equal(np.asarray(part[i]), whole.images[row])
    copied = ImageArrays("copy", whole.images[rows], whole.labels[rows], whole.classes)
    assert part.fingerprint == copied.fingerprint, "content alone, not how it came to be"


def test_a_subset_of_files_reads_them_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = image_folder("x/train", write_images(tmp_path, {"a": 2, "b": 3}))
    _ = whole.digests
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read again"))
    part = Subset(whole, [4, 0], "x/val")
    assert part.digests.tolist() == whole.digests[[4, 0]].tolist()
    assert part.name == "x/val"
    assert Subset(whole, [1]).name == "x/train"
    assert Subset(part, [1]).digests.tolist() == whole.digests[[0]].tolist()
    assert np.array_equal(np.asarray(Subset(part, [1])[0]), np.asarray(whole[0]))


def test_what_is_in_memory(tmp_path: Path) -> None:
    found = image_folder("x", write_images(tmp_path, {"a": 2}))
    assert (arrays().in_memory, Subset(arrays(), [0]).in_memory) == (True, True)
    assert (found.in_memory, Subset(found, [0]).in_memory) == (False, False)


# Image folders


def test_image_folder(tmp_path: Path) -> None:
    write_images(tmp_path, {"bee": 2, "ant": 3})
    samples = image_folder("insects/test", tmp_path)
    assert samples.classes == ("ant", "bee")
    assert samples.labels.tolist() == [0, 0, 0, 1, 1]
    assert samples.paths == ["ant/0.png", "ant/1.png", "ant/2.png", "bee/0.png", "bee/1.png"]
    with Image.open(tmp_path / "bee/1.png") as image:
        assert np.array_equal(np.asarray(samples[4]), np.asarray(image))


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path, {"ant": 1, "bee": 1, ".cache": 1, "bee/inner": 1})
    (tmp_path / "ant" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "ant" / "notes.txt").write_text("x")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "stray.png").write_bytes(b"x")
    (tmp_path / "ant" / "upper.PNG").write_bytes((tmp_path / "ant" / "0.png").read_bytes())
    samples = image_folder("insects/test", tmp_path)
    assert samples.paths == ["ant/0.png", "ant/upper.PNG", "bee/0.png", "bee/inner/0.png"]


def test_images_without_class_folders(tmp_path: Path) -> None:
    write_images(tmp_path, {".": 3})
    samples = image_folder("scenes/test", tmp_path)
    assert samples.classes == ("all",)
    assert samples.labels.tolist() == [0, 0, 0]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as error:
        image_folder("scenes/test", tmp_path / "nowhere")
    assert "scenes/test" in str(error.value)
    assert str(tmp_path / "nowhere") in str(error.value)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, {"ant": 2, "bee": 0})
    with pytest.raises(DataError) as error:
        image_folder("insects/test", tmp_path)
    assert str(tmp_path / "bee") in str(error.value)
    with pytest.raises(DataError):
        image_folder("insects/test", tmp_path / "bee")


def test_fingerprint_of_files_is_of_their_content(tmp_path: Path) -> None:
    first = write_images(tmp_path / "first", {"a": 2, "b": 2})
    again = write_images(tmp_path / "again", {"a": 2, "b": 2})
    one, two = image_folder("x/test", first), image_folder("y/test", again)
    assert one.fingerprint == two.fingerprint
    expected = [content_digest((first / path).read_bytes()) for path in one.paths]
    assert one.digests.tolist() == expected
    (again / "b" / "1.png").write_bytes((again / "b" / "0.png").read_bytes())
    assert image_folder("y/test", again).fingerprint != one.fingerprint


def test_a_change_is_seen_at_once(tmp_path: Path) -> None:
    """Same size and same modification time: only the content tells."""
    root = write_images(tmp_path, {"a": 1, "b": 1})
    path = root / "a" / "0.png"
    content, times = path.read_bytes(), path.stat()
    seen = {image_folder("x/test", root).fingerprint}
    for i in range(5):
        path.write_bytes(content[:-1] + bytes([i]))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        seen.add(image_folder("x/test", root).fingerprint)
    assert len(seen) == 6


def test_a_fingerprint_is_remembered_and_the_memory_is_not_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_images(tmp_path, {"a": 2, "b": 2})
    age(root, 2.1)
    reads: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (reads.append(self), read_bytes(self))[1])
    first = image_folder("x/test", root).fingerprint
    assert len(reads) == 4
    assert image_folder("x/test", root).fingerprint == first
    assert len(reads) == 4, "a folder that did not change is not read again"
    path = root / "a" / "0.png"
    times = path.stat()
    path.write_bytes((root / "a" / "1.png").read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert image_folder("x/test", root).fingerprint != first
    write_images(root, {"a": 2})  # as it was
    assert image_folder("x/test", root).fingerprint == first


# Damaged images


def encoded(suffix: str) -> bytes:
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    formats = {"jpg": "jpeg", "tif": "tiff"}
    Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(
        stream, format=formats.get(suffix, suffix)
    )
    return stream.getvalue()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "ppm", "webp", "tif"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_image_is_named_and_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("damaged")
    content = bytearray(encoded(suffix))
    cut = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:cut]
    else:
        content[cut] ^= data.draw(st.integers(1, 255))
    path = root / f"image.{suffix}"
    path.write_bytes(bytes(content))
    samples = ImageFiles("x/test", root, [path.name], [0], ["all"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, of damage that it can read around
        try:
            np.asarray(samples[0])
        except DataError as error:
            told = str(path) in str(error) and "x/test" in str(error)
        else:
            told = True
    assert told


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "ppm", "webp", "tif"])
def test_half_an_image_is_an_error(tmp_path: Path, suffix: str) -> None:
    content = encoded(suffix)
    path = tmp_path / f"image.{suffix}"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="damaged") as error:
        image_folder("x/test", tmp_path)[0]
    assert str(path) in str(error.value)


def test_an_image_that_went_away(tmp_path: Path) -> None:
    samples = image_folder("x/test", write_images(tmp_path, {"a": 1}))
    (tmp_path / "a" / "0.png").unlink()
    with pytest.raises(DataError, match=r"a/0\.png"):
        samples[0]
    with pytest.raises(DataError, match=r"a/0\.png"):
        _ = samples.fingerprint


# Boxes


@pytest.mark.parametrize("corners", [(10, 0, 5, 20), (10, 0, 10, 20), (0, 20, 10, 15)])
def test_a_box_has_its_sides_in_order(corners: tuple[int, ...]) -> None:
    right = (50, 0, 60, 20)
    assert Boxes(np.array([right]), np.zeros(1)).corners.tolist() == [list(right)]
    with pytest.raises(DataError, match="right or bottom side before"):
        Boxes(np.array([right, corners]), np.zeros(2))
    with pytest.raises(DataError, match="2 boxes, but 1 labels"):
        Boxes(np.array([right, right]), np.zeros(1))

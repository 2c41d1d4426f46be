"""Image files of every kind: deep pixels, odd modes, formats that are not opened, sizes, links."""

from __future__ import annotations

import io
import os
import struct
import unicodedata
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from oodbench.checks.classes import check_classes
from oodbench.data import images
from oodbench.data.images import decode, in_mode
from oodbench.data.samples import ImageFiles, image_folder
from oodbench.errors import DataError, OODBenchWarning, OptionError
from tests.conftest import write_images

RAMP = np.arange(256).reshape(16, 16)
"""Every 8-bit value once."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def grey(content: bytes) -> np.ndarray:
    return np.asarray(in_mode(decode(content, "it"), "L"))


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return png[:33] + struct.pack(">I", len(content)) + kind + content + crc + png[33:]


def pgm(levels: np.ndarray, maxval: int) -> bytes:
    height, width = levels.shape[:2]
    kind = "P5" if levels.ndim == 2 else "P6"
    return f"{kind}\n{width} {height}\n{maxval}\n".encode() + levels.astype(">u2").tobytes()


def png48(levels: np.ndarray) -> bytes:
    """A PNG of 16-bit colours, which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    height, width, _ = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def tiff(levels: np.ndarray, tags: dict[int, object] | None = None) -> bytes:
    return encoded(Image.fromarray(levels), "TIFF", tiffinfo=tags or {})


# Deep pixels: by the range of what they are stored in


WIDE = (RAMP * 257).astype(np.uint16)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(WIDE), "PNG"),
        encoded(Image.fromarray(WIDE), "TIFF"),
        encoded(Image.fromarray(WIDE), "TIFF", compression="tiff_lzw"),
        tiff((RAMP.astype(np.int64) << 23).astype(np.int32)),
        tiff((RAMP / 255).astype(np.float32)),
        pgm(WIDE, 65535),
        pgm(RAMP * 4095 // 255, 4095),
        pgm(RAMP * 1023 // 255, 1023),
        encoded(Image.fromarray(WIDE), "JPEG2000", irreversible=False),
        tiff((RAMP << 4).astype(np.uint16), {281: 4095}),
        tiff((RAMP << 2).astype(np.uint16), {281: 1023}),
        tiff(RAMP.astype(np.uint16), {281: 255}),
        with_chunk(encoded(Image.fromarray((RAMP << 4 | 1).astype(np.uint16)), "PNG"), b"sBIT",
                   b"\x0c"),
        with_chunk(encoded(Image.fromarray(RAMP.astype(np.uint16)), "PNG"), b"sBIT", b"\x08"),
        with_chunk(encoded(Image.fromarray(WIDE), "PNG"), b"sBIT", b"\x0c"),
        b"Pf\n16 16\n-1.0\n" + (RAMP[::-1] / 255).astype("<f4").tobytes(),
    ],
    ids="png16 tiff16 lzw int32 float pgm16 pgm12 pgm10 jp2 tiff12 tiff10 tiff8in16 sbit12 sbit8 "
    "sbit-spread pfm".split(),
)  # fmt: skip
def test_deep_grey_levels(content: bytes) -> None:
    assert np.abs(grey(content).astype(int) - RAMP).max() <= 1


def test_sixteen_bits_are_the_upper_byte() -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (9, 7)).astype(np.uint16)
    for content in (encoded(Image.fromarray(levels), "PNG"), tiff(levels), pgm(levels, 65535)):
        assert np.array_equal(grey(content), levels >> 8)
    colours = np.random.default_rng(0).integers(0, 65536, (9, 7, 3))
    assert np.array_equal(np.asarray(decode(png48(colours), "it")), colours >> 8)


def test_white_is_zero_in_deep_images_too() -> None:
    for levels in (WIDE, (RAMP / 255).astype(np.float32)):
        assert np.array_equal(grey(tiff(levels, {262: 0})), 255 - RAMP)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray((RAMP << 4).astype(np.uint16)), "PNG"),
        encoded(Image.fromarray((RAMP << 6).astype(np.uint16)), "PNG"),
        encoded(Image.fromarray(RAMP.astype(np.uint16)), "PNG"),
        tiff((RAMP << 2).astype(np.uint16)),
        tiff(RAMP.astype(np.int32)),
        tiff(WIDE.astype(np.int32)),
        tiff((RAMP - 128).astype(np.int32)),
        tiff(RAMP.astype(np.float32)),
        tiff((RAMP / 255 - 0.5).astype(np.float32)),
        tiff(np.full((4, 4), np.nan, np.float32)),
        tiff(np.array([[0.5, np.inf]], np.float32)),
        pgm(RAMP << 4, 65535),
        png48(np.stack([RAMP << 4] * 3, axis=-1)),
        png48(np.stack([RAMP] * 3, axis=-1)),
        pgm(np.stack([RAMP << 4] * 3, axis=-1), 65535),
    ],
    ids="12in16 14in16 8in16 10in16 8in32 16in32 negative float255 float-negative nan inf pgm "
    "colours12 colours8 ppm".split(),
)
def test_what_would_be_black_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        ImageFiles("xray/test", tmp_path, [path.name], [0], ["all"])[0]
    assert str(error.value).startswith(f"xray/test: the image {path} ")
    assert "8 bits" in str(error.value)
    assert "damaged" not in str(error.value)


def test_black_and_declared_dark_images_are_images() -> None:
    for levels in (np.zeros((4, 4), np.uint16), np.zeros((4, 4), np.int32)):
        assert grey(tiff(levels)).max() == 0
    assert np.asarray(decode(png48(np.zeros((4, 4, 3))), "it")).max() == 0
    dark = with_chunk(encoded(Image.fromarray((WIDE >> 4).astype(np.uint16)), "PNG"), b"sBIT",
                      b"\x10")  # fmt: skip
    assert np.array_equal(grey(dark), WIDE >> 12)


def test_deep_colours_with_their_depth() -> None:
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
    content = with_chunk(png48(colours << 4 | 1), b"sBIT", b"\x0c\x0c\x0c")
    assert np.array_equal(np.asarray(decode(content, "it")), colours)


def test_relative_brightness_stays(tmp_path: Path) -> None:
    """A dark image beside a bright one is as dark as before."""
    for name, white in (("dark", 20000), ("bright", 65535)):
        levels = np.linspace(0, white, 64).reshape(8, 8).astype(np.uint16)
        Image.fromarray(levels).save(tmp_path / f"{name}.png")
    bright, dark = (np.asarray(image) for image in image_folder("x", tmp_path))
    assert (bright.max(), dark.max()) == (255, 20000 >> 8)


# Odd modes


def test_every_mode_becomes_colours_or_grey() -> None:
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (6, 5, 3)).astype(np.uint8))
    for mode in ("1", "L", "P", "LA", "PA", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr", "HSV",
                 "LAB", "I;16", "I;16B", "I", "F"):  # fmt: skip
        made = Image.new(mode, (5, 6)) if mode[0] in "IF" else None
        if mode == "LAB":
            profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
            made = ImageCms.profileToProfile(colours, *profiles, outputMode="LAB")
        elif mode in ("La", "RGBa", "PA"):
            made = colours.convert("LA" if mode != "RGBa" else "RGBA").convert(mode)
        elif made is None:
            made = colours.convert(mode)
        for wanted in ("RGB", "L"):
            found = in_mode(made, wanted)
            assert (found.mode, found.size) == (wanted, (5, 6)), mode
        if mode in ("RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"):
            change = np.asarray(in_mode(made, "RGB")).astype(int) - np.asarray(colours)
            assert np.abs(change).mean() < 5, mode


def test_transparency_is_dropped_as_torchvision_drops_it() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 0] = 200
    content = encoded(Image.fromarray(pixels), "PNG")
    assert np.array_equal(np.asarray(in_mode(decode(content, "it"), "RGB")), pixels[..., :3])


# Formats


@pytest.mark.parametrize("name", "x.pgm x.pbm x.pnm x.gif x.jfif x.jpe x.jp2 x.GIF x.Jpg x".split())
def test_what_pillow_can_read_is_read(tmp_path: Path, name: str) -> None:
    kinds = {"pgm": "PPM", "pbm": "PPM", "pnm": "PPM", "gif": "GIF", "jp2": "JPEG2000", "": "PNG"}
    kind = kinds.get(Path(name).suffix[1:].lower(), "JPEG")
    mode = "1" if name.endswith("pbm") else "L"
    (tmp_path / name).write_bytes(
        encoded(Image.fromarray(RAMP.astype(np.uint8)).convert(mode), kind)
    )
    samples = image_folder("x", tmp_path)
    assert samples.paths == [name]
    assert samples[0].size == (16, 16)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (POSTSCRIPT, "PostScript"),
        (b"%PDF-1.4\n", "PDF"),
        (b"8BPS\0\1" + bytes(50), "Photoshop"),
        (b"\xd7\xcd\xc6\x9a" + bytes(80), "WMF"),
        (b"SIMPLE  =                    T" + bytes(80), "FITS"),
        (b"icns" + bytes(80), "ICNS"),
        (b"\0\0\1\0" + bytes(80), "ICO"),
        (b"<!DOCTYPE html><html>not found", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\0\0\0\x18ftypheic" + bytes(80), "heic"),
        (b"\x93NUMPY" + bytes(80), "NumPy"),
        (b"", "empty"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_is_told_by_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, told: str, suffix: str
) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript"))
    Image.init()  # whatever other readers are there
    path = tmp_path / f"1.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as error:
        image_folder("x/test", tmp_path)[0]
    assert str(path) in str(error.value)


def test_no_reader_is_asked_but_those_listed() -> None:
    Image.init()
    assert set(images.FORMATS) < set(Image.OPEN)
    for kind in set(Image.SAVE) & set(Image.OPEN) - set(images.FORMATS):
        try:
            content = encoded(Image.new("RGB", (16, 16)), kind)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        with pytest.raises(DataError):
            decode(content, "it")


def test_a_name_does_not_choose_the_reader(tmp_path: Path) -> None:
    """As in ImageNet, where a PNG is called .JPEG."""
    (tmp_path / "1.JPEG").write_bytes(encoded(Image.fromarray(RAMP.astype(np.uint8)), "PNG"))
    assert np.array_equal(np.asarray(image_folder("x", tmp_path)[0]), RAMP)


# Size, damage, access


def test_too_large_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, {".": 1}, size=32)
    samples = image_folder("x", tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="too large") as error:
        samples[0]
    assert str(tmp_path / "0.png") in str(error.value)
    assert "Get it again" not in str(error.value)
    assert "OODBENCH_MAX_PIXELS" in str(error.value)
    monkeypatch.setenv("OODBENCH_MAX_PIXELS", "2000")
    assert samples[0].size == (32, 32)
    monkeypatch.setenv("OODBENCH_MAX_PIXELS", "many")
    with pytest.raises(OptionError, match="many"):
        samples[0]


def test_large_is_too_large_where_warnings_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, {".": 1}, size=32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="too large"):
            image_folder("x", tmp_path)[0]


def test_a_mask_keeps_its_values(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16)).save(tmp_path / "mask.png")
    samples = ImageFiles("x", tmp_path, ["mask.png"], [0], ["all"])
    assert np.array_equal(np.asarray(samples.undecorated(0)), RAMP)


# What is data


def listed(root: Path) -> tuple[list[str], str]:
    """Paths, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        paths = image_folder("x/test", root).paths
    assert all(issubclass(one.category, OODBenchWarning) for one in caught)
    return paths, " ".join(str(one.message) for one in caught)


@pytest.mark.parametrize(
    "hidden",
    [".ipynb_checkpoints", ".git", "@eaDir", "__MACOSX", ".thumbnails", "$RECYCLE.BIN", "#recycle"],
)
def test_hidden_folders_are_no_data(tmp_path: Path, hidden: str) -> None:
    write_images(
        tmp_path, {"cat": 1, "dog": 1, hidden: 2, f"cat/{hidden}": 2, f"dog/a/{hidden}/b": 1}
    )
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    assert listed(tmp_path) == (["cat/0.png", "dog/0.png"], "")


def test_a_folder_may_itself_lie_in_a_hidden_one(tmp_path: Path) -> None:
    root = write_images(tmp_path / ".cache" / "set", {"a": 1, "b": 1})
    assert len(image_folder("x", root)) == 2


def test_loose_images_beside_folders(tmp_path: Path) -> None:
    write_images(tmp_path, {".": 9, "thumbs": 1})
    with pytest.raises(DataError) as error:
        image_folder("x/test", tmp_path)
    for told in ("x/test", "9 images", "0.png", "1 in folders", "thumbs"):
        assert told in str(error.value)
    write_images(tmp_path, {"thumbs": 9})
    with pytest.raises(DataError):
        image_folder("x/test", tmp_path)
    write_images(tmp_path, {"thumbs": 20})
    paths, told = listed(tmp_path)
    assert len(paths) == 20
    assert "9 images" in told
    assert "0.png" in told


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 2, "dog": 1})
    for name in ("cat/1.heic", "cat/2.HEIC", "dog/1.npy", "dog/strange"):
        (tmp_path / name).write_bytes(b"no image")
    for name in ("cat/notes.txt", "cat/labels.csv", "dog/README", "dog/info.json"):
        (tmp_path / name).write_bytes(b"metadata")
    paths, told = listed(tmp_path)
    assert paths == ["cat/0.png", "cat/1.png", "dog/0.png"]
    for word in ("x/test", "4 files", "2 with .heic", "1 with .npy", "1 with no suffix", "cat/"):
        assert word in told


def test_healthy_folders_are_not_warned_of(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 2, "dog/inner": 2})
    (tmp_path / "LICENSE").write_text("free")
    (tmp_path / "dog" / "notes.txt").write_text("x")
    assert listed(tmp_path) == (
        ["cat/0.png", "cat/1.png", "dog/inner/0.png", "dog/inner/1.png"],
        "",
    )


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    outside = write_images(tmp_path / "outside", {"more": 2})
    root = write_images(tmp_path / "set", {"cat": 1, "dog": 1})
    (root / "cat" / "linked").symlink_to(outside / "more")
    (root / "cat" / "again").symlink_to(outside / "more")  # the same once more
    (root / "cat" / "loop").symlink_to(root)
    (root / "cat" / "self").symlink_to(root / "cat")
    (root / "cat" / "other").symlink_to(root / "dog")
    (root / "eel").symlink_to(outside)
    paths, told = listed(root)
    assert paths == [
        *("cat/0.png", "cat/again/0.png", "cat/again/1.png", "dog/0.png"),
        *("eel/more/0.png", "eel/more/1.png"),
    ]
    assert told == ""


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    root = write_images(tmp_path, {"cat": 1, "dog": 1})
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "dog" / "folder").symlink_to(root / "nowhere")
    (root / "dog" / "folder.png").mkdir()
    paths, told = listed(root)
    assert paths == ["cat/0.png", "dog/0.png"]
    assert "2 links" in told
    assert "cat/gone.png" in told


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    root = write_images(tmp_path, {"cat": 1, "dog/inner": 1})
    (root / "dog" / "inner").chmod(0)
    with pytest.raises(DataError, match="inner"):
        image_folder("x", root)


def test_a_class_folder_that_is_a_link_to_nowhere(tmp_path: Path) -> None:
    root = write_images(tmp_path, {"cat": 1, "dog": 1})
    (root / "eel").symlink_to(root / "nowhere")
    paths, told = listed(root)
    assert paths == ["cat/0.png", "dog/0.png"]
    assert "1 links" in told
    assert "eel" in told


@pytest.mark.parametrize(("name", "kind"), [("1.gif", "GIF"), ("1.webp", "WEBP"), ("1.tif", "TIFF"),
                                            ("1.png", "PNG")])  # fmt: skip
def test_of_several_frames_the_first(tmp_path: Path, name: str, kind: str) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    write_images(tmp_path, {"cat": 3})
    first.save(tmp_path / "cat" / name, kind, save_all=True, append_images=[second], lossless=True)
    _, told = listed(tmp_path)
    assert "1 files" in told
    assert "first is read" in told
    found = in_mode(ImageFiles("x", tmp_path, [f"cat/{name}"], [0], ["all"])[0], "RGB")
    assert np.asarray(found)[4, 4].tolist() == [255, 0, 0]
    first.save(tmp_path / "cat" / name, kind)
    assert listed(tmp_path)[1] == ""


def test_unicode_names_are_the_same_in_both_forms(tmp_path: Path) -> None:
    for split, form in (("train", "NFC"), ("test", "NFD")):
        names = [unicodedata.normalize(form, name) for name in ("épée", "zoo", "ähre")]
        write_images(tmp_path / split, dict.fromkeys(names, 1))
    train, test = (image_folder(split, tmp_path / split) for split in ("train", "test"))
    assert train.classes == test.classes == ("zoo", "ähre", "épée")
    assert [len(train), len(test)] == [3, 3]
    assert train.fingerprint != ""
    check_classes(train, test)
    write_images(tmp_path / "test", {unicodedata.normalize("NFC", "épée"): 1})
    with pytest.raises(DataError, match="two folders"):
        image_folder("test", tmp_path / "test")


def test_classes_that_differ_in_case_are_told(tmp_path: Path) -> None:
    for split, name in (("train", "Cat"), ("test", "cat")):
        write_images(tmp_path / split, {name: 1, "dog": 1})
    train, test = (image_folder(split, tmp_path / split) for split in ("train", "test"))
    with pytest.raises(DataError, match="case") as error:
        check_classes(train, test)
    assert "Cat" in str(error.value)
    assert "cat" in str(error.value)


def test_fingerprints_stay_what_they_were(tmp_path: Path) -> None:
    """Of healthy folders: committed rows and caches carry them."""
    root = tmp_path / "set"
    for path in ("a/1.png", "a/10.jpg", "a/2.PNG", "b/c/1.bmp", "b/0.ppm"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    assert image_folder("x", root).fingerprint == FINGERPRINT


FINGERPRINT = "9003df8f58a7896178f2e908168559733874b3607a0564a2e8b892e2c655dc5a"

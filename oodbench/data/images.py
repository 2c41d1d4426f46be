"""Reading one image: which formats are opened, and what becomes of deeper pixels than 8-bit ones.

Pixels of more than 8 bits are brought to 8 by the range of what they are stored in, never by the
values of one image, which would change how bright images are beside each other:

- 16-bit grey levels and colours: the upper byte. Where a file says that fewer bits are in use (TIFF
  ``BitsPerSample`` of 12 or ``MaxSampleValue``, the ``maxval`` of a PGM, a PNG's ``sBIT``), the
  upper eight of those.
- 32-bit integers: the upper byte of the range of their type.
- Floating point: 0 is black and 1 is white.

Where the values use less than a quarter of such a range and no file says that this is all of it (12
bits of a camera, stored as 16), the image would be black or nearly so: it is refused, as are floats
outside of [0, 1] and negative values.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oodbench.errors import DataError, OptionError

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are opened, whatever a file is called. Others start foreign
programs (EPS: Ghostscript) or have readers that few have looked at."""

SUFFIXES = frozenset(
    """
    .png .apng .jpg .jpeg .jpe .jfif .webp .tif .tiff .bmp .ppm .pgm .pbm .pnm .pfm .gif
    .jp2 .j2k .jpx .avif
    """.split()
)
"""Suffixes of image files, in lower case."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  ", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"%!PS", "PostScript (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop (PSD)"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"\x01\0\0\0", "WMF or EMF"),
    (b"SIMPLE  =", "FITS"),
    (b"icns", "ICNS"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"\x89HDF", "HDF5"),
    (b"GRIB", "GRIB"),
    (b"\x93NUMPY", "NumPy array (.npy)"),
    (b"PK\3\4", "zip archive"),
    (b"\x1f\x8b", "gzip archive"),
    (b"PAR1", "Parquet"),
    (b"version https://git-lfs", "Git LFS pointer, whose content was not fetched"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML or SVG"),
    (b"<!doctype html", "web page (HTML)"),
    (b"<html", "web page (HTML)"),
)


def signature(head: bytes) -> str | None:
    """What a file is by its first bytes: one of ``FORMATS``, another name, or None."""
    if head[:4] == b"RIFF":
        return "WEBP" if head[8:12] == b"WEBP" else "RIFF (video or sound)"
    if head[4:8] == b"ftyp":
        return "AVIF" if head[8:12] in (b"avif", b"avis") else f"{_word(head[8:12])} (HEIC, video)"
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456fF" and head[2:3].isspace():
        return "PPM"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    names = (name for start, name in _SIGNATURES if head.startswith(start))
    written = (name for start, name in _SIGNATURES if text.startswith(start) and start[:1] in b"<v")
    return next(names, None) or next(written, None)


def _word(code: bytes) -> str:
    return code.decode("ascii", "replace").strip()


def decode(source: Path | bytes, where: str, *, raw: bool = False) -> Image.Image:
    """The image in a file or in a file's content: its first frame, with 8-bit pixels.

    Args:
        source: the file, or its content.
        where: what messages call it, ``"cifar10/test: the image /data/cat/1.png"``.
        raw: whether deeper pixels stay as they are.

    Raises:
        DataError: it cannot be read, is damaged, too large, of a format that is not opened, or has
            pixels of which nobody can tell how bright they are.
    """
    try:
        _allow_large()
        with _opened(source) as image:
            stored = _stored(image)
            image.load()
            return image if raw else _shallow(image, stored, source, where)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        size = str(error).partition(", could")[0]
        raise DataError(
            f"{where} is too large: {size}. Make it smaller, or allow as many pixels: set "
            "OODBENCH_MAX_PIXELS=500000000."
        ) from error
    except (DataError, OptionError):
        raise
    except MemoryError as error:
        raise DataError(f"{where} does not fit into memory. Make it smaller.") from error
    except FileNotFoundError as error:
        raise DataError(f"{where} is missing. Was it moved? Get it again.") from error
    except OSError as error:
        if error.errno is not None:
            reason = error.strerror or str(error)
            wide = " Too many files are open." if error.errno == errno.EMFILE else ""
            raise DataError(f"{where} cannot be read ({reason}).{wide}") from error
        raise DataError(_damage(source, where, error)) from error
    except Exception as error:  # each of PIL's readers has its own for a damaged file
        raise DataError(_damage(source, where, error)) from error


def _opened(source: Path | bytes) -> Image.Image:
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)


def _allow_large() -> None:
    """Pillow's limit of pixels, where the user has set another: in data workers as well."""
    text = os.environ.get("OODBENCH_MAX_PIXELS")
    if not text:
        return
    if not text.isdigit() or int(text) < 1:
        raise OptionError(f"OODBENCH_MAX_PIXELS is a number of pixels, not {text!r}.")
    Image.MAX_IMAGE_PIXELS = int(text)


def _head(source: Path | bytes, size: int = 64) -> bytes:
    if isinstance(source, bytes):
        return source[:size]
    with source.open("rb") as handle:
        return handle.read(size)


def _damage(source: Path | bytes, where: str, error: Exception) -> str:
    head = _head(source)
    if not head:
        return f"{where} is damaged: it is empty. Get it again, or remove it."
    kind = signature(head)
    if kind is not None and kind not in FORMATS:
        return (
            f"{where} is no image that is read: by its content it is a {kind}. Read are "
            f"{', '.join(FORMATS)}. Convert it, or remove it."
        )
    kind = f", a {kind} that Pillow cannot read" if kind else ""
    return f"{where} is damaged or no image{kind} ({error}). Get it again, or remove it."


def frames(path: Path) -> int:
    """How many frames or pages a file has, of which the first is read; 1 where that is unknown."""
    try:
        with _opened(path) as image:
            # a JPEG's further pictures are previews of the same
            return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception:  # a damaged file is told of when it is read
        return 1


_DEEP = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})


def _stored(image: Image.Image) -> tuple[str, int | None]:
    """How pixels stand in the file, in Pillow's words (the raw mode), and a PNM's ``maxval``."""
    for codec, _, _, args in getattr(image, "tile", ()):
        args = args if isinstance(args, tuple) else (args,)
        maxval = args[-1] if codec in ("ppm", "ppm_plain") else 65535
        return str(args[0]), maxval if image.format == "PPM" else None
    return "", None


def _shallow(
    image: Image.Image, stored: tuple[str, int | None], source: Path | bytes, where: str
) -> Image.Image:
    """The image with 8-bit pixels; itself if it has them already."""
    rawmode, maxval = stored
    if image.mode not in _DEEP and ";16" not in rawmode and maxval != 65535:
        return image
    tags = dict(getattr(image, "tag_v2", {}))
    is_inverted = tags.get(262) == 0  # Pillow knows that white may be zero, but not of deep pixels
    significant = _significant_bits(source) if image.format == "PNG" else None
    if image.mode == "F":
        pixels = _from_floats(np.asarray(image), where, is_inverted)
    elif image.mode in _DEEP:
        levels = np.asarray(image).astype(np.int64)
        bits = int(np.max(tags.get(258, 16)))
        if bits == 32 and _first(tags.get(339, 1)) != 2:
            levels &= 2**32 - 1  # Pillow has no unsigned ones
        peak, is_sure = _peak(levels, tags, significant, bits)
        is_sure |= maxval not in (None, 65535)  # Pillow has scaled them by it
        pixels = _from_integers(levels, peak, is_sure, where, is_inverted)
    else:
        upper = np.asarray(image)[..., :3]
        limit = 64 if significant is None else 2 ** max(significant - 8, 0)
        if image.mode not in ("RGB", "RGBA") or upper.max(initial=0) >= limit:
            return image
        lower = _lower_bytes(source, rawmode)
        if lower is None:
            lower = np.zeros_like(upper)
        levels = (upper.astype(np.int64) << 8) | lower[..., :3]
        peak, is_sure = _peak(levels, tags, significant, 16)
        pixels = _from_integers(levels, peak, is_sure, where)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _peak(
    levels: np.ndarray, tags: dict[int, Any], significant: int | None, bits: int
) -> tuple[int, bool]:
    """The value of white, and whether the file says so itself."""
    most = int(levels.max(initial=0))
    white = int(_first(tags.get(281, tags.get(341, 0))))
    if white and most <= white:
        return white, True
    if significant is not None and most < 2**significant:
        shift = bits - significant  # levels are spread over all bits, as they should be, or not
        spread = (levels >> shift) << shift
        if not ((levels == spread) | (levels == (spread | (levels >> significant)))).all():
            return 2**significant - 1, True
    is_signed = _first(tags.get(339, 1)) == 2
    return 2 ** (bits - is_signed) - 1, bits not in (16, 32) or significant is not None


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _from_integers(
    levels: np.ndarray, peak: int, is_sure: bool, where: str, is_inverted: bool = False
) -> np.ndarray:
    """uint8 of levels in [0, ``peak``]."""
    least, most = int(levels.min(initial=0)), int(levels.max(initial=0))
    if least < 0:
        raise DataError(
            f"{where} has negative pixels (from {least} to {most}), of which nobody can tell how "
            "bright they are. Save it with 8 bits a pixel."
        )
    if not is_sure and 0 < most <= peak // 4:
        raise DataError(
            f"{where} would be dark or black: its pixels are at most {most}, where {peak} is "
            "white. If fewer bits are in use, save it with 8 bits a pixel, or with its depth "
            "(TIFF: MaxSampleValue, PNG: sBIT, PGM: maxval)."
        )
    levels = peak - levels if is_inverted else levels
    if peak >= 255 and (peak + 1) & peak == 0:
        return (levels >> (peak.bit_length() - 8)).clip(0, 255).astype(np.uint8)
    return np.rint(levels * (255 / peak)).clip(0, 255).astype(np.uint8)


def _from_floats(levels: np.ndarray, where: str, is_inverted: bool = False) -> np.ndarray:
    """uint8 of levels in [0, 1]."""
    levels = levels.astype(np.float64)
    least, most = float(levels.min(initial=1)), float(levels.max(initial=0))
    if not (np.isfinite(levels).all() and least >= -1e-3 and most <= 1 + 1e-3):
        span = f"from {least:g} to {most:g}" if np.isfinite([least, most]).all() else "NaN or inf"
        raise DataError(
            f"{where} has floating-point pixels ({span}); they are read where 0 is black and 1 is "
            "white. Scale them to [0, 1], or save it with 8 bits a pixel."
        )
    bright: np.ndarray = np.rint(255 * (1 - levels if is_inverted else levels))
    return bright.clip(0, 255).astype(np.uint8)


def _lower_bytes(source: Path | bytes, rawmode: str) -> np.ndarray | None:
    """The lower bytes of 16-bit colours, of which Pillow reads the upper; None if it cannot."""
    if ";16" not in rawmode:
        return None
    kind, order = rawmode[:-1], rawmode[-1]
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    swapped = kind + {"B": "L", "L": "B"}.get(order, order)
    try:
        with _opened(source) as image:
            opened: Any = image
            opened.tile = [
                (*tile[:3], (swapped, *tile[3][1:]) if isinstance(tile[3], tuple) else swapped)
                for tile in opened.tile
            ]
            image.load()
            return np.asarray(image)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError):
        return None


def _significant_bits(source: Path | bytes) -> int | None:
    """What a PNG's ``sBIT`` chunk says, the most of its channels; None without one, or of all."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as handle:
        handle.seek(8)
        while len(start := handle.read(8)) == 8:
            length, kind = int.from_bytes(start[:4], "big"), start[4:]
            if kind == b"sBIT":
                bits = max(handle.read(length), default=0)
                return bits if 1 <= bits <= 16 else None
            if kind in (b"PLTE", b"IDAT", b"IEND"):
                break
            handle.seek(length + 4, os.SEEK_CUR)
    return None


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in an 8-bit mode. Transparency is dropped, as torchvision drops it.

    Images in memory with deeper pixels are read as those of files are, see the module.

    Args:
        image: in any mode of Pillow's.
        mode: ``"RGB"`` or ``"L"``.

    Raises:
        DataError: deep pixels of which nobody can tell how bright they are.
    """
    if image.mode in _DEEP:
        levels = np.asarray(image)
        if image.mode == "F":
            image = Image.fromarray(_from_floats(levels, _called(image)))
        else:
            whole = levels.astype(np.int64)
            peak = 2**16 - 1 if whole.max(initial=0) < 2**16 else 2**31 - 1
            image = Image.fromarray(_from_integers(whole, peak, peak < 2**16, _called(image)))
    if image.mode in _STEPS:  # Pillow knows no way from these to every other mode
        image = image.convert(_STEPS[image.mode])
    return image if image.mode == mode else image.convert(mode)


_STEPS = {"LAB": "RGB", "La": "LA", "RGBa": "RGBA"}


def _called(image: Image.Image) -> str:
    return f"the image {getattr(image, 'filename', '') or 'in memory'}"

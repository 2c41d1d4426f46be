"""Image sets as the Hugging Face hub has them: parquet files with a column of encoded images."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from oodbench.data.images import decode
from oodbench.data.listing import files_below
from oodbench.data.samples import Samples, content_digest
from oodbench.errors import DataError, MissingDataError

IMAGES = ("image", "img")
LABELS = ("label", "labels", "fine_label", "target", "targets", "class", "category")
"""Columns that are taken where the one that a dataset calls by name is not there."""

_FEW_BYTES = 2**28
_NUMBERED = re.compile(
    r"(?P<split>.+?)(?:-(?P<part>\d+)(?:-of-(?P<of>\d+))?)?(?:-[0-9a-f]{8,})?\.parquet"
)
_IN_FOLDER = re.compile(r"(?:[a-z]+-)?(?P<part>\d+)(?:-of-(?P<of>\d+))?(?:-[0-9a-f]{8,})?\.parquet")


class ParquetImages(Samples):
    """Encoded images, as parquet files have them.

    Args:
        name: what messages call it.
        encoded: the files' contents; a :class:`Shards` reads them when they are first asked for.
        labels: ``[N]``.
        classes: class names.
    """

    def __init__(
        self,
        name: str,
        encoded: Sequence[bytes],
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
    ) -> None:
        super().__init__(name, labels, classes)
        self.encoded = encoded

    def __getitem__(self, index: int) -> Image.Image:
        """The image at a position, decoded; DataError if that cannot be done."""
        content = self.encoded[index]
        try:
            return decode(content, f"{self.name}: image {index}")
        except DataError as error:
            if isinstance(self.encoded, Shards):
                raise DataError(f"{error} It is {self.encoded.place(index)}.") from error
            raise

    @property
    def digests_are_cheap(self) -> bool:
        """Whether the files are few megabytes, or in memory already."""
        size = self.encoded.unread if isinstance(self.encoded, Shards) else 0
        return super().digests_are_cheap or size <= _FEW_BYTES

    def _digests(self) -> np.ndarray:
        return np.fromiter(map(content_digest, self.encoded), dtype=np.uint64, count=len(self))


@dataclass
class Shard:
    """A parquet file, and where its images stand.

    Args:
        path: the file.
        rows: how many it has.
        column: the images' column.
        is_struct: whether that holds ``{bytes, path}`` records, not bytes.
    """

    path: Path
    rows: int
    column: str
    is_struct: bool

    def read(self) -> list[bytes]:
        """The encoded images; DataError if the file is damaged."""
        import pyarrow.parquet as pq

        column = f"{self.column}.bytes" if self.is_struct else self.column
        try:
            with pq.ParquetFile(self.path) as file:
                values = file.read(columns=[column])[self.column]
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} is damaged ({error}). Get it again.") from error
        return (
            [one["bytes"] for one in values.to_pylist()] if self.is_struct else values.to_pylist()
        )


class Shards(Sequence[bytes]):
    """The images of several parquet files, which are read when the first is asked for."""

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards

    @cached_property
    def _content(self) -> list[bytes]:
        return [content for shard in self.shards for content in shard.read()]

    @property
    def unread(self) -> int:
        """Bytes of files that are not in memory yet."""
        is_read = "_content" in vars(self)
        return 0 if is_read else sum(shard.path.stat().st_size for shard in self.shards)

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def __getitem__(self, index: Any) -> Any:
        return self._content[index]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._content)

    def place(self, index: int) -> str:
        """The file, row and column of an image."""
        for shard in self.shards:
            if index < shard.rows:
                return f"row {index} (from 0) of column {shard.column!r} of {shard.path}"
            index -= shard.rows
        raise IndexError(index)


def shards_of(
    root: Path,
    name: str,
    split: str,
    config: str | None = None,
    refused: Sequence[str] = (),
) -> list[Path]:
    """The parquet files of a split below ``root / name``, in order; none if there are none.

    They are called ``<split>-00000-of-00002.parquet`` or ``<split>.parquet`` in any folder, or
    ``<split>/0000.parquet``. Of a cache with several revisions it is the one that ``refs/main``
    names; of several configurations the one called ``config``.

    Raises:
        DataError: some files are missing, or several sets of them are there.
    """
    base = root / name
    if not base.is_dir():
        return []
    groups: dict[Path, list[tuple[Path, int | None, int | None]]] = defaultdict(list)
    for path in files_below(name, base):
        if path.suffix != ".parquet":
            continue
        if path.parent.name == f"partial-{split}":
            raise DataError(
                f"{name}: {path.parent} holds only the first part of the {split} split, as the hub "
                "converts large sets. Get the whole."
            )
        match = _NUMBERED.fullmatch(path.name)
        if match is None or match["split"] != split:
            match = _IN_FOLDER.fullmatch(path.name) if path.parent.name == split else None
        if match is not None:
            folder = path.parent.parent if path.parent.name == split else path.parent
            part, total = (int(match[key]) if match[key] else None for key in ("part", "of"))
            groups[folder].append((path, part, total))
    kept = _of_config(name, split, base, _of_revision(name, base, list(groups)), config, refused)
    return _complete(name, groups[kept]) if kept is not None else []


def _of_revision(name: str, base: Path, folders: list[Path]) -> list[Path]:
    """The folders of one revision of a hub's cache; all of what is no cache."""
    by_revision: dict[Path | None, list[Path]] = defaultdict(list)
    for folder in folders:
        parts = folder.relative_to(base).parts
        if "snapshots" in parts[:-1]:
            cut = parts.index("snapshots") + 2
            by_revision[base.joinpath(*parts[:cut])].append(folder)
        else:
            by_revision[None].append(folder)
    if len(by_revision) < 2:
        return folders
    for revision, snapshot in by_revision.items():
        main = revision and revision.parent.parent / "refs" / "main"
        if revision and main and main.is_file() and main.read_text().strip() == revision.name:
            return snapshot
    names = ", ".join(str(revision or base) for revision in by_revision)
    raise DataError(f"{name}: several revisions are there: {names}. Keep one.")


def _of_config(
    name: str,
    split: str,
    base: Path,
    folders: list[Path],
    config: str | None,
    refused: Sequence[str],
) -> Path | None:
    def parts(folder: Path) -> tuple[str, ...]:
        return folder.relative_to(base).parts

    wanted = [folder for folder in folders if config in parts(folder)]
    others = [folder for folder in folders if not set(refused) & set(parts(folder))]
    kept = wanted or others
    if len(kept) == 1:
        return kept[0]
    if not folders:
        return None
    places = ", ".join(str(folder.relative_to(base)) for folder in folders)
    if not kept:
        raise DataError(
            f"{name}: of the {split} split only {places} is there, which holds other images. Get "
            f"the configuration {config}."
        )
    raise DataError(
        f"{name}: the {split} split is there several times below {base}: in {places}. They are "
        "other configurations or other forms of it; keep one."
    )


def _complete(name: str, shards: list[tuple[Path, int | None, int | None]]) -> list[Path]:
    """The files in the order of their numbers.

    Raises:
        DataError: a number is missing, or there twice.
    """
    shards = sorted(shards, key=lambda one: (-1 if one[1] is None else one[1], str(one[0])))
    folder = shards[0][0].parent
    numbers = [number for _, number, _ in shards]
    totals = {total for _, _, total in shards}
    if len(totals) > 1 or len(set(numbers)) < len(numbers):
        shown = ", ".join(path.name for path, _, _ in shards[:6])
        raise DataError(f"{name}: {folder} holds files of several sets: {shown}. Keep one set.")
    (total,) = totals
    if numbers != [None]:
        there = {number for number in numbers if number is not None}
        missing = sorted(set(range(total or max(there) + 1)) - there)
        if missing:
            shown = ", ".join(map(str, missing[:6])) + (" …" if len(missing) > 6 else "")
            whole = f" of {total}" if total else ""
            raise DataError(
                f"{name}: {folder} lacks parts{whole} (such as {shards[0][0].name}): number "
                f"{shown}. Get them."
            )
    for path, _, _ in shards:
        if not path.exists():
            raise DataError(f"{name}: {path} is a link that leads nowhere. Get its file again.")
    return [path for path, _, _ in shards]


def read_shards(
    paths: Sequence[Path], title: str, image: str = "image", label: str | None = "label"
) -> ParquetImages:
    """The images and labels of parquet files; the images are read when they are asked for.

    Labels are whole numbers (then class names come from the hub's metadata, else they are
    numbered), or texts (classes in sorted order). Labels that are all -1 or all empty are none:
    there is one class.

    Args:
        paths: the files.
        title: what messages call the samples, ``"svhn/test"``.
        image: the images' column; one of ``IMAGES`` or the metadata's only one if it is not there.
        label: the labels'; one of ``LABELS`` if it is not there; None for no labels.

    Raises:
        MissingDataError: pyarrow is not installed.
        DataError: a file is damaged, or has rows without an image or a label.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDataError(
            f"{title}: found parquet files, but pyarrow is not installed: "
            "pip install 'oodbench[parquet]'."
        ) from error
    shards: list[Shard] = []
    columns: list[_Labels] = []
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                features = _features(title, path, file.schema_arrow.metadata or {})
                shard = _shard(title, file, path, image, features)
                if shard.rows:
                    _check_images(title, file, shard)
                    shards.append(shard)
                    columns.append(_read_labels(title, file, path, label, features))
        except (OSError, ValueError) as error:
            raise DataError(f"{title}: {path} is damaged ({error}). Get it again.") from error
    labels, classes = _joined(title, columns)
    return ParquetImages(title, Shards(shards), labels, classes)


def _features(title: str, path: Path, metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What the hub's metadata says of each column."""
    try:
        info = json.loads(metadata.get(b"huggingface", b"{}")).get("info") or {}
        features = info.get("features") or {}
        return {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{title}: the metadata of {path} is damaged ({error}).") from error


def _shard(title: str, file: Any, path: Path, image: str, features: dict[str, Any]) -> Shard:
    import pyarrow as pa

    schema = file.schema_arrow
    typed = [name for name, kind in features.items() if kind.get("_type") == "Image"]
    names = [name for name in (image, *IMAGES) if name in schema.names]
    names += typed if len(typed) == 1 else []
    if not names:
        raise DataError(f"{title}: {path} has no column {image!r} ({schema.names}).")
    kind = schema.field(names[0]).type
    is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    content = kind.field("bytes").type if is_struct else kind
    known = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null)  # null: no row has one
    if not any(is_known(content) for is_known in known):
        raise DataError(
            f"{title}: row 0 (from 0) of column {names[0]!r} of {path} holds {kind}, but must hold "
            "an encoded image: bytes, or a record of bytes and path."
        )
    return Shard(path, file.metadata.num_rows, names[0], is_struct)


def _check_images(title: str, file: Any, shard: Shard) -> None:
    """Refuse rows without an image, which the file's statistics tell of."""
    leaf = f"{shard.column}.bytes" if shard.is_struct else shard.column
    before = 0
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        for chunk in map(about.column, range(about.num_columns)):
            if chunk.path_in_schema != leaf:
                continue
            known = chunk.statistics
            if known is None or not known.has_null_count or known.null_count:
                column = file.read_row_group(group, columns=[shard.column])[shard.column]
                for row, one in enumerate(column.to_pylist()):
                    content = one.get("bytes") if isinstance(one, dict) else one
                    if content is None:
                        path = one.get("path") if isinstance(one, dict) else None
                        only = f" but the path {path!r}" if path else ""
                        raise DataError(
                            f"{title}: row {before + row} (from 0) of column {shard.column!r} of "
                            f"{shard.path} holds no image{only}. Get a version with all images "
                            "in it, or remove the row."
                        )
        before += about.num_rows


_NONE = np.iinfo(np.int64).min
"""A label that is not there."""


@dataclass
class _Labels:
    """The labels of one file: texts, or numbers that may be missing (``_NONE``)."""

    path: Path
    column: str
    values: np.ndarray
    names: list[str]

    def refuse(self, title: str, row: int, why: str) -> NoReturn:
        raise DataError(
            f"{title}: row {row} (from 0) of column {self.column!r} of {self.path} {why}."
        )


def _read_labels(
    title: str, file: Any, path: Path, label: str | None, features: dict[str, Any]
) -> _Labels:
    import pyarrow as pa

    there = file.schema_arrow.names
    typed = [name for name, kind in features.items() if kind.get("_type") == "ClassLabel"]
    wanted = [] if label is None else [label, *LABELS, *(typed if len(typed) == 1 else ())]
    names = [name for name in wanted if name in there]
    if not names:
        return _Labels(path, "", np.full(file.metadata.num_rows, _NONE), [])
    column = file.read(columns=[names[0]])[names[0]].combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    labels = _Labels(path, names[0], np.empty(0), _names(features.get(names[0], {})))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        labels.values = np.array(column.to_pylist(), dtype=object)
        return labels
    if pa.types.is_null(kind):
        labels.values = np.full(len(column), _NONE)
        return labels
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)):
        labels.refuse(title, 0, f"holds {kind}; a label is a whole number or a text")
    empty = column.is_null().to_numpy(zero_copy_only=False)
    column = column.cast(pa.int8()) if pa.types.is_boolean(kind) else column
    numbers = column.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(~np.isfinite(numbers) | (numbers != np.floor(numbers)))
    if len(wrong):
        row = int(wrong[0])
        labels.refuse(title, row, f"holds {numbers[row]:g}; a label is a whole number or a text")
    labels.values = np.where(empty, _NONE, numbers.astype(np.int64))
    return labels


def _names(feature: dict[str, Any]) -> list[str]:
    """The names of a ``ClassLabel`` column."""
    names = feature.get("names")
    return [str(name) for name in names] if isinstance(names, list) else []


def _joined(title: str, columns: list[_Labels]) -> tuple[np.ndarray, list[str]]:
    """Labels in [0, C) of all files together, and the C class names."""
    if not columns:
        raise DataError(f"{title}: the parquet files hold no images. Get them again.")
    names = columns[0].names
    for one in columns[1:]:
        if (one.column, one.names) != (columns[0].column, names):
            raise DataError(
                f"{title}: {columns[0].path} and {one.path} have other labels or other names of "
                "classes. Get all from one version."
            )
    if any(one.values.dtype == object for one in columns):
        return _of_texts(title, columns, names)
    values = np.concatenate([one.values for one in columns])
    if np.isin(values, (-1, _NONE)).all():
        return np.zeros(len(values), dtype=np.int64), ["unlabelled" if columns[0].column else "0"]
    for one in columns:
        wrong = np.flatnonzero((one.values < 0) | (one.values >= (len(names) or np.inf)))
        if len(wrong):
            row = int(wrong[0])
            known = f"; there are {len(names)} class names" if names else ""
            stated = "no label" if one.values[row] == _NONE else f"the label {one.values[row]}"
            one.refuse(title, row, f"holds {stated}{known}")
    return values, names or [str(c) for c in range(int(values.max()) + 1)]


def _of_texts(title: str, columns: list[_Labels], names: list[str]) -> tuple[np.ndarray, list[str]]:
    for one in columns:
        for row, value in enumerate(one.values):
            if not isinstance(value, str):
                one.refuse(title, row, "holds no label")
            if names and value not in names:
                one.refuse(title, row, f"holds {value!r}, which is none of the class names")
    values = [value for one in columns for value in one.values]
    known = set(values)
    if not names and all(re.fullmatch(r"0|[1-9]\d{0,8}", value) for value in known):
        numbers = np.array([int(value) for value in values], dtype=np.int64)
        return numbers, [str(c) for c in range(int(numbers.max()) + 1)]
    names = names or sorted(known)
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[value] for value in values], dtype=np.int64), names

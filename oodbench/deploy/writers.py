"""Rows of scored images as CSV, JSON lines or Parquet, on a stream or in a file."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np

from oodbench import files
from oodbench.data.media import library
from oodbench.deploy.calibration import discoveries
from oodbench.deploy.scoring import COLUMNS, Counts, Row
from oodbench.errors import OODBenchError

Format = Literal["csv", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = ("csv", "jsonl", "parquet")

_GROUP = 10_000
"""Rows of a row group of Parquet."""


class Writer(Protocol):
    """Takes rows, one after the other."""

    def write(self, row: Row) -> None:
        """Write a row."""

    def flush(self) -> None:
        """Hand over the rows so far, as far as the format allows."""

    def close(self) -> None:
        """Write what is left. The stream stays open."""


class CSV:
    """Comma-separated values with a header; what is not there is empty, flags are true or false.

    Args:
        stream: of text.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self._writer = csv.writer(stream, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def write(self, row: Row) -> None:
        """Write a row."""
        values = dataclasses.astuple(row)
        self._writer.writerow([_text(value) for value in values])

    def flush(self) -> None:
        """Hand over the rows so far."""
        self.stream.flush()

    def close(self) -> None:
        """Do nothing: every row is written already."""
        self.stream.flush()


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else value


class JSONLines:
    """One JSON object per line.

    Args:
        stream: of text.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, row: Row) -> None:
        """Write a row."""
        self.stream.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Hand over the rows so far."""
        self.stream.flush()

    def close(self) -> None:
        """Do nothing: every row is written already."""
        self.stream.flush()


class Parquet:
    """A Parquet file with row groups of 10,000.

    Args:
        stream: of bytes.

    Raises:
        OODBenchError: pyarrow is not installed.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        try:
            arrow = library("pyarrow", "parquet")
            parquet = library("pyarrow.parquet", "parquet")
        except OODBenchError as error:
            raise OODBenchError(
                "Parquet is written by pyarrow, which is not installed: "
                "pip install 'oodbench[parquet]'."
            ) from error
        text, number = arrow.string(), arrow.float64()
        kinds = (text, text, number, number, arrow.bool_(), text)
        self._schema = arrow.schema(list(zip(COLUMNS, kinds, strict=True)))
        self._arrow = arrow
        self._sink = arrow.PythonFile(stream, mode="w")
        self._writer = parquet.ParquetWriter(self._sink, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, row: Row) -> None:
        """Write a row."""
        self._rows.append(dataclasses.asdict(row))
        if len(self._rows) == _GROUP:
            self._group()

    def _group(self) -> None:
        if self._rows:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def flush(self) -> None:
        """Do nothing: a row group is written when it is full."""

    def close(self) -> None:
        """Write the last rows and the end of the file."""
        self._group()
        self._writer.close()


class Discoveries:
    """Flags rows by their p-values among those of all rows, when all are there.

    Rows wait in a file without a name; in memory there are eight bytes of each.

    Args:
        inner: what takes the rows then.
        fdr: the share of flagged images that are ID, on average, at most.
        counts: where flagged rows are counted.
    """

    def __init__(self, inner: Writer, fdr: float, counts: Counts) -> None:
        discoveries([], fdr)  # what it refuses is refused before anything is scored
        self.inner, self.fdr, self.counts = inner, fdr, counts
        self._waiting = tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        self.p_values = array("d")

    def write(self, row: Row) -> None:
        """Write a row."""
        self.p_values.append(np.nan if row.p_value is None else row.p_value)
        self._waiting.write(json.dumps(dataclasses.astuple(row)) + "\n")

    def flush(self) -> None:
        """Do nothing: no row is complete before the last one is there."""

    def close(self) -> None:
        """Write all rows, flagged."""
        rejected = discoveries(np.frombuffer(self.p_values, dtype=np.float64), self.fdr)
        self._waiting.seek(0)
        for line, flagged in zip(self._waiting, rejected.tolist(), strict=True):
            row = Row(*json.loads(line))
            row.flagged = None if row.error is not None else flagged
            self.counts.flagged += row.flagged is True
            self.inner.write(row)
        self._waiting.close()
        self.inner.close()


@contextlib.contextmanager
def writing(kind: Format, out: str | Path | None, stream: Any) -> Iterator[Writer]:
    """What writes rows to a file, which appears when the block ends well, or to a stream.

    Args:
        kind: the format.
        out: the file; None for the stream.
        stream: of text; Parquet goes to the stream of bytes below it.

    Raises:
        StorageError: the file cannot be written.
    """
    if out is None:
        yield _on(kind, stream)
        return
    with files.replacing(files.user_path(out)) as temporary:
        if kind == "parquet":
            with temporary.open("wb") as binary:
                yield _on(kind, binary)
        else:
            with temporary.open(
                "w", encoding="utf-8", errors="surrogateescape", newline=""
            ) as text:
                yield _on(kind, text)


def _on(kind: Format, stream: Any) -> Writer:
    if kind == "csv":
        return CSV(stream)
    if kind == "jsonl":
        return JSONLines(stream)
    return Parquet(_bytes_below(stream))


def _bytes_below(stream: Any) -> IO[bytes]:
    """The stream of bytes that a stream of text writes to."""
    inner = getattr(stream, "stream", stream)  # a guarded one
    binary = getattr(inner, "buffer", inner)
    if isinstance(binary, io.TextIOBase):
        raise OODBenchError("Parquet is bytes, which cannot be written here. Give a file: `out`.")
    return binary  # type: ignore[no-any-return]

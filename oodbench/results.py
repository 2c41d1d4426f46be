"""Result rows with provenance, and the append-only store that keeps them."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench import disk, files, rowcheck
from oodbench.errors import OODBenchError, StorageError
from oodbench.registry import BENCHMARKS

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
"""Version of the row; a reader takes older ones and refuses newer ones."""

FOREGROUND = ("auroc", "fpr95_id", "fpr95_ood")
"""Figures that are also given against foreground pixels, as ``auroc_foreground`` and so on."""
METRICS = ("auroc", "fpr95_id", "fpr95_ood", "aupr_in", "aupr_out")
ENDS = tuple(f"{metric}_{end}" for metric in METRICS for end in ("low", "high"))
"""Columns of the intervals of ``METRICS``."""
COLUMNS = tuple(
    """
    detector detector_options method backbone id benchmark ood group seed
    auroc auroc_low auroc_high fpr95_id fpr95_ood aupr_in aupr_out id_accuracy n_id n_ood
    is_mean ood_sets recipe recipe_options preprocess precision weights
    id_train_fingerprint id_fingerprint ood_fingerprint selection
    fpr95_id_low fpr95_id_high fpr95_ood_low fpr95_ood_high
    aupr_in_low aupr_in_high aupr_out_low aupr_out_high id_accuracy_low id_accuracy_high
    seconds device oodbench torch python git_commit created command schema row_id tuned
    id_miou id_map binning_error modality separability gap gap_low gap_high
    accelerator processor threads notes shifted_accuracy
    auroc_foreground fpr95_id_foreground fpr95_ood_foreground n_id_foreground
    """.split()
)
"""Names of a row's fields, in the order of tables. Figures are fractions in [0, 1].

``<figure>_low`` and ``<figure>_high`` are the ends of its 95 % interval over images (over boxes, in
detection), which holds it. Both are None where there is none: in segmentation, and in rows of
groups' means from before these had intervals of FPR@95 and AUPR too.

``selection`` is a digest of all OOD sets of the evaluation, so that rows are together that were
measured together, although each is written on its own.

``tuned`` says what the detector's options were chosen on: the validation OOD sets' names (``ood``),
a ``fingerprint`` of all validation images, the mean ``auroc`` there, and how many candidates were
``tried``. It is None where nothing was chosen.

``id_miou`` (segmentation: mean intersection over union) and ``id_map`` (detection: mean average
precision at an IoU of 0.5) are of the ID test set. ``binning_error`` bounds what counting pixels'
scores in cells changed in any metric; see ``oodbench.streamed``. In segmentation ``n_id`` and
``n_ood`` are pixels, in detection predicted boxes.

``modality`` is the one whose predictions were scored, of a network of several; None for the joint
ones, and where there are no modalities.

``separability`` is the AUROC of a cross-validated linear classifier of ID test against OOD
features, which tells of the network and not of the detector (``oodbench.linear``), where a
benchmark has familiar OOD sets. ``gap``, in the row of their mean, is the AUROC of the unfamiliar
sets' mean minus that row's, with its interval.

``weights`` is a digest of the network's; ``unknown:`` and a digest of its outputs where they cannot
be read. ``accelerator`` is the one that was used, where ``device`` is what was asked for;
``processor`` and ``threads`` are those of the machine. Figures of the same weights and data differ
between machines by rounding, those of networks that are trained on each by more.

``shifted_accuracy`` is the accuracy on a shifted set, whose classes are the ID set's; None for OOD.

``auroc_foreground`` and the like are, in segmentation, of OOD pixels against those ID pixels alone
that are not of a benchmark's ``background``, of which there are ``n_id_foreground``; None where a
benchmark has no background, or there is no such pixel.

``notes`` are the warnings that a reader of the row has to know, a list of sentences; None for none.
"""

QUALITY = {
    "classification": ("id_accuracy", "ID accuracy"),
    "segmentation": ("id_miou", "ID mIoU"),
    "detection": ("id_map", "ID mAP@50"),
}
"""By task: the column that says how well the network does what it was trained for, and its name."""

_ALWAYS = COLUMNS[: COLUMNS.index("tuned")]
_MACHINE = ("device", "accelerator", "processor", "threads")
_LATER = COLUMNS[COLUMNS.index("tuned") :]

Row = dict[str, Any]


@cache
def versions() -> dict[str, str | None]:
    """Versions of what computes: oodbench, torch, python, and oodbench's commit if it has one."""
    root = Path(__file__).resolve().parents[1]
    commit = _described(root) if (root / ".git").exists() else _noted()
    try:
        own = version("oodbench")
    except PackageNotFoundError:
        own = "unknown"
    return {
        "oodbench": own,
        "torch": version("torch"),
        "python": platform.python_version(),
        "git_commit": commit,
    }


def _described(root: Path) -> str | None:
    """The commit of a checkout that oodbench runs in; not inside somebody else's."""
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        found = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _noted() -> str | None:
    """The commit that an installed oodbench was built from: setup.py notes it, or pip did."""
    note = Path(__file__).with_name("_commit.txt")
    if note.is_file():
        return note.read_text(encoding="utf-8").strip() or None
    try:
        origin = json.loads(distribution("oodbench").read_text("direct_url.json") or "{}")
        found = origin.get("vcs_info", {}).get("commit_id")
    except (PackageNotFoundError, ValueError, AttributeError):
        return None
    return str(found) if found else None


def row_id(row: Row) -> str:
    """What makes a row the same row: what was measured and what came out.

    Not when, how fast, or on which machine: the same figures are the same row wherever they come
    from, and where a machine's arithmetic differs, so do the figures.
    """
    volatile = {"created", "seconds", "command", "row_id", "git_commit", *_MACHINE}
    # rows from before there was such a column keep their id
    volatile |= {name for name in _LATER if row.get(name) is None}
    return files.digest({key: row[key] for key in sorted(row) if key not in volatile})[:32]


@dataclass
class Results:
    """Rows of an evaluation.

    Args:
        rows: one mapping a detector and OOD set (or group mean); see ``COLUMNS``.
        missing: OOD sets that were not found, with what was looked for, by name.
        warnings: what a reader of the rows has to know.
        failures: detectors that gave no rows, with the reason, by name.
    """

    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __add__(self, other: Results) -> Results:
        warnings = list(dict.fromkeys([*self.warnings, *other.warnings]))
        return Results(
            [*self.rows, *other.rows],
            {**self.missing, **other.missing},
            warnings,
            {**self.failures, **other.failures},
        )

    def to_pandas(self) -> pd.DataFrame:
        """A table with ``COLUMNS``."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def to_json(self) -> str:
        """``{"rows": [...], "missing": {...}, "warnings": [...], "failures": {...}}``."""
        value = {
            "rows": self.rows,
            "missing": self.missing,
            "warnings": self.warnings,
            "failures": self.failures,
        }
        return json.dumps(value, indent=1, allow_nan=False)


_HINT = "Choose a folder that you may write with `leaderboards`."


class ResultStore:
    """Rows on disk: one ``.jsonl`` file a benchmark below ``folder/results``, append-only.

    A row that is there already (same measurement, same figures) is not written again. A line that
    a crash or a full disk left half written is dropped before the next append, and never read.

    Args:
        folder: the leaderboards' folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = files.user_path(folder)

    def path(self, benchmark: str) -> Path:
        """The file of a benchmark's rows."""
        return self.folder / "results" / f"{page_name(benchmark)}.jsonl"

    def check(self, benchmark: str) -> None:
        """Check, before there are rows, that they can be written.

        Raises:
            StorageError: the folder cannot be written to.
        """
        files.writable_dir(self.path(benchmark).parent, _HINT, make=False)

    def _former(self, benchmark: str) -> list[Row]:
        """Rows of the benchmark in the file that it shared with others of a similar name."""
        path = self.folder / "results" / f"{_former_name(benchmark)}.jsonl"
        try:
            if path == self.path(benchmark) or not path.is_file():
                return []
        except OSError:  # a name that was too long for a file
            return []
        return [row for row in _parse(path.read_bytes(), path) if row["benchmark"] == benchmark]

    def append(self, rows: Iterable[Row]) -> int:
        """Write the rows that are new; returns how many.

        Raises:
            StorageError: the folder cannot be written to.
        """
        by_benchmark: dict[str, list[Row]] = {}
        for row in rows:
            by_benchmark.setdefault(row["benchmark"], []).append(row)
        written = 0
        for benchmark, group in by_benchmark.items():
            path = self.path(benchmark)
            files.writable_dir(path.parent, _HINT)
            former = {row["row_id"] for row in self._former(benchmark)}
            group = [row for row in group if row["row_id"] not in former]
            try:
                with files.locked(path):
                    written += self._append(path, group)
            except StorageError:
                raise
            except OSError as error:
                raise StorageError(f"cannot append to {path} ({error.strerror}).") from error
        return written

    @staticmethod
    def _append(path: Path, rows: Sequence[Row]) -> int:
        with path.open("r+b", buffering=0) as handle:
            content = handle.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                handle.truncate(whole)
            known = {row["row_id"] for row in _parse(content[:whole], path)}
            new = {row["row_id"]: row for row in rows if row["row_id"] not in known}
            lines = [json.dumps(row, allow_nan=False) + "\n" for row in new.values()]
            added = "".join(lines).encode()
            handle.seek(whole)
            try:
                # one write: a reader or a kill sees it from a line's start to a line's end
                with disk.telling(path, len(added)):
                    disk.write_all(handle, added)
                    disk.flush(handle)
            except BaseException:
                with contextlib.suppress(OSError):
                    handle.truncate(whole)
                raise
        return len(lines)

    def rows(self, benchmark: str) -> list[Row]:
        """All rows of a benchmark, oldest first.

        Raises:
            OODBenchError: a line that is no row, was changed by hand, or is of a newer schema.
        """
        path = self.path(benchmark)
        if benchmark in _page_names() and not path.is_file():
            path = path.with_name(f"{benchmark}.jsonl")  # asked for by the page's name
        own = _parse(path.read_bytes(), path) if path.is_file() else []
        former = self._former(benchmark)
        return [*former, *own] if former else own


def _parse(content: bytes, path: Path) -> list[Row]:
    """Rows of lines, each of which must be what an evaluation wrote.

    Raises:
        OODBenchError: names the file, the line, and what is wrong with it.
    """
    rows: list[Row] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        where = f"{path}, line {number}"
        try:
            row = rowcheck.parse(line)
            if not rowcheck.is_whole(row["schema"], 1):
                raise ValueError(f"schema is {row['schema']!r}")  # noqa: TRY301 - as the others are
            str(row["row_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise OODBenchError(
                f"{where} is no result row ({error}). Restore the file, or remove the line."
            ) from error
        if row["schema"] > SCHEMA:
            raise OODBenchError(
                f"{where} was written by a newer oodbench (schema {row['schema']}, this one "
                f"reads up to {SCHEMA}). Update oodbench."
            )
        if found := rowcheck.fault(row, _ALWAYS):
            raise OODBenchError(
                f"{where} is no result row: {found}. Restore the file, or remove the line."
            )
        if row_id(row) != row["row_id"]:
            raise OODBenchError(
                f"{where} is not what was measured: the row was changed after its row_id was made. "
                "Restore the line, or remove it and evaluate again."
            )
        if row["row_id"] in lines:
            raise OODBenchError(
                f"{where} is the row of line {lines[row['row_id']]} once more. Remove one of them."
            )
        lines[row["row_id"]] = number
        rows.append(row)
    if wrong := rowcheck.fault_of_means(rows, METRICS):
        raise OODBenchError(
            f"{path}, line {wrong[0] + 1} is not what was measured: {wrong[1]}. "
            "Restore the file, or remove the line."
        )
    return rows


def page_name(benchmark: str) -> str:
    """A benchmark's name as a file name: ``cifar100/palm`` is ``cifar100-palm``.

    That is for registered names, whose makers see to it that they differ. Any other name that is
    no file name as it is, or that another benchmark has, gets a digest: ``folder:x/y`` and
    ``folder:x-y`` are two benchmarks.
    """
    plain = benchmark.replace("/", "-")
    known = _page_names()
    if known.get(plain, benchmark) != benchmark or not files.is_plain_name(plain):
        return files.digested_name(benchmark)
    return plain if "/" not in benchmark or plain in known else files.digested_name(benchmark)


def _page_names() -> dict[str, str]:
    """Registered benchmarks by the names of their pages."""
    return {name.replace("/", "-"): name for name in sorted(BENCHMARKS.names(), reverse=True)}


def _former_name(benchmark: str) -> str:
    """The file name that a benchmark had before names were told apart by digests."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in benchmark)
    return name.strip("-.")

"""Scores that other code wrote: ``.npy``, ``.npz``, ``.csv``, and OpenOOD-style pickles.

A file from a stranger runs no code: arrays are read without pickle, and of a pickle that holds
arrays, lists and mappings nothing else is made; one that asks for more is refused.
"""

from __future__ import annotations

import csv
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from oodbench.errors import BadScoresError, OODBenchError, OptionError

Direction = Literal["ood", "id"]
"""Of which class the scores are high."""

_SCORES = ("score", "scores", "ood_score", "conf", "confidence")
_CONFIDENCES = ("conf", "confidence")
"""Columns that are high for ID, by their name."""
_SETS = ("set", "dataset", "ood")
_PATHS = ("path", "file", "image")


@dataclass(frozen=True)
class Foreign:
    """The scores of one set.

    Args:
        scores: ``[N]`` float64, higher = more OOD.
        paths: ``[N]``, what tells its samples from others; None where that is not known.
        correct: ``[N]``, whether the network's decision is the label; None where that is not known.
    """

    scores: np.ndarray
    paths: tuple[str, ...] | None = None
    correct: np.ndarray | None = None


@dataclass(frozen=True)
class ForeignSets:
    """The scores of an ID set and of OOD sets.

    Args:
        id: of the ID test set.
        ood: of the OOD sets, by group and name.
    """

    id: Foreign
    ood: Mapping[tuple[str, str], Foreign]


def read(path: Path, higher: Direction | None = None) -> Foreign:
    """The scores of one set, in a file that holds no other.

    Args:
        path: a ``.npy`` of ``[N]`` numbers; a ``.npz`` with ``conf`` or ``score`` (and ``pred``,
            ``label``); a ``.csv`` or ``.tsv`` with a column ``score`` (and ``path``, ``label``,
            ``prediction``), or of one number a line.
        higher: the class whose scores are high; None for ``ood``, but for confidences (``conf``),
            which are high for ID.

    Raises:
        OODBenchError: names the file, and what is wrong with it.
    """
    kind = path.suffix.lower()
    try:
        if kind == ".npy":
            return _directed(Foreign(_numbers(np.load(path, allow_pickle=False))), higher, "ood")
        if kind == ".npz":
            return _of_archive(path, higher)
        if kind in (".csv", ".tsv", ".txt"):
            sets = _of_table(path, higher)
            if len(sets) == 1:
                return next(iter(sets.values()))
            raise OptionError(
                f"{path} holds {len(sets)} sets ({', '.join(sorted(n for _, n in sets)[:5])}). "
                "Give it as `scores`."
            )
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, csv.Error) as error:
        raise OODBenchError(
            f"{path} holds no scores ({error}). Give one number a sample: .npy, .npz or .csv."
        ) from error
    if kind in (".pkl", ".pickle"):
        raise OptionError(
            f"{path} is a pickle, which holds an ID set and OOD sets: give it as `scores`."
        )
    raise OptionError(f"{path}: scores are read from .npy, .npz, .csv and .tsv files.")


def read_all(path: Path, higher: Direction | None = None) -> ForeignSets:
    """The scores of an ID set and of OOD sets, in one file.

    Args:
        path: a ``.csv`` or ``.tsv`` with columns ``set`` (``id``, or an OOD set's name) and
            ``score``; or a pickle of ``{"id": {"test": [pred, conf, label]}, "ood": {"near":
            {NAME: …}, "far": {NAME: …}}}``, as OpenOOD's ``--save-score`` writes it.
        higher: as of :func:`read`.

    Raises:
        OODBenchError: names the file, and what is wrong with it.
    """
    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            return _parted(_of_table(path, higher))
        if path.suffix.lower() in (".pkl", ".pickle"):
            return _of_pickle(path, higher)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise OODBenchError(
            f"{path} does not hold the scores of an ID and of OOD sets ({error})."
        ) from error
    raise OptionError(f"{path}: scores of several sets are read from .csv, .tsv and .pkl files.")


def with_labels(foreign: Foreign, labels: Path, predictions: Path) -> Foreign:
    """Scores with what the network got right, of two ``.npy`` files.

    Raises:
        OODBenchError: they are not of as many samples.
    """
    try:
        arrays = [np.load(path, allow_pickle=False) for path in (labels, predictions)]
    except (OSError, ValueError) as error:
        raise OODBenchError(
            f"labels and predictions are read from .npy files ({error})."
        ) from error
    shape = foreign.scores.shape
    if any(array.shape != shape or array.dtype.kind not in "iuUSb" for array in arrays):
        raise OODBenchError(
            f"{labels} and {predictions} must hold a class for each of the {shape[0]} ID scores, "
            f"not {arrays[0].shape} and {arrays[1].shape} of {arrays[0].dtype}."
        )
    return replace(foreign, correct=arrays[0] == arrays[1])


def _parted(sets: Mapping[tuple[str, str], Foreign]) -> ForeignSets:
    """The ID set, and the others."""
    own = [key for key in sets if key[1].casefold() in ("id", "test")]
    if len(own) != 1 or len(sets) < 2:
        raise ValueError("one of its sets must be called id, and there must be OOD sets")
    others = {key: one for key, one in sets.items() if key != own[0]}
    return ForeignSets(sets[own[0]], others)


# --- formats -------------------------------------------------------------------------------------


def _numbers(values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "biuf":
        raise ValueError(f"one number a sample is expected, not {array.dtype} of {array.shape}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise BadScoresError(
            f"{int((~np.isfinite(array)).sum())} of {array.size} scores are NaN or infinite, so "
            "that they have no rank. Look for overflow where they were computed."
        )
    return array


def _directed(foreign: Foreign, higher: Direction | None, by_itself: Direction) -> Foreign:
    is_confidence = (higher or by_itself) == "id"
    return replace(foreign, scores=-foreign.scores) if is_confidence else foreign


def _of_archive(path: Path, higher: Direction | None) -> Foreign:
    with np.load(path, allow_pickle=False) as archive:
        names = [name for name in _SCORES if name in archive.files]
        if not names:
            raise ValueError(f"it has none of {', '.join(_SCORES)}")
        values = _numbers(archive[names[0]])
        correct = None
        if "pred" in archive.files and "label" in archive.files:
            correct = np.asarray(archive["pred"] == archive["label"])
    return _directed(_checked(values, correct), higher, _usual(names[0]))


def _usual(name: str) -> Direction:
    return "id" if name in _CONFIDENCES else "ood"


def _checked(values: np.ndarray, correct: Any) -> Foreign:
    if correct is not None and np.shape(correct) != values.shape:
        raise ValueError("it has predictions and labels of another number of samples than scores")
    return Foreign(values, None, correct)


def _of_table(path: Path, higher: Direction | None) -> dict[tuple[str, str], Foreign]:
    """The sets of a table, by group and name; one without names is called ``""``."""
    text = path.read_text(encoding="utf-8-sig")
    first = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" or "\t" in first else ","
    if _is_number(first.strip()):
        return {
            ("", ""): _directed(Foreign(_numbers(np.array(text.split(), float))), higher, "ood")
        }
    lines = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = {(name or "").strip().casefold(): name for name in lines.fieldnames or ()}
    column = next((header[name] for name in _SCORES if name in header), None)
    if column is None:
        hint = ""
        if any(name.startswith(("auroc", "fpr")) for name in header):
            hint = ": it holds figures, and of these no interval can be made"
        raise ValueError(f"it has no column {', '.join(_SCORES)}{hint}")
    of_set, of_path = (
        next((header[name] for name in names if name in header), None) for names in (_SETS, _PATHS)
    )
    group = header.get("group")
    label, decision = header.get("label"), header.get("prediction") or header.get("pred")
    usual = _usual(column.strip().casefold())
    by_set: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise ValueError(f"line {number} has another number of columns")
        name = line[of_set].strip() if of_set else ""
        by_set.setdefault((line[group].strip() if group else "", name), []).append(line)
    if not by_set:
        raise ValueError("it has no lines")
    sets = {}
    for key, own in by_set.items():
        try:
            values = _numbers(np.array([float(line[column]) for line in own]))
        except ValueError as error:
            raise ValueError(f"in the column {column}: {error}") from error
        paths = tuple(line[of_path] for line in own) if of_path else None
        if paths is not None and not any(paths):
            paths = None
        if paths is not None and len(set(paths)) < len(paths):
            raise ValueError(f"a {of_path} is in it twice")
        correct = None
        if label and decision and all(line[label] for line in own):
            correct = np.array([line[label] == line[decision] for line in own])
        sets[key] = _directed(Foreign(values, paths, correct), higher, usual)
    return sets


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- pickles -------------------------------------------------------------------------------------


class _Left:
    """What stands for a tensor in a pickle, which is not made."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Takes whatever a tensor would be made of."""

    def __setstate__(self, _: Any) -> None:
        """Takes no state."""


def _allowed() -> dict[tuple[str, str], Any]:
    array = np.zeros(1).__reduce__()[0]  # what makes an empty array, to be filled
    made: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _latin1,
    }
    of_buffer = np.zeros(1).__reduce_ex__(5)[0]
    for core in ("numpy.core", "numpy._core"):
        made[f"{core}.multiarray", "_reconstruct"] = array
        made[f"{core}.numeric", "_frombuffer"] = of_buffer
    return made


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes, as old pickles have them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


class _Restricted(pickle.Unpickler):
    """Makes arrays, lists, mappings and numbers; tensors are left out, all else is refused."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        made: Callable[..., Any] | None = _allowed().get((module, name))
        if made is not None:
            return made
        if module.split(".")[0] == "torch":
            return _Left
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _of_pickle(path: Path, higher: Direction | None) -> ForeignSets:
    try:
        content = _Restricted(io.BytesIO(path.read_bytes())).load()
    except OSError:
        raise
    except Exception as error:  # a stranger's bytes may make the reader raise anything
        raise OODBenchError(
            f"{path} was not read: a pickle may run code, and of this one only arrays, lists and "
            f"mappings would be taken ({error}). Write its scores as .npz or .csv, where you trust "
            "it."
        ) from error
    if not isinstance(content, Mapping) or "id" not in content or "ood" not in content:
        raise ValueError("it is no mapping with the keys id and ood")
    test = _triple(content["id"]["test"], "the ID test set", higher)
    sets = {}
    for group in ("near", "far"):
        for name, entry in (content["ood"].get(group) or {}).items():
            if entry is not None:
                sets[group, str(name)] = _triple(entry, str(name), higher)
    if not sets:
        raise ValueError("it has no scores of OOD sets")
    return ForeignSets(test, sets)


def _triple(entry: Any, name: str, higher: Direction | None) -> Foreign:
    if not isinstance(entry, Sequence) or len(entry) != 3:
        raise ValueError(f"{name} is not prediction, confidence and label")
    decision, confidence, label = entry
    values = _numbers(confidence)
    correct = None
    if isinstance(decision, np.ndarray) and isinstance(label, np.ndarray):
        correct = np.asarray(decision == label)
    return _directed(_checked(values, correct), higher, "id")

"""Scores of every sample, kept beside the rows that were made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from oodbench.errors import OODBenchError

Scores = Mapping[str, np.ndarray]
"""OOD scores ``[N]`` by set, in the order of the fingerprinted lists: ``id`` for the ID test set,
``ood/NAME`` for an OOD set; ``correct/…`` of the same names are 1 where the network's decision is
the label, where there are both."""

ID = "id"


def of_ood(name: str) -> str:
    """The key of an OOD set's scores; names of files that are no Unicode are escaped."""
    return "ood/" + name.encode("utf-8", "backslashreplace").decode()


def correct(key: str) -> str:
    """The key of what the network got right on the set of a key."""
    return f"correct/{key}"


def encode(scores: Scores) -> bytes:
    """Scores as the content of a safetensors file.

    They are float32 where that keeps every order and every tie between all of them, which is all
    that figures depend on; float64 otherwise.
    """
    ranked = {key: np.asarray(values) for key, values in scores.items() if not _is_of_labels(key)}
    kind = _least(np.concatenate(list(ranked.values()))) if ranked else np.float64
    arrays = {
        key: np.ascontiguousarray(values, dtype=np.uint8 if _is_of_labels(key) else kind)
        for key, values in scores.items()
    }
    return save(arrays)


def _is_of_labels(key: str) -> bool:
    return key.startswith("correct/")


def _least(scores: np.ndarray) -> type[np.floating]:
    """The smallest type of number in which different scores still differ, in the same order."""
    distinct = np.unique(scores.astype(np.float64))
    with np.errstate(over="ignore"):
        short = distinct.astype(np.float32)
    keeps = bool(np.isfinite(short).all() and (np.diff(short) > 0).all())
    return np.float32 if keeps else np.float64


def read(path: Path) -> dict[str, np.ndarray]:
    """The scores of a file.

    Raises:
        OODBenchError: there is none, or it holds no scores.
    """
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise OODBenchError(
            f"{path} holds no scores ({error}). Restore the file, or evaluate again."
        ) from error

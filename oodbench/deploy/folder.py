"""A fitted detector's folder: ``detector.json`` and safetensors, whole or not at all, and checked.

``detector.json`` holds the sha256 of each file beside it, and of itself without that line, so a
folder that was truncated, edited, or put together of two is refused. That tells damage and
mistakes; it does not tell who made a folder, which anybody can make. Reading it runs no code.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from oodbench import files
from oodbench.deploy.state import State
from oodbench.disk import full, leftovers
from oodbench.errors import FittedError, StorageError

NAME = "detector.json"
FORMAT = 1
"""Of the folder; raised when an older version could not read what is written."""

_LARGEST = 2**26
"""Bytes of a ``detector.json`` that is read at all."""


def write(
    path: Path,
    about: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    replace: bool = False,
) -> None:
    """Write a folder: beside its place, and renamed when it is whole.

    Args:
        path: the folder.
        about: what JSON can hold.
        parts: tensors by name, for each file by its name without suffix.
        replace: whether a fitted detector that is there already gives way.

    Raises:
        StorageError: it cannot be written, or there is something that must not be lost.
        FittedError: a tensor of a kind that safetensors has not.
    """
    check_free(path, replace=replace)
    size = sum(tensor.nbytes for part in parts.values() for tensor in part.values())
    files.make_dir(path.parent)
    temporary = path.with_name(leftovers.temporary_name(path.name))
    try:
        with full.telling(path, size):
            temporary.mkdir()
            digests = {name: _write_part(temporary, name, part) for name, part in parts.items()}
            content = {**about, "format": FORMAT, "files": digests}
            sealed = {**content, "sha256": files.digest(content)}
            text = json.dumps(sealed, indent=1, allow_nan=False) + "\n"
            (temporary / NAME).write_text(text, encoding="utf-8")
            for file in temporary.iterdir():
                with file.open("r+b") as written:
                    full.flush(written)
        _move_in(temporary, path)
    finally:
        leftovers.remove(temporary)
    leftovers.sweep(path.parent)


def check_free(path: Path, *, replace: bool = False) -> None:
    """Check that a folder may be written.

    Raises:
        StorageError: something is there that it must not replace.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path.is_dir() and (path / NAME).is_file()):
        raise StorageError(
            f"{path} is there already, and is no fitted detector. Choose another name for it."
        )
    if not replace:
        raise StorageError(
            f"there is a fitted detector in {path} already. Choose another folder, or replace it "
            "(`replace`)."
        )


def _write_part(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    file = folder / f"{name}.safetensors"
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    try:
        save_file(plain, file)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise FittedError(f"cannot be saved: safetensors has no such tensor ({error}).") from error
    return {"sha256": files.sha256(file), "bytes": file.stat().st_size}


def _move_in(temporary: Path, path: Path) -> None:
    """The new folder in the place of the old one, which goes when the new one is there."""
    old = path.with_name(leftovers.temporary_name(f"old-{path.name}"))
    try:
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise full.storage_error(path, error) from error
    shutil.rmtree(old, ignore_errors=True)


def read_about(path: Path) -> dict[str, Any]:
    """What ``detector.json`` says, if it is what was written.

    Raises:
        FittedError: there is none, or it was changed.
    """
    file = path / NAME
    try:
        if file.stat().st_size > _LARGEST:
            raise FittedError(f"{file} is no fitted detector: it is too large.")
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FittedError(
            f"there is no fitted detector in {path}: it has no {NAME}. Make one with `oodbench "
            "fit`."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{NAME} cannot be read ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise _damaged(path, f"{NAME} tells of no fitted detector")
    if content["format"] > FORMAT:
        raise FittedError(
            f"the fitted detector in {path} was written by a later version of oodbench "
            f"(format {content['format']}, this one reads {FORMAT}). Install that one."
        )
    seal = content.pop("sha256", None)
    if seal != files.digest(content):
        raise _damaged(path, f"{NAME} is not what was written: it was edited or cut off")
    if not isinstance(content.get("files"), dict):
        raise _damaged(path, f"{NAME} tells of no files")
    return content


def read_part(path: Path, about: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The tensors of a file, if they are what was written; memory-mapped.

    Args:
        path: the folder.
        about: what its ``detector.json`` says.
        name: of the file, without suffix.

    Raises:
        FittedError: there is no such file, or it is another one.
    """
    if name not in about["files"]:
        raise _damaged(path, f"it has no {name}")
    file = path / f"{name}.safetensors"
    try:
        changed = _changed(file, about["files"][name])
        tensors = {} if changed else dict(load_file(file))
    except Exception as error:  # damaged files have as many errors as bytes
        raise _damaged(path, f"{file.name} cannot be read ({error})") from error
    if changed:
        raise _damaged(path, f"{file.name} {changed}")
    return tensors


def _changed(file: Path, known: Mapping[str, Any]) -> str:
    """How a file is not what was written, in words; ``""`` if it is."""
    size = file.stat().st_size
    if size != known["bytes"]:
        return f"has {size:,} bytes of {known['bytes']:,}"
    return "" if files.sha256(file) == known["sha256"] else "is not the file that was written"


def write_state(path: Path, state: State) -> None:
    """Write the state of a detector alone, without a network or thresholds.

    Raises:
        StorageError: it cannot be written.
    """
    write(path, {"detector": state.tree}, {"state": state.tensors})


def read_state(path: Path) -> State:
    """What :func:`write_state` wrote, or the state of a detector in a whole folder.

    Raises:
        FittedError: it is damaged, or there is none.
    """
    about = read_about(path)
    return State(about.get("detector"), read_part(path, about, "state"))


def _damaged(path: Path, why: str) -> FittedError:
    return FittedError(f"the fitted detector in {path} is damaged: {why}. Fit it again.")

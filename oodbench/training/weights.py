"""What a training run leaves on disk, and whether it is still that when it is read.

Finished weights carry the run's key and a digest of the tensors, checkpoints a line at their end
with the run's key and a digest of what stands before it. What is damaged, or another run's, is
never taken for this run's, and never deleted: it may have cost hours.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from oodbench import files
from oodbench.disk.digests import value_digest
from oodbench.errors import CheckpointError

_RUN, _DIGEST = "oodbench_run", "oodbench_digest"
_MARK = b"\noodbench checkpoint "


def save_weights(
    path: Path, state: Mapping[str, Tensor], run: str, notes: Mapping[str, str] | None = None
) -> None:
    """Write weights as safetensors, whole or not at all.

    Args:
        path: the file.
        state: the tensors by name.
        run: the key of their run.
        notes: what else to note of them.

    Raises:
        StorageError: there is no room.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    notes = dict(notes or {})
    about = {_RUN: run, _DIGEST: value_digest([state, run, notes]), **notes}
    # not save_file, which makes a file of its own, without the permissions of others
    files.write_bytes(path, save(state, metadata=about))


def read_weights(path: Path, run: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """The tensors that a run left, and what was noted of them; None if there is no such file.

    Raises:
        CheckpointError: they are damaged, or another run's.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            notes = dict(handle.metadata() or {})
            state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except FileNotFoundError:  # trained again at this moment
        return None
    except Exception as error:  # damaged files have as many errors as bytes
        raise _refused(path, f"the file is damaged ({error})") from error
    key, digest = notes.pop(_RUN, None), notes.pop(_DIGEST, None)
    if key != run:
        raise _refused(path, "these weights are another run's")
    if digest is None:
        raise _refused(path, "they were not written by this version, and cannot be checked")
    if digest != value_digest([state, run, notes]):
        raise _refused(path, "the file is damaged: its tensors are not what was written")
    return state, notes


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"cannot use the trained weights {path}: {why}. They were left as they are; train again "
        "with `retrain`, which replaces them."
    )


class SealedCheckpointIO(TorchCheckpointIO):
    """Checkpoints appear whole or not at all, are their run's, and run no code when read.

    Args:
        run: the key of the run.
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run = run

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint with its seal.

        Raises:
            StorageError: there is no room.
        """
        wanted = sum(value.nbytes for value in _tensors(checkpoint))
        with files.replacing(Path(path), wanted) as temporary:
            with temporary.open("wb") as handle:  # of a path, torch tells no reason
                torch.save(checkpoint, handle)
            seal = self._seal(temporary, temporary.stat().st_size)
            with temporary.open("ab") as handle:
                handle.write(seal)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint whose seal is this run's.

        Raises:
            CheckpointError: it is damaged, or another run's.
        """
        try:
            size = Path(path).stat().st_size - len(_MARK) - 64
            with Path(path).open("rb") as handle:
                handle.seek(max(size, 0))
                seal = handle.read()
            if not seal.startswith(_MARK):
                raise _not_whole(path, "it is cut off, or was not written by this version")
            if seal != self._seal(Path(path), size):
                raise _not_whole(path, "it was changed, or is another run's")
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise _not_whole(path, str(error).splitlines()[0]) from error
        return content

    def _seal(self, path: Path, size: int) -> bytes:
        whole = hashlib.sha256(f"{self.run} {size} ".encode())
        with path.open("rb") as handle:
            left = size
            while left and (piece := handle.read(min(left, 2**22))):
                whole.update(piece)
                left -= len(piece)
        return _MARK + whole.hexdigest().encode()


def _not_whole(path: Any, why: str) -> CheckpointError:
    return CheckpointError(
        f"cannot read the checkpoint {path} of a run that was interrupted: it is damaged, "
        f"or no checkpoint of this run ({why}). Start again with `retrain`."
    )


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, list | tuple) else []

"""Checkpoints as trainers save them: read without running code, unpacked, and told what they are.

A file holds weights among much else: an optimiser, a configuration, a moving average, under names
with the prefixes of whatever the network was wrapped in. What cannot be weights is said to be what
it is.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodbench import files
from oodbench.errors import CheckpointError
from oodbench.networks.models import ONNX_WRAPPER

State = dict[str, Tensor]


def read_checkpoint(path: str | Path) -> tuple[State, dict[str, str]]:
    """The state dict and the metadata of a safetensors or ``.pt`` file; runs no code from it.

    The entry that holds the weights is unpacked, whatever it is called; prefixes of wrappers
    (``module.``, ``_orig_mod.``) and the counter of averaged weights are dropped. Where there are
    several such entries, the metadata says in ``entries`` which was taken.

    Raises:
        CheckpointError: no such file, damaged, a pickle that wants to run code, or another thing
            than weights; says what it is.
    """
    path = files.user_path(path)
    if path.is_dir():
        inside = [p.name for p in sorted(path.iterdir()) if p.suffix in _SUFFIXES]
        there = f"; weights in it may be {', '.join(inside[:4])}" if inside else ""
        raise CheckpointError(f"the checkpoint {path} is a folder, not a file{there}.")
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}.")
    metadata: dict[str, str] = {}
    try:
        if _is_safetensors(path):
            from safetensors import safe_open

            with safe_open(path, framework="pt") as handle:
                metadata = handle.metadata() or {}
                state: Any = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
        else:
            _refuse_others(path)
            state = _load(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a plain state dict: reading it would run code that it carries"
            f"{_culprit(path, error)}, or it is damaged, so it was not read. Where it was made, "
            "save the weights alone: torch.save(model.state_dict(), path), or safetensors."
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # each format has its own error for a damaged file
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"cannot read the checkpoint {path}: {reason}") from error
    weights, said = _unpacked(state)
    if weights is None:
        names = f" Its entries: {_listed(state)}." if isinstance(state, Mapping) and state else ""
        raise CheckpointError(f"{path} holds no state dict (a mapping of names to tensors).{names}")
    return _unwrapped(weights), {**metadata, **said}


_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


class _Inert(dict[Any, Any]):
    """Stands for whatever lies beside the weights; is nothing and does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, _state: Any) -> None:
        pass


def _mapping(*_args: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


_RECORDS: dict[str, Any] = {
    "argparse.Namespace": _Inert,
    "collections.defaultdict": _mapping,
    "lightning_fabric.utilities.data.AttributeDict": OrderedDict,
    "numpy._core.multiarray._reconstruct": _Inert,
    "numpy._core.multiarray.scalar": _Inert,
    "numpy.core.multiarray._reconstruct": _Inert,
    "numpy.core.multiarray.scalar": _Inert,
    "numpy.dtype": _Inert,
    "numpy.ndarray": _Inert,
    "pathlib.PosixPath": _Inert,
    "pathlib.PurePosixPath": _Inert,
    "pathlib.WindowsPath": _Inert,
    "pathlib._local.PosixPath": _Inert,
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,
    "types.SimpleNamespace": _Inert,
}
"""What trainers keep beside the weights (configurations, paths, figures), and what stands for it.

Only a mapping of torch's own kinds may be filled.
"""

_RECORD_PACKAGES = re.compile(
    r"(numpy|omegaconf|easydict|addict|yacs|ml_collections|mmengine|mmcv|fvcore|datetime|typing"
    r"|lightning|lightning_fabric|pytorch_lightning|lightning_utilities)\."
)
_MAPPINGS = re.compile(r"(Dict|CfgNode|Config)$")


def _load(path: Path) -> Any:
    """``torch.load`` of weights alone: what else is known to be a mere record becomes nothing.

    Records are not made either: an inert class stands for theirs, so that no code but this module's
    and that of ``torch.load(weights_only=True)`` runs.
    """
    stand_ins = dict(_RECORDS)
    try:
        globals_ = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        for name in filter(_RECORD_PACKAGES.match, globals_):
            stand_ins.setdefault(name, OrderedDict if _MAPPINGS.search(name) else _Inert)
    except Exception:  # noqa: S110  # not of today's format, or damaged: torch.load says which
        pass
    with warnings.catch_warnings():  # the error says what torch warns of
        warnings.simplefilter("ignore")
        with torch.serialization.safe_globals(
            [(stand_in, name) for name, stand_in in stand_ins.items()]
        ):
            return torch.load(path, map_location="cpu", weights_only=True)


def _culprit(path: Path, error: Exception) -> str:
    """What a pickle wants to make, for a message."""
    try:
        globals_ = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of another format, or damaged
        match = re.search(r"GLOBAL (\S+)", str(error))
        globals_ = [match[1]] if match else []
    names = [n for n in globals_ if n not in _RECORDS and not _RECORD_PACKAGES.match(n)]
    names.sort(key=lambda name: (name.startswith("torch."), name))  # the file's own first
    if any(re.match(r"torch\.nn\.modules\.(?!.*_reduction)", name) for name in names):
        return f" (it is a whole pickled network: {', '.join(names[:3])})"
    return f" ({', '.join(names[:3])})" if names else ""


def _is_safetensors(path: Path) -> bool:
    """By content: a length, and that many bytes of JSON; by name where there is neither."""
    with path.open("rb") as handle:
        start = handle.read(9)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return False
    is_one = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    return is_one or path.suffix == ".safetensors"


def _refuse_others(path: Path) -> None:
    if what := _other_format(path):
        raise CheckpointError(f"{path} is {what}")


def _other_format(path: Path) -> str:
    """What a file is, with what to do, if it cannot be a checkpoint; ``""`` if it may be one."""
    with path.open("rb") as handle:
        start = handle.read(256)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
            whole = archive.namelist()
        if "constants.pkl" in names or any("/code/" in name for name in whole):
            return (
                "a TorchScript network, not weights alone. In Python: "
                "oodbench.evaluate(torch.jit.load(path), ...)."
            )
        if "archive_format" in names or any("exported_program" in name for name in names):
            return (
                "an exported program (torch.export), not weights alone. In Python: "
                "oodbench.evaluate(torch.export.load(path), ...)."
            )
        if any(name.endswith(".npy") for name in names):
            return "an archive of NumPy arrays, not a checkpoint of PyTorch. Save a state dict."
        if "data.pkl" not in names:
            return f"a zip file of {', '.join(names[:3])}, not a checkpoint of PyTorch."
        return ""
    if path.suffix.lower() == ".onnx" or (start[:1] == b"\x08" and b"\x12" in start[:4]):
        return (
            "an ONNX network, not weights. In Python, wrap it, with session = "
            f"onnxruntime.InferenceSession(path), and give Net() to oodbench.evaluate:\n"
            f"{ONNX_WRAPPER}"
        )
    formats = (
        (b"\x89HDF", "an HDF5 file (of Keras?)"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"GGUF", "a GGUF file"),
        (b"version https://git-lfs", "a pointer of Git LFS, not the file itself (git lfs pull)"),
        (b"<!DOCTYPE", "a web page"),
        (b"<html", "a web page"),
        (b"\x1f\x8b", "compressed (gzip)"),
    )
    kind = next((what for mark, what in formats if start.lower().startswith(mark.lower())), "")
    return kind and f"{kind}, not a checkpoint of PyTorch (a state dict, or safetensors)."


# --- which entry is the weights --------------------------------------------------------------

_BESIDE = re.compile(
    r"(optim|opt$|sched|lr_|scaler|amp$|criterion|loss|sampler|rng|hyper|callbacks|loops|config"
    r"|cfg|args|stats|history|metric)",
    re.IGNORECASE,
)
_AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averaged?|momentum|target|teacher|encoder_k)", re.I)
_PREFERRED = (
    "state_dict model_state_dict model_state model net network module weights params teacher "
    "student"
).split()
_BODIES = ("backbone", "encoder", "feature_extractor", "features", "model", "net")
_HEADS = ("linear", "fc", "classifier", "head")
HEAD_NAMES = (*_HEADS, "head.fc")
"""How linear heads are called."""


def _unpacked(value: Any) -> tuple[State | None, dict[str, str]]:
    """The weights in what a file holds, and which entry they are if there are several."""
    entries = dict(_entries(value))
    if not entries:
        return ({} if value == {} else None), {}
    if parts := _parts(entries):
        return parts, {}
    order = [name.rpartition("/")[2] for name in entries]
    places = {name: i for i, name in enumerate(_PREFERRED)}
    ranked = sorted(
        zip(entries, order, strict=True),
        key=lambda pair: (
            places.get(pair[1], 99),
            bool(_AVERAGED.search(pair[1])),
        ),
    )
    taken = ranked[0][0]
    if len(entries) == 1:
        return entries[taken], {}
    text = f"the checkpoint holds {_and(list(entries))}; {taken!r} was taken"
    return entries[taken], {"entries": text}


def _entries(value: Any, name: str = "", depth: int = 3) -> Iterator[tuple[str, State]]:
    """State dicts in nested mappings, by their path."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return
    tensors = {key: item for key, item in value.items() if isinstance(item, Tensor)}
    inner = [
        pair
        for key, item in value.items()
        if depth and not _BESIDE.match(key)
        for pair in _entries(item, f"{name}/{key}".lstrip("/"), depth - 1)
    ]
    if tensors and (not inner or any("." in key for key in tensors)):
        yield name, tensors
    else:
        yield from inner


def _parts(entries: Mapping[str, State]) -> State:
    """A body and a head that were saved side by side, as one."""
    body = next((name for name in _BODIES if name in entries), None)
    head = next((name for name in _HEADS if name in entries), None)
    if body is None or head is None or len(entries[head]) > 2:
        return {}
    return {f"{part}.{k}": v for part in (body, head) for k, v in entries[part].items()}


def _unwrapped(state: State) -> State:
    """Without the prefixes of wrappers, and without the counters of averaged weights."""
    state = {k: v for k, v in state.items() if k.rpartition(".")[2] != "n_averaged"}
    state = {re.sub(r"(^|\.)_orig_mod\.", r"\1", key): value for key, value in state.items()}
    while state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _and(names: list[str]) -> str:
    shown = [repr(name) for name in names[:6]] + (["more"] if len(names) > 6 else [])
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _listed(value: Mapping[Any, Any]) -> str:
    names = [str(name)[:40] for name in list(value)[:8]]
    return ", ".join(names) + (" …" if len(value) > 8 else "")

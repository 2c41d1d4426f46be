"""Outputs: what a network says of a dataset, in memory or memory-mapped; no pickle."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from oodbench.errors import BadScoresError, MissingOutputError, OODBenchError
from oodbench.registry import NEEDS

if TYPE_CHECKING:
    from oodbench.text import Text

_FIELDS = ("features", "logits", "labels")
"""Columns that are fields of :class:`Outputs`."""
_OF_TEXT: Mapping[str, str] = {
    "text": "Give a network that reads text: `backbone=openclip/NAME/TAG`, or `network=` the "
    "folder of a CLIP of Hugging Face's.",
    "words": "Give a network that reads text, and a file of words for it: `words=FILE`.",
}
"""What a head may have of a text tower, and how to get it."""


def as_tensor(value: Any) -> Tensor:
    """A tensor that shares memory with a NumPy array where it can; tensors pass unchanged."""
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        # torch cannot mark memory read-only; a copy keeps the caller's array safe from writers.
        # Nor does it have views that run backwards.
        array = array.copy()
    return torch.from_numpy(array)


@dataclass
class Head:
    """The layer from penultimate features to logits: ``features @ weight.T + bias``.

    With ``norm_eps`` it is one of cosines: rows of features and of the weight are divided by (their
    L2 norm + norm_eps) first. A detector that needs ``"head"`` gets a linear one.

    Args:
        weight: ``[C, D]``.
        bias: ``[C]``; zeros if None.
        norm_eps: None for a linear layer.
        text: what a network that reads text makes the layer of: features are unit vectors then, and
            the weight is the embeddings of the classes' prompts times the scale.
    """

    weight: Tensor
    bias: Tensor = None  # type: ignore[assignment]
    norm_eps: float | None = None
    text: Text | None = None

    def __post_init__(self) -> None:
        self.weight = as_tensor(self.weight)
        if self.weight.ndim != 2:
            raise OODBenchError(f"Head.weight must be [C, D], not {tuple(self.weight.shape)}.")
        bias: Tensor | None = self.bias
        self.bias = as_tensor(self.weight.new_zeros(len(self.weight)) if bias is None else bias)
        if self.bias.shape != self.weight.shape[:1]:
            raise OODBenchError(
                f"Head.bias must be [{len(self.weight)}], not {list(self.bias.shape)}."
            )

    def each(self, change: Callable[[Tensor], Tensor]) -> Head:
        """The same with every tensor changed: moved, copied, in another precision."""
        text = None if self.text is None else self.text.each(change)
        return replace(self, weight=change(self.weight), bias=change(self.bias), text=text)

    def __call__(self, features: Tensor) -> Tensor:
        """Logits ``[N, C]`` of features ``[N, D]``."""
        weight = self.weight.to(features)
        if self.norm_eps is not None:
            features = features / (features.norm(dim=1, keepdim=True) + self.norm_eps)
            weight = weight / (weight.norm(dim=1, keepdim=True) + self.norm_eps)
        return torch.nn.functional.linear(features, weight, self.bias.to(features))


@dataclass
class Outputs:
    """What a network says of N samples.

    Args:
        features: penultimate features ``[N, D]``.
        logits: ``[N, C]``.
        labels: ``[N]`` int64.
        head: the linear layer behind the features; the same for all samples.
        extra: further columns, one row per sample, by name (``"temperature"``, ``"logits/video"``).
            ``"log_probabilities"`` are what a network predicts, see :attr:`decisions`.
        notes: what a reader has to know of ``features``, ``logits``, ``head`` or an extra, by name:
            why they are not there, or where they come from.

    NumPy arrays are taken wherever a tensor is. All have the same length N.
    """

    # None where the network does not give them; typed as tensors, since a detector reads only what
    # it declares in ``needs``, and that is checked before it runs
    features: Tensor = None  # type: ignore[assignment]
    logits: Tensor = None  # type: ignore[assignment]
    labels: Tensor = None  # type: ignore[assignment]
    head: Head | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    # columns that were looked through, with the version of the tensor at that time: one look serves
    # all detectors
    _finite: dict[str, tuple[Tensor, int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self.extra = dict(self.extra)
        for name, value in self._columns():
            tensor = as_tensor(value)
            if name in ("features", "logits") and tensor.ndim != 2:
                raise OODBenchError(f"Outputs.{name} must be [N, ...] with 2 dimensions, "
                                    f"not {list(tensor.shape)}.")  # fmt: skip
            if name == "labels":
                tensor = tensor.to(torch.int64)
            if tensor is not value:
                self._set(name, tensor)
        lengths = {name: len(value) for name, value in self._columns()}
        if len(set(lengths.values())) > 1:
            raise OODBenchError(f"Outputs wants as many rows everywhere, but has {lengths}.")

    @classmethod
    def of_columns(
        cls,
        columns: Mapping[str, Any],
        head: Head | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> Outputs:
        """Outputs of columns by name, as a network gives them: what is no field is an extra."""
        fields: dict[str, Any] = {n: columns[n] for n in _FIELDS if columns.get(n) is not None}
        extra = {name: value for name, value in columns.items() if name not in _FIELDS}
        return cls(**fields, head=head, extra=extra, notes=dict(notes or {}))

    def _columns(self) -> Iterator[tuple[str, Tensor]]:
        for name in _FIELDS:
            value = getattr(self, name)
            if value is not None:
                yield name, value
        for key, value in self.extra.items():
            yield f"extra/{key}", value

    def columns(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors of N rows that there are, by name; extras by theirs."""
        return ((name.removeprefix("extra/"), value) for name, value in self._columns())

    def _set(self, name: str, value: Tensor) -> None:
        if name.startswith("extra/"):
            self.extra[name.removeprefix("extra/")] = value
        else:
            setattr(self, name, value)

    def __len__(self) -> int:
        return next((len(value) for _, value in self._columns()), 0)

    def digest(self) -> str:
        """Hex sha256 of all columns."""
        whole = hashlib.sha256()
        for name, value in sorted(self._columns(), key=lambda column: column[0]):
            whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            for start in range(0, len(value), 65536):
                whole.update(to_numpy(value[start : start + 65536]).tobytes())
        return whole.hexdigest()

    def has(self, need: str) -> bool:
        """Whether features, logits, labels, a linear head or an extra is there.

        ``"kind/*"`` stands for at least two extras whose names begin with ``kind/``: those of
        several modalities, or of an ensemble's members. Another word is what was registered for it
        with ``@register_need``.
        """
        if need.endswith("/*"):
            return len(self.of_kind(need)) > 1
        if need == "head":
            return self.head is not None and self.head.norm_eps is None
        if need in _FIELDS:
            return getattr(self, need) is not None
        if need in _OF_TEXT:
            text = None if self.head is None else self.head.text
            return text is not None and (need == "text" or text.words is not None)
        return need in self.extra or (need in NEEDS and NEEDS.get(need)(self))

    @property
    def decisions(self) -> Tensor | None:
        """``[N, C]``, whose largest in a row is the predicted class; None without logits.

        The logits, or the extra ``"log_probabilities"``, where a network gives its probabilities
        beside logits that they are not the softmax of: an ensemble may average either.
        """
        log_probabilities = self.extra.get("log_probabilities")
        fits = (
            log_probabilities is not None
            and self.logits is not None
            and log_probabilities.shape == self.logits.shape
        )
        return log_probabilities if fits else self.logits

    def of_kind(self, need: str) -> dict[str, Tensor]:
        """Extras that ``"kind/*"`` stands for, by what stands for the star."""
        kind = need.removesuffix("*")
        return {
            key.removeprefix(kind): value
            for key, value in self.extra.items()
            if key.startswith(kind)
        }

    def any_head(self) -> Head:
        """The layer behind the features, linear or of cosines.

        Raises:
            MissingOutputError: there is none.
        """
        if self.head is None:
            why = self.notes.get("head", "Extract them from a network that has a last layer.")
            raise MissingOutputError(f"a head is needed, but these Outputs have none. {why}")
        return self.head

    def linear_head(self) -> Head:
        """The linear layer behind the features.

        Raises:
            MissingOutputError: there is none, or it is one of cosines.
        """
        self.require({"head"}, "what reads a linear head")
        return self.any_head()

    def require(self, needs: Mapping[str, Any] | frozenset[str] | set[str], who: str) -> None:
        """Check that all needs are there.

        Raises:
            MissingOutputError: what is missing, and what there is instead.
        """
        missing = sorted(need for need in needs if need != "model" and not self.has(need))
        if missing:
            there = [name for name in ("features", "logits", "labels", "head") if self.has(name)]
            there += self._registered()
            reasons = (
                self.notes.get(need) or _OF_TEXT.get(need)
                for need in missing
                if not (need == "head" and self.head)
            )
            why = " ".join(
                dict.fromkeys(f"{note[:1].upper()}{note[1:]}" for note in reasons if note)
            )
            raise MissingOutputError(
                f"{who} needs {' and '.join(missing)}, but these Outputs have only "
                f"{', '.join([*there, *self.extra]) or 'nothing'}. "
                + (
                    why
                    or "Extract them from a network that gives them, or choose another detector."
                )
            )

    def _registered(self) -> list[str]:
        """Registered needs that are met; one whose package is damaged is not."""
        met = []
        for name in NEEDS.names():
            with contextlib.suppress(OODBenchError):
                met += [name] if self.has(name) else []
        return met

    def require_finite(self, needs: frozenset[str] | set[str], who: str) -> None:
        """Check that no value of these columns is NaN or infinite, block by block.

        A column is read once, and again after torch has changed it in place.

        Raises:
            BadScoresError: names the column and the first such row.
        """
        for name, value in self._columns():
            short = name.removeprefix("extra/")
            wanted = short in needs or f"{short.partition('/')[0]}/*" in needs
            if not wanted or not value.is_floating_point():
                continue
            # tensors made in inference mode count no versions
            if self._is_looked_through(name, value):
                continue
            rows = max(1, 2**20 // max(1, value[:1].numel()))
            for start in range(0, len(value), rows):
                block = value[start : start + rows]
                # a sum that is finite has finite terms, and is quicker than a look at each
                if block.sum(dtype=torch.float32).isfinite() or block.isfinite().all():
                    continue
                row = start + int((~block.isfinite()).flatten(1).any(dim=1).nonzero()[0])
                raise BadScoresError(
                    f"{who}: the {name} hold NaN or infinite values (first in row {row}). "
                    "Look at the network: has its training diverged?"
                )
            self._finite[name] = (value, _version(value))

    def _is_looked_through(self, name: str, value: Tensor) -> bool:
        checked, version = self._finite.get(name, (None, -1))
        return checked is value and _version(value) == version != -1

    def looks_of(self, other: Outputs) -> None:
        """Take over which columns were looked through, from outputs of the same values."""
        columns_ = dict(other._columns())
        for name, value in self._columns():
            if name in columns_ and other._is_looked_through(name, columns_[name]):
                self._finite[name] = (value, _version(value))

    def arrays(self) -> Iterator[tuple[str, Tensor]]:
        """All there is by name: columns, ``extra/<name>``, ``head.weight`` and ``head.bias``."""
        yield from self._columns()
        if self.head is not None:
            yield "head.weight", self.head.weight
            yield "head.bias", self.head.bias
            if self.head.text is not None:
                for name, value in self.head.text.arrays():
                    yield f"head.text.{name}", value

    def spill(self, folder: Path) -> None:
        """Move large columns from memory to nameless files.

        See :func:`oodbench.disk.mapped.spilled`.
        """
        from oodbench.disk import mapped

        for name, value in list(self._columns()):
            self._set(name, mapped.spilled(value, folder))

    def private(self) -> Outputs:
        """The same in memory that nobody else sees written to; what was mapped is mapped again.

        It is what :meth:`load` read, or what was copied to, so nobody may have changed it since.
        """
        from oodbench.disk import mapped

        private = Outputs(
            **_by_field({name: mapped.private(value) for name, value in self._columns()}),
            head=self.head and self.head.each(Tensor.clone),
            notes=dict(self.notes),
        )
        private.looks_of(self)
        return private

    def stamp(self) -> dict[str, tuple[Any, ...]]:
        """What :meth:`changed_since` compares: each array, its shape and its version in torch."""
        about = {name: (value, *_state(value)) for name, value in self.arrays()}
        return about if self.head is None else {**about, "head": (self.head.norm_eps,)}

    def changed_since(self, stamp: Mapping[str, tuple[Any, ...]]) -> list[str]:
        """Names of what was replaced, added, removed, or changed in place by torch."""
        now = self.stamp()
        return [
            name
            for name in {**stamp, **now}
            if name not in now
            or name not in stamp
            or now[name][0] is not stamp[name][0]
            or now[name][1:] != stamp[name][1:]
        ]

    def __getitem__(self, rows: slice | Tensor) -> Outputs:
        """The rows of a slice (a view, without copying), or at positions ``[n]`` (a copy)."""
        return Outputs(
            **{
                name: value[rows] for name, value in self._columns() if not name.startswith("extra")
            },
            head=self.head,
            extra={key: value[rows] for key, value in self.extra.items()},
            notes=self.notes,
        )

    def batches(self, size: int = 4096) -> Iterator[Outputs]:
        """Consecutive pieces of at most ``size`` rows, views of memory or of mapped files."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def to(self, device: torch.device | str) -> Outputs:
        """The same on another device."""
        moved = {name: value.to(device) for name, value in self._columns()}
        head = self.head and self.head.each(lambda value: value.to(device))
        return Outputs(**_by_field(moved), head=head, notes=self.notes)

    def save(self, path: str | Path, key: str | None = None) -> None:
        """Write a folder of ``.npy`` files and ``outputs.json``; whole or not at all.

        Args:
            path: the folder.
            key: what a reader can ask for, so that the folder cannot pass for another.

        Raises:
            FileExistsError: there is something at ``path`` already.
            StorageError: there is no room.
        """
        # a detector is loaded without all that writes to disk
        from oodbench.caching import arrays

        columns = {name: to_numpy(value) for name, value in self._columns()}
        about = {**head_meta(self.head), "notes": self.notes}
        arrays.write(path, columns, head_arrays(self.head), about, key)

    @classmethod
    def load(cls, path: str | Path, mmap: bool = True, key: str | None = None) -> Outputs:
        """Read what :meth:`save` wrote; with ``mmap`` the arrays stay on disk until touched.

        What is read is compared with its digests, once per process.

        Raises:
            OODBenchError: no such folder, another format, another key, or a file that is damaged.
        """
        from oodbench.caching import arrays

        with arrays.readable(path) as folder:
            stored, head_columns, meta = arrays.read(folder, mmap, key)
            columns = {name: torch.from_numpy(value) for name, value in stored.items()}
            head = None
            if head_columns is not None:
                weight, bias = (torch.from_numpy(head_columns[name]) for name in ("weight", "bias"))
                head = Head(weight, bias, meta.get("head_norm_eps"), _text(head_columns, meta))
            extra = {
                name.removeprefix("extra/"): columns.pop(name)
                for name in list(columns)
                if "/" in name
            }
            return cls(**columns, head=head, extra=extra, notes=dict(meta.get("notes") or {}))


def _by_field(columns: dict[str, Tensor]) -> dict[str, Any]:
    """Columns as the constructor takes them: those named ``extra/...`` in a mapping."""
    extra = {name[6:]: value for name, value in columns.items() if name.startswith("extra/")}
    return {**{n: v for n, v in columns.items() if not n.startswith("extra/")}, "extra": extra}


def _version(value: Tensor) -> int:
    """How often torch changed a tensor in place; -1 where it does not count: inference mode."""
    return -1 if value.is_inference() else value._version


def _state(value: Any) -> tuple[Any, ...]:
    return (value.shape, _version(value)) if isinstance(value, Tensor) else ()


def head_meta(head: Head | None) -> dict[str, Any]:
    """What ``outputs.json`` says of the head, beside its arrays."""
    about: dict[str, Any] = {"head": head is not None}
    if head is not None and head.norm_eps is not None:
        about["head_norm_eps"] = head.norm_eps
    if head is not None and head.text is not None:
        about["text_scale"] = head.text.scale
        about["head_text"] = [f"text.{name}" for name, _ in head.text.arrays()]
    return about


def _text(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Text | None:
    """The text of a head, of its arrays and what ``outputs.json`` says."""
    if "text_scale" not in meta:
        return None
    there = {name.removeprefix("text."): torch.from_numpy(arrays[name]) for name in arrays
             if name.startswith("text.")}  # fmt: skip
    from oodbench.text import Text

    return Text(scale=float(meta["text_scale"]), **there)


def to_numpy(value: Tensor) -> np.ndarray:
    """A NumPy array on the CPU; bfloat16, which NumPy lacks, becomes float32."""
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def head_arrays(head: Head | None) -> dict[str, np.ndarray] | None:
    """The arrays of a head, by name, where there is one: two, and those of its text."""
    if head is None:
        return None
    text = {} if head.text is None else dict(head.text.arrays())
    return {
        "weight": to_numpy(head.weight),
        "bias": to_numpy(head.bias),
        **{f"text.{name}": to_numpy(value) for name, value in text.items()},
    }

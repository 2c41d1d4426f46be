"""Any classifier as it is: its logits, and its penultimate features and head where they check out.

A head is believed where ``head(features)`` gives the logits, and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from oodbench.errors import OODBenchError, OptionError
from oodbench.networks.heads import Doubt, gap_of, head_gap, tolerance
from oodbench.networks.models import as_module, copied
from oodbench.outputs import Head


@dataclass
class _Call:
    """One run of a layer that could be the head: its input, if that is ``[B, D]``."""

    layer: str
    features: Tensor | None
    shape: tuple[int, ...]
    width: int
    dtype: torch.dtype
    head: Head | None


@dataclass
class _Layout:
    """Where a network's features and logits are, as the batches so far have shown.

    Args:
        layer: the layer whose input the features are; None for no features.
        output: which of several outputs the logits are; None where there is one.
        notes: remarks for the user, by ``features``, ``head`` and ``logits``.
        doubt: about the head on batches so far, not read from the device yet; None for none.
    """

    layer: str | None
    output: str | None
    notes: dict[str, str]
    doubt: Doubt | None = None


class Classifier(nn.Module):
    """Any classifier as it is, with its penultimate features read by a hook.

    The features are the input of the classifier's last linear layer (or of a 1x1 convolution that
    is one), the head is that layer: if the layer's weights turn the features into what the model
    returns, which is compared on every batch. Where they do not, there is no head. Of a layer that
    is named, or is the only one with as many outputs as the model, the features are kept; otherwise
    there are logits alone. ``notes`` says why.

    The model is copied, so the caller's own is neither moved nor switched to evaluation mode.

    Args:
        model: ``[B, ...] -> [B, C]`` logits; or to a mapping or sequence that has them.
        layer: the name of the linear layer in ``model.named_modules()``; None to find it.
        classes: C, which tells the logits among several outputs; None if that is not known.
    """

    def __init__(
        self, model: nn.Module, layer: str | None = None, classes: int | None = None
    ) -> None:
        super().__init__()
        self.model = copied(as_module(model)).eval()
        for parameter in self.model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        self.layer = layer
        self.classes = classes
        self.layout: _Layout | None = None
        if layer is not None:
            self._linear_layer(layer)

    @property
    def notes(self) -> dict[str, str]:
        """Remarks by ``features``, ``head`` and ``logits``; empty before the first batch."""
        if self.layout is None:
            return {}
        self.settle(self.postponed())
        return dict(self.layout.notes)

    @property
    def read_layer(self) -> nn.Module | None:
        """The layer whose input the features are; None for none, and before the first batch."""
        found = self.layout is not None and self.layout.layer is not None
        return self._linear_layer(cast(str, cast(_Layout, self.layout).layer)) if found else None

    def postponed(self) -> Doubt | None:
        """The doubt about the head on the batches since it was asked for, which the caller settles.

        For who does not want to wait for the device; ``notes`` and ``head`` wait.
        """
        if self.layout is None:
            return None
        doubt, self.layout.doubt = self.layout.doubt, None
        return doubt

    def settle(self, doubt: Doubt | None, gap: float | None = None) -> None:
        """Note what a doubt comes to.

        Args:
            doubt: see :meth:`postponed`.
            gap: its number, where that has come from the device.
        """
        said = None if doubt is None else doubt.settled(gap)
        if said is not None and self.layout is not None:
            self.layout.notes.setdefault("head", said)

    def _layers(self) -> dict[str, nn.Module]:
        return {name: m for name, m in self.model.named_modules() if _is_linear(m)}

    def _linear_layer(self, layer: str) -> nn.Module:
        layers = self._layers()
        if layer not in layers:
            raise OptionError(
                f"the model has no linear layer {layer!r}; its linear layers: "
                f"{_some(list(layers)) or 'none'}. See model.named_modules()."
            )
        return layers[layer]

    def _candidates(self) -> dict[str, nn.Module]:
        if self.layout is not None:
            layer = self.layout.layer
            return {} if layer is None else {layer: self._linear_layer(layer)}
        return (
            self._layers() if self.layer is None else {self.layer: self._linear_layer(self.layer)}
        )

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """``logits [B, C]`` of one forward pass, with ``features [B, D]`` where there are any."""
        rows = _rows(images)
        calls: list[_Call] = []
        hooks = [
            module.register_forward_hook(
                lambda module, args, kwargs, out, name=name: calls.extend(
                    _calls(name, module, (*args, *kwargs.values()), out, rows)
                ),
                with_kwargs=True,
            )
            for name, module in self._candidates().items()
        ]
        try:
            returned = self.model(images)
        finally:
            for hook in hooks:
                hook.remove()
        logits, output, said = self._logits(returned, rows, calls)
        if self.layout is None:
            self.layout = self._find(calls, logits)
            self.layout.output = output
            if said:
                self.layout.notes["logits"] = said
        layer = self.layout.layer
        if layer is None:
            return {"logits": logits}
        usable = [call for call in calls if call.layer == layer and call.features is not None]
        if not usable:
            raise OODBenchError(
                f"the layer {layer!r} of the {type(self.model).__name__} gave features for one "
                "batch and not for another. Wrap the network in a module with outputs(images) and "
                "head()."
            )
        exact = [] if len(usable) == 1 else [call for call in usable if _agrees(call, logits)]
        if not exact and "head" not in self.layout.notes:
            self._doubt(self.layout, usable[-1], logits)
        features = (exact or usable)[-1].features
        assert features is not None  # noqa: S101
        return {"features": features, "logits": logits}

    def head(self) -> Head | None:
        """The linear layer, where it gave the logits of every batch so far."""
        if self.layout is None or self.layout.layer is None or "head" in self.notes:
            return None
        return _head(self._linear_layer(self.layout.layer))

    def forward(self, images: Tensor) -> Tensor:
        """The model's own logits, ``[B, C]``."""
        return self.outputs(images)["logits"]

    def _find(self, calls: list[_Call], logits: Tensor) -> _Layout:
        """The layer that the features come from, decided on one batch."""
        name = type(self.model).__name__
        if self.layer is not None:
            if not calls:
                raise OptionError(f"the layer {self.layer!r} does not run in the model's forward.")
            if calls[-1].features is None:
                return _Layout(None, None, _nothing(_on_tokens(calls[-1])))
            return _Layout(self.layer, None, {})
        ends = [call for call in calls if call.width == logits.shape[1]]
        exact = [call for call in ends if _agrees(call, logits)]
        if exact:
            return _Layout(exact[-1].layer, None, {})
        # by the number of outputs, these are the layers that end the network
        tail = takewhile(lambda call: call.width == logits.shape[1], reversed(calls))
        usable = list(dict.fromkeys(call.layer for call in tail if call.features is not None))
        if len(usable) == 1:
            return _Layout(usable[0], None, {})
        if usable:
            why = (
                f"the logits of the {name} are not those of one linear layer, but of several "
                f"({_some(usable)}). Name the one whose input are the penultimate features: "
                "layer=..."
            )
        elif ends:
            why = _on_tokens(ends[-1])
        elif self._layers():
            why = (
                f"cannot find the linear head of the {name}: none of its linear layers has the "
                f"{logits.shape[1]} outputs that it gives. Name the layer whose input are the "
                f"penultimate features: layer=..., one of {_some(list(self._layers()))}."
            )
        else:
            why = (
                f"the {name} has no linear layer that oodbench can read, so its penultimate "
                "features and head are not known. Wrap it in a module with outputs(images), which "
                "gives features and logits, and head()."
            )
        return _Layout(None, None, _nothing(why))

    def _doubt(self, layout: _Layout, call: _Call, logits: Tensor) -> None:
        """Note that a layer may not give the logits, or that it cannot."""
        if call.head is None or call.features is None:
            layout.notes["head"] = self._no_head(call, "has another kind of weights")
            return
        why = "does not give the model's logits ({off})"
        if call.width != logits.shape[1]:
            why = f"gives {call.width} values, not the {logits.shape[1]} logits"
        gap = gap_of(call.head, call.features, logits)
        doubt = Doubt(gap, _limit(call, logits), self._no_head(call, why))
        layout.doubt = doubt.joined(layout.doubt)

    def _no_head(self, call: _Call, why: str) -> str:
        name = type(self.model).__name__
        return (
            f"the linear layer {call.layer!r} of the {name} {why}, so the head is not known. Is "
            "there another operation behind it? Take it out of the model, or name the layer: "
            "layer=..."
        )

    def _logits(
        self, returned: Any, rows: int | None, calls: list[_Call]
    ) -> tuple[Tensor, str | None, str]:
        """The logits in what a model returned, the output that they are, and a note."""
        name = type(self.model).__name__
        if isinstance(returned, Tensor):
            logits = _as_logits(returned, rows)
            if logits is None:
                raise OODBenchError(
                    f"the {name} must return logits [B, C], but returns {list(returned.shape)} "
                    f"of {returned.dtype}."
                )
            return logits, None, ""
        parts = dict(_parts(returned))
        candidates = {k: t for k, v in parts.items() if (t := _as_logits(v, rows)) is not None}
        kind = type(returned).__name__
        if self.layout is not None and self.layout.output in candidates:
            return candidates[self.layout.output], self.layout.output, ""
        if not candidates:
            shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in parts.items())
            raise OODBenchError(
                f"the {name} must return logits [B, C], but returns a {kind} without such a "
                f"tensor ({shapes or 'no tensors'})."
            )
        if "logits" in candidates:
            return candidates["logits"], "logits", ""
        chosen = self._choose(candidates, calls)
        if chosen is None:
            shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in candidates.items())
            raise OODBenchError(
                f"the {name} must return logits [B, C], but returns a {kind} with several tensors "
                f"that could be: {shapes}. Wrap it in a module that returns one of them."
            )
        said = f"the {name} returns a {kind}; its {chosen!r} was taken for the logits."
        return candidates[chosen], chosen, said if len(parts) > 1 else ""

    def _choose(self, candidates: Mapping[str, Tensor], calls: list[_Call]) -> str | None:
        """Which of several tensors ``[B, ?]`` is the logits; None if that is not clear."""
        sized = [k for k, v in candidates.items() if v.shape[1] == self.classes] or list(candidates)
        called = [k for k in sized if k.rpartition(".")[2] in _OUTPUT_NAMES]
        last = [k for k in sized if any(_agrees(call, candidates[k]) for call in calls[-1:])]
        return next((names[0] for names in (sized, called, last) if len(names) == 1), None)


_OUTPUT_NAMES = ("logit", "out", "output", "pred", "preds", "prediction", "predictions")


def _nothing(why: str) -> dict[str, str]:
    return {"features": why, "head": why}


def _on_tokens(call: _Call) -> str:
    return (
        f"the layer {call.layer!r} runs on {['B', *call.shape[1:]]!r}".replace("'B'", "B")
        + ", not on features [B, D] of whole images, so there are neither features nor a head."
    )


def _parts(returned: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in what a model returned, by name: a key, a field, or a position."""
    if isinstance(returned, Tensor):
        yield prefix.removesuffix("."), returned
        return
    if isinstance(returned, Mapping):
        items = list(returned.items())
    elif dataclasses.is_dataclass(returned):
        items = [(f.name, getattr(returned, f.name, None)) for f in dataclasses.fields(returned)]
    elif isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        items = list(returned._asdict().items())
    elif isinstance(returned, list | tuple):
        items = list(enumerate(returned))
    else:
        logits = getattr(returned, "logits", None)
        items = [("logits", logits)] if isinstance(logits, Tensor) else []
    for name, value in items:
        yield from _parts(value, f"{prefix}{name}.")


def _as_logits(value: Tensor, rows: int | None) -> Tensor | None:
    """``[B, C]``, also of ``[B, C, 1, 1]``, ``[B, 1, C]`` and ``[B]``; None if it is none."""
    if not value.ndim or not value.is_floating_point() or (rows is not None and len(value) != rows):
        return None
    if value[:1].numel() != max(value.shape[1:], default=1):
        return None
    return value if value.ndim == 2 else value.flatten(1) if value.ndim > 2 else value.unsqueeze(1)


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[-8:])} (the last 8)"


def _rows(images: Any) -> int | None:
    """The number of samples of a batch."""
    if isinstance(images, Mapping):
        return _rows(next(iter(images.values()), None))
    return len(images) if isinstance(images, Tensor) and images.ndim else None


def _is_linear(module: nn.Module) -> bool:
    """Whether it maps vectors by a matrix, or could: also of a kind whose weights are not read."""
    if isinstance(module, torch.jit.ScriptModule):  # whose parts run no hooks
        return False
    if isinstance(module, nn.Linear):
        return True
    if isinstance(module, _ConvNd):
        return module.groups == 1 and not module.transposed
    weight = module.__dict__.get("_parameters", {}).get("weight")
    sized = isinstance(weight, Tensor) and weight.ndim == 2
    return (sized and not isinstance(module, nn.Embedding)) or hasattr(module, "out_features")


def _head(module: nn.Module) -> Head | None:
    """The weights of a linear layer, or of a convolution that sees its whole input at once."""
    if not isinstance(module, nn.Linear | _ConvNd):
        return None
    weight: Any = module.weight
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        return None
    return Head(weight.flatten(1), cast(Tensor, module.bias))


def _calls(
    name: str, module: nn.Module, inputs: tuple[Any, ...], out: Any, rows: int | None
) -> Iterator[_Call]:
    """What a hook notes of one run of a layer; nothing if it is not one on whole samples."""
    x = next((value for value in inputs if isinstance(value, Tensor)), None)
    if x is None or not isinstance(out, Tensor) or min(x.ndim, out.ndim) < 2:
        return
    if not x.is_floating_point() or (rows is not None and not len(out) == len(x) == rows):
        return
    width = out.shape[1] if isinstance(module, _ConvNd) else out.shape[-1]
    if isinstance(module, _ConvNd):
        whole = x.shape[2:] == module.kernel_size and out[0].numel() == width
    else:
        whole = x[0].numel() == x.shape[-1] and out[0].numel() == width
    if not whole:
        yield _Call(name, None, tuple(x.shape), width, out.dtype, None)
        return
    # a copy: what comes behind the layer may work in place
    yield _Call(name, x.flatten(1).clone(), tuple(x.shape), width, out.dtype, _head(module))


def _agrees(call: _Call, logits: Tensor) -> bool:
    """Whether a layer's weights turn what it saw into the logits."""
    if call.head is None or call.features is None:
        return False
    return head_gap(call.head, call.features, logits) <= _limit(call, logits)


def _limit(call: _Call, logits: Tensor) -> float:
    """By how much rounding may move the logits that a layer gives."""
    assert call.head is not None  # noqa: S101
    assert call.features is not None  # noqa: S101
    kinds = call.features.dtype, call.dtype, call.head.weight.dtype, logits.dtype
    return tolerance(*kinds, device=logits.device)

"""Whether a head is one: whether it makes the logits of the features, as far as floats can tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.networks.models import head_notes_of, network_of
from oodbench.outputs import Head


def head_gap(head: Head, features: Tensor, logits: Tensor) -> float:
    """As :func:`gap_of`, as a number, for which the CPU waits for the device."""
    return float(gap_of(head, features, logits))


def gap_of(head: Head, features: Tensor, logits: Tensor) -> Tensor:
    """By how much ``head(features)`` misses the logits, over their size; 0 if it gives them.

    A head of cosines gives logits up to a factor of each row, such as a temperature. Rows that are
    not finite are passed over: that a network has diverged is somebody else's message.

    Args:
        head: the layer.
        features: ``[B, D]``.
        logits: ``[B, C]``.

    Returns:
        A float32 scalar where the logits are: the largest difference in any row, over the size of
        the row's logits; infinite if the shapes do not fit, or if the layer gives infinite values.
    """
    if features.ndim != 2 or (logits.shape[1], features.shape[1]) != head.weight.shape:
        return logits.new_full((), torch.inf, dtype=torch.float32)
    wide = torch.promote_types(torch.promote_types(features.dtype, logits.dtype), torch.float32)
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        features, logits = features.detach().to(wide), logits.detach().to(wide)
        if not len(logits):
            return logits.new_zeros((), dtype=torch.float32)
        # masked and not indexed, as the number of such rows would have to come to the CPU
        finite = features.isfinite().all(dim=1) & logits.isfinite().all(dim=1)
        features = features.masked_fill(~finite[:, None], 0)
        logits = logits.masked_fill(~finite[:, None], 0)
        predicted = head(features)
        if head.norm_eps is not None:
            predicted = predicted * (
                (predicted * logits).sum(1) / (predicted * predicted).sum(1)
            ).unsqueeze(1)
            size = logits.abs()
        else:
            weight, bias = head.weight.to(features), head.bias.to(features)
            size = F.linear(features.square(), weight.square(), bias.square()).sqrt()
            size = torch.maximum(size, logits.abs())
        off = (predicted - logits).abs().amax(dim=1) / size.amax(dim=1).clamp(min=1e-30)
        return torch.where(finite, off.nan_to_num(torch.inf), 0).amax().float()


def tolerance(*dtypes: torch.dtype, device: torch.device) -> float:
    """What rounding may make of :func:`head_gap` in numbers of these types, on a device."""
    kinds = list(dtypes)
    if torch.is_autocast_enabled(device.type):
        kinds.append(torch.get_autocast_dtype(device.type))
    eps = max(torch.finfo(kind).eps for kind in kinds)
    coarse = torch.get_float32_matmul_precision() != "highest"
    if device.type == "cuda":
        coarse |= torch.backends.cudnn.allow_tf32  # convolutions, by default
    if coarse or device.type not in ("cpu", "cuda"):
        eps = max(eps, 2**-10)
    return max(4 * eps, 1e-5)


@dataclass
class Doubt:
    """Whether a head gives the logits of a batch, which is still to come from the device.

    Args:
        gap: :func:`gap_of` the head there.
        limit: what rounding may make of it.
        text: what is to be said where it is more; ``{off}`` in it stands for by how much.
    """

    gap: Tensor
    limit: float
    text: str

    @classmethod
    def of(cls, head: Head, features: Tensor, logits: Tensor, text: str) -> Doubt:
        """The doubt about a head on one batch."""
        kinds = [
            value.dtype if value.is_floating_point() else torch.float32
            for value in (features, logits, head.weight)
        ]
        return cls(gap_of(head, features, logits), tolerance(*kinds, device=logits.device), text)

    def joined(self, earlier: Doubt | None) -> Doubt:
        """This one, with the gap of an earlier one where that is larger."""
        if earlier is None:
            return self
        gap = torch.maximum(self.gap, earlier.gap.to(self.gap.device))
        return Doubt(gap, min(self.limit, earlier.limit), self.text)

    def settled(self, gap: float | None = None) -> str | None:
        """What is to be said against the head; None for nothing.

        Args:
            gap: the number, where it has come; None to wait for it.
        """
        known = float(self.gap) if gap is None else gap
        if known <= self.limit:
            return None
        off = f"{known:.2g} of their size off" if known < float("inf") else "the shapes do not fit"
        return self.text.replace("{off}", off)


def doubt_of(network: nn.Module, outputs: Mapping[str, Tensor]) -> tuple[Head | None, Doubt | None]:
    """A network's own head, and the doubt about it on a batch.

    There is none without a head, without features or logits, and for a network that has checked its
    head itself (``notes``).

    Args:
        network: with ``head()``.
        outputs: of one batch.
    """
    head = network_of(network).head()
    if head is None or not {"features", "logits"} <= set(outputs):
        return head, None
    if head_notes_of(network) is not None:
        return head, None
    features, logits = outputs["features"], outputs["logits"]
    return head, Doubt.of(
        head, features, logits, _differs(f"head() of the {type(network).__name__}")
    )


def checked_head(
    network: nn.Module, outputs: Mapping[str, Tensor]
) -> tuple[Head | None, dict[str, str]]:
    """A network's own head, if it gives the logits of this batch; else None, and what to say.

    Args:
        network: with ``head()``; with ``notes`` if it has checked its head itself.
        outputs: of one batch.
    """
    head, doubt = doubt_of(network, outputs)
    said = None if doubt is None else doubt.settled()
    return (head, head_notes_of(network) or {}) if said is None else (None, {"head": said})


def checked(
    head: Head | None, features: Tensor, logits: Tensor, who: str
) -> tuple[Head | None, dict[str, str]]:
    """A head, if it turns the features into the logits; else None, and what to say of ``who``."""
    if head is None:
        return None, {}
    said = Doubt.of(head, features, logits, _differs(who)).settled()
    return (head, {}) if said is None else (None, {"head": said})


def _differs(who: str) -> str:
    return (
        f"the {who} does not turn the features into the logits ({{off}}), so the head is not "
        "known. Let it be that layer, or None."
    )

"""Whether a head is one: whether it makes the logits of the features, as far as floats can tell."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.networks.models import head_notes_of, network_of
from oodbench.outputs import Head


def head_gap(head: Head, features: Tensor, logits: Tensor) -> float:
    """By how much ``head(features)`` misses the logits, over their size; 0 if it gives them.

    A head of cosines gives logits up to a factor of each row, such as a temperature. Rows that are
    not finite are passed over: that a network has diverged is somebody else's message.

    Args:
        head: the layer.
        features: ``[B, D]``.
        logits: ``[B, C]``.

    Returns:
        The largest difference in any row, over the size of the row's logits; infinite if the shapes
        do not fit, or if the layer gives infinite values.
    """
    if features.ndim != 2 or (logits.shape[1], features.shape[1]) != head.weight.shape:
        return float("inf")
    wide = torch.promote_types(torch.promote_types(features.dtype, logits.dtype), torch.float32)
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        features, logits = features.detach().to(wide), logits.detach().to(wide)
        finite = features.isfinite().all(dim=1) & logits.isfinite().all(dim=1)
        features, logits = features[finite], logits[finite]
        if not len(logits):
            return 0.0
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
        return float(off.nan_to_num(torch.inf).amax())


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


def checked_head(
    network: nn.Module, outputs: Mapping[str, Tensor]
) -> tuple[Head | None, dict[str, str]]:
    """A network's own head, if it gives the logits of this batch; else None, and what to say.

    Args:
        network: with ``head()``; with ``notes`` if it has checked its head itself.
        outputs: of one batch.
    """
    head = network_of(network).head()
    notes = head_notes_of(network)
    if notes is not None:
        return head, notes
    if head is None or not {"features", "logits"} <= set(outputs):
        return head, {}
    who = f"head() of the {type(network).__name__}"
    return checked(head, outputs["features"], outputs["logits"], who)


def checked(
    head: Head | None, features: Tensor, logits: Tensor, who: str
) -> tuple[Head | None, dict[str, str]]:
    """A head, if it turns the features into the logits; else None, and what to say of ``who``."""
    if head is None:
        return None, {}
    gap = head_gap(head, features, logits)
    kinds = [
        value.dtype if value.is_floating_point() else torch.float32
        for value in (features, logits, head.weight)
    ]
    if gap <= tolerance(*kinds, device=logits.device):
        return head, {}
    off = f"{gap:.2g} of their size off" if gap < float("inf") else "the shapes do not fit"
    return None, {
        "head": f"the {who} does not turn the features into the logits ({off}), so the head is not "
        "known. Let it be that layer, or None."
    }

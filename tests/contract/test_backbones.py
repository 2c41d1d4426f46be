"""The public check suite over every backbone of this package."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

import oodbench
from oodbench.registry import BACKBONES
from oodbench.testing import BackboneCheck, backbone_checks

# a backbone may fail a check only with a reason, and only as long as it does:
# {"name": {"check": "reason"}}
KNOWN_FAILURES: dict[str, dict[str, str]] = {}
# what is large is slow; those of Kinetics differ by their weights alone, which are downloaded
NAMES = [name for name in oodbench.list_backbones() if not name.endswith("-kinetics")]
SLOW = ("clips-m", "clips-r", "clips-s3d", "deeplabv3", "fasterrcnn", "fcn")
SLOW = (*SLOW, "resnet18-cifar", "resnet34-cifar")


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def inputs(name: str) -> Tensor | Mapping[str, Tensor]:
    """What a backbone sees, as small as it may be."""
    if name.startswith("clips-mvit"):
        return {"video": drawn(2, 3, 16, 224, 224)}
    if name.startswith("clips-s3d"):
        return {"video": drawn(2, 3, 16, 64, 64), "audio": drawn(2, 1, 32, 32)}
    if name.startswith("clips-"):
        return {"video": drawn(2, 3, 4, 16, 16), "audio": drawn(2, 1, 32, 32)}
    if name == "avdigits-cnn":
        return {"image": drawn(3, 1, 8, 8), "audio": drawn(3, 1, 16, 12)}
    if name.startswith("scenes-"):
        return drawn(2, 1, 64, 64)
    large = name.startswith(("deeplabv3", "fasterrcnn", "fcn"))
    return drawn(2, 3, 64, 64) if large else drawn(3, 3, 16, 16)


@pytest.mark.parametrize("check", backbone_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith(SLOW) else [])
        for name in NAMES
    ],
)
def test_contract(name: str, check: BackboneCheck, request: pytest.FixtureRequest) -> None:
    reason = KNOWN_FAILURES.get(name, {}).get(check.__name__)
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    check(BACKBONES.get(name), inputs(name))

"""Detectors on a device that has no float64, such as Apple's GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import oodbench
from oodbench.detectors import _classes, _numerics, grood, odin, optfs, weiper
from tests.helpers.problems import problem
from tests.helpers.scores import images, small_cnn


class WithoutFloat64(TorchDispatchMode):
    """Refuses float64, as such a device does."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{func} made a float64")
        return result


@pytest.fixture(autouse=True)
def single_precision_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_classes, _numerics, grood, odin, optfs, weiper):
        monkeypatch.setattr(module, "precise", lambda device: torch.float32)
    # drawn on the CPU, which has float64, on every machine
    heads = weiper.perturbed_heads(problem().head.weight, 1.8, 3, 0).float()
    monkeypatch.setattr(weiper, "perturbed_heads", lambda *given: heads)


@pytest.mark.parametrize("name", ["grood", "optfs", "weiper"])
def test_outputs(name: str) -> None:
    p = problem(dtype=torch.float32)
    options = {"repeats": 3} if name == "weiper" else {}
    with WithoutFloat64():
        found = oodbench.create_detector(name, **options).fit(p.train).score(p.test)
    assert found.isfinite().all()


@pytest.mark.parametrize("name", ["iodin", "odin"])
def test_networks(name: str) -> None:
    model, x = small_cnn().float(), images(4).float()
    with WithoutFloat64():
        found = oodbench.create_detector(name, temperature=1.0).score_batch(model, x)
    assert found.isfinite().all()

"""Several processes train what one would; whole trainings of two are in tests/robustness."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.errors import OODBenchError
from oodbench.registry import METHODS
from oodbench.testing.drawn import drawn_benchmark
from oodbench.testing.networks import untrained
from oodbench.training import processes


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 6), (4, 3, 6, 7)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_equals_torchs_and_so_do_its_gradients(
    shape: tuple[int, ...], affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one process that is asked to do as of several; all sums are its own."""
    monkeypatch.setattr(processes, "all_reduce", lambda value: value)
    drawn = torch.Generator().manual_seed(0)
    found = []
    for function in (F.batch_norm, processes._batch_norm):
        drawn.manual_seed(0)
        x = torch.randn(shape, generator=drawn, dtype=torch.float64).mul(3).add(7)
        weight, bias = torch.randn(2, 3, generator=drawn, dtype=torch.float64)
        target = torch.randn(shape, generator=drawn, dtype=torch.float64)
        mean, variance = torch.zeros(3).double(), torch.ones(3).double()
        leaves = [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
        own = (weight, bias) if affine else (None, None)
        y = function(x, mean, variance, *own, True, 0.3, 1e-5)
        (y * target).sum().backward()
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        found.append([y.detach(), mean, variance, *gradients])
    assert len(found[0]) == (6 if affine else 4)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_batch_norm_of_a_network_that_is_not_trained_is_torchs() -> None:
    x, mean, variance = torch.randn(4, 3), torch.randn(3), torch.rand(3)
    expected = F.batch_norm(x, mean, variance)
    assert processes._batch_norm(x, mean, variance).equal(expected)


def trainer(world: int) -> Any:
    return SimpleNamespace(world_size=world, strategy=None)


def test_a_method_is_afterwards_as_it_was() -> None:
    method = untrained(METHODS.get("ce"), drawn_benchmark())
    before = method.training_step
    with processes.as_one(method, trainer(1)):
        assert method.training_step == before
    with processes.as_one(method, trainer(2)):
        assert method.training_step != before
    assert method.training_step == before


def test_parameters_that_nobody_said_to_be_idle() -> None:
    method = untrained(METHODS.get("ce"), drawn_benchmark())

    def fails(text: str) -> Tensor:
        raise RuntimeError(text)

    with (
        pytest.raises(OODBenchError, match=r"loss of ce .* `has_idle_parameters = True`"),
        processes.as_one(method, trainer(2)),
    ):
        fails("Expected to have finished reduction in the prior iteration before starting")
    with pytest.raises(RuntimeError, match="another"), processes.as_one(method, trainer(2)):
        fails("another")


def test_who_says_to_have_idle_parameters() -> None:
    benchmark = drawn_benchmark()
    said = {
        name: processes.has_idle_parameters(untrained(METHODS.get(name), benchmark))
        for name in ("ce", "palm", "vos", "npos")
    }
    assert said == {"ce": False, "palm": False, "vos": True, "npos": True}

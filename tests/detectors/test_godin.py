"""GODIN: the decomposed head, and inputs that are moved towards confidence."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench import Preprocess
from oodbench.detectors.godin import GODIN, DecomposedHead, GODINMethod, GODINRecipe
from oodbench.detectors.logitnorm import LogitNorm, LogitNormRecipe
from oodbench.errors import MissingOutputError, OptionError
from tests.helpers.methods import CPU, batch, untrained


def test_decomposed_head_by_hand() -> None:
    z = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    expected = {
        "cosine": [[0.6, 0.8, -0.6], [0.0, 1.0, 0.0]],
        "inner": [[3.5, 8.5, -2.5], [0.5, 4.5, 0.5]],
        "euclid": [[-10.0, -6.5, -16.0], [-2.5, 0.0, -2.5]],
    }
    for similarity, h in expected.items():
        head = DecomposedHead(2, 3, similarity).eval()  # type: ignore[arg-type]
        with torch.no_grad():
            head.h.weight.copy_(weight)
            if head.h.bias is not None:
                head.h.bias.fill_(0.5)
            found = head(z)
        torch.testing.assert_close(found["numerator"], torch.tensor(h))
        torch.testing.assert_close(found["denominator"], head.g(z)[:, 0])
        torch.testing.assert_close(found["logits"], torch.tensor(h) / head.g(z))
    with pytest.raises(OptionError, match="similarity"):
        DecomposedHead(2, 3, "dot")  # type: ignore[arg-type]


def test_tiny_denominators_stay_finite() -> None:
    head = DecomposedHead(4, 3).eval()
    with torch.no_grad():
        head.g[0].bias.fill_(-1e4)
    found = head(torch.zeros(2, 4))  # no direction at all
    assert found["logits"].isfinite().all()
    assert found["denominator"].min() > 0


def test_numerator_has_no_weight_decay_and_the_schedule_of_all() -> None:
    recipe = GODINRecipe(lr=0.1, weight_decay=0.5, warmup_epochs=2, epochs=10, momentum=0.0)
    method = untrained(GODINMethod, recipe)
    method._trainer = SimpleNamespace(estimated_stepping_batches=10)
    configured = method.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    parts = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in parts} == {id(p) for p in method.parameters()}
    assert len(parts) == len(list(method.parameters()))
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for step in range(3):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.1 * recipe.lr_factor(step)] * 2)
        optimizer.step()
        schedule.step()
    for name, value in method.named_parameters():
        kept = name.startswith("decomposed.h.") or not before[name].any()
        assert value.equal(before[name]) == kept, name


class Quotient(nn.Module):
    """A network whose numerator and denominator are linear in the input."""

    def __init__(self, preprocess: Any = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.h = nn.Parameter(torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64))
        self.g = nn.Parameter(torch.randn(2, 4, 4, generator=generator, dtype=torch.float64))
        self.preprocess = preprocess
        self.passes = 0

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        self.passes += 1
        return {
            "numerator": torch.einsum("kchw,bchw->bk", self.h, images),
            "denominator": torch.einsum("chw,bchw->b", self.g, images),
        }


class TwoChannels(Preprocess):
    channels = 2  # type: ignore[assignment]


@pytest.mark.parametrize("score_func", ["h", "g"])
@pytest.mark.parametrize(
    ("preprocess", "std"),
    [(TwoChannels(4, (0.0, 0.0), (0.5, 0.25)), (0.5, 0.25)), (None, (1, 1)), (abs, (1, 1))],
    ids=["std", "none", "another"],
)
def test_godin_moves_the_input_towards_confidence(
    score_func: Any, preprocess: Any, std: tuple[float, float]
) -> None:
    """On a linear network the step's effect is known: noise x the weights' L1 norm over std."""
    model = Quotient(preprocess)
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    plain = model.outputs(x)
    scale = torch.tensor(std, dtype=torch.float64)[:, None, None]
    if score_func == "h":
        highest, c = plain["numerator"].max(dim=1)
        gain = (model.h.abs() / scale).sum(dim=(1, 2, 3))[c]
    else:
        highest, gain = plain["denominator"], (model.g.abs() / scale).sum()
    scores = GODIN(noise=0.01, score_func=score_func).score_batch(model, x)
    torch.testing.assert_close(scores, -(highest + 0.01 * gain).detach())
    unmoved = GODIN(noise=0.0, score_func=score_func).score_batch(model, x)
    torch.testing.assert_close(unmoved, -highest.detach())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_godin_under_any_gradient_mode(mode: Callable[[], Any]) -> None:
    model = Quotient()
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    kept = x.clone()
    expected = GODIN().score_batch(model, x)
    with mode():
        scores = GODIN().score_batch(model, x.clone())
    assert scores.equal(expected)
    assert not scores.requires_grad
    assert x.equal(kept)
    assert all(p.grad is None for p in model.parameters())


def test_godin_names_the_network_that_it_needs() -> None:
    method = untrained(LogitNorm, LogitNormRecipe())
    for detector in (GODIN(), GODIN(noise=0.0), GODIN(score_func="g")):
        with pytest.raises(MissingOutputError, match='`method="godin"`'):
            detector.score_batch(method, batch()[0][:, 0])


def test_impossible_options_of_godin_are_refused() -> None:
    with pytest.raises(OptionError, match="noise"):
        GODIN(noise=-1.0)
    with pytest.raises(OptionError, match="score_func"):
        GODIN(score_func="f")  # type: ignore[arg-type]


def test_godin_is_evaluated_on_the_network_that_it_was_designed_for() -> None:
    results = oodbench.evaluate(
        id="digits", detectors=["godin"], recipe_options={"epochs": 2}, hardware=CPU
    )
    rows = results.to_pandas()
    assert set(rows["method"]) == {"godin"}
    assert rows["auroc"].between(0, 1).all()

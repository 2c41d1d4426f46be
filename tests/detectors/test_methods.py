"""Methods that change the loss or the head: each against its definition, and trained on digits.

Started as a program, this file is what both processes of the distributed test run.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Benchmark, DatasetSpec, Hardware, Preprocess, metrics
from oodbench.detectors.ce import (
    CrossEntropy,
)
from oodbench.detectors.cider import CIDER, CIDERLoss, CIDERRecipe, dispersion, move_prototypes
from oodbench.detectors.deep_ensemble import (
    DeepEnsemble,
    DeepEnsembleRecipe,
    log_mean_softmax,
    reinitialize,
)
from oodbench.detectors.godin import GODIN, DecomposedHead, GODINMethod, GODINRecipe
from oodbench.detectors.logitnorm import LogitNorm, LogitNormRecipe, logitnorm_loss
from oodbench.detectors.mixup import Mixup, MixupRecipe
from oodbench.detectors.supcon import SupCon, SupConRecipe, supcon_loss
from oodbench.errors import DataError, MissingOutputError, OptionError
from oodbench.extract import extract
from oodbench.method import Method
from oodbench.networks.backbones import create_backbone
from oodbench.outputs import Outputs
from oodbench.registry import BACKBONES, METHODS
from oodbench.training.train import Run, plan, train
from tests.conftest import REPOSITORY
from tests.helpers.distributed import PREPROCESS, Plain, run_program, samples
from tests.helpers.training import assert_same_weights, short, tiny

CPU = Hardware(accelerator="cpu", workers=0)
NAMES = ["cider", "deep-ensemble", "godin", "logitnorm", "mixup", "supcon"]


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def untrained(cls: type[Method], recipe: Any, classes: int = 3) -> Any:
    return cls(Plain(), classes, recipe)


def batch(n: int = 12, views: int = 1, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, views, 1, 8, 8, generator=generator), torch.arange(n) % classes


# What they say of themselves


@pytest.mark.parametrize("name", NAMES)
def test_recipes_and_paper(name: str) -> None:
    cls = METHODS.get(name)
    paper = cls.paper
    assert paper is not None
    assert all((paper.title, paper.authors, paper.venue, paper.year, paper.formula))
    assert paper.url.startswith("https://arxiv.org/abs/")
    assert {"published", "quick"} <= set(cls.recipes)
    assert cls.default_recipe("digits") == "quick"
    for id_name in ("cifar10", "cifar100"):
        recipe = cls.get_recipe(cls.default_recipe(id_name))
        assert recipe.backbone == "resnet18-cifar"
        assert recipe.epochs >= 100


def test_cider_follows_its_prototypes_faster_on_cifar100() -> None:
    momenta = [
        CIDER.get_recipe(CIDER.default_recipe(name)).proto_momentum  # type: ignore[attr-defined]
        for name in ("cifar10", "cifar100")
    ]
    assert momenta == [0.95, 0.5]


@pytest.mark.parametrize(
    ("recipe", "bad"),
    [
        (LogitNormRecipe, {"tau": 0.0}),
        (SupConRecipe, {"temperature": -1.0}),
        (MixupRecipe, {"alpha": -0.1}),
        (DeepEnsembleRecipe, {"members": 0}),
    ],
)
def test_impossible_recipes_are_refused(recipe: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(bad))):
        recipe(**bad)


# LogitNorm


def test_logitnorm_by_hand() -> None:
    # the logits (3, 4) of norm 5 become (0.6, 0.8) / 0.5 = (1.2, 1.6)
    loss = logitnorm_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([1]), tau=0.5)
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-0.4)), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
def test_logitnorm_does_not_see_the_scale(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(7, 4, generator=generator), torch.arange(7) % 4
    torch.testing.assert_close(
        logitnorm_loss(scale * logits, labels), logitnorm_loss(logits, labels)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logitnorm_is_finite_at_zero_and_far_away(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 0.0], [6e4, -6e4]], dtype=dtype, requires_grad=True)
    loss = logitnorm_loss(logits, torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_logitnorm_outputs_plain_logits() -> None:
    method = untrained(LogitNorm, LogitNormRecipe())
    outputs = method.outputs(batch()[0][:, 0])
    torch.testing.assert_close(outputs["logits"], method.head()(outputs["features"]))


# CIDER


def cider_reference(
    prototypes: Tensor,
    features: Tensor,
    labels: Tensor,
    momentum: float,
    temperature: float,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """The definition, sample by sample."""
    mu = list(prototypes)
    z = torch.cat(list(features.unbind(dim=1)))
    y = labels.tolist() * features.shape[1]
    for sample, c in zip(z, y, strict=True):
        step = momentum * mu[c] + (1 - momentum) * sample
        mu[c] = step / step.norm()
    compactness = z.new_zeros(())
    for sample, c in zip(z, y, strict=True):
        logits = torch.stack([sample @ p.detach() / temperature for p in mu])
        compactness = compactness - (logits[c] - logits.exp().sum().log()) / len(z)
    apart = z.new_zeros(())
    for i, p in enumerate(mu):
        others = [torch.exp(p @ q / temperature) for j, q in enumerate(mu) if j != i]
        apart = apart + torch.stack(others).mean().log() / len(mu)
    return apart + weight * compactness, torch.stack(mu)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 6),
    size=st.integers(1, 14),
    views=st.integers(1, 3),
    momentum=st.sampled_from([0.0, 0.5, 0.95]),
    weight=st.sampled_from([0.0, 2.0]),
)
def test_cider_equals_a_loop_over_samples(
    seed: int, classes: int, size: int, views: int, momentum: float, weight: float
) -> None:
    torch.manual_seed(seed)
    loss = CIDERLoss(classes, 16, momentum, 0.2, weight).double()
    for call in range(2):
        z = unit(size, views, 16, seed=seed + call).requires_grad_()
        y = torch.randint(0, classes, (size,))
        expected, moved = cider_reference(loss.prototypes, z, y, momentum, 0.2, weight)
        found = loss(z, y)["loss"]
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(loss.prototypes, moved.detach())
        torch.testing.assert_close(torch.autograd.grad(found, z), torch.autograd.grad(expected, z))


def test_prototype_by_hand() -> None:
    # class 0 meets (0, 1) and then (-1, 0) half way; class 1 is absent and stays
    z = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    moved = move_prototypes(torch.eye(2, dtype=torch.float64), z, torch.tensor([0, 0]), 0.5)
    half = np.array([1, 1]) / np.sqrt(2)
    step = 0.5 * half + 0.5 * np.array([-1, 0])
    np.testing.assert_allclose(moved[0], step / np.linalg.norm(step), atol=1e-12)
    np.testing.assert_array_equal(moved[1], [0.0, 1.0])


def test_dispersion_by_hand_and_its_direction() -> None:
    square = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    # of the three others two are at a right angle and one is opposite
    expected = np.log((2 * np.exp(0) + np.exp(-10)) / 3)
    assert dispersion(square, 0.1).item() == pytest.approx(expected)
    assert dispersion(unit(4, 2), 0.1) > expected


def test_cider_reaches_the_embeddings_through_the_prototypes_alone() -> None:
    z = unit(8, 2, 16).requires_grad_()
    loss = CIDERLoss(4, 16).double()
    (gradient,) = torch.autograd.grad(loss(z, torch.arange(8) % 4)["dispersion"], z)
    assert gradient.norm() > 1e-6
    assert not loss.prototypes.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_cider_in_any_precision(dtype: torch.dtype) -> None:
    for size in (1, 33):
        loss = CIDERLoss(10, 128, temperature=1e-3)
        z = unit(size, 2, 128, dtype=torch.float32).to(dtype).requires_grad_()
        found = loss(z, torch.zeros(size, dtype=torch.int64))
        found["loss"].backward()
        assert found["loss"].isfinite()
        assert z.grad is not None
        assert z.grad.isfinite().all()
        torch.testing.assert_close(loss.prototypes.norm(dim=1), torch.ones(10))


def test_evaluation_does_not_move_prototypes() -> None:
    loss = CIDERLoss(2, 8).double().eval()
    before = loss.prototypes.clone()
    loss(unit(4, 2, 8), torch.tensor([0, 1, 0, 1]))
    assert torch.equal(loss.prototypes, before)


def test_cider_outputs_fit_its_head() -> None:
    method = untrained(CIDER, CIDERRecipe(embedding_dim=32))
    outputs = method.outputs(batch()[0][:, 0])
    torch.testing.assert_close(outputs["features"].norm(dim=1), torch.ones(12))
    torch.testing.assert_close(
        outputs["logits"], outputs["features"] @ method.cider.prototypes.T / 0.1
    )
    torch.testing.assert_close(outputs["logits"], method.head()(outputs["features"]))
    assert outputs["penultimate"].shape == (12, 16)


def test_bad_arguments_of_cider_are_named() -> None:
    for options, word in (
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 2, "feature_dim": 0}, "feature_dim"),
        ({"num_classes": 2, "temperature": 0.0}, "temperature"),
        ({"num_classes": 2, "proto_momentum": 1.5}, "proto_momentum"),
    ):
        with pytest.raises(OptionError, match=word):
            CIDERLoss(**options)  # type: ignore[arg-type]
    loss = CIDERLoss(2, 8)
    with pytest.raises(ValueError, match=r"\[B, V, 8\]"):
        loss(torch.zeros(3, 8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="3 labels"):
        loss(torch.zeros(3, 2, 8), torch.zeros(2, dtype=torch.int64))


# SupCon


def supcon_reference(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The formula, pair by pair."""
    z = torch.cat(list(features.unbind(dim=1)))
    y = labels.tolist() * features.shape[1]
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if y[p] == y[i]]
        if not positives:
            continue
        whole = torch.stack([torch.exp(z[i] @ z[a] / temperature) for a in others]).sum()
        logs = [torch.log(torch.exp(z[i] @ z[p] / temperature) / whole) for p in positives]
        terms.append(-torch.stack(logs).mean())
    return torch.stack(terms).mean()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(1, 5),
    size=st.integers(1, 8),
    views=st.integers(2, 3),
    temperature=st.sampled_from([0.1, 0.5]),
)
def test_supcon_equals_the_double_loop(
    seed: int, classes: int, size: int, views: int, temperature: float
) -> None:
    z = unit(size, views, 8, seed=seed).requires_grad_()
    y = torch.randint(0, classes, (size,), generator=torch.Generator().manual_seed(seed))
    found, expected = supcon_loss(z, y, temperature), supcon_reference(z, y, temperature)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, z), torch.autograd.grad(expected, z))


@pytest.mark.parametrize("labels", [[0], [0, 1, 2], [0, 0, 1]])
def test_supcon_of_a_class_that_occurs_once(labels: list[int]) -> None:
    z = unit(len(labels), 1, 8, dtype=torch.float32).requires_grad_()
    loss = supcon_loss(z, torch.tensor(labels), 1e-3)
    loss.backward()
    assert loss.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert (loss > 0) == (len(set(labels)) < len(labels))


def test_supcon_says_what_it_wants() -> None:
    with pytest.raises(ValueError, match=r"\[B, V, D\]"):
        supcon_loss(torch.zeros(3, 8), torch.zeros(3))


def test_classifier_of_supcon_leaves_the_backbone_alone() -> None:
    method = untrained(SupCon, SupConRecipe())
    method._trainer = SimpleNamespace(world_size=1)
    losses = method.loss(*batch(views=2))
    losses["classifier"].backward(retain_graph=True)
    assert all(p.grad is None for p in method.backbone.parameters())
    assert method.linear.weight.grad.norm() > 0
    losses["contrast"].backward()
    assert all(p.grad is not None for p in method.backbone.parameters())


def test_labels_of_supcon_belong_to_their_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the label drawn in the image, a classifier that reads it is right on every view."""
    method = untrained(SupCon, SupConRecipe())
    method._trainer = SimpleNamespace(world_size=1)
    images, labels = batch(views=2)
    images[:] = labels[:, None, None, None, None]
    monkeypatch.setattr(
        method.backbone, "forward", lambda x: F.one_hot(x[:, 0, 0, 0].long(), 16).float()
    )
    with torch.no_grad():
        method.linear.weight.copy_(torch.eye(3, 16))
        method.linear.bias.zero_()
    losses = method.loss(images, labels)
    assert losses["accuracy"] == 1
    # embeddings are alike within a class, and so are the losses of all anchors
    z = F.normalize(method.projection(F.one_hot(labels, 16).float()), dim=1)
    torch.testing.assert_close(
        losses["contrast"], supcon_loss(torch.stack([z, z], dim=1), labels, 0.1)
    )


# GODIN


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


# Mixup


def test_mixup_of_nothing_is_cross_entropy() -> None:
    mixup = untrained(Mixup, MixupRecipe(alpha=0.0))
    plain = untrained(CrossEntropy, MixupRecipe())
    plain.load_state_dict(mixup.state_dict())
    images, labels = batch()
    for name, value in plain.loss(images, labels).items():
        torch.testing.assert_close(mixup.loss(images, labels)[name], value)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), alpha=st.sampled_from([0.1, 1.0, 8.0]))
def test_mixup_is_cross_entropy_with_soft_labels(seed: int, alpha: float) -> None:
    method = untrained(Mixup, MixupRecipe(alpha=alpha))
    images, labels = batch()
    torch.manual_seed(seed)
    share, partner = method.draw(len(images))
    assert sorted(partner.tolist()) == list(range(12))
    soft = F.one_hot(labels, 3).float()
    soft = share * soft + (1 - share) * soft[partner]
    mixed = share * images[:, 0] + (1 - share) * images[:, 0][partner]
    expected = F.cross_entropy(method.outputs(mixed)["logits"], soft)
    torch.manual_seed(seed)
    torch.testing.assert_close(method.loss(images, labels)["loss"], expected)


def test_shares_are_beta_distributed() -> None:
    method = untrained(Mixup, MixupRecipe(alpha=0.2))
    torch.manual_seed(0)
    shares = np.array([method.draw(2)[0] for _ in range(2000)])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)


# Deep ensemble


def test_ensemble_is_the_mean_of_probabilities() -> None:
    logits = torch.randn(4, 7, 5)
    found = log_mean_softmax(logits).softmax(dim=1)
    torch.testing.assert_close(found, logits.softmax(dim=2).mean(dim=0))
    method = untrained(DeepEnsemble, DeepEnsembleRecipe(members=3))
    x = batch()[0][:, 0]
    outputs = method.outputs(x)
    assert outputs["features"].shape == (12, 48)
    parts = [
        head(member(x)).softmax(dim=1)
        for member, head in zip(method.backbone.members, method.linears, strict=True)
    ]
    torch.testing.assert_close(
        outputs["log_probabilities"].exp(), torch.stack(parts).mean(dim=0).detach()
    )
    assert method.head() is None


def test_ensemble_says_the_mean_of_logits_and_each_member() -> None:
    method = untrained(DeepEnsemble, DeepEnsembleRecipe(members=3)).eval()
    x = batch()[0][:, 0]
    outputs = method.outputs(x)
    members = [
        head(member(x))
        for member, head in zip(method.backbone.members, method.linears, strict=True)
    ]
    torch.testing.assert_close(outputs["logits"], torch.stack(members).mean(dim=0))
    for name, logits in enumerate(members):
        torch.testing.assert_close(outputs[f"logits/{name}"], logits)
    # which leaves the log-sum-exp free: that of log-probabilities is zero for every sample
    assert outputs["logits"].logsumexp(dim=1).std() > 1e-3


def test_ensemble_decides_by_the_mean_probability() -> None:
    """Two lukewarm members for the first class are outdone in logits by one that is sure."""
    logits = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]], [[0.0, 9.0]]])
    assert logits.mean(dim=0).argmax() == 1
    assert log_mean_softmax(logits).argmax() == 0
    outputs = Outputs(
        logits=logits.mean(dim=0),
        labels=torch.tensor([0]),
        extra={"log_probabilities": log_mean_softmax(logits)},
    )
    assert metrics.accuracy(outputs.decisions, outputs.labels) == 1.0
    assert Outputs(logits=outputs.logits).decisions.argmax() == 1


def test_detector_of_the_mean_probability() -> None:
    logits = 3 * torch.randn(4, 50, 5)
    outputs = Outputs(
        logits=logits.mean(dim=0), extra={f"logits/{m}": each for m, each in enumerate(logits)}
    )
    expected = -logits.double().softmax(dim=2).mean(dim=0).amax(dim=1).log()
    found = oodbench.create_detector("deep-ensemble").score(outputs)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    # samples that all members are sure of do not tie at 0
    sure = torch.tensor([30.0, 31.0, 40.0])[:, None] * torch.tensor([1.0, 0.0])
    bare = Outputs(extra={"logits/0": sure, "logits/1": sure + 1})
    scores = oodbench.create_detector("deep-ensemble").score(bare)
    assert (scores > 0).all()
    assert (scores.diff() < 0).all()


def test_figures_of_an_ensemble() -> None:
    """Accuracy is that of the mean probability; energy is not the noise that it is of log p."""
    other = DatasetSpec("other", lambda split: samples(300, 21))
    benchmark, images = tiny(near=(other,))
    settings = {"epochs": 2, "batch_size": 16, "members": 3}
    results = oodbench.evaluate(
        detectors=["energy", "msp", "maxlogit", "deep-ensemble"],
        benchmark=benchmark,
        method="deep-ensemble",
        recipe_options=settings,
        hardware=CPU,
    )
    assert results.failures == {}
    network: Any = train(plan(benchmark, "deep-ensemble", overrides=settings), CPU).eval()
    with torch.no_grad():
        said = network.outputs(torch.stack([PREPROCESS(images[i]) for i in range(len(images))]))
    members = torch.stack([said[f"logits/{m}"] for m in range(3)])
    predicted = members.softmax(dim=2).mean(dim=0).argmax(dim=1)
    right = float((predicted.numpy() == np.asarray(images.labels)).mean())
    assert all(row["id_accuracy"] == pytest.approx(right) for row in results)
    aurocs = {row["detector"]: row["auroc"] for row in results if not row["is_mean"]}
    assert len(aurocs) == 4
    assert len(set(aurocs.values())) == 4


def test_ensemble_of_sure_members_stays_finite() -> None:
    logits = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])
    found = log_mean_softmax(logits)
    torch.testing.assert_close(found, torch.full((1, 2), -np.log(2)).float())
    assert log_mean_softmax(logits[:1]).isfinite().all()


class Attention(nn.Module):
    """Modules whose initialisation has another name, or is their own parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 8
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2).repeat(1, 1, 8)
        return self.norm(self.attend(x, x, x)[0]).mean(dim=1)


@pytest.mark.parametrize(
    "make",
    [
        Plain,
        Attention,
        lambda: create_backbone("digits-cnn", 1),
        lambda: create_backbone("resnet20", 1),
        lambda: create_backbone("resnet10t", 1),
    ],
    ids=["plain", "attention", "digits-cnn", "resnet20", "timm"],
)
def test_members_differ_in_every_random_weight(make: Callable[[], nn.Module]) -> None:
    backbone = make()
    first = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    method = DeepEnsemble(backbone, 3, DeepEnsembleRecipe(members=3))
    members = [dict(m.named_parameters()) for m in method.backbone.members]  # type: ignore[union-attr]
    for name, value in first.items():
        assert members[0][name].equal(value), "the first member is the backbone itself"
        drawn = value.unique().numel() > 1
        for a, b in itertools.combinations(members, 2):
            assert a[name].equal(b[name]) != drawn, name
            assert a[name].data_ptr() != b[name].data_ptr()
        if drawn and value.numel() > 1000:  # the same distribution, not only other numbers
            spread = members[1][name].std().item()
            assert spread == pytest.approx(value.std().item(), rel=0.1)
    heads = [head.weight for head in method.linears]
    assert not any(a.equal(b) for a, b in itertools.combinations(heads, 2))


def test_reinitialising_forgets_what_was_learned() -> None:
    backbone = create_backbone("digits-cnn", 1).train()
    backbone(torch.randn(8, 1, 8, 8) + 3)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(5)
    reinitialize(backbone)
    assert not backbone.layers[1].running_mean.any()  # type: ignore[index,union-attr]
    assert all(p.abs().max() < 4 for p in backbone.parameters())


def test_members_are_trained_as_each_would_be_alone() -> None:
    method = untrained(DeepEnsemble, DeepEnsembleRecipe(members=3))
    images, labels = batch()
    method.loss(images, labels)["loss"].backward()
    for member, head in zip(method.backbone.members, method.linears, strict=True):
        parameters = [*member.parameters(), *head.parameters()]
        alone = F.cross_entropy(head(member(images[:, 0])), labels)
        for found, expected in zip(parameters, torch.autograd.grad(alone, parameters), strict=True):
            torch.testing.assert_close(found.grad, expected)


# Training


@pytest.mark.parametrize("name", NAMES)
def test_interrupted_training_gives_the_same_bits(name: str, new_cache: Callable[[], None]) -> None:
    benchmark, images = tiny()
    whole = train(short(benchmark, name, lr=0.02), CPU)
    new_cache()
    images.reads, images.breaks_after = 0, 70
    with pytest.raises(DataError, match="pulled out"):
        train(short(benchmark, name, lr=0.02), CPU)
    resumed = train(short(benchmark, name, lr=0.02), CPU)
    assert_same_weights(resumed, whole)


EPOCHS = {"cider": 6, "deep-ensemble": 4, "godin": 5, "logitnorm": 10, "mixup": 5, "supcon": 4}


@pytest.mark.parametrize("name", NAMES)
def test_quick_training_learns_digits(name: str) -> None:
    benchmark = oodbench.get_benchmark("digits")
    network = train(plan(benchmark, name, overrides={"epochs": EPOCHS[name]}), CPU)
    outputs = extract(network, benchmark.id.load("test"), benchmark.preprocess, hardware=CPU)
    assert metrics.accuracy(outputs.logits, outputs.labels) > 0.75  # chance: 1 in 6
    assert outputs.features.shape[1] == {"cider": 128, "deep-ensemble": 768}.get(name, 256)
    assert (outputs.head is None) == (name in ("deep-ensemble", "godin"))
    if outputs.head is not None:
        torch.testing.assert_close(
            outputs.head(outputs.features), outputs.logits, rtol=1e-3, atol=1e-3
        )
    if name == "godin":
        quotient = outputs.extra["numerator"] / outputs.extra["denominator"][:, None]
        torch.testing.assert_close(outputs.logits, quotient)


def test_godin_is_evaluated_on_the_network_that_it_was_designed_for() -> None:
    results = oodbench.evaluate(
        id="digits", detectors=["godin"], recipe_options={"epochs": 2}, hardware=CPU
    )
    rows = results.to_pandas()
    assert set(rows["method"]) == {"godin"}
    assert rows["auroc"].between(0, 1).all()


# Two processes


def runs() -> list[Run]:
    spec = DatasetSpec("toy", lambda _: samples(58, 0), ("train", "test"))
    benchmark = Benchmark("toy", spec, (), (), PREPROCESS, backbone="plain")
    fields = {"epochs": 2, "batch_size": 16, "lr": 0.1}
    return [plan(benchmark, name, overrides=fields) for name in ("cider", "supcon")]


def main(devices: int) -> None:
    """Train; the weights are in the cache."""
    BACKBONES.register("plain")(lambda channels: Plain())
    hardware = Hardware("cpu", str(devices), "ddp" if devices > 1 else "auto", workers=0)
    for run in runs():
        train(run, hardware)


def test_two_processes_train_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses see the whole batch, and CIDER's prototypes in the order of one process."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    run_program([sys.executable, __file__, "2"], tmp_path)
    try:
        main(1)
        for run in runs():
            shared = load_file(tmp_path / "cache" / "runs" / run.folder.name / run.weights.name)
            for key, value in load_file(run.weights).items():
                torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-5, msg=key)
    finally:
        BACKBONES.unregister("plain")


if __name__ == "__main__":
    main(int(sys.argv[1]))

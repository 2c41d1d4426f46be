"""Deep ensembles: members that differ, and the mean of their probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import DatasetSpec, metrics
from oodbench.detectors.deep_ensemble import (
    DeepEnsemble,
    DeepEnsembleRecipe,
    log_mean_softmax,
    reinitialize,
)
from oodbench.networks.backbones import create_backbone
from oodbench.outputs import Outputs
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.distributed import PREPROCESS, Plain, samples
from tests.helpers.methods import CPU, batch, untrained
from tests.helpers.training import tiny


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

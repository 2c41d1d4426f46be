"""VOS: queues against lists, outliers against torch's multivariate normal, and the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from oodbench.detectors._queues import ClassQueues
from oodbench.detectors.vos import VOS, VOSRecipe, gaussians, least_likely, negative_energy
from oodbench.errors import OptionError
from tests.helpers.methods import untrained

F64 = torch.float64


def test_queues_hold_the_latest() -> None:
    generator = torch.Generator().manual_seed(0)
    queues, lists = ClassQueues(3, 2, 4), [[], [], []]  # type: ignore[var-annotated]
    for step in range(6):
        z = torch.randn(5, 2, generator=generator)
        labels = torch.randint(3, (5,), generator=generator)
        queues.push(z, labels)
        for row, y in zip(z, labels.tolist(), strict=True):
            lists[y] = [*lists[y], row][-4:]
        for c, kept in enumerate(lists):
            assert int(queues.counts[c]) == len(kept)
            if kept:
                assert torch.equal(queues.samples[c, 4 - len(kept) :], torch.stack(kept))
        assert queues.full == all(len(kept) == 4 for kept in lists), step
    many = torch.arange(20.0).view(10, 2)
    queues.push(many, torch.zeros(10, dtype=torch.int64))
    assert torch.equal(queues.samples[0], many[-4:])


def test_gaussians_equal_their_definition() -> None:
    samples = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    means, covariance = gaussians(samples)
    expected = torch.zeros(4, 4, dtype=F64)
    for c in range(3):
        mean = sum(samples[c, i] for i in range(6)) / 6
        torch.testing.assert_close(means[c], mean)
        for i in range(6):
            gap = samples[c, i] - mean
            expected += torch.outer(gap, gap) / 18
    torch.testing.assert_close(covariance, expected + 1e-4 * torch.eye(4, dtype=F64))


def test_outliers_are_the_draws_of_lowest_density() -> None:
    generator = torch.Generator().manual_seed(0)
    means, covariance = gaussians(torch.randn(3, 9, 4, generator=generator, dtype=F64))
    noise = torch.randn(3, 50, 4, generator=generator, dtype=F64)
    found = least_likely(means, covariance, noise, 2).view(3, 2, 4)
    root = torch.linalg.cholesky(covariance)
    for c in range(3):
        draws = torch.stack([means[c] + root @ noise[c, i] for i in range(50)])
        density = MultivariateNormal(means[c], covariance).log_prob(draws)
        torch.testing.assert_close(found[c], draws[density.argsort()[:2]])


def test_energy_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [500.0, 0.0, 0.0]], dtype=F64)
    weights = torch.tensor([0.5, -1.0, 2.0], dtype=F64)
    found = negative_energy(logits, weights)
    assert found[0].item() == pytest.approx(math.log(0.5 * math.e + 2 * math.e**3), abs=1e-12)
    assert found[1].item() == pytest.approx(500 + math.log(0.5), abs=1e-9)
    assert negative_energy(logits, -weights.abs()).isfinite().all()


def test_told_apart_equals_its_definition() -> None:
    method = untrained(VOS, VOSRecipe()).double()
    generator = torch.Generator().manual_seed(0)
    of_id = torch.randn(5, 3, generator=generator, dtype=F64)
    outliers = torch.randn(4, 3, generator=generator, dtype=F64)
    w = method.weights.tolist()
    a, b = (p.detach() for p in (method.logistic.weight[:, 0], method.logistic.bias))
    total = 0.0
    for row, is_id in [*((r, 1) for r in of_id.tolist()), *((r, 0) for r in outliers.tolist())]:
        energy = math.log(sum(max(v, 0) * math.exp(z) for v, z in zip(w, row, strict=True)))
        outs = [float(a[k]) * energy + float(b[k]) for k in (0, 1)]
        total -= outs[is_id] - math.log(math.exp(outs[0]) + math.exp(outs[1]))
    found = method.told_apart(of_id, outliers)
    assert found.item() == pytest.approx(total / 9, abs=1e-9)
    found.backward()
    assert method.weights.grad.abs().max() > 0  # they are learned
    assert method.logistic.weight.grad.abs().max() > 0


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(OptionError, match="select"):
        VOSRecipe(select=5, sample_from=4)
    with pytest.raises(OptionError, match="queue_size"):
        VOSRecipe(queue_size=0)

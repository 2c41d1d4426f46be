"""DPU: each of its terms beside loops written from the definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from oodbench.detectors.dpu import (
    DPU,
    DPURecipe,
    disagreement,
    margin_terms,
    moved,
    strengths,
)
from oodbench.errors import OptionError
from oodbench.networks.modalities import MultimodalEncoders

F64 = torch.float64
LABELS = torch.tensor([0, 1, 0, 2, 1, 0])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def slow_margin(x: Tensor, labels: list[int]) -> tuple[float, float]:
    n = len(x)
    a = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(n):
            c = 1.0 if i == j else min(max(cosine(x[i], x[j]), -1.0), 1.0)
            margin = math.pi / 18 if labels[i] == labels[j] else 0.0
            a[i][j] = math.exp(math.cos(math.acos(c) + margin) / 0.05)
    totals, variances = [], []
    for i in range(n):
        own = [a[i][j] / sum(a[k][j] for k in range(n)) for j in range(n) if labels[i] == labels[j]]
        mean = sum(own) / len(own)
        totals.append(-sum(math.log(value) for value in own))
        variances.append(sum((value - mean) ** 2 for value in own) / len(own))
    return sum(totals) / n, sum(variances) / n


@pytest.mark.parametrize("seed", range(3))
def test_margin_terms_equal_their_definition(seed: int) -> None:
    x = drawn(6, 5, seed=seed)
    found = [float(term) for term in margin_terms(x, LABELS)]
    assert found == pytest.approx(slow_margin(x, LABELS.tolist()), abs=1e-8)


def slow_moved(p: Tensor, v: Tensor, labels: list[int]) -> Tensor:
    after = p.clone()
    for c in set(labels):
        rows = [v[i] for i in range(len(v)) if labels[i] == c]
        for d in range(v.shape[1]):
            values = [float(row[d]) for row in rows]
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / len(values)
            pace = min(max(1 / (variance + 1e-6), 0.01), 0.5) / len(values)
            after[c, d] = 0.8 * float(p[c, d]) + 0.2 * (mean - float(p[c, d])) * pace
    return after


def test_prototypes_move_as_defined() -> None:
    p, v = drawn(4, 5, seed=1), 3 * drawn(6, 5)
    found = moved(p, v, LABELS, 0.8)
    torch.testing.assert_close(found, slow_moved(p, v, LABELS.tolist()))
    assert found[3].equal(p[3])  # of a class that is not in the batch


def test_strengths_by_hand() -> None:
    found = strengths(torch.tensor([-1.0, 0.0, 1.0], dtype=F64))
    expected = [0.3 * (1 - 1 / (1 + math.exp(-c))) for c in (-1, 0, 1)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert found.tolist() == pytest.approx([0.219, 0.15, 0.081], abs=5e-4)


@pytest.mark.parametrize("kind", ["hellinger", "l1", "l2"])
def test_disagreement_equals_its_definition(kind: str) -> None:
    logits = {"a": drawn(6, 4, seed=2), "b": drawn(6, 4, seed=3)}
    found = disagreement(logits, LABELS, kind)
    for i, y in enumerate(LABELS.tolist()):
        ps = []
        for values in logits.values():
            e = [math.exp(float(v)) for c, v in enumerate(values[i]) if c != y]
            ps.append([v / sum(e) for v in e])
        gaps = list(zip(*ps, strict=True))
        expected = {
            "hellinger": math.sqrt(sum((math.sqrt(p) - math.sqrt(q)) ** 2 for p, q in gaps) / 2),
            "l1": sum(abs(p - q) for p, q in gaps) / 3,
            "l2": sum((p - q) ** 2 for p, q in gaps) / 3,
        }[kind]
        assert found[i].item() == pytest.approx(expected, abs=1e-9)


class Wide(nn.Identity):
    num_features = 5


@pytest.mark.parametrize("start", [0, 2])
def test_the_terms_of_a_batch(start: int) -> None:
    torch.manual_seed(0)
    encoders = MultimodalEncoders({"a": Wide(), "b": Wide()})
    method = DPU(encoders, 3, DPURecipe(start_epoch=start)).double()
    before = drawn(3, 5, seed=9)
    method.prototypes.copy_(before)
    x, y = drawn(6, 5, seed=4).requires_grad_(), drawn(6, 5, seed=5)
    alone = method.heads.alone({"a": x, "b": y})
    terms = method.extra_losses(torch.cat([x, y], dim=1), alone, LABELS)
    assert [weight for weight, _ in terms.values()] == [0.2, 2.0, 0.1, 1.0]
    of_both = [slow_margin(values.detach(), LABELS.tolist()) for values in (x, y)]
    for k, name in enumerate(("contrast", "variance")):
        expected = (of_both[0][k] + of_both[1][k]) / 2
        assert terms[name][1].item() == pytest.approx(expected, abs=1e-8)
    p = slow_moved(before, x.detach(), LABELS.tolist())
    torch.testing.assert_close(method.prototypes, p)
    cosines = [cosine(x[i].detach(), p[c]) for i, c in enumerate(LABELS.tolist())]
    expected = -sum(math.log(max(c, 1e-6)) for c in cosines) / 6
    assert terms["prototypes"][1].item() == pytest.approx(expected, abs=1e-8)
    a = [0.5] * 6 if start else [0.3 * (1 - 1 / (1 + math.exp(-c))) for c in cosines]
    apart = disagreement(alone, LABELS, "hellinger").tolist()
    expected = -sum(w * d for w, d in zip(a, apart, strict=True)) / 6
    assert terms["disagreement"][1].item() == pytest.approx(expected, abs=1e-9)
    sum(weight * value for weight, value in terms.values()).backward()  # type: ignore[union-attr]
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(OptionError, match="distance"):
        DPURecipe(distance="nearest-row")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="beta"):
        DPURecipe(beta=0.0)

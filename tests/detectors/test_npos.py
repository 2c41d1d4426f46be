"""NPOS: each step of the synthesis by loops over features, and the loss of a batch."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detectors.cider import CIDERLoss
from oodbench.detectors.npos import NPOS, NPOSRecipe, around, boundary, kth_distance
from oodbench.errors import OptionError
from tests.helpers.methods import untrained

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def slow_kth(point: Tensor, bank: Tensor, k: int) -> float:
    unit = point / point.norm()
    return sorted(float((unit - row / row.norm()).square().sum()) for row in bank)[k - 1]


def test_kth_distance_equals_its_definition() -> None:
    points, bank = drawn(7, 4), drawn(12, 4, seed=1)
    for k in (1, 3, 12):
        expected = torch.tensor([slow_kth(point, bank, k) for point in points], dtype=F64)
        torch.testing.assert_close(kth_distance(points, bank, k), expected, atol=1e-9, rtol=0)
    itself = kth_distance(bank, bank, 1)  # the first neighbour of a feature is itself
    torch.testing.assert_close(itself, torch.zeros(12, dtype=F64), atol=1e-12, rtol=0)


def test_boundary_is_farthest_out() -> None:
    h = drawn(20, 5)
    order = sorted(range(20), key=lambda i: -slow_kth(h[i], h, 4))
    assert boundary(h, 4, 6).tolist() == order[:6]


def test_outliers_are_the_farthest_candidates_of_each_picked_feature() -> None:
    h, steps, picked = drawn(15, 4), 0.3 * drawn(25, 4, seed=1), torch.tensor([3, 11])
    found = around(h, picked, steps, 5, 4)
    expected = []
    for i in picked.tolist():
        candidates = [h[i] + step for step in steps]
        candidates.sort(key=lambda v: -slow_kth(v, h, 5))
        expected += candidates[:4]
    torch.testing.assert_close(found, torch.stack(expected))


def recipe(**options: float) -> NPOSRecipe:
    sizes = {"queue_size": 4, "k": 2, "select": 3, "pick_nums": 2, "sample_from": 6, "per_point": 2}
    return NPOSRecipe(**{**sizes, "start_epoch": 0, "embedding_dim": 8, **options})  # type: ignore[arg-type]


def test_the_loss_of_a_batch() -> None:
    method = untrained(NPOS, recipe()).double()
    method.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    images, labels = drawn(6, 2, 1, 8, 8), torch.arange(6) % 3
    method.eval()  # statistics of batch normalisation, and prototypes, stay as they are
    h, z = method.embed(images.flatten(0, 1))
    other = CIDERLoss(3, 8).eval().double()
    other.prototypes.copy_(method.cider.prototypes)
    parts = other(z.unflatten(0, (6, 2)), labels)
    torch.manual_seed(5)
    found = method.loss(images, labels)
    torch.manual_seed(5)
    outliers = method.outliers()
    assert outliers.shape == (3 * 2 * 2, h.shape[1])
    total = 0.0
    for rows, is_id in ((h, True), (outliers.to(h), False)):
        for value in method.phi(rows)[:, 0].tolist():
            total += math.log(1 + math.exp(-value if is_id else value))
    apart = total / (len(h) + len(outliers))
    assert found["outliers"].item() == pytest.approx(apart, abs=1e-6)
    expected = 0.5 * parts["dispersion"] + 0.1 / 0.07 * parts["compactness"]
    assert found["loss"].item() == pytest.approx(expected.item() + 0.1 * apart, abs=1e-6)
    logits = z.double() @ _moved(method, z, labels).T / 0.1
    compactness = F.cross_entropy(logits, labels.repeat_interleave(2))
    assert parts["compactness"].item() == pytest.approx(compactness.item(), abs=1e-5)


def _moved(method: NPOS, z: Tensor, labels: Tensor) -> Tensor:
    """Prototypes after the batch, sample by sample: the first views, then the second ones."""
    prototypes = method.cider.prototypes.clone()
    views = z.detach().unflatten(0, (len(labels), 2))
    for v in range(2):
        for i, y in enumerate(labels.tolist()):
            step = 0.95 * prototypes[y] + 0.05 * views[i, v]
            prototypes[y] = step / step.norm()
    return prototypes


@pytest.mark.parametrize("bad", [{"k": 5}, {"select": 5}, {"per_point": 7}, {"sigma": 0.0}])
def test_impossible_recipes_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(bad))):
        recipe(**bad)

"""RankFeat: the first singular vector of a feature map."""

from __future__ import annotations

import pytest
import torch
from scipy.special import logsumexp

import oodbench
from oodbench.detectors import rankfeat
from tests.helpers.scores import images, same, small_cnn


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 20, 5, 5), (3, 64, 8, 8), (2, 7, 1, 3)])
def test_rank_one_is_that_of_the_svd(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for maps in (
        torch.rand(shape, generator=generator, dtype=dtype),
        torch.randn(shape, generator=generator, dtype=dtype).relu() + 0.01,
    ):
        u, s, vh = torch.linalg.svd(maps.flatten(2), full_matrices=False)
        s[:, 0] = 0
        expected = (u * s[:, None] @ vh).view_as(maps)
        found = rankfeat.remove_rank_one(maps)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-10
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(maps.max()))
    assert torch.equal(rankfeat.remove_rank_one(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_rankfeat_is_the_energy_of_mean_logits(temperature: float) -> None:
    model, x = small_cnn(), images()
    with torch.no_grad():
        pooled = model.stages[:3](x)  # the last map of another shape before the last
        last = model.stages(x)
        first = model.linear(model.stages[3:](rankfeat.remove_rank_one(pooled)).mean(dim=(2, 3)))
        second = model.linear(rankfeat.remove_rank_one(last).mean(dim=(2, 3)))
    expected = -temperature * logsumexp((first + second).numpy() / 2 / temperature, axis=1)
    detector = oodbench.create_detector("rankfeat", temperature=temperature)
    same(detector.score_batch(model, x), expected)
    one = oodbench.create_detector("rankfeat", layers=("stages.4",))
    same(one.score_batch(model, x), -logsumexp(second.numpy(), axis=1))

"""Gram matrices: their statistics, and deviations sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor, nn

import oodbench
from oodbench.detectors import gram
from oodbench.errors import MissingOutputError
from tests.helpers.scores import images, same, small_cnn


def test_gram_statistics_are_those_of_the_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 6, 4, 5, generator=generator, dtype=torch.float64)
    powers = (1, 2, 3, 5)
    found = gram.gram_statistics(maps, powers).unflatten(1, (4, 6))
    for i, p in enumerate(powers):
        F = maps.flatten(2).numpy() ** p
        G = F @ F.transpose(0, 2, 1)  # [B, C, C]
        rows = G.sum(axis=2)
        same(found[:, i], np.sign(rows) * np.abs(rows) ** (1 / p))


def test_large_batches_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(7, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    whole = gram.gram_statistics(maps, (1, 3))
    for values in (1, 250):
        monkeypatch.setattr(gram, "AT_ONCE", values)
        # orders up to 5 are float32, whose sums are another size's by their last digit
        torch.testing.assert_close(gram.gram_statistics(maps, (1, 3)), whole, rtol=1e-6, atol=0.0)


def test_gram_statistics_do_not_overflow() -> None:
    large = 1e30 * torch.rand(2, 3, 4, 4)
    assert gram.gram_statistics(large, (1, 5, 10)).isfinite().all()
    assert torch.equal(gram.gram_statistics(torch.zeros(1, 3, 2, 2), (1, 2)), torch.zeros(1, 6))


def test_gram_is_pytorch_oods() -> None:
    peer = pytest.importorskip("pytorch_ood.detector", reason="the test extra has it").Gram
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 6, 4, 5, generator=generator, dtype=torch.float64)
    found = gram.gram_statistics(maps, (1, 2, 3, 4, 5))
    theirs = torch.cat([peer._gram_vector(maps, p) for p in (1, 2, 3, 4, 5)], dim=1)
    torch.testing.assert_close(found, theirs)

    detector = oodbench.create_detector("gram")
    low, high = found.quantile(0.3, dim=0), found.quantile(0.7, dim=0)
    detector.low_, detector.high_ = {"a": low[None]}, {"a": high[None]}  # type: ignore[attr-defined]
    mine = detector._deviations({"a": found}, torch.zeros(3, dtype=torch.int64))  # type: ignore[attr-defined]
    torch.testing.assert_close(mine["a"], peer._deviation(found, low, high))
    assert float(mine["a"].min()) > 0


@pytest.mark.parametrize("confidence", [True, False])
@pytest.mark.parametrize("batch", [64, 7])
def test_gram_sample_by_sample(batch: int, confidence: bool) -> None:
    model, x, test = small_cnn(), images(130), images(9, seed=1) * 1.5
    layers, powers = ("stages.0", "stages.4"), (1, 3)
    with torch.no_grad():  # all classes are predicted but the last
        model.linear.bias -= model.outputs(x)["logits"].mean(dim=0)
        model.linear.bias[3] -= 100

    def read(x: Tensor) -> tuple[list[np.ndarray], np.ndarray]:
        with torch.no_grad():
            found = []
            for end in (1, 5):
                F = model.stages[:end](x).flatten(2).numpy()
                rows = [(F**p @ (F**p).transpose(0, 2, 1)).sum(axis=2) for p in powers]
                found.append(
                    np.concatenate(
                        [
                            np.sign(r) * np.abs(r) ** (1 / p)
                            for r, p in zip(rows, powers, strict=True)
                        ],
                        axis=1,
                    )
                )
            return found, model.outputs(x)["logits"].numpy()

    statistics, logits = read(x)
    predicted = logits.argmax(axis=1)
    assert set(predicted) == {0, 1, 2}
    held = np.arange(len(x)) % 10 == 9
    detector = oodbench.create_detector("gram", layers=layers, powers=powers, confidence=confidence)
    labels = torch.zeros(len(x), dtype=torch.int64)
    detector.fit_batches(model, list(zip(x.split(batch), labels.split(batch), strict=True)))

    with torch.no_grad():  # a class that was never predicted has the range of all
        logits = model.outputs(test)["logits"]
        model.linear.bias[3] += (logits[:, :3].amax(dim=1) - logits[:, 3]).median() + 1e-6
    found, logits = read(test)
    assert 3 in logits.argmax(axis=1)
    assert len(set(logits.argmax(axis=1))) > 1
    totals = np.zeros(len(test))
    for own, others in zip(statistics, found, strict=True):

        def deviation(g: np.ndarray, c: int, own: np.ndarray = own) -> float:
            inside = ~held & ((predicted == c) if c < 3 else True)
            low, high = own[inside].min(axis=0), own[inside].max(axis=0)
            below = np.maximum(low - g, 0) / np.abs(low + 1e-6)
            return float((below + np.maximum(g - high, 0) / np.abs(high + 1e-6)).sum())

        expected = np.mean([deviation(own[i], predicted[i]) for i in np.flatnonzero(held)])
        for i in range(len(test)):
            totals[i] += deviation(others[i], logits[i].argmax()) / expected
    if confidence:
        totals /= softmax(logits, axis=1).max(axis=1)
    # held-out statistics are kept in single precision
    same(detector.score_batch(model, test), totals, rtol=1e-5)


class Flat(nn.Module):
    """Logits without a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 3).double()

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.linear(images.flatten(1))}


def test_a_network_without_feature_maps_is_refused() -> None:
    detector = oodbench.create_detector("gram")
    with pytest.raises(MissingOutputError, match="gram needs a network with feature maps"):
        detector.fit_batches(Flat(), [(images(10), torch.zeros(10))])

"""AdaSCALE sample by sample, by hand, and its reference distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

import oodbench
from oodbench.detectors import adascale
from oodbench.errors import MissingOutputError, OptionError
from oodbench.outputs import Head
from tests.helpers.scores import Network, images, same


def network(width: int = 40) -> Network:
    torch.manual_seed(0)
    # smooth, so that no entry of the input has a gradient of zero, and all shifts are told apart
    return Network(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Softplus(),
        nn.Conv2d(6, width, 3, padding=1),
        nn.LeakyReLU(0.1),
        width=width,
    )


def read(model: Network, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        out = model.outputs(x[None])
    return out["features"][0].numpy(), out["logits"][0].numpy()


def statistic(model: Network, x: torch.Tensor, a: int, b: int) -> tuple[np.ndarray, float]:
    leaf = x[None].clone().requires_grad_()
    logits = model.outputs(leaf)["logits"][0]
    (gradient,) = torch.autograd.grad(logits[logits.argmax()], leaf)
    g = gradient.flatten().numpy()
    pushed = x.flatten().numpy().copy()
    for j in np.argsort(np.abs(g))[: int(0.05 * len(g))]:
        pushed[j] += 0.5 * np.sign(g[j])
    f = read(model, x)[0]
    moved = read(model, torch.from_numpy(pushed).view_as(x))[0]
    order = np.argsort(-f)
    kept = sum(max(moved[j], 0) for j in order[:a])
    return f, kept + 10 * sum(abs(f[j] - moved[j]) for j in order[:b])


@pytest.mark.parametrize("name", ["adascale-a", "adascale-l"])
def test_sample_by_sample(name: str) -> None:
    model, known, test = network(), images(30), images(12, seed=1) * 1.3
    weight, bias = model.linear.weight.detach().numpy(), model.linear.bias.detach().numpy()
    a, b = 2, 1  # 5 % and, of 1 % of 40, which is none, one
    reference = np.array([statistic(model, x, a, b)[1] for x in known])
    expected = []
    for x in test:
        f, q = statistic(model, x, a, b)
        percentile = 60 + (1 - np.mean(reference <= q)) * (95 - 60)
        kept = 40 - int(np.round(40 * percentile / 100))
        r = np.maximum(f, 0).sum() / np.sort(np.maximum(f, 0))[::-1][:kept].sum()
        if name == "adascale-a":
            expected.append(-logsumexp(weight @ (f * np.exp(r)) + bias))
        else:
            expected.append(-logsumexp((weight @ f + bias) * r**2))
    detector = oodbench.create_detector(name, low=60.0, high=95.0)
    labels = torch.zeros(30, dtype=torch.int64)
    detector.fit_batches(model, zip(known.split(8), labels.split(8), strict=True))
    same(detector.score_batch(model, test), expected)
    with torch.inference_mode():
        same(detector.score_batch(model, test), expected)


def test_ratio_by_hand() -> None:
    z = torch.tensor([[4.0, 3.0, 2.0, 1.0, -5.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    # K = 5 - round(5 x 50 %) = 5 - 2 (half to even) and 5 - 4
    found = adascale.ratios(z[:1], torch.tensor([50.0]))
    torch.testing.assert_close(found, torch.tensor([10 / 9]))
    found = adascale.ratios(z, torch.tensor([80.0, 80.0]))
    torch.testing.assert_close(found, torch.tensor([10 / 4, 1.0]))


def test_larger_shifts_mean_smaller_percentiles() -> None:
    detector = oodbench.create_detector("adascale-a", low=70.0, high=90.0)
    detector.sorted_ = torch.tensor([1.0, 2.0, 2.0, 5.0], dtype=torch.float64)  # type: ignore[attr-defined]
    found = detector._percentile(torch.tensor([0.0, 2.0, 9.0], dtype=torch.float64))  # type: ignore[attr-defined]
    assert found.tolist() == [90.0, 75.0, 70.0]  # of 2 three of four are no larger


def test_refusals() -> None:
    for options, message in (
        ({"low": 90.0}, "0 <= low <= high < 100"),
        ({"k_a": 0.0}, "k_a is in"),
        ({"share": 0.0}, "share must be in"),
    ):
        with pytest.raises(OptionError, match=f"adascale-l: {message}"):
            oodbench.create_detector("adascale-l", **options)


def test_it_is_fitted_on_validation_data() -> None:
    assert oodbench.create_detector("adascale-a").fit_split == "val"


def test_a_head_of_cosines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    weight, bias = model.linear.weight.detach(), model.linear.bias.detach()
    detector = oodbench.create_detector("adascale-a")
    detector.fit_batches(model, [(images(9), torch.zeros(9, dtype=torch.int64))])
    for head, message in ((Head(weight, bias, 1e-8), "one of cosines"), (None, "none")):
        monkeypatch.setattr(model, "head", lambda head=head: head)
        with pytest.raises(MissingOutputError, match=f"a linear head, and this one has {message}"):
            detector.score_batch(model, images(2))

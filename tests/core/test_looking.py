"""Detectors that look into the network: how often it runs for them, and what they say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench import Hardware
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.errors import BadScoresError
from oodbench.looking import fit_with_network, score_with_network
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from oodbench.registry import DETECTORS
from tests.helpers.images import CPU, GREY, arrays, tensors
from tests.helpers.networks import Gradient, flat6, flat_model

RGB = Preprocess(8, (0.5,) * 3, (0.25,) * 3)
LOOKING = sorted(name for name in DETECTORS.names() if "model" in DETECTORS.get(name).needs)
N = 40


def samples(seed: int) -> ImageArrays:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
    return ImageArrays("toy", images, np.arange(N) % 3, ("a", "b", "c"))


class Counted(HeadedBackbone):
    """A network that counts the samples that enter it; a copy counts with it."""

    seen: list[int]

    def __init__(self) -> None:
        super().__init__(create_backbone("digits-cnn", 3), 3)
        self.seen = []

    def __deepcopy__(self, memo: object) -> Counted:
        copy = Counted()
        copy.load_state_dict(self.state_dict())
        copy.seen = self.seen
        return copy.eval()

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        self.seen.append(len(images))
        found = super().outputs(images)
        return {**found, "numerator": found["logits"], "denominator": found["logits"][:, 0]}


@pytest.mark.parametrize("name", LOOKING)
def test_a_detector_takes_at_most_three_passes_of_each_sample(name: str) -> None:
    network, detector = Counted().eval(), oodbench.create_detector(name)
    if detector.needs_fit_batches:
        fit_with_network(detector, network, samples(0), RGB, hardware=CPU)
        assert sum(network.seen) <= 3 * N
        network.seen.clear()
    score_with_network(detector, network, samples(1), RGB, hardware=CPU)
    # some find their layers, and a head is compared, by one or a few samples of a batch
    batches = -(-N // CPU.batch_size)
    assert N <= sum(network.seen) <= 3 * N + 4 * batches + 8


def test_gram_takes_one() -> None:
    network, detector = Counted().eval(), oodbench.create_detector("gram")
    fit_with_network(detector, network, samples(0), RGB, hardware=CPU)
    assert sum(network.seen) <= N + 8
    network.seen.clear()
    score_with_network(detector, network, samples(1), RGB, hardware=CPU)
    assert sum(network.seen) <= N + 8


@pytest.fixture
def registered() -> Iterator[str]:
    DETECTORS.register("gradient-norm")(Gradient)
    yield "gradient-norm"
    DETECTORS.unregister("gradient-norm")
    Gradient.name = ""


def test_detector_that_needs_the_network_through_evaluate(registered: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 6))
    results = oodbench.evaluate(
        model, id="digits", detectors=[registered, "msp"], hardware=CPU, preprocess="benchmark"
    )

    benchmark = oodbench.get_benchmark("digits")
    scores = []
    for spec, split in ((benchmark.id, "test"), (benchmark.near[0], "test")):
        x = tensors(spec.load(split), benchmark.preprocess).requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(x).max(dim=1).values.sum(), x)
        scores.append(-gradient.flatten(1).norm(dim=1))
    expected = oodbench.metrics.auroc(*scores)
    (near,) = [r for r in results if r["detector"] == registered and r["ood"] == "digits-6-9"]
    assert near["auroc"] == pytest.approx(expected, abs=1e-4)
    assert near["n_ood"] == len(scores[1])


def test_bad_scores_of_such_a_detector_name_it_and_the_dataset() -> None:
    class Broken(Gradient):
        def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
            return torch.full((len(batch),), torch.nan)

    with pytest.raises(BadScoresError, match=r"digits/test.*Broken"):
        oodbench.evaluate(
            flat6(), id="digits", detectors=Broken(), hardware=CPU, preprocess="benchmark"
        )


def test_scores_do_not_depend_on_the_batch_size() -> None:
    model, samples = flat_model(), arrays()
    scores = [
        score_with_network(
            Gradient(), model, samples, GREY, hardware=Hardware("cpu", batch_size=size)
        )
        for size in (1, 4, 64)
    ]
    torch.testing.assert_close(scores[1], scores[0])
    torch.testing.assert_close(scores[2], scores[0])

"""Detectors that look into the network: how often it runs for them."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor

import oodbench
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.looking import fit_with_network, score_with_network
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from oodbench.registry import DETECTORS
from tests.helpers.images import CPU

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

"""The toy problem that every detector must solve, as outputs and as a network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oodbench.detector import Detector
from oodbench.outputs import Head, Outputs

Toy = Callable[[dict[str, Tensor], Head], tuple[dict[str, Tensor], Head]]
CLASSES, DIM, UNITS = 4, 64, 8
COUNTS = 1200, 200, 120


@dataclass
class Blobs:
    """A toy problem that every detector must solve.

    Features are rectified Gaussian blobs: each class lights eight units of its own, and each OOD
    blob eight units that no class lights. So it is far from every class, in direction as in
    distance, and the linear head says little of it.

    Args:
        train: ID training outputs.
        test: ID test outputs.
        ood: OOD outputs.
    """

    train: Outputs
    test: Outputs
    ood: Outputs


@functools.lru_cache(maxsize=4)
def _noise(seed: int) -> tuple[Tensor, ...]:
    """What the blobs of a seed are drawn from, which checks ask for again and again."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(0.5 * torch.randn(n, DIM, generator=generator) for n in COUNTS)


def blobs(seed: int = 0, dtype: torch.dtype = torch.float32) -> Blobs:
    """The toy problem, with features, logits, labels and head."""
    lit = torch.eye(DIM // UNITS).repeat_interleave(UNITS, dim=1)  # [blobs, D]
    weight = 0.25 * lit[:CLASSES]
    head = Head(weight, torch.zeros(CLASSES))

    def outputs(noise: Tensor, is_ood: bool) -> Outputs:
        labels = torch.arange(len(noise)) % CLASSES
        centre = 3.0 * lit[labels + CLASSES if is_ood else labels]
        features = (centre + noise).relu()
        return Outputs(features.to(dtype), head(features).to(dtype), labels, head)

    train, test, ood = _noise(seed)
    return Blobs(outputs(train, False), outputs(test, False), outputs(ood, True))


def problem(detector: Detector, dtype: torch.dtype = torch.float32) -> Blobs:
    """The toy problem as the network shows it that the detector was designed for."""
    plain = blobs(dtype=dtype)

    def shown(outputs: Outputs) -> Outputs:
        assert outputs.head is not None
        columns, head = detector.toy(dict(outputs.columns()), outputs.head)
        return Outputs.of_columns(columns, head)

    return Blobs(shown(plain.train), shown(plain.test), shown(plain.ood))


class ToyNetwork(nn.Module):
    """The toy problem's network, for detectors that need one.

    An image is a ``[D, 2, 2]`` map whose spatial mean is the features; see :func:`images_of`.

    Args:
        head: the linear one.
        shown: what else it says, and how; see :meth:`Detector.toy`.
    """

    def __init__(self, head: Head, shown: Toy = Detector.toy) -> None:
        super().__init__()
        self.shown = shown
        self.conv = nn.Conv2d(DIM, DIM, 1, bias=False)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(DIM, CLASSES)
        self.conv.load_state_dict({"weight": torch.eye(DIM)[:, :, None, None]})
        self.linear.load_state_dict({"weight": head.weight, "bias": head.bias})

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Features, logits and what the detector's own network adds."""
        features = self.relu(self.conv(images)).mean(dim=(2, 3))
        columns = {"features": features, "logits": self.linear(features)}
        return self.shown(columns, self.head())[0]

    def head(self) -> Head:
        """The linear layer behind the features."""
        return Head(self.linear.weight, self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, C]``."""
        return self.outputs(images)["logits"]


def images_of(outputs: Outputs) -> Tensor:
    """Maps ``[N, D, 2, 2]``: features times a pattern of mean 1 that turns with the channel."""
    quarter = torch.tensor([[1.5, 0.5], [0.5, 1.5]], device=outputs.features.device)
    pattern = torch.stack([quarter, 2 - quarter]).repeat(DIM // 2, 1, 1)
    return outputs.features.float()[:, :, None, None] * pattern


def network_of(detector: Detector, outputs: Outputs) -> ToyNetwork:
    """The network that the detector was designed for, with the head of such outputs."""
    assert outputs.head is not None
    with torch.random.fork_rng(devices=[]):  # layers draw weights before they get these
        return ToyNetwork(outputs.head, detector.toy).to(outputs.head.weight.device).eval()


def fit(detector: Detector, train: Outputs) -> Detector:
    """Fit a detector on outputs, or on images with the network at hand."""
    if detector.needs_fit_batches:
        images = images_of(train)
        batches = zip(images.split(64), train.labels.split(64), strict=True)
        return detector.fit_batches(network_of(detector, train), batches)
    return detector.fit(train)


def score(detector: Detector, outputs: Outputs) -> Tensor:
    """Scores of outputs, or of images with the network at hand."""
    if "model" not in detector.needs:
        return detector.score(outputs)
    return detector.score_batch(network_of(detector, outputs), images_of(outputs)).detach()

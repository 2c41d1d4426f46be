"""Detectors that need the network itself: fitted and scored with a copy of it at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oodbench.data.samples import Samples
from oodbench.data.transforms import Transform
from oodbench.detector import Detector, check_scores
from oodbench.extract import as_network
from oodbench.feeding import Arrival, sent_by, to_device
from oodbench.hardware import Hardware, quiet_lightning
from oodbench.networks.classifier import Classifier
from oodbench.networks.door import (
    at_door,
)
from oodbench.networks.heads import checked_head
from oodbench.networks.memory_format import laid_out, prefer_channels_last
from oodbench.networks.models import (
    copied,
    outputs_of,
)
from oodbench.passes import Preprocessed
from oodbench.runtime.loading import Loader


@dataclass
class _Loaded:
    """A copy of the network on its device, and batches of preprocessed images with their rows."""

    network: nn.Module
    batches: Iterator[tuple[Tensor, Tensor]]


def _load(model: nn.Module, samples: Samples, preprocess: Transform, hardware: Hardware) -> _Loaded:
    network = copied(as_network(model)).eval()
    network.preprocess = preprocess
    device = hardware.trainer(logger=False).strategy.root_device
    network.to(device)
    is_last = prefer_channels_last(network, hardware.channels_last)
    at_door(network)
    loader = Loader(
        Preprocessed(samples, sent_by(preprocess)),
        batch_size=hardware.batch_size,
        num_workers=hardware.workers_for(samples, preprocess),
        pin_memory=device.type == "cuda",
    )
    arrival = Arrival(preprocess)
    arrived = ((arrival(to_device(images, device)), rows) for images, rows in loader)
    return _Loaded(network, _with_checked_head(network, arrived, is_last))


def _with_checked_head(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    is_channels_last: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches on the device, once a network's own head was compared with what it gives."""
    for number, (images, rows) in enumerate(batches):
        images = laid_out(images, is_channels_last)
        if number == 0 and not isinstance(network, Classifier):
            with torch.no_grad():
                if checked_head(network, outputs_of(network)(images[:8]))[0] is None:
                    network.head = lambda: None  # type: ignore[assignment]
        yield images, rows


def fit_with_network(
    detector: Detector,
    model: nn.Module,
    samples: Samples,
    preprocess: Transform,
    *,
    hardware: Hardware | None = None,
) -> None:
    """Fit a detector that learns from images with the network at hand (``fit_batches``).

    The network is copied and put in evaluation mode.
    """
    with quiet_lightning():
        loaded = _load(model, samples, preprocess, hardware or Hardware())
        labels = torch.from_numpy(samples.labels)
        detector.fit_batches(
            loaded.network,
            ((images, labels[rows].to(images.device)) for images, rows in loaded.batches),
        )


def score_with_network(
    detector: Detector,
    model: nn.Module,
    samples: Samples,
    preprocess: Transform,
    *,
    hardware: Hardware | None = None,
) -> Tensor:
    """Scores ``[N]`` of a detector that needs the network itself (``score_batch``), gradients on.

    The network is copied and put in evaluation mode; nothing is cached.

    Raises:
        BadScoresError: scores that are not ``[B]`` finite floats.
    """
    with quiet_lightning():
        loaded = _load(model, samples, preprocess, hardware or Hardware())
        scores = [
            detector.score_batch(loaded.network, images).detach().cpu()
            for images, _ in loaded.batches
        ]
    return check_scores(torch.cat(scores), len(samples), detector.label)

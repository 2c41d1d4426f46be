"""Object detection: networks that predict boxes, and OOD scores of predicted boxes.

The protocol is that of VOS (Du et al., ICLR 2022, arXiv:2202.01197): a box that is predicted with
enough confidence counts; ID boxes are those on ID test images, OOD boxes those on images without
any ID object, so that each of them is a mistake. A box is a row of ``Outputs``, with the features
that its class was predicted from and its logits without that of the background, so every detector
that reads outputs scores boxes as it scores images.

Metrics and their intervals count boxes, as if boxes of one image were independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from torch import nn
from torch.utils.data import Dataset
from torchvision.models import detection as zoo

from oodbench import files
from oodbench.checks.doubts import more_classes
from oodbench.data.dense import boxed
from oodbench.data.samples import Samples
from oodbench.data.transforms import InOwnSize, Preprocess, Transform
from oodbench.detector import Detector
from oodbench.errors import DataError, OptionError
from oodbench.extract import extract
from oodbench.method import Method
from oodbench.networks import single_stage
from oodbench.networks.boxes import BoxNetwork, BoxReader, forget_sizes
from oodbench.networks.models import BoxPredicting, Network, box_predicting
from oodbench.networks.single_stage import LEAST
from oodbench.outputs import Outputs
from oodbench.registry import register_task
from oodbench.results.rows import Row
from oodbench.tasks.boxes import mean_average_precision, picture
from oodbench.tasks.pictures import MOST_PICTURES, heat, save_picture
from oodbench.tasks.runner import NetworkRunner, SampleOutputs
from oodbench.tasks.task import Task
from oodbench.training.dense import DenseMethod
from oodbench.training.epochs import Examples


class BoxRunner(NetworkRunner):
    """A network that predicts boxes, at work.

    All boxes that count for mean average precision are kept, whatever the confidence from which
    they are scored.

    Raises:
        OptionError: a network that predicts no boxes, or another callable than a ``Preprocess``.
    """

    PICTURES = MOST_PICTURES

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not isinstance(self.preprocess, Preprocess):
            raise OptionError("detection wants an oodbench Preprocess, not another callable.")
        self.confidence = cast(Detection, self.task).confidence
        self._predicted: dict[str, Outputs] = {}

    @cached_property
    def reader(self) -> nn.Module:
        """The network, as it gives a row a box."""
        return BoxReader(self.network, min(LEAST, self.confidence))

    @property
    def transform(self) -> Transform:
        """Images in their own sizes."""
        return InOwnSize(cast(Preprocess, self.preprocess))

    def _outputs(self, samples: Samples) -> Outputs:
        """The boxes that the network predicts on samples with enough confidence, as rows.

        Any images will do for OOD ones: what is predicted on them is wrong, wherever it is.

        Raises:
            DataError: nothing is predicted.
        """
        predicted = extract(
            self.reader,
            samples,
            self.transform,
            hardware=self.hardware,
            on_forward=self.on_forward,
        )
        self._predicted[samples.fingerprint] = predicted
        boxes = self.task.view(predicted, self.network)
        if len(boxes) == 0:
            raise DataError(
                f"the network predicts no box with a confidence of {self.confidence} or more on "
                f"the {len(samples)} images of {samples.name}: there is nothing to score. Train it "
                "longer, or leave the set out with `ood`."
            )
        if self.classes:
            note = more_classes(boxes.logits.shape[1], self.classes, "the ID set")
            self.notes += [] if note is None or note in self.notes else [note]
        return boxes

    def quality(self, test: SampleOutputs) -> Row:
        """Mean average precision on ID test samples.

        Raises:
            DataError: these have no boxes to compare with.
        """
        _ = test.outputs
        predicted = self._predicted[test.samples.fingerprint]
        return {
            "id_accuracy": None,
            "id_accuracy_low": None,
            "id_accuracy_high": None,
            "id_map": mean_average_precision(predicted, boxed(test.samples)),
        }

    def pictures(self, scored: SampleOutputs, scores: np.ndarray, folder: Path) -> None:
        """The first images with their boxes, brighter where they look more OOD, and the scores."""
        image = scored.outputs.extra["image"].numpy()
        corners = scored.outputs.extra["corners"].numpy()
        bright = heat(scores[None])[0]
        for index in range(min(self.PICTURES, len(scored.samples))):
            rows = np.flatnonzero(image == index)
            names = dict(enumerate(self.classes or scored.samples.classes))
            classes = [names.get(c, f"class {c}") for c in scored.outputs.labels[rows].tolist()]
            words = [f"{c} {s:.2f}" for c, s in zip(classes, scores[rows], strict=True)]
            drawn = picture(scored.samples[index], corners[rows], words, bright[rows])
            save_picture(drawn, folder / f"{files.file_name(scored.samples.name)}-{index:03}.png")


@register_task("detection")
@dataclass(frozen=True)
class Detection(Task):
    """Boxes are scored: those predicted on ID test images, and on images without any ID object.

    Args:
        confidence: the smallest softmax value from which a predicted box is scored.
    """

    unit: ClassVar[str] = "boxes"
    id_unit: ClassVar[str] = "predicted boxes"
    scored: ClassVar[str] = "Boxes are scored"
    quality: ClassVar[tuple[str, str]] = ("id_map", "ID mAP@50")
    columns: ClassVar[tuple[str, ...]] = ("id_map",)
    intervals_over: ClassVar[str] = "predicted boxes, as if those of one image were independent,"
    runner: ClassVar[type[NetworkRunner]] = BoxRunner
    is_classified: ClassVar[bool] = False
    keeps_size: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    draws_id: ClassVar[bool] = True
    rows_are_samples: ClassVar[bool] = False
    methods_of: ClassVar[str] = "detection"

    confidence: float = 0.5

    def why_not(self, detector: type[Detector]) -> str | None:
        """Detectors that need the network itself, with whole images, cannot."""
        if "model" in detector.needs or detector.fit_batches is not Detector.fit_batches:
            return "needs the network itself, with whole images, which boxes do not have"
        return None

    def adapt(self, network: nn.Module, layer: str | None, classes: int | None) -> nn.Module:
        """A torchvision detector, or a module with ``detect`` and ``head``.

        Raises:
            OptionError: a network that predicts no boxes.
        """
        if isinstance(network, zoo.FasterRCNN):  # Mask and Keypoint R-CNN, too
            network = BoxNetwork(network)
        elif isinstance(network, single_stage.KINDS):
            network = single_stage.SingleStageNetwork(network, classes or 0)
        if not isinstance(network, BoxPredicting):
            raise OptionError(
                f"{type(network).__name__} predicts no boxes that oodbench could read. Give a "
                "torchvision detector (FasterRCNN, MaskRCNN, KeypointRCNN, RetinaNet, FCOS, SSD), "
                "or a module with detect() and head() as oodbench.networks.boxes.BoxNetwork has "
                "them."
            )
        forget_sizes(network)
        return super().adapt(network, None, classes) if isinstance(network, Network) else network

    def view(self, outputs: Outputs, network: nn.Module) -> Outputs:
        """The boxes of enough confidence."""
        counts = outputs.extra["confidence"] >= self.confidence
        return outputs if bool(counts.all()) else outputs[counts.nonzero().flatten()]

    def call(self, network: nn.Module) -> Callable[[Any], Any]:
        """What runs the network on images, as far as it takes to see what it makes of them."""
        if isinstance(network, Network):
            return super().call(network)
        predicting = box_predicting(network)
        return lambda images: predicting.detect(list(images), LEAST)

    def examples(
        self, method: Method, samples: Samples, preprocess: Any, seed: int
    ) -> tuple[Dataset[Any], Callable[[Sequence[Any]], Any] | None]:
        """Images with their boxes, augmented together."""
        dense = cast(DenseMethod, method)
        return Examples(samples, dense, preprocess, seed), dense.collate

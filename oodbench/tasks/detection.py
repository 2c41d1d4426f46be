"""Object detection: networks that predict boxes, and OOD scores of predicted boxes.

The protocol is that of VOS (Du et al., ICLR 2022, arXiv:2202.01197): a box that is predicted with
enough confidence counts; ID boxes are those on ID test images, OOD boxes those on images without
any ID object, so that each of them is a mistake. A box is a row of ``Outputs``, with the features
that its class was predicted from and its logits without that of the background, so every detector
that reads outputs scores boxes as it scores images.

Metrics and their intervals count boxes, as if boxes of one image were independent.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from torchvision.models import detection as zoo

from oodbench import files
from oodbench.caching import probe
from oodbench.caching.description import describe
from oodbench.caching.fingerprint import cache_key, unknown
from oodbench.caching.store import discard, stored
from oodbench.checks.doubts import more_classes
from oodbench.data.dense import boxed
from oodbench.data.samples import Samples, Subset
from oodbench.data.transforms import Preprocess
from oodbench.detector import Detector
from oodbench.disk import leftovers
from oodbench.disk.digests import read_arrays, write_arrays
from oodbench.disk.locks import alone
from oodbench.errors import DataError, OODBenchWarning, OptionError
from oodbench.hardware import is_first_process
from oodbench.method import Method
from oodbench.networks import single_stage
from oodbench.networks.boxes import BoxNetwork, forget_sizes
from oodbench.networks.models import BoxPredicting, Network, box_predicting
from oodbench.networks.single_stage import LEAST
from oodbench.outputs import Outputs
from oodbench.registry import register_task
from oodbench.results.rows import Row
from oodbench.tasks.boxes import TABLE, detect, mean_average_precision, picture
from oodbench.tasks.pictures import MOST_PICTURES, heat, save_picture
from oodbench.tasks.runner import NetworkRunner, SampleOutputs
from oodbench.tasks.task import Task
from oodbench.training.dense import DenseMethod
from oodbench.training.epochs import Examples

VERSION = 2
"""Part of every key of cached boxes; raised when the same network would give others."""


def _table_of(folder: Path) -> Path:
    """The file of all boxes, beside the folder of those that count."""
    return folder.with_name(f"{folder.name}.npz")


class BoxRunner(NetworkRunner):
    """A network that predicts boxes, at work.

    What it predicts is kept in the cache, so a second evaluation runs nothing.

    Raises:
        OptionError: a network that predicts no boxes, or another callable than a ``Preprocess``.
    """

    PICTURES = MOST_PICTURES

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not isinstance(self.preprocess, Preprocess):
            raise OptionError("detection wants an oodbench Preprocess, not another callable.")
        self.confidence = cast(Detection, self.task).confidence
        self._tables: dict[str, dict[str, np.ndarray]] = {}

    def _folder(self, samples: Samples) -> Path | None:
        """Where the cache has what is predicted; None for a network that cannot be told apart."""
        key = cache_key(self.network, samples, self.preprocess, self.hardware.precision)
        if key is None:
            return None
        name = files.digest({"key": key, "version": VERSION, "confidence": self.confidence})
        return files.cache_dir() / "boxes" / name

    def is_cached(self, samples: Samples) -> bool:
        """Whether the cache has what the network predicts on these samples."""
        folder = self._folder(samples)
        return folder is not None and (folder / "outputs.json").is_file()

    def _outputs(self, samples: Samples) -> Outputs:
        """The boxes that the network predicts on samples, as rows.

        Any images will do for OOD ones: what is predicted on them is wrong, wherever it is.

        Raises:
            DataError: nothing is predicted.
        """
        folder = self._folder(samples)
        if folder is None:
            warnings.warn(unknown(self.network) or "", OODBenchWarning, stacklevel=2)
        boxes = None if folder is None else self._stored(folder, samples)
        with contextlib.ExitStack() as held:
            target = folder if is_first_process(self.hardware) else None
            if boxes is None and target is not None:
                lock = files.writable_cache() / "locks" / f"{target.name}.lock"
                held.enter_context(alone(lock, f"the boxes on {samples.name}"))
                boxes = self._stored(target, samples, mend=True)  # somebody may have been quicker
            if boxes is None:
                boxes, every = self._detect(samples)
                self._tables[samples.fingerprint] = every
                if self.on_forward is not None:
                    self.on_forward(len(samples))
                if target is not None:
                    leftovers.remove(target)
                    write_arrays(_table_of(target), every)
                    boxes.save(target, key=target.name)
                    if probe.varies(self.network):
                        (target / probe.VARIES).touch()
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

    def _stored(self, folder: Path, samples: Samples, mend: bool = False) -> Outputs | None:
        """What the cache has, if a network with a user's code says the same today; else it goes.

        What is damaged counts as nothing; with ``mend`` it is removed, too, and that is said.
        """
        boxes, damage = stored(folder, folder.name)
        every = read_arrays(_table_of(folder))
        if boxes is not None and (every is None or not set(TABLE) <= set(every)):
            boxes, damage = None, f"{_table_of(folder).name} is missing or damaged"
        if damage is not None and mend:
            discard(folder, damage)
        if boxes is None or every is None:
            return None
        if describe(self.network).is_users:
            if (folder / probe.VARIES).exists():
                probe.note_varying(self.network)
            if not self._still_detects(samples, every):
                probe.note_varying(self.network)
                net = getattr(self.network, "detector", self.network)
                text = probe.changed_text(type(net).__name__, samples.name)
                warnings.warn(text, OODBenchWarning, stacklevel=3)
                files.writable_cache()
                probe.drop(folder)
                return None
        self._tables[samples.fingerprint] = every
        return boxes

    def _still_detects(self, samples: Samples, every: dict[str, np.ndarray]) -> bool:
        rows = probe.some_of(len(samples))
        _, predictions = self._detect(Subset(samples, rows))
        there = np.isin(every["image"], rows)
        if there.sum() != len(predictions["image"]):
            return False
        limit = probe.tolerance(self.hardware, torch.device("cpu"))
        return all(
            probe.alike(
                torch.from_numpy(every[name][there]), torch.from_numpy(predictions[name]), limit
            )
            for name in ("confidence", "corners")
        )

    def _detect(self, samples: Samples) -> tuple[Outputs, dict[str, np.ndarray]]:
        preprocess = cast(Preprocess, self.preprocess)
        return detect(self.network, samples, preprocess, self.hardware, self.confidence)

    def quality(self, test: SampleOutputs) -> Row:
        """Mean average precision on ID test samples.

        Raises:
            DataError: these have no boxes to compare with.
        """
        _ = test.outputs
        every = self._tables[test.samples.fingerprint]
        return {
            "id_accuracy": None,
            "id_accuracy_low": None,
            "id_accuracy_high": None,
            "id_map": mean_average_precision(every, boxed(test.samples)),
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
    on_one_device: ClassVar[bool] = True
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
        return super().adapt(network, None, classes)

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

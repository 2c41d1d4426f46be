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
import dataclasses
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import detection as zoo
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, batched_nms
from torchvision.ops.boxes import remove_small_boxes

from oodbench import files
from oodbench.caching import probe
from oodbench.caching.description import describe
from oodbench.caching.fingerprint import cache_key, unknown
from oodbench.caching.store import discard, stored
from oodbench.contenders import (
    Contender,
    Seen,
    Subject,
)
from oodbench.data.samples import BoxedSamples, Boxes, Samples, Subset
from oodbench.data.transforms import Preprocess, Transform, in_mode, to_tensor
from oodbench.detector import Detector
from oodbench.disk import leftovers
from oodbench.disk.digests import read_arrays, write_arrays
from oodbench.disk.locks import alone
from oodbench.errors import BadScoresError, DataError, OODBenchWarning, OptionError
from oodbench.hardware import Hardware, Running, is_first_process, quiet_lightning
from oodbench.method import DenseMethod, JointAugmentation, Recipe
from oodbench.networks import single_stage
from oodbench.networks.single_stage import LEAST
from oodbench.outputs import Head, Outputs
from oodbench.registry import register_backbone
from oodbench.tasks.pictures import MOST_PICTURES, heat, panel, save_picture, scale
from oodbench.tasks.segmentation import more_classes

VERSION = 2
"""Part of every key of cached boxes; raised when the same network would give others."""

AT_ONCE = 8
"""Images of one size a forward pass; of several, smaller ones would be padded to the largest."""


class LinearBoxHead(nn.Linear):
    """The plain classification layer of a box: ``[R, D] -> {"logits": [R, 1 + C]}``."""

    def forward(self, features: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Logits; background first, as torchvision has it."""
        return {"logits": super().forward(features)}

    def as_head(self) -> Head:
        """The layer."""
        return Head(self.weight.detach(), self.bias.detach())


class BoxPredictor(nn.Module):
    """Class and place of a box from its features.

    The layer of the places starts from normal weights of deviation 0.001 and biases of zero, as
    in Fast R-CNN (Girshick, ICCV 2015, section 2.3).

    Args:
        classify: from ``[R, D]`` to ``logits [R, 1 + C]`` and further columns with R rows; has
            ``as_head``.
        features: D.
        classes: ID classes C.
    """

    def __init__(self, classify: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.classify = classify
        self.regress = nn.Linear(features, 4 * (1 + classes))
        nn.init.normal_(self.regress.weight, std=0.001)
        nn.init.zeros_(self.regress.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[R, 1 + C]`` and box deltas ``[R, 4 (1 + C)]``, as torchvision wants them."""
        return self.classify(features)["logits"], self.regress(features)


class BoxNetwork(nn.Module):
    """A torchvision Faster R-CNN (Ren et al. 2015) that says all it knows of the boxes it predicts.

    Args:
        detector: torchvision's. One that is trained here should not normalise images itself.
    """

    def __init__(self, detector: zoo.FasterRCNN) -> None:
        super().__init__()
        self.detector = detector

    @property
    def num_features(self) -> int:
        """D, of the features that a box's class is predicted from."""
        predictor = self.detector.roi_heads.box_predictor
        layer = predictor.regress if isinstance(predictor, BoxPredictor) else predictor.cls_score
        return int(layer.in_features)

    @property
    def num_classes(self) -> int:
        """ID classes C, without the background."""
        predictor = self.detector.roi_heads.box_predictor
        layer = predictor.regress if isinstance(predictor, BoxPredictor) else predictor.bbox_pred
        return int(layer.out_features) // 4 - 1

    def head(self) -> Head | None:
        """The layer from a box's features to its logits without background."""
        predictor = self.detector.roi_heads.box_predictor
        if isinstance(predictor, BoxPredictor):
            found: Head = cast(Any, predictor.classify).as_head()
        else:
            found = Head(predictor.cls_score.weight.detach(), predictor.cls_score.bias.detach())
        return dataclasses.replace(found, weight=found.weight[1:], bias=found.bias[1:])

    def outputs(self, images: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        """:meth:`detect` with boxes from ``LEAST`` on."""
        return self.detect(list(images))

    def detect(self, images: list[Tensor], least: float = LEAST) -> dict[str, Tensor]:
        """The boxes that are predicted on images, and what they were predicted from.

        As torchvision does: softmax over classes and background, boxes of less than ``least``
        dropped, overlapping ones of a class suppressed, at most 100 an image.

        Args:
            images: B of ``[channels, H, W]``, of any sizes.
            least: smallest confidence.

        Returns:
            A row a box, by image and then by falling confidence: ``image [n]`` (position),
            ``corners [n, 4]`` in pixels of the image, ``confidence [n]`` (softmax), ``predicted
            [n]`` in [0, C), ``features [n, D]``, ``logits [n, C]``, and what else the head gives.

        Raises:
            BadScoresError: logits that are NaN or infinite.
        """
        net, roi = self.detector, self.detector.roi_heads
        if roi.score_thresh > LEAST:  # somebody's choice, and not torchvision's default
            least = max(least, roi.score_thresh)
        batch, _ = net.transform(images)
        maps = net.backbone(batch.tensors)
        maps = {"0": maps} if isinstance(maps, Tensor) else maps
        proposals, _ = net.rpn(batch, maps)
        features = roi.box_head(roi.box_roi_pool(maps, proposals, batch.image_sizes))
        predictor = roi.box_predictor
        if isinstance(predictor, BoxPredictor):
            said, deltas = predictor.classify(features), predictor.regress(features)
        else:
            said, deltas = {"logits": predictor.cls_score(features)}, predictor.bbox_pred(features)
        if not said["logits"].isfinite().all():  # NaN would pass for boxes of no confidence
            raise BadScoresError(
                "the network gives logits that are NaN or infinite. Has its training diverged? "
                "Train again with a smaller learning rate (`lr`)."
            )
        corners = roi.box_coder.decode(deltas.float(), proposals)  # [R, 1 + C, 4]
        confidence = said["logits"].float().softmax(dim=1)[:, 1:]
        owner = torch.repeat_interleave(
            torch.arange(len(images), device=confidence.device),
            torch.tensor([len(p) for p in proposals], device=confidence.device),
        )
        row, predicted = (confidence >= least).nonzero(as_tuple=True)
        image, sure = owner[row], confidence[row, predicted]
        boxes = _clipped(corners[row, predicted + 1], image, batch.image_sizes)
        large = remove_small_boxes(boxes, 1e-2)
        groups = image[large] * confidence.shape[1] + predicted[large]
        kept = large[batched_nms(boxes[large], sure[large], groups, roi.nms_thresh)]
        kept = kept[image[kept].argsort(stable=True)]
        counts = image[kept].bincount(minlength=len(images))
        first = counts.cumsum(0) - counts
        place = torch.arange(len(kept), device=kept.device) - first[image[kept]]
        kept = kept[place < roi.detections_per_img]
        back = torch.tensor(
            [
                [w / rw, h / rh, w / rw, h / rh]
                for (h, w), (rh, rw) in zip(
                    [i.shape[-2:] for i in images], batch.image_sizes, strict=True
                )
            ],
            device=boxes.device,
        )
        columns = {
            # the background is no class
            name: value[row[kept], 1:] if value.ndim == 2 else value[row[kept]]
            for name, value in said.items()
        }
        return {
            "image": image[kept],
            "corners": boxes[kept] * back[image[kept]],
            "confidence": sure[kept],
            "predicted": predicted[kept],
            "features": features[row[kept]],
            **columns,
        }


def _clipped(boxes: Tensor, image: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    limits = torch.tensor([[w, h, w, h] for h, w in sizes], device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limits[image].to(boxes))


class DetectionMethod(DenseMethod):
    """Faster R-CNN's four losses, on boxes of the ID classes; objects of none are background.

    The backbone is a :class:`BoxNetwork`. A subclass has ``classifier``, the head of a box.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        if not isinstance(backbone, BoxNetwork):
            raise OptionError(
                f"{type(backbone).__name__} predicts no boxes. Backbones of detection: "
                f"{', '.join(BACKBONES)}."
            )
        super().__init__(backbone, num_classes, recipe)
        features = backbone.num_features
        backbone.detector.roi_heads.box_predictor = BoxPredictor(
            self.classifier(features, 1 + num_classes), features, num_classes
        )

    def classifier(self, features: int, classes: int) -> nn.Module:
        """The head of a box: ``[R, features]`` to a mapping with ``logits [R, classes]``."""
        raise NotImplementedError

    @staticmethod
    def target(samples: Any, index: int) -> Boxes:
        """The boxes of an image."""
        boxed = _boxed(samples)
        boxes = boxed.boxes(index)
        check_labels(boxes, len(boxed.classes), f"{boxed.name}, image {index}")
        return boxes

    def joint_augmentation(self, preprocess: Preprocess) -> JointAugmentation:
        """A flip of image and boxes where the ID set allows."""
        return FlipBoxes(preprocess)

    @staticmethod
    def collate(examples: Sequence[tuple[Tensor, Any]]) -> tuple[list[Tensor], list[Any]]:
        """Images, which need not be of one size, and their targets."""
        images, targets = zip(*examples, strict=True)
        return list(images), list(targets)

    def loss(self, images: Any, labels: Any) -> dict[str, Tensor]:
        """Sum of the losses of objectness, proposals, classes and places, and each of them.

        Args:
            images: B of ``[channels, H, W]``.
            labels: B mappings, ``boxes [n, 4]`` and ``labels [n]`` in [1, C]; n may be 0.
        """
        parts: dict[str, Tensor] = cast(BoxNetwork, self.backbone).detector(images, labels)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def outputs(self, images: Any) -> dict[str, Tensor]:
        """See :meth:`BoxNetwork.detect`."""
        return self.detect(list(images))

    def detect(self, images: list[Tensor], least: float = LEAST) -> dict[str, Tensor]:
        """See :meth:`BoxNetwork.detect`."""
        return cast(BoxNetwork, self.backbone).detect(images, least)

    def head(self) -> Head | None:
        """The layer from a box's features to its logits without background."""
        return cast(BoxNetwork, self.backbone).head()


class FlipBoxes:
    """A flip of image and boxes, half the time, where ``preprocess`` allows it."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(
        self, image: Image.Image, boxes: Boxes, rng: random.Random
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``[C, H, W]`` float32, and what torchvision calls a target."""
        pixels = self.preprocess.normalize(to_tensor(in_mode(image, self.preprocess.mode)))
        known = boxes.labels >= 0
        corners = torch.from_numpy(boxes.corners[known])
        if self.preprocess.flip and rng.random() < 0.5:
            pixels = pixels.flip(-1)
            corners = corners[:, [2, 1, 0, 3]]
            corners[:, [0, 2]] = image.width - corners[:, [0, 2]]
        return pixels, {"boxes": corners, "labels": torch.from_numpy(boxes.labels[known]) + 1}


def check_labels(boxes: Boxes, classes: int, name: str) -> None:
    """Check that boxes are of a class or of none.

    Raises:
        DataError: a label beyond the classes, such as one that counts from 1; names the image.
    """
    strays = boxes.labels[(boxes.labels < -1) | (boxes.labels >= classes)]
    if len(strays):
        raise DataError(
            f"{name}: a box has the label {strays[0]}, but the classes are 0 to {classes - 1}, and "
            "-1 is no class. Do its labels count from 1?"
        )


def _boxed(samples: Samples) -> BoxedSamples:
    if not isinstance(samples, BoxedSamples):
        raise DataError(
            f"{samples.name} has no boxes; detection needs those of its objects. "
            "Choose a benchmark of detection (oodbench list benchmarks)."
        )
    return samples


class _Images(Dataset[Tensor]):
    def __init__(self, samples: Samples, preprocess: Preprocess) -> None:
        self.samples, self.preprocess = samples, preprocess

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        image = in_mode(self.samples[index], self.preprocess.mode)
        return self.preprocess.normalize(to_tensor(image))


def detect(
    network: nn.Module,
    samples: Samples,
    preprocess: Preprocess,
    hardware: Hardware,
    confidence: float,
) -> tuple[Outputs, dict[str, np.ndarray]]:
    """The boxes that a network predicts on samples.

    Images go through the network once. What is predicted with less than ``confidence`` is kept
    without its features and logits. The boxes of a dataset are in memory together.

    Args:
        network: has ``detect`` and ``head``; see :class:`BoxNetwork`.
        samples: images.
        preprocess: mode and normalisation; sizes stay.
        hardware: where and how it runs.
        confidence: smallest that counts.

    Returns:
        The boxes that count, with their class as label and the columns of
        :meth:`BoxNetwork.detect` as extras; and of all boxes from ``LEAST`` on ``image``,
        ``corners``, ``confidence`` and ``predicted``.

    Raises:
        BadScoresError: the network gives NaN or infinite logits.
    """
    running = Running(network, hardware)
    loader = DataLoader(
        _Images(samples, preprocess),
        batch_size=None,
        num_workers=hardware.workers_for(samples),
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else it draws from everybody's
    )
    least = min(LEAST, confidence)
    sure: list[dict[str, Tensor]] = []
    every: list[dict[str, Tensor]] = []
    start = 0
    try:
        for images in _batches(loader):
            with running:
                found = cast(Any, network).detect([running.put(i) for i in images], least)
            found = {
                name: value.float() if value.is_floating_point() else value
                for name, value in ((name, value.cpu()) for name, value in found.items())
            }
            found["image"] = found["image"] + start
            every.append({name: found[name] for name in _TABLE})
            counts = found["confidence"] >= confidence
            sure.append({name: value[counts] for name, value in found.items()})
            start += len(images)
    except BadScoresError as error:
        raise BadScoresError(f"on {samples.name}: {error}") from error
    whole = {name: torch.cat([part[name] for part in sure]).clone() for name in sure[0]}
    boxes = Outputs(
        cast(Any, whole.pop("features") if "features" in whole else None),
        whole.pop("logits"),
        whole.pop("predicted"),
        cast(Any, network).head(),
        whole,
    )
    return boxes, {name: torch.cat([part[name] for part in every]).numpy() for name in _TABLE}


def _as_it_is(image: Any) -> Any:
    return image


def _batches(loader: DataLoader[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive images of one size, at most ``AT_ONCE``."""
    batch: list[Tensor] = []
    examples = iter(loader)
    while True:
        with quiet_lightning():  # a data worker's error as it was raised
            image = next(examples, None)
        if batch and (image is None or len(batch) == AT_ONCE or image.shape != batch[0].shape):
            yield batch
            batch = []
        if image is None:
            return
        batch.append(image)


def _forget_sizes(network: nn.Module) -> None:
    """Undo what torchvision notes in a network at its first images, so its cache key stays."""
    for module in network.modules():
        if isinstance(module, MultiScaleRoIAlign):
            module.scales = module.map_levels = None


_TABLE = ("image", "corners", "confidence", "predicted")


def _table_of(folder: Path) -> Path:
    """The file of all boxes, beside the folder of those that count."""
    return folder.with_name(f"{folder.name}.npz")


class DetectionSubject(Subject):
    """A network that predicts boxes, at work.

    What it predicts is kept in the cache, so a second evaluation runs nothing.

    Args:
        contender: the network, or a torchvision detector as it is. One that normalises images
            itself is given them plain.
        preprocess: the benchmark's.
        hardware: where and how it runs.
        on_forward: called with the number of samples that went through the network.
        confidence: boxes that are predicted with less do not count.
        classes: names of the ID classes.

    Raises:
        OptionError: a network that predicts no boxes, or another callable than a ``Preprocess``.
    """

    PICTURES = MOST_PICTURES

    def __init__(
        self,
        contender: Contender,
        preprocess: Transform,
        hardware: Hardware,
        on_forward: Callable[[int], None] | None = None,
        confidence: float = 0.5,
        classes: Sequence[str] = (),
    ) -> None:
        network = contender.network
        if isinstance(network, zoo.FasterRCNN):  # Mask and Keypoint R-CNN, too
            network = BoxNetwork(network)
        elif isinstance(network, single_stage.KINDS):
            network = single_stage.SingleStageNetwork(network, len(classes))
        if not hasattr(network, "detect"):
            raise OptionError(
                f"{type(network).__name__} predicts no boxes that oodbench could read. Give a "
                "torchvision detector (FasterRCNN, MaskRCNN, KeypointRCNN, RetinaNet, FCOS, SSD), "
                "or a module with detect() and head() as "
                "oodbench.tasks.detection.BoxNetwork has them."
            )
        _forget_sizes(network)
        super().__init__(
            dataclasses.replace(contender, network=network, layer=None),
            preprocess,
            hardware,
            on_forward,
        )
        if not isinstance(self.preprocess, Preprocess):
            raise OptionError("detection wants an oodbench Preprocess, not another callable.")
        self.confidence, self.class_names = confidence, tuple(classes)
        self._tables: dict[str, dict[str, np.ndarray]] = {}

    def _folder(self, samples: Samples) -> Path | None:
        """Where the cache has what is predicted; None for a network that cannot be told apart."""
        key = cache_key(self.network, samples, self.preprocess, self.hardware.precision)
        if key is None:
            return None
        name = files.digest({"key": key, "version": VERSION, "confidence": self.confidence})
        return files.cache_dir() / "boxes" / name

    def sees(self, samples: Samples) -> Seen:
        """Samples, with the boxes that the network predicts on them.

        Any images will do for OOD ones: what is predicted on them is wrong, wherever it is.
        Asking for the outputs raises a ``DataError`` where nothing is predicted.
        """
        return Seen(samples, lambda: self._look(samples))

    def saw(self, samples: Samples) -> bool:
        """Whether the cache has what the network predicts on these samples."""
        folder = self._folder(samples)
        return folder is not None and (folder / "outputs.json").is_file()

    def _look(self, samples: Samples) -> Outputs:
        folder = self._folder(samples)
        if folder is None:
            warnings.warn(unknown(self.network) or "", OODBenchWarning, stacklevel=2)
        boxes = None if folder is None else self._stored(folder, samples)
        with contextlib.ExitStack() as held:
            mine = folder if is_first_process(self.hardware) else None
            if boxes is None and mine is not None:
                lock = files.writable_cache() / "locks" / f"{mine.name}.lock"
                held.enter_context(alone(lock, f"the boxes on {samples.name}"))
                boxes = self._stored(mine, samples, mend=True)  # somebody may have been quicker
            if boxes is None:
                boxes, every = self._detect(samples)
                self._tables[samples.fingerprint] = every
                if self.on_forward is not None:
                    self.on_forward(len(samples))
                if mine is not None:
                    leftovers.remove(mine)
                    write_arrays(_table_of(mine), every)
                    boxes.save(mine, key=mine.name)
                    if probe.varies(self.network):
                        (mine / probe.VARIES).touch()
        if len(boxes) == 0:
            raise DataError(
                f"the network predicts no box with a confidence of {self.confidence} or more on "
                f"the {len(samples)} images of {samples.name}: there is nothing to score. Train it "
                "longer, or leave the set out with `ood`."
            )
        if self.class_names:
            note = more_classes(boxes.logits.shape[1], self.class_names, "the ID set")
            self.notes += [] if note is None or note in self.notes else [note]
        return boxes

    def _stored(self, folder: Path, samples: Samples, mend: bool = False) -> Outputs | None:
        """What the cache has, if a network with a user's code says the same today; else it goes.

        What is damaged counts as nothing; with ``mend`` it is removed, too, and that is said.
        """
        boxes, damage = stored(folder, folder.name)
        every = read_arrays(_table_of(folder))
        if boxes is not None and (every is None or not set(_TABLE) <= set(every)):
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
        _, found = self._detect(Subset(samples, rows))
        there = np.isin(every["image"], rows)
        if there.sum() != len(found["image"]):
            return False
        limit = probe.tolerance(self.hardware, torch.device("cpu"))
        return all(
            probe.alike(torch.from_numpy(every[name][there]), torch.from_numpy(found[name]), limit)
            for name in ("confidence", "corners")
        )

    def _detect(self, samples: Samples) -> tuple[Outputs, dict[str, np.ndarray]]:
        shape = cast(Preprocess, self.preprocess)
        return detect(self.network, samples, shape, self.hardware, self.confidence)

    def quality(self, test: Seen) -> dict[str, float | None]:
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
            "id_map": mean_average_precision(every, _boxed(test.samples)),
        }

    def fit(self, detector: Detector, seen: Seen) -> None:
        """Fit a detector on the boxes that are predicted on ID samples, if it learns at all.

        Raises:
            OptionError: it learns from the network itself.
        """
        self._check(detector)
        super().fit(detector, seen)

    def scores(self, detector: Detector, seen: Seen) -> np.ndarray:
        """OOD scores ``[n]`` of the boxes.

        Raises:
            OptionError: a detector that needs the network itself.
        """
        self._check(detector)
        return super().scores(detector, seen)

    @staticmethod
    def _check(detector: Detector) -> None:
        if "model" in detector.needs or detector.needs_fit_batches:
            raise OptionError(
                f"{detector.label} needs the network itself, with whole images; boxes are scored "
                "by detectors that read outputs."
            )

    def pictures(self, seen: Seen, scores: np.ndarray, folder: Path) -> None:
        """The first images with their boxes, brighter where they look more OOD, and the scores."""
        image = seen.outputs.extra["image"].numpy()
        corners = seen.outputs.extra["corners"].numpy()
        bright = heat(scores[None])[0]
        for index in range(min(self.PICTURES, len(seen.samples))):
            mine = np.flatnonzero(image == index)
            named = dict(enumerate(self.class_names or seen.samples.classes))
            classes = [named.get(c, f"class {c}") for c in seen.outputs.labels[mine].tolist()]
            words = [f"{c} {s:.2f}" for c, s in zip(classes, scores[mine], strict=True)]
            drawn = picture(seen.samples[index], corners[mine], words, bright[mine])
            save_picture(drawn, folder / f"{files.file_name(seen.samples.name)}-{index:03}.png")


def picture(
    image: Image.Image, corners: np.ndarray, words: Sequence[str], colours: np.ndarray
) -> Image.Image:
    """An image with boxes and a word at each; small ones enlarged, large ones shrunk.

    Args:
        image: the image.
        corners: ``[n, 4]``.
        words: n.
        colours: ``[n, 3]`` uint8.
    """
    times = scale(image.width, image.height, 384)
    large = panel(image.convert("RGB"), times).copy()
    pen = ImageDraw.Draw(large)
    for (left, top, right, bottom), word, colour in zip(corners, words, colours, strict=True):
        box = tuple(float(v) * times for v in (left, top, right, bottom))
        ink = tuple(int(c) for c in colour)
        pen.rectangle(box, outline=ink, width=3)
        place = (box[0] + 4, max(0.0, box[1] - 12))
        pen.rectangle(pen.textbbox(place, word), fill=ink)
        pen.text(place, word, fill=(0, 0, 0) if sum(ink) > 380 else (255, 255, 255))
    return large


def mean_average_precision(found: Mapping[str, np.ndarray], samples: BoxedSamples) -> float | None:
    """Mean over classes of the average precision at an IoU of 0.5, as COCO defines it.

    Args:
        found: ``image``, ``corners``, ``confidence`` and ``predicted`` of all boxes.
        samples: the truth; objects of no class are no part of it.

    Returns:
        In [0, 1]; None where there is no object.
    """
    from torchmetrics.detection import MeanAveragePrecision

    classes = len(samples.classes)
    for index in range(len(samples)):
        check_labels(samples.boxes(index), classes, f"{samples.name}, image {index}")
    metric = MeanAveragePrecision(iou_thresholds=[0.5], backend="pycocotools")
    order = np.argsort(found["image"], kind="stable")
    ends = np.searchsorted(found["image"][order], np.arange(len(samples) + 1))
    predicted, truth = [], []
    for index in range(len(samples)):
        mine = order[ends[index] : ends[index + 1]]
        predicted.append(
            {
                "boxes": torch.from_numpy(found["corners"][mine]),
                "scores": torch.from_numpy(found["confidence"][mine]),
                "labels": torch.from_numpy(found["predicted"][mine]),
            }
        )
        boxes = samples.boxes(index)
        known = boxes.labels >= 0
        truth.append(
            {
                "boxes": torch.from_numpy(boxes.corners[known]),
                "labels": torch.from_numpy(boxes.labels[known]),
            }
        )
    metric.update(predicted, truth)
    value = float(metric.compute()["map_50"])
    return value if value >= 0 else None


# --- networks --------------------------------------------------------------------------------


def _convolutions(*widths: int) -> nn.Sequential:
    """3x3 convolutions with batch normalisation; all but the first and the last halve the map."""
    layers: list[nn.Module] = []
    last = len(widths) - 2
    for i, (inside, out) in enumerate(pairwise(widths)):
        layers += [
            nn.Conv2d(inside, out, 3, 1 if i in (0, last) else 2, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


@register_backbone("scenes-frcnn")
def scenes_frcnn(channels: int = 1) -> BoxNetwork:
    """A small Faster R-CNN with 128 features a box, for scenes of 64 pixels a side."""
    body: Any = _convolutions(channels, 16, 32, 64, 64)
    body.out_channels = 64
    detector = zoo.FasterRCNN(
        body,
        rpn_anchor_generator=AnchorGenerator(((14, 20, 27),), ((0.7, 1.0, 1.5),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(64 * 7**2, 128),
        box_predictor=FastRCNNPredictor(128, 2),
        min_size=64,
        max_size=64,
        image_mean=(0.0,) * channels,
        image_std=(1.0,) * channels,
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        box_batch_size_per_image=64,
    )
    return BoxNetwork(detector)


@register_backbone("fasterrcnn-resnet50-fpn")
def fasterrcnn_resnet50_fpn(channels: int = 3) -> BoxNetwork:
    """Faster R-CNN with a ResNet-50 and feature pyramid, from random weights; 1,024 features.

    VOS starts from a ResNet trained on ImageNet: give ``oodbench.training.train.Run`` such a
    checkpoint.
    """
    if channels != 3:
        raise OptionError(f"fasterrcnn-resnet50-fpn takes RGB images, not {channels} channels.")
    detector = zoo.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=2,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
    )
    return BoxNetwork(detector)


BACKBONES = ("scenes-frcnn", "fasterrcnn-resnet50-fpn")


@dataclass(frozen=True)
class DetectionRecipe(Recipe):
    """How a detection network is trained."""


RECIPES: Mapping[str, Recipe] = {
    "published": DetectionRecipe(
        backbone="fasterrcnn-resnet50-fpn",
        epochs=18,
        batch_size=16,
        lr=0.02,
        nesterov=False,
        weight_decay=1e-4,
        warmup_epochs=0.1,
        schedule="step",
        milestones=(12, 16),
    ),
    "quick": DetectionRecipe(epochs=15, batch_size=8, lr=0.02, warmup_epochs=1),
}
"""``published`` is VOS's for VOC: 18,000 steps of 16 images, x0.1 after 12,000 and 16,000."""

RECIPE_IDS: Mapping[str, tuple[str, ...]] = {"published": ("voc", "bdd")}

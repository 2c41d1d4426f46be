"""Semantic segmentation: networks that give a class for each pixel, and OOD scores of pixels.

Any detector that learns nothing and reads what a network says of a pixel (its logits; AbeT's
temperature) scores pixels as it scores images: a pixel is a row of ``Outputs``. An image goes
through the network once for all detectors, and its scores are counted and forgotten, so memory does
not depend on the number of pixels.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.models import segmentation as zoo

from oodbench import files
from oodbench.caching.fingerprint import unknown, unknown_weights, weights_digest
from oodbench.checks import doubts, sanity
from oodbench.contenders import (
    Contender,
    Subject,
)
from oodbench.data.samples import OOD, VOID, MaskedSamples, Samples
from oodbench.data.transforms import Preprocess, in_mode, to_tensor
from oodbench.detector import Detector
from oodbench.errors import DataError, OptionError
from oodbench.evaluator import Evaluator
from oodbench.extract import Network
from oodbench.hardware import Hardware, Running, is_first_process, quiet_lightning
from oodbench.method import DenseMethod, JointAugmentation, Recipe
from oodbench.metrics.streamed import StreamedScores
from oodbench.outputs import Outputs
from oodbench.registry import register_backbone
from oodbench.reporting import (
    noting,
    of_a_kind,
    own_failure,
    reason_of,
)
from oodbench.results.rows import FOREGROUND, Results, Row
from oodbench.runtime import isolation
from oodbench.runtime.process import undisturbed
from oodbench.tasks import scorable
from oodbench.tasks.pictures import MOST_PICTURES, class_colours, heat, panel, save_picture, scale


class SegmentationMethod(DenseMethod):
    """Cross-entropy of each pixel that is neither void nor OOD.

    The backbone gives maps of features ``[B, D, h, w]``, ``num_features`` D. A subclass has
    ``maps``, the head.
    """

    def maps(self, features: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
        """``logits`` ``[B, C, h, w]``, and what else a detector reads, of ``[B, D, h, w]``.

        They may have the image's ``size`` (height, width) already; smaller ones are enlarged.
        """
        raise NotImplementedError

    @staticmethod
    def target(samples: Any, index: int) -> Any:
        """The mask ``[H, W]``."""
        masked = _masked(samples)
        mask = masked.mask(index)
        check_mask(mask, len(masked.classes), masked.mask_name(index))
        return mask

    def joint_augmentation(self, preprocess: Preprocess) -> JointAugmentation:
        """A random square of the preprocessing's size, and a flip where the ID set allows."""
        return CropFlipMask(preprocess)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean cross-entropy over the pixels of a class (0 if there is none), and the accuracy.

        Args:
            images: ``[B, channels, H, W]``.
            labels: masks ``[B, H, W]`` int64.
        """
        logits = self.maps(self.backbone(images), labels.shape[-2:])["logits"]
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        known = labels < self.num_classes
        n = known.sum().clamp(min=1)
        each = F.cross_entropy(
            logits.float(), labels.masked_fill(~known, -100), reduction="sum", ignore_index=-100
        )
        accuracy = ((logits.argmax(dim=1) == labels) & known).sum() / n
        return {"loss": each / n, "accuracy": accuracy}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """``logits [B, C, H, W]`` and further maps, in the size of the images.

        Smaller ones are enlarged bilinearly, each by itself.
        """
        size = images.shape[-2:]
        found = {}
        for name, value in self.maps(self.backbone(images), size).items():
            whole = value if value.ndim == 4 else value[:, None]
            whole = F.interpolate(whole.float(), size, mode="bilinear", align_corners=False)
            found[name] = whole if value.ndim == 4 else whole[:, 0]
        return found


class CropFlipMask:
    """A random crop of image and mask, padded with zeros and void, and a flip.

    Args:
        preprocess: ``size`` is the side of the crop.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(
        self, image: Image.Image, mask: np.ndarray, rng: random.Random
    ) -> tuple[Tensor, Tensor]:
        """``[C, size, size]`` float32 and ``[size, size]`` int64."""
        check_size(image, mask)
        size = self.preprocess.size
        pixels = self.preprocess.normalize(to_tensor(in_mode(image, self.preprocess.mode)))
        target = torch.from_numpy(mask.astype(np.int64))
        height, width = target.shape
        down, right = max(0, size - height), max(0, size - width)
        pixels = F.pad(pixels, (0, right, 0, down))
        target = F.pad(target, (0, right, 0, down), value=VOID)
        top, left = rng.randint(0, height + down - size), rng.randint(0, width + right - size)
        window = (..., slice(top, top + size), slice(left, left + size))
        pixels, target = pixels[window], target[window]
        if self.preprocess.flip and rng.random() < 0.5:
            pixels, target = pixels.flip(-1), target.flip(-1)
        return pixels, target


def check_size(image: Image.Image, mask: np.ndarray, name: str = "an image") -> None:
    """Check that a mask has the size of its image.

    Raises:
        DataError: it has another.
    """
    if mask.shape != (image.height, image.width):
        raise DataError(
            f"{name}: the image has {image.height} x {image.width} pixels, its mask "
            f"{' x '.join(map(str, mask.shape))}. They must be of one size."
        )


def check_mask(mask: np.ndarray, classes: int, name: str) -> None:
    """Check that a mask has one value a pixel: a class, ``OOD`` or ``VOID``.

    Raises:
        DataError: it has another shape, type or value; names the mask.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(
            f"{name}: a mask has one 8-bit value a pixel (uint8 [H, W]), not {mask.dtype} "
            f"{list(mask.shape)}. Take the mask with class numbers, not the one with colours."
        )
    strays = [v for v in np.flatnonzero(np.bincount(mask.ravel())) if classes <= v < OOD]
    if strays:
        raise DataError(
            f"{name}: the mask has the value{'s' * (len(strays) > 1)} "
            f"{', '.join(map(str, strays[:5]))}{' …' * (len(strays) > 5)}, but the classes are "
            f"0 to {classes - 1}; {OOD} is OOD and {VOID} void. Is it of another set of labels?"
        )


def _masked(samples: Samples) -> MaskedSamples:
    if not isinstance(samples, MaskedSamples):
        raise DataError(
            f"{samples.name} has no masks; segmentation needs a class for each pixel. "
            "Choose a benchmark of segmentation (oodbench list benchmarks)."
        )
    return samples


class _Pixels(Dataset[tuple[Tensor, np.ndarray]]):
    def __init__(self, samples: MaskedSamples, preprocess: Preprocess) -> None:
        self.samples, self.preprocess = samples, preprocess

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, np.ndarray]:
        image, mask = self.samples[index], self.samples.mask(index)
        name = self.samples.mask_name(index)
        check_mask(mask, len(self.samples.classes), name)
        check_size(image, mask, name)
        tensor = to_tensor(in_mode(image, self.preprocess.mode))
        return self.preprocess.normalize(tensor), mask


@dataclass
class PixelOutputs:
    """What a network says of the pixels of one image.

    Args:
        index: position of the image.
        outputs: one row a pixel, row by row.
        mask: ``[H, W]`` uint8.
    """

    index: int
    outputs: Outputs
    mask: np.ndarray

    def score(self, detector: Detector) -> np.ndarray:
        """The detector's scores as a map ``[H, W]``.

        Raises:
            ChangedInputsError: it changed what it was given to read.
        """
        with isolation.kept(), isolation.lent(self.outputs, detector.label) as mine:
            scores = detector.score(mine)
        return scores.double().cpu().numpy().reshape(self.mask.shape)

    @property
    def prediction(self) -> np.ndarray:
        """``[H, W]`` int64: the class of the largest logit; see :attr:`Outputs.decisions`."""
        decisions = self.outputs.decisions
        assert decisions is not None  # noqa: S101 - a network of this task has logits
        return decisions.argmax(dim=1).cpu().numpy().reshape(self.mask.shape)


def segment(
    network: nn.Module, samples: Samples, preprocess: Preprocess, hardware: Hardware
) -> Iterator[PixelOutputs]:
    """What a network says of the pixels of samples, image by image.

    The network works on copies of its tensors, and is what it was whenever an image is handed out.
    Consecutive images of one size go through the network several at a time.

    Raises:
        DataError: samples without masks, or a mask that is not of the size of its image.
    """
    data = _Pixels(_masked(samples), preprocess)
    running = Running(network, hardware)
    loader = DataLoader(
        data,
        batch_size=None,
        num_workers=hardware.workers_for(samples),
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else it draws from everybody's
    )
    start = 0
    for images, masks in _batches(loader):
        with running:
            maps = cast(Any, network).outputs(running.put(torch.stack(images)))
        for i, mask in enumerate(masks):
            yield PixelOutputs(start + i, _rows(maps, i), mask)
        start += len(masks)


def _as_it_is(example: Any) -> Any:
    return example


def _batches(
    loader: DataLoader[tuple[Tensor, np.ndarray]],
) -> Iterator[tuple[list[Tensor], list[np.ndarray]]]:
    """Consecutive images of one size, of at most ``2**18`` pixels (but one image at least)."""
    images: list[Tensor] = []
    masks: list[np.ndarray] = []
    examples = iter(loader)
    while True:
        with quiet_lightning():  # a data worker's error as it was raised
            example = next(examples, None)
        if example is None:
            break
        image, mask = example
        full = images and (image.shape != images[0].shape or (len(images) + 1) * mask.size > 2**18)
        if full:
            yield images, masks
            images, masks = [], []
        images.append(image)
        masks.append(mask)
    if images:
        yield images, masks


def _rows(maps: Mapping[str, Tensor], i: int) -> Outputs:
    rows = {
        name: value[i].flatten(1).T if value.ndim == 4 else value[i].flatten()
        for name, value in maps.items()
    }
    return Outputs(logits=rows.pop("logits").float(), extra=rows)


def check_detectors(detectors: Sequence[Detector]) -> None:
    """Check that detectors can score pixels.

    Raises:
        OptionError: names one that cannot.
    """
    scorable.check_kind(detectors, "segmentation")


def more_classes(outputs: int, classes: Sequence[str], id_name: str) -> str | None:
    """What is to be said of a network that predicts more classes than an ID set has, if it does.

    Raises:
        OptionError: it predicts fewer.
    """
    known = f"{id_name} has {len(classes)} classes"
    if outputs < len(classes):
        raise OptionError(
            f"the network predicts {outputs} classes, but {known} ({', '.join(classes[:3])}"
            f"{' …' * (len(classes) > 3)}). Give a network that was trained on them."
        )
    if outputs == len(classes):
        return None
    more = outputs - len(classes)
    return (
        f"the network predicts {outputs} classes, but {known}: its first {len(classes)} are taken "
        f"for these, in their order, and the {more} other{'s' * (more > 1)} for none. What is "
        "predicted as none of the ID classes is wrong; detectors read all outputs."
    )


class Quality:
    """Pixel accuracy and mean intersection over union of predictions.

    A prediction of no class is wrong, and has a column of its own.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        # true, predicted; the last column is of predictions beyond the classes
        self.confusion = np.zeros((num_classes, num_classes + 1), np.int64)

    def add(self, prediction: np.ndarray, mask: np.ndarray) -> None:
        """Count the pixels of an image that are of a class."""
        c = len(self.confusion)
        known = mask < c
        predicted = prediction[known].astype(np.int64)
        predicted[(predicted < 0) | (predicted > c)] = c
        pairs = mask[known].astype(np.int64) * (c + 1) + predicted
        self.confusion += np.bincount(pairs, minlength=c * (c + 1)).reshape(c, c + 1)

    @property
    def accuracy(self) -> float | None:
        """Share of pixels that are predicted right; None where there are none."""
        total = int(self.confusion.sum())
        return int(self.confusion.trace()) / total if total else None

    @property
    def miou(self) -> float | None:
        """Mean over the classes that occur, in truth or prediction, of intersection over union."""
        hits = self.confusion.diagonal()
        predicted = self.confusion[:, : len(hits)].sum(axis=0)
        union = predicted + self.confusion.sum(axis=1) - hits
        occurs = union > 0
        return float((hits[occurs] / union[occurs]).mean()) if occurs.any() else None


# --- pictures --------------------------------------------------------------------------------


def picture(image: Image.Image, found: PixelOutputs, scores: np.ndarray) -> Image.Image:
    """Input, prediction, score heat map and OOD mask, side by side.

    Small ones are enlarged, large ones shrunk; see ``oodbench.tasks.pictures``.
    """
    height, width = found.mask.shape
    times = scale(width, height, 192)
    truth = np.zeros((height, width, 3), np.uint8)
    truth[found.mask == OOD] = 255
    truth[found.mask == VOID] = 128
    classes = class_colours(np.minimum(found.prediction, VOID - 2).astype(np.uint8))
    panels = [
        panel(image.convert("RGB"), times),
        panel(Image.fromarray(classes), times, smooth=False),
        panel(Image.fromarray(heat(scores)), times),
        panel(Image.fromarray(truth), times),
    ]
    wide, high = panels[0].size
    row = Image.new("RGB", (4 * wide + 3 * 8, high), "white")
    for i, one in enumerate(panels):
        row.paste(one, (i * (wide + 8), 0))
    return row


# --- networks --------------------------------------------------------------------------------


def _block(inside: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inside, out):
        layers += [
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


@register_backbone("scenes-unet")
class SceneUNet(nn.Module):
    """A small U-Net (Ronneberger et al. 2015) with 32 features a pixel, for small scenes."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.num_features = 32
        widths = (16, 32, 64, 64)
        self.down = nn.ModuleList(
            _block(a, b) for a, b in zip((channels, *widths[:-1]), widths, strict=True)
        )
        self.up = nn.ModuleList([_block(64 + 64, 64), _block(64 + 32, 32), _block(32 + 16, 32)])

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, 32, H, W]``."""
        kept = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            kept.append(x)
        kept.pop()
        for block in self.up:
            skip = kept.pop()
            x = F.interpolate(x, skip.shape[-2:], mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        return x


class TorchvisionSegmentation(nn.Module):
    """A torchvision segmentation network without its last convolution.

    Args:
        name: ``"deeplabv3_resnet50"``, ``"deeplabv3_resnet101"``, ``"fcn_resnet50"`` …
        channels: input channels; 3.
    """

    def __init__(self, name: str, channels: int = 3) -> None:
        super().__init__()
        if channels != 3:
            raise OptionError(f"{name} takes RGB images, not images of {channels} channels.")
        network = getattr(zoo, name)(weights=None, weights_backbone=None, aux_loss=False)
        *head, last = network.classifier
        self.encoder, self.decoder = network.backbone, nn.Sequential(*head)
        self.num_features = int(last.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W] -> [B, D, H / 8, W / 8]``."""
        features: Tensor = self.decoder(self.encoder(x)["out"])
        return features


for _name in ("deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50", "fcn_resnet101"):
    register_backbone(_name.replace("_", "-"))(
        lambda channels=3, _name=_name: TorchvisionSegmentation(_name, channels)
    )


@dataclass(frozen=True)
class SegmentationRecipe(Recipe):
    """How a segmentation network is trained."""


RECIPES: Mapping[str, Recipe] = {
    "published": SegmentationRecipe(
        backbone="deeplabv3-resnet50",
        epochs=180,
        batch_size=16,
        lr=0.01,
        nesterov=False,
        weight_decay=1e-4,
    ),
    "quick": SegmentationRecipe(
        epochs=20, batch_size=8, lr=0.1, nesterov=False, weight_decay=5e-4, warmup_epochs=1
    ),
    "slow": SegmentationRecipe(
        epochs=20, batch_size=8, lr=0.01, nesterov=False, weight_decay=1e-4, warmup_epochs=1
    ),
}
"""``published`` is a common one for Cityscapes; AbeT's authors fine-tune a WideResNet-38.

``quick`` was chosen on ID validation alone (the embedded scenes, ``abet-segmentation``, seed 0, 20
epochs without Nesterov's momentum), by the cross-entropy of a pixel. Rate 0.1 and decay 5e-4:
0.0207 (0.087 on objects), mIoU 93.9; 0.03 and 1e-4: 0.0218 (0.096), 93.7, hardly worse; 0.01 and
1e-4, which is ``slow``: 0.0449 (0.258), 89.5, it has not learned all that there is. OOD pixels
chose nothing, although they may prefer ``slow``.
"""

RECIPE_IDS: Mapping[str, tuple[str, ...]] = {"published": ("cityscapes", "streethazards")}


class PixelNetwork(nn.Module):
    """Anybody's segmentation network, by its logits alone.

    Args:
        model: from ``[B, channels, H, W]`` to logits ``[B, C, h, w]``, or to a mapping that has
            them as ``"out"``, as torchvision's networks do.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """``logits [B, C, H, W]``, enlarged bilinearly where the network's are smaller.

        Raises:
            OptionError: the model gives something else.
        """
        logits = self.model(images)
        logits = logits["out"] if isinstance(logits, Mapping) and "out" in logits else logits
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            raise OptionError(
                f"{type(self.model).__name__} gives no logits [B, C, H, W], but segmentation needs "
                "a class for each pixel. Give a segmentation network."
            )
        size = images.shape[-2:]
        whole = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
        return {"logits": whole}

    def head(self) -> None:
        """None."""


class SegmentationEvaluator(Evaluator):
    """Scores pixels: those of OOD objects against the others of the same images.

    Each image goes through the network once for all detectors. Nothing of it is kept, so a second
    evaluation looks at the images again. Where the benchmark names a background, OOD pixels are
    also compared with the pixels of ID objects alone. Intervals are not given: the pixels of an
    image are far from independent.
    """

    PICTURES: ClassVar[int] = MOST_PICTURES

    def _subject(self, contender: Contender) -> Subject:
        if not isinstance(contender.network, Network):
            contender = replace(contender, network=PixelNetwork(contender.network))
        return super()._subject(contender)

    @undisturbed()
    def run(self, contender: Contender, detectors: Sequence[Detector]) -> Results:
        """Rows of each detector on each OOD set, and on the groups' means.

        Raises:
            OptionError: a detector that cannot score pixels.
            DataError: samples without masks, or whose masks do not fit, or with no ID or no OOD
                pixel.
        """
        self.check(detectors)
        subject = self._subject(contender)
        preprocess = subject.preprocess
        if not isinstance(preprocess, Preprocess):
            raise OptionError("segmentation wants an oodbench Preprocess, not another callable.")
        self.warn_of_learned(contender, {})
        results = Results([], dict(self.missing), list(self.warnings))
        for note in (*contender.notes, *subject.notes):
            self._note(results, note)
        quality = Quality(len(self.test.classes))
        reason = unknown(subject.network)
        said = hashlib.sha256()
        for found in segment(subject.network, self.test, preprocess, self.hardware):
            if found.index == 0 and found.outputs.logits is not None:
                outputs = found.outputs.logits.shape[1]
                more = more_classes(outputs, self.test.classes, self.benchmark.id.name)
                if more is not None:
                    self._note(results, more)
                who = type(subject.network).__name__
                for text in doubts.of_probabilities(found.outputs, detectors, who):
                    self._note(results, text)
            quality.add(found.prediction, found.mask)
            if reason is not None:
                said.update(found.outputs.digest().encode())
        if reason is not None:
            self._note(results, reason)
        seen = sanity.described(preprocess, "segmentation")
        right = quality.confusion[:, : len(self.test.classes)]
        halves = (right - right // 2, right // 2)
        for text in sanity.of_confusion(halves, self.test.classes, seen, unit="pixels"):
            self._note(results, text)
        self.count(len(self.test))
        shared = self._provenance(
            contender,
            subject,
            contender.trained_on,
            {
                "id_accuracy": quality.accuracy,
                "id_accuracy_low": None,
                "id_accuracy_high": None,
                "id_miou": quality.miou,
            },
            weights_digest(subject.network)
            if reason is None
            else unknown_weights(said.hexdigest()),
        )
        background = self._background()
        alive = dict(enumerate(detectors))  # two may be of one name, with other options
        seconds = dict.fromkeys(alive, 0.0)
        said_by: dict[int, list[str]] = {i: [] for i in alive}
        counted = [{i: StreamedScores() for i in alive} for _ in self.ood]
        objects = [{i: StreamedScores() for i in alive if background} for _ in self.ood]
        for ood, streams, foreground in zip(self.ood, counted, objects, strict=True):
            for found in segment(subject.network, ood.samples, preprocess, self.hardware):
                for i, detector in list(alive.items()):
                    began = time.perf_counter()
                    try:
                        with noting(said_by[i].append):
                            scores = found.score(detector)
                        streams[i].add_map(scores, found.mask)
                        if background:
                            hidden = np.isin(found.mask, background)
                            foreground[i].add_map(scores, np.where(hidden, VOID, found.mask))
                    except BaseException as error:  # one must not lose the others' results
                        failure = own_failure(error)
                        self.errors.append(failure)
                        results.failures[detector.label] = reason_of(failure)
                        del alive[i]
                        continue
                    seconds[i] += time.perf_counter() - began
                    if found.index < self.PICTURES:
                        self._save_picture(results, ood.samples, found, scores, detector.label)
            self.count(len(ood.samples))
        common = list(results.warnings)
        for i, detector in alive.items():
            shared["seconds"] = round(seconds[i], 3)
            own = of_a_kind(said_by[i])
            for text in own:
                self._note(results, text)
            shared["notes"] = list(dict.fromkeys((*common, *own))) or None
            measured = [
                self._measured(ood.samples.name, streams[i], foreground.get(i))
                for ood, streams, foreground in zip(self.ood, counted, objects, strict=True)
            ]
            results.rows += self._rows_of(detector, measured, shared)
        return results

    def _background(self) -> list[np.uint8]:
        """Values in masks of the ID classes that are no objects.

        Raises:
            OptionError: the benchmark names one that the ID set does not have.
        """
        classes = list(self.test.classes)
        strange = [name for name in self.benchmark.background if name not in classes]
        if strange:
            raise OptionError(
                f"benchmark {self.benchmark.name}: its background {strange[0]!r} is no class of "
                f"{self.benchmark.id.name} ({', '.join(classes[:5])}{' …' * (len(classes) > 5)})."
            )
        return [np.uint8(classes.index(name)) for name in self.benchmark.background]

    @staticmethod
    def _measured(name: str, stream: StreamedScores, objects: StreamedScores | None) -> Row:
        try:
            figures, errors = stream.metrics()
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        row: Row = {"n_id": stream.n_id, "n_ood": stream.n_ood, **figures}
        if objects is not None and objects.n_id:
            found, more = objects.metrics()
            row.update({f"{metric}_foreground": found[metric] for metric in FOREGROUND})
            row["n_id_foreground"] = objects.n_id
            errors = {metric: max(error, more[metric]) for metric, error in errors.items()}
        row["binning_error"] = max(errors.values())
        return row

    def _save_picture(
        self,
        results: Results,
        samples: Samples,
        found: PixelOutputs,
        scores: np.ndarray,
        name: str,
    ) -> None:
        if self.pictures is None or not is_first_process(self.hardware):
            return
        path = self.pictures / name / f"{files.file_name(samples.name)}-{found.index:03}.png"
        with self._drawing(results):
            save_picture(picture(samples[found.index], found, scores), path)

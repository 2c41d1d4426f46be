"""Semantic segmentation: networks that give a class for each pixel, and OOD scores of pixels.

Any detector that learns nothing and reads what a network says of a pixel (its logits; AbeT's
temperature) scores pixels as it scores images: a pixel is a row of ``Outputs``. An image goes
through the network once for all detectors, and its scores are counted and forgotten, so memory does
not depend on the number of pixels.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from oodbench import files
from oodbench.caching.fingerprint import unknown, unknown_weights, weights_digest
from oodbench.checks import doubts, sanity
from oodbench.checks.doubts import more_classes
from oodbench.contenders import (
    Contender,
    Subject,
)
from oodbench.data.dense import check_mask, check_size, masked
from oodbench.data.samples import OOD, VOID, MaskedSamples, Samples
from oodbench.data.transforms import Preprocess, in_mode, to_tensor
from oodbench.detector import Detector
from oodbench.errors import DataError, OptionError
from oodbench.evaluator import Evaluator
from oodbench.extract import Network
from oodbench.hardware import Hardware, Running, is_first_process, quiet_lightning
from oodbench.metrics.streamed import StreamedScores
from oodbench.networks.pixels import PixelNetwork
from oodbench.outputs import Outputs
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
    data = _Pixels(masked(samples), preprocess)
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

"""FittedDetector: a network, a detector that was fitted on it, and what its scores mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from oodbench import files
from oodbench.contenders import Networks
from oodbench.data.transforms import Transform
from oodbench.deploy import folder, identity
from oodbench.deploy.calibration import Calibration, Threshold
from oodbench.deploy.inputs import batches_of
from oodbench.deploy.state import State, detector_of, moved, state_of
from oodbench.detector import Detector
from oodbench.errors import FittedError, OODBenchError, OptionError
from oodbench.extract import as_network
from oodbench.networks.classifier import Classifier
from oodbench.networks.door import at_door, kept_head
from oodbench.networks.heads import checked_head
from oodbench.networks.memory_format import prefer_channels_last
from oodbench.networks.models import copied, outputs_of
from oodbench.networks.runtimes import ONNXNetwork
from oodbench.outputs import Head, Outputs

BATCH = 64
"""Images that a network sees at a time, where nothing else is asked for."""


@dataclass
class Judged:
    """What is said of a batch of images.

    Args:
        scores: ``[B]`` float64, higher = more OOD.
        predicted: ``[B]`` int64, the classes that the network gives them; None where it has no
            logits.
    """

    scores: np.ndarray
    predicted: np.ndarray | None


class FittedDetector:
    """A detector at work on new images; made by :func:`oodbench.fit` and :func:`oodbench.load`.

    The network is copied and in evaluation mode; yours is neither moved nor changed.

    Args:
        detector: fitted.
        network: any classifier, or a module with ``outputs`` and ``head``.
        preprocess: from an image to what the network sees.
        calibration: scores of ID samples that neither network nor detector learned from.
        thresholds: the first is the one that :meth:`is_ood` takes.
        classes: names of the ID classes, by the network's outputs.
        about: what else is known: what it was fitted on, the record of the network.
        source: how the network can be made again; see ``oodbench.deploy.identity``.
        layer: the name of its linear head, if that cannot be found.

    Attributes:
        batch_size: images that the network sees at a time.
    """

    def __init__(
        self,
        detector: Detector,
        network: nn.Module,
        preprocess: Transform,
        calibration: Calibration,
        thresholds: Sequence[Threshold],
        classes: Sequence[str] = (),
        about: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
        layer: str | None = None,
    ) -> None:
        self.detector = detector
        self.preprocess = preprocess
        self.calibration = calibration
        self.all_thresholds = tuple(thresholds)
        self.classes = tuple(classes)
        self.about: dict[str, Any] = dict(about or {})
        self.source: dict[str, Any] = dict(source or {"kind": "given"})
        self.batch_size = BATCH
        self._own = as_network(network, layer, len(self.classes) or None)
        try:
            self._network: Any = copied(self._own).eval()
        except OODBenchError:  # a session or a client is used as it is
            self._network = self._own.eval()
        self._network.preprocess = preprocess
        self._channels_last = prefer_channels_last(self._network)
        at_door(self._network)
        self._head: tuple[Head | None, dict[str, str]] | None = None
        self.device = _device_of(self._network)

    def __repr__(self) -> str:
        on = self.about.get("id", "ID data")
        return f"FittedDetector({self.detector!r}, on {on}, threshold {self.threshold:.6g})"

    # --- thresholds -----------------------------------------------------------------------------

    @property
    def threshold(self) -> float:
        """The score above which an image is flagged, by the first of the thresholds."""
        return self.all_thresholds[0].value

    @property
    def thresholds(self) -> dict[float, float]:
        """All thresholds, by the share of ID images that they keep (TPR)."""
        return {one.tpr: one.value for one in self.all_thresholds}

    def threshold_at(self, tpr: float | None = None) -> float:
        """The threshold that keeps a share of ID images; the first one for None.

        One that was not asked for when it was fitted is found from the same calibration scores.

        Raises:
            OptionError: there are too few of them for such a share.
        """
        if tpr is None:
            return self.threshold
        known = self.thresholds.get(float(tpr))
        return self.calibration.threshold(tpr).value if known is None else known

    # --- images ---------------------------------------------------------------------------------

    def score(self, images: Any) -> np.ndarray:
        """OOD scores ``[N]`` float64 of images; higher = more OOD.

        Args:
            images: a path, a Pillow image, uint8 pixels (an array ``[H, W]`` or ``[H, W, C]``, a
                tensor ``[C, H, W]``), a list or a batch of these, or ``Samples``; or a floating
                tensor ``[C, H, W]`` or ``[N, C, H, W]`` of images that are preprocessed already.

        Raises:
            DataError: something that is no image, or a file that cannot be read.
            BadScoresError: scores that are not finite.
        """
        judged = [self.judge(batch).scores for batch in self._batches(images)]
        return np.concatenate(judged) if judged else np.empty(0)

    def predict(self, images: Any) -> np.ndarray:
        """The ID classes ``[N]`` int64 that the network gives images, as :meth:`score` takes them.

        Raises:
            OptionError: the network gives no logits.
        """
        judged = [self.judge(batch).predicted for batch in self._batches(images)]
        predicted = [one for one in judged if one is not None]
        if len(predicted) < len(judged):
            raise OptionError("the network gives features alone, so there is no predicted class.")
        return np.concatenate(predicted) if predicted else np.empty(0, dtype=np.int64)

    def is_ood(self, images: Any, tpr: float | None = None) -> np.ndarray:
        """``[N]`` bool: whether each image is flagged, its score being above the threshold.

        Args:
            images: as :meth:`score` takes them.
            tpr: the share of ID images that are kept; None for the first threshold.
        """
        flagged: np.ndarray = self.score(images) > self.threshold_at(tpr)
        return flagged

    def p_values(self, images: Any) -> np.ndarray:
        """``[N]`` in (0, 1]: conformal p-values, the smaller the more OOD.

        See ``oodbench.deploy.calibration`` for what they guarantee.
        """
        return self.calibration.p_values(self.score(images))

    def _batches(self, images: Any) -> Iterator[Any]:
        return batches_of(images, self.preprocess, self.batch_size)

    def judge(self, batch: Any) -> Judged:
        """Scores and predicted classes of a batch of inputs that are preprocessed already."""
        inputs = tree_map(self._put, batch)
        if "model" in self.detector.needs:
            return self._judge_with_network(inputs)
        with torch.inference_mode():
            outputs = self.outputs(inputs)
            decisions = outputs.decisions
            predicted = None if decisions is None else decisions.argmax(dim=1).cpu().numpy()
            scores = self.detector.score(_at_detector(outputs, self.device))
        return Judged(_numbers(scores), predicted)

    def _judge_with_network(self, inputs: Any) -> Judged:
        with torch.inference_mode():
            columns = self._columns(inputs)
        decisions = columns.get("log_probabilities", columns.get("logits"))
        predicted = None if decisions is None else decisions.argmax(dim=1).cpu().numpy()
        with torch.enable_grad():
            scores = self.detector.score_batch(self._network, inputs)
        return Judged(_numbers(scores), predicted)

    def outputs(self, inputs: Any) -> Outputs:
        """What the network says of a batch of inputs, which are on its device."""
        columns = self._columns(inputs)
        head, notes = self._head or (None, {})
        return Outputs.of_columns(columns, head, notes)

    def _columns(self, inputs: Any) -> dict[str, Tensor]:
        columns: dict[str, Tensor] = outputs_of(self._network)(inputs)
        if self._head is None:  # once: it is a layer's weights, which stay what they are
            head, notes = checked_head(self._network, columns)
            self._head = kept_head(head), notes
            if head is None and not isinstance(self._network, Classifier):
                self._network.head = lambda: None
        return columns

    def _put(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.to(self.device)
        if self._channels_last and value.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        return value

    def to(self, device: torch.device | str) -> Self:
        """Move network and detector to a device. Returns self."""
        self.device = torch.device(device)
        self._network.to(self.device)
        self._head = None
        self.detector = moved(self.detector, _detectors(self.device))
        return self

    # --- the folder -----------------------------------------------------------------------------

    def probe(self) -> dict[str, Tensor]:
        """What the network says of images that anybody can make, if it is the same each time."""
        batch = identity.probe_batch(self.preprocess)
        if batch is None:
            return {}
        with torch.inference_mode():
            first, second = (self._columns(tree_map(self._put, batch)) for _ in range(2))
        same = {name for name in first if torch.equal(first[name], second[name])}
        wanted = same & {"features", "logits"}
        return {name: first[name].cpu().clone() for name in sorted(wanted)}

    def save(self, path: str | Path, *, replace: bool = False) -> Path:
        """Write one folder: ``detector.json`` and safetensors, no pickle, whole or not at all.

        It holds the network's weights too, where it is one of a registered backbone or of an own
        run; a network that was given in Python has to be given again.

        Args:
            path: the folder.
            replace: whether a fitted detector that is there already gives way.

        Returns:
            The folder.

        Raises:
            FittedError: the detector holds what cannot be written; see ``Detector.fitted_state``.
            StorageError: the folder cannot be written, or something is there already.
        """
        where = files.user_path(path)
        folder.check_free(where, replace=replace)
        state = state_of(self.detector)
        record = identity.network_record(self._own)
        about = {
            "about": self.about,
            "classes": list(self.classes),
            "detector": state.tree,
            "network": {**record, "source": self.source, "outputs": identity.OUTPUTS},
            "preprocess": identity.preprocess_record(self.preprocess),
            "thresholds": [vars(one) for one in self.all_thresholds],
            "versions": identity.versions_record(),
        }
        parts: dict[str, Mapping[str, Tensor]] = {
            "state": state.tensors,
            "calibration": {"scores": torch.from_numpy(self.calibration.scores.copy())},
            "probe": self.probe(),
        }
        if self.source["kind"] != "given":
            parts["network"] = _weights_of(self._own)
        folder.write(where, about, parts, replace=replace)
        return where


def load(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    preprocess: Transform | str | None = None,
    layer: str | None = None,
    device: torch.device | str | None = None,
    strict: bool = True,
    **network: Any,
) -> FittedDetector:
    """A fitted detector from its folder; nothing of the folder is run.

    Args:
        path: the folder.
        model: its network, where the folder does not hold it; checked to be that one.
        preprocess: its preprocessing, where that is a transform of your own; another is refused.
        layer: the name of the model's linear head, if it cannot be found.
        device: where it works; None for where the model is, or the processor.
        strict: whether code that is not what it was is refused; else it is a warning, and what the
            network says of a few images decides alone. Other weights are refused always.
        network: in place of ``model``, what names it to :func:`oodbench.fit`: ``network``, or
            ``backbone`` and ``checkpoint``. And what is known of its preprocessing, such as
            ``input_size`` or ``mean``: checked to be what it was fitted with.

    Raises:
        OptionError: the network is named in two ways, or no such option.
        FittedError: the folder is damaged, or network, preprocessing or code are not those that the
            detector was fitted with; says what differs.
        UnknownNameError: the detector, or the network's method or backbone, is not installed.
    """
    where = files.user_path(path)
    about = folder.read_about(where)
    try:
        given = Networks(model, preprocess=preprocess, layer=layer, **network)
    except TypeError as error:
        raise OptionError(f"`load` has no such option ({error}).") from error
    try:
        return _loaded(where, about, given, device, strict)
    except OODBenchError as error:
        kind = type(error)
        raise kind(f"{where}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FittedError(
            f"the fitted detector in {where} is damaged or of another version "
            f"({type(error).__name__}: {error}). Fit it again."
        ) from error


def _loaded(
    where: Path,
    about: Mapping[str, Any],
    given: Networks,
    device: torch.device | str | None,
    strict: bool,
) -> FittedDetector:
    state = State(about["detector"], folder.read_part(where, about, "state"))
    scores = folder.read_part(where, about, "calibration")["scores"]
    probe = folder.read_part(where, about, "probe")
    record = about["network"]
    own = None if isinstance(given.preprocess, str) else given.preprocess
    transform = identity.preprocess_of(about["preprocess"], own)
    network = identity.named(given, len(about["classes"]), transform)
    if network is None:
        weights = {}
        if "network" in about["files"]:
            weights = folder.read_part(where, about, "network")
        network = identity.remade(record["source"], where / "network.safetensors", weights)
    detector = detector_of(state, strict=strict)
    fitted = FittedDetector(
        detector,
        network,
        transform,
        Calibration(scores.numpy()),
        [Threshold(**one) for one in about["thresholds"]],
        about["classes"],
        about["about"],
        record["source"],
        None if isinstance(network, ONNXNetwork) else given.layer,
    )
    _check_network(fitted, record, probe, strict)
    identity.check_asked(given.asked, fitted._own, transform)
    if device is not None or fitted.device.type != "cpu":
        fitted.to(fitted.device if device is None else device)
    return fitted


def _check_network(
    fitted: FittedDetector, record: Mapping[str, Any], probe: Mapping[str, Tensor], strict: bool
) -> None:
    """Refuse a network that is not the one that a detector was fitted on.

    Raises:
        FittedError: says what differs.
    """
    again = "Give the network that it was fitted on, or fit it again (`oodbench fit`)."
    differing = identity.differences(record, identity.network_record(fitted._own))
    if record["outputs"] != identity.OUTPUTS:
        differing.append("the code that reads its outputs")
    is_code = [text for text in differing if "code" in text]
    if differing and (strict or differing != is_code):
        raise FittedError(
            f"the network is not the one it was fitted on: {'; '.join(differing)}. {again}"
        )
    if probe and not identity.agrees(probe, fitted.probe()):
        raise FittedError(
            "the network is not the one it was fitted on: it gives other outputs for the same "
            f"images. {again}"
        )


def _numbers(scores: Tensor) -> np.ndarray:
    return scores.detach().cpu().double().numpy()


def _weights_of(network: nn.Module) -> dict[str, Tensor]:
    state = network.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _device_of(network: nn.Module) -> torch.device:
    tensors = [*network.parameters(), *network.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _detectors(device: torch.device) -> torch.device:
    """Where a detector works: float64, which many need, is not on every device."""
    return device if device.type in ("cpu", "cuda", "xpu") else torch.device("cpu")


def _at_detector(outputs: Outputs, device: torch.device) -> Outputs:
    target = _detectors(device)
    return outputs if target == device else outputs.to(target)

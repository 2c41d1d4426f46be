"""Contenders: networks that detectors are put on, and what it takes to put a detector on one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench import files, metrics
from oodbench.benchmark import Benchmark
from oodbench.caching import probe
from oodbench.caching.fingerprint import unknown, unknown_weights, weights_digest
from oodbench.checks import doubts
from oodbench.data.samples import MultimodalSamples, Samples
from oodbench.data.transforms import Preprocess, Transform, as_shown
from oodbench.detector import Detector
from oodbench.errors import (
    BadScoresError,
    MissingOutputError,
    OODBenchError,
    OptionError,
)
from oodbench.extract import (
    as_network,
    extract,
    extracted,
    fit_with_network,
    score_with_network,
)
from oodbench.hardware import Hardware
from oodbench.networks.backbones import load_classifier
from oodbench.networks.classifier import Classifier
from oodbench.networks.heads import checked
from oodbench.networks.models import as_module, copied
from oodbench.networks.normalisation import fed
from oodbench.outputs import Head, Outputs, to_numpy
from oodbench.registry import METHODS
from oodbench.reporting import Report, noting
from oodbench.runtime import isolation
from oodbench.runtime.process import undisturbed
from oodbench.settings import NetworkSettings
from oodbench.training.train import check_classes, is_frozen, method_name, plan, train


@dataclass
class Contender:
    """A network on a leaderboard: what it is, and how it came to be.

    Args:
        network: any PyTorch classifier, or a module with ``outputs`` and ``head``.
        method: how it was trained; ``"external"`` for a network that oodbench did not train.
        backbone: its architecture's name.
        recipe: the recipe's name, or None.
        recipe_options: the recipe's fields.
        seed: of its training.
        preprocess: its own preprocessing; None for the benchmark's.
        layer: the name of its linear head, if that cannot be found.
        trained_on: the ID training set, where oodbench trained it.
        claimed: the method that an external network's owner names.
        notes: what a reader of its rows has to know.
    """

    network: nn.Module
    method: str = "external"
    backbone: str = ""
    recipe: str | None = None
    recipe_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    preprocess: Transform | None = None
    layer: str | None = None
    trained_on: Samples | None = None
    claimed: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_external(self) -> bool:
        """Whether oodbench did not train it."""
        return self.method == "external"


@dataclass
class Seen:
    """Samples and what a network says of them.

    Args:
        samples: the samples.
        look: gives the outputs; called once, when they are asked for.
    """

    samples: Samples
    look: Callable[[], Outputs]

    @cached_property
    def outputs(self) -> Outputs:
        """What the network says of them, row by row; large arrays in files, as they are lent."""
        outputs = self.look()
        outputs.spill(files.cache_dir())
        return outputs


class Subject:
    """A contender at work: what it says of samples, and detectors fitted and scored on it.

    Args:
        contender: the network.
        preprocess: the benchmark's, for a contender without its own and a network without its own.
        hardware: where and how it runs.
        on_forward: called with the number of samples that went through the network.
        modality: of a network of several, the one whose predictions are scored; None for the
            joint ones.
        classes: how many ID classes there are, if that is known.
    """

    def __init__(
        self,
        contender: Contender,
        preprocess: Transform,
        hardware: Hardware,
        on_forward: Callable[[int], None] | None = None,
        modality: str | None = None,
        classes: int | None = None,
    ) -> None:
        self.network = as_network(contender.network, contender.layer, classes)
        self.classes = classes
        self.modality = modality
        own = getattr(self.network, "own_preprocess", None)
        self.preprocess = as_shown(contender.preprocess or own or preprocess, preprocess)
        self.hardware = hardware
        self.on_forward = on_forward
        self.notes: list[str] = []  # what a reader of the rows has to know of this network
        if contender.is_external:
            self._feed(given=contender.preprocess is not None or own is not None)

    def _feed(self, given: bool) -> None:
        """Plain pixels for a network that normalises images itself; see ``normalisation.fed``.

        A copy is looked at: what a network notes of the images that it sees has none of these.
        """
        preprocess = self.preprocess
        if not isinstance(preprocess, Preprocess):
            return
        try:
            network: Any = copied(self.network).eval()
        except OODBenchError:  # it will be told where that matters
            return
        if isinstance(network, Classifier):
            see = network.model
        elif hasattr(network, "outputs"):
            see = network.outputs
        else:
            see = lambda images: network.detect(list(images), 0.05)
        with undisturbed(), torch.inference_mode():
            self.preprocess, note = fed(
                lambda images: see(_like_weights(images, network)),
                preprocess,
                given,
                preprocess.size,
            )
        self.notes += [] if note is None else [note]

    def sees(self, samples: Samples) -> Seen:
        """Samples, with what the network says of them; from the cache if it saw them before."""
        return Seen(samples, lambda: self._look(samples))

    def _look(self, samples: Samples) -> Outputs:
        outputs = extract(
            self.network,
            samples,
            self.preprocess,
            hardware=self.hardware,
            on_forward=self.on_forward,
        )
        if self.modality is None:
            return outputs
        heads: dict[str, Head] = getattr(self.network, "modality_heads", dict)()
        return of_modality(outputs, self.modality, heads.get(self.modality))

    def saw(self, samples: Samples) -> bool:
        """Whether the cache has what the network says of these samples."""
        found = extracted(self.network, samples, self.preprocess, hardware=self.hardware)
        return found is not None

    def quality(self, test: Seen) -> dict[str, float | None]:
        """How well the network does on ID test samples what it was trained for."""
        outputs = test.outputs
        accuracy = low = high = None
        fits = self.classes is None or doubts.fits_classes(outputs, self.classes)
        decisions = outputs.decisions
        if decisions is not None and outputs.labels is not None and fits:
            accuracy = metrics.accuracy(decisions, outputs.labels)
            low, high = metrics.proportion_ci(round(accuracy * len(outputs)), len(outputs))
        return {"id_accuracy": accuracy, "id_accuracy_low": low, "id_accuracy_high": high}

    def weights(self, test: Seen) -> str:
        """What tells the network in rows: a digest of its weights, or that these are unknown."""
        if self.has_known_weights():
            return weights_digest(self.network)
        return unknown_weights(test.outputs.digest())

    def has_known_weights(self) -> bool:
        """Whether the network's weights can be read, and tell what it says."""
        trunk = getattr(self.network, "trunk", None)
        parts = [part for part in (self.network, trunk) if isinstance(part, nn.Module)]
        return not any(map(probe.varies, parts)) and unknown(self.network) is None

    def pictures(self, seen: Seen, scores: np.ndarray, folder: Path) -> None:
        """Pictures of scored samples; of whole images there are none."""

    def fit(self, detector: Detector, seen: Seen) -> None:
        """Fit a detector on ID samples or on their outputs, whichever it learns from, if at all."""
        if detector.needs_fit:
            outputs = seen.outputs  # not in the block: what looks at samples is none of its doing
            with isolation.kept(), isolation.lent(outputs, detector.label) as mine:
                detector.fit(mine)
        if detector.needs_fit_batches:
            _check_images(detector, seen.samples)
            with isolation.kept(self.network):
                fit_with_network(
                    detector, self.network, seen.samples, self.preprocess, hardware=self.hardware
                )

    def scores(self, detector: Detector, seen: Seen) -> np.ndarray:
        """OOD scores ``[N]`` of samples, from the network itself if the detector needs it.

        Raises:
            BadScoresError: scores that cannot be ranked; names the samples.
        """
        try:
            if "model" in detector.needs:
                _check_images(detector, seen.samples)
                with isolation.kept(self.network):
                    scores = score_with_network(
                        detector,
                        self.network,
                        seen.samples,
                        self.preprocess,
                        hardware=self.hardware,
                    )
            else:
                outputs = seen.outputs
                with isolation.kept(), isolation.lent(outputs, detector.label) as mine:
                    scores = detector.score(mine)
        except BadScoresError as error:
            raise BadScoresError(f"on {seen.samples.name}: {error}") from error
        return to_numpy(scores).astype(np.float64)


def _check_images(detector: Detector, samples: Samples) -> None:
    if isinstance(samples, MultimodalSamples):
        raise OptionError(
            f"{detector.label} looks into a network of images; samples of several modalities are "
            "scored by detectors that read outputs."
        )


@dataclass(frozen=True)
class Networks(NetworkSettings):
    """Which networks detectors are put on: yours, a checkpoint, or ones that are trained now.

    The fields, those of :class:`~oodbench.settings.NetworkSettings` among them, are arguments of
    :func:`oodbench.evaluate`, where they are told. The networks may be gone through more than once;
    each is trained, and told of, the first time only.
    """

    model: nn.Module | None = None
    preprocess: Transform | None = None
    layer: str | None = None
    _told: set[str] = field(default_factory=set, compare=False, repr=False)

    def are_given(self, benchmark: Benchmark, detectors: Sequence[Detector]) -> bool:
        """Whether there is one network, which is not trained here.

        A checkpoint is one of a classifier, unless the methods take it as a pre-trained network.
        """
        if self.model is not None or self.checkpoint is None:
            return self.model is not None
        return not all(map(is_frozen, self._methods(benchmark, detectors)))

    def _methods(self, benchmark: Benchmark, detectors: Sequence[Detector]) -> list[str]:
        """How the networks are had, each once."""
        names = (method_name(self.method or d.method, benchmark) for d in detectors)
        return list(dict.fromkeys(names))

    def contenders(
        self,
        benchmark: Benchmark,
        detectors: Sequence[Detector],
        reference: Samples,
        hardware: Hardware,
        report: Report,
        on_forward: Callable[[int], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Iterator[tuple[Contender, list[Detector]]]:
        """Each network with the detectors that are put on it; trained when its turn comes.

        Args:
            benchmark: whose ID set is learned.
            detectors: all of them; one network each, by the method that they were designed for.
            reference: ID samples whose classes the networks must know.
            hardware: where and how training runs.
            report: told what happens, line by line.
            on_forward: called with the number of samples that a frozen network saw.
            warn: told what a reader of the scores has to know of the training images; None for
                ``report``.

        Raises:
            DataError: the ID training set has other classes than the reference.
            OODBenchError: what planning, training or loading raises.
        """
        own = _own_preprocess(benchmark, self.preprocess, self.mean, self.std)
        if self.are_given(benchmark, detectors):
            yield self._given(benchmark, len(reference.classes), own, report), list(detectors)
            return
        frozen = [name for name in self._methods(benchmark, detectors) if is_frozen(name)]
        if own is not None and frozen:
            raise OptionError(
                f"{frozen[0]} takes a network with the preprocessing that it was trained in, which "
                "preprocess, mean and std cannot change. Leave them out; another size of the "
                "images: `recipe_options` input_size=N."
            )
        with noting(warn or (lambda text: report(f"warning: {text}"))):
            runs = [
                plan(
                    benchmark,
                    name,
                    recipe=self.recipe,
                    backbone=self.backbone,
                    seed=seed,
                    overrides=self.recipe_options,
                    checkpoint=self.checkpoint,
                    precision=hardware.precision,
                )
                for seed in self.seeds
                for name in self._methods(benchmark, detectors)
            ]
        for run in runs:
            check_classes(run.samples, reference)
        for run in runs:
            is_new = run.key not in self._told
            self._told.add(run.key)
            retrain = self.retrain and is_new
            state = "trained already" if run.weights.is_file() and not retrain else "training"
            if is_new:
                effort = run.recipe.effort(f"{len(run.samples)} images of {run.samples.name}")
                if run.start is not None:
                    before = run.start
                    first = "trained already" if before.weights.is_file() else "trained first"
                    effort += f", after {before.method}, recipe {before.recipe_name} ({first})"
                report(
                    f"{state}: {run.method}, recipe {run.recipe_name}, {run.backbone}, "
                    f"seed {run.seed}, {effort}"
                )
            network = train(run, hardware, retrain=retrain, on_forward=on_forward)
            if is_new and (found := getattr(network, "found", None)):
                report(f"{run.method}: {found}")
            file = f" ({Path(run.checkpoint).name})" if run.checkpoint else ""
            contender = Contender(
                network,
                method=run.method,
                backbone=run.backbone + file,
                recipe=run.recipe_name,
                recipe_options=dataclasses.asdict(run.recipe),
                seed=run.seed,
                preprocess=own,
                trained_on=run.samples,
                notes=METHODS.get(run.method).caveats(run.recipe_name, run.checkpoint),
            )
            yield (
                contender,
                [
                    d
                    for d in detectors
                    if method_name(self.method or d.method, benchmark) == run.method
                ],
            )

    def _given(
        self, benchmark: Benchmark, classes: int, preprocess: Transform | None, report: Report
    ) -> Contender:
        model = self.model
        if model is None:
            shape = benchmark.preprocess
            if benchmark.task != "classification" or not isinstance(shape, Preprocess):
                raise OptionError(
                    f"a checkpoint is one of an image classifier, which {benchmark.name} is not "
                    "for. Give the network itself in Python: oodbench.evaluate(model, ...)."
                )
            if self.backbone is None or self.checkpoint is None:
                raise OptionError('a checkpoint needs the network\'s name: `backbone="resnet20"`.')
            model, metadata = load_classifier(
                self.backbone, self.checkpoint, classes, shape.channels
            )
            if "entries" in metadata:
                self._tell(metadata["entries"], report)
            if preprocess is None and {"mean", "std"} <= set(metadata):
                mean, std = (
                    tuple(float(v) for v in metadata[name].split(",")) for name in ("mean", "std")
                )
                preprocess = dataclasses.replace(shape, mean=mean, std=std)
                self._tell(f"normalisation of the checkpoint: mean {mean}, std {std}", report)
        return Contender(
            model,
            backbone=self.backbone or "",
            preprocess=preprocess,
            layer=self.layer,
            seed=self.seeds[0],
            claimed=self.method,
        )

    def _tell(self, text: str, report: Report) -> None:
        """Report once what may be found out several times."""
        if text not in self._told:
            report(text)
        self._told.add(text)

    def __post_init__(self) -> None:
        """Say at once what a model is that is none."""
        if self.model is not None:
            object.__setattr__(self, "model", as_module(self.model))


def _own_preprocess(
    benchmark: Benchmark,
    preprocess: Transform | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Transform | None:
    if mean is None and std is None:
        return preprocess
    base = preprocess or benchmark.preprocess
    if not isinstance(base, Preprocess):
        raise OptionError("mean and std change an oodbench Preprocess; yours is another callable.")
    return dataclasses.replace(base, mean=tuple(mean or base.mean), std=tuple(std or base.std))


def _like_weights(images: Tensor, network: nn.Module) -> Tensor:
    weight = next((p for p in network.parameters() if p.is_floating_point()), images)
    return images.to(weight.device, weight.dtype)


def of_modality(outputs: Outputs, modality: str, head: Head | None = None) -> Outputs:
    """What a network says by one modality alone: its features, logits and head.

    Args:
        outputs: of a network of several, with ``features/<name>`` and ``logits/<name>``.
        modality: the name.
        head: the layer from the features of that modality to its logits.

    Raises:
        MissingOutputError: its predictions by that modality were never trained.
        OptionError: it says nothing by that modality; names those that there are.
    """
    name = f"logits/{modality}"
    if name not in outputs.extra and name in outputs.notes:
        why = outputs.notes[name]
        raise MissingOutputError(
            f"there are no predictions by the modality {modality!r} alone: {why}"
        )
    if name not in outputs.extra:
        known = [key.partition("/")[2] for key in outputs.extra if key.startswith("logits/")]
        raise OptionError(
            f"the network has no predictions by the modality {modality!r} alone; "
            f"those that it has: {', '.join(known) or 'none'}."
        )
    extra = {key: value for key, value in outputs.extra.items() if key != "log_probabilities"}
    found = Outputs(logits=outputs.extra[name], labels=outputs.labels, extra=extra)
    if f"features/{modality}" in outputs.extra:
        found = replace(found, features=outputs.extra[f"features/{modality}"])
        some = found[: doubts.LOOKED_AT]
        head, notes = checked(head, some.features, some.logits, f"head by {modality}")
        found = replace(found, head=head, notes=notes)
    return found


def learns(detector: Detector) -> bool:
    """Whether it learns from ID samples, by their outputs or with the network at hand."""
    return detector.needs_fit or detector.needs_fit_batches

"""``oodbench.fit``: a detector on a network and ID data, with thresholds from held-out ID data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from oodbench import files, metrics
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.checks.classes import check_classes, id_samples
from oodbench.contenders import Networks
from oodbench.data.samples import Samples, Subset, image_folder, positions
from oodbench.data.transforms import Preprocess, Transform
from oodbench.dataset import DatasetSpec, resolve_dataset
from oodbench.deploy import identity
from oodbench.deploy.calibration import Calibration, thresholds_of
from oodbench.deploy.fitted import FittedDetector
from oodbench.detector import Detector
from oodbench.errors import MissingDataError, OptionError
from oodbench.hardware import Hardware
from oodbench.networks.models import own_preprocess_of
from oodbench.reporting import Report, warnings_to
from oodbench.runtime.process import undisturbed
from oodbench.selection import create_detectors
from oodbench.tasks.runner import fit_split, learns
from oodbench.tasks.task import task_of

OWN = "own"
"""The name of an ID set that is given as samples."""

TENTH = 10
"""One in so many training images calibrates, where there are no others."""


@undisturbed()
def fit(
    detector: str | Detector,
    model: nn.Module | None = None,
    id: str | None = None,  # noqa: A002
    *,
    benchmark: str | Benchmark | None = None,
    train: str | Path | Samples | None = None,
    calibration: str | Samples | None = None,
    tpr: float | Sequence[float] | None = None,
    fpr_budget: float | None = None,
    method: str | None = None,
    recipe: str | None = None,
    recipe_options: dict[str, Any] | None = None,
    backbone: str | None = None,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    retrain: bool = False,
    preprocess: Transform | None = None,
    layer: str | None = None,
    hardware: Hardware | None = None,
    report: Report | None = None,
    **network: Any,
) -> FittedDetector:
    """Fit a detector on a network, and set its thresholds on held-out ID data.

    The detector learns from the ID training split (or the split that it names in ``fit_split``).
    Thresholds and p-values come from ID images that neither network nor detector have learned from:
    the ID set's ``val`` split where none of its images is in ``train``, else its ``test`` split.

    Args:
        detector: its name, or a :class:`Detector`.
        model: any PyTorch classifier; None for ``checkpoint``, or to train one.
        id: the ID set, whose default benchmark says how images are prepared.
        benchmark: another protocol, or a :class:`Benchmark`.
        train: in place of ``id``: ID training images, as ``Samples`` or a folder with a subfolder
            for each class.
        calibration: held-out ID images: a split of the ID set (``"val"``, ``"test"``), a dataset
            (``"folder:PATH"``), or ``Samples``.
        tpr: share of ID images that a threshold keeps, or several; 0.95 for None.
        fpr_budget: in its place, a share of ID images that the threshold flags at most, with a
            confidence of 95 % over calibration sets.
        method: how to train; None for the method that the detector was designed for.
        recipe: the method's recipe.
        recipe_options: fields of the recipe to change.
        backbone: the network to train, or of the checkpoint.
        checkpoint: a trained classifier's weights.
        seed: of the training.
        retrain: train although a finished run is there.
        preprocess: the network's own preprocessing.
        layer: the name of the model's linear head, if it cannot be found.
        hardware: where and how networks run.
        report: told what happens, line by line.
        network: further arguments of :class:`~oodbench.contenders.Networks`, such as ``mean``.

    Returns:
        The fitted detector; ``save`` writes it to a folder.

    Raises:
        OptionError: options that contradict each other, a detector that cannot score such samples,
            or too few held-out images for a threshold.
        MissingDataError: the ID set is not here.
        FittedError: pixels or boxes are to be scored, which is not done one by one.
    """
    say = report or (lambda _: None)
    chosen = _benchmark(id, benchmark, train, preprocess, model)
    task = task_of(chosen)
    if not task.rows_are_samples or not task.runner.keeps_outputs:
        raise OptionError(
            f"a fitted detector scores whole samples, and {chosen.name} scores {task.unit}. Choose "
            "an ID set of images; `oodbench eval` scores the others."
        )
    (made,) = create_detectors(detector, method, chosen)
    task.check(chosen, [made])
    networks = Networks(
        model,
        method=method,
        recipe=recipe,
        recipe_options=recipe_options,
        backbone=backbone,
        checkpoint=checkpoint,
        seeds=(seed,),
        retrain=retrain,
        preprocess=preprocess,
        layer=layer,
        **network,
    )
    networks.check(chosen, [made])
    machine = hardware or Hardware()
    with warnings_to(lambda text: say(f"warning: {text}")):
        learned, held = _id_data(chosen, made, calibration, say)
        ((contender, _),) = networks.contenders(chosen, [made], held, machine, say)
        runner = task.start(contender, chosen, machine, classes=held.classes)
        for text in runner.notes:
            say(f"warning: {text}")
        source = identity.source_of(networks, contender, len(held.classes), chosen.preprocess)
        trained = runner.outputs_of(learned)
        if learns(made):
            say(f"{made.label} learns from {len(learned):,} images of {learned.name}")
            runner.fit(made, trained)
        calibrating = runner.outputs_of(held)
        for text in runner.doubts(calibrating, [made]):
            say(f"warning: {text}")
        scores = Calibration(runner.scores(made, calibrating))
    limits = thresholds_of(scores, tpr, fpr_budget)
    quality = runner.quality(calibrating)
    fitted = FittedDetector(
        made,
        runner.network,
        runner.preprocess,
        scores,
        limits,
        held.classes,
        {
            "id": chosen.id.name,
            "benchmark": chosen.name,
            "backbone": contender.backbone or contender.name,
            "method": contender.method,
            "learned_from": _told(learned) if learns(made) else None,
            "calibrated_on": _told(held),
            "id_accuracy": quality.get("id_accuracy"),
        },
        source,
    )
    for one in limits:
        say(_threshold_line(fitted, one.value, len(held), held.name))
    return fitted


def _threshold_line(fitted: FittedDetector, value: float, n: int, name: str) -> str:
    flagged = int((fitted.calibration.scores > value).sum())
    low, high = metrics.proportion_ci(flagged, n)
    return (
        f"threshold {value:.6g}: flags {100 * flagged / n:.2f} % of the {n:,} images of {name} "
        f"(95 % interval {100 * low:.2f} to {100 * high:.2f} %)"
    )


def _told(samples: Samples) -> dict[str, Any]:
    return {"name": samples.name, "n": len(samples), "fingerprint": samples.fingerprint}


def _benchmark(
    id_name: str | None,
    benchmark: str | Benchmark | None,
    train: str | Path | Samples | None,
    preprocess: Transform | None,
    model: nn.Module | None,
) -> Benchmark:
    """What says how images are prepared, and where the ID splits are."""
    if train is None:
        return get_benchmark(id_name, benchmark)
    if id_name is not None or benchmark is not None:
        raise OptionError("give train=..., or an ID set by its name (`id`), not both.")
    if isinstance(train, Samples):
        samples = train
    else:
        root = files.user_path(train)
        samples = image_folder(str(root), root)
    shown = preprocess or (None if model is None else own_preprocess_of(model))
    if not isinstance(shown, Preprocess):
        raise OptionError(
            "images that are given as train=... say nothing of how the network sees them: give "
            "preprocess=oodbench.Preprocess(size, mean, std)."
        )

    def load(split: str) -> Samples:
        if split != "train":
            raise MissingDataError(f"{samples.name} has no {split} split.")
        return samples

    spec = DatasetSpec(OWN, load, ("train",), "given as samples", samples.name)
    return Benchmark(OWN, spec, near=(), far=(), preprocess=shown)


def _id_data(
    benchmark: Benchmark, detector: Detector, calibration: str | Samples | None, report: Report
) -> tuple[Samples, Samples]:
    """What the detector learns from, and what thresholds come from; no image is in both.

    Raises:
        MissingDataError: there are no such images.
        DataError: they have other classes.
        OptionError: nothing is left to calibrate on.
    """
    split = fit_split(detector)
    learned = id_samples(benchmark, split)
    if calibration is not None:
        held = _named(benchmark, calibration)
        if len(held.classes) == 1 < len(learned.classes):  # a folder of images without classes
            held = _Unlabelled(held, learned.classes)
        else:
            check_classes(held, learned)
        return _apart(learned, held, report)
    for name in ("val", "test"):
        if name == split or name not in benchmark.id.splits:
            continue
        try:
            held = benchmark.id.load(name)
        except MissingDataError:
            if name == "val":
                continue
            raise
        check_classes(held, learned)
        if name == "val" and _overlap(benchmark, held):
            report(
                f"{held.name} is a part of the training images, which the network knows; "
                "thresholds come from the test split"
            )
            continue
        return learned, held
    return _divided(learned, report)


def _named(benchmark: Benchmark, calibration: str | Samples) -> Samples:
    if isinstance(calibration, Samples):
        return calibration
    if calibration in benchmark.id.splits:
        return benchmark.id.load(calibration)
    spec = resolve_dataset(calibration, known=list(benchmark.id.splits))
    return spec.load(spec.splits[-1])


def _overlap(benchmark: Benchmark, held: Samples) -> bool:
    """Whether most of some images are among those that the network was trained on."""
    train = benchmark.id.load("train")
    return bool((positions(held, train) >= 0).mean() > 0.5)


def _apart(learned: Samples, held: Samples, report: Report) -> tuple[Samples, Samples]:
    """The detector's images without those that calibrate."""
    shared = positions(learned, held) >= 0
    if not shared.any():
        return learned, held
    report(
        f"warning: {int(shared.sum()):,} images of {held.name} are in {learned.name} as well: the "
        "detector does not learn from them, but a network that was trained on them knows them, and "
        "more new ID images will be flagged than asked for"
    )
    if shared.all():
        raise OptionError(
            f"{held.name} holds all of {learned.name}: nothing is left to learn from."
        )
    return Subset(learned, np.flatnonzero(~shared), f"{learned.name}, the rest"), held


def _divided(learned: Samples, report: Report) -> tuple[Samples, Samples]:
    """A tenth of the training images for thresholds, by content, and the rest."""
    is_held = learned.digests % np.uint64(TENTH) == 0
    if not is_held.any() or is_held.all():
        raise OptionError(
            f"{learned.name} has {len(learned)} images, too few to hold some out: give "
            "`calibration`, ID images that the network has not seen."
        )
    report(
        f"warning: {learned.name} has no held-out images: a tenth of it ({int(is_held.sum()):,}) "
        "sets the thresholds. If the network was trained on them, more new ID images will be "
        "flagged than asked for: give `calibration`, ID images that it has not seen"
    )
    return (
        Subset(learned, np.flatnonzero(~is_held), f"{learned.name}, the rest"),
        Subset(learned, np.flatnonzero(is_held), f"{learned.name}, a tenth"),
    )


class _Unlabelled(Subset):
    """ID images whose classes are not known; they set thresholds all the same."""

    def __init__(self, samples: Samples, classes: Sequence[str]) -> None:
        super().__init__(samples, np.arange(len(samples)))
        self.labels = np.zeros(len(samples), dtype=np.int64)
        self.classes = tuple(classes)

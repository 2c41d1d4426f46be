"""Task: what is scored (an image, a pixel, a predicted box …), and all that depends on it.

A task is found by the name that a benchmark gives (``Benchmark.task``), among the entry points of
the group ``oodbench.tasks`` and what ``register_task`` decorates. The evaluator, tuning and
comparisons ask it, so a task that is written once has all of them. This class scores whole samples;
a subclass overrides what is different where it scores something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn
from torch.utils.data import Dataset

from oodbench import files, metrics
from oodbench.benchmark import Benchmark
from oodbench.checks import doubts, sanity
from oodbench.data.samples import Samples
from oodbench.data.transforms import Transform
from oodbench.detector import Detector
from oodbench.errors import OptionError, PluginError
from oodbench.extract import as_network
from oodbench.hardware import Hardware
from oodbench.method import Method
from oodbench.networks.models import outputs_of
from oodbench.options import build
from oodbench.outputs import Outputs
from oodbench.registry import DETECTORS, METHODS, STANDARD_METHOD, TASKS
from oodbench.results.rows import Row, with_columns
from oodbench.tasks.contender import Contender
from oodbench.tasks.runner import NetworkRunner
from oodbench.training.epochs import BatchedViews, Views, as_it_is


@dataclass(frozen=True)
class Task:
    """What is scored: whole samples, each of one class.

    The fields of a subclass are its options (``--task-set NAME=VALUE``); a benchmark may set them
    (``Benchmark.task_options``).

    Attributes:
        name: the registered one.
        unit: what is counted, in the plural: the word for ``n_id`` and ``n_ood`` on pages.
        id_unit: the same for ID alone.
        scored: begins a sentence, ``"Pixels are scored"``.
        quality: the column that says how well a network does what it was trained for, and its name
            on pages.
        columns: columns of rows that other tasks do not have.
        intervals_over: what a page says that intervals are over, such as ``"images"``.
        no_intervals: why figures have no intervals; "" where they have.
        runner: the class of a network at work.
        is_classified: whether a network gives one class to each sample, so that its accuracy says
            whether it sees what it was trained on.
        keeps_size: whether samples are scored in their own size, whatever the preprocessing says.
        draws: whether pictures show what was scored.
        draws_id: whether the ID test set is drawn as well.
        rows_are_samples: whether each row of outputs is one of the benchmark's samples.
        methods_of: the name of the task whose training methods it uses.
    """

    name: ClassVar[str] = ""
    unit: ClassVar[str] = "images"
    id_unit: ClassVar[str] = "images"
    scored: ClassVar[str] = "Samples are scored"
    quality: ClassVar[tuple[str, str]] = ("id_accuracy", "ID accuracy")
    columns: ClassVar[tuple[str, ...]] = ()
    intervals_over: ClassVar[str] = "images"
    no_intervals: ClassVar[str] = ""
    runner: ClassVar[type[NetworkRunner]] = NetworkRunner
    is_classified: ClassVar[bool] = True
    keeps_size: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    draws_id: ClassVar[bool] = False
    rows_are_samples: ClassVar[bool] = True
    methods_of: ClassVar[str] = "classification"

    # --- before data is read or anything is trained ---------------------------------------------

    def check(self, benchmark: Benchmark, detectors: Sequence[Detector] = ()) -> None:
        """Check that the task's options suit a benchmark, and that detectors can score it.

        Raises:
            OptionError: an option that the benchmark cannot have, or a detector that cannot score
                here: why, and which can.
        """
        for detector in detectors:
            self.check_detector(detector)

    def check_detector(self, detector: Detector) -> None:
        """Check that a detector can score here.

        Raises:
            OptionError: it cannot: why, and which detectors can.
        """
        reason = self.why_not(type(detector))
        if reason is not None:
            able = [name for name in DETECTORS.names() if self._can_score(name)]
            listed = f"{', '.join(able[:24])}{' …' * (len(able) > 24)}"
            raise OptionError(f"{detector.label} {reason}. {self.scored} by: {listed}.")

    def _can_score(self, name: str) -> bool:
        try:
            return self.why_not(DETECTORS.get(name)) is None
        except PluginError:
            return False

    def why_not(self, detector: type[Detector]) -> str | None:
        """Why a detector cannot score here, a predicate (``"needs …"``); None if it can."""
        return None

    def left_out(self, names: Sequence[str]) -> str | None:
        """What is to be said of the detectors among ``names`` that cannot score here, if any."""
        by_reason: dict[str, list[str]] = {}
        for name in names:
            reason = self.why_not(DETECTORS.get(name))
            if reason is not None:
                by_reason.setdefault(reason, []).append(name)
        if not by_reason:
            return None
        reasons = "; ".join(f"{', '.join(who)} ({reason})" for reason, who in by_reason.items())
        return f"left out of all detectors: {reasons}."

    def pictures_in(self, folder: str | Path, benchmark: Benchmark) -> Path:
        """The folder for pictures of what is scored, which is made when there is one.

        Raises:
            OptionError: the task draws none.
            StorageError: the folder cannot be written to.
        """
        path = files.user_path(folder)
        files.writable_dir(path, "Choose a folder that you may write.", make=False)
        if not self.draws:
            raise OptionError(
                f"pictures show pixels and boxes that were scored; {benchmark.name} scores "
                "whole samples, of which none are drawn. Leave `pictures` out."
            )
        return path

    # --- training -------------------------------------------------------------------------------

    def method(self, name: str) -> str:
        """The registered name of the method that stands for one here.

        That is the method itself where it trains networks of this task, else the one that says so:
        ``Method.stands_for`` is the name and ``Method.task`` this task.

        Raises:
            UnknownNameError: no such method, here or elsewhere.
            OptionError: the method trains networks of another task, and none stands for it.
        """
        if name in METHODS:
            cls = METHODS.get(name)
            if cls.task == self.methods_of:
                return name
        able = self.methods()
        for other in able:
            if METHODS.get(other).stands_for == name:
                return other
        cls = METHODS.get(name)
        raise OptionError(
            f"the method {name} trains networks of {cls.task}, not of {self.methods_of}. "
            f"Methods of {self.methods_of}: {', '.join(able) or 'none'}."
        )

    def methods(self) -> list[str]:
        """Names of the methods that train networks of this task."""
        return [name for name in _methods() if METHODS.get(name).task == self.methods_of]

    def examples(
        self, method: Method, samples: Samples, preprocess: Any, seed: int
    ) -> tuple[Dataset[Any], Callable[[Sequence[Any]], Any] | None]:
        """What a method is trained on, and what makes a batch of it (None for torch's own way)."""
        batched = method.batched_augmentation(preprocess, seed)
        if batched is not None:
            return BatchedViews(samples, batched), as_it_is
        views = Views(
            samples,
            method.augmentation(preprocess),
            method.views,
            seed,
            method.beside,
            method.outliers_per_image,
            as_bytes=method.receives(preprocess),
        )
        return views, None

    # --- networks -------------------------------------------------------------------------------

    def adapt(self, network: nn.Module, layer: str | None, classes: int | None) -> nn.Module:
        """A user's network as one that says what the task reads, with ``outputs`` and ``head``.

        Args:
            network: any network, or one that has these.
            layer: the name of its linear head, where that cannot be found.
            classes: how many ID classes there are, where that is known.
        """
        return as_network(network, layer, classes)

    def call(self, network: nn.Module) -> Callable[[Any], Any]:
        """What runs an adapted network on a batch of images."""
        return outputs_of(network)

    def samples(self, samples: Samples) -> Samples:
        """The samples that are scored, where these are not the benchmark's own.

        A task that overrides this says ``rows_are_samples = False``.
        """
        return samples

    def view(self, outputs: Outputs, network: nn.Module) -> Outputs:
        """The part of a network's outputs that is scored."""
        return outputs

    def start(
        self,
        contender: Contender,
        benchmark: Benchmark,
        hardware: Hardware,
        on_forward: Callable[[int], None] | None = None,
        classes: Sequence[str] = (),
    ) -> NetworkRunner:
        """A network at work on a benchmark."""
        return self.runner(self, contender, benchmark, hardware, on_forward, classes)

    def input_description(self, preprocess: Transform) -> str:
        """A network's input in one line of words."""
        return sanity.described(preprocess, keeps_size=self.keeps_size)

    def doubts(
        self,
        outputs: Outputs,
        classes: Sequence[str],
        detectors: Sequence[Detector],
        contender: Contender,
    ) -> list[str]:
        """What is doubtful of detectors' figures on such outputs.

        Raises:
            OptionError: they cannot be logits of the classes.
        """
        who = contender.name
        if not contender.is_external or not self.is_classified:
            return list(doubts.of_probabilities(outputs, detectors, who))
        doubts.check_outputs(outputs, len(classes), who)
        return list(doubts.of_outputs(outputs, len(classes), detectors, who))

    # --- figures --------------------------------------------------------------------------------

    def measure(
        self, id_scores: np.ndarray, ood_scores: np.ndarray, *, with_intervals: bool = True
    ) -> Row:
        """Figures of an OOD set: metrics, their intervals, and counts, as columns of a row."""
        figures: Row = {"n_id": len(id_scores), "n_ood": len(ood_scores)}
        figures = with_columns(figures, metrics.all_metrics(id_scores, ood_scores))
        if with_intervals:
            figures = with_columns(figures, metrics.all_intervals(id_scores, ood_scores))
        return figures

    def row(self) -> Row:
        """Columns that all rows have in common: the options of the task."""
        return {}


def _methods() -> list[str]:
    """Names of the methods that can be loaded."""
    names = []
    for name in METHODS.names():
        try:
            METHODS.get(name)
        except PluginError:  # a damaged package must not hide the others' methods
            continue
        names.append(name)
    return names


def task_of(benchmark: Benchmark, options: Mapping[str, Any] | None = None) -> Task:
    """The task of a benchmark, with its options.

    Args:
        benchmark: the benchmark.
        options: of the task, over those of the benchmark; values may be text.

    Raises:
        UnknownNameError: no such task is installed.
        OptionError: the task has no such option, or not such a value.
    """
    cls = TASKS.get(benchmark.task)
    asked = {name: value for name, value in (options or {}).items() if value is not None}
    who = f"task {cls.name} of {benchmark.name}"
    return build(cls, who, {**benchmark.task_options, **asked})


def method_of(benchmark: Benchmark, name: str) -> str:
    """The registered name of the method that stands for one on a benchmark.

    Raises:
        UnknownNameError: there is no such method.
        OptionError: it trains networks of another task.
    """
    standard = benchmark.standard_method if name == STANDARD_METHOD else name
    return task_of(benchmark).method(standard)

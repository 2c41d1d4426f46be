"""Each check of tasks can fail: a broken task for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from oodbench import Benchmark, Detector, Samples
from oodbench.data.samples import Subset
from oodbench.errors import OptionError
from oodbench.registry import TASKS
from oodbench.tasks.task import Task
from oodbench.testing import drawn_benchmark, task_checks


@dataclass(frozen=True)
class Sound(Task):
    """Whole samples are scored."""


@dataclass(frozen=True)
class Undocumented(Task):
    pass


Undocumented.__doc__ = None


@dataclass(frozen=True)
class Uncounted(Task):
    """Does not say what is counted."""

    unit: ClassVar[str] = ""


@dataclass(frozen=True)
class FullStop(Task):
    """Ends a sentence that it should begin."""

    scored: ClassVar[str] = "Samples are scored."


class NoDataclass(Task):
    """Is no dataclass."""


@dataclass(frozen=True)
class NoJSON(Task):
    """Has an option that JSON cannot hold."""

    ids: frozenset[int] = field(default=frozenset({1}))


@dataclass(frozen=True)
class Sentence(Task):
    """Gives reasons as sentences."""

    def why_not(self, detector: type[Detector]) -> str | None:
        return "It needs the network." if "model" in detector.needs else None


@dataclass(frozen=True)
class NoneCan(Task):
    """Lets no detector score."""

    def why_not(self, detector: type[Detector]) -> str | None:
        return "scores something else"


@dataclass(frozen=True)
class Lenient(Task):
    """Has a reason, and refuses nothing."""

    def why_not(self, detector: type[Detector]) -> str | None:
        return "looks into a network" if "model" in detector.needs else None

    def check(self, benchmark: Benchmark, detectors: Sequence[Detector] = ()) -> None:
        pass


@dataclass(frozen=True)
class Terse(Lenient):
    """Refuses without a word on what can."""

    def check(self, benchmark: Benchmark, detectors: Sequence[Detector] = ()) -> None:
        for detector in detectors:
            if self.why_not(type(detector)):
                raise OptionError(f"{detector.label}: no.")


@dataclass(frozen=True)
class Reading(Task):
    """Reads samples to see whether it suits."""

    def check(self, benchmark: Benchmark, detectors: Sequence[Detector] = ()) -> None:
        benchmark.id.load("test")


@dataclass(frozen=True)
class Untrained(Task):
    """Has no methods."""

    methods_of: ClassVar[str] = "shapes"


@dataclass(frozen=True)
class Swapped(Task):
    """Takes ID for OOD."""

    def measure(self, id_scores: Any, ood_scores: Any, **options: Any) -> Any:
        return super().measure(ood_scores, id_scores, **options)


@dataclass(frozen=True)
class Halved(Task):
    """Scores half of the samples, and does not say that they are others."""

    def samples(self, samples: Samples) -> Samples:
        return Subset(samples, np.arange(len(samples) // 2))


class _Turned(Subset):
    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        return self.samples.fingerprint


@dataclass(frozen=True)
class Alike(Task):
    """Scores half of the samples under the fingerprint of all."""

    rows_are_samples: ClassVar[bool] = False

    def samples(self, samples: Samples) -> Samples:
        return _Turned(samples, np.arange(len(samples) // 2))


@dataclass(frozen=True)
class NoQuality(Task):
    """Names a figure of networks that no row has."""

    columns: ClassVar[tuple[str, ...]] = ("id_shape",)
    quality: ClassVar[tuple[str, str]] = ("id_shape", "shape accuracy")


@dataclass(frozen=True)
class OwnColumn(Task):
    """Has a column that it does not name."""

    def row(self) -> Any:
        return {"corner": 1}


@dataclass(frozen=True)
class Noisy(Task):
    """Measures something else each time."""

    def measure(self, id_scores: Any, ood_scores: Any, **options: Any) -> Any:
        noise = np.random.default_rng().normal(0, 10 * (1 + id_scores.std()), len(id_scores))
        return super().measure(id_scores + noise, ood_scores, **options)


BROKEN: dict[str, tuple[type[Task], ...]] = {
    "check_words": (Undocumented, Uncounted, FullStop),
    "check_options": (NoDataclass, NoJSON),
    "check_why_not": (Sentence, NoneCan),
    "check_refusal": (Lenient, Terse),
    "check_reads_nothing": (Reading,),
    "check_methods": (Untrained,),
    "check_measure": (Swapped,),
    "check_samples": (Halved, Alike),
    "check_evaluates": (NoQuality, OwnColumn),
    "check_same_figures": (Noisy,),
}
CHECKS = {check.__name__: check for check in task_checks()}
NAME = "task-under-check"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    TASKS.unregister(NAME)


def registered(cls: type[Task]) -> Benchmark:
    TASKS.unregister(NAME)
    TASKS.register(NAME)(cls)
    return drawn_benchmark(NAME)


def test_there_is_a_broken_one_for_each_check() -> None:
    assert set(BROKEN) == set(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_checks_can_fail(name: str) -> None:
    for broken in BROKEN[name]:
        with pytest.raises(AssertionError, match=NAME):
            CHECKS[name](registered(broken))


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_one_passes(name: str) -> None:
    CHECKS[name](registered(Sound))

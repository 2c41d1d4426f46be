"""Which detectors an evaluation takes: by name, with their options, or all that can score."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

from oodbench.benchmark import Benchmark
from oodbench.detector import Detector, create_detector, id_options
from oodbench.errors import OODBenchWarning, OptionError, PluginError
from oodbench.registry import DETECTORS, METHODS
from oodbench.reporting import own_failure, reason_of
from oodbench.tasks.task import task_of


def create_detectors(
    detectors: Sequence[str | Detector] | str | Detector,
    method: str | None,
    benchmark: Benchmark,
    preset: str | None = None,
) -> list[Detector]:
    """Detector objects of names (with their options there) and of objects, which pass.

    Raises:
        OptionError: there are none.
        UnknownNameError: the benchmark has no such preset.
    """
    listed = [detectors] if isinstance(detectors, str | Detector) else list(detectors)
    created = [
        create_detector(d, **options_on(benchmark, d, preset)) if isinstance(d, str) else d
        for d in expanded(listed, method, benchmark)
    ]
    if not created:
        raise OptionError("name at least one detector.")
    return created


def options_on(benchmark: Benchmark, detector: str, preset: str | None = None) -> dict[str, Any]:
    """A detector's options on a benchmark: the ID set's own, and over them those of a preset.

    Raises:
        UnknownNameError: the benchmark has no such preset.
    """
    chosen = benchmark.preset(preset).get(detector, {})
    return {**id_options(detector, benchmark.id.name), **chosen}


def expanded(
    detectors: Sequence[str | Detector], method: str | None, benchmark: Benchmark | None = None
) -> list[str | Detector]:
    """The detectors, with ``"all"`` spelled out.

    These are all that suit the method, or ``ce``, and can score what the benchmark asks for.
    Of all, those of damaged packages are left out, with a warning.
    """
    spelled: list[str | Detector] = []
    for detector in detectors:
        if detector == "all":
            spelled += [
                name
                for name in _all(method)
                if benchmark is None or task_of(benchmark).why_not(DETECTORS.get(name)) is None
            ]
        else:
            spelled.append(detector)
    return list(dict.fromkeys(spelled)) if all(isinstance(d, str) for d in spelled) else spelled


def left_out_of(
    detectors: Sequence[str | Detector] | str | Detector, method: str | None, benchmark: Benchmark
) -> str | None:
    """What is to be said of what ``"all"``, if it is among the detectors, does not stand for."""
    listed = [detectors] if isinstance(detectors, str | Detector) else list(detectors)
    asks_for_all = any(isinstance(d, str) and d == "all" for d in listed)
    return task_of(benchmark).left_out(_all(method)) if asks_for_all else None


def _all(method: str | None) -> list[str]:
    return [name for name in DETECTORS.names() if _is_of_all(name, method)]


def _is_of_all(name: str, method: str | None) -> bool:
    try:
        detector: type[Detector] = DETECTORS.get(name)
        if not _fits(detector, method):
            return False
        has_text = method is not None and "text" in (METHODS.get(method).gives or ())
        if "text" in detector.needs and not has_text:  # few networks read text
            return False
        with contextlib.suppress(OptionError):  # it has options without a default
            create_detector(name)
    except BaseException as error:  # one broken plug-in must not end the others' evaluation
        reason = reason_of(own_failure(error))
        text = reason if isinstance(error, PluginError) else f"the detector {name!r}: {reason}"
        # of this line, so that Python tells it once however often it is asked
        warnings.warn(f"left out of all: {text}", OODBenchWarning, stacklevel=1)
        return False
    return True


def _fits(detector: type[Detector], method: str | None) -> bool:
    """Whether a detector was designed for a method, or for one whose detectors fit it as well."""
    if method is None or method == Detector.method:
        return detector.method == Detector.method
    cls = METHODS.get(method)
    known = detector.method in (method, *cls.fits_detectors_of)
    return known and (cls.gives is None or detector.needs <= cls.gives)

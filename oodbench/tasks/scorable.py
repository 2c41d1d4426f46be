"""Which detectors can score what a benchmark asks for; told before data is read.

A detector says what it reads (``needs``) and whether it learns; what there is to read depends on
what is scored: an image, a pixel, a predicted box, a sample of several modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oodbench.benchmark import Benchmark
from oodbench.data.transforms import MultimodalPreprocess
from oodbench.detector import Detector
from oodbench.errors import OptionError
from oodbench.registry import DETECTORS

PIXELS = frozenset({"logits", "temperature", "cosine"})
"""What a detector may read of a pixel."""

Reason = Callable[[type[Detector]], str | None]


def _of_pixels(detector: type[Detector]) -> str | None:
    unknown = sorted(detector.needs - PIXELS)
    if unknown:
        return f"needs {' and '.join(unknown)}, which pixels do not have"
    return "learns from training outputs, which pixels do not have" if _learns(detector) else None


def _of_boxes(detector: type[Detector]) -> str | None:
    if "model" in detector.needs or _learns_with_network(detector):
        return "needs the network itself, with whole images, which boxes do not have"
    return None


def _of_modalities(detector: type[Detector]) -> str | None:
    if "model" in detector.needs or _learns_with_network(detector):
        return "looks into a network of images, which samples of several modalities do not have"
    return None


def _learns_with_network(detector: type[Detector]) -> bool:
    return detector.fit_batches is not Detector.fit_batches


def _learns(detector: type[Detector]) -> bool:
    return detector.fit is not Detector.fit or _learns_with_network(detector)


_KINDS: dict[str, tuple[str, Reason]] = {
    "segmentation": ("Pixels are scored", _of_pixels),
    "detection": ("Boxes are scored", _of_boxes),
    "modalities": ("Samples of several modalities are scored", _of_modalities),
}


def _kind(benchmark: Benchmark) -> str:
    is_of_several = isinstance(benchmark.preprocess, MultimodalPreprocess)
    return "modalities" if is_of_several else benchmark.task


def _reason(detector: type[Detector], kind: str) -> str | None:
    return _KINDS[kind][1](detector) if kind in _KINDS else None


def why_not(detector: Detector | type[Detector], benchmark: Benchmark) -> str | None:
    """Why a detector cannot score what a benchmark asks for; None if it can, as far as is known."""
    return _reason(detector if isinstance(detector, type) else type(detector), _kind(benchmark))


def check(detectors: Sequence[Detector], benchmark: Benchmark) -> None:
    """Check that detectors can score what a benchmark asks for.

    Raises:
        OptionError: names one that cannot, why, and those that can.
    """
    check_kind(detectors, _kind(benchmark))


def check_kind(detectors: Sequence[Detector], kind: str) -> None:
    """:func:`check` for a kind of what is scored: a task, or ``"modalities"``."""
    for detector in detectors:
        why = _reason(type(detector), kind)
        if why is not None:
            able = [n for n in DETECTORS.names() if _reason(DETECTORS.get(n), kind) is None]
            some = f"{', '.join(able[:24])}{' …' * (len(able) > 24)}"
            raise OptionError(f"{detector.label} {why}. {_KINDS[kind][0]} by: {some}.")


def left_out(names: Sequence[str], benchmark: Benchmark) -> str | None:
    """What is to be said of those that cannot, for each reason; None if there are none."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        why = why_not(DETECTORS.get(name), benchmark)
        if why is not None:
            reasons.setdefault(why, []).append(name)
    if not reasons:
        return None
    told = "; ".join(f"{', '.join(who)} ({why})" for why, who in reasons.items())
    return f"left out of all detectors: {told}."

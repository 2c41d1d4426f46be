"""Samples of several modalities (video, sound …), scored jointly or by one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from oodbench.benchmark import Benchmark
from oodbench.checks import doubts
from oodbench.data.transforms import MultimodalPreprocess
from oodbench.detector import Detector
from oodbench.errors import MissingOutputError, OptionError
from oodbench.networks.heads import checked
from oodbench.networks.models import modality_heads_of
from oodbench.outputs import Head, Outputs
from oodbench.registry import register_task
from oodbench.results.rows import Row
from oodbench.tasks.classification import Classification


@register_task("multimodal")
@dataclass(frozen=True)
class Multimodal(Classification):
    """Whole samples of several modalities are scored, by all of them together or by one.

    Args:
        modality: the one whose predictions are scored; None or ``"fused"`` for the joint ones.
    """

    scored: ClassVar[str] = "Samples of several modalities are scored"
    columns: ClassVar[tuple[str, ...]] = ("modality",)
    methods_of: ClassVar[str] = "multimodal"

    modality: str | None = None

    def check(self, benchmark: Benchmark, detectors: Sequence[Detector] = ()) -> None:
        """Check also that the benchmark has the modality."""
        preprocess = benchmark.preprocess
        known = preprocess.modalities if isinstance(preprocess, MultimodalPreprocess) else ()
        if self._chosen is not None and self._chosen not in known:
            has = f"has {', '.join((*known, 'fused'))}" if known else "has no modalities"
            raise OptionError(f"benchmark {benchmark.name} {has}, not {self.modality!r}.")
        super().check(benchmark, detectors)

    @property
    def _chosen(self) -> str | None:
        return None if self.modality == "fused" else self.modality

    def why_not(self, detector: type[Detector]) -> str | None:
        """Detectors that look into a network of images cannot."""
        if "model" in detector.needs or detector.fit_batches is not Detector.fit_batches:
            return "looks into a network of images, which samples of several modalities do not have"
        return None

    def view(self, outputs: Outputs, network: nn.Module) -> Outputs:
        """The outputs of the modality that is scored; all where it is none."""
        if self._chosen is None:
            return outputs
        head = modality_heads_of(network).get(self._chosen)
        return of_modality(outputs, self._chosen, head)

    def row(self) -> Row:
        """The modality that was scored."""
        return {"modality": self._chosen}


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
    alone = Outputs(logits=outputs.extra[name], labels=outputs.labels, extra=extra)
    if f"features/{modality}" in outputs.extra:
        alone = replace(alone, features=outputs.extra[f"features/{modality}"])
        sample = alone[: doubts.LOOKED_AT]
        head, notes = checked(head, sample.features, sample.logits, f"head by {modality}")
        alone = replace(alone, head=head, notes=notes)
    return alone

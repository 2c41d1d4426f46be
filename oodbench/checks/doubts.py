"""What makes figures doubtful that can be computed all the same.

Outputs that are no logits of the ID classes; detectors on networks that they were not made for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from oodbench.checks.level import LOOKED_AT as LOOKED_AT
from oodbench.checks.level import refuse_without
from oodbench.detector import Detector
from oodbench.errors import OptionError
from oodbench.outputs import Outputs


def check_outputs(outputs: Outputs, classes: int, who: str) -> None:
    """Refuse a network that has fewer outputs than the ID set has classes.

    Args:
        outputs: of ID test samples.
        classes: how many the ID set has.
        who: the network, for the message.

    Raises:
        OptionError: there is one output, or fewer than classes, or a label beyond them.
    """
    if not outputs.has("logits"):
        return
    n = outputs.logits.shape[1]
    if n == 1:
        raise OptionError(
            f"the {who} gives one output, but the ID set has {classes} classes and detectors want "
            "a logit for each. Of a single logit z, give torch.cat([-z, z], dim=1) / 2."
        )
    if n < classes:
        raise OptionError(
            f"the {who} gives {n} outputs, but the ID set has {classes} classes. Is it of another "
            "ID set? Features alone: a module with outputs(images) -> {'features': ...} and head()."
        )


def check_level(outputs: Outputs, detector: Detector) -> None:
    """Refuse a detector that lives on the log-sum-exp of logits where that is a constant.

    One that reads outputs is stopped by what it is given, too; this is for those that read logits
    off the network itself.

    Args:
        outputs: of ID test samples.
        detector: one of those that are put on the network.

    Raises:
        OptionError: says what to do.
    """
    if detector.reads_level and outputs.has("logits") and detector.needs & {"logits", "model"}:
        refuse_without(outputs.logits, detector.label)


def fits_classes(outputs: Outputs, classes: int) -> bool:
    """Whether an output stands for each class, so that predictions can be compared with labels."""
    return not outputs.has("logits") or outputs.logits.shape[1] == classes


def of_outputs(
    outputs: Outputs, classes: int, detectors: Sequence[Detector], who: str
) -> Iterator[str]:
    """What a reader of these detectors' figures has to know of a network's outputs.

    Args:
        outputs: of ID test samples.
        classes: how many the ID set has.
        detectors: which are put on the network.
        who: the network.
    """
    needs = frozenset[str]().union(*(detector.needs for detector in detectors))
    for name, note in outputs.notes.items():
        there = name == "logits" or getattr(outputs, name, None) is not None
        if there and (name in needs or "model" in needs):
            yield note
    if outputs.has("features") and "features" in needs and "head" in outputs.notes:
        yield outputs.notes["head"]
    reading = [d.label for d in detectors if d.needs & {"logits", "model"}]
    if not outputs.has("logits") or not reading:
        return
    n = outputs.logits.shape[1]
    if n > classes:
        yield (
            f"the {who} gives {n} outputs for {classes} ID classes: there is no ID accuracy, and "
            f"{_few(reading)} read outputs that stand for no ID class. Is it of another ID set?"
        )
    yield from of_probabilities(outputs, detectors, who)


def of_probabilities(outputs: Outputs, detectors: Sequence[Detector], who: str) -> Iterator[str]:
    """Whether a network's logits are probabilities, or their logarithms, instead.

    Args:
        outputs: of ID test samples.
        detectors: which are put on the network.
        who: the network.
    """
    reading = [d for d in detectors if d.needs & {"logits", "model"}]
    if not reading or not outputs.has("logits"):
        return
    kind = _normalised(outputs.logits[:LOOKED_AT])
    if kind.startswith("log"):
        if able := [d.label for d in reading if not d.reads_level]:  # the others are refused
            yield (
                f"the outputs of the {who} are {kind}, not logits: what softmax does not see of "
                f"logits is lost. Scores of the softmax are as ever; whatever else {_few(able)} "
                "read means something else. Take the last layer off, or return what goes into it."
            )
    elif kind:
        yield (
            f"the outputs of the {who} are {kind}, not logits: scores of "
            f"{_few([d.label for d in reading])} mean something else on them than on logits. Take "
            "the last layer off, or return what goes into it."
        )


def _normalised(logits: torch.Tensor) -> str:
    """Which probabilities the rows look like; ``""`` if they do not."""
    z = logits.detach().float()
    if len(z) < 2 or not z.isfinite().all():
        return ""
    coarse = torch.finfo(logits.dtype).eps > 1e-5 if logits.is_floating_point() else False
    tolerance = 0.05 if coarse else 1e-3
    if (z >= 0).all():
        sums = z.sum(dim=1)
        if sums.amin() > 0 and sums.amax() - sums.amin() <= tolerance * sums.amax():
            total = f"{float(sums.mean()):.3g}"
            return f"probabilities (rows of positive numbers that sum to {total}; a softmax?)"
        if z.amax() <= 1 and z.amax() > z.amin():
            return "all between 0 and 1 (a sigmoid?)"
        return ""
    if (z <= tolerance).all() and (z.logsumexp(dim=1).abs() <= tolerance).all():
        return "log-probabilities (their exponentials sum to 1; a log-softmax?)"
    return ""


def of_methods(detectors: Sequence[Detector], claimed: str | None) -> Iterator[str]:
    """Which detectors were designed for networks of another method than a given one's.

    Args:
        detectors: which are put on a network that oodbench did not train.
        claimed: the method that its owner names; None for none.
    """
    for detector in detectors:
        if detector.method not in (Detector.method, claimed):
            yield (
                f"{detector.label} was designed for networks of the method {detector.method}, and "
                "nothing says that this network is one: the row tells of the score on this "
                f"network, not of {detector.method}. If it is one, say so: "
                f"method={detector.method!r}."
            )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown


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

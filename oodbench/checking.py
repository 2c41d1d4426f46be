"""``oodbench.check_network``: whether a network is fed as it was trained, measured on ID images.

A network in another normalisation, size or channel order than its own still classifies, only worse,
and nothing tells. So its accuracy on ID test images is measured as it is fed, and as the usual
alternatives would feed it; one that is clearly better is named, with what to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.checks import sanity
from oodbench.checks.classes import id_samples
from oodbench.contenders import Networks
from oodbench.data.balanced import balanced
from oodbench.data.samples import Samples, Subset
from oodbench.data.transforms import Preprocess, Transform
from oodbench.errors import OODBenchError, OptionError
from oodbench.hardware import Hardware, quiet_lightning
from oodbench.networks.door import explained
from oodbench.networks.door import fed as in_its_type
from oodbench.networks.memory_format import prefer_channels_last
from oodbench.networks.models import copied, outputs_of
from oodbench.outputs import to_numpy
from oodbench.registry import STANDARD_DETECTOR
from oodbench.reporting import Report
from oodbench.runtime.process import undisturbed
from oodbench.selection import create_detectors
from oodbench.tasks.runner import NetworkRunner
from oodbench.tasks.task import task_of

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "the usual mean and std of 32-pixel images": (
        (0.4914, 0.4822, 0.4465),
        (0.247, 0.2435, 0.2616),
    ),
    "mean and std 0.5": ((0.5,) * 3, (0.5,) * 3),
    "pixels in [0, 1]": ((0.0,) * 3, (1.0,) * 3),
    "pixels in [0, 255]": ((0.0,) * 3, (1 / 255,) * 3),
}
"""Normalisations that colour images usually have."""

SIZES = (32, 64, 128, 224)
"""Sides that networks are usually trained at, far enough apart to tell."""

SURE = 3.0
"""How many standard deviations apart two accuracies on the same images are clearly different."""

BLOCK = 100
"""Images after which an alternative that is clearly worse so far is given up."""

WANTED = 500
"""Images on which a mistake that costs a twentieth of the accuracy is usually clear."""


class _BGR:
    """A preprocessing with the channels the other way round."""

    def __init__(self, inner: Preprocess) -> None:
        self.inner, self.size = inner, inner.size

    def __call__(self, image: Any) -> Tensor:
        # the statistics are those of the place in the tensor, as code that reads BGR has them
        return self.inner.normalize(_pixels(self.inner, image).flip(0))

    def __repr__(self) -> str:
        return f"BGR of {self.inner!r}"


def _pixels(preprocess: Preprocess, image: Any) -> Tensor:
    plain = replace(preprocess, mean=(0.0,) * preprocess.channels, std=(1.0,) * preprocess.channels)
    return plain(image)


@dataclass
class Alternative:
    """Another way to feed a network.

    Args:
        name: what it is.
        advice: what to write where it is the right one.
        accuracy: on the same ID images; NaN where the network cannot take it.
        images: how many of them it saw: fewer where it was clearly worse by then.
    """

    name: str
    advice: str
    accuracy: float = float("nan")
    images: int = 0


@dataclass
class NetworkCheck:
    """What was found out about a network.

    Args:
        name: of the network.
        preprocess: how it is fed, in words.
        source: who says so.
        images: how many ID images it was tried on.
        classes: how many the ID set has.
        outputs: how many the network has.
        features: how wide its features are; None without any.
        head: whether its linear head was found.
        accuracy: on these images, as it is fed.
        alternatives: the other ways that were tried.
        problems: what is wrong, and what to write; none for a network that is fed as it should be.
        notes: what is good to know.
    """

    name: str
    preprocess: str
    source: str
    images: int
    classes: int
    outputs: int = 0
    features: int | None = None
    head: bool = False
    accuracy: float = float("nan")
    alternatives: list[Alternative] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        width = f"{self.features} features" if self.features else "no features"
        lines = [
            f"{self.name}: {self.outputs} outputs for {self.classes} ID classes, {width}, "
            f"{'a linear head' if self.head else 'no head that can be read'}",
            f"sees {self.preprocess} ({self.source})",
            f"accuracy {100 * self.accuracy:.1f} % on {self.images} ID images",
        ]
        for other in self.alternatives:
            text = f"{100 * other.accuracy:.1f} %"
            text = "cannot take it" if np.isnan(other.accuracy) else text
            few = f" (of the first {other.images})" if 0 < other.images < self.images else ""
            lines.append(f"  {text:>14}  {other.name}{few}")
        lines += [f"note: {text}" for text in self.notes]
        lines += [f"problem: {text}" for text in self.problems]
        if not self.problems:
            lines.append(
                f"no problem found; what costs less than about {100 * least(self.images):.2g} % of "
                "accuracy is not told from chance on these images"
            )
        if self.images < WANTED:
            lines.append(
                f"note: BGR or another normalisation may cost 5 to 10 % of accuracy alone, which "
                f"is surely told on {WANTED} images or more, and there were {self.images}"
            )
        return "\n".join(lines)


@undisturbed()
def check_network(
    model: nn.Module | None = None,
    id: str | None = None,  # noqa: A002
    *,
    benchmark: str | Benchmark | None = None,
    images: int = 500,
    hardware: Hardware | None = None,
    report: Report | None = None,
    **network: Any,
) -> NetworkCheck:
    """Whether a network is fed as it was trained: its accuracy, and that of the usual alternatives.

    The network is tried on ID test images, as many of each class: with its preprocessing; with
    other normalisations; with its channels the other way round; at other sizes; in training mode,
    which is what a wrapper leaves it in that ignores ``eval()``; and with its classes in another
    order. What is clearly better (three standard deviations of the difference, McNemar's test) is
    a problem, as are NaN, outputs that differ from one pass to the next, and another number of
    classes. An alternative that is clearly worse after some of the images is given up. Where the
    order of the classes is wrong, or the network stays in training mode, accuracies tell nothing of
    the images, so they are told first and alone.

    Args:
        model: the network; or None for one by ``network``, ``backbone`` and ``checkpoint``.
        id: the ID set.
        benchmark: another protocol's name, or a benchmark.
        images: how many of the ID test set are tried.
        hardware: where it runs.
        report: told what happens, line by line.
        network: further arguments of :func:`oodbench.evaluate` that name the network or say how it
            is fed: ``backbone``, ``checkpoint``, ``preprocess``, ``input_size``, ``mean`` …

    Raises:
        OptionError: nobody says how images are made for it, or the benchmark is none of images.
        OODBenchError: the network cannot be loaded or run.
    """
    chosen = get_benchmark(id, benchmark)
    if not task_of(chosen).is_classified or not isinstance(chosen.preprocess, Preprocess):
        raise OptionError(f"{chosen.name} is none of whole images, which are what is checked.")
    say = report or (lambda _: None)
    hardware = hardware or Hardware()
    networks = Networks(model, **network)
    detectors = create_detectors(STANDARD_DETECTOR, None, chosen)
    whole = id_samples(chosen, "test")
    if not networks.is_trained_elsewhere(chosen, detectors):
        raise OptionError("name the network that is checked: a model, `network`, or `checkpoint`.")
    samples = _some(whole, images)
    with quiet_lightning():
        contender, _ = next(iter(networks.contenders(chosen, detectors, whole, hardware, say)))
        task = task_of(chosen)
        runner = task.start(contender, chosen, hardware, classes=whole.classes)
        return _Check(runner, samples, task.input_description(runner.preprocess)).run()


def _some(whole: Samples, n: int) -> Samples:
    """So many images, as many of each class; of a draw where there are more classes than images.

    They are shuffled, so that the first of them tell of all.
    """
    rng = np.random.default_rng(0)
    if n >= len(np.unique(whole.labels)):
        some = balanced(whole, n)
        return Subset(some, rng.permutation(len(some)), some.name)
    return Subset(whole, rng.permutation(len(whole))[:n], f"{whole.name}[{n} of {len(whole)}]")


class _Check:
    """One network and the images that it is tried on."""

    def __init__(self, runner: NetworkRunner, samples: Samples, sees: str) -> None:
        self.runner, self.samples = runner, samples
        self.device = runner.hardware.trainer(logger=False).strategy.root_device
        self.network = copied(runner.network).eval().to(self.device)
        self._channels_last = prefer_channels_last(self.network)
        self.labels = samples.labels
        self._is_spoiled = False
        self.result = NetworkCheck(
            runner.contender.backbone or runner.contender.name,
            sees,
            runner.preprocess_source,
            len(samples),
            len(samples.classes),
        )

    def run(self) -> NetworkCheck:
        result = self.result
        own = self._outputs(self.runner.preprocess)
        logits = own["logits"].float()
        result.outputs = logits.shape[1]
        result.features = own["features"].flatten(1).shape[1] if "features" in own else None
        result.head = getattr(self.network, "head", lambda: None)() is not None
        result.notes += self.runner.notes
        result.notes += [
            f"its weights are {t}" for t in self._types() if t not in ("torch.float32",)
        ]
        notes = getattr(self.network, "notes", {})
        result.notes += list(dict.fromkeys(notes.values())) if isinstance(notes, dict) else []
        if not bool(logits.isfinite().all()):
            result.problems.append("it gives NaN or infinite logits. Check its weights.")
            return result
        if result.outputs != result.classes:
            result.problems.append(
                f"it has {result.outputs} outputs, and the ID set {result.classes} classes, so "
                "no accuracy can be told. Give the ID set that it was trained on."
            )
            return result
        right = self._right(logits)
        result.accuracy = float(right.mean())
        batch = min(self._batch(self.runner.preprocess), len(logits))
        again = self._outputs(self.runner.preprocess, 0, batch)["logits"].float()
        if not torch.allclose(again, logits[:batch], atol=1e-3 * float(logits.abs().max())):
            self._spoiled(
                "it says something else of the same images each time: dropout or noise is on in "
                "evaluation mode. Have its eval() reach all its parts."
            )
        if not self._is_spoiled:
            self._modes(logits)
        if not self._is_spoiled:
            self._order(logits, right)
        if self._is_spoiled:
            result.notes.append(
                "whether images are made for it as they should be is told when this is mended: "
                "check it again then"
            )
        elif isinstance(self.runner.preprocess, Preprocess):
            self._inputs(right, self.runner.preprocess)
        return result

    def _spoiled(self, problem: str) -> None:
        """A problem that makes accuracies say nothing of how images are made."""
        self.result.problems.append(problem)
        self._is_spoiled = True

    def _types(self) -> list[str]:
        return sorted({str(p.dtype) for p in self.network.parameters()})

    def _outputs(
        self, preprocess: Transform, first: int = 0, last: int | None = None
    ) -> dict[str, Tensor]:
        network = self.network
        last = len(self.samples) if last is None else last
        parts: list[dict[str, Tensor]] = []
        size = self._batch(preprocess)
        with torch.inference_mode():
            for start in range(first, last, size):
                rows = range(start, min(start + size, last))
                batch = torch.stack([preprocess(self.samples[i]) for i in rows]).to(self.device)
                if self._channels_last:
                    batch = batch.contiguous(memory_format=torch.channels_last)
                with explained(network, batch):
                    out = outputs_of(network)(in_its_type(network, batch))
                parts.append({k: v.cpu() for k, v in out.items() if k in ("logits", "features")})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _batch(self, preprocess: Transform) -> int:
        """Images that are seen at a time."""
        pixels = int(getattr(preprocess, "size", 224)) ** 2
        return max(1, min(self.runner.hardware.batch_size, 2**23 // pixels))

    def _right(self, logits: Tensor, first: int = 0) -> np.ndarray:
        predicted = to_numpy(logits.argmax(dim=1))
        return np.asarray(predicted == self.labels[first : first + len(predicted)])

    def _tried(self, preprocess: Transform, own: np.ndarray) -> np.ndarray:
        """Which images are right in another way, block by block.

        It ends early where that way is clearly worse so far, or is not ahead after two blocks.
        """
        its = np.zeros(0, bool)
        while len(its) < len(own):
            first, last = len(its), min(len(its) + BLOCK, len(own))
            logits = self._outputs(preprocess, first, last)["logits"].float()
            its = np.concatenate([its, self._right(logits, first)])
            so_far = own[: len(its)]
            is_behind = len(its) >= 2 * BLOCK and its.sum() <= so_far.sum()
            if is_behind or _is_better(so_far, its):
                break
        return its

    def _order(self, logits: Tensor, right: np.ndarray) -> None:
        """Whether its classes stand in another order than those of the folders."""
        predicted = to_numpy(logits.argmax(dim=1))
        for name, order in _orders(self.samples.classes).items():
            its = order[predicted] == self.labels
            if _is_better(its, right):
                self._spoiled(
                    f"{100 * its.mean():.1f} % of the ID images are right if its classes are in "
                    f"{name}, and {100 * right.mean():.1f} % in the alphabetical order of the "
                    "folders' names. Name the folders so that this is the order of its training."
                )
                return
        labels = torch.from_numpy(self.labels)
        self.result.problems += sanity.of_outputs(
            logits, labels, self.samples.classes, self.result.preprocess
        )

    def _modes(self, logits: Tensor) -> None:
        """Whether some part stays in training mode, or was left there when it was scripted."""
        left = [n for n, m in self.network.named_modules() if m.training and not list(m.children())]
        if left:
            self._spoiled(
                f"parts of it stay in training mode after eval() ({', '.join(left[:3])}): batch "
                "normalisation then depends on the other images. Have its eval() reach them."
            )
            return
        half = self._alone(8)
        if half is not None and not torch.allclose(
            half, logits[: len(half)], atol=0.02 * float(logits.abs().max())
        ):
            self._spoiled(
                "what it says of an image depends on the other images of the batch, as batch "
                "normalisation in training mode does. Call eval() before it is scripted or wrapped."
            )

    def _alone(self, n: int) -> Tensor | None:
        """Logits of the first images, seen by ones; None where it cannot see one."""
        rows = []
        with torch.inference_mode():
            for i in range(min(n, len(self.samples))):
                image = self.runner.preprocess(self.samples[i])[None].to(self.device)
                try:
                    out = outputs_of(self.network)(in_its_type(self.network, image))
                except Exception:  # a batch of one is refused by some in training mode
                    return torch.full((1, self.result.outputs), torch.inf)
                rows.append(out["logits"].float().cpu())
        return torch.cat(rows) if rows else None

    def _inputs(self, right: np.ndarray, own: Preprocess) -> None:
        """The usual other ways to feed it; the best of those that are clearly better is told."""
        better: list[tuple[Alternative, np.ndarray]] = []
        for other, preprocess in self._others(own):
            self.result.alternatives.append(other)
            try:
                its = self._tried(preprocess, right)
            except OODBenchError:  # a size that it cannot take
                continue
            other.accuracy, other.images = float(its.mean()), len(its)
            if len(its) == len(right) and _is_better(its, right):
                better.append((other, its))
        if better:
            best, rights = max(better, key=lambda pair: float(pair[1].mean()))
            equals = [o for o, its in better if o is not best and not _is_better(rights, its)]
            others = "".join(f" Or {other.name}: {other.advice}." for other in equals)
            self.result.problems.append(
                f"{100 * best.accuracy:.1f} % of the ID images are right with {best.name}, and "
                f"{100 * self.result.accuracy:.1f} % as it is fed ({self.result.source}). If it "
                f"was trained so: {best.advice}.{others}"
            )

    def _others(self, own: Preprocess) -> Iterator[tuple[Alternative, Transform]]:
        if own.mode == "RGB":
            for name, (mean, std) in STATISTICS.items():
                if not np.allclose((mean, std), (own.mean, own.std), atol=1e-3):
                    numbers = [",".join(f"{v:.4g}" for v in values) for values in (mean, std)]
                    advice = f"`mean={numbers[0]}` and `std={numbers[1]}`"
                    yield Alternative(name, advice), replace(own, mean=mean, std=std)
            advice = "flip the channels before it, or in its first layer's weights"
            yield Alternative("channels in the order BGR", advice), _BGR(own)
        for size in self._sizes(own):
            pre = own.pre_size and max(size, round(own.pre_size * size / own.size))
            advice = f"`input_size={size}`"
            yield (
                Alternative(f"{size} x {size} pixels", advice),
                replace(own, size=size, pre_size=pre),
            )

    def _sizes(self, own: Preprocess) -> Sequence[int]:
        """The usual sizes that are not near its own, and not much larger than the images are."""
        side = max(getattr(self.samples[0], "size", (own.size,)))
        far = [size for size in SIZES if not 1 / 1.9 < size / own.size < 1.9]
        return [size for size in far if size <= max(2 * side, SIZES[0])]


def least(images: int) -> float:
    """The smallest share of so many images by which one way can be clearly better than another."""
    return SURE**2 / images


def _is_better(its: np.ndarray, own: np.ndarray) -> bool:
    """Whether more of the same images are right, by more than chance (McNemar's test)."""
    won, lost = int((its & ~own).sum()), int((own & ~its).sum())
    return won > lost and won - lost >= SURE * float(np.sqrt(won + lost))


def _orders(classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Other usual orders of classes: the class ``[C]`` that stands at each place."""

    def natural(name: str) -> list[tuple[int, str]]:
        parts = re.findall(r"\d+|\D+", name)
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    keys: dict[str, Any] = {
        "the order of the numbers in their names": natural,
        "alphabetical order whatever the case": str.casefold,
        "the order of their names after the first '_'": lambda name: name.partition("_")[2],
    }
    orders = {}
    for name, key in keys.items():
        order = np.array(sorted(range(len(classes)), key=lambda i: key(classes[i])))
        if (order != np.arange(len(classes))).any():
            orders[name] = order
    return orders

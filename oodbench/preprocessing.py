"""Which preprocessing a network is given, and who said so: it is never guessed in silence.

What the caller says goes first, part by part; then what the network says itself; then, for a
network that was trained here, what its benchmark says. Of a network that somebody gives, and of
which nobody says anything, nothing is assumed: it is an error that shows how to say it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from torch import nn

from oodbench.benchmark import get_benchmark
from oodbench.data.transforms import Preprocess, Transform
from oodbench.errors import OptionError, UnknownNameError, did_you_mean
from oodbench.networks.door import called
from oodbench.networks.inputs import PARTS, Said, of_preprocess, of_torchvision, said_by
from oodbench.networks.models import own_preprocess_of
from oodbench.registry import BENCHMARKS, DATASETS

CALLER = "the caller"
"""The source of what was said by whoever evaluates."""
BENCHMARK = "the benchmark"
NETWORK = "the network"
OWN_WORD = "benchmark"
"""The name of the benchmark's own preprocessing."""


@dataclass(frozen=True)
class Asked:
    """What the caller says of the images that a network was trained on; each part may be missing.

    Args:
        preprocess: all of it: a :class:`Preprocess`, any callable from an image to a tensor, or a
            name (see :func:`named`).
        input_size: side of the square that the network sees, in pixels.
        mean: channel means in [0, 1].
        std: channel deviations.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        crop: the share of the short side that is kept (0.875); or the pixels that the short side is
            resized to before the central square is cut out (256); or ``"stretch"``, for both sides
            resized without a crop; or ``"centre"``, for the middle without resizing.
    """

    preprocess: Transform | str | None = None
    input_size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    interpolation: str | None = None
    crop: str | float | None = None

    def numbers(self) -> dict[str, Any]:
        """What is said part by part, by the names of :func:`oodbench.evaluate`'s arguments."""
        names = ("input_size", "mean", "std", "interpolation", "crop")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def __bool__(self) -> bool:
        return self.preprocess is not None or bool(self.numbers())

    def parts(self) -> dict[str, Any]:
        """The numbers as fields of a :class:`Preprocess`; a crop is told by :func:`_cropped`."""
        said = self.numbers()
        crop = said.pop("crop", None)
        if "input_size" in said:
            said["size"] = said.pop("input_size")
            if said["size"] < 1:
                raise OptionError(f"`input_size` must be at least 1 pixel, not {said['size']}.")
        for name in ("mean", "std"):
            if name in said:
                said[name] = tuple(said[name])
        return said if crop is None else {**said, "crop": crop}


@dataclass(frozen=True)
class Chosen:
    """The preprocessing of a network, and who said what of it.

    Args:
        preprocess: from a raw image to the network's input.
        source: who said so: ``"the caller"``, ``"timm: resnet50.tv_in1k"``; of several, by part.
        is_normalised: whether the caller or the network says how images are normalised for it.
        notes: what a reader of its rows has to know of that.
    """

    preprocess: Transform
    source: str
    is_normalised: bool = True
    notes: tuple[str, ...] = ()


def choose(
    asked: Asked,
    network: nn.Module,
    shown: Transform,
    *,
    said: Sequence[Said] = (),
    is_given: bool = True,
    keeps_size: bool = False,
    normalises: Callable[[], bool] = lambda: False,
    classes: int | None = None,
) -> Chosen:
    """The preprocessing for a network.

    Args:
        asked: what the caller says.
        network: asked for what it says itself, where that is needed.
        shown: the benchmark's preprocessing.
        said: what is known of the network besides, such as a checkpoint's metadata; the surest
            first.
        is_given: whether somebody gave the network; one that was trained here sees what the
            benchmark shows.
        keeps_size: whether images are seen in their own size, so that none need be said.
        normalises: whether the network normalises images itself, as far as that can be seen.
        classes: how many the network has; None if that is not known.

    Raises:
        OptionError: the size, the means or the deviations are not known; tells how to say them.
    """
    if asked.preprocess is not None and not isinstance(asked.preprocess, str | Preprocess):
        if numbers := asked.numbers():
            raise OptionError(
                f"`{next(iter(numbers))}` changes an oodbench Preprocess; yours is another "
                "callable."
            )
        return Chosen(asked.preprocess, CALLER)
    if not isinstance(shown, Preprocess):
        if asked and asked != Asked(OWN_WORD):
            raise OptionError(
                f"`{next(iter(asked.numbers()), 'preprocess')}` is for networks of images alone. "
                "Give a whole preprocessing instead, a callable from a sample to what the network "
                "takes."
            )
        own = own_preprocess_of(network)
        return Chosen(shown, BENCHMARK) if own is None else Chosen(own, NETWORK)
    if isinstance(asked.preprocess, Preprocess) and not asked.numbers():
        return Chosen(asked.preprocess, CALLER)
    layers = [*_by_caller(asked, network, shown)]
    if not _is_whole(layers, keeps_size):
        layers += [*said, *said_by(network)]
    if not is_given:
        layers.append(of_preprocess(shown, BENCHMARK))
    notes = [*_trained_further(layers, classes)] if is_given else []
    of_mean = next((layer.source for layer in layers if "mean" in layer.parts), None)
    if of_mean is None and "std" not in asked.numbers() and normalises():
        plain = {"mean": shown.mean, "std": shown.std}
        layers.append(Said(f"{NETWORK}, which normalises images itself", plain))
    if keeps_size:
        layers.append(Said("", {"size": shown.size}))
    missing = [n for n in ("size", "mean", "std") if all(n not in one.parts for one in layers)]
    if missing:
        raise _unknown(network, missing, layers, shown)
    # what is said of a part of the network, such as published weights, is not said of the whole
    is_normalised = of_mean is not None and of_mean.startswith((CALLER, NETWORK))
    return Chosen(_merged(layers, shown), _source(layers), is_normalised, tuple(notes))


def _is_whole(layers: Sequence[Said], keeps_size: bool) -> bool:
    said = {name for layer in layers for name in layer.parts}
    return any(set(PARTS) <= set(layer.parts) for layer in layers) or (
        keeps_size and {"mean", "std"} <= said
    )


def _by_caller(asked: Asked, network: nn.Module, shown: Preprocess) -> Iterator[Said]:
    if parts := asked.parts():
        yield Said(CALLER, parts)
    if isinstance(asked.preprocess, Preprocess):
        yield of_preprocess(asked.preprocess, CALLER)
    elif isinstance(asked.preprocess, str):
        choice = named(asked.preprocess, network, shown)
        whole = {"pre_size": None, "resize": shown.resize, "native": None, **choice.parts}
        yield Said(f"{CALLER}: {asked.preprocess}", {"interpolation": "bilinear", **whole})


def named(name: str, network: nn.Module, shown: Preprocess) -> Said:
    """What a name stands for.

    Args:
        name: ``"timm"`` (the configuration of a timm network), ``"torchvision:"`` and the name of
            weights (``ResNet50_Weights.IMAGENET1K_V1``), ``"benchmark"`` (what the benchmark
            shows), or the name of a dataset or benchmark: the preprocessing that networks trained
            on it usually have.
        network: the network.
        shown: the benchmark's preprocessing.

    Raises:
        UnknownNameError: it is none of these.
        OptionError: the network is none of timm's.
    """
    kind, _, rest = name.partition(":")
    if name == OWN_WORD:
        return of_preprocess(shown, BENCHMARK)
    if name == "timm":
        timms = next((one for one in said_by(network) if one.source.startswith("timm")), None)
        if timms is None:
            raise OptionError(
                f"`preprocess={name!r}`: the {called(network)} is no timm network with a "
                "configuration of its own, so timm says nothing of its images."
            )
        return timms
    if kind == "torchvision" and rest:
        return torchvision_weights(rest)
    if DATASETS.canonical(name) in DATASETS.names():
        usual = getattr(DATASETS.get(name), "preprocess", None)
        if isinstance(usual, Preprocess):
            return of_preprocess(usual, name)
    if name in BENCHMARKS:
        theirs = get_benchmark(benchmark=name).preprocess
        if isinstance(theirs, Preprocess):
            return of_preprocess(theirs, name)
    known = [OWN_WORD, "timm", *BENCHMARKS.names(), *DATASETS.names()]
    raise UnknownNameError(
        f"`preprocess={name!r}` is none that oodbench knows.{did_you_mean(name, known)} It is "
        f"{OWN_WORD!r}, 'timm', 'torchvision:' with the name of weights "
        "(ResNet50_Weights.IMAGENET1K_V1), or a dataset or benchmark of images "
        "(`oodbench list datasets`)."
    )


def torchvision_weights(name: str) -> Said:
    """What torchvision says of weights: ``"ResNet50_Weights.IMAGENET1K_V1"``.

    Raises:
        UnknownNameError: no such weights.
    """
    from torchvision.models import get_model_weights as weights_of
    from torchvision.models import get_weight, list_models

    try:
        weights = get_weight(name)
    except (ValueError, AttributeError, KeyError) as error:
        known = [str(one) for model in list_models() for one in weights_of(model)]
        raise UnknownNameError(
            f"torchvision has no weights {name!r}.{did_you_mean(name, known)}"
        ) from error
    classes = len(weights.meta.get("categories", ())) or None
    return of_torchvision(weights.transforms(), f"torchvision: {weights}", classes)


def _merged(layers: Sequence[Said], shown: Preprocess) -> Preprocess:
    """The parts as one preprocessing: of each the first that is said, the rest as shown."""
    parts: dict[str, Any] = {}
    for layer in layers:
        own = dict(layer.parts)
        if "resize" in own or "pre_size" in own:  # they go together, in pixels of its own size
            at = own.get("size", shown.size)
            shape = own.pop("resize", "crop"), own.pop("pre_size", None)
            parts.setdefault("shape", (*shape, at))
        for name, value in own.items():
            if value is not None:
                parts.setdefault(name, value)
    resize, pre_size, at = parts.pop("shape", (shown.resize, shown.pre_size, shown.size))
    size = parts["size"]
    if pre_size is not None and at != size:
        pre_size = max(size, int(pre_size * size / at))
    crop = parts.pop("crop", None)
    if crop is not None:
        resize, pre_size = _cropped(crop, size)
    modes: dict[int, Literal["RGB", "L"]] = {1: "L", 3: "RGB"}
    mode = modes.get(len(parts["mean"]), shown.mode)
    return replace(shown, mode=mode, resize=resize, pre_size=pre_size, **parts)


def _cropped(crop: str | float, size: int) -> tuple[Any, int | None]:
    """``resize`` and ``pre_size`` of what the caller says of the crop."""
    if crop in ("stretch", "centre"):
        return crop, None
    try:
        number = float(crop)
    except ValueError:
        number = 0.0
    if 0 < number <= 1:
        return "crop", int(size / number)
    if number >= size and number.is_integer():
        return "crop", int(number)
    raise OptionError(
        f"`crop={crop}`: give the share of the short side that is kept (0.875), the pixels that it "
        f"is resized to first (a whole number of {size} or more), 'stretch' or 'centre'."
    )


def _source(layers: Sequence[Said]) -> str:
    """Who said size, means and deviations; one name where it was one."""
    who: dict[str, list[str]] = {}
    for name in ("size", "mean", "std"):
        source = next(layer.source for layer in layers if name in layer.parts)
        if source:
            who.setdefault(source, []).append(name)
    if len(who) == 1:
        return next(iter(who))
    return "; ".join(f"{', '.join(names)}: {source}" for source, names in who.items())


def _trained_further(layers: Sequence[Said], classes: int | None) -> Iterator[str]:
    """Doubt in what is said of published weights, where a network has other classes than these."""
    first = next((layer for layer in layers if "size" in layer.parts), None)
    if first is None or first.classes is None or classes is None or classes == first.classes:
        return
    if first.source.startswith(CALLER):
        return
    yield (
        f"how images are made for the network is what is said of published weights with "
        f"{first.classes} classes ({first.source}), and it has {classes}: it was trained further. "
        "If in another size or normalisation, say so: `input_size`, `mean`, `std` or `preprocess`."
    )


def _unknown(
    network: nn.Module, missing: Sequence[str], layers: Sequence[Said], shown: Preprocess
) -> OptionError:
    words = ("size", "mean", "std")
    known = "; ".join(
        f"{', '.join(f'{n} {_short(v)}' for n, v in one.parts.items() if n in words)}"
        f" ({one.source})"
        for one in layers
        if one.source and {*words} & one.parts.keys()
    )
    lacks = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
    numbers = {"size": "`input_size=224`", "mean": "`mean=...`", "std": "`std=...`"}
    size = f"{shown.size} x {shown.size} pixels, mean {_short(shown.mean)}, std {_short(shown.std)}"
    return OptionError(
        f"nobody says how images are made for the {called(network)}: their {lacks} "
        f"{'are' if len(missing) > 1 else 'is'} not known{f' (known: {known})' if known else ''}. "
        "Say it in one of three ways: in numbers, "
        f"{', '.join(numbers[name] for name in missing)}; by a name, "
        '`preprocess="cifar10"`, `preprocess="torchvision:ResNet50_Weights.IMAGENET1K_V1"`, or '
        f'`preprocess="{OWN_WORD}"` for '
        f"what the benchmark shows ({size}); or give a network that says it itself: one of timm's, "
        "or a checkpoint with mean, std and input_size in its metadata."
    )


def _short(value: Any) -> str:
    return ", ".join(f"{v:.4g}" for v in value) if isinstance(value, tuple) else str(value)


def as_asked(value: Asked | Transform | str | None) -> Asked:
    """A preprocessing as people give one, as :class:`Asked`."""
    return value if isinstance(value, Asked) else Asked(value)


def of_content(content: Any) -> Preprocess | None:
    """The preprocessing that a row tells, by its content key; None for what is no ``Preprocess``.

    Whether training mirrors images is not in it.
    """
    names = {field.name for field in fields(Preprocess)}
    if not isinstance(content, Mapping) or not {"size", "mean", "std"} <= {*content} <= names:
        return None
    told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    try:
        return Preprocess(**told)
    except (OptionError, TypeError):
        return None

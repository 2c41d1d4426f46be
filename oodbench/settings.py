"""What is asked of an evaluation: the one list of options.

The fields of these dataclasses are arguments of :func:`oodbench.evaluate` and options of the
commands that take the class. A field that is added here with :func:`setting` is an option of each
of them, with its default and its help. Nothing heavy is imported: ``oodbench --help`` reads this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from oodbench.registry import STANDARD_DETECTOR

DETECTORS, DATA, NETWORK, TRAINING, HARDWARE, OUTPUT = (
    "Detectors",
    "Data",
    "Network",
    "Training",
    "Hardware",
    "Output",
)
"""Headings of ``--help``."""

Form = Literal["value", "names", "sets", "pairs", "seeds", "channels"]
"""How the command line writes a value: as it is; as names by commas (of which sets may be paths);
as ``NAME=VALUE``, repeated; as whole numbers by commas; as numbers in [0, 1] by commas."""


@dataclass(frozen=True)
class Short:
    """An entry of a mapping that has an option of its own: ``--lr 1`` for ``--recipe-set lr=1``.

    Args:
        help: a sentence for ``--help``.
        kind: the type of its value.
        minimum: the least value.
    """

    help: str
    kind: type = str
    minimum: int | None = None


@dataclass(frozen=True)
class Setting:
    """How the command line asks for a field.

    Args:
        help: a sentence for ``--help``.
        flag: the option without its dashes; ``""`` for the field's name.
        keyword: the argument of ``evaluate``; ``""`` for the field's name, None if it has none.
        form: how its value is written.
        is_required: whether the command line has no default.
        written: the command line's default, where it is written otherwise than Python's.
        minimum: the least value.
        variable: the environment variable that is its default.
        is_switch: whether it is a pair of options, ``--NAME`` and ``--no-NAME``, neither of which
            is the default.
        short: of a mapping, the entries that have an option of their own.
        panel: the heading that ``--help`` lists it under; ``""`` for that of its dataclass.
    """

    help: str
    flag: str = ""
    keyword: str | None = ""
    form: Form = "value"
    is_required: bool = False
    written: str | None = None
    minimum: int | None = None
    variable: str | None = None
    is_switch: bool = False
    short: Mapping[str, Short] = field(default_factory=dict)
    panel: str = ""


def setting(default: Any, help: str, **more: Any) -> Any:  # noqa: A002
    """A field that is an option of the command line; see :class:`Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(help, **more)})


@dataclass(frozen=True)
class Selection:
    """Which benchmark, OOD sets and detectors are evaluated."""

    id: str | None = setting(
        None, "ID set: cifar10, cifar100, digits, folder:PATH. Its default benchmark."
    )
    benchmark: str | None = setting(None, "Another protocol, such as cifar100/palm.")
    task: str | None = setting(None, "What is scored, such as segmentation: oodbench list tasks.")
    ood: Sequence[str] | None = setting(
        None,
        "OOD sets instead of the benchmark's: mnist,near=folder:PATH. A name with commas stands in "
        "double quotes.",
        form="sets",
    )
    task_options: Mapping[str, Any] | None = setting(
        None,
        "An option of what is scored: --task-set confidence=0.3.",
        flag="task-set",
        form="pairs",
        short={"modality": Short("Of several, the one that is scored: video, audio … or fused.")},
    )
    download: bool | None = setting(
        None,
        "Get the data that is not here; or go on without. Default: ask on a terminal, else stop.",
        is_switch=True,
    )


@dataclass(frozen=True)
class Scoring:
    """By what it is scored: detectors, and where their options come from."""

    detectors: Sequence[str] = setting(
        (STANDARD_DETECTOR,),
        "Detectors, separated by commas: msp,energy,knn; or all.",
        flag="detector",
        form="names",
        is_required=True,
    )
    detector_options: Mapping[str, str] | None = setting(
        None,
        "A detector's option: --set k=20, or --set knn.k=20.",
        flag="set",
        keyword=None,
        form="pairs",
    )
    preset: str | None = setting(
        None,
        "The benchmark's named settings of detectors, such as a paper's; --set goes over them.",
    )
    tune: bool = setting(
        False, "Choose the values of each detector's grid first, on validation data alone."
    )
    fit_on: str | float | None = setting(
        None,
        "Fit detectors on so many training images (50000), or a share of them (0.1): the same of "
        "each class, drawn by a fixed seed.",
    )
    fixed: Mapping[str, Collection[str]] | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which networks detectors are put on, as far as text can tell it; see ``Networks``."""

    method: str | None = setting(
        None, "How to train. Default: what the detector was designed for.", panel=TRAINING
    )
    recipe: str | None = setting(
        None,
        "published, quick … Default: the published one where the paper has the ID set.",
        panel=TRAINING,
    )
    recipe_options: Mapping[str, Any] | None = setting(
        None,
        "Change a recipe's field: --recipe-set weight_decay=1e-4.",
        flag="recipe-set",
        form="pairs",
        panel=TRAINING,
        short={
            "epochs": Short("Override the recipe's epochs.", int, minimum=1),
            "batch_size": Short("Override the recipe's batch size.", int, minimum=1),
            "lr": Short("Override the recipe's learning rate.", float),
            "outliers": Short(
                "Images that a method learns beside the ID set, as OOD, and that are not tested "
                "on: a dataset, or folder:PATH."
            ),
        },
    )
    backbone: str | None = setting(
        None,
        "Network: resnet20, resnet34-cifar … or any timm name. With its published weights and "
        "classes: timm/NAME, torchvision/NAME.WEIGHTS; that reads text: openclip/NAME/TAG. "
        "eval takes several: NAME,NAME.",
    )
    network: str | None = setting(
        None,
        "A given network, whose code is run: package.module:function, a file (.onnx, .pt2, "
        "TorchScript), the folder or name of a Hugging Face image classifier or CLIP.",
    )
    prompts: str | None = setting(
        None,
        "Of a network that reads text: 'a photo of a {}', several with | between, openai (its 80), "
        "openai-simple, or a file with one in each line.",
    )
    class_names: str | Path | None = setting(
        None, "Of such a network: a file with the classes' names, one in each line."
    )
    words: str | Path | None = setting(
        None,
        "Of such a network: a file with words for detectors that compare classes with other words, "
        "one in each line; behind a tabulator, noun or adjective.",
    )
    layer: str | None = setting(
        None,
        "The name of its linear head, if that cannot be found; of an ONNX file, of the inner "
        "tensor that the features are.",
    )
    checkpoint: str | Path | None = setting(
        None,
        "A trained classifier (safetensors, .pt), or pre-trained weights for a --method of such "
        "networks; needs --backbone.",
    )
    preprocess: Any = setting(
        None,
        "How images are made for a given network: timm, torchvision:WEIGHTS, benchmark, or a "
        "dataset such as cifar10. Default: what the network says.",
    )
    input_size: int | None = setting(
        None, "Side of the square that a given network sees, in pixels.", minimum=1
    )
    mean: Sequence[float] | None = setting(
        None, "The network's own channel means: 0.485,0.456,0.406.", form="channels"
    )
    std: Sequence[float] | None = setting(None, "Its channel deviations.", form="channels")
    interpolation: str | None = setting(None, "The filter that resizes: bilinear or bicubic.")
    crop: str | float | None = setting(
        None,
        "The share of the short side that is kept (0.875), the pixels that it is resized to first "
        "(256), stretch or centre.",
    )
    seeds: tuple[int, ...] = setting(
        (0,),
        "Seed, or several: 0,1,2.",
        flag="seed",
        keyword="seed",
        form="seeds",
        written="0",
        panel=TRAINING,
    )
    retrain: bool = setting(False, "Train although a finished run is in the cache.", panel=TRAINING)


@dataclass(frozen=True)
class HardwareSettings:
    """Where networks run: accelerator, devices, precision, batch size."""

    accelerator: str = setting("auto", "Lightning's: auto, cpu, gpu …")
    devices: str = setting("auto", "Lightning's: auto, a number, or 0,1.")
    strategy: str = setting("auto", "Lightning's: auto, ddp …")
    precision: str = setting("32-true", "Lightning's: 32-true, 16-mixed, bf16-mixed …")
    compile: bool = setting(
        False,
        "Run networks through torch.compile: a minute at first, quicker afterwards; figures may "
        "differ in their last digits, and rows say so.",
    )
    channels_last: bool | None = setting(
        None,
        "Lay images and convolutions out with channels last, or not. Default: where all code of "
        "the network is known to run so.",
        is_switch=True,
    )
    workers: int | None = setting(
        None, "Processes that read images. Default: by dataset.", minimum=0
    )
    scoring_device: str = setting(
        "auto",
        "Where detectors are fitted and score outputs: auto (an accelerator, if there is one and "
        "there are many), cpu, cuda, mps, cuda:1.",
    )
    nodes: int = setting(
        1,
        "Lightning's num_nodes: machines that do this together, each with as many devices. The "
        "command is started on each.",
        minimum=1,
    )


@dataclass(frozen=True)
class Reporting:
    """Where figures, pictures and messages go."""

    leaderboards: str | Path | None = setting(
        None,
        "Folder of the result rows and pages.",
        written="leaderboards",
        variable="OODBENCH_LEADERBOARDS",
    )
    pictures: str | Path | None = setting(None, "Folder for pictures of scored pixels or boxes.")
    scores: str | Path | None = setting(
        None, "Folder for the scores of every sample, a csv for each detector and network."
    )
    json: bool = setting(False, "Print machine-readable results alone.", keyword=None)
    wide: bool = setting(
        False, "Print every column and OOD set, however wide that is.", keyword=None
    )
    each_seed: bool = setting(
        False, "Print one line per seed, not the mean of several.", keyword=None
    )
    report: Callable[[str], None] | None = None
    command: str | None = None


PREPROCESSING = ("preprocess", "input_size", "mean", "std", "interpolation", "crop")
"""Settings of networks that say how images are made for one that is given."""

OF_TEXT = ("prompts", "class_names", "words")
"""Settings of networks that read text alone."""

OF_NUMBERS = ("precision", "compile", "channels_last")
"""Settings of hardware that change what a network computes, be it in the last digits alone."""

OF_TRAINING = ("method", "recipe", "recipe_options", "seeds", "retrain")
"""Settings of networks that are trained here alone."""

PANELS: dict[type, str] = {
    Scoring: DETECTORS,
    Selection: DATA,
    NetworkSettings: NETWORK,
    HardwareSettings: HARDWARE,
    Reporting: OUTPUT,
}
"""The heading that ``--help`` lists the options of a dataclass under."""

GROUPS: tuple[type, ...] = tuple(PANELS)


def settings_of(group: type) -> dict[str, Setting]:
    """The fields of a dataclass that are options of the command line, and how they are."""
    return {
        f.name: f.metadata["setting"] for f in dataclasses.fields(group) if "setting" in f.metadata
    }


def values(group: Any) -> dict[str, Any]:
    """The values of a dataclass by the names of its fields."""
    return {f.name: getattr(group, f.name) for f in dataclasses.fields(group)}


def keywords(group: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """The values of a dataclass as arguments of ``evaluate``, but for some of its fields."""
    asked = settings_of(type(group))
    names = {name: asked[name].keyword if name in asked else "" for name in values(group)}
    return {
        keyword or name: getattr(group, name)
        for name, keyword in names.items()
        if keyword is not None and name not in without
    }


def flags() -> dict[str, str]:
    """Arguments of ``evaluate`` and their short forms, as options of the command line."""
    spelled: dict[str, str] = {}
    for group in GROUPS:
        for name, asked in settings_of(group).items():
            flag = f"--{asked.flag or name.replace('_', '-')}"
            if asked.keyword is not None:
                spelled |= {asked.keyword or name: flag, name: flag}
            spelled |= {short: f"--{short.replace('_', '-')}" for short in asked.short}
    return spelled

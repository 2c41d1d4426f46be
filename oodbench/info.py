"""What ``oodbench info NAME`` says of whatever has the name, and what of a dataset is here."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from oodbench.benchmark import get_benchmark
from oodbench.data.samples import MultimodalSamples
from oodbench.dataset import DatasetSpec
from oodbench.detector import Detector
from oodbench.errors import (
    MissingDataError,
    OODBenchError,
    OptionError,
    PluginError,
    UnknownNameError,
    did_you_mean,
)
from oodbench.networks.backbones import feature_width
from oodbench.options import build
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import (
    BACKBONES,
    BENCHMARKS,
    DATASETS,
    DETECTORS,
    MEASURES,
    METHODS,
    NEEDS,
    PREPARATIONS,
    TASKS,
    Registry,
    backbone_kind,
)
from oodbench.runtime.process import undisturbed
from oodbench.testing.problems import problem


@dataclass(frozen=True)
class Entry:
    """A labelled line, or several of them.

    Args:
        label: what is told.
        lines: what is told of it.
        is_block: whether the lines stand below the label, not beside it.
        is_code: whether they are to be copied as they are.
    """

    label: str
    lines: tuple[str, ...]
    is_block: bool = False
    is_code: bool = False

    def plain(self) -> Iterator[str]:
        """The entry as lines of plain text."""
        if self.is_block:
            yield f"{self.label}:"
            yield from (f"  {line}" for line in self.lines)
        else:
            yield from (f"{self.label + ':':9} {line}" for line in self.lines)


@dataclass(frozen=True)
class Sheet:
    """What is known of one named thing.

    Args:
        title: its kind and name.
        text: its docstring.
        entries: facts, options and recipes.
    """

    title: str = ""
    text: str = ""
    entries: tuple[Entry, ...] = ()

    def plain(self) -> str:
        """The sheet as lines of plain text."""
        lines = [line for line in (self.title, self.text) if line]
        return "\n".join([*lines, *(line for entry in self.entries for line in entry.plain())])


def describe(name: str) -> str:
    """Everything known under a name, in plain text.

    Raises:
        PluginError: the package that declares it is damaged.
        UnknownNameError: no registry has it; the nearest names are told.
    """
    return "\n\n".join(sheet.plain() for sheet in sheets(name))


def sheets(name: str) -> list[Sheet]:
    """Everything known under a name: a sheet for each thing that has it, then their papers.

    A paper that several of the things share is told once.

    Raises:
        PluginError: the package that declares it is damaged.
        UnknownNameError: no registry has it; the nearest names are told.
    """
    collected: list[Sheet] = []
    broken: list[PluginError] = []
    papers: dict[Paper, list[str]] = {}
    for names, tell in _KINDS:
        if name not in names:
            continue
        known = names.canonical(name)
        try:
            thing = names.get(known)
            sheet = tell(known, thing)
        except PluginError as error:  # the name may be another thing's too
            broken.append(error)
            continue
        others = tuple(alias for alias, other in names.aliases().items() if other == known)
        also = (Entry("also", (", ".join(others),)),) if others else ()
        collected.append(dataclasses.replace(sheet, entries=(*also, *sheet.entries)))
        if isinstance(paper := getattr(thing, "paper", None), Paper):
            papers.setdefault(paper, []).append(f"{names.kind} {known}")
    if broken and not collected:
        raise broken[0]
    if not collected:
        collected = _of_timm(name)
    if not collected:
        known_names = sorted({n for names, _ in _KINDS for n in names.names()})
        kinds = ", ".join(names.plural for names, _ in _KINDS[1:])
        raise UnknownNameError(
            f"nothing is named {name!r}.{did_you_mean(name, known_names)} "
            f"See `oodbench list {_KINDS[0][0].plural}`, or the lists of {kinds}."
        )
    for paper, owners in papers.items():
        title = f"paper of {' and '.join(owners)}" if len(papers) > 1 else ""
        collected.append(Sheet(title, entries=_paper(name, paper)))
    return [*collected, *(Sheet(str(error)) for error in broken)]


def _paper(name: str, paper: Paper) -> tuple[Entry, ...]:
    cited = f"{paper.title}. {paper.authors}. {paper.venue} {paper.year}. {paper.url}"
    return (
        Entry("paper", (cited,)),
        Entry("formula", (paper.formula,) if paper.formula else ()),
        Entry("figure", paper.figures),
        Entry("bibtex", tuple(paper.bibtex(name).splitlines()), is_block=True, is_code=True),
    )


def _title(kind: str, name: str, thing: Any) -> str:
    owner = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind} {name} ({owner.__module__}.{owner.__qualname__})"


def _text(thing: Any) -> str:
    return inspect.cleandoc(getattr(thing, "__doc__", None) or "")


def _options(cls: Any) -> tuple[str, ...]:
    """The options of a dataclass, with their types and defaults."""
    fields = [f for f in dataclasses.fields(cls) if f.init] if dataclasses.is_dataclass(cls) else []
    options = [
        f"{f.metadata.get('option', f.name)}: "
        f"{f.type.__name__ if isinstance(f.type, type) else f.type} = {f.default!r}"
        for f in fields
    ]
    return tuple(options) or ("none",)


def _detector(name: str, cls: Any) -> Sheet:
    grid = (f"{k} in {', '.join(map(str, values))}" for k, values in cls.grid.items())
    return Sheet(
        _title("detector", name, cls),
        _text(cls),
        (
            Entry("needs", (", ".join(sorted(cls.needs)) or "nothing",)),
            Entry("method", (f"{cls.method} (trained by, if nothing else is asked for)",)),
            Entry("options", _options(cls), is_block=True),
            Entry("grid", tuple(grid)),
            Entry("memory", _memory(name, cls)),
        ),
    )


def _memory(name: str, cls: Any) -> tuple[str, ...]:
    """Whether what a detector keeps grows with the samples that it is fitted on, as measured."""
    if cls.fit is Detector.fit:
        return ()
    try:
        with undisturbed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            toy = problem(build(cls, name, {})).train
            # enough of them that a share is more than the least that is kept
            few, many = (_bytes(name, cls, _repeated(toy, times)) for times in (8, 16))
    except Exception:  # whatever a stranger's detector makes of the toy problem
        return ()
    if many - few < 8 * len(toy):  # a byte for each sample that is more
        return ("fitted, it is as large for any number of training samples",)
    return ("fitted, it grows with the training samples: it keeps them, or some of them",)


def _repeated(outputs: Outputs, times: int) -> Outputs:
    return outputs[torch.arange(len(outputs)).repeat(times)]


def _bytes(name: str, cls: Any, train: Outputs) -> int:
    """The size of what a detector keeps of outputs that it was fitted on."""
    return len(pickle.dumps(build(cls, name, {}).fit(train).fitted_state()))


def _method(name: str, cls: Any) -> Sheet:
    recipes = []
    for recipe, value in cls.recipes.items():
        ids = cls.recipe_ids.get(recipe)
        title = f"recipe {recipe} (default for {', '.join(ids)})" if ids else f"recipe {recipe}"
        fields = tuple(f"{k} = {v!r}" for k, v in dataclasses.asdict(value).items())
        recipes.append(Entry(title, fields, is_block=True))
    return Sheet(_title("method", name, cls), _text(cls), tuple(recipes))


def _benchmark(name: str, thing: Any) -> Sheet:
    try:
        benchmark = get_benchmark(benchmark=name)
    except OptionError:  # a factory that wants an argument, such as folder:PATH
        return Sheet(f"benchmark {name}", _text(thing))
    protocol = benchmark.protocol

    def described(spec: DatasetSpec) -> str:
        return f"{spec.name}: {spec.description}"

    groups: dict[str, list[str]] = {}
    for member in benchmark.ood:
        groups.setdefault(member.group, []).append(described(member.spec))
    presets = [
        Entry(
            f"preset {preset}",
            tuple(f"{detector} {_pairs(options)}" for detector, options in detectors.items()),
        )
        for preset, detectors in benchmark.presets.items()
    ]
    return Sheet(
        f"benchmark {name}",
        "",
        (
            Entry("ID", (described(benchmark.id),)),
            *(Entry(group, tuple(members)) for group, members in groups.items()),
            Entry("chosen on", tuple(map(described, benchmark.validation))),
            *presets,
            Entry("task", (benchmark.task,)),
            Entry("input", (str(benchmark.preprocess),)),
            Entry(
                "ranking",
                (f"{protocol.rank_group} mean of {protocol.rank_by}; papers: {protocol.fpr}",),
            ),
            Entry("defined", (benchmark.citation,)),
            Entry("version", (str(benchmark.version),)),
            Entry("superseded by", (benchmark.superseded_by,) if benchmark.superseded_by else ()),
        ),
    )


def _pairs(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _dataset(name: str, spec: Any) -> Sheet:
    if not isinstance(spec, DatasetSpec):
        return Sheet(f"dataset {name}", _text(spec))
    states = [state_of(spec, split) for split in spec.splits]
    here = [f"{state.split}: {state.count}" for state in states if state.is_here]
    missing = [state for state in states if state.is_missing]
    damaged = dict.fromkeys(s.reason for s in states if not (s.is_here or s.is_missing))
    return Sheet(
        f"dataset {name}: {spec.description}",
        "",
        (
            Entry("splits", (", ".join(spec.splits),)),
            Entry("source", (spec.source,)),
            Entry("licence", (spec.licence,)),
            Entry("citation", (spec.citation,)),
            Entry("here", ("; ".join(here) or "nothing",)),
            Entry("damaged", tuple(damaged)),
            Entry("missing", (", ".join(s.split for s in missing),) if missing else ()),
            Entry("why", tuple(state.reason for state in missing[:1])),
            Entry(
                "get it", (f"oodbench data prepare {name}",) if missing and spec.downloads else ()
            ),
        ),
    )


def _backbone(name: str, factory: Any) -> Sheet:
    kind = backbone_kind(factory)
    description = getattr(factory, "description", None)
    return Sheet(
        _title("backbone", name, factory),
        description if isinstance(description, str) else _text(factory),
        (
            Entry("takes", (kind.takes,) if kind.takes else ()),
            Entry("gives", (kind.gives,) if kind.gives else ()),
            *(_size(lambda: factory(channels=3)) if kind.takes == "images" else ()),
        ),
    )


def _of_timm(name: str) -> list[Sheet]:
    """A network of timm's, which is a backbone by its own name."""
    import timm

    if not timm.is_model(name):
        return []
    size = _size(lambda: timm.create_model(name, pretrained=False, num_classes=0))
    entries = (Entry("takes", ("images",)), Entry("gives", ("features",)), *size)
    return [Sheet(f"backbone {name} (timm)", "A network of timm's.", entries)]


def _size(make: Callable[[], torch.nn.Module]) -> tuple[Entry, ...]:
    """The numbers of features and parameters of a network, whose weights are not filled in."""
    try:
        with torch.device("meta"):
            network = make()
        features = feature_width(network)
    except Exception:  # whatever a stranger's network does without weights
        return ()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return (
        Entry("features", (f"{features:,}",)),
        Entry("size", (f"{parameters:,} parameters, for images of 3 channels",)),
    )


def _task(name: str, cls: Any) -> Sheet:
    return Sheet(
        _title("task", name, cls),
        _text(cls),
        (
            Entry("counts", (cls.unit,)),
            Entry("quality", (cls.quality[1],)),
            Entry("columns", (", ".join(cls.columns),) if cls.columns else ()),
            Entry("options", _options(cls), is_block=True),
        ),
    )


def _other(kind: str) -> Callable[[str, Any], Sheet]:
    def tell(name: str, thing: Any) -> Sheet:
        return Sheet(_title(kind, name, thing), _text(thing))

    return tell


_KINDS: tuple[tuple[Registry[Any], Callable[[str, Any], Sheet]], ...] = (
    (DETECTORS, _detector),
    (METHODS, _method),
    (BENCHMARKS, _benchmark),
    (DATASETS, _dataset),
    (BACKBONES, _backbone),
    (TASKS, _task),
    (MEASURES, _other("measure")),
    (NEEDS, _other("need")),
    (PREPARATIONS, _other("preparation")),
)


@dataclass(frozen=True)
class State:
    """Whether a split of a dataset is on this machine.

    Args:
        name: of the dataset.
        split: of it; ``""`` where the dataset itself cannot be had.
        count: how much is there, such as ``"1,000 images"``; ``""`` if it cannot be used.
        reason: why it cannot be used, and how to get it.
        is_missing: whether it is not there, rather than damaged.
    """

    name: str
    split: str
    count: str = ""
    reason: str = ""
    is_missing: bool = False

    @property
    def is_here(self) -> bool:
        """Whether the split can be used."""
        return bool(self.count)


def states(names: Iterable[str] | None = None) -> Iterator[State]:
    """The state of each split of datasets (of all, for None) whose name is enough to find them."""
    for name in DATASETS.names() if names is None else names:
        try:
            spec = DATASETS.get(name)
        except OODBenchError as error:  # one damaged package must not hide the others' data
            yield State(name, "", reason=str(error))
            continue
        if isinstance(spec, DatasetSpec):
            yield from (state_of(spec, split, name) for split in spec.splits)


def state_of(spec: DatasetSpec, split: str, name: str | None = None) -> State:
    """Whether a split is on this machine; whatever is wrong with it is told, not raised."""
    name = name or spec.name
    try:
        samples = spec.load(split)
    except MissingDataError as error:
        return State(name, split, reason=str(error), is_missing=True)
    except OODBenchError as error:
        return State(name, split, reason=str(error))
    except (Exception, SystemExit) as error:  # of a stranger's code
        return State(name, split, reason=f"cannot be read ({error!r})")
    word = "samples" if isinstance(samples, MultimodalSamples) else "images"
    return State(name, split, count=f"{len(samples):,} {word}")

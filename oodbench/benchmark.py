"""Benchmark and Protocol: what is compared with what, as frozen data."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from oodbench import notebook
from oodbench.data.samples import Samples
from oodbench.data.transforms import MultimodalPreprocess, Preprocess
from oodbench.dataset import DatasetSpec, names_a_folder, resolve_dataset
from oodbench.errors import OptionError, UnknownNameError
from oodbench.registry import BENCHMARKS, STANDARD_METHOD, TASKS

SHIFTED = "shifted"
"""What rows call the group of shifted ID sets; no group of OOD sets bears that name."""

Caveats = Callable[[Samples], Iterable[str]]
"""Given the ID test samples, the warnings that a reader of a benchmark's figures needs."""


@dataclass(frozen=True)
class Protocol:
    """How a benchmark's figures are made and ranked.

    Args:
        rank_by: the figure that its leaderboard ranks by, a metric's column name.
        rank_group: the group whose mean is ranked; ``""`` for the first that has sets.
        fpr: the FPR@95 that its papers print: ``"fpr95_id"`` (ID positive: threshold keeps 95 %
            of ID, share of OOD accepted) or ``"fpr95_ood"`` (OOD positive: threshold catches 95 %
            of OOD, share of ID rejected). Both are always computed.
        contrast: two groups. The mean AUROC of the first minus that of the second (the ``gap``) is
            reported with its interval, in the row of the second group's mean; None for no such
            comparison.
        contrast_remark: what a reader of that difference should know, a sentence or a few.
        group_of_others: the group of an OOD set that the benchmark does not define and that is
            named without a group.
        full_spectrum: whether ``shifted`` sets count as ID: every OOD set is compared with the ID
            test set and all shifted sets together (Yang et al. 2023, full-spectrum OOD detection).
        seeds: how many trained networks its papers average over; pages say so.
        least_accuracy: the ID accuracy that networks of the literature have at least, of whatever
            the task calls the network's quality. Networks below it are *short runs*, which pages
            list apart from what they rank first; None for no bound.
        least_accuracy_source: whose networks the bound was taken from, with their accuracies.

    Raises:
        OptionError: a bound that is no share, or without its source.
    """

    rank_by: str = "auroc"
    rank_group: str = ""
    fpr: Literal["fpr95_id", "fpr95_ood"] = "fpr95_id"
    contrast: tuple[str, str] | None = None
    contrast_remark: str = ""
    group_of_others: str = "far"
    full_spectrum: bool = False
    seeds: int = 1
    least_accuracy: float | None = None
    least_accuracy_source: str = ""

    def __post_init__(self) -> None:
        if self.least_accuracy is None:
            return
        if not 0.0 < self.least_accuracy < 1.0 or not self.least_accuracy_source:
            raise OptionError(
                "least_accuracy is a share between 0 and 1 with its source, not "
                f"{self.least_accuracy!r} from {self.least_accuracy_source!r}."
            )


@dataclass(frozen=True)
class OODSet:
    """One OOD set of a benchmark, and the group whose mean it enters."""

    spec: DatasetSpec
    group: str

    @property
    def is_shifted(self) -> bool:
        """Whether its samples are of the ID classes under other conditions, and no OOD."""
        return self.group == SHIFTED


@dataclass(frozen=True, init=False)
class Benchmark:
    """An ID dataset, groups of OOD sets, the preprocessing and the protocol.

    A benchmark's name never changes its meaning; corrected data gets a new name, or at least a new
    ``version``.

    Args:
        name: ``"cifar100"``, or ``"cifar100/palm"`` for another protocol on the same ID set.
        id: the in-distribution dataset.
        near: OOD sets that resemble the ID set; short for ``groups={"near": ...}``.
        far: OOD sets that do not.
        preprocess: what is done to every image, ID or OOD.
        protocol: how the results are read.
        groups: OOD sets by the name of their group, whose mean is reported. A group may also be
            given by its name alone: ``easy=(...)`` is short for ``groups={"easy": (...)}``. Pages
            and tables have ``near`` and ``far`` first, then the others as they were given.
        backbone: the small network that a quick recipe trains on it.
        citation: where the benchmark is defined.
        validation: OOD sets that hyper-parameters may be chosen on; never tested on. Read from
            their ``val`` split, or the last if there is none.
        task: the name of what is scored (``oodbench list tasks``): whole images by default, or
            samples of several modalities where the preprocessing is of these.
        task_options: options of the task that differ from its own.
        shifted: sets of the ID classes under other conditions, which are no OOD: their AUROC tells
            how much a detector flags the shift, beside the accuracy there. They are not ranked by.
            Where the protocol says ``full_spectrum`` they are part of ID in all other figures.
        standard_method: the method that takes the place of the standard one: how a network is
            obtained for a detector that was made for any classifier.
        own_inputs: whether networks that were pre-trained see images in their own preprocessing,
            each at its own size, so that rows of different sizes are of the same images.
        measures: names of registered measures (``oodbench.measures``): figures that tell of a
            network's outputs on each OOD set, whatever the detector.
        caveats: called with the ID test samples; gives the warnings that a reader of the figures
            needs, beyond those that every benchmark has. None for none.
        presets: named settings of detectors, those of a paper or of another suite:
            ``{"openood": {"knn": {"k": 50}}}``. Detectors that one does not name keep theirs.
        remarks: what a reader of its leaderboard should know of it, a sentence or a few each; they
            stand at the page's head.
        version: raised when the same name comes to mean other images or figures. Rows of another
            version are in no table with those of this one.
        superseded_by: the name of the benchmark that takes this one's place, where it has a flaw;
            its page says so.
        more: further groups by name.

    Raises:
        OptionError: no ``preprocess``, a set that is tested on as well as chosen on, a ranking by
            shifted sets, or a protocol that names a group, or counts shifted sets, that there are
            not.
    """

    name: str
    id: DatasetSpec
    groups: Mapping[str, tuple[DatasetSpec, ...]]
    preprocess: Preprocess | MultimodalPreprocess
    protocol: Protocol
    backbone: str
    citation: str
    validation: tuple[DatasetSpec, ...]
    task: str
    task_options: Mapping[str, Any]
    shifted: tuple[DatasetSpec, ...]
    standard_method: str
    own_inputs: bool
    measures: tuple[str, ...]
    caveats: Caveats | None
    presets: Mapping[str, Mapping[str, Mapping[str, Any]]]
    remarks: tuple[str, ...]
    version: int
    superseded_by: str

    # written out: a group may be given by its name, so the constructor takes more than the fields
    def __init__(
        self,
        name: str,
        id: DatasetSpec,  # noqa: A002
        near: Sequence[DatasetSpec] | None = None,
        far: Sequence[DatasetSpec] | None = None,
        preprocess: Preprocess | MultimodalPreprocess | None = None,
        protocol: Protocol | None = None,
        *,
        groups: Mapping[str, Sequence[DatasetSpec]] | None = None,
        backbone: str = "resnet20",
        citation: str = "",
        validation: tuple[DatasetSpec, ...] = (),
        task: str = "",
        task_options: Mapping[str, Any] | None = None,
        shifted: tuple[DatasetSpec, ...] = (),
        standard_method: str = STANDARD_METHOD,
        own_inputs: bool = False,
        measures: tuple[str, ...] = (),
        caveats: Caveats | None = None,
        presets: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        remarks: tuple[str, ...] = (),
        version: int = 1,
        superseded_by: str = "",
        **more: Sequence[DatasetSpec],
    ) -> None:
        if preprocess is None:
            raise OptionError(
                f"benchmark {name}: say what is done to every image, `preprocess=Preprocess(...)`."
            )
        by_keyword = {"near": near, "far": far, **more}
        sets = _groups(name, {**STANDARD_GROUPS, **(groups or {})}, by_keyword)
        protocol = protocol or Protocol()
        if not protocol.rank_group:
            first = next((group for group, members in sets.items() if members), "near")
            protocol = replace(protocol, rank_group=first)
        vars(self).update(
            name=name,
            id=id,
            groups=sets,
            preprocess=preprocess,
            protocol=protocol,
            backbone=backbone,
            citation=citation,
            validation=validation,
            task=task or preprocess.task,
            task_options=task_options or {},
            shifted=shifted,
            standard_method=standard_method,
            own_inputs=own_inputs,
            measures=measures,
            caveats=caveats,
            presets=presets or {},
            remarks=remarks,
            version=version,
            superseded_by=superseded_by,
        )
        self._check()

    def _check(self) -> None:
        protocol = self.protocol
        if protocol.rank_group == SHIFTED:
            raise OptionError(
                f"benchmark {self.name}: shifted sets are of the ID classes, so detectors are not "
                "ranked by them. Rank by a group of OOD sets."
            )
        if protocol.full_spectrum and self.ood and not self.shifted:
            raise OptionError(
                f"benchmark {self.name}: it counts shifted sets as ID (`full_spectrum`), but has "
                "none. Give them as `shifted=(...)`."
            )
        for group in (protocol.rank_group, protocol.group_of_others, *(protocol.contrast or ())):
            if group not in self.groups:
                known = ", ".join(map(repr, self.groups))
                raise OptionError(
                    f"benchmark {self.name}: its protocol names the group {group!r}, but its "
                    f"groups of OOD sets are {known}."
                )
        tested = {chosen.spec.name for chosen in self.ood}
        both = sorted(tested & {spec.name for spec in self.validation})
        if both:
            raise OptionError(
                f"benchmark {self.name}: {', '.join(both)} is among the sets that hyper-parameters "
                "are chosen on and among those that are tested on. Leave it out of one."
            )

    def _repr_html_(self) -> str:
        """What a notebook shows: the sets of each group, the task, how results are ranked."""
        protocol = self.protocol
        sets = [(f"{name} OOD", ", ".join(spec.name for spec in members))
                for name, members in self.groups.items()]  # fmt: skip
        facts = [
            (
                "ID",
                f"{self.id.name}: {self.id.description}" if self.id.description else self.id.name,
            ),
            *sets,
            (SHIFTED, ", ".join(spec.name for spec in self.shifted)),
            ("validation", ", ".join(spec.name for spec in self.validation)),
            ("task", self.task),
            ("preprocess", str(self.preprocess)),
            ("ranked by", f"{protocol.rank_group} OOD, {protocol.rank_by}"),
            ("defined by", self.citation),
            ("superseded by", self.superseded_by),
        ]
        return notebook.sheet(self.name, facts)

    @property
    def near(self) -> tuple[DatasetSpec, ...]:
        """OOD sets that resemble the ID set."""
        return self.groups["near"]

    @property
    def far(self) -> tuple[DatasetSpec, ...]:
        """OOD sets that do not resemble the ID set."""
        return self.groups["far"]

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of all groups in the order of pages and tables; the last is that of shifted sets.

        The groups ``near`` and ``far`` are among them even without sets, so that any other OOD set
        can be counted as one of them.
        """
        return (*self.groups, SHIFTED)

    @property
    def ood(self) -> tuple[OODSet, ...]:
        """All sets that are told from ID, group by group in the order of ``group_names``."""
        groups = {**self.groups, SHIFTED: self.shifted}
        return tuple(OODSet(spec, group) for group, sets in groups.items() for spec in sets)

    def preset(self, name: str | None) -> Mapping[str, Mapping[str, Any]]:
        """Options by detector of the settings of that name; none for None.

        Raises:
            UnknownNameError: no such settings; names those that there are.
        """
        if name is None:
            return {}
        if name not in self.presets:
            there = f"its presets: {', '.join(self.presets)}" if self.presets else "it has none"
            raise UnknownNameError(f"benchmark {self.name} has no preset {name!r}; {there}.")
        return self.presets[name]

    def without_test(self) -> Benchmark:
        """What hyper-parameters may be chosen on: no OOD set to test on, and no ID test split.

        Its ID set loads ``train`` and ``val``; asking it for another split is an error.
        """
        load = self.id.load

        def load_untested(split: str) -> Samples:
            if split not in ("train", "val"):
                raise OptionError(
                    f"{self.id.name}/{split} is tested on; choices are made on train and val."
                )
            return load(split)

        splits = tuple(split for split in self.id.splits if split in ("train", "val"))
        untested = replace(self.id, load=load_untested, splits=splits)
        return replace(self, id=untested, groups=dict.fromkeys(self.groups, ()), shifted=())

    def choose(self, names: str | Sequence[str] | None) -> tuple[OODSet, ...]:
        """The OOD sets of those names; all of the benchmark's for None.

        A name is one of the benchmark's own sets, a registered dataset, ``folder:PATH``, or a
        folder of images below the data folder. Sets that are not the benchmark's own count as
        far (or as what its protocol says), unless written ``near=NAME`` or ``GROUP=NAME``. Shifted
        sets that count as ID are chosen with any others.

        Raises:
            UnknownNameError: a name that is none of these.
            OptionError: a name twice, or a group that there is not.
        """
        if names is None:
            return self.ood
        names = [names] if isinstance(names, str) else names
        own = {chosen.spec.name: chosen for chosen in self.ood}
        chosen: dict[str, OODSet] = {}
        for name in names:
            group, equals, bare = name.partition("=")
            is_path = ":" in group  # folder:PATH, whose path has an = in it
            if not equals or is_path or (group not in self.group_names and names_a_folder(name)):
                group, bare = "", name
            elif group not in self.group_names:
                known = ", ".join(map(repr, self.group_names))
                raise OptionError(f"`ood={name}`: the group is one of {known}, not {group!r}.")
            member = own.get(bare) or OODSet(
                resolve_dataset(bare, known=list(own)), self.protocol.group_of_others
            )
            if group:
                member = replace(member, group=group)
            if member.spec.name in chosen:
                raise OptionError(f"`ood` names {member.spec.name!r} twice.")
            chosen[member.spec.name] = member
        if not chosen:
            raise OptionError("`ood` names no dataset.")
        if self.protocol.full_spectrum:
            for spec in self.shifted:
                chosen.setdefault(spec.name, OODSet(spec, SHIFTED))
        return tuple(chosen.values())

    def is_complete(self, group: str, names: Sequence[str]) -> bool:
        """Whether those sets are the whole group, so that their mean may bear its name.

        Where the benchmark defines no sets itself (``folder:PATH``) whatever was chosen is whole.
        """
        defined = [chosen.spec.name for chosen in self.ood if chosen.group == group]
        return set(names) == set(defined) if self.ood else True


STANDARD_GROUPS: Mapping[str, tuple[DatasetSpec, ...]] = {"near": (), "far": ()}
"""Groups that every benchmark has, be they empty: the two that the field reports."""


def _groups(
    benchmark: str,
    groups: Mapping[str, Sequence[DatasetSpec]],
    by_keyword: Mapping[str, Sequence[DatasetSpec] | None],
) -> dict[str, tuple[DatasetSpec, ...]]:
    """Groups of OOD sets, with those that were given by name in the place of those in a mapping.

    Raises:
        OptionError: a group that can have no such name, or that holds anything but datasets.
    """
    merged = {**groups, **{name: sets for name, sets in by_keyword.items() if sets is not None}}
    for name, sets in merged.items():
        are_sets = isinstance(sets, list | tuple) and all(isinstance(s, DatasetSpec) for s in sets)
        if not are_sets:
            raise OptionError(
                f"benchmark {benchmark}: {name!r} is no option of a benchmark, and no group of OOD "
                "sets either, which is a tuple of DatasetSpec."
            )
        if name == SHIFTED or not re.fullmatch(r"[^\W\d][\w-]*", name):
            raise OptionError(
                f"benchmark {benchmark}: a group of OOD sets cannot be called {name!r}. Its name "
                f"has letters, digits, '-' and '_' alone, and is not {SHIFTED!r}: sets of the ID "
                f"classes are given as `{SHIFTED}=(...)`."
            )
    return {name: tuple(sets) for name, sets in merged.items()}


def get_benchmark(
    id: str | None = None,  # noqa: A002
    benchmark: str | Benchmark | None = None,
    task: str | None = None,
) -> Benchmark:
    """The default benchmark of an ID set and a task, or the benchmark of that name.

    Where the ID set's default benchmark is of another task, that of the task is named
    ``<id>/<task>``. A benchmark
    that is given itself is given back, if ID set and task are its own.

    Raises:
        UnknownNameError: no such benchmark.
        OptionError: neither was given, no such task, or what was given contradicts itself.
    """
    if task is not None and task not in TASKS:
        raise OptionError(f"the task is one of {', '.join(TASKS.names())}, not {task!r}.")
    if isinstance(benchmark, Benchmark):
        return _agreeing(benchmark, id, task)
    if benchmark is not None:
        return _agreeing(_resolved(benchmark), id, task)
    if id is None:
        raise OptionError(
            'name an ID set (`id="cifar10"`) or a benchmark (`benchmark="cifar100/palm"`).'
        )
    name = f"{id}/{task}"
    if task is None or id.endswith(f"/{task}"):
        return _agreeing(_resolved(id), None, task)
    if name not in BENCHMARKS and id in BENCHMARKS and _is_of(_resolved(id), task):
        return _resolved(id)
    return _agreeing(_resolved(name), None, task)


def _is_of(benchmark: Benchmark, task: str) -> bool:
    """Whether a benchmark is of a task, or of one that is a kind of it."""
    return benchmark.task == task or issubclass(TASKS.get(benchmark.task), TASKS.get(task))


def _resolved(name: str) -> Benchmark:
    benchmark = BENCHMARKS.resolve(name)
    if ":" not in name and callable(benchmark):
        try:
            inspect.signature(benchmark).bind()
        except TypeError:
            raise OptionError(f"the benchmark {name!r} wants an argument: {name}:PATH.") from None
        benchmark = benchmark()
    if not isinstance(benchmark, Benchmark):
        raise OptionError(f"the benchmark {name!r} is no Benchmark but {type(benchmark).__name__}.")
    return benchmark


def _agreeing(benchmark: Benchmark, id_name: str | None, task: str | None) -> Benchmark:
    """The benchmark, if it is of that ID set and task.

    Raises:
        OptionError: it is of another; names both.
    """
    if id_name is not None and id_name not in (benchmark.id.name, benchmark.name):
        raise OptionError(
            f"benchmark {benchmark.name!r} has ID set {benchmark.id.name!r}, not {id_name!r}."
        )
    if task is not None and not _is_of(benchmark, task):
        raise OptionError(
            f"benchmark {benchmark.name!r} is one of {benchmark.task}, not of {task}."
        )
    return benchmark

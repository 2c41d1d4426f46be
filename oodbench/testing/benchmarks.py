"""The checks that every benchmark passes.

    @pytest.mark.parametrize("check", benchmark_checks(), ids=lambda check: check.__name__)
    def test_my_benchmark(check):
        check(my_benchmark)

A check takes what was registered: a ``Benchmark``, or a function of no argument that makes one.
Those that look at samples look at what is below ``OODBENCH_DATA``, and pass over what is not there;
run them once where the data is. Some read every image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch.utils._pytree import tree_leaves

from oodbench.benchmark import SHIFTED, Benchmark
from oodbench.checks.overlap import shared
from oodbench.data.samples import Samples
from oodbench.data.transforms import content_key
from oodbench.dataset import DatasetSpec
from oodbench.errors import MissingDataError, OODBenchError
from oodbench.networks.backbones import backbone_names, is_registered
from oodbench.options import build
from oodbench.registry import BACKBONES, DETECTORS, MEASURES, METHODS, TASKS
from oodbench.results.rows import METRICS
from oodbench.tasks.task import task_of
from oodbench.testing.drawn import own_folders
from oodbench.testing.suite import checks_in, is_json

Make = Benchmark | Callable[[], Benchmark]
BenchmarkCheck = Callable[[Make], None]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?(:.+)?")


def made(make: Make) -> Benchmark:
    """The benchmark that was registered, or that the registered function makes."""
    benchmark = make if isinstance(make, Benchmark) else make()
    assert isinstance(benchmark, Benchmark), f"{make!r} makes no Benchmark, but {benchmark!r}"
    return benchmark


def _who(benchmark: Benchmark) -> str:
    return f"benchmark {benchmark.name}"


def _specs(benchmark: Benchmark) -> list[DatasetSpec]:
    """All sets: ID, OOD and shifted ones, and those that options are chosen on."""
    return [benchmark.id, *(chosen.spec for chosen in benchmark.ood), *benchmark.validation]


def _loaded(benchmark: Benchmark) -> Iterator[tuple[DatasetSpec, str, Samples]]:
    """Each split that is on this machine."""
    for spec in {id(spec): spec for spec in _specs(benchmark)}.values():
        for split in spec.splits:
            try:
                samples = spec.load(split)
            except MissingDataError:
                continue
            yield spec, split, samples


def _id_splits(benchmark: Benchmark) -> dict[str, Samples]:
    return {split: samples for spec, split, samples in _loaded(benchmark) if spec is benchmark.id}


def check_makes_the_same(make: Make) -> None:
    """Made twice it is the same: sets, groups, protocol, preprocessing and options."""
    one, other = (_described(made(make)) for _ in range(2))
    different = [name for name, value in one.items() if other[name] != value]
    assert not different, (
        f"{_who(made(make))} has another {', '.join(different)} each time that it is made"
    )


def _described(benchmark: Benchmark) -> dict[str, Any]:
    values = {name: getattr(benchmark, name) for name in benchmark.__dataclass_fields__}
    values["preprocess"] = content_key(values["preprocess"])
    values["caveats"] = values["caveats"] is not None
    for name in ("id", "groups", "validation", "shifted"):
        values.pop(name)
    values["ood"] = [(chosen.group, chosen.spec.name) for chosen in benchmark.ood]
    values["specs"] = [(s.name, s.splits, s.description) for s in _specs(benchmark)]
    return values


def check_reads_nothing(make: Make) -> None:
    """It is made without data: no samples are loaded, and none need be there."""
    if isinstance(make, Benchmark):
        return

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError(
            f"{getattr(make, '__qualname__', make)} reads samples when the benchmark is made. "
            "Read them in the `load` of a DatasetSpec"
        )

    with own_folders(), mock.patch.object(Samples, "__init__", refuse):
        try:
            made(make)
        except OODBenchError as error:
            raise AssertionError(f"it cannot be made where there is no data: {error}") from error


def check_names(make: Make) -> None:
    """Names are those of files and of the command line, and no set is there twice."""
    benchmark = made(make)
    names = [chosen.spec.name for chosen in benchmark.ood]
    for name in (benchmark.name, *(spec.name for spec in _specs(benchmark))):
        assert _NAME.fullmatch(name), (
            f"{_who(benchmark)}: {name!r} is no name for a file or a command line. Take small "
            "letters, digits, '-', '_' and '.', and one '/' at most"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"{_who(benchmark)} has the OOD set {', '.join(twice)} twice"
    assert benchmark.id.name not in names, (
        f"{_who(benchmark)}: the OOD set {benchmark.id.name} bears the name of the ID set"
    )
    chosen = [spec.name for spec in benchmark.validation]
    assert len(set(chosen)) == len(chosen), f"{_who(benchmark)} has a validation set twice"


def check_described(make: Make) -> None:
    """Each dataset says in one line what it is, where it comes from and what is allowed."""
    benchmark = made(make)
    for spec in _specs(benchmark):
        who = f"{_who(benchmark)}, dataset {spec.name}"
        assert spec.description.strip(), f"{who} has no description: say in one line what it is"
        assert "\n" not in spec.description, f"{who}: its description is more than one line"
        assert spec.source, f"{who} has no source: say where the data comes from"
        assert spec.licence, f"{who} has no licence: say what its publisher allows, or 'unknown'"


def check_splits(make: Make) -> None:
    """The ID set has a training and a test split, and every set has one to be read.

    Where something else than whole samples is scored, a benchmark may be for given networks alone,
    and have no training split.
    """
    benchmark = made(make)
    needed = {"train", "test"} if task_of(benchmark).is_classified else {"test"}
    missing = needed - set(benchmark.id.splits)
    assert not missing, (
        f"{_who(benchmark)}: the ID set {benchmark.id.name} has no split {' or '.join(missing)}"
    )
    for spec in _specs(benchmark):
        assert spec.splits, f"{_who(benchmark)}: {spec.name} has no split to be read"
        assert len(set(spec.splits)) == len(spec.splits), f"{spec.name} has a split twice"


def check_protocol(make: Make) -> None:
    """What is ranked by is a metric; groups that the protocol names have sets."""
    benchmark = made(make)
    protocol = benchmark.protocol
    assert protocol.rank_by in METRICS, (
        f"{_who(benchmark)} ranks by {protocol.rank_by!r}, which is no metric; there are "
        f"{', '.join(METRICS)}"
    )
    assert protocol.fpr in ("fpr95_id", "fpr95_ood"), (
        f"{_who(benchmark)}: the protocol's fpr is {protocol.fpr!r}; take fpr95_id or fpr95_ood"
    )
    if not any(benchmark.groups.values()):  # sets are named on the command line
        return
    for group in (protocol.rank_group, *(protocol.contrast or ())):
        assert group != SHIFTED, f"{_who(benchmark)}: shifted sets are neither ranked nor compared"
        assert benchmark.groups.get(group), (
            f"{_who(benchmark)}: the protocol names the group {group!r}, which has no sets"
        )


def check_task(make: Make) -> None:
    """The task exists, has the options, and suits; methods and measures that are named exist."""
    benchmark = made(make)
    assert benchmark.task in TASKS, (
        f"{_who(benchmark)}: no task {benchmark.task!r} is registered; there are "
        f"{', '.join(TASKS.names())}"
    )
    unknown = [name for name in benchmark.measures if name not in MEASURES]
    assert not unknown, f"{_who(benchmark)}: no measure {', '.join(unknown)} is registered"
    assert benchmark.standard_method in METHODS, (
        f"{_who(benchmark)}: no method {benchmark.standard_method!r} is registered"
    )
    assert is_json(dict(benchmark.task_options)), (
        f"{_who(benchmark)}: task_options cannot be written as JSON"
    )
    try:
        task = task_of(benchmark)
        task.check(benchmark)
        task.method(benchmark.standard_method)
    except OODBenchError as error:
        raise AssertionError(f"{_who(benchmark)} does not suit its task: {error}") from error


def check_backbone(make: Make) -> None:
    """The backbone is a name, registered or timm's, of a network for such samples."""
    benchmark = made(make)
    name = benchmark.backbone
    if not is_registered(name):
        import timm

        assert timm.is_model(name), f"{_who(benchmark)}: {name!r} is no backbone, nor timm's"
        return
    factory = BACKBONES.get(name.partition(":")[0])
    takes = "images" if isinstance(benchmark.preprocess.channels, int) else "modalities"
    gives = METHODS.get(task_of(benchmark).method(benchmark.standard_method)).backbone_gives
    for verb, wanted in (("takes", takes), ("gives", gives)):
        word = getattr(factory, verb, None)
        assert None in (word, wanted) or word == wanted, (
            f"{_who(benchmark)}: the backbone {name!r} {verb} {word}, but {wanted} are needed; "
            f"others: {', '.join(backbone_names(takes=takes, gives=gives))}"
        )


def check_presets(make: Make) -> None:
    """Presets name detectors that can score here, and options that these have."""
    benchmark = made(make)
    task = task_of(benchmark)
    for preset, settings in benchmark.presets.items():
        for name, options in settings.items():
            who = f"{_who(benchmark)}, preset {preset}"
            assert name in DETECTORS, f"{who}: no detector {name!r} is registered"
            reason = task.why_not(DETECTORS.get(name))
            assert reason is None, f"{who}: {name} {reason}"
            assert is_json(dict(options)), f"{who}: options of {name} cannot be written as JSON"
            try:
                build(DETECTORS.get(name), f"detector {name}", options)
            except OODBenchError as error:
                raise AssertionError(f"{who}: {error}") from error


def check_missing_data(make: Make) -> None:
    """Data that is not there is a ``MissingDataError`` that names a place and says what to do."""
    benchmark = made(make)
    with own_folders() as root:
        for spec in _specs(benchmark):
            for split in spec.splits:
                who = f"{_who(benchmark)}: {spec.name}/{split}"
                try:
                    spec.load(split)
                except MissingDataError as error:
                    text = str(error)
                    assert root in text or re.search(r"[\w.-]+[/\\][\w.-]+", text), (
                        f"{who} is missing, but the error names no folder: {text}"
                    )
                    assert len(text.split()) > 8, (
                        f"{who} is missing, but the error does not say how to get it: {text}"
                    )
                except Exception as error:
                    raise AssertionError(
                        f"{who} without data is {type(error).__name__} ({error}); raise "
                        "MissingDataError, naming the folders that were looked for"
                    ) from error


def check_same_samples(make: Make) -> None:
    """A split that is loaded twice has the same fingerprint."""
    benchmark = made(make)
    for spec, split, samples in _loaded(benchmark):
        assert len(samples), f"{_who(benchmark)}: {spec.name}/{split} is empty"
        assert spec.load(split).fingerprint == samples.fingerprint, (
            f"{_who(benchmark)}: {spec.name}/{split} is not the same when it is loaded again. "
            "Order and random draws must not depend on time, folder or process"
        )


def check_labels(make: Make) -> None:
    """Labels are numbers of classes, class names are all different, and each class occurs."""
    benchmark = made(make)
    is_classified = task_of(benchmark).is_classified
    for split, samples in _id_splits(benchmark).items():
        who = f"{_who(benchmark)}: {samples.name}"
        classes, labels = samples.classes, samples.labels
        assert len(classes) > 1, f"{who} has {len(classes)} class(es); two are needed at least"
        assert len(set(classes)) == len(classes), f"{who} has a class name twice"
        inside = (labels >= 0) & (labels < len(classes))
        assert inside.all(), f"{who} has labels beyond its {len(classes)} classes"
        if is_classified and split == "train":
            absent = [name for i, name in enumerate(classes) if not (labels == i).any()]
            assert not absent, f"{who} has no sample of {', '.join(absent[:5])}"


def check_classes(make: Make) -> None:
    """All splits of the ID set, and shifted sets, have the same classes in one order."""
    benchmark = made(make)
    splits = _id_splits(benchmark)
    shifted = {id(spec) for spec in benchmark.shifted}
    splits |= {s.name: samples for s, _, samples in _loaded(benchmark) if id(s) in shifted}
    classes = {name: samples.classes for name, samples in splits.items()}
    assert len(set(classes.values())) <= 1, (
        f"{_who(benchmark)}: {', '.join(classes)} have different classes, or in another order"
    )


def check_splits_are_apart(make: Make) -> None:
    """No ID test image is in the training or the validation split."""
    benchmark = made(make)
    splits = _id_splits(benchmark)
    for split in set(splits) - {"test"}:
        if "test" in splits:
            common = shared(splits["test"], splits[split])
            assert not common, (
                f"{_who(benchmark)}: {common} of the ID test images are also in {split}"
            )


def check_ood_is_apart(make: Make) -> None:
    """No image of an OOD set is in the ID set."""
    benchmark = made(make)
    splits = _id_splits(benchmark)
    tested = {id(c.spec): c.spec for c in benchmark.ood if not c.is_shifted}
    for spec, split, samples in _loaded(benchmark):
        if id(spec) in tested and split == spec.splits[-1]:
            for name, known in splits.items():
                common = shared(samples, known)
                assert not common, (
                    f"{_who(benchmark)}: {common} of the OOD images of {spec.name} are also in "
                    f"{benchmark.id.name}/{name}"
                )


def check_preprocess(make: Make) -> None:
    """Preprocessing has a content key, and gives finite tensors of one shape, always the same."""
    benchmark = made(make)
    transform: Any = benchmark.preprocess
    assert content_key(transform) is not None, (
        f"{_who(benchmark)}: the preprocessing cannot be told from another by its content, so "
        "outputs are not cached. Give its parts a __repr__ with all settings"
    )
    shapes: Mapping[str, Any] = {}
    keeps_size = task_of(benchmark).keeps_size
    for spec, split, samples in _loaded(benchmark):
        who = f"{_who(benchmark)}: {spec.name}/{split} preprocessed"
        for index in {0, len(samples) - 1}:
            tensors, again = (tree_leaves(transform(samples[index])) for _ in range(2))
            assert all(map(torch.equal, tensors, again)), f"{who} is not the same each time"
            assert all(t.isfinite().all() for t in tensors), f"{who} has NaN or infinite values"
            here = {"": [tuple(t.shape[:1] if keeps_size else t.shape) for t in tensors]}
            shapes = shapes or here
            assert here == shapes, f"{who} has the shape {here['']}, another one {shapes['']}"


def benchmark_checks() -> list[BenchmarkCheck]:
    """All checks, in the order of this file."""
    return checks_in(globals())

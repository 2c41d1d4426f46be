"""Contenders: networks that detectors are put on, and what it takes to put a detector on one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from oodbench import files, zoo
from oodbench.benchmark import Benchmark
from oodbench.checks.classes import check_classes
from oodbench.checks.unseen import told_of
from oodbench.data.samples import Samples
from oodbench.data.transforms import Preprocess
from oodbench.detector import Detector
from oodbench.errors import OptionError
from oodbench.hardware import Hardware
from oodbench.method import Method, told_fields
from oodbench.networks.given import Given, is_published, load_network, published
from oodbench.networks.headed import classes_in, load_classifier
from oodbench.networks.inputs import of_metadata, said_of_backbone
from oodbench.networks.models import as_module
from oodbench.networks.runtimes import ONNXNetwork
from oodbench.networks.towers import Towers, ZeroShot, read_names, read_words, templates_of
from oodbench.preprocessing import OWN_WORD, Asked
from oodbench.registry import METHODS
from oodbench.reporting import Report, warnings_to
from oodbench.settings import PREPROCESSING, NetworkSettings
from oodbench.tasks.contender import Contender
from oodbench.tasks.task import method_of, task_of
from oodbench.training.run import Run, is_frozen, plan
from oodbench.training.train import train


@dataclass(frozen=True)
class Networks(NetworkSettings):
    """Which networks detectors are put on: yours, a checkpoint, or ones that are trained now.

    The fields, those of :class:`~oodbench.settings.NetworkSettings` among them, are arguments of
    :func:`oodbench.evaluate`, where they are told. The networks may be gone through more than once;
    each is trained, and told of, the first time only.
    """

    model: nn.Module | None = None
    digest: str | None = None
    _loaded: dict[str, Given] = field(default_factory=dict, compare=False, repr=False)
    _reported: set[str] = field(default_factory=set, compare=False, repr=False)

    def is_trained_elsewhere(self, benchmark: Benchmark, detectors: Sequence[Detector]) -> bool:
        """Whether there is one network, which is not trained here.

        A checkpoint is one of a classifier, unless the methods take it as a pre-trained network.
        """
        if self.model is not None or self.network is not None:
            return True
        if self.checkpoint is None and not is_published(self.backbone):
            return False
        methods = self._methods(benchmark, detectors)
        return not all(METHODS.get(name).names_backbones for name in methods)

    def check(self, benchmark: Benchmark, detectors: Sequence[Detector]) -> None:
        """Check, before data is read, that the methods train networks of the benchmark's task.

        Raises:
            UnknownNameError: there is no such method.
            OptionError: a method trains networks of another task; names those that can.
        """
        if self.network is not None and (self.model or self.checkpoint or self.backbone):
            raise OptionError(
                "`network` is a whole network with its weights: leave out `backbone`, `checkpoint` "
                "and the model."
            )
        if self.model is None and self.network is None:
            self._methods(benchmark, detectors)
        reading = [d.label for d in detectors if "text" in d.needs and not self._has_text(d)]
        if reading and not self.is_trained_elsewhere(benchmark, detectors):
            raise OptionError(
                f"{', '.join(reading)} needs a network that reads text, which is not trained "
                "here. Give one: `backbone=openclip/NAME/TAG`, with `checkpoint=FILE` for weights "
                "of your own, or `network=` the folder of a CLIP of Hugging Face's."
            )

    def check_inputs(
        self,
        benchmark: Benchmark,
        detectors: Sequence[Detector],
        report: Report,
        task_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Check, before data is fetched for it, that a network that is given can be used.

        It is loaded, and somebody must say how images are made for it. Of a checkpoint whose head
        is not found without knowing the classes, that is left to when these are known.

        Args:
            benchmark: what it is scored on.
            detectors: what is put on it.
            report: told what happens, line by line.
            task_options: options of the benchmark's task.

        Raises:
            OptionError: nobody says how images are made for it.
            OODBenchError: what loading it raises.
        """
        if not self.is_trained_elsewhere(benchmark, detectors):
            return
        classes = 0
        is_bare = self.network is None and not is_published(self.backbone)
        if is_bare and self.backbone is not None and self.checkpoint is not None:
            shown = benchmark.preprocess
            channels = shown.channels if isinstance(shown, Preprocess) else 3
            count = classes_in(self.backbone, self.checkpoint, channels)
            if count is None:
                return
            classes = count
        contender = self._trained_elsewhere(benchmark, classes, report)
        task_of(benchmark, task_options or {}).start(contender, benchmark, Hardware())

    def _has_text(self, detector: Detector) -> bool:
        """Whether the network of a detector's method, or of the one asked for, reads text."""
        name = self.method or detector.method
        return name in METHODS and "text" in (METHODS.get(name).gives or ())

    def _methods(self, benchmark: Benchmark, detectors: Sequence[Detector]) -> list[str]:
        """The methods of the networks, each once."""
        names = (method_of(benchmark, self.method or d.method) for d in detectors)
        return list(dict.fromkeys(names))

    def beside(self, detectors: Sequence[Detector]) -> list[str]:
        """Names of the datasets that training sees beside the ID set, as its options say."""
        methods = {self.method} if self.method else {detector.method for detector in detectors}
        fields = {METHODS.get(name).auxiliary for name in methods if name in METHODS}
        asked = self.recipe_options or {}
        return [str(asked[field]) for field in sorted(fields) if field and asked.get(field)]

    def contenders(
        self,
        benchmark: Benchmark,
        detectors: Sequence[Detector],
        reference: Samples,
        hardware: Hardware,
        report: Report,
        on_forward: Callable[[int], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Iterator[tuple[Contender, list[Detector]]]:
        """Each network with the detectors that are put on it; trained when its turn comes.

        Args:
            benchmark: whose ID set is learned.
            detectors: all of them; one network each, by the method that they were designed for.
            reference: ID samples whose classes the networks must know.
            hardware: where and how training runs.
            report: told what happens, line by line.
            on_forward: called with the number of samples that a frozen network saw.
            warn: told what a reader of the scores has to know of the training images; None for
                ``report``.

        Raises:
            DataError: the ID training set has other classes than the reference.
            OODBenchError: what planning, training or loading raises.
        """
        if self.is_trained_elsewhere(benchmark, detectors):
            contender = self._trained_elsewhere(
                benchmark, len(reference.classes), report, reference.classes, detectors
            )
            yield contender, list(detectors)
            return
        self._check_trained_here(benchmark, detectors)
        with warnings_to(warn or (lambda text: report(f"warning: {text}"))):
            runs = self.runs(benchmark, detectors, hardware)
        for run in runs:
            check_classes(run.samples, reference)
        for run in runs:
            is_new = run.key not in self._reported
            self._reported.add(run.key)
            retrain = self.retrain and is_new
            if is_new:
                report(_announcement(run, retrain))
            network = train(run, hardware, retrain=retrain, on_forward=on_forward)
            if is_new and network.summary:
                report(f"{run.method}: {network.summary}")
            its_detectors = [
                d for d in detectors if method_of(benchmark, self.method or d.method) == run.method
            ]
            asked = frozenset(need for d in its_detectors for need in d.needs)
            if asked := asked & network.given_if_asked:
                network.asked = asked
            contender = contender_of(run, network)
            yield contender, its_detectors

    def runs(
        self, benchmark: Benchmark, detectors: Sequence[Detector], hardware: Hardware
    ) -> list[Run]:
        """The trainings of the networks that are trained here, done or not.

        Raises:
            OODBenchError: what planning raises.
        """
        return [
            plan(
                benchmark,
                name,
                recipe=self.recipe,
                backbone=self.backbone and self.backbone.removeprefix("timm/"),
                seed=seed,
                overrides=self.recipe_options,
                checkpoint=self.checkpoint,
                precision=hardware.numbers,
            )
            for seed in self.seeds
            for name in self._methods(benchmark, detectors)
        ]

    @property
    def asked(self) -> Asked:
        """What the caller says of how images are made for the network."""
        return Asked(**{name: getattr(self, name) for name in PREPROCESSING})

    def _check_trained_here(self, benchmark: Benchmark, detectors: Sequence[Detector]) -> None:
        """Networks that are trained here see what they were trained in, and have no prompts."""
        if any((self.prompts, self.class_names, self.words)):
            raise OptionError(
                "`prompts`, `class_names` and `words` are for a network that reads text and is "
                "given, not trained. A method that learns prompts has its own names: "
                "`recipe_options` class_names."
            )
        if not self.asked or self.asked == Asked(OWN_WORD):
            return
        said = self.asked.numbers()
        name = next(iter(said), "preprocess")
        frozen = next(filter(is_frozen, self._methods(benchmark, detectors)), None)
        if frozen is not None:
            raise OptionError(
                f"{frozen} takes a network with the preprocessing that it was trained in, which "
                f"`{name}` cannot change. Leave it out; another size of the images: "
                "`recipe_options` input_size=N."
            )
        raise OptionError(
            f"`{name}` is for a network that you give; this one is trained here, on images "
            f"as {benchmark.name} shows them, and must see no others. Leave it out, or give a "
            "network: `checkpoint=FILE` with `backbone=NAME`."
        )

    def _trained_elsewhere(
        self,
        benchmark: Benchmark,
        classes: int,
        report: Report,
        names: Sequence[str] = (),
        detectors: Sequence[Detector] = (),
    ) -> Contender:
        external = self._given(benchmark, classes, report)
        if isinstance(external.network, Towers):
            patches = any("patches" in detector.needs for detector in detectors)
            network = self._reading(external.network, names, patches)
            external = dataclasses.replace(external, network=network)
        elif any((self.prompts, self.class_names, self.words)):
            raise OptionError(
                "`prompts`, `class_names` and `words` are for networks that read text: "
                "`backbone=openclip/NAME/TAG`, or the folder of a CLIP."
            )
        is_named = self.network is not None and isinstance(external.network, ONNXNetwork)
        return Contender(
            external.network,
            backbone=self.backbone or self.file_name,
            preprocess=self.asked,
            said=external.said,
            layer=None if is_named else self.layer,
            seed=self.seeds[0],
            claimed_method=self.method,
            digest=self.digest,
            arguments=self._arguments(),
        )

    def _reading(self, towers: Towers, names: Sequence[str], patches: bool) -> ZeroShot:
        """The classifier that names make of towers; of one name, before they are known."""
        texts = templates_of(self.prompts)
        named = (
            list(names) if self.class_names is None else read_names(self.class_names, len(names))
        )
        words = None if self.words is None else read_words(self.words)
        if not names:  # the towers alone are looked at
            return ZeroShot(towers, ["class"], texts[:1])
        key = f"text {texts} {named} {self.words} {patches}"
        if key not in self._loaded:
            self._loaded[key] = Given(ZeroShot(towers, named, texts, words, patches))
        made = self._loaded[key].network
        assert isinstance(made, ZeroShot)  # noqa: S101
        return made

    def _arguments(self) -> dict[str, Any]:
        """What was asked for to get the network; of a model in Python, that it was one."""
        asked = {
            "model": None if self.model is None else type(self.model).__name__,
            "network": self.file_name or None,
            "layer": self.layer,
            "digest": self.digest,
            "prompts": self.prompts,
        }
        told = {name: value for name, value in asked.items() if value is not None}
        given = _files(network=self.network, checkpoint=self.checkpoint)
        return {**told, **given, **_files(class_names=self.class_names, words=self.words)}

    @property
    def file_name(self) -> str:
        """What rows call a network that is given by a text: without the folders on this machine."""
        if self.network is None:
            return ""
        return Path(self.network).name if Path(self.network).exists() else self.network

    def _given(self, benchmark: Benchmark, classes: int, report: Report) -> Given:
        """The network that was trained elsewhere; loaded once."""
        if self.model is not None:
            return Given(self.model)
        shown = benchmark.preprocess
        is_whole = self.network is not None and not task_of(benchmark).rows_are_samples
        is_classified = task_of(benchmark).is_classified
        if not (is_classified or is_whole) or not isinstance(shown, Preprocess):
            raise OptionError(
                f"a checkpoint is one of an image classifier, which {benchmark.name} is not "
                "for. Give the network itself in Python: oodbench.evaluate(model, ...)."
            )
        key = str((self.network, self.backbone, self.checkpoint, classes, shown.channels))
        if key not in self._loaded:
            self._loaded[key] = self.load(classes, shown.channels, report)
        return self._loaded[key]

    def load(self, classes: int, channels: int, report: Report) -> Given:
        """The network that a text or a file stands for.

        Args:
            classes: how many a checkpoint's classifier has.
            channels: of its images.
            report: told which of several networks in a checkpoint is taken.

        Raises:
            OptionError: a checkpoint without the network's name.
            OODBenchError: what loading raises.
        """
        if self.network is not None:
            if self.network in zoo.index():
                return Given(zoo.load_network(self.network))
            return load_network(self.network, self.layer)
        if self.backbone is not None and is_published(self.backbone):
            return published(self.backbone, self.checkpoint)
        if self.backbone is None or self.checkpoint is None:
            raise OptionError('a checkpoint needs the network\'s name: `backbone="resnet20"`.')
        model, metadata = load_classifier(self.backbone, self.checkpoint, classes, channels)
        if "entries" in metadata:
            self._report_once(metadata["entries"], report)
        file = of_metadata(metadata, f"metadata of {Path(self.checkpoint).name}")
        own = said_of_backbone(self.backbone)
        return Given(model, tuple(one for one in (file, own) if one is not None))

    def _report_once(self, text: str, report: Report) -> None:
        """Report once what may be found out several times."""
        if text not in self._reported:
            report(text)
        self._reported.add(text)

    def __post_init__(self) -> None:
        """Say at once what a model is that is none."""
        if self.model is not None:
            object.__setattr__(self, "model", as_module(self.model))


def _announcement(run: Run, retrain: bool) -> str:
    """A line that says what is trained, or is trained already, and what it takes."""
    state = "trained already" if run.weights.is_file() and not retrain else "training"
    effort = run.recipe.effort(f"{len(run.samples)} images of {run.samples.name}")
    if run.auxiliary is not None:
        field = METHODS.get(run.method).auxiliary.replace("_", " ")
        effort += f" beside {len(run.auxiliary)} of {run.auxiliary.name} ({field})"
    if run.start is not None:
        before = run.start
        first = "trained already" if before.weights.is_file() else "trained first"
        effort += f", after {before.method}, recipe {before.recipe_name} ({first})"
    return (
        f"{state}: {run.method}, recipe {run.recipe_name}, {run.backbone}, seed {run.seed}, "
        f"{effort}"
    )


def _files(**paths: str | Path | None) -> dict[str, Any]:
    """Files that were given, by what they hold: a path on this machine says nothing elsewhere."""
    given = {name: files.user_path(path) for name, path in paths.items() if path is not None}
    return {
        name: {"file": path.name, "sha256": files.sha256(path)}
        for name, path in given.items()
        if path.is_file()
    }


def contender_of(run: Run, network: Method) -> Contender:
    """The network of a run as it stands in rows."""
    file = f" ({Path(run.checkpoint).name})" if run.checkpoint else ""
    return Contender(
        network,
        method=run.method,
        backbone=run.backbone + file,
        recipe=run.recipe_name,
        recipe_options=told_fields(run.recipe),
        seed=run.seed,
        trained_on=run.samples,
        notes=METHODS.get(run.method).caveats(run.recipe_name, run.checkpoint),
        auxiliary=told_of(run.auxiliary, METHODS.get(run.method).auxiliary),
        beside=run.auxiliary,
        arguments=_files(checkpoint=run.checkpoint),
    )

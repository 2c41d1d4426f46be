"""The sets that an evaluation tests on: the ID test set, and the OOD sets that are at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from oodbench import files
from oodbench.benchmark import Benchmark
from oodbench.checks import overlap
from oodbench.checks.classes import check_classes, id_samples
from oodbench.checks.unseen import refuse_seen
from oodbench.data.samples import Samples
from oodbench.dataset import DatasetSpec
from oodbench.errors import MissingDataError, OptionError
from oodbench.reporting import Report, warnings_to
from oodbench.results.rows import Row
from oodbench.tasks.contender import Contender
from oodbench.tasks.task import Task


@dataclass
class TestedSet:
    """An OOD set that is on this machine.

    Args:
        name: its name in rows.
        group: the group whose mean it enters.
        samples: what is scored.
        is_shifted: whether its samples are of the ID classes, and no OOD.
        counts_as_id: whether OOD sets are compared with it as well as with the ID test set.
    """

    name: str
    group: str
    samples: Samples
    is_shifted: bool
    counts_as_id: bool = False


class Tested:
    """The sets of one evaluation, and what of them is learned from or tested on twice.

    Args:
        benchmark: whose sets they are.
        task: what is scored.
        names: OOD sets to use, None for all of the benchmark's; see :meth:`Benchmark.choose`.
        report: told what happens, line by line.
        warn: told what a reader of the rows has to know.

    Attributes:
        test: the ID test set.
        ood: the OOD sets that are at hand.
        missing: what was looked for, by the name of each set that is not.
        incomplete: groups of which a set is not at hand.

    Raises:
        MissingDataError: the ID set or all OOD sets are missing.
        DataError: the ID set has one class, or a shifted set has others.
        OptionError: there is no OOD set, or one is called as a group is.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        task: Task,
        names: str | Sequence[str] | None,
        report: Report,
        warn: Callable[[str], None],
    ) -> None:
        self.benchmark, self.report, self.warn = benchmark, report, warn
        self.ood: list[TestedSet] = []
        self.missing: dict[str, str] = {}
        self.incomplete: set[str] = set()
        self._compared: set[tuple[str, str]] = set()
        chosen = benchmark.choose(names)
        if not chosen:
            raise OptionError(
                f'benchmark {benchmark.name} has no OOD sets of its own; name some: `ood="mnist"`.'
            )
        for choice in chosen:
            if choice.spec.name in benchmark.group_names:
                raise OptionError(
                    f"the OOD set {choice.spec.name!r} bears the name of a group's mean; rename it."
                )
        with warnings_to(warn):
            self.test = id_samples(benchmark, "test")
        self._warn_of_content(benchmark.id, "test", self.test)
        for choice in chosen:
            try:
                with warnings_to(warn):
                    samples = choice.spec.load(choice.spec.splits[-1])
            except MissingDataError as error:
                self.missing[choice.spec.name] = str(error)
                self.incomplete.add(choice.group)
                report(f"missing: {error}")
                continue
            if choice.is_shifted:
                self._check_shifted(task, samples)
            self._warn_of_content(choice.spec, choice.spec.splits[-1], samples)
            as_id = choice.is_shifted and benchmark.protocol.full_spectrum
            name = choice.spec.name
            self.ood.append(TestedSet(name, choice.group, samples, choice.is_shifted, as_id))
        if all(ood.counts_as_id for ood in self.ood):
            raise MissingDataError(
                "none of the OOD sets is there. " + " ".join(self.missing.values())
            )
        if benchmark.protocol.full_spectrum:
            self._check_spectrum([choice.spec.name for choice in chosen if choice.is_shifted])
        self._warn_of_overlap()
        if benchmark.caveats is not None:
            for text in benchmark.caveats(self.test):
                warn(text)

    @property
    def samples(self) -> list[Samples]:
        """The ID test set, then the OOD sets."""
        return [self.test, *(ood.samples for ood in self.ood)]

    def provenance(self, train: Samples | None) -> Row:
        """Columns of rows that tell which data it was; ``train`` is what was learned from."""
        selection = sorted((ood.name, ood.group, ood.samples.fingerprint) for ood in self.ood)
        return {
            "id_train_fingerprint": train.fingerprint if train else None,
            "id_fingerprint": self.test.fingerprint,
            "selection": files.digest(selection)[:16],
        }

    def _warn_of_content(self, spec: DatasetSpec, split: str, samples: Samples) -> None:
        if (difference := spec.difference(split, samples)) is not None:
            self.warn(difference)

    def _check_spectrum(self, names: Sequence[str]) -> None:
        """Say what counts as ID where that is not all that should.

        Raises:
            MissingDataError: none of the shifted sets is there.
        """
        absent = [name for name in names if name in self.missing]
        there = [ood.name for ood in self.ood if ood.counts_as_id]
        if not there:
            raise MissingDataError(
                f"{self.benchmark.name} counts shifted sets as ID, but none is there. "
                + " ".join(self.missing[name] for name in absent)
            )
        if absent:
            self.incomplete.update(self.benchmark.group_names)
            self.warn(
                f"ID is not the full spectrum: the ID test set and {', '.join(there)}, without "
                f"{', '.join(absent)}. Figures are of other ID samples than those of the benchmark."
            )

    def _check_shifted(self, task: Task, samples: Samples) -> None:
        """Check that a covariate-shifted set has the ID classes.

        Raises:
            OptionError: the benchmark does not classify whole samples.
            DataError: its classes are not the ID set's.
        """
        if not task.is_classified:
            raise OptionError(
                f"{samples.name} is given as a shifted set, which there is where whole samples are "
                f"classified; {self.benchmark.name} is of {self.benchmark.task}. Leave it out."
            )
        check_classes(samples, self.test)

    def warn_of_validation(self, validation: Iterable[Samples]) -> None:
        """Warn where hyper-parameters were chosen on images that are tested on."""
        tested = np.concatenate([samples.digests for samples in self.samples])
        for samples in validation:
            shared = int(np.isin(samples.digests, tested).sum())
            if shared:
                self.warn(
                    f"{shared} of the {len(samples)} images of {samples.name}, which "
                    "hyper-parameters were chosen on, are also tested on."
                )

    def _warn_of_overlap(self) -> None:
        for ood in self.ood:
            count = overlap.shared(ood.samples, self.test)
            if count:
                self.warn(overlap.with_tested(self.test, ood.name, ood.samples, count))

    def warn_of_learned(self, contender: Contender, learned: Mapping[str, Samples]) -> None:
        """Warn where what a network or a detector learned from is also tested on.

        Args:
            contender: the network. Of one that was trained elsewhere nobody knows what it saw; the
                ID training set stands for that, where it is at hand.
            learned: what detectors learn from, by split.

        Raises:
            DataError: its training saw images beside the ID set that are tested on.
        """
        sources = {samples.name: (samples, "detectors learn from") for samples in learned.values()}
        if contender.beside is not None and contender.auxiliary is not None:
            tested = [self.test, *(one.samples for one in self.ood)]
            refuse_seen(contender.beside, tested, contender.auxiliary["as"])
        trained = contender.trained_on
        if trained is not None:
            sources[trained.name] = (trained, "the network was trained on")
        elif "train" not in learned and ("", "train") not in self._compared:
            self._compared.add(("", "train"))
            train = overlap.cheap_training_set(self.benchmark)
            if isinstance(train, str):
                self.report(
                    f"not checked: whether images that are tested on are also in the ID training "
                    f"set; {train}."
                )
            else:
                sources[train.name] = (train, "a network for this ID set is trained on")
        ood = {one.name: one.samples for one in self.ood}
        for samples, who in sources.values():
            if (samples.name, who) not in self._compared:
                self._compared.add((samples.name, who))
                for text in overlap.with_learned(self.test, ood, samples, who):
                    self.warn(text)

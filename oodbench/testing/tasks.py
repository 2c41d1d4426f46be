"""The checks that every task passes.

    @pytest.mark.parametrize("check", task_checks(), ids=lambda check: check.__name__)
    def test_my_task(check):
        check(tiny_benchmark)

A check takes a benchmark of the task: small, in memory, with a registered backbone. Where the task
scores images, ``drawn_benchmark("my-task")`` makes one.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from oodbench.benchmark import Benchmark
from oodbench.data.samples import Samples
from oodbench.dataset import DatasetSpec
from oodbench.detector import Detector
from oodbench.errors import OODBenchError, OptionError
from oodbench.evaluator import Evaluator
from oodbench.options import build, option_fields
from oodbench.registry import DETECTORS, METHODS, TASKS
from oodbench.results.outcome import Results
from oodbench.results.rows import METRICS
from oodbench.tasks.contender import Contender
from oodbench.tasks.task import Task, task_of
from oodbench.testing.drawn import own_folders
from oodbench.testing.networks import CPU, untrained
from oodbench.testing.suite import checks_in, is_frozen, is_json

TaskCheck = Callable[[Benchmark], None]


def _cls(benchmark: Benchmark) -> type[Task]:
    cls: type[Task] = TASKS.get(benchmark.task)
    return cls


def _who(benchmark: Benchmark) -> str:
    return f"task {benchmark.task}"


def _reasons(benchmark: Benchmark) -> dict[str, str | None]:
    """Why each registered detector cannot score; None if it can."""
    task = task_of(benchmark)
    return {name: task.why_not(DETECTORS.get(name)) for name in DETECTORS.names()}


def _able(benchmark: Benchmark) -> list[Detector]:
    """Two detectors that can score, of those that need least of a network."""
    names = [name for name, reason in _reasons(benchmark).items() if reason is None]
    detectors = [build(DETECTORS.get(name), f"detector {name}", {}) for name in names]
    return sorted(detectors, key=_demands)[:2]


def _demands(detector: Detector) -> tuple[bool, bool, int]:
    """How much a detector asks for: none that learns, first those that read the logits alone."""
    learns = detector.needs_fit or detector.needs_fit_batches
    return learns, detector.needs != {"logits"}, len(detector.needs)


def _results(benchmark: Benchmark) -> Results:
    """Rows of two detectors on an untrained network."""
    task = task_of(benchmark)
    method = METHODS.get(task.method(benchmark.standard_method))
    contender = Contender(
        untrained(method, benchmark), backbone=benchmark.backbone, preprocess="benchmark"
    )
    with own_folders(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an untrained network is a doubtful one
        results = Evaluator(benchmark, hardware=CPU).run(contender, _able(benchmark))
    assert not results.failures, f"{_who(benchmark)}: {results.failures}"
    return results


def check_words(benchmark: Benchmark) -> None:
    """It says what it is, what is counted, and what tells how good a network is."""
    cls, who = _cls(benchmark), _who(benchmark)
    text = vars(cls).get("__doc__") or ""
    assert text.strip(), f"{who} has no docstring: say in one line what is scored"
    assert cls.name == benchmark.task, f"{who} calls itself {cls.name!r}; a subclass needs its own"
    for word in ("unit", "id_unit", "scored", "intervals_over"):
        assert getattr(cls, word).strip(), f"{who} does not say its {word!r}"
    assert not cls.scored.rstrip().endswith("."), (
        f"{who}: `scored` begins a sentence ('Pixels are scored'), so it has no full stop"
    )
    assert len(cls.quality) == 2 and all(cls.quality), (
        f"{who}: `quality` is the column and its name on pages, not {cls.quality!r}"
    )


def check_options(benchmark: Benchmark) -> None:
    """Its options are fields of a frozen dataclass with defaults that rows can hold."""
    cls, who = _cls(benchmark), _who(benchmark)
    assert "__dataclass_fields__" in vars(cls), (
        f"{who} is no dataclass: decorate it with @dataclass(frozen=True)"
    )
    assert is_frozen(cls), f"{who} can be changed: declare it with @dataclass(frozen=True)"
    for field in dataclasses.fields(cls):
        has_default = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        assert has_default, f"{who}: its option {field.name!r} has no default"
    values = {name: getattr(cls(), held) for name, held in option_fields(cls).items()}
    assert is_json(values), f"{who}: the defaults of its options are no JSON values: {values}"


def check_why_not(benchmark: Benchmark) -> None:
    """It answers for every registered detector: None, or a predicate without a full stop."""
    reasons = _reasons(benchmark)
    for name, reason in reasons.items():
        assert reason is None or (isinstance(reason, str) and reason.strip()), (
            f"{_who(benchmark)}: why_not() says {reason!r} of {name}; say None, or why"
        )
        assert not reason or (reason[0].islower() and not reason.endswith(".")), (
            f"{_who(benchmark)}: why_not() says {reason!r} of {name}; a predicate follows the "
            "detector's name: 'needs …', in small letters and without a full stop"
        )
    assert None in reasons.values(), f"{_who(benchmark)}: no registered detector can score"


def check_refusal(benchmark: Benchmark) -> None:
    """``check`` refuses a detector that cannot score, and names some that can."""
    task = task_of(benchmark)
    able = [name for name, reason in _reasons(benchmark).items() if reason is None]
    for name, reason in _reasons(benchmark).items():
        detector = build(DETECTORS.get(name), f"detector {name}", {})
        try:
            task.check(benchmark, [detector])
        except OptionError as error:
            assert reason is not None, f"{_who(benchmark)} refuses {name}, but why_not() is None"
            assert name in str(error), f"{_who(benchmark)} refuses {name} without its name: {error}"
            assert any(other in str(error) for other in able), (
                f"{_who(benchmark)} refuses {name}, and names no detector that can score: {error}"
            )
        else:
            assert reason is None, f"{_who(benchmark)}: {name} {reason}, but check() takes it"


def check_reads_nothing(benchmark: Benchmark) -> None:
    """``check`` needs no data."""

    def refuse(split: str) -> Samples:
        raise AssertionError(
            f"{_who(benchmark)}: check() reads {split} data; leave that to start()"
        )

    def unreadable(spec: DatasetSpec) -> DatasetSpec:
        return dataclasses.replace(spec, load=refuse)

    groups = {name: tuple(map(unreadable, sets)) for name, sets in benchmark.groups.items()}
    unread = dataclasses.replace(benchmark, id=unreadable(benchmark.id), groups=groups)
    task_of(unread).check(unread, _able(benchmark))


def check_methods(benchmark: Benchmark) -> None:
    """There is a method that trains its networks, and one for the benchmark."""
    task = task_of(benchmark)
    assert task.methods(), (
        f"{_who(benchmark)}: no registered method trains networks of {task.methods_of!r}. Register "
        "one with that `task`, or name in `methods_of` the task whose methods it uses"
    )
    try:
        task.method(benchmark.standard_method)
    except OODBenchError as error:
        raise AssertionError(f"{_who(benchmark)}: {error}") from error


def check_measure(benchmark: Benchmark) -> None:
    """``measure`` counts both sets, and has all metrics, in [0, 1], with an interval or none."""
    task = task_of(benchmark)
    rng = np.random.default_rng(0)
    figures: Any = task.measure(rng.normal(0, 1, 40), rng.normal(1, 1, 30))
    counts = figures.get("n_id"), figures.get("n_ood")
    assert counts == (40, 30), f"{_who(benchmark)}: measure() counts {counts}, not (40, 30)"
    for name in METRICS:
        assert name in figures, f"{_who(benchmark)}: measure() has no {name}"
        assert 0 <= figures[name] <= 1, f"{_who(benchmark)}: measure() has {name} {figures[name]}"
    assert figures["auroc"] > 0.5, (
        f"{_who(benchmark)}: higher scores of OOD give an AUROC of {figures['auroc']:.2f}; "
        "a higher score is more OOD"
    )


def check_samples(benchmark: Benchmark) -> None:
    """What is scored has a fingerprint of its own where it is not the benchmark's samples."""
    task, samples = task_of(benchmark), benchmark.id.load("test")
    scored, again = task.samples(samples), task.samples(samples)
    assert scored.fingerprint == again.fingerprint, (
        f"{_who(benchmark)}: samples() gives others each time"
    )
    if scored is not samples:
        assert not task.rows_are_samples, (
            f"{_who(benchmark)} overrides samples(): say rows_are_samples = False"
        )
        assert scored.fingerprint != samples.fingerprint, (
            f"{_who(benchmark)}: what samples() gives has the fingerprint of the benchmark's "
            "samples, so the cache cannot tell them apart. Give it digests of its own"
        )


def check_evaluates(benchmark: Benchmark) -> None:
    """Two detectors get rows with figures on each OOD set, and columns are what was said."""
    task = task_of(benchmark)
    rows: list[Any] = list(_results(benchmark).rows)
    names = [chosen.spec.name for chosen in benchmark.ood]
    sets = [row["ood"] for row in rows if not row["is_mean"]]
    assert sorted(sets) == sorted(2 * names), (
        f"{_who(benchmark)}: two detectors on {', '.join(names)} give rows of {', '.join(sets)}"
    )
    for row in rows:
        assert row["n_id"] > 0 and row["n_ood"] > 0, f"{_who(benchmark)}: a row counts nothing"
        assert 0 <= row["auroc"] <= 1, f"{_who(benchmark)}: an AUROC is {row['auroc']}"
        name = task.quality[0]
        assert row.get(name) is not None, (
            f"{_who(benchmark)}: rows have no {name!r}, which `quality` names. Give it in the "
            "runner's quality()"
        )
    own = sorted(set(task.row()) - set(task.columns))
    assert not own, f"{_who(benchmark)}: row() has {', '.join(own)}; name them in `columns`"


def check_same_figures(benchmark: Benchmark) -> None:
    """Evaluated twice, the figures are the same to the last digit."""
    names = ("detector", "ood", "n_id", "n_ood", *METRICS)
    one, other = ([dict(row) for row in _results(benchmark).rows] for _ in range(2))
    one, other = ([{name: row[name] for name in names} for row in rows] for rows in (one, other))
    assert one == other, f"{_who(benchmark)}: a second evaluation has other figures"


def task_checks() -> list[TaskCheck]:
    """All checks, in the order of this file."""
    return checks_in(globals())

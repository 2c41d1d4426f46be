"""The checks that samples of your own pass.

    @pytest.mark.parametrize("check", samples_checks(), ids=lambda check: check.__name__)
    def test_my_samples(check):
        check(lambda: MySamples("train"))

A check takes a function that makes the samples, the same each time: a few dozen of them are enough.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from oodbench.data.described import content_of
from oodbench.data.samples import Samples
from oodbench.errors import OODBenchError
from oodbench.testing.suite import checks_in

Make = Callable[[], Samples]
SamplesCheck = Callable[[Make], None]


def _made(make: Make) -> tuple[Samples, str]:
    samples = make()
    assert isinstance(samples, Samples), f"{make!r} makes no Samples, but {type(samples).__name__}"
    return samples, f"{type(samples).__name__} {getattr(samples, 'name', '')}".strip()


def _same(one: Any, other: Any) -> bool:
    """Whether two samples are the same; of what has no content, whether they are equal."""
    try:
        return content_of(one) == content_of(other)
    except OODBenchError:
        return bool(one == other)


def check_labels(make: Make) -> None:
    """``super().__init__`` was called: labels are numbers of classes, whose names all differ."""
    samples, who = _made(make)
    for name in ("name", "labels", "classes"):
        assert hasattr(samples, name), f"{who} has no {name}: call super().__init__ first"
    assert len(samples), f"{who} is empty"
    assert len(samples) == len(samples.labels), (
        f"{who}: its length is {len(samples)}, and it has {len(samples.labels)} labels"
    )
    inside = (samples.labels >= 0) & (samples.labels < len(samples.classes))
    assert inside.all(), f"{who} has labels beyond its {len(samples.classes)} classes"
    assert len(set(samples.classes)) == len(samples.classes), f"{who} has a class name twice"


def check_every_sample_is_there(make: Make) -> None:
    """The first, the middle and the last sample can be read, also by a number of NumPy's."""
    samples, who = _made(make)
    for index in (0, len(samples) // 2, len(samples) - 1):
        try:
            plain, numpy = samples[index], samples[np.int64(index)]  # type: ignore[index]
        except Exception as error:
            raise AssertionError(
                f"{who}: samples[{index}] is {type(error).__name__} ({error})"
            ) from error
        assert _same(plain, numpy), f"{who}: samples[{index}] is another for a number of NumPy's"


def check_same_each_time(make: Make) -> None:
    """A sample is the same each time: nothing is drawn or augmented when it is read."""
    samples, who = _made(make)
    for index in (0, len(samples) - 1):
        assert _same(samples[index], samples[index]), (
            f"{who}: samples[{index}] is another each time. Augment in the preprocessing's augment"
        )
        assert _same(samples[index], make()[index]), (
            f"{who}: samples[{index}] is another when the samples are made again"
        )


def check_modalities(make: Make) -> None:
    """Samples that are mappings have the same modalities, those that ``modalities`` names."""
    samples, who = _made(make)
    named = getattr(samples, "modalities", None)
    for index in (0, len(samples) - 1):
        sample = samples[index]
        if named is None:
            assert not isinstance(sample, Mapping), (
                f"{who}: a sample is a mapping, but the samples name no `modalities`: derive them "
                "from MultimodalSamples"
            )
            continue
        has = list(sample) if isinstance(sample, Mapping) else type(sample).__name__
        assert isinstance(has, list) and set(has) == set(named), (
            f"{who}: samples[{index}] has {has}, and its modalities are {list(named)}"
        )


def check_digests(make: Make) -> None:
    """Digests are ``[N]`` uint64, the same when made again, and others for other samples."""
    samples, who = _made(make)
    digests = samples.digests
    assert isinstance(digests, np.ndarray) and digests.dtype == np.uint64, (
        f"{who}: digests are {getattr(digests, 'dtype', type(digests).__name__)}, not uint64"
    )
    assert digests.shape == (len(samples),), f"{who}: digests are {list(digests.shape)}"
    assert np.array_equal(digests, make().digests), (
        f"{who}: digests are others when the samples are made again: they are of the content alone"
    )
    seen: dict[int, int] = {}
    for index in range(min(len(samples), 64)):
        first = seen.setdefault(int(digests[index]), index)
        assert first == index or _same(samples[first], samples[index]), (
            f"{who}: samples {first} and {index} differ, and have one digest. It is to be of all "
            "that a sample holds: override content(index), or leave it to the base class"
        )


def check_fingerprint(make: Make) -> None:
    """The fingerprint holds for the same samples alone."""
    samples, who = _made(make)
    assert samples.fingerprint == make().fingerprint, f"{who} has another fingerprint each time"


def check_goes_to_data_workers(make: Make) -> None:
    """It can be pickled, as the processes that read samples want it, and is the same there."""
    samples, who = _made(make)
    try:
        there = pickle.loads(pickle.dumps(samples))  # noqa: S301 - of what was made here
    except Exception as error:
        raise AssertionError(
            f"{who} cannot be sent to the processes that read samples ({error}). Open files when "
            "they are read, and keep no lambda"
        ) from error
    assert len(there) == len(samples), f"{who} has another length when it was pickled"
    assert _same(there[0], samples[0]), f"{who} is another when it was pickled"


def samples_checks() -> list[SamplesCheck]:
    """All checks, in the order of this file."""
    return checks_in(globals())

"""What one detector does to its inputs, the network or the process reaches no other detector."""

from __future__ import annotations

import itertools
import os
import random
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench import Benchmark, DatasetSpec, Detector, Hardware, Head, Outputs, Preprocess
from oodbench.contenders import Networks
from oodbench.data.samples import ImageArrays, Samples
from oodbench.disk import mapped
from oodbench.errors import BadScoresError, ChangedInputsError
from oodbench.runtime.isolation import kept, lent
from oodbench.runtime.process import ProcessState
from oodbench.tasks.runner import SampleOutputs
from oodbench.testing import detector_checks
from oodbench.tune import tune

CPU = Hardware(accelerator="cpu")


def spec(name: str, n: int, level: int, **fields: Any) -> DatasetSpec:
    def load(split: str) -> Samples:
        rng = np.random.default_rng([level, split == "train"])
        labels = np.arange(n) % 2
        pixels = np.clip(rng.normal(level, 40, (n, 4, 4)), 0, 255).astype(np.uint8)
        pixels[labels == 1, :2] //= 2
        return ImageArrays(f"{name}/{split}", pixels, labels, ("a", "b"))

    return DatasetSpec(name, load, **fields)


TOY = Benchmark(
    "toy",
    spec("toy", 60, 120, splits=("train", "val", "test")),
    (spec("near-a", 20, 140), spec("near-b", 50, 165)),
    (spec("far-a", 30, 220),),
    Preprocess(4, (0.5,), (0.25,), mode="L"),
    validation=(spec("other", 30, 90),),
)


class Draws(Detector):
    """From global random numbers, as detectors from elsewhere do. Higher = more OOD."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, outputs: Outputs) -> Tensor:
        """Logits and noise."""
        noise = torch.rand(len(outputs)) + random.random() + torch.from_numpy(_noise(len(outputs)))
        return (outputs.logits[:, 0] + noise).float()


def _noise(n: int) -> np.ndarray:
    return np.random.rand(n)  # noqa: NPY002


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


OTHERS = ("knn", "vim", "odin")


def evaluate(first: list[Detector], others: Iterable[str] = OTHERS) -> Any:
    detectors: list[Any] = [
        *first,
        *(oodbench.create_detector(n, **({"k": 5} if n == "knn" else {})) for n in others),
        Draws(),
    ]
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    return oodbench.evaluate(
        network(), benchmark=TOY, detectors=detectors, hardware=CPU, preprocess="benchmark"
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _one_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all tests here: what is cached is quick, and draws no random numbers for its loader."""
    monkeypatch.setenv("OODBENCH_CACHE", str(cache))


@pytest.fixture(scope="module")
def alone(cache: Path) -> set[str]:
    """The rows' ids of the others, each of which is a digest of all figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(cache))
        evaluate([])
        return {row["row_id"] for row in evaluate([]).rows}


class Culprit(Detector):
    """Does something to what it is given. Higher = more OOD."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits", "head"})

    def __init__(self, does: Callable[[Outputs], Any], when: str) -> None:
        self.does, self.when = does, when

    def options(self) -> dict[str, Any]:
        """None."""
        return {}

    def fit(self, train: Outputs) -> Self:
        """Nothing to learn."""
        if self.when == "fit":
            self.does(train)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """The first feature."""
        scores = outputs.features[:, 0].clone()
        if self.when == "score":
            self.does(outputs)
        return scores


def _assign(outputs: Outputs) -> None:
    outputs.features = outputs.features + 1


def _write(array: Tensor, value: float = 7) -> None:
    array.numpy()[...] = value


CHANGES: dict[str, Callable[[Outputs], Any]] = {
    "clamp": lambda o: o.features.clamp_(max=0.1),
    "minus the largest": lambda o: o.logits.sub_(o.logits.amax(1, keepdim=True)),
    "a batch": lambda o: [b.features.mul_(0) for b in o.batches(7)],
    "a slice": lambda o: o[3:5].logits.fill_(9),
    "NumPy": lambda o: _write(o.features),
    "one value by NumPy": lambda o: o.features[11:12, 1].numpy().fill(1e6),
    "NumPy's out": lambda o: np.exp(o.logits.numpy(), out=o.logits.numpy()),
    "torch's out": lambda o: torch.exp(o.logits, out=o.logits),
    "sorted by NumPy": lambda o: o.logits.numpy().sort(axis=1),
    "shuffled": lambda o: np.random.default_rng(0).shuffle(o.features.numpy()),
    "data": lambda o: o.features.data.zero_(),
    "labels": lambda o: _write(o.labels, 0),
    "resized": lambda o: o.logits.resize_(len(o), 1),
    "assigned": _assign,
    "removed": lambda o: setattr(o, "logits", None),
    "extra": lambda o: o.extra.update(mine=torch.zeros(len(o))),
    "head": lambda o: o.head and o.head.weight.mul_(0),
    "head by NumPy": lambda o: o.head and _write(o.head.bias),
    "another head": lambda o: setattr(o, "head", Head(torch.zeros(2, 8))),
}


@pytest.mark.parametrize(
    ("change", "when"), zip(CHANGES, itertools.cycle(("fit", "score")), strict=False)
)
def test_a_detector_that_changes_its_inputs_is_named_and_harms_no_other(
    change: str, when: str, alone: set[str]
) -> None:
    results = evaluate([Culprit(CHANGES[change], when)], ("knn", "vim"))
    assert list(results.failures) == ["Culprit"]
    assert "Culprit changed the" in results.failures["Culprit"]
    rows = {row["row_id"] for row in results.rows}
    assert len(rows) == 3 * 5
    assert rows <= alone


class Late(Detector):
    """Writes to what it was given in ``fit`` when it is asked for scores. Higher = more OOD."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    everybodys: ClassVar[list[Outputs]] = []

    def fit(self, train: Outputs) -> Self:
        """Keep all of it."""
        self.everybodys.append(train)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """The first feature."""
        scores = outputs.features[:, 0].clone()
        for kept_outputs in self.everybodys:
            _write(kept_outputs.features)
        self.everybodys.append(outputs)
        return scores


def test_what_a_detector_kept_is_its_own(alone: set[str]) -> None:
    """Not even when one writes while another is at work."""
    try:
        results = evaluate([Late(), Late()], ("knn",))
    finally:
        Late.everybodys.clear()
    others = {row["row_id"] for row in results.rows if row["detector"] != "Late"}
    assert len(others) == 10
    assert others <= alone


PROCESS: dict[str, Callable[[], Any]] = {
    "torch's seed": lambda: torch.manual_seed(5),
    "NumPy's seed": lambda: np.random.seed(5),  # noqa: NPY002
    "Python's seed": lambda: random.seed(5),
    "drawing": lambda: (torch.rand(3), random.random(), _noise(3)),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "gradients off": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16).__enter__(),
    "warnings are errors": lambda: warnings.simplefilter("error"),
    "NumPy raises": lambda: np.seterr(all="raise"),
    "environment": lambda: os.environ.update(OODBENCH_CACHE="/nowhere", MINE="1"),
    "folder": lambda: os.chdir(Path(os.sep)),
    "hooks": lambda: nn.modules.module.register_module_forward_hook(lambda m, i, o: o * 0),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
}


@pytest.mark.parametrize(
    ("change", "when"), zip(PROCESS, itertools.cycle(("score", "fit")), strict=False)
)
def test_a_detector_that_changes_the_process_harms_no_other(
    change: str, when: str, alone: set[str]
) -> None:
    before = ProcessState(surroundings=True).values
    results = evaluate([Culprit(lambda _: PROCESS[change](), when)])
    assert not results.failures
    assert alone <= {row["row_id"] for row in results.rows}
    after = ProcessState(surroundings=True).values
    numbers = {"torch's random numbers", "NumPy's random numbers", "Python's random numbers"}
    assert [name for name in before if before[name] != after[name] and name not in numbers] == []


class Meddler(Detector):
    """Does something to the network. Higher = more OOD."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def __init__(self, does: Callable[[nn.Module], Any]) -> None:
        self.does = does

    def options(self) -> dict[str, Any]:
        """None."""
        return {}

    def fit_batches(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Self:
        """Nothing to learn."""
        for images, labels in batches:
            images.zero_()
            labels.zero_()
        self.does(model)
        return self

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        """The first pixel."""
        scores = batch.flatten(1)[:, 0].clone()
        batch.zero_()
        self.does(model)
        return scores


def _zero(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()


NETWORK: dict[str, Callable[[nn.Module], Any]] = {
    "weights": _zero,
    "weights by NumPy": lambda m: [_write(p.data) for p in m.parameters()],
    "training": lambda m: m.train(),
    "no gradients": lambda m: m.requires_grad_(False),
    "hooks": lambda m: [p.register_forward_hook(lambda m, i, o: o * 0) for p in m.modules()],
    "dtype": lambda m: m.double(),
    "its class": lambda m: [
        setattr(type(p), "forward", lambda self, x: x.flatten(1)[:, :2] * 0)
        for p in m.modules()
        if isinstance(p, nn.Linear | nn.ReLU)
    ],
}


@pytest.mark.parametrize("change", NETWORK)
def test_a_detector_that_changes_the_network_harms_no_other(change: str, alone: set[str]) -> None:
    results = evaluate([Meddler(NETWORK[change])])
    assert alone <= {row["row_id"] for row in results.rows}


@pytest.mark.parametrize("change", ["clamp", "NumPy", "sorted by NumPy"])
def test_a_search_is_not_harmed(change: str) -> None:
    """Of hyper-parameters: the choice is that of a search without the culprit."""
    knn = lambda: oodbench.create_detector("knn")
    networks = Networks(network(), preprocess="benchmark")
    expected = tune(TOY, [knn()], networks, hardware=CPU)

    class Tuned(Culprit):
        grid: ClassVar = {"k": (1, 2, 3)}

        def __init__(self, k: int = 1) -> None:
            super().__init__(CHANGES[change], "fit")

        def options(self) -> dict[str, Any]:
            return {"k": 1}

    found = tune(TOY, [Tuned(), knn()], networks, hardware=CPU)
    assert list(found.failures) == ["Tuned"]
    assert "changed the" in found.failures["Tuned"]
    assert found.choices[0].to_dict() == expected.choices[0].to_dict()


# One call


def outputs(n: int = 12) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, 8, generator=generator)
    head = Head(torch.randn(2, 8, generator=generator))
    extra = {"x": torch.full((n,), float("nan"))}
    return Outputs(features, head(features), torch.arange(n) % 2, head, extra)


def of_pixels() -> Outputs:
    """The same column after column in memory, as those of a map's pixels are."""
    given = outputs()
    given.features, given.logits = (x.T.contiguous().T for x in (given.features, given.logits))
    return given


@pytest.mark.parametrize("change", CHANGES)
def test_lent_outputs_are_ones_own(change: str, tmp_path: Path) -> None:
    """In memory as on disk; NaN is not taken for a change, and nothing else is said."""
    outputs().save(tmp_path / "saved")
    for given in (outputs(), of_pixels(), Outputs.load(tmp_path / "saved")):
        before = outputs()
        with lent(given, "someone") as mine:
            assert all(torch.equal(a, b) for (_, a), (_, b) in _pairs(mine, before))
        with (
            pytest.raises(ChangedInputsError, match="someone changed"),
            lent(given, "someone") as m,
        ):
            CHANGES[change](m)
        assert [name for name, _ in given.arrays()] == [name for name, _ in before.arrays()]
        assert all(torch.equal(a, b) for (_, a), (_, b) in _pairs(given, before))
    again = Outputs.load(tmp_path / "saved")
    assert all(torch.equal(a, b) for (_, a), (_, b) in _pairs(again, outputs()))


def _pairs(one: Outputs, other: Outputs) -> Any:
    mine = [(name, value.nan_to_num(nan=-1)) for name, value in one.arrays()]
    theirs = [(name, value.nan_to_num(nan=-1)) for name, value in other.arrays()]
    assert [name for name, _ in mine] == [name for name, _ in theirs]
    return zip(mine, theirs, strict=True)


def test_what_torch_counts_is_found_without_an_evaluation() -> None:
    """Of a member of an ensemble, or in a loop of one's own."""
    for change in ("clamp", "a batch", "assigned", "extra", "head", "torch's out"):
        for when in ("fit", "score"):
            culprit = Culprit(CHANGES[change], when)
            with pytest.raises(ChangedInputsError, match="Culprit"):
                culprit.fit(outputs()).score(outputs())


def test_mapped_outputs_are_lent_without_a_copy(tmp_path: Path) -> None:
    n = 2**16
    Outputs(features=torch.ones(n, 64), labels=torch.zeros(n, dtype=torch.int64)).save(
        tmp_path / "saved"
    )
    given = Outputs.load(tmp_path / "saved")
    private = mapped.private(given.features)
    assert private.data_ptr() != given.features.data_ptr()
    assert mapped._source(private) is not None
    private.zero_()
    assert given.features.sum() == n * 64
    assert Outputs.load(tmp_path / "saved").features.sum() == n * 64


def test_a_file_that_became_another_is_not_mapped_again(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 3), np.float32))
    value = torch.from_numpy(mapped.load(tmp_path / "x.npy"))
    np.save(tmp_path / "y.npy", np.zeros((4, 3), np.float32))
    (tmp_path / "y.npy").replace(tmp_path / "x.npy")
    assert mapped.private(value).sum() == 12
    (tmp_path / "x.npy").unlink()
    assert mapped.private(value).sum() == 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_large_arrays_in_memory_are_lent_from_a_file(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "SMALL", 100)
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path))
    values = torch.arange(60).view(20, 3).to(dtype)
    seen = SampleOutputs(ImageArrays("x", np.zeros((1, 4, 4), np.uint8), np.zeros(1, int), ("a",)),
                lambda: Outputs(logits=values))  # fmt: skip
    found = seen.outputs.logits
    assert torch.equal(found, values)
    assert (mapped._source(found) is None) == (dtype == torch.bfloat16)
    with pytest.raises(ChangedInputsError), lent(seen.outputs, "someone") as mine:
        mine.logits[2] = 0
    assert torch.equal(seen.outputs.logits, values)
    assert list(tmp_path.iterdir()) == []


def test_one_look_for_values_that_are_not_finite_serves_all(tmp_path: Path) -> None:
    outputs().save(tmp_path / "saved")
    given = Outputs.load(tmp_path / "saved")
    with lent(given, "one") as mine:
        mine.require_finite({"features"}, "one")
    mine = given.private()
    assert mine._is_looked_through("features", mine.features)
    assert not mine._is_looked_through("logits", mine.logits)
    mine.features[0] = float("nan")
    with pytest.raises(BadScoresError):
        mine.require_finite({"features"}, "other")


# The public checks


class Sly(Detector):
    """Minus the logits. Higher = more OOD."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits"})
    does: ClassVar[Callable[[Outputs], Any]]

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the largest."""
        scores = -outputs.logits.amax(dim=1)
        type(self).does(outputs)
        return scores


@pytest.mark.parametrize("change", [name for name in CHANGES if name not in ("another head",)])
def test_the_contract_sees_every_change(change: str) -> None:
    checks = {check.__name__: check for check in detector_checks()}
    sly = type("Sly", (Sly,), {"does": staticmethod(CHANGES[change])})
    with pytest.raises(AssertionError):
        checks["check_inputs_untouched"](sly())


@pytest.mark.parametrize("change", sorted(set(PROCESS) - {"warnings are errors", "gradients off"}))
def test_the_contract_sees_what_is_left_changed(change: str) -> None:
    checks = {check.__name__: check for check in detector_checks()}
    sly = type("Sly", (Sly,), {"does": staticmethod(lambda _: PROCESS[change]())})
    with kept(), pytest.raises(AssertionError, match="changed"):
        checks["check_process_untouched"](sly())

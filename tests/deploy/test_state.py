"""A detector's state: any that is registered, plug-ins with what they hold, and no stranger's."""

from __future__ import annotations

import collections
import copy
import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

import oodbench
from oodbench import Detector, Outputs
from oodbench.deploy.folder import read_state, write_state
from oodbench.deploy.state import State, detector_of, moved, state_of
from oodbench.detector import learned
from oodbench.errors import FittedError, OODBenchError, OODBenchWarning
from oodbench.registry import DETECTORS
from oodbench.testing.problems import fit, problem, score
from tests.helpers.evil import Evil


class Way(enum.Enum):
    UP = "up"


@dataclass
class Part:
    axes: Tensor
    name: str
    inner: Any = None


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 1)
        self.factor = 2.0
        self.register_buffer("shift", torch.ones(1))

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * self.linear(z)[:, 0] + self.shift


@dataclass
class Holder(Detector):
    """Holds what it is given. Higher = more OOD."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    scaled: float = 1.0
    held_: Any = learned()
    mixture_: Any = learned()
    network_: Any = learned()

    def fit(self, train: Outputs) -> Self:
        z = train.features
        self.mixture_ = GaussianMixture(4, covariance_type="diag", random_state=0).fit(z.numpy())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network_ = nn.Sequential(Small(), nn.Identity()).eval()
        return self

    def score(self, outputs: Outputs) -> Tensor:
        z = outputs.features
        likely = torch.from_numpy(self.mixture_.score_samples(z.numpy()))
        return self.scaled * self.network_(z).double() - likely


@pytest.fixture
def registered() -> Iterator[None]:
    oodbench.register_detector("holder")(Holder)
    yield
    DETECTORS.unregister("holder")


def through(detector: Detector, folder: Path) -> Detector:
    write_state(folder / "fitted", state_of(detector))
    return detector_of(read_state(folder / "fitted"))


@pytest.mark.usefixtures("registered")
def test_a_plugin_with_estimators_and_layers_scores_the_same(tmp_path: Path) -> None:
    toy = problem(Holder())
    detector = Holder(scaled=0.5).fit(toy.train)
    loaded = through(detector, tmp_path)
    assert torch.equal(loaded.score(toy.test), detector.score(toy.test))
    assert isinstance(loaded, Holder)
    assert isinstance(loaded.network_[0].linear.weight, nn.Parameter)
    assert not loaded.network_.training
    assert loaded.options() == {"scaled": 0.5}


VALUES = {
    "nothing": None,
    "text": "größer",
    "numbers": [1, -(2**70), 0.1, float("inf"), float("-inf"), True],
    "tuples": (1, (2, [3])),
    "sets": {3, 1, 2},
    "by number": {1: "a", 2: {"b": 2}},
    "ordered": collections.OrderedDict([("z", 1), ("a", 2)]),
    "an enum": Way.UP,
    "a scalar": np.float32(0.1),
    "an array": np.arange(6, dtype=np.int16).reshape(2, 3),
    "in Fortran's order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "a type": torch.float16,
    "a part": Part(torch.eye(2), "x", Part(torch.zeros(0, 3), "empty")),
}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    detector = Holder()
    detector.held_ = copy.deepcopy(VALUES[name])
    found = through(detector, tmp_path).held_  # type: ignore[attr-defined]
    assert type(found) is type(VALUES[name])
    np.testing.assert_equal(_plain(found), _plain(VALUES[name]))


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return [value.axes.tolist(), list(value.axes.shape), value.name, _plain(value.inner)]
    return value


@pytest.mark.usefixtures("registered")
def test_tensors_keep_type_strides_and_sharing(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    kinds = [torch.tensor([True]), torch.ones(2, dtype=torch.bfloat16), torch.ones(1).long()]
    detector = Holder()
    detector.held_ = [whole, whole.T, whole, torch.ones(1).expand(5), nn.Parameter(whole), *kinds]
    found = through(detector, tmp_path).held_  # type: ignore[attr-defined]
    for one, other in zip(found, detector.held_, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
    assert found[1].stride() == (1, 4)
    assert found[0] is found[2]
    assert isinstance(found[4], nn.Parameter)


@pytest.mark.usefixtures("registered")
def test_generators_go_on_with_the_same_numbers(tmp_path: Path) -> None:
    detector = Holder()
    detector.held_ = torch.Generator().manual_seed(5)
    torch.rand(3, generator=detector.held_)
    found = through(detector, tmp_path).held_  # type: ignore[attr-defined]
    assert torch.equal(torch.rand(3, generator=found), torch.rand(3, generator=detector.held_))


def _loop() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


REFUSED = {
    "a function": lambda: 1,
    "a file": Path("x"),
    "text in an array": np.array(["a"]),
    "a tree of Cython's": NearestNeighbors().fit(np.random.default_rng(0).normal(size=(99, 2))),
    "itself": _loop(),
    "another's object": Evil(Path("marker")),
    "sparse": torch.eye(2).to_sparse(),
}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_named(name: str) -> None:
    detector = Holder()
    detector.held_ = {"deep": REFUSED[name]}
    with pytest.raises(FittedError, match=r"holder cannot be saved: its holder.held_\['deep'\]"):
        state_of(detector)


def test_a_detector_without_a_name_is_refused() -> None:
    with pytest.raises(FittedError, match="Holder is not registered"):
        state_of(Holder())


@dataclass
class Tells(Detector):
    """Says itself what it has learned. Higher = more OOD."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    function_: Any = learned()

    def fit(self, train: Outputs) -> Self:
        mean = train.features.mean(dim=0)
        self.function_ = lambda z: (z - mean).norm(dim=1)
        self.mean_ = mean
        return self

    def score(self, outputs: Outputs) -> Tensor:
        return self.function_(outputs.features)

    def fitted_state(self) -> dict[str, Any]:
        return {"mean": self.mean_}

    def restore(self, state: Any) -> None:
        self.function_ = lambda z: (z - state["mean"]).norm(dim=1)


def test_the_documented_way(tmp_path: Path) -> None:
    oodbench.register_detector("tells")(Tells)
    try:
        toy = problem(Tells())
        detector = Tells().fit(toy.train)
        assert torch.equal(through(detector, tmp_path).score(toy.test), detector.score(toy.test))
    finally:
        DETECTORS.unregister("tells")


# --- strangers' data ----------------------------------------------------------------------------


def knn_state() -> State:
    return state_of(
        fit(oodbench.create_detector("knn"), problem(oodbench.create_detector("knn")).train)
    )


HOSTILE = {
    "a class of the system": {"object": "os:_Environ", "attributes": {}},
    "a class of pathlib": {"object": "pathlib:PosixPath", "attributes": {}},
    "subprocess": {"object": "subprocess:Popen", "attributes": {"args": ["touch", "marker"]}},
    "this module": {"object": "tests.helpers.evil:Evil", "attributes": {"marker": "x"}},
    "through torch.nn": {"module": f"torch.nn.modules.linear:torch.os@{torch.__version__}"},
    "through sklearn": {"object": "sklearn.utils:os.system", "attributes": {}},
    "through a path": {"object": "oodbench.detectors.knn:KNN.__init__.__globals__"},
    "a detector as an object": {"object": "oodbench.detectors.knn:KNN", "attributes": {}},
    "a pickle": {"pickle": "gASV"},
    "a magic attribute": {
        "object": "oodbench.outputs:Head", "attributes": {"__class__": "x"},
    },
    "no tensor": {"tensor": "000 nothing"},
    "a code type": {"dtype": "load"},
    "no list": {"list": 5},
    "a list": [1],
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_state_names_no_other_class(name: str, tmp_path: Path) -> None:
    state = knn_state()
    state.tree["state"]["half_"] = HOSTILE[name]
    before = set(Path.cwd().iterdir())
    with pytest.raises(OODBenchError):
        detector_of(state)
    assert set(Path.cwd().iterdir()) == before
    assert not list(tmp_path.iterdir())


def test_overlapping_strides_are_refused() -> None:
    state = knn_state()
    state.tree["state"]["bank_"]["strides"] = [0, 0]
    with pytest.raises(FittedError, match="overlapping"):
        detector_of(state)


def test_deep_trees_are_refused() -> None:
    state = knn_state()
    tree: Any = None
    for _ in range(200):
        tree = {"list": [tree]}
    state.tree["state"]["half_"] = tree
    with pytest.raises(FittedError, match="deep"):
        detector_of(state)


def test_other_code_is_refused_or_warned_of() -> None:
    state = knn_state()
    state.tree["code"] = "another"
    with pytest.raises(FittedError, match="code of the detector knn"):
        detector_of(state)
    with pytest.warns(OODBenchWarning, match="code of the detector knn"):
        assert detector_of(state, strict=False).label == "knn"


def test_the_tree_is_json() -> None:
    for name in ("vim", "ensemble", "gram"):
        detector = oodbench.create_detector(name)
        tree = state_of(fit(detector, problem(detector).train)).tree
        assert json.loads(json.dumps(tree, allow_nan=False)) == tree


def test_moved_is_a_copy() -> None:
    detector = oodbench.create_detector("mahalanobis")
    toy = problem(detector)
    fit(detector, toy.train)
    there = moved(detector, "cpu")
    assert torch.equal(score(there, toy.test), score(detector, toy.test))
    there.means_.zero_()  # type: ignore[attr-defined]
    assert not torch.equal(score(there, toy.test), score(detector, toy.test))


def test_unfitted_stays_unfitted(tmp_path: Path) -> None:
    loaded = through(oodbench.create_detector("knn"), tmp_path)
    with pytest.raises(OODBenchError, match="before fit"):
        loaded.score(problem(loaded).test)

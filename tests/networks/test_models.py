"""What people give as a model: used where it can be, else told what it is and what to do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench.errors import OptionError
from tests.helpers.few import few_digits
from tests.helpers.images import CPU


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 6)).eval()


def evaluated(model: Any, detector: str = "msp") -> oodbench.Results:
    return oodbench.evaluate(
        model,
        benchmark=few_digits(),
        detectors=detector,
        hardware=CPU,
        preprocess="benchmark",
    )


def figures(model: Any, detector: str = "msp") -> list[float]:
    return [r["auroc"] for r in evaluated(model, detector)]


@functools.cache
def expected(detector: str = "msp") -> list[float]:
    """The figures of the network itself."""
    return figures(network(), detector)


def _exported() -> Any:
    batch = {0: torch.export.Dim("batch")}
    return torch.export.export(network(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=(batch,))


FORMS: dict[str, Callable[[], Any]] = {
    "traced": lambda: torch.jit.trace(network(), torch.zeros(2, 1, 8, 8)),
    "scripted": lambda: torch.jit.script(network()),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(network())),
    "exported": _exported,
    "module of an exported one": lambda: _exported().module(),
    "traced by fx": lambda: torch.fx.symbolic_trace(network()),
    "compiled": lambda: torch.compile(network()),
    "parallel": lambda: nn.DataParallel(network()),
    "parallel and compiled": lambda: torch.compile(nn.DataParallel(network())),
}


@pytest.mark.parametrize("make", FORMS.values(), ids=list(FORMS))
@pytest.mark.filterwarnings("ignore")
def test_forms_of_networks_are_used(make: Callable[[], Any]) -> None:
    np.testing.assert_allclose(figures(make()), expected(), atol=1e-5)


@pytest.mark.parametrize("form", ["traced by fx", "compiled", "parallel"])
def test_forms_that_can_be_looked_into_have_a_head(form: str) -> None:
    np.testing.assert_allclose(figures(FORMS[form](), "react"), expected("react"), atol=1e-5)


def _of(package: str, name: str = "Model") -> Any:
    return type(name, (), {"__module__": package})()


ONNX = ["ONNX", "session = ", "def outputs(self, images)"]
STRANGE: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "a name": (lambda: "resnet18", ["'resnet18'", "backbone='resnet18'"]),
    "a path": (lambda: "weights.pth", ["weights.pth", "checkpoint=FILE"]),
    "a Path": (lambda: Path("x/net.safetensors"), ["checkpoint=FILE"]),
    "an ONNX path": (lambda: "net.onnx", [*ONNX, "onnxruntime.InferenceSession"]),
    "an ONNX model": (lambda: _of("onnx.onnx_ml_pb2", "ModelProto"), ONNX),
    "a session": (lambda: _of("onnxruntime.capi.x", "InferenceSession"), ONNX),
    "keras": (lambda: _of("keras.src.models"), ["keras", "forward(images)"]),
    "tensorflow": (lambda: _of("tensorflow.python"), ["tensorflow", "forward(images)"]),
    "sklearn": (lambda: _of("sklearn.svm", "SVC"), ["sklearn", "Outputs"]),
    "logits": (lambda: np.zeros((3, 6)), ["Outputs"]),
    "a tensor": (lambda: torch.zeros(3, 6), ["Outputs"]),
    "a state dict": (lambda: network().state_dict(), ["state dict", "load_state_dict"]),
    "a dict": (lambda: {"a": 1}, ["dict"]),
    "a class": (lambda: nn.Linear, ["class Linear", "call it"]),
    "a function": (lambda: lambda x: x, ["forward(images) calls it"]),
    "a list": (lambda: [network()], ["list", "torch.nn.Module"]),
    "a number": (lambda: 3, ["int"]),
    "a module list": (lambda: nn.ModuleList([network()]), ["ModuleList", "no forward"]),
    "an unfinished module": (lambda: nn.Module(), ["no forward"]),
}


@pytest.mark.parametrize(("make", "told"), STRANGE.values(), ids=list(STRANGE))
def test_what_is_no_network_is_told(make: Callable[[], Any], told: list[str]) -> None:
    with pytest.raises(OptionError) as caught:
        evaluated(make())
    for part in told:
        assert part in str(caught.value)
    assert "weights_only" not in str(caught.value)


class Session:
    """As onnxruntime's: it cannot be copied, and knows NumPy alone."""

    def __init__(self) -> None:
        self.net = network()

    def __deepcopy__(self, memo: Any) -> Session:
        raise TypeError("cannot pickle a session")

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"name": "images"})]

    def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [self.net(torch.from_numpy(feed["images"])).numpy()]


def test_the_wrapper_that_is_shown_for_onnx_works() -> None:
    with pytest.raises(OptionError) as caught:
        figures("net.onnx")
    source = str(caught.value).partition(":\n")[2]
    names: dict[str, Any] = {"torch": torch, "session": Session()}
    exec(source, names)
    assert len(source.strip().splitlines()) <= 5
    np.testing.assert_allclose(figures(names["Net"]()), expected(), atol=1e-6)


def test_a_session_held_by_a_module_is_shared_with_its_copy() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.session = Session()

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(self.session.run(None, {"images": x.numpy()})[0])

    np.testing.assert_allclose(figures(Net()), expected(), atol=1e-6)

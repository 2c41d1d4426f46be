"""Every task leaves the caller's network and the process as they were; and the check can fail."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

import oodbench
from oodbench import Hardware, Preprocess
from oodbench.benchmark import Benchmark
from oodbench.data.samples import ImageArrays
from oodbench.dataset import DatasetSpec
from oodbench.datasets.scenes import SceneBoxes, SceneMasks, scenes
from oodbench.networks.boxes import BoxNetwork, scenes_frcnn
from oodbench.networks.pixels import PixelNetwork
from oodbench.outputs import Head
from oodbench.runtime.process import ProcessState, undisturbed
from oodbench.runtime.restore import NetworkState
from oodbench.tasks import pixels
from oodbench.tasks.pixels import segment
from oodbench.testing import network_checks, untouched
from oodbench.testing.untouched import NetworkCheck

CPU = Hardware(accelerator="cpu", devices="1", workers=0)
GREY = Preprocess(64, (0.4,), (0.2,), mode="L", flip=False)


def spec(name: str, samples: Callable[[], Any]) -> DatasetSpec:
    return DatasetSpec(name, lambda _: samples(), ("train", "test"))


def images(name: str, seed: int) -> DatasetSpec:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    labels = np.arange(12) % 3
    return spec(name, lambda: ImageArrays(f"{name}/test", pixels, labels, ("a", "b", "c")))


CLASSIFICATION = Benchmark(
    "i", images("i", 0), (images("j", 1),), (), Preprocess(8, (0.4,), (0.2,), mode="L")
)
SEGMENTATION = Benchmark(
    "s/segmentation",
    spec("s", lambda: SceneMasks("s/test", scenes("test", "id")[:5])),
    (spec("s-near", lambda: SceneMasks("s-near/test", scenes("test", "id+near")[:5])),),
    (),
    GREY,
    task="segmentation",
)
DETECTION = Benchmark(
    "d/detection",
    spec("d", lambda: SceneBoxes("d/test", scenes("test", "id")[:9])),
    (spec("d-near", lambda: SceneBoxes("d-near/test", scenes("test", "near")[:3])),),
    (),
    GREY,
    task="detection",
    task_options={"confidence": 0.01},
)


def layers(out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, out, 1)
    )


def classifier() -> nn.Module:
    return nn.Sequential(*layers(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


class Told(nn.Module):
    """A classifier with outputs and head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = layers(8), nn.Linear(8, 3)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body(images).mean(dim=(2, 3))
        return {"features": features, "logits": self.fc(features)}

    def head(self) -> Head:
        return Head(self.fc.weight, self.fc.bias)


class Mapped(nn.Module):
    """Gives what torchvision's segmentation networks give."""

    def __init__(self) -> None:
        super().__init__()
        self.body = layers(7)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.body(images)}


def boxes() -> nn.Module:
    network = scenes_frcnn().detector
    network.roi_heads.box_predictor = FastRCNNPredictor(128, 7)
    return network


def evaluated(benchmark: Benchmark, *detectors: str) -> Callable[[nn.Module], Any]:
    return lambda network: oodbench.evaluate(
        network, benchmark=benchmark, detectors=detectors, hardware=CPU, preprocess="benchmark"
    )


TASKS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any]]] = {
    "classification": (classifier, evaluated(CLASSIFICATION, "msp", "knn")),
    "classification, own outputs": (Told, evaluated(CLASSIFICATION, "msp", "knn")),
    "classification, network at hand": (classifier, evaluated(CLASSIFICATION, "odin", "gram")),
    "segmentation": (lambda: layers(7), evaluated(SEGMENTATION, "msp", "energy")),
    "segmentation, mapping": (Mapped, evaluated(SEGMENTATION, "msp")),
    "detection": (boxes, evaluated(DETECTION, "msp", "knn")),
    "detection, wrapped": (
        lambda: BoxNetwork(cast(Any, boxes())), evaluated(DETECTION, "energy")
    ),
}  # fmt: skip


@pytest.mark.parametrize("check", network_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("task", TASKS)
def test_networks_are_neither_moved_nor_changed(task: str, check: NetworkCheck) -> None:
    make, use = TASKS[task]
    check(make, use)


# --- each part of the check is able to fail ----------------------------------------------------


def changed_strides(network: nn.Module) -> None:
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def new_tensor(network: nn.Sequential) -> None:
    network[0].weight = nn.Parameter(network[0].weight.detach())


def in_place(network: nn.Sequential) -> None:
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] += 1


def one_frozen(network: nn.Sequential) -> None:
    network[1].training = not network[1].training


def new_gradient(network: nn.Sequential) -> None:
    network[0].weight.grad = torch.zeros_like(network[0].weight)


def cudnn_flag(network: nn.Module) -> None:
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "mode": ("mode of the network", lambda n: n.train(not n.training)),
    "mode of one module": ("mode of 1", one_frozen),
    "device": ("device of 0.weight", lambda n: n.to("meta")),
    "dtype": ("dtype of 0.weight", lambda n: n.double()),
    "strides": ("strides of 0.weight", changed_strides),
    "values": ("values of 0.weight", in_place),
    "another tensor": ("tensors of 0", new_tensor),
    "memory": ("memory of 0.weight", lambda n: n[0].weight.__setattr__("data", n[0].weight + 0)),
    "requires_grad": ("requires_grad of 0.weight", lambda n: n.requires_grad_(False)),
    "gradient": ("gradient of 0.weight", new_gradient),
    "statistics": ("values of 1.running_mean", lambda n: n.train()(torch.rand(2, 1, 8, 8))),
    "buffer": ("tensors of 1", lambda n: n[1].register_buffer("more", torch.ones(1))),
    "hook": ("hooks of 0", lambda n: n[0].register_forward_hook(lambda *_: None)),
    "pre-hook": ("hooks of 2", lambda n: n[2].register_forward_pre_hook(lambda *_: None)),
    "attribute": ("attributes of the network", lambda n: setattr(n, "preprocess", GREY)),
    "Python": ("random state of Python", lambda _: random.random()),
    "NumPy": ("random state of NumPy", lambda _: np.random.rand()),  # noqa: NPY002
    "PyTorch": ("random state of PyTorch", lambda _: torch.rand(1)),
    "default dtype": ("default dtype", lambda _: torch.set_default_dtype(torch.float64)),
    "threads": ("number of threads", lambda _: torch.set_num_threads(3)),
    "gradients off": ("gradient mode", lambda _: torch.set_grad_enabled(False)),
    "autocast": ("autocast", lambda _: torch.set_autocast_enabled("cpu", True)),
    "cuDNN": ("cuDNN's flags", cudnn_flag),
    "determinism": ("determinism", lambda _: torch.use_deterministic_algorithms(True)),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_the_check_can_fail(change: str, fails: bool) -> None:
    told, make = CHANGES[change]
    network = layers(7).eval()

    def use() -> None:
        with untouched(network):
            make(network)
            if fails:
                raise ValueError("afterwards")

    with undisturbed(), pytest.raises(AssertionError, match=rf"changed: .*{told}"):
        use()
    with untouched(network):  # the process is as it was, and nothing is told without reason
        pass


@pytest.mark.parametrize("check", network_checks(), ids=lambda check: check.__name__)
def test_each_check_can_fail(check: NetworkCheck) -> None:
    """By a use that leaves a network as Lightning's loops do: moved, in evaluation mode, used."""

    def use(network: Any) -> None:
        network.eval().to(memory_format=torch.channels_last).requires_grad_(True)
        with torch.no_grad():
            network.double()(torch.rand(2, 1, 8, 8).double())
        network.float()

    with pytest.raises(AssertionError, match="changed"):
        check(lambda: layers(7), use)


def test_nothing_else_is_a_change() -> None:
    network = layers(7)
    with untouched(network), torch.no_grad(), undisturbed():
        network.eval()(torch.rand(2, 1, 8, 8))
        network.train()


@pytest.mark.parametrize("change", CHANGES)
def test_everything_is_put_back(change: str) -> None:
    """By the machinery itself, whoever made the change."""
    network = layers(7)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    with untouched(network):
        home, process = NetworkState(network), ProcessState()
        for tensor in home.tensors:
            tensor.grad = None
            tensor.data = tensor.data.clone()
        CHANGES[change][1](network)
        home.put_back()
        process.put_back()


# --- streams of images --------------------------------------------------------------------------


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images go through the network at a time."""
    monkeypatch.setattr(pixels, "PIXELS_AT_ONCE", 4 * 64 * 64)


@pytest.mark.parametrize("end", ["kept", "closed", "dropped", "thrown into", "all"])
def test_a_stream_of_pixels_that_is_left(end: str, few_at_once: None) -> None:
    """Whenever an image is handed out, and whatever becomes of the stream afterwards."""
    gc.freeze()  # the collector looks at what comes now; at all that is here it would for a second
    network, samples = layers(7).train(), SceneMasks("s", scenes("test", "id")[:10])
    network[1].eval()
    with untouched(network):
        stream = cast(Any, segment(PixelNetwork(network), samples, GREY, CPU))
        next(stream)
        with untouched(network):
            if end == "closed":
                stream.close()
            elif end == "thrown into":
                with pytest.raises(KeyboardInterrupt):
                    stream.throw(KeyboardInterrupt)
            elif end == "all":
                list(stream)
    with torch.no_grad():  # what the caller does meanwhile is not undone
        network[0].weight += 1
    trained = network[0].weight.clone()
    del stream
    gc.collect()
    assert network.training
    assert torch.equal(network[0].weight, trained)


def test_logits_of_a_stream_are_those_of_the_network_in_evaluation_mode(few_at_once: None) -> None:
    network, samples = layers(7).train(), SceneMasks("s", scenes("test", "id")[:10])
    with torch.no_grad():
        network(torch.rand(4, 1, 64, 64))  # statistics that are not those of a batch
        found = list(segment(PixelNetwork(network), samples, GREY, CPU))
        network.eval()
        for one in (found[0], found[-1]):
            image = torch.from_numpy(samples.scenes[one.index].image)[None, None] / 255
            expected = network((image - 0.4) / 0.2)[0].flatten(1).T
            torch.testing.assert_close(one.outputs.logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pixels_of_a_network_in_another_floating_type(dtype: torch.dtype) -> None:
    network = layers(7).to(dtype)
    with untouched(network):
        rows = oodbench.evaluate(
            network, benchmark=SEGMENTATION, detectors="msp", hardware=CPU, preprocess="benchmark"
        )
    same = layers(7)
    same.load_state_dict(network.state_dict())
    expected = oodbench.evaluate(
        same, benchmark=SEGMENTATION, detectors="msp", hardware=CPU, preprocess="benchmark"
    )
    for row, other in zip(rows, expected, strict=True):
        assert row["auroc"] == pytest.approx(other["auroc"], abs=0.02)


# --- networks that are made in other ways -------------------------------------------------------


class Counts(nn.Module):
    """Random numbers and counters of its own, a cache, and a switch of modes that does something.

    Adapters merge their weights when they are switched to evaluation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = layers(7)
        self.calls, self.anchors = 0, torch.ones(3)
        self.merged = False

    def train(self, mode: bool = True) -> Any:
        with torch.no_grad():
            if self.merged is mode:
                cast(Any, self.body)[0].weight += -1 if mode else 1
        self.merged = not mode
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.anchors += 1
        self.last = self.body(images)
        return self.last


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.rnn = layers(8), nn.GRU(8, 7, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        rows = self.rnn(maps.permute(0, 2, 3, 1).flatten(0, 1))[0]
        return rows.reshape(len(maps), *maps.shape[2:], 7).permute(0, 3, 1, 2)


class AlwaysTraining(nn.BatchNorm2d):
    """Takes the statistics of the images at hand, whatever the mode."""

    def forward(self, images: Tensor) -> Tensor:
        self.training = True
        return super().forward(images)


def without_layers() -> nn.Module:
    class Plain(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([images * k for k in range(7)], dim=1)

    return Plain()


def adapted() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 1), AlwaysTraining(8), nn.Conv2d(8, 7, 1))


@pytest.mark.parametrize(
    "make", [Counts, Recurrent, adapted, without_layers], ids=lambda make: make.__name__
)
def test_networks_that_change_themselves(make: Callable[[], nn.Module]) -> None:
    network = make()
    with untouched(network):
        oodbench.evaluate(
            network, benchmark=SEGMENTATION, detectors="msp", hardware=CPU, preprocess="benchmark"
        )


def test_a_scripted_network() -> None:
    network = torch.jit.trace(layers(7).eval(), torch.rand(1, 1, 64, 64)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    addresses = [p.data_ptr() for p in network.parameters()]
    oodbench.evaluate(
        network, benchmark=SEGMENTATION, detectors="msp", hardware=CPU, preprocess="benchmark"
    )
    assert network.training
    assert [p.data_ptr() for p in network.parameters()] == addresses
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_gradient_that_was_begun_before_can_be_finished() -> None:
    network = layers(7)
    loss = network(torch.rand(1, 1, 8, 8)).square().mean()
    oodbench.evaluate(
        network, benchmark=SEGMENTATION, detectors="msp", hardware=CPU, preprocess="benchmark"
    )
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())


class Hooked(nn.Module):
    """Reads in ``forward`` what a hook has seen."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.seen = how, {}
        self.body = nn.Sequential(*layers(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(8, 3)
        store = self.store
        self.body.register_forward_hook(
            {
                "attribute": lambda m, i, out: setattr(self, "last", out),
                "dict": lambda m, i, out: self.seen.__setitem__("last", out),
                "method": self.store,
                "method in a function": lambda m, i, out: store(m, i, out),
                "function in a function": _kept_by(lambda out: setattr(self, "last", out)),
                "": lambda m, i, out: None,
            }[how]
        )

    def store(self, module: nn.Module, inputs: Any, out: Tensor) -> None:
        self.last = out

    def forward(self, images: Tensor) -> Tensor:
        found = self.body(images)
        if self.how:
            found = self.seen["last"] if self.how == "dict" else self.last
        return cast(Tensor, self.fc(found))


def _kept_by(keep: Callable[[Tensor], None]) -> Callable[..., None]:
    return lambda module, inputs, out: keep(out)


_without_hooks: dict[bytes, Any] = {}
"""What a network without hooks is told of, by its weights, which are the same each time."""


def without_hooks(plain: nn.Module) -> Any:
    weights = b"".join(value.numpy().tobytes() for value in plain.state_dict().values())
    if weights not in _without_hooks:
        _without_hooks[weights] = list(TASKS["classification"][1](plain))
    return _without_hooks[weights]


@pytest.mark.parametrize("ran", ["never", "with gradients", "without"])
@pytest.mark.parametrize(
    "how", ["attribute", "dict", "method", "method in a function", "function in a function"]
)
def test_hooks_of_a_copy_write_into_the_copy(how: str, ran: str) -> None:
    """They wrote into the caller's network, and the copy read what was there before."""
    network, plain = Hooked(how), Hooked("")
    plain.load_state_dict(network.state_dict())
    if ran != "never":  # as many images as there will be, so that nothing fails
        with torch.set_grad_enabled(ran == "with gradients"):
            network.eval()(torch.rand(12, 1, 8, 8))
    network.train()
    use = TASKS["classification"][1]
    with untouched(network):
        found = use(network)
    for row, other in zip(found, without_hooks(plain), strict=True):
        assert (row["auroc"], row["id_accuracy"]) == (other["auroc"], other["id_accuracy"])

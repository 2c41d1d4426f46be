"""Extraction: once for the same content, again for any other, and never on the caller's model."""

from __future__ import annotations

import dataclasses
import json
import linecache
import runpy
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Detector, Hardware, files
from oodbench.data.samples import ImageArrays, image_folder
from oodbench.data.transforms import Preprocess
from oodbench.errors import (
    BadScoresError,
    DataError,
    MissingOutputError,
    OODBenchError,
    OptionError,
)
from oodbench.evaluator import Contender, Evaluator
from oodbench.extract import as_network, extract
from oodbench.looking import score_with_network
from oodbench.networks.backbones import create_backbone
from oodbench.networks.classifier import Classifier
from oodbench.networks.headed import HeadedBackbone
from oodbench.registry import DETECTORS
from tests.conftest import write_images
from tests.helpers.attempts import Server
from tests.helpers.images import CPU, GREY, arrays, tensors
from tests.helpers.networks import Breaks, Counter, flat_model

RGB = Preprocess(16, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def forwards(
    model: nn.Module, samples: Any, preprocess: Any = GREY, hardware: Hardware = CPU, **options: Any
) -> int:
    count = Counter()
    extract(model, samples, preprocess, hardware=hardware, on_forward=count, **options)
    return count.n


# What comes out


def test_outputs_are_those_of_a_plain_forward_pass() -> None:
    network = HeadedBackbone(create_backbone("digits-cnn", 1), 3).eval()
    samples = arrays()

    outputs = extract(network, samples, GREY, hardware=CPU)

    with torch.no_grad():
        expected = network.outputs(tensors(samples, GREY))
    torch.testing.assert_close(outputs.features, expected["features"])
    torch.testing.assert_close(outputs.logits, expected["logits"])
    assert outputs.labels.tolist() == samples.labels.tolist()
    assert outputs.head is not None
    torch.testing.assert_close(outputs.head(outputs.features), outputs.logits)


def test_extras_keep_their_names_and_rows() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 4)

        def outputs(self, images: Tensor) -> dict[str, Tensor]:
            x = images.flatten(1)
            return {
                "features": x,
                "logits": self.linear(x),
                "logits/video": -self.linear(x),
                "temperature": x.mean(dim=1),
            }

        def head(self) -> None:
            return None

    samples = arrays()
    outputs = extract(Two(), samples, GREY, hardware=CPU)
    torch.testing.assert_close(outputs.extra["logits/video"], -outputs.logits)
    torch.testing.assert_close(
        outputs.extra["temperature"], tensors(samples, GREY).flatten(1).mean(dim=1)
    )
    assert outputs.head is None


def test_batch_size_and_workers_do_not_change_the_outputs(new_cache: Callable[[], None]) -> None:
    model, samples = flat_model(), arrays(50)
    found = []
    for batch_size, workers in ((1, 0), (7, 0), (7, 2), (64, 1)):
        new_cache()
        hardware = Hardware(accelerator="cpu", batch_size=batch_size, workers=workers)
        found.append(extract(model, samples, GREY, hardware=hardware))
    for other in found[1:]:
        torch.testing.assert_close(other.features, found[0].features)
        torch.testing.assert_close(other.logits, found[0].logits)
        assert other.labels.equal(found[0].labels)


def test_another_batch_size_reads_the_same_cache() -> None:
    model, samples = flat_model(), arrays()
    assert forwards(model, samples) == 21
    assert forwards(model, samples, hardware=Hardware(accelerator="cpu", batch_size=5)) == 0


def test_images_have_the_order_of_the_labels(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", {"red": 5, "blue": 6}, size=16)
    samples = image_folder("set/test", root)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    outputs = extract(model, samples, RGB, hardware=CPU)
    with torch.no_grad():
        torch.testing.assert_close(outputs.logits, model(tensors(samples, RGB)))
    torch.testing.assert_close(outputs.features, tensors(samples, RGB).flatten(1))


def test_no_images_is_an_error_that_names_the_set() -> None:
    empty = ImageArrays("void/test", np.zeros((0, 8, 8), np.uint8), [], ("a", "b"))
    with pytest.raises(BadScoresError, match="void/test"):
        extract(flat_model(), empty, GREY, hardware=CPU)


# Once for the same content


def test_second_extraction_does_no_forward_pass() -> None:
    model, samples = flat_model(), arrays()
    assert forwards(model, samples) == 21

    def never(n: int) -> None:
        pytest.fail(f"{n} samples went through the network again")

    again = extract(model, samples, GREY, hardware=CPU, on_forward=never)
    with torch.no_grad():
        torch.testing.assert_close(again.logits, model(tensors(samples, GREY)))


def test_equal_content_is_the_same_content() -> None:
    """What counts is the weights' and the images' content, not which objects hold them."""
    model = flat_model()
    assert forwards(model, arrays()) == 21
    twin = flat_model()
    twin.load_state_dict(model.state_dict())
    assert forwards(twin.train(), arrays(name="another name/test")) == 0


def test_changed_weight_runs_again() -> None:
    model, samples = flat_model(), arrays()
    before = extract(model, samples, GREY, hardware=CPU).logits.clone()
    with torch.no_grad():
        model[3].bias[1] += 1e-3
    assert forwards(model, samples) == 21
    after = extract(model, samples, GREY, hardware=CPU).logits
    torch.testing.assert_close(after[:, 1], before[:, 1] + 1e-3)


@pytest.mark.parametrize("persistent", [True, False])
def test_changed_buffer_runs_again(persistent: bool) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 3)
            self.register_buffer("shift", torch.zeros(1), persistent=persistent)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(1) + self.shift)

    model, samples = Shifted(), arrays()
    assert forwards(model, samples) == 21
    assert forwards(model, samples) == 0
    model.shift += 1
    assert forwards(model, samples) == 21


def test_changed_image_file_runs_again(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", {"red": 4, "blue": 4}, size=16)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    assert forwards(model, image_folder("set/test", root), RGB) == 8
    assert forwards(model, image_folder("set/test", root), RGB) == 0

    pixels = np.array(Image.open(root / "red" / "2.png"))
    pixels[3, 3] ^= 1
    Image.fromarray(pixels).save(root / "red" / "2.png")

    samples = image_folder("set/test", root)
    assert forwards(model, samples, RGB) == 8
    with torch.no_grad():
        expected = model(tensors(samples, RGB))
    torch.testing.assert_close(extract(model, samples, RGB, hardware=CPU).logits, expected)


def test_changed_label_runs_again() -> None:
    model, samples = flat_model(), arrays()
    assert forwards(model, samples) == 21
    relabelled = arrays()
    relabelled.labels[0] = 2
    assert forwards(model, relabelled) == 21
    assert int(extract(model, relabelled, GREY, hardware=CPU).labels[0]) == 2
    assert int(extract(model, samples, GREY, hardware=CPU).labels[0]) == 0


@pytest.mark.parametrize(
    "change", [{"mean": (0.4,)}, {"std": (0.3,)}, {"resize": "crop"}, {"pre_size": 9}]
)
def test_changed_transform_runs_again(change: dict[str, Any]) -> None:
    model, samples = flat_model(), arrays()
    assert forwards(model, samples) == 21
    assert forwards(model, samples, dataclasses.replace(GREY, **change)) == 21


def test_another_set_runs_again() -> None:
    model = flat_model()
    assert forwards(model, arrays(seed=0)) == 21
    assert forwards(model, arrays(seed=1)) == 21
    assert forwards(model, arrays(20)) == 20


def test_another_precision_runs_again() -> None:
    model, samples = flat_model(), arrays()
    assert forwards(model, samples) == 21
    half = Hardware(accelerator="cpu", batch_size=8, precision="bf16-mixed")
    assert forwards(model, samples, hardware=half) == 21


_LOADED = 0


def defined(source: str, *, findable: bool = True) -> type[nn.Module]:
    """A class ``Net`` from source text, as a module or a notebook cell would define it."""
    global _LOADED
    _LOADED += 1
    name = f"<cell {_LOADED}>"
    source = textwrap.dedent(source)
    module = types.ModuleType("users_own")
    module.__dict__.update(nn=nn, torch=torch, F=F)
    if findable:
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), module.__dict__)
    return module.Net


NET = """
SCALE = 2.0
def act(x):
    return F.relu(x)
class Base(nn.Module):
    gain = 1.0
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.last = nn.Linear(8, 3)
    def forward(self, x):
        return self.last(act(self.first(x.flatten(1))) * self.gain)
class Net(Base):
    pass
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* self.gain)", "/ self.gain - 1)"),
        ("flatten(1)))", "flatten(1)).clamp(max=0.5))"),
        ("gain = 1.0", "gain = 1.5"),
        ("F.relu(x)", "F.gelu(x)"),
        ("F.relu(x)", "F.relu(x) * 3"),
        ("class Net(Base):\n    pass", "class Net(Base):\n    gain = 3.0"),
    ],
    ids=["operator", "call", "class attribute", "helper", "helper's constant", "subclass"],
)
@pytest.mark.parametrize("findable", [True, False], ids=["source", "no source"])
def test_changed_code_of_a_user_module_runs_again(old: str, new: str, findable: bool) -> None:
    assert old in NET
    model, samples = defined(NET, findable=findable)(), arrays()
    assert forwards(model, samples) == 21
    same = defined(NET, findable=findable)()
    same.load_state_dict(model.state_dict())
    assert forwards(same, samples) == 0
    changed = defined(NET.replace(old, new), findable=findable)()
    changed.load_state_dict(model.state_dict())
    assert forwards(changed, samples) == 21


class Scaled(nn.Module):
    """Reads settings that are no parameters."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 3)
        self.__dict__.update(settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"scale": 2.0}, {"scale": 3.0}),
        ({"_scale": 2}, {"_scale": 3}),
        ({"mode": "a"}, {"mode": "b"}),
        ({"on": True}, {"on": False}),
        ({"clip": None}, {"clip": 1.0}),
        ({"sizes": (1, 2)}, {"sizes": (1, 3)}),
        ({"sizes": [1, 2]}, {"sizes": [1, 3]}),
        ({"by": {"a": 1}}, {"by": {"a": 2}}),
        ({"shift": torch.zeros(2)}, {"shift": torch.ones(2)}),
        ({"shift": np.zeros(2)}, {"shift": np.ones(2)}),
        ({"act": F.relu}, {"act": F.gelu}),
        ({"act": lambda x: x + 1}, {"act": lambda x: x + 2}),
    ],
    ids=lambda settings: next(iter(settings)) if isinstance(settings, dict) else None,
)
def test_changed_setting_of_a_user_module_runs_again(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    samples = arrays()
    assert forwards(Scaled(**one), samples) == 21
    assert forwards(Scaled(**one), samples) == 0
    assert forwards(Scaled(**other), samples) == 21


def test_hook_on_the_users_model_runs_again() -> None:
    """ReAct and its kin are written as hooks that clip activations."""
    model, samples = flat_model(), arrays()
    assert forwards(model, samples) == 21
    model[2].register_forward_hook(lambda module, args, out: out.clamp(max=0.1))
    assert forwards(model, samples) == 21
    assert float(extract(model, samples, GREY, hardware=CPU).features.max()) == pytest.approx(0.1)


def test_library_settings_count() -> None:
    class Net(nn.Module):
        def __init__(self, slope: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.act = nn.LeakyReLU(slope)
            self.linear = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.act(x.flatten(1)))

    samples = arrays()
    assert forwards(Net(0.1), samples) == 21
    assert forwards(Net(0.1), samples) == 0
    assert forwards(Net(0.2), samples) == 21


def test_key_is_the_same_in_another_process(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing in it may hang on addresses, on the order of a set, or on the process."""
    script = textwrap.dedent(
        """
        import numpy as np, torch
        from torch import nn
        from oodbench.extract import cache_key, as_network
        from oodbench.data.samples import ImageArrays
        from oodbench.data.transforms import Preprocess

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.linear = nn.Linear(64, 3)
                self.act = lambda x: x + 1
                self.names = {"one", "two", "three"}
            def forward(self, x, mode="one"):
                if mode in {"one", "two", "three"}:
                    return self.linear(self.act(x.flatten(1)))

        net = Net()
        net.linear.register_forward_hook(lambda m, a, o: o)
        samples = ImageArrays("t", np.zeros((2, 8, 8), np.uint8), [0, 1], ("a", "b"))
        pre = Preprocess(8, (0.5,), (0.25,), mode="L")
        print(cache_key(as_network(net), samples, pre, "32-true"))
        """
    )
    path = tmp_path / "script.py"
    path.write_text(script)
    other = server.prints(path)
    runpy.run_path(str(path), run_name="__main__")
    own = capsys.readouterr().out
    assert len(own.strip()) == 64
    assert other == own


def test_transform_without_content_key_warns_and_is_not_reused() -> None:
    model, samples = flat_model(), arrays()

    def transform(image: Image.Image) -> Tensor:
        return GREY(image)

    for _ in range(2):
        with pytest.warns(UserWarning, match="cannot be told apart"):
            assert forwards(model, samples, transform) == 21
    with pytest.warns(UserWarning, match="not cached"):
        outputs = extract(model, samples, transform, hardware=CPU)
    with torch.no_grad():
        torch.testing.assert_close(outputs.logits, model(tensors(samples, GREY)))
    left = list((files.cache_dir() / "outputs").glob("*/*.npy"))
    assert left == [], "what cannot be found again must not fill the disk"


def test_transform_with_a_telling_repr_is_reused() -> None:
    class Shift:
        def __init__(self, by: float) -> None:
            self.by = by

        def __call__(self, image: Image.Image) -> Tensor:
            return GREY(image) + self.by

        def __repr__(self) -> str:
            return f"Shift({self.by})"

    model, samples = flat_model(), arrays()
    assert forwards(model, samples, Shift(1)) == 21
    assert forwards(model, samples, Shift(1)) == 0
    assert forwards(model, samples, Shift(2)) == 21


# Any classifier


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (lambda: timm.create_model("test_resnet", num_classes=5), "fc"),
        (lambda: timm.create_model("test_vit", num_classes=5, img_size=32), "head"),
        (lambda: torchvision.models.mobilenet_v3_small(num_classes=5), "classifier.3"),
    ],
    ids=["timm resnet", "timm vit", "torchvision mobilenet"],
)
def test_features_of_library_models_are_the_last_linear_layers_input(
    make: Callable[[], nn.Module], head: str, tmp_path: Path
) -> None:
    model = make().eval()
    root = write_images(tmp_path / "set", {"a": 3, "b": 3}, size=32)
    samples = image_folder("set/test", root)
    preprocess = dataclasses.replace(RGB, size=32)

    outputs = extract(model, samples, preprocess, hardware=CPU)

    seen: list[Tensor] = []
    handle = model.get_submodule(head).register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with torch.no_grad():
        logits = model(tensors(samples, preprocess))
    handle.remove()
    torch.testing.assert_close(outputs.logits, logits)
    torch.testing.assert_close(outputs.features, seen[0])
    assert outputs.head is not None
    torch.testing.assert_close(outputs.head.weight, model.get_submodule(head).weight.detach())
    torch.testing.assert_close(outputs.head(outputs.features), logits)


class SoftmaxInside(nn.Module):
    """Its output is not that of its last linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x.flatten(1))).log_softmax(dim=1)


@pytest.mark.parametrize("layer", [None, "head"])
def test_a_head_that_does_not_give_the_logits_is_none(layer: str | None) -> None:
    """Its input are the features all the same."""
    model, samples = SoftmaxInside(), arrays()
    outputs = extract(model, samples, GREY, layer=layer, hardware=CPU)
    with torch.no_grad():
        x = tensors(samples, GREY).flatten(1)
        torch.testing.assert_close(outputs.features, model.first(x))
        torch.testing.assert_close(outputs.logits, model(tensors(samples, GREY)))
    assert outputs.head is None
    with pytest.raises(MissingOutputError, match=r"react needs head.*'head'.*SoftmaxInside"):
        oodbench.create_detector("react").fit(outputs)


def test_named_head() -> None:
    class Two(SoftmaxInside):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x.flatten(1)))

    model, samples = Two(), arrays()
    outputs = extract(model, samples, GREY, layer="head", hardware=CPU)
    with torch.no_grad():
        x = tensors(samples, GREY).flatten(1)
        torch.testing.assert_close(outputs.features, model.first(x))
        torch.testing.assert_close(outputs.logits, model(tensors(samples, GREY)))
    assert outputs.head is not None
    torch.testing.assert_close(outputs.head.weight, model.head.weight.detach())


def test_another_named_layer_is_another_extraction() -> None:
    model, samples = SoftmaxInside(), arrays()
    assert forwards(model, samples, layer="head") == 21
    assert forwards(model, samples, layer="first") == 21
    assert extract(model, samples, GREY, layer="first", hardware=CPU).features.shape == (21, 64)


def test_unknown_layer_names_the_linear_layers() -> None:
    with pytest.raises(OptionError, match=r"'haed'.*first, head"):
        extract(SoftmaxInside(), arrays(), GREY, layer="haed", hardware=CPU)


def test_model_without_linear_layer() -> None:
    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean(dim=(2, 3))

    model, samples = Convolutional(), arrays()
    outputs = extract(model, samples, GREY, hardware=CPU)
    with torch.no_grad():
        torch.testing.assert_close(outputs.logits, model(tensors(samples, GREY)))
    assert outputs.features is None
    assert outputs.head is None


def test_features_of_more_dimensions_are_flattened_like_the_head_sees_them() -> None:
    """A head that runs on a view of the features; the layer runs twice, the last call counts."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.head(-x.flatten(1))
            return self.head(x.flatten(1))

    samples = arrays()
    outputs = extract(Twice(), samples, GREY, hardware=CPU)
    torch.testing.assert_close(outputs.features, tensors(samples, GREY).flatten(1))


# The user's model stays as it was


class Plain(nn.Module):
    """A network of its own kind: convolutions, batch norm, dropout, frozen parts, a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)
        self.conv.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(self.conv(x)).mean(dim=(2, 3))))


class WithHead(nn.Module):
    """``outputs`` and ``head`` around :class:`Plain`."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = Plain()

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.plain.norm(self.plain.conv(images)).mean(dim=(2, 3))
        return {"features": features, "logits": self.plain.head(self.plain.dropout(features))}

    def head(self) -> oodbench.Head:
        return oodbench.Head(self.plain.head.weight, self.plain.head.bias)


@pytest.mark.parametrize("make", [Plain, WithHead])
@pytest.mark.parametrize("training", [True, False])
def test_users_model_is_neither_moved_nor_changed(
    make: Callable[[], nn.Module], training: bool
) -> None:
    model = make().train(training)
    calls: list[int] = []
    modules = dict(model.named_modules())
    conv = next(m for m in modules.values() if isinstance(m, nn.Conv2d))
    conv.register_forward_hook(lambda *_: calls.append(1))
    before = {
        name: (value, value.clone(), value.device, value.dtype, value.stride(), value._version)
        for name, value in model.state_dict(keep_vars=True).items()
    }
    flags = {name: module.training for name, module in modules.items()}
    hooks = {name: len(module._forward_hooks) for name, module in modules.items()}
    keys = {name: set(vars(module)) for name, module in modules.items()}
    grads = {name: p.requires_grad for name, p in model.named_parameters()}

    extract(model, arrays(), GREY, hardware=CPU)
    network_score = score_with_network(Gradient(), model, arrays(), GREY, hardware=CPU)

    assert network_score.shape == (21,)
    assert {name: m.training for name, m in model.named_modules()} == flags
    assert {name: len(m._forward_hooks) for name, m in model.named_modules()} == hooks
    assert {name: set(vars(m)) for name, m in model.named_modules()} == keys
    assert {name: p.requires_grad for name, p in model.named_parameters()} == grads
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict(keep_vars=True).items():
        same, copy, device, dtype, stride, version = before[name]
        assert value is same
        assert value.equal(copy), name
        assert (value.device, value.dtype, value.stride(), value._version) == (
            device,
            dtype,
            stride,
            version,
        )


def test_network_runs_in_evaluation_mode() -> None:
    model, samples = Plain().train(), arrays()
    outputs = extract(model, samples, GREY, hardware=CPU)
    with torch.no_grad():
        expected = Plain.forward(model.eval(), tensors(samples, GREY))
    torch.testing.assert_close(outputs.logits, expected)


def test_what_was_read_from_the_cache_cannot_change_it() -> None:
    model, samples = flat_model(), arrays()
    outputs = extract(model, samples, GREY, hardware=CPU)
    kept = outputs.logits.clone()
    outputs.logits += 1
    assert extract(model, samples, GREY, hardware=CPU).logits.equal(kept)


def test_resume_does_only_the_missing_shards() -> None:
    model, samples = flat_model(), Breaks(at=19)
    with pytest.raises(OSError, match="pulled out"):
        extract(model, samples, GREY, hardware=CPU)
    assert max(samples.read) < 24
    samples.read.clear()

    assert forwards(model, samples) == 24  # shards 2, 3, 4 of 8; images 16 to 39
    assert samples.read == list(range(16, 40))
    with torch.no_grad():
        expected = model(tensors(arrays(40), GREY))
    torch.testing.assert_close(extract(model, samples, GREY, hardware=CPU).logits, expected)


def test_resume_with_another_batch_size() -> None:
    """The shards keep the size that they had; nothing is done twice or left out."""
    model, samples = flat_model(), Breaks(at=19)
    with pytest.raises(OSError, match="pulled out"):
        extract(model, samples, GREY, hardware=CPU)
    hardware = Hardware(accelerator="cpu", batch_size=5)
    assert forwards(model, samples, hardware=hardware) == 24
    with torch.no_grad():
        expected = model(tensors(arrays(40), GREY))
    torch.testing.assert_close(extract(model, samples, GREY, hardware=CPU).logits, expected)


def test_a_damaged_image_is_named_from_a_worker_process_too(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", {"a": 3, "b": 3}, size=16)
    (root / "b" / "1.png").write_bytes((root / "b" / "1.png").read_bytes()[:60])
    samples = image_folder("set/test", root)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    for workers in (0, 1):
        hardware = Hardware(accelerator="cpu", batch_size=2, workers=workers)
        with pytest.raises(DataError, match=r"set/test.*b/1\.png") as caught:
            extract(model, samples, RGB, hardware=hardware)
        assert "Traceback" not in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 2


def test_damaged_cache_folder_says_what_to_remove() -> None:
    model, samples = flat_model(), Breaks(at=19)
    with pytest.raises(OSError, match="pulled out"):
        extract(model, samples, GREY, hardware=CPU)
    (folder,) = (files.cache_dir() / "outputs").iterdir()
    np.save(folder / "other.npy", np.zeros((3, 2), np.float32))
    (folder / "other.npy").replace(folder / "logits.npy")
    with pytest.raises(OODBenchError, match=f"{folder.name}.*Remove"):
        extract(model, samples, GREY, hardware=CPU)


# Bad values


@pytest.mark.parametrize("wrapped", [False, True], ids=["any classifier", "a network"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_outputs_name_the_dataset(wrapped: bool, value: float) -> None:
    samples = arrays(name="birds/test")
    model: nn.Module = flat_model()
    if wrapped:
        model = HeadedBackbone(create_backbone("digits-cnn", 1), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    with pytest.raises(BadScoresError, match="birds/test"):
        extract(model, samples, GREY, hardware=CPU)
    assert not list(files.cache_dir().rglob("outputs.json")), "bad outputs must not be kept"


def test_first_bad_sample_is_named() -> None:
    class Dim(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.linear(x / (x != x.min()).any(dim=1, keepdim=True))

    samples = arrays()
    samples.images[13] = 0
    with pytest.raises(BadScoresError, match="index 13"):
        extract(Dim(), samples, GREY, hardware=CPU)


# Detectors that need the network


class Gradient(Detector):
    """Norm of the input gradient of the largest logit."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        assert not model.training
        batch = batch.clone().requires_grad_(True)
        logits: Tensor = model.outputs(batch)["logits"]  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), batch)
        return -gradient.flatten(1).norm(dim=1)


@pytest.fixture
def registered() -> Iterator[str]:
    DETECTORS.register("gradient-norm")(Gradient)
    yield "gradient-norm"
    DETECTORS.unregister("gradient-norm")
    Gradient.name = ""


def test_detector_that_needs_the_network_through_evaluate(registered: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 6))
    results = oodbench.evaluate(
        model, id="digits", detectors=[registered, "msp"], hardware=CPU, preprocess="benchmark"
    )

    benchmark = oodbench.get_benchmark("digits")
    scores = []
    for spec, split in ((benchmark.id, "test"), (benchmark.near[0], "test")):
        x = tensors(spec.load(split), benchmark.preprocess).requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(x).max(dim=1).values.sum(), x)
        scores.append(-gradient.flatten(1).norm(dim=1))
    expected = oodbench.metrics.auroc(*scores)
    (near,) = [r for r in results if r["detector"] == registered and r["ood"] == "digits-6-9"]
    assert near["auroc"] == pytest.approx(expected, abs=1e-4)
    assert near["n_ood"] == len(scores[1])


def test_bad_scores_of_such_a_detector_name_it_and_the_dataset() -> None:
    class Broken(Gradient):
        def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
            return torch.full((len(batch),), torch.nan)

    with pytest.raises(BadScoresError, match=r"digits/test.*Broken"):
        oodbench.evaluate(
            flat6(), id="digits", detectors=Broken(), hardware=CPU, preprocess="benchmark"
        )


def flat6() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6))


def test_scores_do_not_depend_on_the_batch_size() -> None:
    model, samples = flat_model(), arrays()
    scores = [
        score_with_network(
            Gradient(), model, samples, GREY, hardware=Hardware("cpu", batch_size=size)
        )
        for size in (1, 4, 64)
    ]
    torch.testing.assert_close(scores[1], scores[0])
    torch.testing.assert_close(scores[2], scores[0])


# Through the evaluator


def test_second_evaluation_does_no_forward_pass() -> None:
    benchmark = oodbench.get_benchmark("digits")
    model = flat6()
    first = Evaluator(benchmark, hardware=CPU)
    rows = first.run(
        Contender(model, preprocess="benchmark"), [oodbench.create_detector("msp")]
    ).rows
    assert first.forward_passes == len(first.test) + sum(len(o.samples) for o in first.ood)

    second = Evaluator(benchmark, hardware=CPU)
    again = second.run(
        Contender(model, preprocess="benchmark"), [oodbench.create_detector("energy")]
    )
    assert second.forward_passes == 0
    assert len(again) == len(rows)

    with torch.no_grad():
        model[1].weight[0, 0] += 1e-4
    third = Evaluator(benchmark, hardware=CPU)
    third.run(Contender(model, preprocess="benchmark"), [oodbench.create_detector("msp")])
    assert third.forward_passes == first.forward_passes


def test_many_detectors_cost_one_forward_pass() -> None:
    benchmark = oodbench.get_benchmark("digits")
    evaluator = Evaluator(benchmark, hardware=CPU)
    names = ["msp", "maxlogit", "energy", "knn", "mahalanobis", "palm"]
    evaluator.run(
        Contender(flat6(), preprocess="benchmark"),
        [oodbench.create_detector(name) for name in names],
    )
    train = len(benchmark.id.load("train"))
    everything = train + len(evaluator.test) + sum(len(o.samples) for o in evaluator.ood)
    assert evaluator.forward_passes == everything


def test_classifier_leaves_no_hooks_behind() -> None:
    wrapped = Classifier(flat_model())
    wrapped.outputs(torch.zeros(2, 1, 8, 8))
    assert all(not module._forward_hooks for module in wrapped.modules())


def test_stored_description_is_plain_json() -> None:
    extract(flat_model(), arrays(), GREY, hardware=CPU)
    (folder,) = (files.cache_dir() / "outputs").iterdir()
    meta = json.loads((folder / "outputs.json").read_text())
    assert set(meta["columns"]) == {"features", "logits", "labels"}
    assert not list(folder.glob(".*")), "no temporary files are left"


def test_a_network_without_weights_is_refused_before_it_is_wrapped() -> None:
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(OODBenchError, match="layers without weights so far"):
        as_network(network)

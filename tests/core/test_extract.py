"""Extraction: once for the same content, again for any other, and never on the caller's model."""

from __future__ import annotations

import dataclasses
import json
import linecache
import runpy
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Hardware, files
from oodbench.data.samples import ImageArrays, image_folder
from oodbench.errors import BadScoresError, OODBenchError
from oodbench.extract import as_network, extract
from oodbench.looking import score_with_network
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from tests.conftest import write_images
from tests.helpers.attempts import Server
from tests.helpers.images import CPU, GREY, RGB, arrays, tensors
from tests.helpers.networks import Breaks, Gradient, flat_model, forwards

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


def test_damaged_cache_folder_says_what_to_remove() -> None:
    model, samples = flat_model(), Breaks(at=19)
    with pytest.raises(OSError, match="pulled out"):
        extract(model, samples, GREY, hardware=CPU)
    (folder,) = (files.cache_dir() / "outputs").iterdir()
    np.save(folder / "other.npy", np.zeros((3, 2), np.float32))
    (folder / "other.npy").replace(folder / "logits.npy")
    with pytest.raises(OODBenchError, match=f"{folder.name}.*Remove"):
        extract(model, samples, GREY, hardware=CPU)


# What is kept, and what is refused


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

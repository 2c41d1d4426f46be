"""Any classifier as it is: which tensor its logits are, and a head that is checked."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Hardware, Head
from oodbench.data.samples import image_folder
from oodbench.errors import MissingOutputError, OODBenchError, OptionError
from oodbench.extract import extract
from oodbench.networks.classifier import Classifier
from oodbench.outputs import Outputs
from tests.conftest import write_images
from tests.helpers.images import CPU, GREY, RGB, arrays, tensors
from tests.helpers.networks import flat_model, forwards


class Net(nn.Module):
    """Two layers, and something behind the second."""

    def __init__(self, behind: Callable[[Tensor], Any] = lambda z: z, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(64, 8)
        self.fc = nn.Linear(8, 3, bias=bias)
        self.behind = behind

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x.flatten(1)))

    def forward(self, x: Tensor) -> Any:
        return self.behind(self.fc(self.features(x)))


def seen(model: nn.Module, layer: str | None = None, n: int = 21) -> Outputs:
    return extract(model, arrays(n), GREY, layer=layer, hardware=CPU)


def batch(n: int = 21) -> Tensor:
    return tensors(arrays(n), GREY)


def _fill(z: Tensor) -> Tensor:
    z[:, 0] = z[:, 1]
    return z


def _minus(z: Tensor) -> Tensor:
    z -= z.max(dim=1, keepdim=True).values
    return z


BEHIND: dict[str, Callable[[Tensor], Tensor]] = {
    "div_": lambda z: z.div_(10),
    "mul_": lambda z: z.mul_(1.01),
    "relu_": lambda z: F.relu_(z),
    "column": _fill,
    "shift": _minus,
    "softmax": lambda z: z.softmax(dim=1),
    "temperature": lambda z: z / 1.5,
    "clamp_": lambda z: z.clamp_(-0.1, 0.1),
    "copied": lambda z: z.clone().mul(2),
    "add_": lambda z: z.add_(0.001),
    "data": lambda z: z.data.neg_(),
    "one sample": lambda z: z * torch.where(torch.arange(len(z)) == len(z) - 1, 2, 1)[:, None],
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=list(BEHIND))
@pytest.mark.parametrize("layer", [None, "fc"])
def test_an_operation_behind_the_head(
    behind: Callable[[Tensor], Tensor], layer: str | None
) -> None:
    model = Net(behind).eval()
    outputs = seen(model, layer)
    with torch.no_grad():
        if behind is not BEHIND["one sample"]:  # which depends on the batch
            torch.testing.assert_close(outputs.logits, model(batch()))
        torch.testing.assert_close(outputs.features, model.features(batch()))
    assert outputs.head is None
    for name in ("react", "vim", "dice", "ash-s"):
        with pytest.raises(MissingOutputError, match=rf"{name} needs head.*'fc'.* off\)"):
            oodbench.create_detector(name).fit(outputs).score(outputs)
    for name in ("msp", "energy", "mahalanobis"):
        assert oodbench.create_detector(name).fit(outputs).score(outputs).isfinite().all()


class Shared(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.fc(-self.features(x))
        z = self.fc(self.features(x))
        self.fc(2 * self.features(x))
        return z


class Late(Net):
    """Its features change in place once the head has seen them."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        z = self.fc(features)
        features.zero_()
        return z


class ByKeyword(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(input=self.features(x))


class Pooled(Net):
    """A head that is a convolution over pooled maps."""

    def __init__(self, kernel: int = 1) -> None:
        super().__init__()
        self.kernel = kernel
        self.fc = nn.Conv2d(8 // kernel**2, 3, kernel)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).unflatten(1, (-1, self.kernel, self.kernel))
        return self.fc(x).flatten(1)


def _normed(model: Net, norm: Callable[..., Any]) -> Net:
    model.fc = norm(model.fc)
    return model


HEADS: dict[str, Callable[[], Net]] = {
    "plain": Net,
    "no bias": lambda: Net(bias=False),
    "twice": Shared,
    "late": Late,
    "keyword": ByKeyword,
    "1x1": Pooled,
    "2x2": lambda: Pooled(2),
    "weight norm": lambda: _normed(Net(), nn.utils.parametrizations.weight_norm),
    "old weight norm": lambda: _normed(Net(), nn.utils.weight_norm),
    "spectral norm": lambda: _normed(Net(), nn.utils.parametrizations.spectral_norm),
    "old spectral norm": lambda: _normed(Net(), nn.utils.spectral_norm),
    "view": lambda: Net(lambda z: z.view(-1, 3)),
    "dropout": lambda: Net(nn.Dropout(0.5)),
    "maps": lambda: Net(lambda z: z[:, :, None, None]),
    "dict": lambda: Net(lambda z: {"logits": z, "other": z + 1}),
}


@pytest.mark.parametrize("make", HEADS.values(), ids=list(HEADS))
@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_a_head_that_is_one(make: Callable[[], Net]) -> None:
    model = make().eval()
    outputs = seen(model)
    with torch.no_grad():
        torch.testing.assert_close(outputs.features, model.features(batch()))
        assert outputs.head is not None
        torch.testing.assert_close(outputs.head(outputs.features), outputs.logits)
    assert outputs.notes == {}


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_rounding_is_no_operation(precision: str) -> None:
    hardware = Hardware(accelerator="cpu", batch_size=8, precision=precision)
    assert extract(Net(), arrays(), GREY, hardware=hardware).head is not None
    if precision == "bf16-mixed":
        late = Net(lambda z: z.float())
        assert extract(late, arrays(), GREY, hardware=hardware).head is not None
    half = Net(lambda z: z.div_(1.5))
    assert extract(half, arrays(), GREY, hardware=hardware).head is None


def test_a_head_that_depends_on_the_input_is_none_from_the_first_batch_on() -> None:
    """The first batch is as it should be; a later one is not, in the same or in another process."""

    class Odd(Net):
        def forward(self, x: Tensor) -> Tensor:
            z = self.fc(self.features(x))
            return z.mul_(3) if len(x) < 8 else z  # the last batch has five

    outputs = seen(Odd())
    assert outputs.head is None
    assert "fc" in outputs.notes["head"]
    assert seen(Odd()).head is None, "nor is it in the cache"
    assert seen(Odd(), n=16).head is not None


class Tokens(nn.Module):
    def __init__(self, mean: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(8, 3)
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        z = self.head(x.flatten(1).unflatten(1, (8, 8)))  # [B, 8 tokens, 3]
        return z.mean(dim=1) if self.mean else z[:, 0]


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("layer", [None, "head"])
def test_a_head_on_tokens_gives_logits_alone(mean: bool, layer: str | None) -> None:
    model = Tokens(mean)
    outputs = seen(model, layer)
    with torch.no_grad():
        torch.testing.assert_close(outputs.logits, model(batch()))
    assert outputs.features is None
    assert outputs.head is None
    with pytest.raises(MissingOutputError, match=r"'head' runs on \[B, 8, 8\]"):
        oodbench.create_detector("knn", k=1).fit(outputs)


class TwoHeads(Net):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        return (self.fc(features) + self.other(-features)) / 2


def test_two_heads_are_told_and_either_may_be_named() -> None:
    outputs = seen(TwoHeads())
    assert outputs.features is None
    assert oodbench.create_detector("msp").score(outputs).isfinite().all()
    with pytest.raises(MissingOutputError, match=r"fc.*other|other.*fc"):
        oodbench.create_detector("knn", k=1).fit(outputs)
    named = seen(TwoHeads(), "fc")
    assert named.head is None
    with torch.no_grad():
        torch.testing.assert_close(named.features, TwoHeads().features(batch()))


def test_a_layer_that_does_not_run() -> None:
    class Idle(Net):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(8, 3)

    with pytest.raises(OptionError, match=r"'idle' does not run"):
        seen(Idle(), "idle")


class Own(nn.Module):
    """``outputs`` and ``head`` of somebody's own, whose head may be wrong."""

    def __init__(self, head: Callable[[Net], Head | None]) -> None:
        super().__init__()
        self.net = Net()
        self.make = head

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.net.features(images)
        return {"features": features, "logits": self.net.fc(features)}

    def head(self) -> Head | None:
        return self.make(self.net)


@pytest.mark.parametrize(
    ("head", "right"),
    [
        (lambda net: Head(net.fc.weight, net.fc.bias), True),
        (lambda net: Head(net.fc.weight), False),
        (lambda net: Head(2 * net.fc.weight, 2 * net.fc.bias), False),
        (lambda net: Head(net.body.weight, net.body.bias), False),
        (lambda net: Head(net.fc.weight[:2], net.fc.bias[:2]), False),
        (lambda net: Head(net.fc.weight, net.fc.bias, norm_eps=1e-6), False),
    ],
    ids=["right", "no bias", "scaled", "other", "narrow", "cosines"],
)
def test_a_wrapper_is_not_believed_either(head: Callable[[Net], Head | None], right: bool) -> None:
    outputs = seen(Own(head))
    assert (outputs.head is not None) == right
    if not right:
        with pytest.raises(MissingOutputError, match=r"react needs head.*head\(\) of the Own"):
            oodbench.create_detector("react").fit(outputs)
        assert oodbench.create_detector("knn", k=1).fit(outputs).score(outputs).shape == (21,)


def test_a_head_of_cosines_is_compared_up_to_a_temperature() -> None:
    class Cosines(Own):
        def outputs(self, images: Tensor) -> dict[str, Tensor]:
            found = super().outputs(images)
            cosine = Head(self.net.fc.weight, norm_eps=1e-6)(found["features"])
            return {**found, "logits": cosine / found["features"].mean(dim=1, keepdim=True)}

    right = seen(Cosines(lambda net: Head(net.fc.weight, norm_eps=1e-6)))
    assert right.head is not None
    assert seen(Cosines(lambda net: Head(net.fc.weight.flip(0), norm_eps=1e-6))).head is None


# Which of several outputs the logits are


class Named(NamedTuple):
    pooled: Tensor
    out: Tensor


@dataclass
class Returned:
    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()


class Model(dict):
    """As Hugging Face returns it: a mapping with attributes."""


@pytest.mark.parametrize(
    ("behind", "told"),
    [
        (lambda z: {"logits": z}, None),
        (lambda z: (z,), None),
        (lambda z: [z], None),
        (lambda z: z.unsqueeze(1), None),
        (lambda z: Returned(None, z, (z[:, :, None], z)), None),
        (lambda z: Model(loss=None, logits=z, pooler_output=torch.cat([z, z], 1)), None),
        (lambda z: (z, torch.ones(len(z), 4, 5)), "0"),
        (lambda z: (torch.ones(len(z), 4), z), "1"),
        (lambda z: {"x": torch.ones(len(z), 7, 7), "y": z}, "y"),
        (lambda z: {"out": z, "aux": z + 1}, "out"),
        (lambda z: Named(torch.ones(len(z), 4), z), "out"),
        (lambda z: (torch.ones(()), {"a": z}), "1.a"),
    ],
)
def test_the_logits_among_several_outputs(
    behind: Callable[[Tensor], Any], told: str | None
) -> None:
    outputs = seen(Net(behind))
    with torch.no_grad():
        torch.testing.assert_close(outputs.logits, Net()(batch()))
    assert outputs.head is not None
    note = outputs.notes.get("logits", "")
    assert (told is None and not note) or f"its {told!r} was taken" in note


def test_the_number_of_classes_tells_the_logits() -> None:
    model = Net(lambda z: (z.repeat(1, 2).cos(), z.clone().sin()))
    found = Classifier(model, classes=3).outputs(batch())["logits"]
    torch.testing.assert_close(found, Net()(batch()).sin())
    with pytest.raises(OODBenchError, match=r"0 \[21, 6\], 1 \[21, 3\]"):
        Classifier(model).outputs(batch())


@pytest.mark.parametrize(
    "behind",
    [
        lambda z: {"a": z + 1, "b": z + 2},
        lambda z: (z + 1, z + 2),
        lambda z: {"loss": torch.ones(())},
        lambda z: torch.ones(len(z), 3, 4, 4),
        lambda z: z.argmax(dim=1),
        lambda z: None,
        lambda z: "cat",
    ],
    ids=["dict", "pair", "loss", "maps", "labels", "none", "text"],
)
def test_outputs_that_cannot_be_told(behind: Callable[[Tensor], Any]) -> None:
    with pytest.raises(OODBenchError, match=r"Net must return logits \[B, C\]"):
        seen(Net(behind))


# Networks of libraries


@pytest.mark.parametrize(
    ("name", "size", "is_headed"),
    [
        ("dla34", 64, True),
        ("resnetv2_50x1_bit", 64, True),
        ("repvit_m0_9", 64, False),
        ("squeezenet", 64, False),
        ("deit_tiny_distilled_patch16_224", 224, False),
        ("test_byobnet", 64, True),
    ],
)
def test_heads_of_library_networks(name: str, size: int, is_headed: bool) -> None:
    torch.manual_seed(0)
    if name == "squeezenet":
        import torchvision

        model: nn.Module = torchvision.models.squeezenet1_1(num_classes=7)
    else:
        model = timm.create_model(name, num_classes=7)
    x = torch.randn(2, 3, size, size)
    classifier = Classifier(model)
    with torch.no_grad():
        outputs = classifier.outputs(x)
        torch.testing.assert_close(outputs["logits"], model.eval()(x))
    assert ("features" in outputs) == is_headed
    head = classifier.head()
    assert (head is not None) == is_headed
    if head is not None:
        torch.testing.assert_close(
            head(outputs["features"]), outputs["logits"], rtol=1e-4, atol=1e-4
        )


def test_one_head_of_a_distilled_transformer_is_not_its_logits() -> None:
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7).eval()
    for head in (model.head, model.head_dist):
        nn.init.normal_(head.weight)
    classifier = Classifier(model, "head")
    outputs = classifier.outputs(torch.randn(2, 3, 224, 224))
    assert outputs["features"].shape == (2, 192)
    assert classifier.head() is None
    assert "'head'" in classifier.notes["head"]


def test_a_quantised_network_gives_features_without_a_head() -> None:
    if torch.backends.quantized.engine == "none":
        pytest.skip("no engine for quantised layers")
    model = torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear})
    outputs = seen(model)
    with torch.no_grad():
        torch.testing.assert_close(outputs.logits, model(batch()), atol=0.1, rtol=0)
    assert outputs.features.shape == (21, 8)
    assert outputs.head is None


# Copies


def test_what_a_forward_pass_left_behind_can_be_copied() -> None:
    class Keeps(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.last = [self.features(x)]
            return self.fc(self.last[0])

    model = Keeps()
    model(batch())
    kept = model.last[0]
    torch.testing.assert_close(seen(model).features, kept.detach())
    assert model.last[0] is kept


def test_what_cannot_be_copied_is_shared() -> None:
    class Locked(Net):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()
            self.random = torch.Generator()

        def forward(self, x: Tensor) -> Tensor:
            with self.lock:
                torch.rand(1, generator=self.random)
                return super().forward(x)

    model = Locked()
    state = model.random.get_state()
    with torch.no_grad():
        torch.testing.assert_close(seen(model).logits, Net()(batch()))
    assert model.random.get_state().equal(state)
    assert not model.lock.locked()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_old_weight_norm_through_evaluate() -> None:
    torch.manual_seed(0)
    layers = [nn.utils.weight_norm(nn.Linear(64, 16)), nn.ReLU()]
    model = nn.Sequential(nn.Flatten(), *layers, nn.utils.weight_norm(nn.Linear(16, 6)))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 6))
    with torch.no_grad():
        for one, other in ((plain[1], model[1]), (plain[3], model[3])):
            one.weight.copy_(other.weight)
            one.bias.copy_(other.bias)
    found = [
        oodbench.evaluate(m, "digits", ["msp", "react"], hardware=CPU, preprocess="benchmark")
        for m in (model, plain)
    ]
    figures = [[row["auroc"] for row in results] for results in found]
    np.testing.assert_allclose(figures[0], figures[1], atol=1e-6)
    assert model[1].weight.grad_fn is not None, "the caller's own is as it was"


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


# Through the evaluator


def test_classifier_leaves_no_hooks_behind() -> None:
    wrapped = Classifier(flat_model())
    wrapped.outputs(torch.zeros(2, 1, 8, 8))
    assert all(not module._forward_hooks for module in wrapped.modules())

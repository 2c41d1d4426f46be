"""Networks through torch.compile: the same outputs, or a plain word of what is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.errors import OptionError
from oodbench.extract import extract
from oodbench.networks.backbones import create_backbone
from oodbench.networks.classifier import Classifier
from oodbench.networks.compiled import check_compiler, compile_around, compiled_outputs
from oodbench.networks.headed import HeadedBackbone
from tests.helpers.images import CPU

SMALL = Preprocess(8, (0.5,) * 3, (0.25,) * 3)


def samples() -> ImageArrays:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    return ImageArrays("toy", images, np.arange(20) % 3, ("a", "b", "c"))


def network() -> HeadedBackbone:
    torch.manual_seed(0)
    return HeadedBackbone(create_backbone("digits-cnn", 3), 3).eval()


class Plain(nn.Module):
    """A classifier, whose features a hook reads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(192, 8), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.body(images.flatten(1)))
        return logits


def test_all_but_what_is_around_a_layer_is_compiled() -> None:
    """Nothing is traced before it runs."""
    model = Plain()
    compile_around(model, (model.fc,))
    parts = {name for name, part in model.named_modules() if part._compiled_call_impl is not None}
    assert parts == {"body"}


def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    check_compiler.cache_clear()
    with pytest.raises(OptionError, match=r"does not work on this machine \(no compiler here\)"):
        extract(network(), samples(), SMALL, hardware=replace(CPU, compile=True))
    check_compiler.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_compiled_network_says_the_same(wrapped: bool) -> None:
    """Of a network with outputs, and of a classifier whose features a hook reads."""
    net = Plain() if wrapped else network()
    plain = extract(net, samples(), SMALL, hardware=CPU)
    found = extract(net, samples(), SMALL, hardware=replace(CPU, compile=True, batch_size=8))
    assert torch.allclose(found.logits, plain.logits, atol=1e-5)
    assert torch.allclose(found.features, plain.features, atol=1e-5)
    assert (found.head is None) == (plain.head is None)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ``torch.compile`` is asked for; it gives it back as it is."""
    asked: list[Any] = []

    def note(function: Any) -> Any:
        asked.append(function)
        return function

    monkeypatch.setattr(torch, "compile", note)
    monkeypatch.setattr(nn.Module, "compile", lambda self: asked.append(self))
    check_compiler.cache_clear()
    return asked


def test_a_compiler_that_computes_wrongly_is_told(
    noted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_compiler("cpu")
    assert len(noted) == 1
    check_compiler.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function: lambda one: function(one) + 1)
    with pytest.raises(OptionError, match=r"computes 1 \+ 1 \+ 1 \+ 1 wrongly here"):
        check_compiler("cpu")
    check_compiler.cache_clear()


def test_outputs_of_a_network_are_compiled_whole(noted: list[Any]) -> None:
    net, images = network(), torch.rand(2, 3, 8, 8)
    run = compiled_outputs(net, images)
    assert noted == [run]
    assert torch.equal(run(images)["logits"], net.outputs(images)["logits"])


@pytest.mark.parametrize("is_seen", [False, True])
def test_of_a_classifier_all_but_its_head_is_compiled(is_seen: bool, noted: list[Any]) -> None:
    """Its head is looked for on the first batch, before anything is compiled."""
    classifier, images = Classifier(Plain()), torch.rand(2, 3, 8, 8)
    if is_seen:
        classifier.outputs(images)
    run = compiled_outputs(classifier, images)
    model: Any = classifier.model
    assert classifier.read_layer is model.fc
    assert noted == [model.body]
    assert run(images).keys() == {"features", "logits"}


def test_of_a_classifier_without_a_head_all_is_compiled(noted: list[Any]) -> None:
    classifier, images = Classifier(nn.Flatten()), torch.rand(2, 3, 8, 8)
    assert classifier.read_layer is None
    compiled_outputs(classifier, images)
    assert noted == [classifier.model]

"""AbeT: the head and the scores against their definition, in float64 and by hand."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Outputs
from oodbench.data.augmentation import TrivialAugment, TrivialResizedCrop
from oodbench.data.transforms import CropFlip, Preprocess, to_tensor
from oodbench.detectors.abet import (
    AbeTASH,
    AbeTDICE,
    AbeTEnergy,
    AbeTMethod,
    AbeTReAct,
    AbeTRecipe,
    AbeTSegmentation,
    LearnedTemperatureHead,
    abet_score,
)
from oodbench.errors import MissingOutputError, OptionError
from oodbench.networks.backbones import create_backbone, starting_backbone
from oodbench.tasks.pixels import segment
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.pixels import CPU, RECIPE, Strided, drawn
from tests.helpers.pixels import GREY as PLAIN_GREY

GREY = Preprocess(8, (0.3,), (0.4,), mode="L")


def defined(z: np.ndarray, w: np.ndarray, a: np.ndarray, b: float, bn: np.ndarray) -> np.ndarray:
    """T ``[N]`` and cosines ``[N, C]`` of one sample after the other, from the definition."""
    mean, var, gain, shift = bn
    rows = []
    for h in z:
        t = gain * (a @ h + b - mean) / math.sqrt(var + 1e-5) + shift
        temperature = 1 / (1 + math.exp(-t)) + 1e-12
        cosines = [(h @ c) / ((math.sqrt(h @ h) + 1e-4) * (math.sqrt(c @ c) + 1e-4)) for c in w]
        rows.append([temperature, *cosines])
    return np.array(rows)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 12), st.integers(1, 6))
def test_head_equals_its_definition(seed: int, n: int, dim: int, classes: int) -> None:
    torch.manual_seed(seed)
    head = LearnedTemperatureHead(dim, classes).double().eval()
    linear, bn = head.temperature[0], head.temperature[1]
    assert isinstance(linear, nn.Linear)
    assert isinstance(bn, nn.BatchNorm1d)
    bn.running_mean = torch.randn(1).double()
    bn.running_var = torch.rand(1).double() + 0.1
    nn.init.normal_(bn.weight)
    nn.init.normal_(bn.bias)
    z = torch.randn(n, dim).double() * 10 ** random.Random(seed).uniform(-3, 2)
    with torch.no_grad():
        found = head(z)
    numbers = [v.detach() for v in (bn.running_mean, bn.running_var, bn.weight, bn.bias)]
    expected = defined(
        z.numpy(),
        head.h.weight.detach().numpy(),
        linear.weight.detach().numpy()[0],
        float(linear.bias.detach()),
        np.array([float(v) for v in numbers]),
    )
    np.testing.assert_allclose(found["temperature"], expected[:, 0], rtol=1e-9)
    np.testing.assert_allclose(found["cosine"], expected[:, 1:], rtol=1e-6, atol=1e-9)
    logits = expected[:, 1:] / expected[:, :1]
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-6, atol=1e-9)
    top = logits.max(axis=1)
    score = -top - np.log(np.exp(logits - top[:, None]).sum(axis=1))
    np.testing.assert_allclose(abet_score(found["logits"]), score, rtol=1e-6, atol=1e-9)


def test_by_hand() -> None:
    head = LearnedTemperatureHead(2, 2).double().eval()
    linear = head.temperature[0]
    with torch.no_grad():
        head.h.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        linear.weight.zero_()
        linear.bias.fill_(0.0)
        found = head(torch.tensor([[3.0, 4.0]]).double())
    assert found["temperature"].item() == pytest.approx(0.5)
    norm = 5.0001
    expected = [3 / norm * 2 / 2.0001, 4 / norm * 1 / 1.0001]
    assert found["cosine"][0].tolist() == pytest.approx(expected, abs=1e-12)
    score = -math.log(math.exp(2 * expected[0]) + math.exp(2 * expected[1]))
    assert abet_score(found["logits"]).item() == pytest.approx(score, abs=1e-9)


def test_dense_head_is_the_head_at_each_pixel() -> None:
    torch.manual_seed(0)
    flat, dense = LearnedTemperatureHead(5, 3), LearnedTemperatureHead(5, 3, dense=True)
    assert dense.temperature[0].bias is None
    with torch.no_grad():
        dense.h.weight.copy_(flat.h.weight[:, :, None, None])
        dense.temperature[0].weight.copy_(flat.temperature[0].weight[:, :, None, None])
        flat.temperature[0].bias.zero_()
    maps = torch.randn(2, 5, 4, 6)
    pixels = maps.permute(0, 2, 3, 1).reshape(-1, 5)
    for mode in (True, False):  # BatchNorm over pixels, and with running statistics
        found, expected = dense.train(mode)(maps), flat.train(mode)(pixels)
        assert found["temperature"].shape == (2, 4, 6)
        assert found["logits"].shape == found["cosine"].shape == (2, 3, 4, 6)
        torch.testing.assert_close(
            found["logits"].permute(0, 2, 3, 1).reshape(-1, 3), expected["logits"]
        )
        torch.testing.assert_close(found["temperature"].flatten(), expected["temperature"])


def test_tiny_temperatures_do_not_overflow() -> None:
    head = LearnedTemperatureHead(4, 3).eval()
    with torch.no_grad():
        head.temperature[0].weight.zero_()
        head.temperature[0].bias.fill_(-1e4)
        found = head(torch.randn(6, 4))
    assert found["temperature"].max() <= 1.1e-12
    assert found["logits"].isfinite().all()
    assert abet_score(found["logits"]).isfinite().all()
    extra = {"temperature": found["temperature"]}
    for name in ("abet", "abet-energy", "abet-msp", "abet-temperature"):
        scores = oodbench.create_detector(name).score(Outputs(logits=found["logits"], extra=extra))
        assert scores.isfinite().all()


def test_half_precision_features_give_float32_logits() -> None:
    head = LearnedTemperatureHead(4, 3).eval()
    z = torch.randn(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        found = head(z)
    assert found["logits"].dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], head(z)["logits"])


def network_outputs(seed: int = 0) -> tuple[Outputs, LearnedTemperatureHead]:
    torch.manual_seed(seed)
    head = LearnedTemperatureHead(20, 4).double().eval()
    z = torch.rand(50, 20).double().square()
    with torch.no_grad():
        found = head(z)
    extra = {"temperature": found["temperature"], "cosine": found["cosine"]}
    return Outputs(z, found["logits"], torch.zeros(50), head.as_head(), extra), head


def shaped(outputs: Outputs, z: Tensor, weight: Tensor) -> Tensor:
    """The score of shaped features and weights, with the temperature of the untouched ones."""
    cosine = (z / (z.norm(dim=1, keepdim=True) + 1e-4)) @ (
        weight / (weight.norm(dim=1, keepdim=True) + 1e-4)
    ).T
    return -(cosine / outputs.extra["temperature"][:, None]).exp().sum(dim=1).log()


def test_shaped_variants_equal_their_definition() -> None:
    outputs, head = network_outputs()
    z, weight = outputs.features, head.h.weight.detach()
    threshold = float(np.percentile(z.float().numpy(), 90))
    found = AbeTReAct().fit(outputs).score(outputs)
    torch.testing.assert_close(found, shaped(outputs, z.clamp(max=threshold), weight))

    kept = z * (z >= z.topk(6, dim=1).values[:, -1:])
    found = AbeTASH(percentile=70).score(outputs)
    torch.testing.assert_close(found, shaped(outputs, kept, weight))
    fill = (kept > 0) * z.sum(dim=1, keepdim=True) / 6
    found = AbeTASH(percentile=70, variant="b").score(outputs)
    torch.testing.assert_close(found, shaped(outputs, fill, weight))

    contribution = (weight * z.mean(dim=0)).abs()
    mask = contribution > float(np.percentile(contribution.numpy(), 90))
    found = AbeTDICE().fit(outputs).score(outputs)
    torch.testing.assert_close(found, shaped(outputs, z, weight * mask))


def test_ablations() -> None:
    outputs, _ = network_outputs()
    t, f = outputs.extra["temperature"], outputs.logits
    energy = AbeTEnergy().score(outputs)
    torch.testing.assert_close(energy, -t * f.exp().sum(dim=1).log())
    found = oodbench.create_detector("abet").score(outputs)
    torch.testing.assert_close(found * t, energy)
    torch.testing.assert_close(
        oodbench.create_detector("abet-msp").score(outputs),
        -f.softmax(dim=1).amax(dim=1).log(),
    )
    assert torch.equal(oodbench.create_detector("abet-temperature").score(outputs), t)


def test_a_linear_head_is_no_head_of_cosines(tmp_path: object) -> None:
    outputs, _ = network_outputs()
    with pytest.raises(MissingOutputError, match=r"react needs head.*cosine_head"):
        oodbench.create_detector("react").fit(outputs)
    plain = dataclasses.replace(outputs, head=oodbench.Head(torch.ones(4, 20)))
    with pytest.raises(MissingOutputError, match="abet-dice needs cosine_head"):
        oodbench.create_detector("abet-dice").fit(plain)
    with pytest.raises(MissingOutputError, match="abet needs temperature"):
        oodbench.create_detector("abet").score(Outputs(logits=outputs.logits))


def test_a_head_of_cosines_survives_the_disk(tmp_path: object) -> None:
    outputs, head = network_outputs()
    outputs.save(f"{tmp_path}/o")
    loaded = Outputs.load(f"{tmp_path}/o")
    assert loaded.has("cosine_head")
    assert not loaded.has("head")
    assert loaded.head is not None
    assert loaded.head.norm_eps == 1e-4
    with torch.no_grad():
        expected = head(outputs.features)["cosine"]
    torch.testing.assert_close(loaded.head(outputs.features), expected)
    assert loaded.to("cpu").has("cosine_head")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("abet-react", {"percentile": 101}),
        ("abet-ash", {"percentile": -1}),
        ("abet-ash", {"variant": "s"}),
        ("abet-dice", {"p": 200}),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=name):
        oodbench.create_detector(name, **options)


def test_published_recipe_is_the_papers() -> None:
    recipe = AbeTMethod.get_recipe(AbeTMethod.default_recipe("cifar10"))
    assert isinstance(recipe, AbeTRecipe)
    assert (recipe.backbone, recipe.epochs, recipe.batch_size) == ("resnet20", 200, 64)
    assert (recipe.lr, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 1e-4)
    assert not recipe.nesterov
    assert [recipe.lr_factor(e) for e in (99, 100, 150, 180)] == pytest.approx([1, 0.1, 1e-2, 1e-3])
    with pytest.raises(OptionError, match="augment"):
        AbeTRecipe(augment="none")  # type: ignore[arg-type]
    method = AbeTMethod(create_backbone("digits-cnn", 1), 3, recipe)
    assert type(method.augmentation(GREY)) is TrivialAugment
    quick = AbeTMethod(create_backbone("digits-cnn", 1), 3, AbeTMethod.get_recipe("quick"))  # type: ignore[arg-type]
    assert type(quick.augmentation(GREY)) is CropFlip


def test_convolutions_start_with_variance_two_over_fan_in() -> None:
    """As the authors' resnet.py has it; every other method's with fan-out, as it was."""
    recipe = AbeTMethod.get_recipe("published")
    for name, channels in (("resnet20", 3), ("resnet32", 1)):
        torch.manual_seed(0)
        preprocess = Preprocess(
            32, (0.5,) * channels, (0.5,) * channels, "RGB" if channels == 3 else "L"
        )
        network = AbeTMethod.make_backbone(name, recipe, preprocess)
        others = starting_backbone(name, channels)
        checked = 0
        for (key, module), other in zip(network.named_modules(), others.modules(), strict=True):
            if not isinstance(module, nn.Conv2d) or module.weight.numel() < 2000:
                continue
            assert isinstance(other, nn.Conv2d)
            _, inside, high, wide = module.weight.shape
            fan_in = inside * high * wide
            fan_out = module.weight.shape[0] * high * wide
            variance = float(module.weight.detach().var())
            assert variance == pytest.approx(2 / fan_in, rel=0.2), key
            assert float(other.weight.detach().var()) == pytest.approx(2 / fan_out, rel=0.2), key
            checked += fan_in != fan_out
        assert checked >= 1, "where the two differ"


def test_networks_that_the_authors_do_not_have_start_as_with_other_methods() -> None:
    recipe = AbeTMethod.get_recipe("quick")
    for name in ("digits-cnn", "resnet18-cifar"):
        torch.manual_seed(0)
        network = AbeTMethod.make_backbone(name, recipe, GREY)
        torch.manual_seed(0)
        others = starting_backbone(name, 1)
        for ours, theirs in zip(network.parameters(), others.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_weights_to_start_from_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    start = create_backbone("resnet20", 1)
    save_file(start.state_dict(), path)
    grey = Preprocess(8, (0.5,), (0.5,), "L")
    network = AbeTMethod.make_backbone("resnet20", AbeTMethod.get_recipe("quick"), grey, path)
    for ours, theirs in zip(network.parameters(), start.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_imagenet_recipe_is_the_codes() -> None:
    recipe = AbeTMethod.get_recipe("imagenet")
    assert isinstance(recipe, AbeTRecipe)
    assert (recipe.backbone, recipe.batch_size, recipe.epochs) == ("resnetv2_101x1_bit", 64, 200)
    assert (recipe.lr, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 1e-4)
    assert not recipe.nesterov
    assert [recipe.lr_factor(e) for e in (19, 20, 29, 30, 199)] == pytest.approx(
        [1, 0.1, 0.1, 1e-2, 1e-2]
    )
    colour = Preprocess(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    method = AbeTMethod(create_backbone("digits-cnn", 1), 3, recipe)
    augmentation = method.augmentation(colour)
    assert type(augmentation) is TrivialResizedCrop
    assert augmentation.erase == 0.1


def test_imagenet_recipe_takes_a_step(tmp_path: Path, new_cache: Callable[[], None]) -> None:
    """BiT-S-R101x1 from random weights, on a few small images."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(
                    folder / f"{i}.png"
                )
    new_cache()
    options = {"epochs": 1, "batch_size": 4}
    run = plan(
        oodbench.get_benchmark(f"folder:{tmp_path}"), "abet", recipe="imagenet", overrides=options
    )
    run = dataclasses.replace(
        run,
        benchmark=dataclasses.replace(
            run.benchmark, preprocess=Preprocess(32, (0.5,) * 3, (0.5,) * 3)
        ),
    )
    network = train(run, oodbench.Hardware(accelerator="cpu")).eval()
    with torch.no_grad():
        found = network.outputs(torch.zeros(2, 3, 32, 32))
    assert found["features"].shape == (2, 2048)
    assert found["logits"].shape == (2, 2)
    assert all(value.isfinite().all() for value in found.values())


def test_trivial_augment_depends_on_its_random_numbers_alone() -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3)
    change = TrivialAugment(GREY)
    state = torch.get_rng_state()
    first = [change(image, random.Random(i)) for i in range(30)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = [change(image, random.Random(i)) for i in range(30)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(a.shape == (1, 8, 8) for a in first)
    plain = [CropFlip(GREY)(image, random.Random(i)) for i in range(30)]
    assert any(not torch.equal(a, b) for a, b in zip(first, plain, strict=True))


def test_training_learns_digits_and_keeps_what_ablations_read() -> None:
    results = oodbench.evaluate(
        id="digits",
        detectors=["abet", "abet-energy", "abet-temperature", "abet-react", "abet-ash"],
        recipe_options={"epochs": 6},
        hardware=oodbench.Hardware(accelerator="cpu"),
    )
    rows = results.to_pandas()
    assert set(rows["method"]) == {"abet"}
    assert rows["id_accuracy"].min() > 0.9
    assert len(set(rows["detector"])) == 5


def test_outputs_have_the_size_of_the_image() -> None:
    """Cosines and temperatures are those of enlarged features; D maps of that size are not made."""
    torch.manual_seed(0)
    method = AbeTSegmentation(Strided(), 3, RECIPE).eval()
    images, size = torch.randn(2, 1, 7, 10), (7, 10)
    with torch.no_grad():
        found, features = method.outputs(images), method.backbone(images)
        assert features.shape[-2:] == (4, 5)
        large = F.interpolate(features, size, mode="bilinear", align_corners=True)
        expected = method.scaled(large)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "logits": (2, 3, 7, 10),
        "cosine": (2, 3, 7, 10),
        "temperature": (2, 7, 10),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_enlarged_features() -> None:
    torch.manual_seed(0)
    method = AbeTSegmentation(Strided(), 3, RECIPE).double()
    images, labels = torch.randn(2, 1, 7, 10).double(), torch.randint(0, 3, (2, 7, 10))
    method.loss(images, labels)["loss"].backward()
    gradients = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    method.zero_grad()
    large = F.interpolate(method.backbone(images), (7, 10), mode="bilinear", align_corners=True)
    F.cross_entropy(method.scaled(large)["logits"], labels).backward()
    expected = [p.grad for p in method.parameters() if p.grad is not None]
    assert len(gradients) == len(expected) > 2
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_pixels_are_scored_by_abet_as_images_are() -> None:
    """On a backbone that looks at single pixels, with the same weights: the flat network."""
    torch.manual_seed(0)

    class Flat(nn.Linear):
        num_features = 6

    class Dense(nn.Conv2d):
        num_features = 6

    flat = AbeTMethod(Flat(1, 6), 3, AbeTRecipe()).eval()
    dense = AbeTSegmentation(Dense(1, 6, 1), 3, RECIPE).eval()
    state = {}
    for name, value in flat.state_dict().items():
        if name == "scaled.temperature.0.bias":
            value.zero_()  # the dense head has none
        elif name.endswith("0.weight") or name in ("backbone.weight", "scaled.h.weight"):
            state[name] = value[:, :, None, None]
        else:
            state[name] = value
    dense.load_state_dict(state)
    samples = drawn("toy/test", ((6, 9), (5, 4)))
    detectors = [
        oodbench.create_detector(name)
        for name in ("abet", "abet-energy", "abet-msp", "abet-temperature")
    ]
    for found in segment(dense, samples, PLAIN_GREY, CPU):
        pixels = PLAIN_GREY.normalize(to_tensor(samples[found.index])).reshape(-1, 1)
        with torch.no_grad():
            expected = flat.outputs(pixels)
        rows = Outputs(logits=expected["logits"], extra={"temperature": expected["temperature"]})
        torch.testing.assert_close(found.outputs.logits, expected["logits"])
        for detector in detectors:
            np.testing.assert_allclose(
                found.score(detector).reshape(-1), detector.score(rows).numpy(), rtol=1e-5
            )

"""Networks that read text: prompts, cached embeddings, OpenCLIP's and Hugging Face's towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oodbench import Outputs, files
from oodbench.benchmark import get_benchmark
from oodbench.errors import CheckpointError, DataError, OptionError
from oodbench.extract import extract
from oodbench.networks.given import load_network, published
from oodbench.networks.towers import (
    ImageTower,
    Towers,
    ZeroShot,
    read_names,
    read_words,
    templates_of,
)
from tests.helpers.towers import (
    digit_towers,
    tiny_hugging_face,
    tiny_openclip,
    trained_small_towers,
)

NAMES = ["zero", "one", "two", "three", "four", "five"]


def test_prompts_by_what_people_write(tmp_path: Path) -> None:
    assert templates_of(None) == ("a photo of a {}",)
    assert templates_of("a {}| the {} ") == ("a {}", "the {}")
    assert len(templates_of("openai")) == 80
    assert len(templates_of("openai-simple")) == 7
    assert all(template.count("{}") == 1 for template in templates_of("openai"))
    (tmp_path / "prompts.txt").write_text("a {}.\n\n# no\nthe {}.\n")
    assert templates_of(str(tmp_path / "prompts.txt")) == ("a {}.", "the {}.")
    for bad in ("a photo", "{} and {}", "{name}"):
        with pytest.raises(OptionError, match="once"):
            templates_of(bad)


def test_files_of_names_and_words(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert read_names(tmp_path / "names.txt", 2) == ["cat", "dog"]
    with pytest.raises(DataError, match="2 names; the ID set has 3"):
        read_names(tmp_path / "names.txt", 3)
    (tmp_path / "words.txt").write_text("oak\nred\tadjective\nash\tnoun\n")
    assert read_words(tmp_path / "words.txt") == (["oak", "red", "ash"], [0, 1, 0])
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="no words"):
        read_words(tmp_path / "none.txt")


def test_embeddings_of_several_prompts_are_averaged_and_cached() -> None:
    towers = digit_towers()
    templates = ["a photo of a {}", "the {}"]
    made = towers.prompted(NAMES, templates)
    parts = [torch.stack([towers.embed([t.format(n)])[0] for n in NAMES]) for t in templates]
    mean = (parts[0] + parts[1]) / 2
    torch.testing.assert_close(made, mean / mean.norm(dim=1, keepdim=True))
    assert list((files.cache_dir() / "text").glob("*.safetensors"))

    def never(_: Any) -> Any:
        raise AssertionError("the texts were embedded again")

    again = Towers(towers.images, never, 1.0, towers.text_tower)
    assert torch.equal(again.prompted(NAMES, templates), made)
    with pytest.raises(AssertionError):
        again.prompted(NAMES, ["another {}"])


def test_other_prompts_cost_no_pass_over_the_images() -> None:
    samples = get_benchmark("digits").id.load("test")
    shown: Any = digit_towers().own_preprocess
    seen: list[int] = []
    one = ZeroShot(digit_towers(), NAMES)
    first = extract(one, samples, shown, on_forward=seen.append)
    other = ZeroShot(digit_towers(), NAMES, ["the number {}"])
    second = extract(other, samples, shown, on_forward=seen.append)
    assert seen in ([len(samples)], [])
    assert torch.equal(first.features, second.features)
    assert not torch.equal(first.logits, second.logits)
    assert first.has("text")
    assert not first.has("words")


def test_a_head_with_text_is_saved_and_loaded(tmp_path: Path) -> None:
    towers = digit_towers()
    network = ZeroShot(towers, NAMES, words=(["oak", "red"], [0, 1]), patches=True)
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        outputs = Outputs.of_columns(network.outputs(images), network.head())
    outputs.save(tmp_path / "outputs")
    loaded = Outputs.load(tmp_path / "outputs")
    assert loaded.head is not None
    before, after = dict(outputs.arrays()), dict(loaded.arrays())
    assert before.keys() == after.keys()
    assert {"head.text.classes", "head.text.words", "head.text.groups"} <= after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.has("words")
    assert outputs.private().has("words")


def _learns(towers: Towers, words: str, count: int) -> None:
    """Prompts whose vectors are those of words are the prompts of these words."""
    own: list[Tensor] = []
    handle = towers.tokens.register_forward_hook(lambda _, __, out: own.append(out))
    said = [f"{words} {name}." for name in ("cat", "dog")]
    with torch.no_grad():
        expected = towers.embed(said)
        handle.remove()
        context = own[0][0, towers.before : towers.before + count]
        torch.testing.assert_close(towers.with_context(context, ["cat", "dog"]), expected)
        each = torch.stack([context, 0 * context])
        made = towers.with_context(each, ["cat", "dog"])
    torch.testing.assert_close(made[0], expected[0])
    assert not torch.allclose(made[1], expected[1], atol=1e-3)
    free = context.clone().requires_grad_()
    towers.with_context(free, ["cat", "dog"])[0, 0].backward()
    assert free.grad is not None
    assert (free.grad.abs().sum(dim=1) > 0).all()


def test_vectors_in_the_place_of_words_in_small_towers() -> None:
    _learns(trained_small_towers(), "a photo of a", 4)
    with pytest.raises(OptionError, match="which layer"):
        digit_towers().with_context(torch.zeros(2, 32), ["cat"])


def _reads(towers: Towers) -> None:
    """What every pair of towers of CLIP's gives: unit vectors, logits, patches, text."""
    network = ZeroShot(towers, ["cat", "dog", "tree"], ["a photo of a {}", "a {}"], patches=True)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        columns = network.outputs(images)
        plain = ImageTower(towers.images).outputs(images)
    assert columns["patches"].shape == (2, 16, columns["features"].shape[1])
    torch.testing.assert_close(columns["features"].norm(dim=1), torch.ones(2))
    torch.testing.assert_close(plain["features"], columns["features"])
    assert set(plain) == {"features"}
    cosines = columns["features"] @ network.classes.T
    torch.testing.assert_close(columns["logits"], towers.scale * cosines)


def test_openclip_from_weights_on_this_machine(tmp_path: Path) -> None:
    model = tiny_openclip(tmp_path)
    given = published("openclip/oodbench-tiny", tmp_path / "tiny.pt")
    towers = given.network
    assert isinstance(towers, Towers)
    _reads(towers)
    _learns(towers, "a photo of a", 4)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.encode_image(images)
    torch.testing.assert_close(towers(images), expected)
    shown: Any = towers.own_preprocess
    assert (shown.size, shown.interpolation, shown.resize) == (32, "bicubic", "crop")
    with pytest.raises(OptionError, match="name the weights"):
        published("openclip/oodbench-tiny")
    with pytest.raises(OptionError, match="no architecture"):
        published("openclip/ViT-B-61/openai")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="does not fit"):
        published("openclip/oodbench-tiny", tmp_path / "other.pt")


def test_a_clip_of_hugging_face_from_a_folder(tmp_path: Path) -> None:
    model = tiny_hugging_face(tmp_path)
    towers = load_network(str(tmp_path)).network
    assert isinstance(towers, Towers)
    _reads(towers)
    _learns(towers, "a b c", 3)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        said = model.get_image_features(pixel_values=images)
    expected = said if isinstance(said, torch.Tensor) else said.pooler_output
    torch.testing.assert_close(towers(images), expected)
    shown: Any = towers.own_preprocess
    assert (shown.size, shown.mean[0]) == (32, 0.48)


def test_a_patch_alone_is_the_whole_image(tmp_path: Path) -> None:
    """With one patch that attends to itself alone, the value path is the block itself."""
    tiny_openclip(tmp_path)
    towers: Any = published("openclip/oodbench-tiny", tmp_path / "tiny.pt").network
    visual = towers.images.visual
    block = visual.transformer.resblocks[-1]
    x = torch.randn(1, 1, 64)
    with torch.no_grad():
        expected = visual.ln_post(block(x)) @ visual.proj
        images = torch.randn(1, 3, 32, 32)
        handle = block.register_forward_pre_hook(lambda _m, _a: (torch.cat([x, x], dim=1),))
        _, patches = towers.images.with_patches(images)
        handle.remove()
    torch.testing.assert_close(patches, expected)


def test_a_tower_without_patches_is_refused() -> None:
    with pytest.raises(OptionError, match="patches"):
        ImageTower(torch.nn.Flatten(), patches=True)

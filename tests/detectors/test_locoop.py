"""LoCoOp: the loss by hand and in slow loops, and prompts learned on two small towers."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import oodbench
from oodbench import metrics
from oodbench.benchmark import get_benchmark
from oodbench.detectors.locoop import LoCoOp, LoCoOpRecipe, entropy_outside
from oodbench.errors import OptionError
from oodbench.extract import extract
from oodbench.networks.small_towers import SmallTowers
from oodbench.networks.towers import Towers, ZeroShot
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.methods import CPU
from tests.helpers.towers import tiny_hugging_face, tiny_openclip, trained_small_towers

NAMES = tuple("012345")


def _method(**options: Any) -> LoCoOp:
    recipe = LoCoOpRecipe(class_names=NAMES, context=3, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LoCoOp(SmallTowers(1), len(NAMES), recipe)


def test_entropy_by_hand() -> None:
    # one image of class 0, three patches: it is first, second and last among three classes
    logits = torch.tensor([[[2.0, 1.0, 0.0], [1.0, 1.0 + math.log(2), 0.0], [0.0, 0.0, 0.0]]])
    labels = torch.tensor([0])
    first = [
        math.e / (math.e + 2 * math.e + 1),
        2 * math.e / (3 * math.e + 1),
        1 / (3 * math.e + 1),
    ]
    entropy = -sum(p * math.log(p) for p in first)
    # of equal ones that with the smaller number is likelier, so the last patch shows class 0
    assert entropy_outside(logits, labels, 1).item() == pytest.approx(entropy)
    assert entropy_outside(logits, labels, 2).item() == 0
    last = torch.tensor([2])
    of_all = [-sum(p * math.log(p) for p in row) for row in logits[0].double().softmax(1).tolist()]
    assert entropy_outside(logits, last, 2).item() == pytest.approx(sum(of_all) / 3)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_loss_in_slow_loops(top_k: int) -> None:
    method = _method(top_k=top_k, weight=0.25).double()
    images = torch.rand(5, 1, 1, 8, 8, dtype=torch.float64)
    labels = torch.tensor([0, 3, 5, 3, 1])
    losses = method.loss(images, labels)
    text = method.classes()
    total, entropies = 0.0, []
    for image, y in zip(images[:, 0], labels.tolist(), strict=True):
        whole, patches = method.towers.images.with_patches(image[None])  # type: ignore[operator]
        p = (20 * whole[0].float() / whole[0].float().norm() @ text.T).double().softmax(0)
        total -= math.log(p[y].item()) / len(images)
        for patch in patches[0].float():
            q = (20 * patch / patch.norm() @ text.T).double().softmax(0).tolist()
            if y not in sorted(range(6), key=lambda c: -q[c])[:top_k]:
                entropies.append(-sum(v * math.log(v) for v in q))
    assert entropies
    expected = total - 0.25 * sum(entropies) / len(entropies)
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["cross_entropy"].item() == pytest.approx(total, rel=1e-5)


def test_gradient_by_differences() -> None:
    logits = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 4])
    assert torch.autograd.gradcheck(lambda z: entropy_outside(z, labels, 2), (logits,))


@pytest.mark.parametrize("by_class", [False, True])
def test_vectors_alone_are_learned(by_class: bool) -> None:
    method = _method(by_class=by_class, top_k=2)
    method.train()
    assert not method.towers.training
    assert method.context.shape == ((6, 3, 64) if by_class else (3, 64))
    method.loss(torch.rand(4, 1, 1, 8, 8), torch.tensor([0, 1, 2, 3]))["loss"].backward()
    assert {name for name, p in method.named_parameters() if p.grad is not None} == {"context"}
    assert method.context.grad is not None
    assert method.context.grad.abs().sum() > 0
    assert method.parameter_groups() == [{"params": [method.context]}]


def test_the_heads_text_follows_the_vectors() -> None:
    method = _method()
    before = method.head().weight
    assert method.head().weight is not None
    assert torch.equal(method.head().weight, before)
    with torch.no_grad():
        method.context.add_(1)
    after = method.head()
    assert not torch.equal(after.weight, before)
    assert after.text is not None
    torch.testing.assert_close(after.weight, 20 * after.text.classes)
    other = copy.deepcopy(method)
    with torch.no_grad():
        other.towers.text_tower.tokens.weight.add_(1)  # type: ignore[union-attr, operator]
        other.context.add_(1)
    assert not torch.equal(other.head().weight, after.weight)
    assert torch.equal(method.head().weight, after.weight)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("towers") / "towers.safetensors"
    save_file(trained_small_towers().state_dict(), path)
    return path


def test_prompts_are_learned_on_trained_towers(weights: Path) -> None:
    benchmark = get_benchmark("digits")
    # names in the wrong order: only the vectors of each class can mend that
    spoilt = {"class_names": [*"543210"], "by_class": True}
    options = {"epochs": 4, "lr": 1.0, **spoilt}
    run = plan(benchmark, "locoop", overrides=options, checkpoint=weights)
    network = train(run, CPU)
    test = benchmark.id.load("test")
    learned = extract(network, test, benchmark.preprocess, hardware=CPU)
    wrong = ZeroShot(trained_small_towers(), spoilt["class_names"])  # type: ignore[arg-type]
    unlearned = extract(wrong, test, benchmark.preprocess, hardware=CPU)
    assert metrics.accuracy(unlearned.logits, unlearned.labels) < 0.2
    assert metrics.accuracy(learned.logits, learned.labels) > 0.8
    torch.testing.assert_close(learned.features, unlearned.features)


def test_the_entropy_of_patches_rises(weights: Path) -> None:
    benchmark = get_benchmark("digits")
    samples = benchmark.id.load("train")
    x = torch.stack([benchmark.preprocess(samples[i]) for i in range(200)])
    labels = torch.from_numpy(samples.labels[:200])
    reached = []
    for weight in (0.0, 2.0):
        options = {"epochs": 3, "lr": 0.5, "weight": weight}
        network = train(plan(benchmark, "locoop", overrides=options, checkpoint=weights), CPU)
        with torch.no_grad():
            reached.append(network.loss(x[:, None], labels)["entropy"].item())
    assert reached[1] > reached[0]


def test_it_is_evaluated_and_scored_by_mcm(weights: Path) -> None:
    results = oodbench.evaluate(
        benchmark="digits",
        method="locoop",
        checkpoint=weights,
        recipe_options={"epochs": 1},
        detectors=["mcm", "gl-mcm", "energy"],
        hardware=CPU,
    )
    rows = {row["detector"]: row for row in results.rows}
    assert set(rows) == {"mcm", "gl-mcm", "energy"}
    assert all(row["method"] == "locoop" for row in rows.values())
    assert all(row["recipe_options"]["class_names"][0] == "0" for row in rows.values())
    assert all(row["id_accuracy"] > 0.7 for row in rows.values())
    assert rows["mcm"]["auroc"] > 0.6
    assert rows["gl-mcm"]["auroc"] != rows["mcm"]["auroc"]


def test_what_is_refused(tmp_path: Path) -> None:
    tiny_openclip(tmp_path)
    bare = LoCoOp.make_backbone("openclip/oodbench-tiny", LoCoOpRecipe(), None)
    method = LoCoOp(bare, 6, LoCoOpRecipe(class_names=NAMES))
    with pytest.raises(OptionError, match="no weights"):
        method.loss(torch.rand(2, 1, 3, 32, 32), torch.tensor([0, 1]))
    named = LoCoOp.make_backbone(
        "openclip/oodbench-tiny", LoCoOpRecipe(), None, tmp_path / "tiny.pt"
    )
    method = LoCoOp(named, 6, LoCoOpRecipe(class_names=NAMES))
    with pytest.raises(OptionError, match="16 tokens: 16 vectors"):
        method.head()
    method = LoCoOp(named, 6, LoCoOpRecipe(class_names=NAMES, context=4))
    assert method.loss(torch.rand(2, 1, 3, 32, 32), torch.tensor([0, 1]))["loss"].isfinite()
    with pytest.raises(OptionError, match="reads text"):
        LoCoOp(nn.Linear(2, 2), 6, LoCoOpRecipe(class_names=NAMES))
    with pytest.raises(OptionError, match="5 names"):
        LoCoOp(SmallTowers(1), 6, LoCoOpRecipe(class_names=NAMES[:5]))
    mute = Towers(nn.Identity(), lambda texts: torch.ones(len(texts), 2))
    with pytest.raises(OptionError, match="which layer"):
        LoCoOp(mute, 6, LoCoOpRecipe(class_names=NAMES))
    for bad in ({"context": 0}, {"top_k": 0}, {"weight": -1.0}, {"min_area": 0.0}):
        with pytest.raises(OptionError, match=next(iter(bad))):
            replace(LoCoOpRecipe(), **bad)


def test_other_weights_of_one_name_are_another_run(tmp_path: Path) -> None:
    benchmark = get_benchmark("digits")
    folder = str(tmp_path)
    model = tiny_hugging_face(tmp_path)
    before = plan(benchmark, "locoop", backbone=folder)
    assert before.key == plan(benchmark, "locoop", backbone=folder).key
    with torch.no_grad():
        model.logit_scale.add_(1)
    model.save_pretrained(tmp_path)
    assert before.key != plan(benchmark, "locoop", backbone=folder).key


def test_recipes() -> None:
    assert LoCoOp.default_recipe("digits") == "digits"
    assert LoCoOp.default_recipe("imagenet1k") == "published"
    recipe: Any = LoCoOp.get_recipe("published")
    assert (recipe.context, recipe.top_k, recipe.weight, recipe.lr) == (16, 200, 0.25, 0.002)
    assert recipe.for_classes(["a", "b"]).class_names == ("a", "b")
    assert replace(recipe, class_names=("c",)).for_classes(["a", "b"]).class_names == ("c",)


def test_a_fitted_folder_holds_the_network(weights: Path, tmp_path: Path) -> None:
    fitted = oodbench.fit(
        benchmark="digits",
        method="locoop",
        checkpoint=weights,
        recipe_options={"epochs": 1},
        detector="gl-mcm",
        hardware=CPU,
    )
    fitted.save(tmp_path / "fitted")
    loaded = oodbench.load(tmp_path / "fitted")
    samples = get_benchmark("digits").id.load("test")
    images = [samples[i] for i in range(4)]
    assert loaded.score(images).tolist() == fitted.score(images).tolist()

"""PALM: the loss against the definition written out in NumPy, and the score against SSD+."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from oodbench import Outputs
from oodbench.detectors.palm import PALM, PALMLoss, sinkhorn
from oodbench.errors import OptionError
from oodbench.registry import METHODS
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.training import CPU, PREPROCESS, assert_same_weights, read_log, short, tiny


def reference_step(
    prototypes: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray | None,
    classes: int,
    topk: int,
    momentum: float,
    temperature: float = 0.1,
    epsilon: float = 0.05,
) -> tuple[float, float, np.ndarray]:
    """Steps (a) to (d) of the definition, sample by sample and in the linear domain."""
    views = features.shape[1]
    z = np.concatenate([features[:, v] for v in range(views)])
    y = None if labels is None else np.concatenate([labels] * views)
    owner = np.arange(len(prototypes)) % classes

    def assign(p: np.ndarray) -> np.ndarray:
        q = np.exp(z @ p.T / epsilon)
        for _ in range(3):
            q = q / q.sum(axis=0, keepdims=True)
            q = q / q.sum(axis=1, keepdims=True)
        return q

    q = assign(prototypes)
    kept = np.zeros_like(q, dtype=bool)
    weights = np.zeros_like(q)
    for i in range(len(z)):
        own = np.flatnonzero(owner == y[i]) if y is not None else np.arange(len(prototypes))
        best = own[np.argsort(-q[i, own])][:topk]
        kept[i, best] = True
        weights[i, best] = q[i, best] / q[i, best].sum()
    moved = prototypes.copy()
    for j in range(len(prototypes)):
        if weights[:, j].sum() > 0:
            target = (weights[:, j] / weights[:, j].sum()) @ z
            step = momentum * prototypes[j] + (1 - momentum) * target
            moved[j] = step / np.linalg.norm(step)
    q = assign(moved)
    mle = 0.0
    for i in range(len(z)):
        w = np.where(kept[i], q[i], 0)
        w = w / w.sum()
        logits = moved @ z[i] / temperature
        mle -= (w @ logits - np.log(np.exp(logits).sum())) / len(z)
    contrastive = 0.0
    similarity = moved @ moved.T / 0.5
    for j in range(len(moved)):
        others = np.arange(len(moved)) != j
        positives = others & (owner == owner[j]) if y is not None else np.zeros_like(others)
        attract = similarity[j, positives].mean() if positives.any() else 0.0
        contrastive -= (attract - np.log(np.exp(similarity[j, others]).sum())) / len(moved)
    return mle, contrastive, moved


def batch(
    generator: torch.Generator, size: int, views: int, dim: int, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    return F.normalize(torch.randn(size, views, dim, generator=generator).to(dtype), dim=2)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 6),
    per_class=st.integers(2, 5),
    topk=st.integers(1, 6),
    dim=st.sampled_from([16, 32, 64]),
    # a single embedding is assigned to all prototypes alike, so its top k is a matter of taste, and
    # without momentum prototypes fall onto it: the definition says nothing of such ties
    size=st.integers(2, 12),
    views=st.integers(1, 3),
    momentum=st.sampled_from([0.5, 0.9, 0.999]),
    labelled=st.booleans(),
)
def test_three_calls_equal_the_definition(
    seed: int,
    classes: int,
    per_class: int,
    topk: int,
    dim: int,
    size: int,
    views: int,
    momentum: float,
    labelled: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    loss = PALMLoss(classes, per_class, dim, topk, momentum).double()
    limit = min(topk, per_class) if labelled else min(topk, classes * per_class)
    for _ in range(3):
        z = batch(generator, size, views, dim)
        y = torch.randint(0, classes, (size,), generator=generator)
        before = loss.prototypes.numpy().copy()
        mle, contrastive, moved = reference_step(
            before, z.numpy(), y.numpy() if labelled else None, classes, limit, momentum
        )
        found = loss(z, y if labelled else None)
        assert found["mle"].item() == pytest.approx(mle, abs=1e-6)
        assert found["contrastive"].item() == pytest.approx(contrastive, abs=1e-6)
        assert found["loss"].item() == pytest.approx(mle + contrastive, abs=1e-6)
        np.testing.assert_allclose(loss.prototypes.numpy(), moved, atol=1e-6)


def test_hand_computed_step() -> None:
    # One class, two prototypes along the axes, one sample on the first: by symmetry of Sinkhorn
    # with a single sample, both prototypes get mass one half each round of rows, so top-1 of
    # Q = (1/2, 1/2) would be a tie; with momentum 1 nothing moves and the MLE term is exact.
    loss = PALMLoss(1, 2, 2, topk=2, proto_momentum=1.0).double()
    loss.prototypes = torch.eye(2, dtype=torch.float64)
    z = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    found = loss(z, torch.tensor([0]))
    # similarities 1 and 0, weights 1/2 and 1/2, temperature 0.1
    expected = np.log(np.exp(10) + 1) - 5
    assert found["mle"].item() == pytest.approx(expected, abs=1e-12)
    # the prototypes are orthogonal and each other's only positive: -(0 - log exp 0) = 0
    assert found["contrastive"].item() == pytest.approx(0, abs=1e-12)
    assert torch.equal(loss.prototypes, torch.eye(2, dtype=torch.float64))


def test_ema_by_hand() -> None:
    loss = PALMLoss(2, 1, 2, topk=1, proto_momentum=0.5).double()
    loss.prototypes = torch.eye(2, dtype=torch.float64)
    z = torch.tensor([[[0.6, 0.8]]], dtype=torch.float64)
    loss(z, torch.tensor([0]))
    # class 0's only prototype goes half way to its only sample; class 1 is absent and stays
    step = np.array([0.5 + 0.3, 0.4])
    np.testing.assert_allclose(loss.prototypes[0], step / np.linalg.norm(step), atol=1e-12)
    np.testing.assert_array_equal(loss.prototypes[1], [0.0, 1.0])


def test_contrast_reaches_the_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    z = batch(generator, 8, 2, 16).requires_grad_()
    y = torch.arange(8) % 4
    loss = PALMLoss(4, 3, 16, 2, proto_momentum=0.9).double()
    (gradient,) = torch.autograd.grad(loss(z, y)["contrastive"], z)
    assert gradient.norm() > 1e-4
    assert not loss.prototypes.requires_grad


def test_contrastive_gradient_equals_finite_differences() -> None:
    # With one embedding the assignment is fixed by symmetry, so finite differences of the step
    # are those at constant weights, which is how the definition differentiates it.
    generator = torch.Generator().manual_seed(3)
    loss = PALMLoss(2, 2, 16, 2, proto_momentum=0.8).double()
    start = loss.prototypes.clone()

    def contrastive(z: torch.Tensor) -> torch.Tensor:
        loss.prototypes = start.clone()
        return loss(z, torch.zeros(1, dtype=torch.int64))["contrastive"]

    z = batch(generator, 1, 1, 16).requires_grad_()
    (gradient,) = torch.autograd.grad(contrastive(z), z)
    direction = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    h = 1e-6
    with torch.no_grad():
        numeric = (contrastive(z + h * direction) - contrastive(z - h * direction)) / (2 * h)
    assert abs(numeric) > 1e-4
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_precision_any_batch(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 33):
        loss = PALMLoss(10, 6, 128)
        z = batch(generator, size, 2, 128, dtype).requires_grad_()
        y = torch.zeros(size, dtype=torch.int64)  # nine of ten classes are missing
        found = loss(z, y)
        found["loss"].backward()
        assert found["loss"].isfinite()
        assert z.grad is not None
        assert z.grad.isfinite().all()
        assert loss.prototypes.dtype == torch.float32
        torch.testing.assert_close(loss.prototypes.norm(dim=1), torch.ones(60))


def test_extreme_similarities_stay_finite() -> None:
    loss = PALMLoss(2, 2, 4, topk=1, epsilon=1e-3, temperature=1e-3)
    z = F.normalize(torch.tensor([[[1.0, 0, 0, 0]], [[-1.0, 0, 0, 0]]]), dim=2).requires_grad_()
    found = loss(z, torch.tensor([0, 1]))
    found["loss"].backward()
    assert found["loss"].isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_autocast_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    z, y = batch(generator, 6, 2, 32, torch.float32), torch.arange(6) % 3
    one, two = PALMLoss(3, 2, 32), PALMLoss(3, 2, 32)
    two.load_state_dict(one.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = one(z, y)["loss"]
    torch.testing.assert_close(mixed, two(z, y)["loss"])


def test_sinkhorn_rows_sum_to_one() -> None:
    similarity = torch.randn(50, 12, dtype=torch.float64).clamp(-1, 1)
    q = sinkhorn(similarity, 0.05).exp()
    torch.testing.assert_close(q.sum(dim=1), torch.ones(50, dtype=torch.float64))


def test_prototypes_start_and_are_saved() -> None:
    loss = PALMLoss(5, 3, 8)
    assert loss.prototypes.shape == (15, 8)
    assert (loss.prototypes >= 0).all()  # uniform in [0, 1) before they are normalised
    torch.testing.assert_close(loss.prototypes.norm(dim=1), torch.ones(15))
    assert "prototypes" in loss.state_dict()


def test_evaluation_does_not_move_prototypes() -> None:
    loss = PALMLoss(2, 2, 8).eval()
    before = loss.prototypes.clone()
    loss(
        batch(torch.Generator().manual_seed(0), 4, 2, 8, torch.float32), torch.tensor([0, 1, 0, 1])
    )
    assert torch.equal(loss.prototypes, before)


def test_unlabelled_ignores_classes() -> None:
    generator = torch.Generator().manual_seed(1)
    z = batch(generator, 9, 2, 16)
    one, two = PALMLoss(3, 2, 16, 4).double(), PALMLoss(1, 6, 16, 4).double()
    two.prototypes = one.prototypes.clone()
    assert one(z, None)["loss"].item() == pytest.approx(two(z, None)["loss"].item())
    torch.testing.assert_close(one.prototypes, two.prototypes)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(OptionError, match="num_classes"):
        PALMLoss(0)
    with pytest.raises(OptionError, match="temperature"):
        PALMLoss(2, temperature=0.0)
    with pytest.raises(OptionError, match="proto_momentum"):
        PALMLoss(2, proto_momentum=1.5)
    loss = PALMLoss(2, 2, 8)
    with pytest.raises(ValueError, match=r"\[B, V, 8\]"):
        loss(torch.zeros(3, 8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="3 labels"):
        loss(torch.zeros(3, 2, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(OptionError, match="centring"):
        PALM(centring="both")  # type: ignore[arg-type]


def ssd_plus(train: np.ndarray, test: np.ndarray, centring: str) -> np.ndarray:
    """The reference code's score, negated: higher = more OOD."""

    def unit(x: np.ndarray) -> np.ndarray:
        return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-10)

    train, test = unit(train), unit(test)
    mean, std = train.mean(axis=0), train.std(axis=0)
    train, test = (train - mean) / (std + 1e-10), (test - mean) / (std + 1e-10)
    z = test - mean if centring == "paper" else test
    return np.sum(z * (np.linalg.pinv(np.cov(train.T, bias=True)) @ z.T).T, axis=1)


@pytest.mark.parametrize("centring", ["clean", "paper"])
def test_score_equals_ssd_plus(centring: str) -> None:
    rng = np.random.default_rng(0)
    train = rng.normal(1, 1, (5000, 12)) @ rng.normal(size=(12, 12))
    test = rng.normal(1, 2, (300, 12))
    labels = np.zeros(5000, dtype=np.int64)
    detector = PALM(centring=centring).fit(Outputs(train, labels=labels))  # type: ignore[arg-type]
    found = detector.score(Outputs(test)).numpy()  # type: ignore[arg-type]
    np.testing.assert_allclose(found, ssd_plus(train, test, centring), rtol=1e-8)


def test_score_survives_dead_and_duplicate_features() -> None:
    rng = np.random.default_rng(1)
    alive = rng.normal(1, 1, (400, 5))
    features = np.concatenate([alive, np.zeros((400, 2)), alive[:, :1]], axis=1)
    outputs = Outputs(features, labels=np.zeros(400, dtype=np.int64))  # type: ignore[arg-type]
    scores = PALM().fit(outputs).score(outputs)
    # five independent directions: the mean squared Mahalanobis distance of the training data is 5
    assert scores.mean().item() == pytest.approx(5, abs=1e-6)


# Recipes


def test_published_palm_schedule() -> None:
    """500 epochs, 10 of warm-up, cosine to a thousandth; SGD with Nesterov momentum."""
    recipe = METHODS.get("palm").get_recipe("published")
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (500, 512, 0.5)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 1e-6)
    assert recipe.lr_factor(5) == 0.5
    assert recipe.lr_factor(255) == pytest.approx(0.5 + 0.5e-3)
    assert recipe.lr_factor(500) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("name", "batch", "lr", "momentum"),
    [("openood", 16, 0.1, 0.9), ("openood-cifar100", 512, 0.5, 0.999)],
)
def test_openoods_palm(name: str, batch: int, lr: float, momentum: float) -> None:
    """Its scripts: ResNet-18, 100 epochs, 10 of warm-up, decay 1e-4, cosine to a thousandth."""
    recipe = METHODS.get("palm").get_recipe(name)
    assert (recipe.backbone, recipe.epochs, recipe.weight_decay) == ("resnet18-cifar", 100, 1e-4)
    assert (recipe.batch_size, recipe.lr, recipe.proto_momentum) == (batch, lr, momentum)
    assert (recipe.warmup_epochs, recipe.final_lr, recipe.topk) == (10, 1e-3, 5)


@pytest.mark.parametrize("recipe", METHODS.get("palm").recipes)
def test_every_recipe_of_palm_trains(recipe: str) -> None:
    """An epoch of it on a few images, with its own network."""
    run = plan(tiny(6)[0], "palm", recipe=recipe, overrides={"epochs": 1})
    assert run.recipe_name == recipe
    assert run.backbone == (run.recipe.backbone or "digits-cnn")
    assert all(tensor.isfinite().all() for tensor in train(run, CPU).state_dict().values())


# It learns


@pytest.mark.parametrize("labelled", [True, False])
def test_palm_lowers_its_loss(labelled: bool) -> None:
    benchmark, samples = tiny(64)
    run = short(benchmark, "palm", epochs=8, labelled=labelled, lr=0.05)
    method = train(run, CPU)
    losses = [float(row["train/loss"]) for row in read_log(run)]
    assert losses[-1] < losses[0]
    prototypes = method.palm.prototypes  # type: ignore[union-attr]
    torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(18))  # type: ignore[operator]
    outputs = method.outputs(torch.stack([PREPROCESS(samples[i]) for i in range(4)]))
    assert outputs["features"].shape == (4, method.backbone.num_features)
    assert outputs["logits"].shape == (4, 3)


def test_palm_without_labels_never_reads_them(new_cache: Callable[[], None]) -> None:
    first = train(short(tiny()[0], "palm", labelled=False), CPU)
    new_cache()
    shuffled, _ = tiny(change=lambda pixels, labels: labels.sort())
    again = train(short(shuffled, "palm", labelled=False), CPU)
    assert_same_weights(first, again)

"""What training sees: the order of an epoch, shared out among processes, and augmented images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from oodbench import Hardware
from oodbench.training.epochs import EpochSampler
from oodbench.training.train import train
from tests.helpers.training import CPU, PREPROCESS, Spy, short, tiny

# What a step sees


def test_each_epoch_is_a_permutation_of_its_own() -> None:
    sampler = EpochSampler(10, seed=3, batch_size=5)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        positions = list(sampler)
        assert len(sampler) == len(positions) == 10
        assert [position // 10 for position in positions] == [epoch] * 10
        orders.append([position % 10 for position in positions])
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1] != orders[2]
    sampler.set_epoch(1)
    assert [position % 10 for position in sampler] == orders[1]
    other = EpochSampler(10, seed=4, batch_size=5)
    assert list(other) != [*orders[0]]


@pytest.mark.parametrize(
    ("n", "batch", "kept", "used"),
    [(10, 4, 10, 8), (10, 5, 10, 10), (10, 16, 10, 10), (9, 16, 9, 9), (9, 4, 8, 8), (1, 4, 1, 1)],
)
def test_the_last_batch_is_kept_unless_it_is_one_sample(
    n: int, batch: int, kept: int, used: int
) -> None:
    """A method may drop it (``used``); a set smaller than a batch is used whole in any case."""
    assert len(list(EpochSampler(n, 0, batch))) == kept
    assert len(list(EpochSampler(n, 0, batch, drop_last=True))) == used


def as_processes(
    world: int, n: int, batch: int, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[list[int]]:
    """What each of several processes is given of an epoch."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        sampler = EpochSampler(n, 7, batch, **options)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    return shares


@pytest.mark.parametrize(
    ("world", "n", "last"), [(2, 50, 0), (3, 50, 0), (2, 55, 6), (3, 55, 6), (2, 52, 4), (3, 52, 0)]
)
def test_processes_share_each_global_batch(
    world: int, n: int, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch k of all processes together holds what batch k of a single process would.

    Of the last, incomplete one every process has as many as the others, and two at least.
    """
    batch = 12
    alone = list(EpochSampler(n, 7, batch))
    shares = as_processes(world, n, batch, monkeypatch)
    assert [len(share) for share in shares] == [(48 + last) // world] * world
    own = batch // world
    for k in range(5):
        together = [p for share in shares for p in share[k * own : (k + 1) * own]]
        expected = alone[k * batch : (k + 1) * batch]
        assert sorted(together) == sorted(expected if k < 4 else expected[:last])
    dropped = as_processes(world, n, batch, monkeypatch, drop_last=True)
    assert dropped == [share[: 48 // world] for share in shares]


@pytest.mark.parametrize(
    ("n", "fields", "sizes"),
    [
        (50, {}, [16, 16, 16, 2]),
        (50, {"drop_last": True}, [16, 16, 16]),
        (49, {}, [16, 16, 16]),  # a batch of one is no batch
        (10, {"drop_last": True}, [10]),
    ],
)
def test_the_last_incomplete_batch(
    spy: type[Spy], n: int, fields: dict[str, Any], sizes: list[int]
) -> None:
    run = short(tiny(n)[0], "spy", epochs=1, **fields)
    train(run, CPU)
    assert [len(labels) for _, _, labels in spy.seen] == sizes


def test_augmentation_depends_on_seed_epoch_and_index_alone(
    spy: type[Spy], new_cache: Callable[[], None]
) -> None:
    benchmark, _ = tiny()

    def batches(workers: int, seed: int = 0) -> list[tuple[int, Tensor, Tensor]]:
        new_cache()
        spy.seen.clear()
        train(short(benchmark, "spy", seed), Hardware(accelerator="cpu", workers=workers))
        return list(spy.seen)

    alone = batches(0)
    for workers in (1, 2):
        for (epoch, x, y), (other, x2, y2) in zip(alone, batches(workers), strict=True):
            assert epoch == other
            assert x.equal(x2)
            assert y.equal(y2)
    assert [epoch for epoch, *_ in alone] == [0] * 4 + [1] * 4 + [2] * 4
    every = torch.cat([x for _, x, _ in alone]).flatten(0, 1).flatten(1)
    distinct = torch.unique(every, dim=0)
    assert len(distinct) > 0.95 * len(every), "views, images and epochs must differ"
    assert not batches(0, seed=1)[0][1].equal(alone[0][1])


def test_labels_belong_to_their_images(spy: type[Spy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Spy, "augmentation", lambda self, preprocess: lambda image, rng: preprocess(image)
    )
    benchmark, samples = tiny()
    train(short(benchmark, "spy"), CPU)
    known = {PREPROCESS(samples[i]).numpy().tobytes(): int(y) for i, y in enumerate(samples.labels)}
    for _, x, y in spy.seen:
        assert x.shape == (len(y), 2, 1, 8, 8)
        for views, label in zip(x, y, strict=True):
            assert [known[view.contiguous().numpy().tobytes()] for view in views] == [label] * 2

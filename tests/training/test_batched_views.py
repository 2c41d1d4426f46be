"""Training on views of whole batches: which network comes of it, and what names it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from oodbench import Hardware
from oodbench.contenders import contender_of
from oodbench.errors import OptionError
from oodbench.training.run import Run, plan
from oodbench.training.train import train
from tests.helpers.training import CPU, tiny


def run_of(method: str = "palm", **options: Any) -> Run:
    overrides = {"epochs": "1", "batch_size": "16", **options}
    return plan(tiny()[0], method, recipe="quick", overrides=overrides)


def weights(run: Run, **changed: Any) -> dict[str, torch.Tensor]:
    return dict(train(run, replace(CPU, **changed), retrain=True).state_dict())


def is_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(value.equal(other[name]) for name, value in one.items())


@pytest.mark.parametrize("method", ["palm", "supcon", "cider"])
def test_data_workers_change_nothing(method: str) -> None:
    run = run_of(method, augment="batch")
    first = weights(run, workers=0)
    assert is_same(first, weights(run, workers=2))
    assert not is_same(first, weights(run_of(method)))


def test_the_option_is_part_of_the_run_and_of_its_rows() -> None:
    plain, batched = run_of(), run_of(augment="batch")
    assert plain.key != batched.key
    assert run_of(augment="image").key == plain.key
    # rows from before there was the option stay what they are
    assert "augment" not in contender_of(plain, plain.build()).recipe_options
    assert contender_of(batched, batched.build()).recipe_options["augment"] == "batch"


def test_other_words_are_refused() -> None:
    with pytest.raises(OptionError, match="augment"):
        run_of(augment="sometimes")


def test_compiled_and_other_layouts_are_other_runs() -> None:
    run = run_of()
    keys = {
        replace(run, precision=Hardware(**asked).numbers).key
        for asked in ({}, {"compile": True}, {"channels_last": False}, {"channels_last": True})
    }
    assert len(keys) == 4


def test_half_precision_takes_bytes() -> None:
    """What is normalised at the device comes in the precision that the weights have."""
    for precision in ("bf16-true", "bf16-mixed", "64-true"):
        for augment in ("image", "batch"):
            found = weights(run_of(augment=augment), precision=precision)
            assert all(v.isfinite().all() for v in found.values() if v.is_floating_point())

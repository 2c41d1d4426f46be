"""Data workers begin quiet, and none outlives the pass that it was begun for."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import socket
import sys
import time
from multiprocessing import resource_sharer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench import Hardware
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.extract import extract
from oodbench.runtime.loading import Loader, ended

PREPROCESS = Preprocess(8, (0.3,), (0.4,), mode="L", flip=False)


class LeavesInTheMiddle(ImageArrays):
    """In a data worker, whoever wants a batch leaves before it is handed over, as if killed."""

    other: bool = False

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            _, address = _reading_end()
            with socket.socket(socket.AF_UNIX) as wanting:
                wanting.connect(address)
            time.sleep(0.2)  # a thread of the worker sees it
            if self.other:
                sys.excepthook(ValueError, ValueError("another fault"), None)
        return super().__getitem__(index)


def _reading_end() -> tuple[Any, str]:
    """A file that this process hands over, and where it does so."""
    handed = resource_sharer.DupFd(0)
    return handed, handed._id[0]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Windows hands over no open files")
@pytest.mark.parametrize("other", [False, True])
def test_a_worker_is_quiet_of_who_left_alone(
    other: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    samples = LeavesInTheMiddle("left", np.zeros((4, 8, 8), np.uint8), np.zeros(4), ("a",))
    samples.other = other
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    extract(model, samples, PREPROCESS, hardware=Hardware("cpu", workers=1, batch_size=2))
    printed = capfd.readouterr().err
    assert printed == ("ValueError: another fault\n" if other else "")


def test_all_workers_begin_and_end_so() -> None:
    """No module of ours asks PyTorch's own loader for data workers."""
    folder = Path(oodbench.__file__).parent
    texts = {path: path.read_text("utf-8") for path in folder.rglob("*.py")}
    counts = [
        (text.count(" num_workers="), text.count(" Loader("))
        for path, text in texts.items()
        if path.name != "loading.py"
    ]
    assert sum(workers for workers, _ in counts) >= 5
    assert all(workers <= loaders for workers, loaders in counts)


class Fails(ImageArrays):
    """At the fifth image a data worker meets an error, if there is one."""

    error: Exception | None

    def __getitem__(self, index: int) -> Any:
        if index == 5 and self.error:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize("error", [RuntimeError("any"), None])
def test_no_worker_outlives_the_pass(error: Exception | None) -> None:
    """An error holds what failed; its workers are gone, before anybody collects garbage."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    samples = Fails("fails", np.zeros((8, 8, 8), np.uint8), np.zeros(8), ("a",))
    samples.error = error
    before = multiprocessing.active_children()
    held = None
    gc.disable()
    try:
        extract(network, samples, PREPROCESS, hardware=Hardware("cpu", workers=2, batch_size=2))
    except RuntimeError as raised:
        held = raised
    finally:
        gc.enable()
    assert (held is None) == (error is None)
    assert multiprocessing.active_children() == before


def test_passes_that_others_began_go_on() -> None:
    """What fails ends its own workers, not those of a pass that stands still meanwhile."""
    loader = Loader(TensorDataset(torch.zeros(4, 1)), num_workers=1)
    going = iter(loader)
    next(going)
    before = multiprocessing.active_children()
    with contextlib.suppress(RuntimeError), ended():
        failing = iter(loader)
        assert len(multiprocessing.active_children()) == len(before) + 1
        raise RuntimeError
    assert multiprocessing.active_children() == before
    assert len(list(going)) == 3
    del failing


def test_what_succeeds_leaves_a_pass_that_goes_on() -> None:
    loader = Loader(TensorDataset(torch.zeros(4, 1)), num_workers=1)
    with ended():
        going = iter(loader)
        next(going)
    assert len(list(going)) == 3

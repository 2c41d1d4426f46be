"""When data workers fail, a sentence says what to do."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import TensorDataset

from oodbench import Hardware, hardware
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.errors import DataError, WorkerError
from oodbench.extract import extract
from oodbench.hardware import quiet_lightning
from oodbench.runtime.loading import Loader
from oodbench.runtime.signals import Interrupted
from oodbench.runtime.workers import worker_failure

PREPROCESS = Preprocess(8, (0.3,), (0.4,), mode="L", flip=False)
BUS = (
    "DataLoader worker (pid 17) is killed by signal: Bus error. It is possible that dataloader's "
    "workers are out of shared memory. Please try to raise your shared memory limit."
)


class Fails(ImageArrays):
    """Whatever its ``failure`` does, it does in a data worker, at the fifth image."""

    failure: Callable[[], Any]

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            self.failure()
        return super().__getitem__(index)


def failing(failure: Callable[[], Any]) -> Fails:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    made = Fails("fails", pixels, np.zeros(8), ("a",))
    made.failure = failure
    return made


def raising(error: Exception) -> Callable[[], None]:
    def failure() -> None:
        raise error

    return failure


def dying(signum: int) -> Callable[[], None]:
    def failure() -> None:
        signal.signal(signum, signal.SIG_DFL) if signum != signal.SIGKILL else None
        os.kill(os.getpid(), signum)

    return failure


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (raising(RuntimeError(BUS)), "shared memory"),
        (
            raising(RuntimeError("unable to write to file </torch_17_1>: No space left on device")),
            "shared memory",
        ),
        (raising(RuntimeError("unable to open shared memory object </torch_1>")), "shared memory"),
        (
            raising(RuntimeError("unable to mmap 8 bytes from file </torch_1_2>: Cannot allocate")),
            "shared memory",
        ),
        (raising(RuntimeError("received 0 items of ancdata")), "too many files"),
        (dying(signal.SIGKILL), "memory is full"),
        (dying(signal.SIGABRT), "crashed"),
        (lambda: os._exit(3), "without a word"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sentence_names_workers(failure: Callable[[], None], told: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    hardware = Hardware("cpu", workers=1, batch_size=2)
    with pytest.raises(WorkerError, match=told) as raised:
        extract(model, failing(failure), PREPROCESS, hardware=hardware)
    assert "workers=0" in str(raised.value)
    assert "`workers=0`" in str(raised.value)
    assert len(str(raised.value)) < 300
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_a_worker_is_an_interruption(signum: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(Interrupted) as raised:
        extract(model, failing(dying(signum)), PREPROCESS, hardware=Hardware("cpu", workers=1))
    assert raised.value.signum == signum


def of_multiprocessing(number: int) -> Exception:
    """An error as Python raises it between processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "Connection", raising(OSError(number, os.strerror(number))))
        patch.setattr(os, "pipe", raising(OSError(number, os.strerror(number))))
        try:
            connection.Pipe(duplex=False)
        except OSError as error:
            return error
    raise AssertionError


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EMFILE, "too many files"),
        (errno.ENOSPC, "shared memory"),
        (errno.ENOMEM, "no memory"),
        (errno.EAGAIN, "no processes"),
    ],
)
def test_errors_between_processes(number: int, told: str) -> None:
    with pytest.raises(WorkerError, match=told), quiet_lightning():
        raise RuntimeError("any") from of_multiprocessing(number)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "outputs.npy"),
        OSError(errno.EMFILE, "Too many open files", "a.png"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("Caught ValueError in DataLoader worker process 0."),
        DataError("this image is broken"),
    ],
)
def test_other_errors_are_as_they_were(error: Exception, tmp_path: Path) -> None:
    assert worker_failure(error) is None
    with pytest.raises(type(error)) as raised, quiet_lightning():
        raise error
    assert raised.value is error


def cut_off() -> None:
    """Talk to a process that is gone."""
    ours, theirs = connection.Pipe()
    theirs.close()
    ours.recv()


@pytest.mark.parametrize(
    ("by_signal", "told"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "a data worker was killed"),
        ("", "ended without a word"),
    ],
)
def test_why_a_worker_is_gone_may_be_told_later(
    by_signal: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal, which DataLoader's handler makes an error of while it is waited for."""
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if by_signal:
            raise RuntimeError(by_signal)

    monkeypatch.setattr(hardware.time, "sleep", sleep)
    with pytest.raises(WorkerError, match=told), quiet_lightning():
        cut_off()
    assert waited == [0.5]


def test_workers_are_ended_when_it_is_known_why_they_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DataLoader tells nothing of a worker that it was told to end."""
    before = multiprocessing.active_children()
    left: list[int] = []
    monkeypatch.setattr(
        hardware.time, "sleep", lambda _: left.append(len(multiprocessing.active_children()))
    )
    passing: list[Any] = []

    def cut_off_in_a_pass() -> None:
        passing.append(iter(Loader(TensorDataset(torch.zeros(4, 1)), num_workers=1)))
        next(passing[0])
        cut_off()

    with pytest.raises(WorkerError), quiet_lightning():
        cut_off_in_a_pass()
    assert left == [len(before) + 1]
    assert multiprocessing.active_children() == before


def test_a_schedulers_signal_ends_training_with_its_status() -> None:
    """Lightning's exception has the status of success."""
    with pytest.raises(SystemExit) as caught, quiet_lightning():
        raise SIGTERMException
    assert caught.value.code == 128 + signal.SIGTERM
    with pytest.raises(SystemExit) as caught, quiet_lightning():
        raise SystemExit(7)
    assert caught.value.code == 7

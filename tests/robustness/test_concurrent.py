"""Processes that do the same work at the same time: nobody dies, and all get the right result."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.attempts import Server
from tests.helpers.jobs import PREPROCESS, samples, tiny

ROUNDS = int(os.environ.get("OODBENCH_TEST_ROUNDS", "1"))
FILE_SYSTEMS = ["usual", "no locks", "two machines without locks"]
"""What the processes find; no file system here has hard links."""


# What the processes do


def job_extract(rank: int) -> dict[str, Any]:
    import torch
    from torch import nn

    from oodbench.extract import extract
    from oodbench.hardware import Hardware

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
    images = samples("slow", 40, 5)
    images.pause = 0.001
    hardware = Hardware(accelerator="cpu", batch_size=4 + rank)
    found = extract(model, images, PREPROCESS, hardware=hardware)
    assert found.labels.tolist() == images.labels.tolist()
    return {"logits": found.logits.tolist(), "features": found.features.sum(0).tolist()}


def job_broken(rank: int) -> dict[str, Any]:
    """A network that gives NaN: each says so, whoever clears up."""
    import torch
    from torch import nn

    from oodbench.errors import BadScoresError
    from oodbench.extract import extract
    from oodbench.hardware import Hardware

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    model[1].bias.data[1] = float("nan")
    with contextlib.suppress(BadScoresError):
        extract(model, samples("slow", 40, 5), PREPROCESS, hardware=Hardware("cpu", batch_size=4))
        raise AssertionError
    return {}


def job_train(rank: int) -> dict[str, Any]:
    from oodbench.hardware import Hardware
    from oodbench.training.run import plan
    from oodbench.training.train import train

    run = plan(tiny(), "ce", recipe="quick", overrides={"epochs": 2, "batch_size": 16})
    network = train(run, Hardware(accelerator="cpu", workers=0))
    return {n: v.double().sum().item() for n, v in network.state_dict().items()}


def job_retrain(rank: int) -> dict[str, Any]:
    """One trains again while the others train and read."""
    from oodbench.hardware import Hardware
    from oodbench.training.run import plan
    from oodbench.training.train import train

    run = plan(tiny(), "ce", recipe="quick", overrides={"epochs": 2, "batch_size": 16})
    network = train(run, Hardware(accelerator="cpu", workers=0), retrain=rank == 0)
    return {n: v.double().sum().item() for n, v in network.state_dict().items()}


def job_evaluate(rank: int) -> dict[str, Any]:
    import oodbench

    results = oodbench.evaluate(
        benchmark=tiny(),
        detectors=["msp", "maxlogit"],
        recipe="quick",
        recipe_options={"epochs": 2, "batch_size": 16},
        hardware=oodbench.Hardware(accelerator="cpu", batch_size=16 - rank, workers=0),
        leaderboards=os.environ["OODBENCH_CACHE"] + "/boards",
    )
    assert not results.failures
    return {f"{row['detector']} {row['ood']}": row["auroc"] for row in results.rows}


def _no_link(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.EPERM, "no hard links here")


def _no_lock(*args: Any) -> None:
    raise OSError(errno.ENOTSUP, "no locks here")


def job(name: str, rank: int, file_system: str) -> None:
    """One process's share; what it found, or why it failed, is written beside the cache."""
    os.link = _no_link
    if file_system != "usual":
        fcntl.flock = _no_lock
    if "machines" in file_system:
        socket.gethostname = lambda: f"node{rank}"
    try:
        found = globals()[f"job_{name}"](rank)
    except BaseException:
        found = {"error": traceback.format_exc()}
    Path(os.environ["OODBENCH_CACHE"], f"{name}{rank}.result").write_text(json.dumps(found))


def together(
    server: Server, name: str, cache: Path, file_system: str, processes: int
) -> list[dict[str, Any]]:
    """Runs a job in several processes at once; what each of them found."""
    cache.mkdir(parents=True, exist_ok=True)
    shares = [(name, rank, file_system) for rank in range(processes)]
    server.together(f"{__name__}:job", *shares, cache=cache)
    found = [json.loads((cache / f"{name}{rank}.result").read_text()) for rank in range(processes)]
    errors = [f["error"] for f in found if "error" in f]
    assert not errors, "\n".join(errors)
    return found


@pytest.fixture(scope="module")
def alone(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """What one process finds that does a job for itself; each is done once."""

    @functools.cache
    def get(name: str) -> dict[str, Any]:
        return together(server, name, tmp_path_factory.mktemp(name) / "alone", "usual", 1)[0]

    return get


@pytest.mark.parametrize("file_system", FILE_SYSTEMS)
@pytest.mark.parametrize("job", ["extract", "broken", "train", "retrain", "evaluate"])
def test_the_same_work_at_the_same_time(
    job: str, file_system: str, server: Server, alone: Any, tmp_path: Path
) -> None:
    expected = alone(job)
    for number in range(ROUNDS):
        cache = tmp_path / str(number)
        found = together(server, job, cache, file_system, 3 if file_system == "usual" else 2)
        for one in found:
            for name, values in expected.items():
                np.testing.assert_allclose(one[name], values, rtol=1e-5, atol=1e-6)
        assert not list(cache.rglob("*.part")), "finished, and nothing left over"
        assert not list(cache.rglob("*.lock"))

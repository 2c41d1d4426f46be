"""What a training run leaves on disk: tensors alone, which run no code when they are read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from oodbench.errors import OODBenchError
from oodbench.training.train import train
from tests.helpers.training import CPU, interrupted, short, tiny


def test_what_is_kept_is_safetensors_of_the_run() -> None:
    run = short(tiny()[0])
    method = train(run, CPU)
    with safe_open(run.weights, framework="pt") as handle:
        assert handle.metadata()["oodbench_run"] == run.key
    stored = load_file(run.weights)
    assert {name: tuple(v.shape) for name, v in stored.items()} == {
        name: tuple(v.shape) for name, v in method.state_dict().items()
    }
    assert not list(run.folder.rglob("*.ckpt")), "the weights alone are kept"
    assert not list(run.folder.rglob("*.part"))


def test_checkpoints_are_read_with_weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted(*tiny())
    load = torch.load
    asked: list[Any] = []

    def spying(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs.get("weights_only"))
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spying)
    train(run, CPU)
    assert asked
    assert set(asked) == {True}


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.write_text, (self.target, "executed")


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    run = interrupted(*tiny())
    target = tmp_path / "executed"
    (run.folder / "last.ckpt").write_bytes(pickle.dumps(_Payload(target)))
    with pytest.raises(OODBenchError, match=r"last\.ckpt.*`retrain`"):
        train(run, CPU)
    assert not target.exists()
    train(run, CPU, retrain=True)


def test_a_damaged_checkpoint_says_what_to_do() -> None:
    run = interrupted(*tiny())
    checkpoint = run.folder / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(OODBenchError, match=r"last\.ckpt.*`retrain`"):
        train(run, CPU)

"""Checkpoints as trainers save them, and files that are something else."""

from __future__ import annotations

import argparse
import gzip
import pickle
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import timm
import torch
from pytorch_lightning.utilities.parsing import AttributeDict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import oodbench
from oodbench.errors import CheckpointError
from oodbench.networks.backbones import create_backbone
from oodbench.networks.checkpoints import read_checkpoint
from oodbench.networks.headed import HeadedBackbone, load_classifier
from tests.helpers.cli import CLI
from tests.helpers.evil import Evil

State = dict[str, Tensor]


class Plain(nn.Module):
    """A digits-cnn with its head, as somebody's own code has it: ``layers.…`` and ``fc.…``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        backbone: Any = create_backbone("digits-cnn", 1)
        self.layers = backbone.layers
        self.fc = nn.Linear(256, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain().eval()


def under(prefix: str) -> Callable[[State], Any]:
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


def entry(key: str) -> Callable[[State], Any]:
    return lambda state: {key: state}


def beside(**more: Any) -> Callable[[State], Any]:
    return lambda state: {"epoch": 3, "model": state, **more}


def other(state: State) -> State:
    return {key: value * 2 for key, value in state.items()}


def averaged(state: State) -> State:
    model = Plain()
    model.load_state_dict(state)
    return AveragedModel(model).state_dict()


FORMS: dict[str, Callable[[State], Any]] = {
    "plain": dict,
    **{
        prefix: under(prefix)
        for prefix in (
            "module. _orig_mod. model. net. backbone. encoder. student. module._orig_mod. "
            "_orig_mod.module. model._orig_mod. network.model. classifier.net."
        ).split()
    },
    **{
        key: entry(key)
        for key in "net state_dict model model_state_dict params network ema teacher x".split()
    },
    "nested": lambda state: {"checkpoint": {"model": {"state_dict": state}}},
    "optimizer": beside(optimizer=torch.optim.SGD(Plain().parameters(), 0.1).state_dict()),
    "adam": lambda state: {
        "state_dict": state,
        "optim": {"state": {0: {"exp_avg": torch.ones(3)}}},
    },
    "figures": beside(best=np.float64(0.9), curve=np.ones(3), acc=torch.tensor(0.5)),
    "arguments": beside(args=argparse.Namespace(lr=0.1, out=Path("x"))),
    "namespace": beside(opt=types.SimpleNamespace(lr=0.1)),
    "averaged": averaged,
    "averaged inside": lambda state: {"model": averaged(state), "step": 7},
    "scalars": lambda state: {**state, "epoch": 3, "acc": 0.5},
    "lightning": lambda state: {
        "epoch": 1,
        "state_dict": {**under("model.")(state), "criterion.weight": torch.ones(6)},
        "hyper_parameters": AttributeDict(lr=0.1),
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "callbacks": {},
        "pytorch-lightning_version": "2.0",
    },
    "body and head": lambda state: {
        "backbone": {k: v for k, v in state.items() if not k.startswith("fc.")},
        "fc": {k.removeprefix("fc."): v for k, v in state.items() if k.startswith("fc.")},
    },
    "head outside": lambda state: {
        k if k.startswith("fc.") else f"encoder.{k}": v for k, v in state.items()
    },
    "head of another name": lambda state: {
        k.replace("fc.", "cls_layer."): v for k, v in state.items()
    },
    "head of a convolution": lambda state: {
        k: v[:, :, None, None] if k == "fc.weight" else v for k, v in state.items()
    },
    "teacher and student": lambda state: {
        **under("student.")(state),
        **under("teacher.")(other(state)),
    },
    "model and ema": lambda state: {"model": state, "model_ema": other(state)},
    "ema first": lambda state: {"ema_state_dict": other(state), "state_dict": state},
}


@pytest.mark.parametrize("make", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors"])
def test_forms_of_checkpoints(
    plain: Plain, tmp_path: Path, make: Callable[[State], Any], suffix: str
) -> None:
    value = make(plain.state_dict())
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        if not all(isinstance(v, Tensor) for v in value.values()):
            pytest.skip("safetensors hold tensors alone")
        save_file({k: v.clone() for k, v in value.items()}, path)
    else:
        torch.save(value, path)
    network, _ = load_classifier("digits-cnn", path, 6, 1)
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain(x))


def test_the_old_format_with_arguments(plain: Plain, tmp_path: Path) -> None:
    value = {"net": plain.state_dict(), "args": argparse.Namespace(lr=0.1)}
    torch.save(value, tmp_path / "old.t7", _use_new_zipfile_serialization=False)
    assert load_classifier("digits-cnn", tmp_path / "old.t7", 6, 1)


def test_a_head_without_bias(plain: Plain, tmp_path: Path) -> None:
    state = {k: v for k, v in plain.state_dict().items() if k != "fc.bias"}
    torch.save(state, tmp_path / "w.pt")
    network: Any = load_classifier("digits-cnn", tmp_path / "w.pt", 6, 1)[0]
    assert not network.linear.bias.any()


def test_a_checkpoint_of_lightnings_own_trainer(plain: Plain, tmp_path: Path) -> None:
    class Module(pl.LightningModule):
        def __init__(self, lr: float = 0.1, where: Path = Path("x")) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = plain

        def training_step(self, batch: Any) -> Tensor:
            return self.model(torch.rand(2, 1, 8, 8)).sum() * 0

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader([0, 1]))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    network, _ = load_classifier("digits-cnn", tmp_path / "last.ckpt", 6, 1)
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain.eval()(x))


@pytest.mark.parametrize("form", ["model and ema", "ema first", "teacher and student"])
def test_which_of_several_was_taken_is_said(
    run: CLI, plain: Plain, tmp_path: Path, form: str
) -> None:
    torch.save(FORMS[form](plain.state_dict()), tmp_path / "w.pt")
    ran = run("eval", "--id", "digits", "--backbone", "digits-cnn", "--checkpoint",
              tmp_path / "w.pt", "--preprocess", "digits", "--accelerator", "cpu",
              "--detector", "msp")  # fmt: skip
    assert ran.status == 0, ran.both
    (told,) = [line for line in ran.out.splitlines() if "the checkpoint holds" in line]
    assert "taken" in told


def test_beside_the_weights_nothing_is_made(plain: Plain, tmp_path: Path) -> None:
    """What stands for a record runs none of its code: not even a harmless one's."""
    torch.save(beside(args=argparse.Namespace(lr=0.1))(plain.state_dict()), tmp_path / "w.pt")
    made: list[object] = []
    original = argparse.Namespace.__init__
    argparse.Namespace.__init__ = lambda self, **_: made.append(self)  # type: ignore[method-assign]
    try:
        read_checkpoint(tmp_path / "w.pt")
    finally:
        argparse.Namespace.__init__ = original  # type: ignore[method-assign]
    assert made == []
    marker = tmp_path / "marker"
    torch.save(beside(args=Evil(marker))(plain.state_dict()), tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="run code"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not marker.exists()


# Another architecture


def _body(name: str) -> State:
    return timm.create_model(name, num_classes=10).state_dict()


@pytest.mark.parametrize(
    ("make", "like"),
    [
        (lambda: HeadedBackbone(create_backbone("resnet32"), 10).state_dict(), "like resnet32"),
        (lambda: under("module.")(_body("resnet18")), "like resnet18"),
        (lambda: under("model.")(_body("resnet50")), "like resnet50"),
        (lambda: _body("vit_tiny_patch16_224"), "like vit_tiny_patch16_224"),
        (lambda: _body("efficientnet_b0"), "like efficientnet_b0"),
        (lambda: create_backbone("resnet18-cifar").state_dict(), "like resnet18-cifar"),
        (lambda: {"block1.layer.0.conv1.weight": torch.ones(3)}, "WideResNet"),
        (lambda: {"vit.embeddings.cls_token": torch.ones(3)}, "Hugging Face"),
        (lambda: {f"some.quite.long.name.{i}": torch.ones(3) for i in range(500)}, "another arch"),
    ],
)
def test_a_wrong_architecture_is_told_in_two_lines(
    tmp_path: Path, make: Callable[[], State], like: str
) -> None:
    torch.save(make(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="does not fit resnet20 with 10 classes") as caught:
        load_classifier("resnet20", tmp_path / "w.pt", 10)
    message = str(caught.value)
    assert like in message
    assert len(message.replace(str(tmp_path), "")) < 420


def test_a_deeper_network_is_not_taken_for_a_shallower_one(tmp_path: Path) -> None:
    for prefix in ("", "model.", "backbone."):
        state = HeadedBackbone(create_backbone("resnet32"), 10).state_dict()
        state = {k.removeprefix("backbone."): v for k, v in state.items()}
        torch.save(under(prefix)(state), tmp_path / "w.pt")
        with pytest.raises(CheckpointError, match="resnet32"):
            load_classifier("resnet20", tmp_path / "w.pt", 10)


# Files that are something else


def _scripted(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2)), path)


def _exported(path: Path) -> None:
    torch.export.save(
        torch.export.export(nn.Linear(2, 3), (torch.ones(1, 2),)), path.with_suffix(".pt2")
    )
    path.with_suffix(".pt2").rename(path)


def _zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")


FILES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "TorchScript": (_scripted, ["TorchScript", "torch.jit.load"]),
    "exported": (_exported, ["torch.export.load"]),
    "a module": (lambda path: torch.save(nn.Linear(2, 3), path), ["whole pickled", "state_dict"]),
    "a class": (lambda path: torch.save(Plain(), path), ["Plain", "state_dict"]),
    "numpy": (lambda path: np.savez(path.open("wb"), a=np.ones(3)), ["NumPy"]),
    "array": (lambda path: np.save(path.open("wb"), np.ones(3)), ["NumPy"]),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), ["HDF5"]),
    "lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec"), ["git lfs"]),
    "html": (lambda path: path.write_text("<!doctype html><html>404"), ["web page"]),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), ["gzip"]),
    "zip": (_zipped, ["readme.txt"]),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({1: range(3)})), ["state dict"]),
    "onnx": (
        lambda path: path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(90)),
        ["ONNX", "onnxruntime.InferenceSession", "def outputs"],
    ),
}


@pytest.mark.parametrize(("write", "told"), FILES.values(), ids=list(FILES))
@pytest.mark.parametrize("suffix", [".pt", ".bin"])
@pytest.mark.filterwarnings("ignore")
def test_files_that_are_no_checkpoints(
    tmp_path: Path, write: Callable[[Path], object], told: list[str], suffix: str
) -> None:
    path = tmp_path / f"file{suffix}"
    write(path)
    with pytest.raises(CheckpointError) as caught:
        oodbench.evaluate(id="digits", backbone="digits-cnn", checkpoint=path)
    message = str(caught.value)
    for part in [str(path), *told]:
        assert part in message
    assert "weights_only" not in message
    assert "False" not in message


def test_safetensors_by_any_name(plain: Plain, tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.bin", "w.pth"):
        save_file(plain.state_dict(), tmp_path / name)
        assert read_checkpoint(tmp_path / name)[0].keys() == plain.state_dict().keys()


def test_a_folder_names_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"is a folder.*model\.safetensors"):
        read_checkpoint(tmp_path)

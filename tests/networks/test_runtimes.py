"""Networks of other runtimes: last layers as exporters write them, types, and unusual outputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.errors import OODBenchError
from oodbench.networks.runtimes import ExportedNetwork, ONNXNetwork

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) / 8  # [C, D]
BIAS = np.array([0.5, -1, 2], np.float32)
IMAGES = torch.arange(8.0).view(2, 1, 2, 2) / 8  # flattened, they are the features


def saved(
    folder: Path,
    nodes: list[tuple[Any, ...]],
    values: dict[str, np.ndarray],
    *,
    kind: int = 1,
    more: tuple[str, ...] = (),
) -> Path:
    """A file of a graph: ``(operator, inputs, output, attributes)`` of each of its nodes."""
    helper = onnx.helper
    made = [
        helper.make_node(name, inputs, [output], **(rest[0] if rest else {}))
        for name, inputs, output, *rest in nodes
    ]
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info("images", kind, ["n", 1, 2, 2])],
        [helper.make_tensor_value_info(name, kind, None) for name in ("logits", *more)],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "it.onnx"))
    return folder / "it.onnx"


FLAT = ("Flatten", ["images"], "z")


@pytest.mark.parametrize(
    ("nodes", "weight", "bias"),
    [
        pytest.param([("Gemm", ["z", "w", "b"], "logits")], WEIGHT.T, BIAS, id="Gemm"),
        pytest.param(
            [("Gemm", ["z", "w", "b"], "logits", {"transB": 1})], WEIGHT, BIAS, id="Gemm, turned"
        ),
        pytest.param([("Gemm", ["z", "w"], "logits")], WEIGHT.T, None, id="Gemm without a bias"),
        pytest.param([("MatMul", ["z", "w"], "logits")], WEIGHT.T, None, id="MatMul"),
        pytest.param(
            [("MatMul", ["z", "w"], "y"), ("Add", ["y", "b"], "logits")],
            WEIGHT.T,
            BIAS,
            id="MatMul and Add",
        ),
        pytest.param(
            [("MatMul", ["z", "w"], "y"), ("Add", ["b", "y"], "x"), ("Identity", ["x"], "logits")],
            WEIGHT.T,
            BIAS,
            id="Add the other way round, and Identity",
        ),
    ],
)
def test_a_last_layer_in_any_form(
    nodes: list[Any], weight: np.ndarray, bias: np.ndarray | None, tmp_path: Path
) -> None:
    values = {"w": np.ascontiguousarray(weight)} | ({} if bias is None else {"b": bias})
    network = ONNXNetwork(saved(tmp_path, [FLAT, *nodes], values))
    found, head = network.outputs(IMAGES), network.head()
    expected = np.zeros(3, np.float32) if bias is None else bias
    assert head is not None
    assert torch.equal(head.weight, torch.from_numpy(WEIGHT))
    assert torch.equal(head.bias, torch.from_numpy(expected))
    assert torch.equal(found["features"], IMAGES.flatten(1))
    torch.testing.assert_close(found["logits"], found["features"] @ head.weight.T + head.bias)
    assert torch.equal(network(IMAGES), found["logits"])


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([("Gemm", ["z", "w", "b"], "logits", {"alpha": 2.0})], id="scaled"),
        pytest.param(
            [("MatMul", ["z", "w"], "y"), ("Softmax", ["y"], "logits")], id="no linear layer"
        ),
        pytest.param(
            [("MatMul", ["z", "w"], "y"), ("Add", ["y", "y"], "logits")], id="a sum of two layers"
        ),
        pytest.param(
            [("Identity", ["w"], "v"), ("MatMul", ["z", "v"], "logits")], id="computed weights"
        ),
        pytest.param([("MatMul", ["z", "t"], "logits")], id="weights of three dimensions"),
        pytest.param(
            [("MatMul", ["z", "w"], "y"), ("Add", ["y", "one"], "logits")], id="one bias for all"
        ),
        pytest.param(
            [("MatMul", ["z", "w"], "y"), ("Add", ["y", "b"], "logits"), ("Relu", ["y"], "more")],
            id="two outputs",
        ),
    ],
)
def test_what_is_no_linear_layer_to_be_read_gives_no_features(
    nodes: list[Any], tmp_path: Path
) -> None:
    """Logits alone then; a head that does not give them would make silently wrong scores."""
    of_graph = {name for _, inputs, *_ in nodes for name in inputs}
    known = {"w": WEIGHT.T.copy(), "b": BIAS, "t": WEIGHT.T.copy()[None], "one": BIAS[:1]}
    values = {name: value for name, value in known.items() if name in of_graph}
    more = tuple(name for *_, name in (node[:3] for node in nodes) if name == "more")
    network = ONNXNetwork(saved(tmp_path, [FLAT, *nodes], values, more=more))
    head, found = network.head(), network.outputs(IMAGES)
    if more:  # features are the input of the layer that gives the first output
        assert head is not None
        torch.testing.assert_close(found["logits"], found["features"] @ head.weight.T + head.bias)
    else:
        assert head is None
        assert found.keys() == {"logits"}


def test_a_network_in_half_precision_is_given_half_precision(tmp_path: Path) -> None:
    values = {"w": WEIGHT.T.astype(np.float16), "b": BIAS.astype(np.float16)}
    nodes = [FLAT, ("Gemm", ["z", "w", "b"], "logits")]
    found = ONNXNetwork(saved(tmp_path, nodes, values, kind=10)).outputs(IMAGES)
    expected = IMAGES.flatten(1) @ torch.from_numpy(WEIGHT).T + torch.from_numpy(BIAS)
    torch.testing.assert_close(found["logits"].float(), expected)  # all of them are exact


def test_an_inner_tensor_that_is_not_of_images_gives_no_features(tmp_path: Path) -> None:
    nodes = [
        FLAT,
        ("Gemm", ["z", "w", "b"], "logits"),
        ("ReduceSum", ["z"], "sum", {"keepdims": 1}),
    ]
    path = saved(tmp_path, nodes, {"w": WEIGHT.T.copy(), "b": BIAS})
    assert ONNXNetwork(path, "sum").outputs(IMAGES).keys() == {"logits"}


def test_an_output_of_the_file_may_be_the_features(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        [FLAT, ("Gemm", ["z", "w", "b"], "logits")],
        {"w": WEIGHT.T.copy(), "b": BIAS},
        more=("z",),
    )
    assert torch.equal(ONNXNetwork(path).outputs(IMAGES)["features"], IMAGES.flatten(1))


def test_onnxruntime_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OODBenchError, match=r"needs onnx and onnxruntime: pip install .*\[onnx\]"):
        ONNXNetwork(tmp_path / "it.onnx")


class Wrapped(nn.Module):
    """Its logits inside of what it returns; a linear layer comes last, or something behind it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        if self.kind == "scaled":
            return self.layer(x.flatten(1)) * 2
        if self.kind == "made":  # of weights that depend on something
            return nn.functional.linear(x.flatten(1), self.layer.weight * 2)
        logits = self.layer(x.flatten(1))
        return {"nested": {"logits": (logits, x)}} if self.kind == "nested" else (logits, x)


@pytest.mark.parametrize("kind", ["nested", "tuple", "scaled", "made"])
def test_programs_with_logits_inside_and_layers_that_cannot_be_read(kind: str) -> None:
    module = Wrapped(kind).eval()
    network = ExportedNetwork(torch.export.export(module, (IMAGES,)))
    assert network.train() is network
    found, head = network.outputs(IMAGES), network.head()
    with torch.no_grad():
        plain = module.layer(IMAGES.flatten(1))
    if kind in ("scaled", "made"):
        assert head is None
        assert found.keys() == {"logits"}
        expected = 2 * plain if kind == "scaled" else 2 * (plain - module.layer.bias)
    else:
        assert head is not None
        assert torch.equal(head.weight, module.layer.weight)
        assert torch.equal(found["features"], IMAGES.flatten(1))
        expected = plain
    torch.testing.assert_close(found["logits"], expected)
    torch.testing.assert_close(network(IMAGES), expected)

"""Bad weights: another network's, code instead of weights, damage, and values that are none."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import oodbench
from oodbench.errors import BadScoresError
from tests.helpers.cli import CLI
from tests.helpers.evil import Evil
from tests.helpers.insects import State, Words, replaced, state_dict
from tests.helpers.problems import OF_OUTPUTS

# Checkpoints


def without_head(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith("linear")}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        # as the checkpoint names them
        (lambda: state_dict("resnet32"), ["unexpected", "layer1.3.bn1.weight"]),
        (lambda: state_dict("digits-cnn"), ["missing", "conv1.weight", "unexpected",
                                            "layers.0.weight"]),
        (lambda: state_dict(classes=5), ["shape", "linear.weight", "[5, 64]", "[2, 64]"]),
        (lambda: state_dict(channels=1), ["shape", "conv1.weight", "[16, 1, 3, 3]"]),
        (lambda: without_head(state_dict()), ["missing", "linear.weight", "linear.bias"]),
        (dict, ["missing", "conv1.weight"]),
        (lambda: {"weight": torch.zeros(2)}, ["missing", "unexpected", "weight"]),
    ],
    ids=["deeper", "other", "classes", "channels", "no-head", "empty", "something"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_checkpoint_of_another_network(
    run: CLI, words: Words, tmp_path: Path, make: Callable[[], dict], told: list[str], suffix: str
) -> None:
    path = tmp_path / f"other{suffix}"
    if suffix == ".pt":
        torch.save(make(), path)
    else:
        save_file(make(), path)
    message = run.refuses("eval", "--detector", "msp", *replaced(words, "--checkpoint", path))
    for part in [str(path), "resnet20", *told]:
        assert part in message


@pytest.mark.parametrize("form", ["torch", "torch-inside", "pickle", "legacy", "renamed"])
def test_a_pickle_that_would_execute_code(
    run: CLI, words: Words, tmp_path: Path, form: str
) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / ("evil.safetensors" if form == "renamed" else "evil.pt")
    match form:
        case "torch":
            torch.save(Evil(marker), path)
        case "torch-inside":
            torch.save({"state_dict": OrderedDict(state_dict()), "epoch": Evil(marker)}, path)
        case "legacy":
            torch.save([Evil(marker)], path, _use_new_zipfile_serialization=False)
        case _:
            path.write_bytes(pickle.dumps(Evil(marker)))
    message = run.refuses("eval", "--detector", "msp", *replaced(words, "--checkpoint", path))
    assert not marker.exists(), "the checkpoint's code was run"
    assert str(path) in message
    if form != "renamed":
        assert "run code" in message
        assert "state_dict" in message, "what to do instead"
    # it would have: the test tests something
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("content", [b"", b"x" * 100, None], ids=["empty", "noise", "truncated"])
def test_a_damaged_checkpoint(
    run: CLI, words: Words, tmp_path: Path, suffix: str, content: bytes | None
) -> None:
    path = tmp_path / f"damaged{suffix}"
    if content is None:
        torch.save(state_dict(), path) if suffix != ".safetensors" else save_file(
            state_dict(), path
        )
        content = path.read_bytes()[:5000]
    path.write_bytes(content)
    message = run.refuses("eval", "--detector", "msp", *replaced(words, "--checkpoint", path))
    assert str(path) in message


@pytest.mark.parametrize("value", [3, [1, 2], {"a": {"b": 1}}, {"state_dict": 3}])
def test_a_checkpoint_without_weights(
    run: CLI, words: Words, tmp_path: Path, value: object
) -> None:
    path = tmp_path / "odd.pt"
    torch.save(value, path)
    message = run.refuses("eval", "--detector", "msp", *replaced(words, "--checkpoint", path))
    assert str(path) in message
    assert "state dict" in message


def test_a_checkpoint_that_is_a_folder(run: CLI, words: Words, tmp_path: Path) -> None:
    message = run.refuses("eval", "--detector", "msp", *replaced(words, "--checkpoint", tmp_path))
    assert str(tmp_path) in message


# NaN


@pytest.mark.parametrize(
    ("where", "bad"),
    [
        ("conv1.weight", float("nan")),
        ("conv1.weight", float("inf")),
        ("linear.bias", float("nan")),
        ("linear.bias", float("-inf")),
        ("bn1.running_mean", float("nan")),
    ],
)
def test_weights_that_are_not_numbers(
    run: CLI, words: Words, tmp_path: Path, where: str, bad: float
) -> None:
    state = state_dict()
    name = next(key for key in state if key.endswith(where))
    state[name].flatten()[0] = bad
    path = tmp_path / "nan.safetensors"
    save_file(state, path)
    for detector in ("msp", "knn --set k=1"):
        message = run.refuses(
            "eval", "--detector", *detector.split(), *replaced(words, "--checkpoint", path)
        )
        assert "NaN or infinite" in message
        assert "checkpoint" in message


@pytest.mark.parametrize("name", OF_OUTPUTS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_numbers(name: str, bad: float) -> None:
    """Wherever the bad value is, it is an error that names the detector, not a figure."""
    rng = np.random.default_rng(0)

    def outputs(spoilt: bool) -> oodbench.Outputs:
        weight = rng.normal(size=(3, 8)).astype("f4")
        features = rng.normal(size=(90, 8)).astype("f4")
        logits = features @ weight.T
        if spoilt:
            features[7, 2] = logits[7, 1] = bad
        return oodbench.Outputs(
            features=features, logits=logits, labels=np.arange(90) % 3, head=oodbench.Head(weight)
        )

    options = {"k": 5} if name in ("knn", "nnguide") else {}
    detector = oodbench.create_detector(name, **options).fit(outputs(False))
    with pytest.raises(BadScoresError, match=name):
        detector.score(outputs(True))
    if detector.needs_fit:
        with pytest.raises(BadScoresError, match=name):
            oodbench.create_detector(name, **options).fit(outputs(True)).score(outputs(False))

"""Outputs and Head: what goes in comes out, in memory and from disk, and nothing is changed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from oodbench import Head, Outputs
from oodbench.errors import MissingOutputError, OODBenchError
from oodbench.outputs import as_tensor, to_numpy


def outputs(n: int = 10, dtype: torch.dtype = torch.float32) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, 4, generator=generator).to(dtype)
    head = Head(torch.randn(3, 4, generator=generator).to(dtype), torch.ones(3).to(dtype))
    return Outputs(
        features=features,
        logits=head(features),
        labels=torch.arange(n) % 3,
        head=head,
        extra={
            "temperature": torch.rand(n, generator=generator).to(dtype),
            "logits/video": torch.rand(n, 2, generator=generator).to(dtype),
        },
    )


def columns(value: Outputs) -> dict[str, Tensor]:
    whole = {"features": value.features, "logits": value.logits, "labels": value.labels}
    return {**{k: v for k, v in whole.items() if v is not None}, **value.extra}


def same(one: Outputs, other: Outputs) -> bool:
    mine, theirs = columns(one), columns(other)
    return mine.keys() == theirs.keys() and all(
        mine[k].dtype == theirs[k].dtype and torch.equal(mine[k], theirs[k]) for k in mine
    )


# Taking values


def test_numpy_is_taken_wherever_a_tensor_is() -> None:
    expected = outputs()
    head = Head(expected.head.weight.numpy(), expected.head.bias.numpy())
    found = Outputs(
        features=expected.features.numpy(),
        logits=expected.logits.numpy(),
        labels=expected.labels.numpy().astype(np.uint8),
        head=head,
        extra={name: value.numpy() for name, value in expected.extra.items()},
    )
    assert same(found, expected)
    assert found.labels.dtype == torch.int64
    assert torch.equal(head.weight, expected.head.weight)
    assert torch.equal(head(found.features), expected.logits)


@pytest.mark.parametrize("mutation", ["backwards", "strided", "fortran", "big-endian", "list"])
def test_any_numpy_array_is_an_array(mutation: str) -> None:
    array = np.arange(24, dtype=np.float32).reshape(6, 4)
    given_ = {
        "backwards": array[::-1],
        "strided": array[::2, 1:],
        "fortran": np.asfortranarray(array),
        "big-endian": array.astype(">f4"),
        "list": array.tolist(),
    }[mutation]
    expected = np.ascontiguousarray(given_).astype("f4")
    assert np.array_equal(Outputs(features=given_).features.numpy(), expected)


def test_arrays_and_tensors_are_shared_not_copied() -> None:
    array, tensor = np.zeros((2, 2), np.float32), torch.zeros(2, 2)
    found = Outputs(features=array, logits=tensor)
    array[0, 0] = tensor[0, 0] = 1
    assert found.features[0, 0] == 1
    assert found.logits[0, 0] == 1


def test_a_read_only_array_is_never_modified() -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    array.flags.writeable = False
    labels = np.array([0, 1, 0])
    labels.flags.writeable = False
    found = Outputs(features=array, labels=labels, extra={"x": array}, head=Head(array))
    for tensor in (found.features, found.labels, found.extra["x"], found.head.weight):
        tensor.zero_()
    assert np.array_equal(array, np.arange(6).reshape(3, 2))
    assert labels.tolist() == [0, 1, 0]


def test_gradients_do_not_come_along() -> None:
    weight = torch.nn.Linear(4, 3).weight
    assert not Head(weight).weight.requires_grad
    assert not Outputs(features=weight).features.requires_grad
    assert weight.requires_grad


def test_the_callers_mapping_is_not_changed() -> None:
    extra = {"x": np.zeros(3)}
    found = Outputs(extra=extra)
    found.extra["y"] = torch.zeros(3)
    assert list(extra) == ["x"]
    assert isinstance(extra["x"], np.ndarray)


@given(
    lengths=st.dictionaries(
        st.sampled_from(["features", "logits", "labels", "a", "b"]), st.integers(0, 3), min_size=1
    )
)
def test_all_columns_have_one_length(lengths: dict[str, int]) -> None:
    def make() -> Outputs:
        known = {
            name: torch.zeros((n, 2) if name != "labels" else (n,))
            for name, n in lengths.items()
            if len(name) > 1
        }
        return Outputs(
            **known, extra={name: torch.zeros(n) for name, n in lengths.items() if len(name) == 1}
        )

    if len(set(lengths.values())) == 1:
        assert len(make()) == next(iter(lengths.values()))
    else:
        with pytest.raises(OODBenchError, match="as many rows"):
            make()


def test_shapes_that_make_no_sense() -> None:
    with pytest.raises(OODBenchError, match=r"Outputs\.features"):
        Outputs(features=torch.zeros(3))
    with pytest.raises(OODBenchError, match=r"Outputs\.logits"):
        Outputs(logits=torch.zeros(3, 2, 2))
    with pytest.raises(OODBenchError, match=r"Head\.weight"):
        Head(torch.zeros(3))
    with pytest.raises(OODBenchError, match=r"Head\.bias must be \[3\]"):
        Head(torch.zeros(3, 2), torch.zeros(2))


def test_nothing_has_no_rows() -> None:
    assert len(Outputs()) == 0
    assert list(Outputs().batches()) == []


def test_head_is_a_linear_layer() -> None:
    linear = torch.nn.Linear(4, 3)
    features = torch.randn(5, 4)
    with torch.no_grad():
        expected = linear(features)
    assert torch.allclose(Head(linear.weight, linear.bias)(features), expected)
    assert torch.equal(Head(linear.weight).bias, torch.zeros(3))
    half = Head(linear.weight, linear.bias)(features.half())
    assert half.dtype == torch.float16, "features say in which precision"


# What there is, and what is needed


def test_has_and_require() -> None:
    found = outputs()
    for name in ("features", "logits", "labels", "head", "temperature", "logits/video"):
        assert found.has(name)
    found.require({"features", "temperature", "model"}, "abet")
    partial = Outputs(logits=torch.zeros(2, 3), extra={"depth": torch.zeros(2)})
    assert not partial.has("features")
    assert not partial.has("head")
    with pytest.raises(MissingOutputError) as error:
        partial.require(frozenset({"features", "head", "logits"}), "vim")
    for word in ("vim", "features", "head", "logits", "depth"):
        assert word in str(error.value)
    with pytest.raises(MissingOutputError, match="nothing"):
        Outputs().require({"logits"}, "msp")


# Pieces


@given(n=st.integers(0, 20), size=st.integers(1, 25))
def test_batches_are_the_whole_in_order(n: int, size: int) -> None:
    whole = outputs(n)
    pieces = list(whole.batches(size))
    assert [len(piece) for piece in pieces] == [min(size, n - i) for i in range(0, n, size)]
    for name, value in columns(whole).items():
        if pieces:
            assert torch.equal(torch.cat([columns(piece)[name] for piece in pieces]), value)
    assert all(piece.head is whole.head for piece in pieces)


@given(
    start=st.none() | st.integers(-12, 12),
    stop=st.none() | st.integers(-12, 12),
    step=st.none() | st.integers(1, 4),
)
def test_a_slice_is_a_slice(start: int | None, stop: int | None, step: int | None) -> None:
    whole, rows = outputs(), slice(start, stop, step)
    part = whole[rows]
    for name, value in columns(whole).items():
        assert torch.equal(columns(part)[name], value[rows])


def test_a_slice_is_a_view() -> None:
    whole = outputs()
    part = whole[2:5]
    for name, value in columns(whole).items():
        assert columns(part)[name].data_ptr() == value[2:].data_ptr()
    part.features.zero_()
    assert not whole.features[2:5].any()
    assert whole.features[5:].any()


def test_to_another_device() -> None:
    moved = outputs().to("meta")
    assert {value.device.type for value in columns(moved).values()} == {"meta"}
    assert moved.head.weight.device.type == moved.head.bias.device.type == "meta"
    assert moved.extra.keys() == outputs().extra.keys()
    assert same(outputs().to("cpu"), outputs())


# On disk


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("n", [0, 1, 10])
def test_round_trip(tmp_path: Path, mmap: bool, dtype: torch.dtype, n: int) -> None:
    saved = outputs(n, dtype)
    saved.save(tmp_path / "deep" / "outputs")
    loaded = Outputs.load(tmp_path / "deep" / "outputs", mmap=mmap)
    assert same(loaded, saved)
    assert torch.equal(loaded.head.weight, saved.head.weight)
    assert torch.equal(loaded.head.bias, saved.head.bias)
    assert len(loaded) == n


def test_bfloat16_comes_back_with_the_same_values(tmp_path: Path) -> None:
    saved = outputs(dtype=torch.bfloat16)  # which NumPy has not
    saved.save(tmp_path / "outputs")
    loaded = Outputs.load(tmp_path / "outputs")
    for name, value in columns(saved).items():
        assert torch.equal(columns(loaded)[name].to(value.dtype), value)
    assert loaded.features.dtype == torch.float32
    assert torch.equal(loaded.head.weight, saved.head.weight.float())


@settings(max_examples=40, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
    ),
    name=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20),
    mmap=st.booleans(),
)
def test_any_extra_comes_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, name: str, mmap: bool
) -> None:
    path = tmp_path_factory.mktemp("extra") / "outputs"
    Outputs(extra={name: array}).save(path)
    loaded = Outputs.load(path, mmap=mmap).extra
    assert list(loaded) == [name]
    assert loaded[name].numpy().dtype == array.dtype
    assert loaded[name].numpy().tobytes() == array.tobytes()
    assert loaded[name].shape == array.shape


def test_names_that_look_alike_are_kept_apart(tmp_path: Path) -> None:
    names = ("a/b", "a.b", "a%2Fb", "head.weight", "features", "labels", "../a", "extra/a", "a")
    saved = Outputs(
        features=torch.zeros(1, 1),
        head=Head(torch.ones(1, 1)),
        extra={name: torch.tensor([float(i)]) for i, name in enumerate(names)},
    )
    saved.save(tmp_path / "outputs")
    loaded = Outputs.load(tmp_path / "outputs")
    assert same(loaded, saved)
    assert loaded.head.weight.item() == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.parametrize("missing", ["features", "logits", "labels", "head"])
def test_what_is_not_there_stays_away(tmp_path: Path, missing: str) -> None:
    saved = outputs()
    setattr(saved, missing, None)
    saved.save(tmp_path / "outputs")
    loaded = Outputs.load(tmp_path / "outputs")
    assert getattr(loaded, missing) is None
    assert same(loaded, saved)


def test_a_mapped_array_is_on_disk_and_writing_to_it_changes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "outputs"
    outputs().save(path)
    before = {entry.name: entry.read_bytes() for entry in path.iterdir()}
    loaded = Outputs.load(path)
    maps = Path("/proc/self/maps")
    if maps.is_file():
        assert str(path / "features.npy") in maps.read_text()
    for value in columns(loaded).values():
        value.zero_()
    for piece in loaded.batches(3):
        piece.features.add_(1)
    del loaded
    assert {entry.name: entry.read_bytes() for entry in path.iterdir()} == before
    assert same(Outputs.load(path), outputs())


def test_no_pickle_is_written(tmp_path: Path) -> None:
    outputs().save(tmp_path / "outputs")
    for entry in (tmp_path / "outputs").glob("*.npy"):
        np.load(entry, allow_pickle=False)
    with pytest.raises(TypeError):
        Outputs(extra={"x": np.array([object(), None])})


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("victim", ["features.npy", "head.weight.npy"])
@pytest.mark.parametrize("bare", [True, False], ids=["pickle", "object-array"])
def test_a_file_with_a_pickle_is_refused_unread(
    tmp_path: Path, mmap: bool, victim: str, bare: bool
) -> None:
    path, marker = tmp_path / "outputs", tmp_path / "ran"
    outputs().save(path)
    if bare:
        (path / victim).write_bytes(pickle.dumps(_Evil(marker)))
    else:
        np.save(path / victim, np.array([_Evil(marker)] * 10, object), allow_pickle=True)
    with pytest.raises(OODBenchError, match="no readable Outputs") as error:
        Outputs.load(path, mmap=mmap)
    assert str(path) in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    "damage",
    ["gone", "no-array", "truncated-array", "empty-array", "short-array", "no-meta", "half-meta",
     "list-meta", "odd-columns", "no-columns"],
)  # fmt: skip
def test_damaged_outputs_are_refused(tmp_path: Path, mmap: bool, damage: str) -> None:
    path = tmp_path / "outputs"
    outputs().save(path)
    array, meta = path / "logits.npy", path / "outputs.json"
    described = json.loads(meta.read_text())
    match damage:
        case "gone":
            path = tmp_path / "nowhere"
        case "no-array":
            array.unlink()
        case "truncated-array":
            array.write_bytes(array.read_bytes()[:-8])
        case "empty-array":
            array.write_bytes(b"")
        case "short-array":
            np.save(array, np.zeros((9, 3), np.float32))
        case "no-meta":
            meta.unlink()
        case "half-meta":
            meta.write_text(meta.read_text()[:20])
        case "list-meta":
            meta.write_text("[1, 2]")
        case "odd-columns":
            meta.write_text(json.dumps({**described, "columns": ["logits"]}))
        case "no-columns":
            del described["columns"]
            meta.write_text(json.dumps(described))
    with pytest.raises(OODBenchError):
        Outputs.load(path, mmap=mmap)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outputs"
    outputs().save(path)
    meta = json.loads((path / "outputs.json").read_text())
    (path / "outputs.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(OODBenchError, match="format 99") as error:
        Outputs.load(path)
    assert str(path) in str(error.value)


def test_a_description_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "outputs"
    outputs().save(path)
    np.save(tmp_path / "secret.npy", np.zeros((10, 4), np.float32))
    meta = json.loads((path / "outputs.json").read_text())
    for outside in ("../secret.npy", str(tmp_path / "secret.npy")):
        meta["columns"]["features"] = outside
        (path / "outputs.json").write_text(json.dumps(meta))
        with pytest.raises(OODBenchError):
            Outputs.load(path)


def test_saving_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at any moment leaves nothing behind, and the place free."""
    path = tmp_path / "outputs"
    save = np.save
    for fails_at in range(1, 8):
        calls = 0

        def full(*args: object, fails_at: int = fails_at, **kwargs: object) -> None:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError(28, "No space left on device")
            save(*args, **kwargs)

        monkeypatch.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space"):
            outputs().save(path)
        assert not list(tmp_path.iterdir())
    monkeypatch.setattr(np, "save", save)

    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        assert {"features.npy", "outputs.json"} <= {entry.name for entry in self.iterdir()}
        assert not path.exists(), "before the last step there is nothing"
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    outputs().save(path)
    assert same(Outputs.load(path), outputs())


def test_saving_twice_is_refused_and_keeps_the_first(tmp_path: Path) -> None:
    path = tmp_path / "outputs"
    outputs(3).save(path)
    with pytest.raises(FileExistsError, match="new folder"):
        outputs(4).save(path)
    assert len(Outputs.load(path)) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["outputs"]


def test_as_tensor_and_back() -> None:
    tensor = torch.rand(3)
    assert as_tensor(tensor).data_ptr() == tensor.data_ptr()
    assert to_numpy(tensor.bfloat16()).dtype == np.float32
    assert to_numpy(tensor.half()).dtype == np.float16
    assert np.array_equal(to_numpy(torch.nn.Parameter(tensor)), tensor.numpy())

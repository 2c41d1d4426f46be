"""Files of the cache that are not what was written: never believed, never a raw error."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from oodbench import Outputs, files
from oodbench.caching import arrays as stored_arrays
from oodbench.data.samples import ImageFiles, image_folder
from oodbench.datasets import validation
from oodbench.detectors.abet import AbeTDetection
from oodbench.errors import CheckpointError, OODBenchError, OODBenchWarning
from oodbench.extract import extract, extracted
from oodbench.training import train
from tests.conftest import write_images
from tests.helpers.boxes import at_work, few_scenes, untrained
from tests.helpers.images import CPU, GREY, arrays
from tests.helpers.networks import Breaks, Counter, flat_model
from tests.helpers.training import assert_same_weights, interrupted, short, tiny

DEEP = "[" * 100_000


@pytest.fixture
def as_tomorrow() -> Iterator[Callable[[], None]]:
    """Forgets what this process has verified, as another process would not know it."""
    yield stored_arrays._verified.clear
    stored_arrays._verified.clear()


def held(found: Outputs) -> Outputs:
    """In memory: what is mapped must not be damaged under this process's feet."""
    return found[torch.arange(len(found))]


def folders() -> list[Path]:
    return sorted(p for p in (files.cache_dir() / "outputs").iterdir() if p.name[0] != ".")


def flip(path: Path, at: float = 0.7) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 4
    path.write_bytes(content)


# Outputs


def _rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, change(np.load(path)))


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _meta(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "outputs.json"
        said = {**json.loads(path.read_text()), **fields}
        path.write_text(json.dumps({k: v for k, v in said.items() if v != "gone"}))

    return change


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda f: (f / "features.npy").write_bytes(
        (f / "features.npy").read_bytes()[:-70]
    ),
    "truncated to nothing": lambda f: (f / "logits.npy").write_bytes(b""),
    "longer": lambda f: (f / "logits.npy").write_bytes((f / "logits.npy").read_bytes() + b"\0" * 8),
    "zeroed": lambda f: _rewrite(f / "features.npy", np.zeros_like),
    "a hole": lambda f: (f / "features.npy").write_bytes(
        (f / "features.npy").read_bytes()[:700] + bytes(644)
    ),
    "a bit": lambda f: flip(f / "features.npy"),
    "the last bit": lambda f: flip(f / "logits.npy", 0.999),
    "a label": lambda f: _rewrite(f / "labels.npy", lambda a: np.roll(a, 1)),
    "the head": lambda f: _rewrite(f / "head.weight.npy", lambda a: -a),
    "the head's bias": lambda f: flip(f / "head.bias.npy", 0.99),
    "missing": lambda f: (f / "features.npy").unlink(),
    "no head": lambda f: (f / "head.bias.npy").unlink(),
    "a folder": lambda f: _as_folder(f / "logits.npy"),
    "swapped columns": lambda f: (
        (f / "features.npy").rename(f / "x"),
        (f / "logits.npy").rename(f / "features.npy"),
        (f / "x").rename(f / "logits.npy"),
    ),
    "another type": lambda f: _rewrite(f / "features.npy", lambda a: a.astype(np.float64)),
    "another shape": lambda f: _rewrite(f / "logits.npy", lambda a: a[:, :2]),
    "fewer rows": lambda f: _rewrite(f / "logits.npy", lambda a: a[:5]),
    "no description": lambda f: (f / "outputs.json").write_bytes(b""),
    "half a description": lambda f: (f / "outputs.json").write_bytes(
        (f / "outputs.json").read_bytes()[:100]
    ),
    "noise": lambda f: (f / "outputs.json").write_bytes(bytes(range(256))),
    "a list": lambda f: (f / "outputs.json").write_text("[1]"),
    "null": lambda f: (f / "outputs.json").write_text("null"),
    "too deep": lambda f: (f / "outputs.json").write_text(DEEP),
    "a folder as description": lambda f: _as_folder(f / "outputs.json"),
    "an older version": _meta(format=1, seal="gone", digests="gone"),
    "a newer version": _meta(format=99),
    "no digests": _meta(digests={}),
    "another cosine": _meta(head_norm_eps=1.0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_outputs_are_made_again(damage: str) -> None:
    model, samples = flat_model(), arrays()
    first = held(extract(model, samples, GREY, hardware=CPU))
    (folder,) = folders()
    DAMAGES[damage](folder)
    count = Counter()
    assert extracted(model, samples, GREY, hardware=CPU) is None
    with pytest.warns(OODBenchWarning, match=f"{folder.name}.*made again") as said:
        again = extract(model, samples, GREY, hardware=CPU, on_forward=count)
    assert len([w for w in said if w.category is OODBenchWarning]) == 1
    assert count.n == len(samples)
    assert again.features.equal(first.features)
    assert again.logits.equal(first.logits)
    assert again.labels.equal(first.labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract(model, samples, GREY, hardware=CPU, on_forward=count)
    assert count.n == len(samples), "mended once"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("whole", [False, True], ids=["an array", "all of a folder"])
def test_outputs_of_another_folder_are_not_believed(whole: bool) -> None:
    one, other = flat_model(), flat_model()
    samples = arrays()
    first = held(extract(one, samples, GREY, hardware=CPU))
    (here,) = folders()
    extract(other, samples, GREY, hardware=CPU)
    (there,) = set(folders()) - {here}
    names = [p.name for p in there.iterdir()] if whole else ["features.npy"]
    for name in names:
        shutil.copy(there / name, here / name)
    with pytest.warns(OODBenchWarning, match="made again"):
        again = extract(one, samples, GREY, hardware=CPU)
    assert again.logits.equal(first.logits)
    assert again.features.equal(first.features)


def test_an_array_is_read_through_once_a_process(
    monkeypatch: pytest.MonkeyPatch, as_tomorrow: Callable[[], None]
) -> None:
    model, samples = flat_model(), arrays()
    extract(model, samples, GREY, hardware=CPU)
    looks: list[str] = []
    digest = stored_arrays.file_digest
    monkeypatch.setattr(
        stored_arrays, "file_digest", lambda p: (looks.append(p.name), digest(p))[1]
    )
    extract(model, samples, GREY, hardware=CPU)
    assert not looks
    as_tomorrow()
    extract(model, samples, GREY, hardware=CPU)
    extract(model, samples, GREY, hardware=CPU)
    assert sorted(looks) == ["features.npy", "head.bias.npy", "head.weight.npy", "labels.npy",
                             "logits.npy"]  # fmt: skip


@pytest.mark.parametrize("damage", ["a bit", "zeroed", "truncated", "a label", "the head"])
def test_outputs_that_were_saved_are_checked_too(damage: str, tmp_path: Path) -> None:
    extract(flat_model(), arrays(), GREY, hardware=CPU).save(tmp_path / "mine")
    Outputs.load(tmp_path / "mine")
    DAMAGES[damage](tmp_path / "mine")
    for mmap in (True, False):
        with pytest.raises(OODBenchError, match=r"mine.*damaged"):
            Outputs.load(tmp_path / "mine", mmap=mmap)


def test_outputs_of_the_first_format_are_read(tmp_path: Path) -> None:
    saved = extract(flat_model(), arrays(), GREY, hardware=CPU)
    saved.save(tmp_path / "old")
    _meta(format=1, seal="gone", digests="gone", key="gone")(tmp_path / "old")
    assert Outputs.load(tmp_path / "old").logits.equal(saved.logits)


UNFINISHED: dict[str, Callable[[Path], Any]] = {
    "never flushed": lambda f: _rewrite(f / "features.npy", np.zeros_like),
    "partly flushed": lambda f: flip(f / "logits.npy", 0.4),
    "truncated": lambda f: (f / "features.npy").write_bytes(
        (f / "features.npy").read_bytes()[:300]
    ),
    "empty": lambda f: (f / "features.npy").write_bytes(b""),
    "noise": lambda f: (f / "logits.npy").write_bytes(bytes(range(256)) * 4),
    "missing": lambda f: (f / "features.npy").unlink(),
    "a head": lambda f: flip(f / "head.weight.npy"),
    "no head": lambda f: (f / "head.bias.npy").unlink(),
    "no marks": lambda f: (f / "done.npy").unlink(),
    "empty marks": lambda f: (f / "done.npy").write_bytes(b""),
    "marks of noise": lambda f: (f / "done.npy").write_bytes(b"\x93" * 99),
    "marks that all are done": lambda f: _rewrite(f / "done.npy", np.ones_like),
    "older marks": lambda f: np.save(f / "done.npy", np.ones(5, np.uint8)),
    "fewer marks": lambda f: np.save(f / "done.npy", np.ones(2, np.uint64)),
    **{
        f"{name}: {kind}": lambda f, name=name, text=text: (f / name).write_text(text)
        for name in ("shards.json", "described.json")
        for kind, text in {
            "empty": "",
            "half": '{"size',
            "a list": "[8]",
            "a number": "8",
            "deep": DEEP,
            "zero": '{"size": 0}',
            "text": '{"layout": 2, "rows": 40, "size": "8"}',
            "a shard more": '{"layout": 2, "rows": 40, "size": -8}',
        }.items()
    },
    "no described.json": lambda f: (f / "described.json").unlink(),
    "a folder": lambda f: _as_folder(f / "described.json"),
}


@pytest.mark.parametrize("damage", UNFINISHED)
def test_an_unfinished_extraction_is_not_believed_either(damage: str) -> None:
    model, samples = flat_model(), Breaks(at=19)
    with pytest.raises(OSError, match="pulled out"):
        extract(model, samples, GREY, hardware=CPU)
    (folder,) = folders()
    UNFINISHED[damage](folder)
    found = extract(model, samples, GREY, hardware=CPU)
    expected = extract(model, arrays(40, name="new"), GREY, hardware=CPU)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.features, expected.features)
    assert found.head is not None
    assert expected.head is not None
    assert found.head.weight.equal(expected.head.weight)


def test_only_what_never_reached_the_disk_is_done_again() -> None:
    model, samples = flat_model(), Breaks(at=19)  # shards of 8: two are done
    with pytest.raises(OSError, match="pulled out"):
        extract(model, samples, GREY, hardware=CPU)
    (folder,) = folders()
    features = np.load(folder / "features.npy")
    features[8:16] = 0
    np.save(folder / "features.npy", features)
    samples.read.clear()
    extract(model, samples, GREY, hardware=CPU)
    assert samples.read == list(range(8, 40))


# Boxes


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "features.npy"),
        lambda folder: flip(folder / "extra%2Fcorners.npy"),
        lambda folder: (folder / "extra%2Fconfidence.npy").unlink(),
        lambda folder: (folder / "labels.npy").write_bytes(b""),
    ],
)
def test_damaged_boxes_are_found_again(damage: Callable[[Path], Any]) -> None:
    counts: list[int] = []
    method, samples = untrained(AbeTDetection), few_scenes(3)
    first = held(at_work(method, counter=counts.append).outputs_of(samples).outputs)
    (folder,) = (files.cache_dir() / "outputs").iterdir()
    at_work(method, counter=counts.append).outputs_of(samples).outputs  # noqa: B018
    assert sum(counts) == len(samples)
    damage(folder)
    with pytest.warns(OODBenchWarning, match="made again"):
        again = at_work(method, counter=counts.append).outputs_of(samples).outputs
    assert again.features.equal(first.features)
    assert sum(counts) == 2 * len(samples)
    at_work(method, counter=counts.append).outputs_of(samples).outputs  # noqa: B018
    assert sum(counts) == 2 * len(samples), "mended once"


# Weights


def _told(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as handle:
        return dict(handle.metadata())


def _save(path: Path, change: Callable[[Any], Any], **told: str) -> None:
    about = {**_told(path), **told}
    state = {name: change(value.clone()) for name, value in load_file(path).items()}
    save_file(state, path, metadata={k: v for k, v in about.items() if v != "gone"})


def _another_run(path: Path) -> None:
    other = short(tiny()[0], seed=1)
    train.train(other, CPU)
    shutil.copy(other.weights, path)


WEIGHTS: dict[str, Callable[[Path], Any]] = {
    "zeros": lambda p: _save(p, torch.zeros_like),
    "one value": lambda p: _save(p, lambda v: v.flatten()[:1].expand(v.numel()).view(v.shape) + 0),
    "another type": lambda p: _save(p, lambda v: v.double()),
    "a bit": lambda p: flip(p, 0.9),
    "a bit of the names": lambda p: flip(p, 0.001),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-9]),
    "empty": lambda p: p.write_bytes(b""),
    "noise": lambda p: p.write_bytes(bytes(range(256))),
    "a folder": _as_folder,
    "another run": _another_run,
    "another key": lambda p: _save(p, lambda v: v, oodbench_run="0" * 64),
    "no digest": lambda p: _save(p, lambda v: v, oodbench_digest="gone"),
    "a note": lambda p: _save(p, lambda v: v, accuracy="100 %"),
    "nothing noted": lambda p: save_file(load_file(p), p),
}


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a finished training, of which each test gets a copy."""
    cache = tmp_path_factory.mktemp("trained") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(cache))
        train.train(short(tiny()[0]), CPU)
    return cache


@pytest.mark.parametrize("damage", WEIGHTS)
def test_damaged_weights_are_not_trained_already(damage: str, trained_once: Path) -> None:
    shutil.copytree(trained_once, os.environ["OODBENCH_CACHE"])
    run = short(tiny()[0])
    assert run.weights.is_file()
    first = train.train(run, CPU)
    WEIGHTS[damage](run.weights)
    there = run.weights.read_bytes() if run.weights.is_file() else None
    with pytest.raises(CheckpointError, match=r"weights\.safetensors.*retrain") as said:
        train.train(short(tiny()[0]), CPU)
    assert len(str(said.value)) < 600
    if there is not None:
        assert run.weights.read_bytes() == there, "hours of training are not thrown away"
    assert_same_weights(train.train(short(tiny()[0]), CPU, retrain=True), first)
    assert_same_weights(train.train(short(tiny()[0]), CPU), first)


def test_weights_that_are_missing_are_trained_again() -> None:
    run = short(tiny()[0])
    first = train.train(run, CPU)
    run.weights.unlink()
    assert_same_weights(train.train(run, CPU), first)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: flip(p, 0.3),
        lambda p: flip(p, 0.6),
        lambda p: flip(p, 0.9999),
        lambda p: p.write_bytes(p.read_bytes()[:-1]),
        lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
        lambda p: p.write_bytes(b""),
        lambda p: torch.save(torch.load(p, weights_only=True), p),  # nobody's
    ],
)
def test_a_damaged_checkpoint_is_not_gone_on_with(damage: Callable[[Path], Any]) -> None:
    benchmark, samples = tiny()
    run = interrupted(benchmark, samples)
    damage(run.folder / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"last\.ckpt.*retrain"):
        train.train(run, CPU)
    assert (run.folder / "last.ckpt").is_file()


def test_another_runs_checkpoint_is_not_gone_on_with() -> None:
    benchmark, samples = tiny()
    run = interrupted(benchmark, samples)
    other = short(tiny()[0], seed=1)
    other.folder.mkdir(parents=True)
    shutil.copy(run.folder / "last.ckpt", other.folder / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"another run's"):
        train.train(other, CPU)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00" * 50, b"epoch,loss\n,\n", b"a\nb\n", b"epoch\nx\n"]
)
def test_a_damaged_log_ends_no_training(content: bytes) -> None:
    benchmark, samples = tiny()
    run = interrupted(benchmark, samples)
    table = run.folder / "csv" / "metrics.csv"
    assert table.is_file()
    table.write_bytes(content)
    train.train(run, CPU)
    assert table.read_text().count("\n") >= 2


# What is remembered


def folder_of_images(root: Path, seed: int = 0) -> ImageFiles:
    return image_folder("x/test", write_images(root, {"a": 2, "b": 2}, seed=seed))


MEMOS: dict[str, Callable[[Path], Any]] = {
    "empty": lambda p: p.write_bytes(b""),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-3]),
    "its digest cut off": lambda p: p.write_bytes(p.read_bytes().partition(b"\noodbench")[0]),
    "a bit": lambda p: flip(p, 0.5),
    "noise": lambda p: p.write_bytes(bytes(range(256))),
    "text": lambda p: p.write_text("interrupted"),
    "a pickle": lambda p: np.save(p, np.array([{}], dtype=object), allow_pickle=True),
    "plain": lambda p: np.save(p, np.arange(4, dtype=np.uint64)),
    "longer": lambda p: np.save(p, np.arange(9, dtype=np.uint64)),
    "another type": lambda p: np.save(p, np.arange(4.0)),
    "a folder": _as_folder,
}


@pytest.mark.parametrize("damage", MEMOS)
def test_a_damaged_fingerprint_is_found_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oodbench.data.samples._RACY_SECONDS", -1.0)
    samples = folder_of_images(tmp_path)
    expected = samples.fingerprint
    (memo,) = (files.cache_dir() / "fingerprints").iterdir()
    MEMOS[damage](memo)
    assert image_folder("x/test", tmp_path).fingerprint == expected
    MEMOS[damage](memo) if memo.is_file() else None
    pixels = validation.pixel_digests(image_folder("x/test", tmp_path))
    for path in list((files.cache_dir() / "fingerprints").iterdir()):
        if path.is_file():
            MEMOS[damage](path)
    np.testing.assert_array_equal(
        validation.pixel_digests(image_folder("x/test", tmp_path)), pixels
    )


def test_another_folders_fingerprint_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oodbench.data.samples._RACY_SECONDS", -1.0)
    one, other = folder_of_images(tmp_path / "1"), folder_of_images(tmp_path / "2", seed=1)
    expected = one.fingerprint
    (memo,) = (files.cache_dir() / "fingerprints").iterdir()
    other.fingerprint  # noqa: B018
    (wrong,) = set((files.cache_dir() / "fingerprints").iterdir()) - {memo}
    shutil.copy(wrong, memo)
    assert image_folder("x/test", tmp_path / "1").fingerprint == expected != other.fingerprint


def test_text_that_cannot_be_read_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    for content in (b"", b"\xff\xfe", b"a" * 9):
        path.write_bytes(content)
        files.write_text(path, "good\n")
        assert path.read_text() == "good\n"
    path.unlink()
    path.mkdir()
    with pytest.raises(OODBenchError, match=r"page\.md.*Remove the folder"):
        files.write_text(path, "good\n")

"""Two processes on the CPU do what one does: the same training, one cache, each row once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from oodbench import Outputs
from oodbench.registry import BACKBONES
from oodbench.results.rows import METRICS
from oodbench.results.store import ResultStore
from tests.conftest import write_images
from tests.helpers.all_methods import names
from tests.helpers.attempts import Server
from tests.helpers.distributed import METHODS, NPMIX, SIZES, free_port, main, runs


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process made."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(folder / "cache"))
        try:
            main(1, folder)
        finally:
            BACKBONES.unregister("plain")
            BACKBONES.unregister("plain-pair")
            BACKBONES.unregister("normed")
    return folder


@pytest.fixture(scope="module")
def two(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made that were started as by torchrun.

    That Lightning starts the second one itself is tested with the command line.
    """
    folder, port = tmp_path_factory.mktemp("two"), free_port()
    calls = [(rank, port, str(folder)) for rank in (0, 1)]
    server.together("tests.helpers.distributed:shared", *calls, cache=folder / "cache")
    return folder


@pytest.mark.parametrize(
    "number",
    range(len(METHODS)),
    ids=[
        "palm",
        "palm unlabelled",
        "ce",
        "npmix",
        "cider",
        "supcon",
        "vos",
        "npos",
        "abet",
        "batch norm",
    ],
)
def test_training_equals_that_of_one_process(number: int, one: Path, two: Path) -> None:
    """Losses, prototypes and weights are of the whole batch, in the order of one process.

    Sums of floats in another order differ in their last digits, and each step adds to that: after
    eight steps weights agree to 1e-4 of their size, or 1e-5.
    """
    name = runs()[number].folder.name
    alone, shared = load_file(runs_of(one)[name]), load_file(runs_of(two)[name])
    assert alone.keys() == shared.keys()
    for key, value in alone.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-5, msg=key)
    if name.startswith("palm"):
        prototypes = shared["palm.prototypes"]
        torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(9))
    if "npmix" in name:
        assert (shared["queues.counts"] == NPMIX["queue_size"]).all()


def test_every_method_trains_on_two_processes(server: Server, tmp_path: Path) -> None:
    """Also those whose loss leaves parameters out until a later epoch."""
    write_images(tmp_path / "outliers", {"a": 6, "b": 6}, mode="L")
    calls = [(rank, port, str(tmp_path)) for port in [free_port()] for rank in (0, 1)]
    server.together("tests.helpers.all_methods:every_method", *calls, cache=tmp_path / "cache")
    for rank in (0, 1):
        told = json.loads((tmp_path / f"told{rank}.json").read_text())
        assert told == dict.fromkeys(names(), "")


def runs_of(folder: Path) -> dict[str, Path]:
    found = {p.parent.name: p for p in (folder / "cache" / "runs").glob("*/weights.safetensors")}
    assert len(found) == len(METHODS)
    return found


def test_training_moved_the_weights(one: Path) -> None:
    """Else the comparison above would say nothing."""
    for path in runs_of(one).values():
        log = (path.parent / "csv" / "metrics.csv").read_text().splitlines()
        assert len(log) == 3
        assert log[1] != log[2]
    prototypes = [
        load_file(p)["palm.prototypes"] for n, p in runs_of(one).items() if n.startswith("palm")
    ]
    assert not prototypes[0].equal(prototypes[1])


def test_logs_of_two_processes_are_one(one: Path, two: Path) -> None:
    for name, path in runs_of(one).items():
        alone, shared = (
            np.genfromtxt(p.parent / "csv" / "metrics.csv", delimiter=",", names=True)
            for p in (path, runs_of(two)[name])
        )
        assert alone.dtype.names == shared.dtype.names
        np.testing.assert_allclose(shared["trainloss"], alone["trainloss"], rtol=1e-4)


def outputs_of(folder: Path) -> dict[int, Outputs]:
    made = (Outputs.load(p.parent) for p in (folder / "cache" / "outputs").glob("*/outputs.json"))
    found = {len(outputs): outputs for outputs in made if "embedding" in outputs.extra}
    assert sorted(found) == sorted(SIZES.values())
    return found


def test_extraction_fills_one_cache(one: Path, two: Path) -> None:
    alone, shared = outputs_of(one), outputs_of(two)
    for n, expected in alone.items():
        found = shared[n]
        assert found.labels.equal(expected.labels)
        torch.testing.assert_close(found.features, expected.features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            found.extra["embedding"], expected.extra["embedding"], rtol=1e-4, atol=1e-5
        )


def test_a_probe_on_two_processes_is_that_of_one(one: Path, two: Path) -> None:
    alone = np.load(one / "probe0.npy")
    for rank in (0, 1):
        np.testing.assert_allclose(np.load(two / f"probe{rank}.npy"), alone, rtol=1e-2, atol=1e-2)
    counts = [json.loads((two / f"probe{rank}.json").read_text()) for rank in (0, 1)]
    assert sum(map(sum, counts)) == 58, "each training image went through one process"
    assert all(map(sum, counts)), "both took part"
    assert json.loads((one / "probe0.json").read_text()) == [58]


def test_each_image_goes_through_one_process_once(two: Path) -> None:
    counts = [json.loads((two / f"rank{rank}.json").read_text())["counts"] for rank in (0, 1)]
    assert all(len(count) == 2 for count in counts), "what is in the cache is not done again"
    assert [sum(pair) for pair in zip(*counts, strict=True)] == list(SIZES.values())
    assert min(counts[0][0], counts[1][0]) >= 16, "both processes took part"


def test_boxes_on_two_processes_are_those_of_one(one: Path, two: Path) -> None:
    """Each image goes through one process, and each process has all boxes, once."""
    alone = np.load(one / "boxes0.npz")
    about = json.loads((one / "boxes0.json").read_text())
    assert about["counts"] == [20]
    counts = []
    for rank in (0, 1):
        shared = np.load(two / f"boxes{rank}.npz")
        assert shared["image"].tolist() == alone["image"].tolist()
        for name in ("corners", "confidence", "logits", "features"):
            np.testing.assert_allclose(shared[name], alone[name], rtol=1e-3, atol=1e-4)
        told = json.loads((two / f"boxes{rank}.json").read_text())
        assert told["id_map"] == pytest.approx(about["id_map"], abs=1e-9)
        counts += told["counts"]
    assert sorted(counts) == [8, 12], "both took part"


def test_pixels_on_two_processes_are_those_of_one(one: Path, two: Path) -> None:
    """To the last digit: each process scores its share, and what they count is added up."""
    alone = json.loads((one / "pixels0.json").read_text())
    shared = [json.loads((two / f"pixels{rank}.json").read_text()) for rank in (0, 1)]
    assert [alone[most]["passes"] for most in alone] == [23, 23]
    for most, expected in alone.items():
        passes = [found[most]["passes"] for found in shared]
        assert sum(passes) == 23, "each image went through one process"
        assert min(passes) >= 7, "both took part"
        for found in shared:
            for row, known in zip(found[most]["rows"], expected["rows"], strict=True):
                assert row["row_id"] == known["row_id"]
                for name in (*METRICS, "n_id", "n_ood", "id_miou", "auroc_foreground"):
                    assert row[name] == known[name], name
        folders = [folder / f"pictures{most}" for folder in (one, two)]
        drawn = [sorted(str(p.relative_to(f)) for p in f.rglob("*.png")) for f in folders]
        assert drawn[0] == drawn[1] != []


def test_outputs_that_cannot_be_cached_cannot_be_shared(one: Path, two: Path) -> None:
    for rank in (0, 1):
        refused = json.loads((two / f"rank{rank}.json").read_text())["refused"]
        assert "unkeyed" in refused
        assert '`devices="1"`' in refused
    assert json.loads((one / "rank0.json").read_text())["refused"] == ""


def test_command_line_writes_each_row_once(server: Server, tmp_path: Path) -> None:
    """Lightning starts the second process itself, with the words of the first."""
    program = str(Path(sys.executable).with_name("oodbench"))
    words = "eval --detector palm --id digits --recipe quick --epochs 1 --json"
    parallel = "--accelerator cpu --devices 2 --strategy ddp --leaderboards boards"
    folders = {"OODBENCH_CACHE": str(tmp_path / "cache"), "PYTHONWARNINGS": "ignore"}
    calls = [program, *words.split(), *parallel.split()]
    ran = server.ran("program", *calls, folder=tmp_path, env=folders)
    assert ran.status == 0, ran.both

    rows: list[dict[str, Any]] = json.loads(ran.out)["rows"]  # one document, not one per process
    assert [row["ood"] for row in rows] == ["digits-6-9", "photo-patches", "near", "far"]
    assert ResultStore(tmp_path / "boards").rows("digits") == rows
    assert len([*(tmp_path / "boards" / "results" / "digits").iterdir()]) == 2, "and its scores"
    page = (tmp_path / "boards" / "digits.md").read_text()
    assert "palm" in page
    assert not list((tmp_path / "cache").rglob("*.part"))

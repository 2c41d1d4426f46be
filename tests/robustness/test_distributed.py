"""Two processes on the CPU do what one does: the same training, one cache, each row once.

Started as a program, this file is what both processes run.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from oodbench import Benchmark, DatasetSpec, Hardware, Outputs, Preprocess
from oodbench.data.samples import ImageArrays, MultimodalSamples
from oodbench.data.transforms import MultimodalPreprocess
from oodbench.errors import OODBenchError
from oodbench.extract import extract
from oodbench.hardware import barrier, is_first_process
from oodbench.networks.modalities import MultimodalEncoders
from oodbench.outputs import to_numpy
from oodbench.registry import BACKBONES
from oodbench.training.train import Run, plan, train

PREPROCESS = Preprocess(8, (0.3,), (0.4,), mode="L", flip=False)
NPMIX = {"optimizer": "sgd", "start_epoch": 1, "queue_size": 5}
METHODS = (("palm", {}), ("palm", {"labelled": False}), ("ce", {}), ("a2d-npmix", NPMIX))
SIZES = {"many": 37, "few": 3}
"""Test images: ten shards of four, and a single one that leaves the second process idle."""


class Plain(nn.Module):
    """No batch norm, whose statistics are each process's own."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 16
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def samples(n: int, seed: int) -> ImageArrays:
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).uniform(60, 200, (3, 8, 8))
    labels = np.arange(n) % 3
    pixels = np.clip(patterns[labels] + rng.normal(0, 25, (n, 8, 8)), 0, 255).astype(np.uint8)
    return ImageArrays(f"toy/{n}", pixels, labels, ("a", "b", "c"))


class Pairs(MultimodalSamples):
    """Two images of a class."""

    def __init__(self) -> None:
        self.left, self.right = samples(58, 0), samples(58, 1)
        super().__init__("pairs", self.left.labels, self.left.classes, ("left", "right"))

    def __getitem__(self, index: int) -> dict[str, Image.Image]:
        return {"left": self.left[index], "right": self.right[index]}

    def _digests(self) -> np.ndarray:
        return self.left.digests ^ self.right.digests


def runs() -> list[Run]:
    spec = DatasetSpec("toy", lambda _: samples(58, 0), ("train", "test"))
    toy = Benchmark("toy", spec, (), (), PREPROCESS, backbone="plain")
    pairs = Benchmark(
        "pairs",
        DatasetSpec("pairs", lambda _: Pairs(), ("train", "test")),
        (),
        (),
        MultimodalPreprocess({"left": PREPROCESS, "right": PREPROCESS}),
        backbone="plain-pair",
    )
    common = {"epochs": 2, "batch_size": 16, "lr": 0.1, "prototypes_per_class": 3, "topk": 2}
    made = []
    for method, own in METHODS:
        fields = {k: v for k, v in common.items() if method == "palm" or k not in PALM_ONLY}
        benchmark = pairs if "npmix" in method else toy
        made.append(plan(benchmark, method, recipe="quick", overrides={**fields, **own}))
    return made


PALM_ONLY = ("prototypes_per_class", "topk")


def probed(folder: Path, hardware: Hardware) -> None:
    """A linear probe on a frozen network, whose outputs the processes share out."""
    import timm

    torch.manual_seed(0)
    path = folder / "frozen.pt"
    if is_first_process():
        torch.save(timm.create_model("test_resnet").state_dict(), path)
    barrier()
    spec = DatasetSpec("toy", lambda _: samples(58, 0), ("train", "test"))
    toy = Benchmark("toy/frozen", spec, (), (), PREPROCESS)
    run = plan(
        toy,
        "linear-probe",
        backbone="test_resnet",
        checkpoint=path,
        overrides={"input_size": 32, "layers": 0},
    )
    counts: list[int] = []
    method = train(run, hardware, on_forward=counts.append)
    own = run.encoder
    assert own is not None
    outputs = extract(method, samples(21, 1), own.own_preprocess, hardware=hardware)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    np.save(folder / f"probe{rank}.npy", to_numpy(outputs.logits))
    (folder / f"probe{rank}.json").write_text(json.dumps(counts))


def unkeyed(image: Image.Image) -> Tensor:
    return PREPROCESS(image)


def main(devices: int, folder: Path) -> None:
    """Train, extract, extract again; each process notes how much went through its network."""
    BACKBONES.register("plain")(lambda channels: Plain())
    BACKBONES.register("plain-pair")(
        lambda channels: MultimodalEncoders({name: Plain() for name in channels})
    )
    strategy = "ddp" if devices > 1 else "auto"
    hardware = Hardware("cpu", str(devices), strategy, batch_size=4)
    networks = [train(run, hardware) for run in runs()]
    counts: list[int] = []
    for n in (*SIZES.values(), *SIZES.values()):
        extract(networks[0], samples(n, 1), PREPROCESS, hardware=hardware, on_forward=counts.append)
    refused = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            extract(networks[0], samples(9, 2), unkeyed, hardware=hardware)
    except OODBenchError as error:
        refused = str(error)
    with another_cache(folder):
        probed(folder, hardware)
    rank = torch.distributed.get_rank() if devices > 1 else 0
    assert is_first_process() == (rank == 0)
    (folder / f"rank{rank}.json").write_text(json.dumps({"counts": counts, "refused": refused}))


@contextlib.contextmanager
def another_cache(folder: Path) -> Iterator[None]:
    """So that what the tests count in the first one stays what it is."""
    before = os.environ["OODBENCH_CACHE"]
    os.environ["OODBENCH_CACHE"] = str(folder / "probe-cache")
    try:
        yield
    finally:
        os.environ["OODBENCH_CACHE"] = before


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made."""
    folder = tmp_path_factory.mktemp("two")
    run_program([sys.executable, __file__, "2", str(folder)], folder)
    return folder


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
    return folder


def run_program(words: list[str], folder: Path) -> str:
    finished = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=folder,
        env={
            **os.environ,
            "OODBENCH_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        },
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return finished.stdout


@pytest.mark.parametrize(
    "number", range(len(METHODS)), ids=["palm", "palm unlabelled", "ce", "npmix"]
)
def test_training_equals_that_of_one_process(number: int, one: Path, two: Path) -> None:
    """Prototypes and weights are those of the whole batch, not of a process's share."""
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
    found = {len(outputs): outputs for outputs in made}
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


def test_outputs_that_cannot_be_cached_cannot_be_shared(one: Path, two: Path) -> None:
    for rank in (0, 1):
        refused = json.loads((two / f"rank{rank}.json").read_text())["refused"]
        assert "unkeyed" in refused
        assert '`devices="1"`' in refused
    assert json.loads((one / "rank0.json").read_text())["refused"] == ""


def test_command_line_writes_each_row_once(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("oodbench")
    words = "eval --detector palm --id digits --recipe quick --epochs 2 --json"
    parallel = "--accelerator cpu --devices 2 --strategy ddp --leaderboards boards"
    printed = run_program([str(program), *words.split(), *parallel.split()], tmp_path)

    rows: list[dict[str, Any]] = json.loads(printed)["rows"]  # one document, not one a process
    assert [row["ood"] for row in rows] == ["digits-6-9", "photo-patches", "near", "far"]
    stored = (tmp_path / "boards" / "results" / "digits.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in stored] == rows
    page = (tmp_path / "boards" / "digits.md").read_text()
    assert "palm" in page
    assert not list((tmp_path / "cache").rglob("*.part"))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

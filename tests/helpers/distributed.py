"""Trainings that one process or two can do, and how a program of them is run."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from oodbench import (
    Benchmark,
    Contender,
    DatasetSpec,
    Evaluator,
    Hardware,
    Preprocess,
    create_detector,
)
from oodbench.caching.fingerprint import code_digest
from oodbench.data.samples import ImageArrays, MultimodalSamples
from oodbench.data.transforms import MultimodalPreprocess
from oodbench.datasets.scenes import SceneMasks, scenes
from oodbench.detectors.abet import AbeTSegmentation
from oodbench.detectors.ce_detection import CEDetection
from oodbench.errors import OODBenchError
from oodbench.extract import extract
from oodbench.hardware import barrier, is_first_process, rank_and_world
from oodbench.method import Recipe
from oodbench.networks.backbones import create_backbone
from oodbench.networks.modalities import MultimodalEncoders
from oodbench.outputs import to_numpy
from oodbench.registry import BACKBONES
from oodbench.registry import METHODS as METHOD_CLASSES
from oodbench.tasks import segmentation
from oodbench.training.run import Run, plan
from oodbench.training.train import train
from tests.helpers.boxes import at_work, few_scenes, untrained

PREPROCESS = Preprocess(8, (0.3,), (0.4,), mode="L", flip=False)
SCENES = Preprocess(64, (0.4,), (0.2,), mode="L", flip=False)
NPMIX = {"optimizer": "sgd", "start_epoch": 1, "queue_size": 5}
VOS = {"start_epoch": 1, "queue_size": 5, "sample_from": 40, "select": 3}
NPOS = {**VOS, "k": 3, "pick_nums": 2, "per_point": 4}
METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("palm", {}),
    ("palm", {"labelled": False}),
    ("ce", {}),
    ("a2d-npmix", NPMIX),
    ("cider", {}),
    ("supcon", {}),
    ("vos", VOS),
    ("npos", NPOS),
    ("abet", {}),
    ("palm", {"backbone": "normed"}),
)
SIZES = {"many": 37, "few": 3}
"""Test images: ten shards of four, and a single one that leaves the second process idle."""


class Plain(nn.Module):
    """Layers without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 16
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Normed(Plain):
    """Batch norm on maps and on features, one of them with an activation inside, as timm has it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2),
            BatchNormAct2d(4),
            nn.Flatten(),
            nn.Linear(36, 16),
            nn.BatchNorm1d(16),
        )


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
    with registered():
        return _planned(toy, pairs)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """The backbones of this module are known in the block, where they are not already."""
    own = {
        "plain": lambda channels: Plain(),
        "normed": lambda channels: Normed(),
        "plain-pair": lambda channels: MultimodalEncoders({name: Plain() for name in channels}),
    }
    new = {name: make for name, make in own.items() if name not in BACKBONES}
    for name, make in new.items():
        BACKBONES.register(name)(make)
    try:
        yield
    finally:
        for name in new:
            BACKBONES._objects.pop(name)


def _planned(toy: Benchmark, pairs: Benchmark) -> list[Run]:
    common = {"epochs": 2, "batch_size": 16, "lr": 0.1, "prototypes_per_class": 3, "topk": 2}
    made = []
    for method, own in METHODS:
        fields = {k: v for k, v in common.items() if method == "palm" or k not in PALM_ONLY}
        benchmark = pairs if "npmix" in method else toy
        backbone = own.get("backbone")
        fields |= {name: value for name, value in own.items() if name != "backbone"}
        made.append(plan(benchmark, method, backbone=backbone, recipe="quick", overrides=fields))
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


def boxes_found(folder: Path, hardware: Hardware) -> None:
    """The boxes on images that the processes share out, and how right they are."""
    counts: list[int] = []
    runner = at_work(untrained(CEDetection), counter=counts.append, hardware=hardware)
    seen = runner.outputs_of(few_scenes(20))
    boxes = seen.outputs
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    about = {"counts": counts, "id_map": runner.quality(seen)["id_map"]}
    (folder / f"boxes{rank}.json").write_text(json.dumps(about))
    columns = {name: to_numpy(value) for name, value in boxes.columns()}
    np.savez(folder / f"boxes{rank}.npz", **columns)  # type: ignore[arg-type]


def pixels_scored(folder: Path, hardware: Hardware) -> None:
    """Pixels of images that the processes share out, where maps are kept and where they are not."""

    def spec(name: str, content: Any, n: int) -> DatasetSpec:
        samples = SceneMasks(name, scenes("test", content)[:n])
        return DatasetSpec(name, lambda _: samples, ("train", "test"))

    benchmark = Benchmark(
        "toy/pixels",
        spec("toy", "id", 10),
        (spec("scenes-near", "id+near", 13),),
        (),
        SCENES,
        task="segmentation",
        task_options={"background": ("background",)},
    )
    torch.manual_seed(0)
    network = AbeTSegmentation(create_backbone("scenes-unet", 1), 7, Recipe()).eval()
    made = {}
    for most in (segmentation.MOST_KEPT, 1000):
        kept, segmentation.MOST_KEPT = segmentation.MOST_KEPT, most
        evaluator = Evaluator(benchmark, hardware=hardware, pictures=folder / f"pictures{most}")
        detectors = [create_detector("msp"), create_detector("abet")]
        rows = evaluator.run(Contender(network, preprocess="benchmark"), detectors)
        segmentation.MOST_KEPT = kept
        made[str(most)] = {"rows": list(rows), "passes": evaluator.forward_passes}
    rank, _ = rank_and_world()
    (folder / f"pixels{rank}.json").write_text(json.dumps(made, default=str))


def unkeyed(image: Image.Image) -> Tensor:
    return PREPROCESS(image)


def main(devices: int, folder: Path) -> None:
    """Train, extract, extract again; each process notes how much went through its network."""
    with registered():
        _main(devices, folder)


def _main(devices: int, folder: Path) -> None:
    strategy = "ddp" if devices > 1 else "auto"
    hardware = Hardware("cpu", str(devices), strategy, batch_size=4)
    networks = [train(run, hardware) for run in runs()]
    counts: list[int] = []
    for n in (*SIZES.values(), *SIZES.values()):
        extract(networks[0], samples(n, 1), PREPROCESS, hardware=hardware, on_forward=counts.append)
    boxes_found(folder, hardware)
    pixels_scored(folder, hardware)
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


def be_one_of_two(rank: int, port: int) -> None:
    """Be one of two processes that somebody else starts, as torchrun does."""
    signal.alarm(900)  # one that died would leave the other waiting for half an hour
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ.update(TORCHELASTIC_RUN_ID="tests")
    warnings.simplefilter("ignore")


def shared(rank: int, port: int, folder: str) -> None:
    """Do what :func:`main` does in one of two processes."""
    be_one_of_two(rank, port)
    main(2, Path(folder))


@functools.cache
def _prepared() -> None:
    """Scenes are drawn, and what methods are made of is read, once for both processes."""
    for content in ("id", "id+near"):
        scenes("test", content)
    for name in {name for name, _ in METHODS} | {"linear-probe"}:
        code_digest(METHOD_CLASSES.get(name))


shared.before = _prepared  # type: ignore[attr-defined]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number

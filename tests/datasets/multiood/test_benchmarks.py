"""MultiOOD's benchmarks, from videos to rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

import oodbench
from oodbench import Benchmark, files
from oodbench.data.clips import ClipPreprocess
from oodbench.data.transforms import MultimodalPreprocess
from oodbench.datasets.multiood import benchmarks
from oodbench.datasets.multiood.prepare import prepare
from tests.helpers.multiood import BENCHMARKS, publish, sets_of
from tests.helpers.publisher import Publisher
from tests.helpers.video import write_clip

av = pytest.importorskip("av")
pytest.importorskip("soundfile")


@pytest.mark.parametrize("make", BENCHMARKS)
def test_benchmarks(make: Callable[[], Benchmark]) -> None:
    benchmark = make()
    group = "near" if "-" in benchmark.name or benchmark.name == "ucf101" else "far"
    assert {ood.group for ood in benchmark.ood} == {group}
    assert len(benchmark.ood) == (1 if group == "near" else 4)
    assert (benchmark.protocol.rank_group, benchmark.protocol.fpr) == (group, "fpr95_ood")
    assert benchmark.id.splits == ("train", "val", "test")
    assert all(ood.spec.splits[-1] == "test" for ood in benchmark.ood)
    modalities = ", ".join(benchmark.preprocess.modalities)  # type: ignore[union-attr]
    assert all(spec.description.endswith(f"; {modalities}") for spec in sets_of(benchmark))
    for spec in sets_of(benchmark):
        assert spec.name.startswith("multiood-") == (modalities != "video")
        assert spec.name.endswith("-audio") == ("audio" in modalities)
        assert spec.source
        assert spec.licence
        assert spec.citation


def small() -> MultimodalPreprocess:
    """The benchmarks' preprocessing but for the sizes: at its own it takes 20 times as long."""
    clips = ClipPreprocess(4, 2, 32, (0.5,) * 3, (0.5,) * 3)
    flow = dataclasses.replace(clips, mean=(0.5,) * 2, std=(0.5,) * 2)
    return MultimodalPreprocess({"video": clips, "flow": flow})


def test_an_evaluation(base: Path, put: Any) -> None:
    pytest.importorskip("oodbench.networks.clips")
    count = 0

    def lines(label: int, clips: int) -> list[str]:
        nonlocal count
        found = []
        for _ in range(clips):
            count += 1
            write_clip(base / f"HMDB51/video/c{label}/{count}.avi", 9, seed=count)
            for part in "xy":
                write_clip(base / f"HMDB51/flow/{count}_flow_{part}.mp4", 8, seed=count)
            found.append(f"c{label}/{count}.avi {label}")
        return found

    for split in ("train", "val", "test"):
        put(f"HMDB_{split}_near_ood.txt", lines(0, 2) + lines(1, 2))
    put("HMDB_eval_near_ood.txt", lines(2, 3))
    results = oodbench.evaluate(
        benchmark=dataclasses.replace(benchmarks.near_hmdb(), preprocess=small()),
        detectors=["msp", "modality-discrepancy"],
        method="a2d-npmix",
        recipe="quick",
        recipe_options={"epochs": 1, "start_epoch": 0, "queue_size": 2, "batch_size": 2},
        hardware=oodbench.Hardware(accelerator="cpu", devices="1", workers=0),
    )
    assert not results.missing
    rows = {(row["detector"], row["ood"]): row for row in results}
    assert (rows["msp", "multiood-hmdb51-26"]["n_id"]) == 4
    assert (rows["modality-discrepancy", "near"]["n_ood"]) == 3


class GlobalShift(nn.Module):
    """The flow of a camera that moves, by phase correlation."""

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        spectra = [torch.fft.fft2(images.mean(dim=1)) for images in (one, two)]
        cross = spectra[1] * spectra[0].conj()
        peaks = torch.fft.ifft2(cross / cross.abs().clamp(min=1e-6)).real.flatten(1).argmax(dim=1)
        height, width = one.shape[2:]
        y, x = peaks // width, peaks % width
        y, x = (torch.where(v > side // 2, v - side, v) for v, side in ((y, height), (x, width)))
        return torch.stack([x, y], dim=1).float()[:, :, None, None].expand(-1, -1, height, width)


def write_motion(path: Path, step: tuple[int, int], seed: int, frames: int = 10) -> None:
    """A camera that moves over a photograph, by ``step`` pixels (x, y) a frame."""
    whole = load_sample_images().images[seed % 2]
    rng = np.random.default_rng(seed)
    top, left = rng.integers(100, 150), rng.integers(150, 250)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = (
            192,
            128,
            "yuv420p",
            2_000_000,
        )
        for i in range(frames):
            y, x = top - i * step[1], left - i * step[0]
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(whole[y : y + 128, x : x + 192]), format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_from_videos_to_rows(
    base: Path, published: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Videos are prepared, trained on for an epoch and scored; their motion tells the class."""
    steps, number = [(5, 0), (0, 5), (-5, 0)], 0
    for split, labels in (("train", 2), ("val", 2), ("test", 2), ("eval", 3)):
        lines = []
        for label in range(2 if split == "eval" else 0, labels):
            for _ in range(3):
                number += 1
                write_motion(base / f"HMDB51/video/c{label}/v{number}.avi", steps[label], number)
                lines.append(f"c{label}/v{number}.avi {label}")
        name, content = f"HMDB_{split}_near_ood.txt", "\n".join(lines).encode()
        publish(published, monkeypatch, name, content)
    missing = prepare(files.data_dir(), flow=GlobalShift())
    assert (missing["HMDB51 video"], missing["HMDB51 flow"]) == (1, 2)  # that of the other lists
    benchmark = benchmarks.near_hmdb()
    flow = benchmark.id.load("train")[0]["flow"].frames([4])  # type: ignore[index]
    assert abs(float(flow[..., 0].mean()) - (128 + 5 * 255 / 40)) < 3
    assert abs(float(flow[..., 1].mean()) - 128) < 3
    own = benchmark.preprocess(benchmark.id.load("test")[0])
    assert {name: part.shape[0] for name, part in own.items()} == {"video": 3, "flow": 2}
    assert min(min(part.shape[2:]) for part in own.values()) >= 224
    results = oodbench.evaluate(
        benchmark=dataclasses.replace(benchmark, preprocess=small()),
        detectors=["msp", "energy", "knn", "modality-discrepancy"],
        method="a2d-npmix",
        recipe="quick",
        recipe_options={"epochs": 1, "start_epoch": 0, "queue_size": 2, "batch_size": 3},
        hardware=oodbench.Hardware(accelerator="cpu", devices="1", workers=0),
    )
    assert not results.missing
    assert set(results.failures) == {"knn"}  # fewer training clips than neighbours
    assert {(row["n_id"], row["n_ood"]) for row in results} == {(6, 3)}

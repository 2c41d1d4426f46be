"""Shifted sets: the ID classes under other conditions, told from ID but not ranked as OOD."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import oodbench
from oodbench import Hardware
from oodbench.benchmark import Benchmark, Protocol, get_benchmark
from oodbench.data.samples import ImageArrays
from oodbench.dataset import DatasetSpec
from oodbench.errors import DataError, OptionError
from oodbench.metrics import auroc
from oodbench.results.compare import table
from oodbench.results.leaderboard import render
from oodbench.results.store import ResultStore

CPU = Hardware(accelerator="cpu", devices="1", workers=0)
DIGITS = get_benchmark("digits")


def darker(share: float) -> DatasetSpec:
    """The test digits, each pixel at that share of its value, and a third of them only."""

    def load(split: str) -> ImageArrays:
        test = DIGITS.id.load("test")
        images = np.stack([np.asarray(test[i]) for i in range(0, len(test), 3)])
        dimmed = (images * share).astype(np.uint8)
        return ImageArrays(f"dark-{share}/{split}", dimmed, test.labels[::3], test.classes)

    return DatasetSpec(f"dark-{share}", load)


def shifted(*sets: DatasetSpec) -> Benchmark:
    return replace(DIGITS, name="digits-shifted", far=(), shifted=sets)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6)).eval()


def predictions(spec: DatasetSpec) -> tuple[np.ndarray, np.ndarray]:
    samples = spec.load("test")
    pixels = np.stack([np.asarray(samples[i]) for i in range(len(samples))]) / 255
    images = torch.tensor((pixels - 0.304) / 0.377, dtype=torch.float32)[:, None]
    with torch.no_grad():
        return network()(images).softmax(dim=1).numpy(), samples.labels


def test_rows_tell_auroc_and_accuracy_of_each_set_and_of_their_mean() -> None:
    benchmark = shifted(darker(0.5), darker(0.25))
    results = oodbench.evaluate(
        network(), benchmark=benchmark, detectors=["msp", "energy"], hardware=CPU
    )
    rows = {(row["detector"], row["ood"]): row for row in results}
    right = []
    on_id, _ = predictions(DIGITS.id)
    for spec in benchmark.shifted:
        p, labels = predictions(spec)
        right.append(float((p.argmax(axis=1) == labels).mean()))
        row = rows["msp", spec.name]
        assert row["group"] == "shifted"
        assert row["shifted_accuracy"] == pytest.approx(right[-1], abs=1e-9)
        expected = auroc(-on_id.max(axis=1), -p.max(axis=1))
        assert row["auroc"] == pytest.approx(expected, abs=1e-6)
        assert rows["energy", spec.name]["shifted_accuracy"] == row["shifted_accuracy"]
    mean = rows["msp", "shifted"]
    assert mean["is_mean"]
    assert mean["shifted_accuracy"] == pytest.approx(sum(right) / 2)
    others = [row for row in results if row["group"] != "shifted"]
    assert others
    assert all(row["shifted_accuracy"] is None for row in others)


def test_pages_and_tables_show_them_and_rank_by_ood(tmp_path: object) -> None:
    benchmark = shifted(darker(0.5))
    detectors = ["msp", "energy", "maxlogit"]
    results = oodbench.evaluate(
        network(),
        benchmark=benchmark,
        detectors=detectors,
        hardware=CPU,
        leaderboards=str(tmp_path),
    )
    stored = ResultStore(str(tmp_path)).rows(benchmark.name)
    assert [row["shifted_accuracy"] for row in stored] == [r["shifted_accuracy"] for r in results]
    page = render(benchmark, stored)
    assert "## near, shifted" in page
    assert "nothing is ranked by them" in page
    assert "| ID accuracy | shifted accuracy | Seeds |" in page
    near = {r["detector"]: r["auroc"] for r in results if r["ood"] == "near"}
    ranked = sorted(detectors, key=lambda name: -near[name])
    first = page.index("| # | Detector |")
    lines = page[first:].splitlines()[2:5]
    assert [line.split("|")[2].strip().split()[0] for line in lines] == ranked
    header, cells = table(results, benchmark)
    assert "shifted accuracy" in header
    assert len({len(header), *map(len, cells)}) == 1


def test_a_benchmark_without_them_has_no_such_words() -> None:
    results = oodbench.evaluate(network(), benchmark=DIGITS, detectors="msp", hardware=CPU)
    assert "hifted" not in render(DIGITS, list(results))


def test_a_set_of_other_classes_is_no_shifted_one() -> None:
    with pytest.raises(DataError, match="have different classes"):
        oodbench.evaluate(
            network(), benchmark=DIGITS, ood=["shifted=digits-6-9"], detectors="msp", hardware=CPU
        )


def test_pixels_and_boxes_have_none() -> None:
    for name in ("scenes/segmentation", "scenes/detection"):
        scenes = get_benchmark(name)
        with pytest.raises(OptionError, match="where whole samples are classified"):
            oodbench.evaluate(
                network(),
                benchmark=scenes,
                ood=[f"shifted={scenes.near[0].name}"],
                detectors="msp",
                hardware=CPU,
            )


def test_nothing_is_ranked_by_them() -> None:
    with pytest.raises(OptionError, match="not ranked by them"):
        replace(shifted(darker(0.5)), protocol=Protocol(rank_group="shifted"))

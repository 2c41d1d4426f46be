"""Several networks in one pass: what each says is what it says alone, and images are read once."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import oodbench
from oodbench import Benchmark, DatasetSpec, Hardware, together
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.errors import BadScoresError, DataError, OODBenchError
from oodbench.extract import extract, extracted
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from oodbench.together import extract_together
from tests.helpers.images import CPU, GREY, arrays
from tests.helpers.networks import Counter as Seen


class Read(ImageArrays):
    """Counts how often each image is decoded."""

    def __init__(self, n: int = 21, name: str = "toy/test", seed: int = 0) -> None:
        base = arrays(n, seed, name)
        super().__init__(base.name, base.images, base.labels, base.classes)
        self.read: Counter[int] = Counter()

    def __getitem__(self, index: int) -> Image.Image:
        self.read[index] += 1
        return super().__getitem__(index)


def network(seed: int) -> HeadedBackbone:
    torch.manual_seed(seed)
    return HeadedBackbone(create_backbone("digits-cnn", 1), 3).eval()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))


def test_each_image_is_decoded_once_and_each_network_says_what_it_says_alone() -> None:
    networks, samples, seen = [network(i) for i in range(3)], Read(), Seen()
    count = extract_together(networks, samples, GREY, hardware=CPU, on_forward=seen)
    assert count == 3
    assert set(samples.read.values()) == {1}
    assert len(samples.read) == len(samples)
    assert seen.n == 3 * len(samples)
    together_ = [extract(one, samples, GREY, hardware=CPU, on_forward=seen) for one in networks]
    assert seen.n == 3 * len(samples)  # from the cache
    assert set(samples.read.values()) == {1}
    for one, outputs in zip(networks, together_, strict=True):
        with torch.inference_mode():
            expected = one.outputs(torch.stack([GREY(samples[i]) for i in range(len(samples))]))
        torch.testing.assert_close(outputs.logits, expected["logits"])
        torch.testing.assert_close(outputs.features, expected["features"])
        assert outputs.head is not None
    assert not torch.equal(together_[0].logits, together_[1].logits)


def test_what_is_cached_or_alone_is_left_out() -> None:
    networks, samples = [network(i) for i in range(3)], Read()
    extract(networks[0], samples, GREY, hardware=CPU)
    assert extract_together(networks[:2], samples, GREY, hardware=CPU) == 0
    assert extract_together([networks[1]], samples, GREY, hardware=CPU) == 0
    assert extract_together(networks, samples, GREY, hardware=CPU) == 2
    assert extract_together(networks, samples, GREY, hardware=CPU) == 0
    assert set(samples.read.values()) == {2}  # alone, and together


def test_a_pass_that_was_begun_goes_on_with_what_each_network_misses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    networks, samples = [network(i) for i in range(2)], Read(24)
    step = together.JointPass.predict_step

    def stops(self: Any, batch: Any) -> None:
        if int(batch[1][0]) == 8:
            raise KeyboardInterrupt
        step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(together.JointPass, "predict_step", stops)
        with pytest.raises(KeyboardInterrupt):
            extract_together(networks, samples, GREY, hardware=CPU)
    samples.read.clear()
    assert extract_together(networks, samples, GREY, hardware=CPU) == 2
    assert 0 not in samples.read  # the first shard was done
    assert set(samples.read.values()) == {1}


class Diverged(HeadedBackbone):
    """Gives NaN."""

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {name: value * torch.nan for name, value in super().outputs(images).items()}


def test_a_network_that_fails_does_not_lose_the_others() -> None:
    bad = Diverged(create_backbone("digits-cnn", 1), 3).eval()
    good, samples = [network(0), network(1)], Read()
    assert extract_together([good[0], bad, good[1]], samples, GREY, hardware=CPU) == 2
    for one in good:
        assert extracted(one, samples, GREY, hardware=CPU) is not None
    assert extracted(bad, samples, GREY, hardware=CPU) is None
    with pytest.raises(BadScoresError, match="NaN or infinite"):
        extract(bad, samples, GREY, hardware=CPU)


class Unreadable(Read):
    """One of its images cannot be read."""

    def __getitem__(self, index: int) -> Image.Image:
        if index == 3:
            raise DataError("toy: image 3 is damaged")
        return super().__getitem__(index)


def test_an_image_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(DataError, match="image 3"):
        extract_together([network(0), network(1)], Unreadable(), GREY, hardware=CPU)


# Evaluations of several networks


def colours(name: str, n: int, seed: int) -> Read:
    made = Read(n, name, seed)
    rng = np.random.default_rng(seed)
    made.images = rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    return made


def benchmark(sets: dict[str, Read]) -> Benchmark:
    spec = DatasetSpec("toy", lambda split: sets[split], ("train", "test"))
    ood = DatasetSpec("noise", lambda _: sets["noise"])
    return Benchmark("toy/several", spec, (), (ood,), Preprocess(16, (0.5,) * 3, (0.25,) * 3))


def checkpoints(folder: Path, n: int) -> list[str]:
    from safetensors.torch import save_file

    names = []
    for seed in range(n):
        torch.manual_seed(seed)
        made = HeadedBackbone(create_backbone("digits-cnn", 3), 3)
        save_file(made.state_dict(), folder / f"{seed}.safetensors")
        names.append(f"digits-cnn@{folder / f'{seed}.safetensors'}")
    return names


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "created", "row_id")} for row in rows
    ]


def test_an_evaluation_of_several_networks_decodes_each_image_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {name: colours(name, n, n) for name, n in (("train", 30), ("test", 21), ("noise", 15))}
    names, lines = checkpoints(tmp_path, 3), []
    options: dict[str, Any] = {
        "benchmark": benchmark(sets),
        "detectors": ["msp", "knn"],
        "preprocess": "benchmark",
        "hardware": Hardware("cpu", "1", batch_size=8),
    }
    results = oodbench.evaluate(backbone=names, report=lines.append, **options)
    assert len([line for line in lines if "3 networks saw" in line]) == 3
    for one in sets.values():
        assert set(one.read.values()) == {1}, one.name
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "another"))
    alone = oodbench.Results()
    for name in names:
        backbone, _, file = name.partition("@")
        alone += oodbench.evaluate(backbone=backbone, checkpoint=file, **options)
    assert without_times(results.rows) == without_times(alone.rows)
    assert len({row["weights"] for row in results.rows}) == 3


def test_an_image_that_cannot_be_read_is_told_by_the_evaluation(tmp_path: Path) -> None:
    sets = {name: colours(name, n, n) for name, n in (("train", 30), ("test", 21))}
    damaged = Unreadable(15, "noise", 15)
    damaged.images = colours("noise", 15, 15).images
    lines: list[str] = []
    with pytest.raises(OODBenchError, match="image 3 is damaged"):
        oodbench.evaluate(
            backbone=checkpoints(tmp_path, 2),
            benchmark=benchmark({**sets, "noise": damaged}),
            detectors="msp",
            preprocess="benchmark",
            hardware=Hardware("cpu", "1", batch_size=8),
            report=lines.append,
        )
    told = [line for line in lines if "is not seen by the networks together" in line]
    assert told == ["noise is not seen by the networks together: toy: image 3 is damaged"]


def test_seeds_whose_training_is_in_the_cache_see_images_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a detector is fitted on is among them, be it another split than ``train``."""
    sets = {name: colours(name, n, n) for name, n in (("train", 30), ("test", 21), ("val", 12))}
    sets["noise"] = colours("noise", 15, 15)
    spec = DatasetSpec("toy", lambda split: sets[split], ("train", "val", "test"))
    toy = replace(benchmark(sets), id=spec)
    options: dict[str, Any] = {
        "benchmark": toy,
        "detectors": ["msp", "vra", oodbench.create_detector("tempscale", fit_split="val")],
        "backbone": ["digits-cnn", "resnet20"],
        "recipe": "quick",
        "recipe_options": {"epochs": 1, "batch_size": 16},
        "seed": [0, 1],
        "hardware": Hardware("cpu", "1", batch_size=8),
    }
    lines: list[str] = []
    before = oodbench.evaluate(report=lines.append, **options)
    assert not [line for line in lines if "networks saw" in line], "they are to be trained first"
    shutil.rmtree(tmp_path / "cache" / "outputs")
    for one in sets.values():
        one.read.clear()
    again = oodbench.evaluate(report=lines.append, **options)
    seen = {line.split()[3] for line in lines if line.startswith("4 networks saw")}
    assert seen == {"train", "test", "val", "noise"}
    for name in seen:
        assert set(sets[name].read.values()) == {1}, name
    assert without_times(again.rows) == without_times(before.rows)

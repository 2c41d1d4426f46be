"""Video, flow and sound in one network: trained, evaluated, extracted; on clips of many kinds."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from torch import Tensor, nn

import oodbench
from oodbench import Benchmark, Hardware, Head, files
from oodbench.data.audio import AudioFile, Waveform
from oodbench.data.clips import ClipPreprocess
from oodbench.data.spectrograms import LogSpectrogram
from oodbench.data.transforms import MultimodalPreprocess
from oodbench.data.video import VideoFile
from oodbench.datasets.multiood.benchmarks import near_kinetics_audio
from oodbench.datasets.multiood.derive import extract_audio, write_flow
from oodbench.datasets.multiood.layouts import FOLDER, LAYOUTS
from oodbench.datasets.multiood.splits import SPLIT_FILES, read_split, split_path
from oodbench.errors import DataError, OODBenchWarning
from oodbench.extract import CLIPS, extract
from oodbench.networks.backbones import create_backbone
from oodbench.networks.clips import NETWORKS, ClipEncoder
from oodbench.networks.modalities import MultimodalClassifier, MultimodalEncoders
from oodbench.registry import BACKBONES
from tests.conftest import SHARED
from tests.helpers.video import write_clip
from tests.helpers.video import write_video as record

av = pytest.importorskip("av")
pytest.importorskip("soundfile")

CPU = Hardware(accelerator="cpu", devices="1", workers=0)
METHODS = ("multimodal-ce", "a2d", "npmix", "a2d-npmix")
SPLITS = {"train": 2, "val": 1, "test": 2}
"""Clips a class of each split."""


class Brighter(nn.Module):
    """What a test takes for flow: how much brighter a pixel became, rightwards and downwards."""

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        change = (two - one).mean(dim=1, keepdim=True)
        return torch.cat([10 * change, -5 * change], dim=1)


def small(size: int = 32, frames: int = 4) -> MultimodalPreprocess:
    """The benchmark's preprocessing, but for the sizes."""
    half = (0.5,) * 3
    return MultimodalPreprocess(
        {
            "video": ClipPreprocess(frames, 2, size, half, half),
            "audio": LogSpectrogram(seconds=0.5),
            "flow": ClipPreprocess(frames, 2, size, half[:2], half[:2]),
        }
    )


def lay_out(
    clips: Mapping[str, list[Path]], ood: list[Path], monkeypatch: pytest.MonkeyPatch
) -> Benchmark:
    """Clips by class where MultiOOD has Kinetics-600's, with their sound.

    Flow is that of the first frames, which saves most of the time.
    """
    base = files.data_dir() / FOLDER
    lists: dict[str, list[str]] = {split: [] for split in (*SPLITS, "eval")}
    for label, (name, paths) in enumerate({**clips, "other": ood}.items()):
        known = [split for split, count in SPLITS.items() for _ in range(count)]
        splits = ["eval"] * len(ood) if name == "other" else known
        for path, split in zip(paths, splits, strict=True):
            lists[split].append(f"{name}/{path.stem}.mp4 {label}")
    for split, lines in lists.items():
        file = f"Kinetics_{split}_near_ood.txt"
        content = "\n".join(lines).encode()
        monkeypatch.setitem(SPLIT_FILES, file, hashlib.sha256(content).hexdigest())
        (base / split_path(file)).parent.mkdir(parents=True, exist_ok=True)
        (base / split_path(file)).write_bytes(content)
        for source, clip in zip(
            [p for p in chain(*clips.values(), ood) if f"/{p.stem}." in content.decode()],
            read_split(base, file),
            strict=True,
        ):
            ((video,), (sound,), flow) = (
                [base / part for part in LAYOUTS["kinetics600"].paths(base, clip, modality)]
                for modality in ("video", "audio", "flow")
            )
            video.parent.mkdir(parents=True, exist_ok=True)
            video.write_bytes(source.read_bytes())
            extract_audio(video, sound)
            count = min(VideoFile(video).frame_count, 8)
            start = record(base / "start.mp4", list(VideoFile(video).frames(range(count))))
            write_flow(start, *flow, Brighter())
    return replace(near_kinetics_audio(), preprocess=small())


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Clips of noise, some mono and some stereo: the data folder, and the digests of its lists."""
    root = tmp_path_factory.mktemp("noise")
    count = sum(SPLITS.values())
    paths = [
        write_clip(root / f"{i}.mp4", 6 + i, channels=1 + i % 2, seed=i)
        for i in range(2 * count + 2)
    ]
    clips = {"a": paths[:count], "b": paths[count : 2 * count]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_DATA", str(root / "data"))
        lay_out(clips, paths[2 * count :], patch)
        return root / "data", dict(SPLIT_FILES)


@pytest.fixture
def made(noise: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """The benchmark of these clips, which no test changes."""
    folder, digests = noise
    monkeypatch.setenv("OODBENCH_DATA", str(folder))
    for file, digest in digests.items():
        monkeypatch.setitem(SPLIT_FILES, file, digest)
    return replace(near_kinetics_audio(), preprocess=small())


REAL = {
    "fight": ("fi083", "fi119", "fi025", "fi046", "fi066"),
    "noFight": ("nofi102", "nofi104", "nofi013", "nofi094", "nofi035"),
}
"""Of the surveillance clips, some with mono and some with stereo sound, 20 to 60 frames."""


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """Surveillance clips; from Kinetics those that are OOD."""
    for name in ("surveillance", "clips"):
        if not (SHARED / "data" / f"{name}.zip").is_file():
            pytest.skip("the folder with real data is not at hand")
        with zipfile.ZipFile(SHARED / "data" / f"{name}.zip") as archive:
            archive.extractall(tmp_path)
    clips = {
        name: [tmp_path / "surveillance" / name / f"{clip}.mp4" for clip in names]
        for name, names in REAL.items()
    }
    other = [tmp_path / "surveillance/noFight/nofi025.mp4", *(tmp_path / "clips").rglob("SOX*.mp4")]
    return lay_out(clips, other, monkeypatch)


def evaluated(
    benchmark: Benchmark, method: str, backbone: str | None = None, **options: Any
) -> list[Any]:
    """Rows of an evaluation after one epoch, checked for what every such evaluation has."""
    npmix = {"start_epoch": 0, "queue_size": 2} if "npmix" in method else {}
    results = oodbench.evaluate(
        benchmark=benchmark,
        detectors=["msp", "mahalanobis", "modality-discrepancy"],
        method=method,
        backbone=backbone,
        recipe="quick",
        recipe_options={"epochs": 1, "batch_size": 2, **npmix, **options},
        hardware=CPU,
    )
    assert not results.missing
    assert not results.failures
    rows = list(results)
    assert {row["n_id"] for row in rows} == {4}
    assert {row["n_ood"] for row in rows} == {2}
    assert all(0 <= row["auroc"] <= 1 for row in rows)
    return rows


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_learn_from_video_flow_and_sound(made: Benchmark, method: str) -> None:
    rows = evaluated(made, method)
    assert {row["method"] for row in rows} == {method}


def test_methods_learn_from_real_clips(real: Benchmark) -> None:
    """The plain one, and the one that does what the other two do."""
    for method in ("multimodal-ce", "a2d-npmix"):
        evaluated(real, method)


def large(name: str) -> str:
    return f"clips-{name.replace('_', '-')}"


def test_a_large_video_network_beside_sound(made: Benchmark) -> None:
    @oodbench.register_backbone("clips-large-and-small")
    def build(channels: Mapping[str, int]) -> MultimodalEncoders:
        found = dict(create_backbone("clips-small", channels).encoders)  # type: ignore[arg-type]
        return MultimodalEncoders({**found, "video": ClipEncoder("mc3_18", channels["video"])})

    tiny = replace(made, preprocess=small(16, 2))
    try:
        # what Adam keeps of 11 million weights would be written too
        rows = evaluated(tiny, "multimodal-ce", "clips-large-and-small", optimizer="sgd")
    finally:
        BACKBONES.unregister("clips-large-and-small")
    assert rows[0]["backbone"] == "clips-large-and-small"


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_each_large_video_network_beside_sound(made: Benchmark, name: str, method: str) -> None:
    evaluated(replace(made, preprocess=small(224, 16)), method, large(name))


class Own(nn.Module):
    """A stranger's network of three modalities, whose code takes the usual layout for granted."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv3d(3, 4, 3, padding=1)
        self.move = nn.Conv3d(2, 4, 3, padding=1)
        self.hear = nn.Conv2d(1, 4, 3, stride=8)
        self.fc = nn.Linear(12, 2)

    def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = (self.see(inputs["video"]), self.move(inputs["flow"]), self.hear(inputs["audio"]))
        features = torch.cat([m.relu().view(len(m), 4, -1).mean(dim=2) for m in maps], dim=1)
        return {"features": features, "logits": self.fc(features)}

    def head(self) -> Head:
        return Head(self.fc.weight, self.fc.bias)


def test_a_given_network_sees_clips_and_hears_them(made: Benchmark) -> None:
    network = Own().eval()
    samples = made.id.load("test")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = extract(network, samples, made.preprocess, hardware=CPU)
    inputs = [made.preprocess(samples[i]) for i in range(len(samples))]
    with torch.inference_mode():
        wanted = network.outputs({k: torch.stack([x[k] for x in inputs]) for k in inputs[0]})
    for name in ("features", "logits"):
        torch.testing.assert_close(getattr(found, name), wanted[name], rtol=1e-5, atol=1e-6)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.stride() == before[name].stride()
    rows = oodbench.evaluate(
        network, benchmark=made, detectors=["msp", "energy"], hardware=CPU, preprocess="benchmark"
    )
    assert len(list(rows)) == 4


def test_encoders_of_libraries_and_of_ones_own(made: Benchmark) -> None:
    """A torchvision network of clips, one of images frame by frame, and a ResNet of timm's."""

    class PerFrame(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = create_backbone("resnet20", 2)
            self.num_features = 64

        def forward(self, clips: Tensor) -> Tensor:
            frames = clips.transpose(1, 2).flatten(0, 1)
            found: Tensor = self.net(frames).view(len(clips), -1, 64).mean(dim=1)
            return found

    encoders = {
        "video": create_backbone("clips-mc3-18", {"video": 3}).encoders["video"],  # type: ignore
        "audio": create_backbone("resnet18", 1),
        "flow": PerFrame(),
    }
    given = MultimodalClassifier(encoders, 2)
    rows = oodbench.evaluate(
        given, benchmark=made, detectors=["msp", "vim"], hardware=CPU, preprocess="benchmark"
    )
    assert {row["method"] for row in rows} == {"external"}


WAVE = np.sin(np.arange(800) / 7) * 0.9


@pytest.mark.parametrize(
    ("dtype", "half", "offset"),
    [
        ("int8", 2**7, 0),
        ("int16", 2**15, 0),
        ("int32", 2**31, 0),
        ("uint8", 2**7, 2**7),
        ("uint16", 2**15, 2**15),
        (">i2", 2**15, 0),
    ],
)
def test_whole_numbers_are_scaled_by_their_range(dtype: str, half: int, offset: int) -> None:
    samples = np.round(WAVE * (half - 1) + offset).astype(dtype)
    for given in (samples, np.stack([samples, samples], axis=1)):
        found, rate = Waveform(given, 8000).read()
        assert (found.dtype, rate) == (np.float32, 8000)
        assert np.abs(found - WAVE).max() < 2 / half + 1e-6
    ends = np.iinfo(np.dtype(dtype))
    low, high = Waveform(np.array([ends.min, ends.max], dtype=dtype), 8000).read()[0]
    assert low == -1
    assert high == pytest.approx(1 - 1 / half)


def test_a_wave_in_memory_is_that_of_its_file(tmp_path: Path) -> None:
    samples = np.round(WAVE * 32767).astype(np.int16)
    wavfile.write(tmp_path / "a.wav", 8000, samples)
    assert np.array_equal(
        Waveform(samples, 8000).read()[0], AudioFile(tmp_path / "a.wav").read()[0]
    )


def test_floats_beyond_their_range_are_not_cut_in_silence(tmp_path: Path) -> None:
    with pytest.warns(OODBenchWarning, match=r"up to 2\.7; .*% of its samples .* are cut"):
        Waveform(WAVE * 3, 8000).read()
    wavfile.write(tmp_path / "loud.wav", 8000, (WAVE * 3).astype(np.float32))
    with pytest.warns(OODBenchWarning, match=r"loud\.wav has floats of up to 2\.7"):
        AudioFile(tmp_path / "loud.wav").read()
    for scale in (127, 32767, 2.0**31):
        with pytest.raises(DataError, match=r"Divide them by the largest value"):
            Waveform(WAVE * scale, 8000).read()
    overshoot = WAVE.copy()
    overshoot[5] = -1.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Waveform(overshoot, 8000).read()[0].min() == -1


@pytest.mark.parametrize("dtype", ["int64", "uint64", "bool", "complex64"])
def test_samples_of_no_known_range(dtype: str) -> None:
    with pytest.raises(DataError, match=rf"samples of {dtype}, whose range is not known"):
        Waveform(np.ones(8, dtype), 8000).read()


def test_clips_with_little_or_no_sound(tmp_path: Path, made: Benchmark) -> None:
    """None is one error that names the file; any rate, and less than a window, will do."""
    silent = write_clip(tmp_path / "silent.mp4", 4, channels=0)
    with pytest.raises(DataError, match=r"silent\.mp4 has no audio track"):
        LogSpectrogram()(AudioFile(silent))
    look = LogSpectrogram(seconds=0.5)
    for rate in (8000, 11025, 44101, 48000):
        for n in (1, 100, 5 * rate):
            wave = np.sin(np.arange(n)) * 0.5
            for samples in (wave, np.stack([wave, -wave, wave], axis=1)):
                found = look(Waveform(samples, rate))
                assert found.shape[:2] == (1, 257)
                assert found.isfinite().all()


def test_a_shard_of_clips_is_bounded(made: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Counting(Own):
        def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            seen.append(len(inputs["audio"]))
            return super().outputs(inputs)

    samples = made.id.load("train")
    values = sum(part.numel() for part in made.preprocess(samples[0]).values())
    assert CLIPS // (3 * 32 * 224 * 224 + 2 * 8 * 256 * 256 + 257 * 1004) == 10
    monkeypatch.setattr("oodbench.extract.CLIPS", 3 * values)
    whole = extract(Counting().eval(), samples, made.preprocess, hardware=CPU)
    assert seen == [3, 1]
    assert len(whole) == 4

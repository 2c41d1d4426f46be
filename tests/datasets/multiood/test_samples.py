"""Clips of MultiOOD: their modalities, their digests, and files that are missing."""

from __future__ import annotations

import pickle
import random
import warnings
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oodbench.data.audio import AudioFile
from oodbench.data.flow import FlowFiles
from oodbench.data.video import VideoFile
from oodbench.datasets.multiood import benchmarks, sets
from oodbench.datasets.multiood.samples import Clips
from oodbench.errors import DataError, MissingDataError, OODBenchWarning
from tests.helpers.multiood import fill
from tests.helpers.video import write_clip

pytest.importorskip("av")
pytest.importorskip("soundfile")


def write_wave(path: Path, seconds: float = 2.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(np.arange(int(16000 * seconds), dtype=np.int16).tobytes())


def test_samples_of_three_modalities(base: Path, put: Any) -> None:
    put("Kinetics_train_near_ood.txt", ["a b/one.mp4 0", "c/two.mp4 1"])
    write_clip(base / "Kinetics-600/video/a b/one.mp4", frames=9)
    write_clip(base / "Kinetics-600/video/c/two.mp4", frames=70, size=(32, 32))
    for name, count in (("a b/one", 8), ("c/two", 69)):
        write_wave(base / f"Kinetics-600/video/{name}.wav")
        for part in "xy":
            write_clip(base / f"Kinetics-600/flow/{name}_flow_{part}.mp4", count, (32, 32))
    benchmark = benchmarks.near_kinetics_audio()
    samples = benchmark.id.load("train")
    assert isinstance(samples, Clips)
    assert samples.modalities == tuple(benchmark.preprocess.modalities)  # type: ignore[union-attr]
    assert samples.modalities == ("video", "audio", "flow")
    sample = samples[1]
    assert isinstance(sample["video"], VideoFile)
    assert isinstance(sample["flow"], FlowFiles)
    assert isinstance(sample["audio"], AudioFile)
    assert (sample["video"].frame_count, sample["flow"].frame_count) == (70, 69)
    again = pickle.loads(pickle.dumps(samples))[0]
    assert again["video"].frames([0]).shape == (1, 32, 48, 3)
    seen = benchmark.preprocess(sample)
    assert isinstance(seen, dict)
    assert {name: tuple(value.shape) for name, value in seen.items()} == {
        "video": (3, 32, 224, 224),
        "audio": (1, 257, 1004),
        "flow": (2, 8, 256, 256),
    }
    trained = benchmark.preprocess.augment(sample, random.Random(0))  # type: ignore[union-attr]
    assert trained["flow"].shape == (2, 8, 224, 224)


def test_samples_of_frames(base: Path, put: Any) -> None:
    """A clip of EPIC-Kitchens is some frames of a video, half as many of flow, some seconds."""
    put("D3_eval_near_ood.pkl", pickle.dumps([("P22_01", 3, 8, "00:00:00.50", "00:00:01.25", 6)]))
    root = base / "EPIC-KITCHENS"
    for i in range(12):
        for folder in ("rgb/test/D3/P22_01", "flow/test/D3/P22_01/u", "flow/test/D3/P22_01/v"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            level = 10 * i + (5 if folder.endswith("v") else 0)
            image = Image.fromarray(np.full((8, 16), level, np.uint8))
            image = image if "flow" in folder else image.convert("RGB")
            image.save(root / folder / f"frame_{i:010d}.jpg", quality=95)
    write_wave(root / "rgb/test/D3/P22_01.wav")
    samples = sets.MULTIOOD_EPIC_4_7_AUDIO.load("test")
    assert samples.classes == ("mix",)
    sample: Any = samples[0]
    assert sample["video"].frame_count == 5
    assert sample["flow"].frame_count == 2
    x, y = sample["flow"].frames([0, 1]).mean(axis=(1, 2)).T
    np.testing.assert_allclose(x, [20, 30], atol=1)
    np.testing.assert_allclose(y, [25, 35], atol=1)
    heard, rate = sample["audio"].read()
    assert (len(heard), rate) == (12000, 16000)
    assert heard[0] == pytest.approx(8000 / 2**15)


def test_digests_are_of_names_and_sizes(base: Path, put: Any) -> None:
    put("HMDB_eval_near_ood.txt", ["pour/a.avi 25", "pour/b.avi 25"])
    paths = [f"HMDB51/{p}" for p in ("video/pour/a.avi", "video/pour/b.avi")]
    flow = [f"HMDB51/flow/{n}_flow_{part}.mp4" for n in "ab" for part in "xy"]
    fill(base, *paths, *flow)
    load = lambda: sets.MULTIOOD_HMDB_26.load("test")
    before = load()
    assert before.digests.dtype == np.uint64
    assert len(set(before.digests.tolist())) == 2
    fill(base, paths[0], content=b"CONTENT")
    assert load().fingerprint == before.fingerprint
    fill(base, flow[1], content=b"longer than before")
    after = load()
    assert (after.digests == before.digests).tolist() == [False, True]
    assert sets.HMDB_26.load("test").fingerprint != after.fingerprint
    gone = load()
    (base / flow[3]).unlink()
    with pytest.raises(DataError, match=r"b_flow_y\.mp4 is gone"):
        _ = gone.digests


@pytest.fixture
def incomplete(base: Path, put: Any) -> Path:
    put("HMDB_eval_near_ood.txt", [f"pour/{i}.avi 25" for i in range(6)])
    for i in range(6):
        fill(base, f"HMDB51/video/pour/{i}.avi")
        fill(base, *(f"HMDB51/flow/{i}_flow_{part}.mp4" for part in "xy"))
    flow = base / "HMDB51/flow"
    (flow / "1_flow_y.mp4").unlink()
    (flow / "2_flow_x.mp4").write_bytes(b"")
    (flow / "4_flow_x.mp4").unlink()
    (flow / "4_flow_x.mp4").symlink_to("nowhere")
    return base


def test_missing_files_are_named(incomplete: Path) -> None:
    with pytest.raises(DataError) as error:
        sets.MULTIOOD_HMDB_26.load("test")
    message = str(error.value)
    assert not isinstance(error.value, MissingDataError)
    assert message.startswith("multiood-hmdb51-26/test: 3 of 6 samples lack files")
    for name in ("1_flow_y.mp4", "2_flow_x.mp4", "4_flow_x.mp4"):
        assert str(incomplete / "HMDB51/flow" / name) in message
    assert "OODBENCH_SKIP_MISSING" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(sets.HMDB_26.load("test")) == 6, "the videos are all there"


def test_missing_files_are_left_out_where_asked_for(
    incomplete: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_SKIP_MISSING", "1")
    with pytest.warns(OODBenchWarning, match="3 of 6 samples lack files"):
        some = sets.MULTIOOD_HMDB_26.load("test")
    assert isinstance(some, Clips)
    assert [clip.path for clip in some.clips] == ["pour/0.avi", "pour/3.avi", "pour/5.avi"]
    for i in (1, 2, 4):
        (incomplete / f"HMDB51/flow/{i}_flow_x.mp4").unlink(missing_ok=True)
        fill(incomplete, *(f"HMDB51/flow/{i}_flow_{part}.mp4" for part in "xy"))
    whole = sets.MULTIOOD_HMDB_26.load("test")
    assert len(whole) == 6
    assert whole.fingerprint != some.fingerprint
    for i in range(6):
        (incomplete / f"HMDB51/flow/{i}_flow_x.mp4").unlink()
    with pytest.raises(DataError, match="6 of 6 samples lack files"):
        sets.MULTIOOD_HMDB_26.load("test")
    monkeypatch.setenv("OODBENCH_SKIP_MISSING", "0")
    with pytest.raises(DataError, match="6 of 6 samples lack files"):
        sets.MULTIOOD_HMDB_26.load("test")

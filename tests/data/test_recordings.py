"""Folders of videos and of sounds are read as folders of images are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import oodbench
from oodbench.data.recordings import modality_of, recording_folder
from oodbench.dataset import resolve_dataset
from oodbench.errors import DataError, OODBenchWarning
from tests.conftest import write_images
from tests.helpers.cli import CLI

av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")


def clips(root: Path, count: int, seed: int) -> None:
    """Videos of 18 frames, 32 x 24 pixels, whose brightness tells the seed."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        with av.open(str(root / f"{i}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
            for _ in range(18):
                pixels = rng.integers(0, 60, (24, 32, 3), dtype=np.uint8) + np.uint8(60 * seed)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def sounds(root: Path, count: int, seed: int, suffix: str = ".wav") -> None:
    """Half a second of a tone, and noise."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        wave = np.sin(np.arange(4000) * (0.1 + 0.3 * seed)) + rng.normal(0, 0.1, 4000)
        soundfile.write(str(root / f"{i}{suffix}"), 0.5 * wave.clip(-1, 1), 8000)


def test_what_a_folder_holds(tmp_path: Path) -> None:
    clips(tmp_path / "clips" / "a", 2, 1)
    sounds(tmp_path / "calls" / "b", 2, 1, ".flac")
    write_images(tmp_path / "photos", {"c": 2}, seed=1)
    assert modality_of(tmp_path / "clips") == "video"
    assert modality_of(tmp_path / "calls") == "audio"
    assert modality_of(tmp_path / "photos") is None
    assert modality_of(tmp_path / "nowhere") is None
    (tmp_path / "clips" / "a" / "0.wav").write_bytes(b"")
    with pytest.raises(DataError, match="videos and sounds"):
        modality_of(tmp_path / "clips")
    clips(tmp_path / "photos" / "d", 1, 1)
    assert modality_of(tmp_path / "photos") is None  # images first, as ever


def test_samples_are_handles(tmp_path: Path) -> None:
    clips(tmp_path / "a", 2, 1)
    clips(tmp_path / "b", 1, 2)
    (tmp_path / "b" / "notes.txt").write_text("")
    with pytest.warns(OODBenchWarning, match="1 files below"):
        found = recording_folder("mine", tmp_path, "video")
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [0, 0, 1]
    assert found[2]["video"].frames([0, 5]).shape == (2, 24, 32, 3)
    assert len(set(found.digests.tolist())) == 3
    (tmp_path / "0.mp4").write_bytes((tmp_path / "a" / "0.mp4").read_bytes())
    with pytest.raises(DataError, match="beside the class folders"):
        recording_folder("mine", tmp_path, "video")
    (tmp_path / "0.mp4").unlink()
    with pytest.raises(DataError, match="holds no audio files"):
        recording_folder("mine", tmp_path, "audio")


def test_a_flat_folder_is_a_set_without_classes(tmp_path: Path) -> None:
    sounds(tmp_path / "calls", 3, 1)
    samples = resolve_dataset(f"folder:{tmp_path / 'calls'}").load("test")
    assert samples.classes == ("all",)
    wave, rate = samples[0]["audio"].read()  # type: ignore[index]
    assert (len(wave), rate) == (4000, 8000)


def test_seconds_and_sides_by_the_path(tmp_path: Path) -> None:
    clips(tmp_path / "clips" / "a", 1, 1)
    sounds(tmp_path / "calls" / "a", 1, 1)
    for name, part, value in (("clips@64", "size", 64), ("clips", "size", 112),
                              ("calls@5", "seconds", 5.0), ("calls", "seconds", 2.0)):  # fmt: skip
        benchmark = oodbench.get_benchmark(f"folder:{tmp_path / name}")
        (seen,) = benchmark.preprocess.parts.values()  # type: ignore[attr-defined]
        assert getattr(seen, part) == value


@pytest.mark.parametrize(("write", "size"), [(clips, 32), (sounds, 1)])
def test_evaluated_from_folders(write: object, size: int, run: CLI, tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 4)):
        for seed, name in enumerate("ab"):
            write(tmp_path / "own" / split / name, count, seed)  # type: ignore[operator]
    write(tmp_path / "others", 4, 3)  # type: ignore[operator]
    ran = run("eval", "--detector", "msp,knn", "--set", "knn.k=3",
              "--id", f"folder:{tmp_path / 'own'}@{size}", "--ood", f"folder:{tmp_path / 'others'}",
              "--epochs", "1", "--accelerator", "cpu", "--workers", "0")  # fmt: skip
    assert ran.status == 0, ran.both
    assert "knn" in ran.out


def test_images_beside_videos_are_refused(tmp_path: Path) -> None:
    clips(tmp_path / "clips" / "a", 1, 1)
    write_images(tmp_path / "photos", {".": 1}, seed=1)
    preprocess = oodbench.get_benchmark(f"folder:{tmp_path / 'clips'}").preprocess
    images = resolve_dataset(f"folder:{tmp_path / 'photos'}").load("test")
    with pytest.raises(DataError, match="must have video here, and one has a"):
        preprocess(images[0])

"""Written and spoken digits: who is paired with whom, on small sets of made-up files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

import oodbench
from oodbench import Hardware, files
from oodbench.audio import AudioFile
from oodbench.benchmark import get_benchmark
from oodbench.datasets import avdigits
from oodbench.datasets.avdigits import AVDigits
from oodbench.errors import DataError, MissingDataError, OptionError

CPU = Hardware(accelerator="cpu", devices="1", workers=0)


@pytest.fixture
def digits() -> Path:
    """Twelve images of each digit and split, two recordings of each digit, speaker and split."""
    root = files.data_dir()
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for digit in range(10):
            folder = root / "mnist" / split / str(digit)
            folder.mkdir(parents=True)
            for i in range(12):
                image = rng.integers(0, 40, (28, 28), dtype=np.uint8)
                image[2 * digit : 2 * digit + 4] = 250
                Image.fromarray(image).save(folder / f"{i}.png")
    folder = root / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for digit in range(10):
        t = np.arange(2000) / avdigits.RATE
        for speaker in (*avdigits.TRAIN_SPEAKERS, *avdigits.TEST_SPEAKERS):
            for number in (0, 1, 20, 21):
                wave = np.sin(2 * np.pi * (200 + 150 * digit) * t) + rng.normal(0, 0.05, len(t))
                path = folder / f"{digit}_{speaker}_{number}.wav"
                wavfile.write(path, avdigits.RATE, (8000 * wave).astype(np.int16))
    return root


def parts(samples: AVDigits) -> list[tuple[int, int, str, int]]:
    """Of each pair, the digit that is seen and the one that is heard, by whom, and the number."""
    found = []
    for i in range(len(samples)):
        pair = samples[i]
        bright = np.flatnonzero(np.asarray(pair["image"]).mean(axis=1) > 200)
        assert isinstance(pair["audio"], AudioFile)
        digit, speaker, number = Path(pair["audio"].path).stem.split("_")
        found.append((int(bright[0]) // 2, int(digit), speaker, int(number)))
    return found


def load(name: str, split: str = "test") -> AVDigits:
    benchmark = get_benchmark("avdigits")
    specs = {s.name: s for s in (benchmark.id, *benchmark.near, *benchmark.far)}
    samples = specs[name].load(split)
    assert isinstance(samples, AVDigits)
    assert samples.name == f"{name}/{split}"
    return samples


@pytest.mark.usefixtures("digits")
def test_pairs_are_of_one_digit() -> None:
    for name, split, known in (
        ("avdigits", "train", range(5)),
        ("avdigits", "val", range(5)),
        ("avdigits", "test", range(5)),
        ("avdigits-5-9", "test", range(5, 10)),
    ):
        samples = load(name, split)
        pairs = parts(samples)
        assert [seen for seen, *_ in pairs] == [known[label] for label in samples.labels]
        assert all(seen == heard for seen, heard, *_ in pairs)
        speakers = avdigits.TEST_SPEAKERS if split == "test" else avdigits.TRAIN_SPEAKERS
        assert {speaker for *_, speaker, _ in pairs} == set(speakers)
        numbers = {number for *_, number in pairs}
        expected = {"train": {20, 21}, "val": {0, 1}, "test": {0, 1, 20, 21}}
        assert numbers == expected[split]
    assert len(load("avdigits", "train")) == 5 * 10  # a fifth is for validation
    assert len(load("avdigits", "val")) == 5 * 2


@pytest.mark.usefixtures("digits")
def test_far_sets_are_wrong_in_one_way() -> None:
    pairs = parts(load("avdigits-mismatch"))
    assert all(seen != heard and heard < 5 for seen, heard, *_ in pairs)
    assert len({(seen, heard) for seen, heard, *_ in pairs}) > 12  # of 20 combinations
    photographs = load("avdigits-image-replaced")
    whole = load("avdigits")
    assert isinstance(photographs[0]["audio"], AudioFile)
    assert photographs[0]["image"].size == (28, 28)
    assert len(set(photographs.digests.tolist())) == len(photographs)
    chords = load("avdigits-audio-replaced")
    assert np.array_equal(np.asarray(chords[3]["image"]), np.asarray(whole[3]["image"]))
    wave, rate = chords[3]["audio"].read()
    assert rate == avdigits.RATE
    assert 0 < np.abs(wave).max() <= 0.5
    assert 0.3 <= len(wave) / rate <= 0.9


@pytest.mark.usefixtures("digits")
def test_the_same_each_time() -> None:
    for name in ("avdigits", "avdigits-mismatch", "avdigits-audio-replaced"):
        assert load(name).fingerprint == load(name).fingerprint
    assert load("avdigits").fingerprint != load("avdigits-mismatch").fingerprint


def test_recordings_are_part_of_the_fingerprint(digits: Path) -> None:
    before = load("avdigits").fingerprint
    for path in (digits / "fsdd" / "recordings").glob("0_theo_*.wav"):
        wavfile.write(path, avdigits.RATE, np.ones(3000, np.int16))
    assert load("avdigits").fingerprint != before


def test_what_is_missing_is_named(digits: Path) -> None:
    with pytest.raises(OptionError, match="splits test, not 'train'"):
        load("avdigits-mismatch", "train")
    recordings = digits / "fsdd" / "recordings"
    for path in recordings.glob("4_*.wav"):
        path.unlink()
    with pytest.raises(DataError, match="no recordings of the digits 4 by theo"):
        load("avdigits")
    for path in recordings.glob("*.wav"):
        path.unlink()
    with pytest.raises(MissingDataError, match=r"fsdd.*Get it: git clone"):
        load("avdigits")


def test_three_thousand_other_recordings(digits: Path) -> None:
    recordings = digits / "fsdd" / "recordings"
    for path in recordings.glob("*.wav"):
        path.unlink()
    for i in range(3000):
        (recordings / f"{i % 10}_theo_{i}.wav").write_bytes(b"no recording")
    with pytest.raises(DataError, match="are not those of commit 26eb9aa"):
        load("avdigits")


@pytest.mark.usefixtures("digits")
def test_an_evaluation() -> None:
    results = oodbench.evaluate(
        id="avdigits",
        detectors=["msp", "modality-discrepancy"],
        method="a2d-npmix",
        recipe="quick",
        recipe_options={"epochs": 3, "start_epoch": 1, "queue_size": 4, "batch_size": 10},
        hardware=CPU,
    )
    assert not results.missing
    rows = {(row["detector"], row["ood"]): row for row in results}
    assert rows["msp", "avdigits-mismatch"]["n_id"] == 60
    assert rows["msp", "avdigits-5-9"]["group"] == "near"
    assert {row["backbone"] for row in results} == {"avdigits-cnn"}

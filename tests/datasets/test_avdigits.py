"""Written and spoken digits: who is paired with whom, on small sets of made-up files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

import oodbench
from oodbench import Hardware, files
from oodbench.benchmark import get_benchmark
from oodbench.data.audio import AudioFile
from oodbench.datasets import avdigits
from oodbench.datasets.avdigits import SPLITS, AVDigits
from oodbench.errors import DataError, MissingDataError, OptionError
from oodbench.registry import METHODS
from oodbench.results.leaderboard import render
from oodbench.results.rows import cell
from oodbench.results.store import ResultStore
from tests.conftest import REPOSITORY

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
        for speaker in (*avdigits.SPEAKERS, *avdigits.OTHER_SPEAKERS):
            for number in (0, 9, 10, 19, 20, 49):
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
    specs = {s.name: s for s in (benchmark.id, *(chosen.spec for chosen in benchmark.ood))}
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
        assert {speaker for *_, speaker, _ in pairs} == set(avdigits.SPEAKERS)
        expected = {"train": {20, 49}, "val": {10, 19}, "test": {0, 9}}
        assert {number for *_, number in pairs} == expected[split]
    assert len(load("avdigits", "train")) == 5 * 10  # a fifth is for validation
    assert len(load("avdigits", "val")) == 5 * 2


@pytest.mark.usefixtures("digits")
def test_no_recording_is_in_two_splits_and_every_speaker_is_in_each() -> None:
    heard = {split: {pair[1:] for pair in parts(load("avdigits", split))} for split in SPLITS}
    assert not heard["train"] & heard["val"]
    assert not heard["train"] & heard["test"]
    assert not heard["val"] & heard["test"]
    for pairs in heard.values():
        assert {speaker for _, speaker, _ in pairs} == set(avdigits.SPEAKERS)
    assert not set(avdigits.SPEAKERS) & set(avdigits.OTHER_SPEAKERS)
    for name in ("avdigits-5-9", "avdigits-mismatch", "avdigits-image-replaced"):
        found = load(name)
        paths = [Path(found[i]["audio"].path).stem for i in range(len(found))]
        assert {path.split("_")[1] for path in paths} == set(avdigits.SPEAKERS)
        assert {path.split("_")[2] for path in paths} == {"0", "9"}


@pytest.mark.usefixtures("digits")
def test_the_shifted_set_differs_by_its_speakers_alone() -> None:
    shifted, whole = load("avdigits-speakers"), load("avdigits")
    assert shifted.classes == whole.classes
    assert shifted.labels.tolist() == whole.labels.tolist()
    for i in range(len(whole)):
        assert np.array_equal(np.asarray(shifted[i]["image"]), np.asarray(whole[i]["image"]))
    pairs = parts(shifted)
    assert all(seen == heard for seen, heard, *_ in pairs)
    assert {speaker for *_, speaker, _ in pairs} == set(avdigits.OTHER_SPEAKERS)
    assert {number for *_, number in pairs} == {0, 9, 10, 19, 20, 49}
    assert [(c.spec.name, c.group) for c in get_benchmark("avdigits").ood][-1] == (
        "avdigits-speakers",
        "shifted",
    )


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
def test_what_is_id_in_one_modality_alone_is_what_the_remark_says() -> None:
    whole = load("avdigits")
    seen = [np.asarray(whole[i]["image"]) for i in range(len(whole))]
    for name in ("avdigits-mismatch", "avdigits-audio-replaced", "avdigits-speakers"):
        other = load(name)
        for i, image in enumerate(seen):
            assert np.array_equal(image, np.asarray(other[i]["image"]))
    heard = load("avdigits-image-replaced")
    assert all(heard[i]["audio"] == whole[i]["audio"] for i in range(len(whole)))
    assert "AUROC is 50" in " ".join(get_benchmark("avdigits").remarks)


@pytest.mark.usefixtures("digits")
def test_the_same_each_time() -> None:
    for name in ("avdigits", "avdigits-mismatch", "avdigits-audio-replaced"):
        assert load(name).fingerprint == load(name).fingerprint
    assert load("avdigits").fingerprint != load("avdigits-mismatch").fingerprint


def test_recordings_are_part_of_the_fingerprint(digits: Path) -> None:
    before = load("avdigits").fingerprint
    for path in (digits / "fsdd" / "recordings").glob("0_lucas_*.wav"):
        wavfile.write(path, avdigits.RATE, np.ones(3000, np.int16))
    assert load("avdigits").fingerprint != before


def test_what_is_missing_is_named(digits: Path) -> None:
    with pytest.raises(OptionError, match="splits test, not 'train'"):
        load("avdigits-mismatch", "train")
    recordings = digits / "fsdd" / "recordings"
    for path in recordings.glob("4_*.wav"):
        path.unlink()
    with pytest.raises(DataError, match="no recordings of the digits 4 by george"):
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
    for row in results:
        assert (row["shifted_accuracy"] is not None) == (row["group"] == "shifted")
    alone = rows["msp", "avdigits-speakers"]
    assert 0 <= alone["shifted_accuracy"] <= 1
    assert rows["msp", "shifted"]["shifted_accuracy"] == alone["shifted_accuracy"]
    assert rows["modality-discrepancy", "shifted"]["shifted_accuracy"] == alone["shifted_accuracy"]
    page = render(get_benchmark("avdigits"), list(results))
    assert "| ID accuracy | shifted accuracy | Seeds |" in page
    assert "avdigits-speakers (shifted) 60" in page
    assert "nothing is ranked by them" in page


@pytest.mark.usefixtures("digits")
def test_the_default_recipe_warms_encoders_up_first_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipes: Any = METHODS.get("multimodal-ce").recipes
    monkeypatch.setitem(recipes, "quick", dataclasses.replace(recipes["quick"], epochs=2))
    told: list[str] = []
    for method in ("a2d", "npmix"):
        results = oodbench.evaluate(
            id="avdigits",
            detectors="modality-discrepancy",
            method=method,
            recipe_options={"epochs": 2},
            hardware=CPU,
            report=told.append,
        )
        assert {row["recipe"] for row in results} == {"warm"}
        options = results.rows[0]["recipe_options"]
        assert options["start_from"] == "multimodal-ce/quick"
        assert (options["frozen"], options["dropout"], options["keep"]) == (True, 0.5, "best")
    trainings = [line for line in told if line.startswith("training: ")]
    assert [("(trained first)" in line, "(trained already)" in line) for line in trainings] == [
        (True, False),
        (False, True),
    ]
    assert sum("best epoch" in line and "validation accuracy" in line for line in told) == 2


def test_what_the_remark_says_of_a2d_is_what_the_rows_have() -> None:
    rows = ResultStore(REPOSITORY / "leaderboards").rows("avdigits")
    remark = get_benchmark("avdigits").remarks[-1]
    methods = ("multimodal-ce", "a2d", "npmix", "a2d-npmix")

    def values(column: str, method: str, detector: str, ood: str, modality: str | None) -> Any:
        found = {
            row["seed"]: 100 * cell(row, column)
            for row in rows
            if (row["method"], row["detector"], row["ood"], row["modality"])
            == (method, detector, ood, modality)
            and row["detector_options"].get("k") in (None, 50)
        }
        assert sorted(found) == [0, 1, 2, 3, 4]
        return list(found.values())

    def means(*what: Any) -> str:
        return ", ".join(f"{np.mean(values(what[0], m, *what[1:])):.1f}" for m in methods)

    near = [values("auroc", m, "modality-discrepancy", "near", None) for m in methods]
    assert ", ".join(f"{np.mean(v):.1f} ± {np.std(v, ddof=1):.1f}" for v in near) in remark
    for what in (
        ("auroc", "modality-discrepancy", "far", None),
        ("auroc", "msp", "near", None),
        ("auroc", "knn", "near", None),
        ("id_accuracy", "msp", "near", None),
        ("id_accuracy", "msp", "near", "image"),
        ("id_accuracy", "msp", "near", "audio"),
    ):
        assert means(*what) in remark, what

"""MultiOOD: its layouts, its split files and their quirks, and the preparation, in miniature."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import random
import warnings
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

import oodbench
from oodbench import Benchmark, DatasetSpec, files
from oodbench.data.audio import AudioFile
from oodbench.data.clips import ClipPreprocess
from oodbench.data.flow import FlowFiles
from oodbench.data.transforms import MultimodalPreprocess
from oodbench.data.video import VideoFile
from oodbench.datasets.multiood import benchmarks, sets
from oodbench.datasets.multiood import prepare as preparing
from oodbench.datasets.multiood.derive import compute_flow, encode_flow, extract_audio, write_flow
from oodbench.datasets.multiood.layouts import FOLDER, LAYOUTS
from oodbench.datasets.multiood.prepare import prepare
from oodbench.datasets.multiood.samples import Clips, ListedClips
from oodbench.datasets.multiood.splits import SPLIT_FILES, Clip, read_split, split_path, split_url
from oodbench.download.prepare import prepare as prepare_sets
from oodbench.download.wanted import of_dataset
from oodbench.errors import (
    DataError,
    DownloadError,
    MissingDataError,
    NoNetworkError,
    OODBenchWarning,
    OptionError,
    StorageError,
)
from oodbench.needed import obtainable
from tests.helpers.downloads import QUICK
from tests.helpers.publisher import Publisher, publishing
from tests.helpers.video import write_clip

av = pytest.importorskip("av")
pytest.importorskip("soundfile")

BENCHMARKS = (
    benchmarks.near_hmdb,
    benchmarks.near_ucf,
    benchmarks.near_kinetics,
    benchmarks.near_kinetics_audio,
    benchmarks.near_epic,
    benchmarks.near_epic_audio,
    benchmarks.far_hmdb,
    benchmarks.far_kinetics,
    benchmarks.hmdb,
    benchmarks.hmdb_near,
    benchmarks.ucf,
    benchmarks.kinetics,
    benchmarks.kinetics_near,
)


def sets_of(benchmark: Benchmark) -> list[DatasetSpec]:
    return [benchmark.id, *benchmark.near, *benchmark.far]


ALL_SETS = {spec.name: spec for make in BENCHMARKS for spec in sets_of(make())}


@pytest.fixture
def base() -> Path:
    return files.data_dir() / FOLDER


@pytest.fixture
def put(base: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes | list[str]], Path]:
    """Writes a split file, and has its sum taken for the published one."""

    def write(name: str, content: bytes | list[str]) -> Path:
        if isinstance(content, list):
            content = "\n".join(content).encode()
        monkeypatch.setitem(SPLIT_FILES, name, hashlib.sha256(content).hexdigest())
        path = base / split_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


def fill(base: Path, *paths: str, content: bytes = b"content") -> None:
    for path in paths:
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(content)


def write_wave(path: Path, seconds: float = 2.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(np.arange(int(16000 * seconds), dtype=np.int16).tobytes())


class Shift(nn.Module):
    """A flow that is the same everywhere; ``after`` so many batches it is interrupted."""

    def __init__(self, x: float, y: float, after: int = 1000) -> None:
        super().__init__()
        self.x, self.y, self.after, self.sizes = x, y, after, []

    def forward(self, one: Tensor, two: Tensor) -> list[Tensor]:
        if len(self.sizes) == self.after:
            raise KeyboardInterrupt
        assert one.shape == two.shape
        assert one.abs().max() <= 1
        self.sizes.append(one.shape)
        flow = torch.zeros(len(one), 2, *one.shape[2:])
        return [flow, flow + torch.tensor([self.x, self.y])[:, None, None]]


# split files


def test_all_lists_are_pinned() -> None:
    named = set()
    for spec in ALL_SETS.values():
        load = spec.load
        assert isinstance(load, ListedClips)
        names = {name for listed in load.lists.values() for name in listed}
        assert names <= set(LAYOUTS[load.layout].listed_in())
        named |= names
    assert named == set(SPLIT_FILES)
    each = [name for place in LAYOUTS.values() for name in place.listed_in()]
    assert sorted(each) == sorted(SPLIT_FILES), "a split file is of one dataset"
    assert all(len(found) == 64 and int(found, 16) for found in SPLIT_FILES.values())
    assert split_url("D3_test.pkl") == (
        "https://raw.githubusercontent.com/donghao51/MultiOOD/"
        "ab7b221e42a598dada7fb702c08dcb4292610d8e/EPIC-rgb-flow/splits/D3_test.pkl"
    )
    assert split_path("HAC_test_only_human.csv") == "HMDB-rgb-flow/splits/HAC_test_only_human.csv"


@pytest.mark.parametrize("end", ["", "\n"])
def test_text_is_parted_at_the_last_space(base: Path, put: Any, end: str) -> None:
    put("Kinetics_test.txt", f"acting in play/a b_1.mp4 0\nyoga/it's #1!.mp4 227{end}".encode())
    assert read_split(base, "Kinetics_test.txt") == [
        Clip("acting in play/a b_1.mp4", 0),
        Clip("yoga/it's #1!.mp4", 227),
    ]


def test_csv_has_dos_lines_and_spaces_in_names(base: Path, put: Any) -> None:
    put("HAC_train_only_cartoon.csv", b"drinking_54 .mp4,3\r\nrunning_1.mp4,5\r\n")
    assert read_split(base, "HAC_train_only_cartoon.csv") == [
        Clip("cartoon/drinking_54 .mp4", 3),
        Clip("cartoon/running_1.mp4", 5),
    ]


def test_pickle_of_plain_values(base: Path, put: Any) -> None:
    rows = [("P22_10", 18940, 19042, "00:05:15.67", "01:05:17.37", 0)]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        put("D3_test.pkl", pickle.dumps(rows, protocol))
        found = read_split(base, "D3_test.pkl")
        assert found == [Clip("P22_10", 0, 18940, 19042, 315.67, pytest.approx(3917.37))]


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_runs_no_code(base: Path, put: Any, tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "ran"
    put("D3_test.pkl", pickle.dumps([Malicious(trace)], protocol))
    with pytest.raises(DataError, match=r"D3_test\.pkl is refused: it names .* would run code"):
        read_split(base, "D3_test.pkl")
    assert not trace.exists()


def test_changed_lists_are_not_read(base: Path, put: Any, tmp_path: Path) -> None:
    path = put("D3_test.pkl", pickle.dumps([]))
    path.write_bytes(pickle.dumps([Malicious(tmp_path / "ran")]))
    with pytest.raises(DataError, match=r"not the file of MultiOOD's commit ab7b221.*https://"):
        read_split(base, "D3_test.pkl")
    path.unlink()
    with pytest.raises(MissingDataError, match="there is no"):
        read_split(base, "D3_test.pkl")
    path.mkdir()
    with pytest.raises(DataError, match="cannot read"):
        read_split(base, "D3_test.pkl")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("HMDB_val.txt", b"no_label.avi"),
        ("HMDB_val.txt", b"a/b.avi one"),
        ("HMDB_val.txt", b"\xff 1"),
        ("HAC_test_only_human.csv", b"a.mp4,1,2"),
        ("D3_val.pkl", b""),
        ("D3_val.pkl", pickle.dumps([("P22_10", 1, 2)])),
        ("D3_val.pkl", pickle.dumps([("P22_10", 1, 2, 3, 4, 0)])),
        ("D3_val.pkl", pickle.dumps(7)),
        ("D3_val.pkl", b"rubbish"),
    ],
)
def test_rubbish_in_lists(base: Path, put: Any, name: str, content: bytes) -> None:
    put(name, content)
    with pytest.raises(DataError, match=name):
        read_split(base, name)


# layouts

EPIC_CLIP = Clip("P22_04", 1, 11, 15, 0.5, 1.5)


@pytest.mark.parametrize(
    ("layout", "clip", "modality", "paths"),
    [
        ("hmdb51", Clip("sit/a.b.avi", 0), "video", ["HMDB51/video/sit/a.b.avi"]),
        (
            "hmdb51",
            Clip("sit/a.b.avi", 0),
            "flow",
            ["HMDB51/flow/a_flow_x.mp4", "HMDB51/flow/a_flow_y.mp4"],
        ),
        ("ucf101", Clip("v_A_g01_c02.avi", 0), "video", ["UCF101/video/v_A_g01_c02.avi"]),
        (
            "ucf101",
            Clip("v_A_g01_c02.avi", 0),
            "flow",
            ["UCF101/flow/v_A_g01_c02_flow_x.mp4", "UCF101/flow/v_A_g01_c02_flow_y.mp4"],
        ),
        ("kinetics600", Clip("a b/c.mp4", 0), "video", ["Kinetics-600/video/a b/c.mp4"]),
        ("kinetics600", Clip("a b/c.mp4", 0), "audio", ["Kinetics-600/video/a b/c.wav"]),
        (
            "kinetics600",
            Clip("a b/c.mp4", 0),
            "flow",
            ["Kinetics-600/flow/a b/c_flow_x.mp4", "Kinetics-600/flow/a b/c_flow_y.mp4"],
        ),
        ("hac", Clip("cartoon/d_54 .mp4", 3), "video", ["HAC/cartoon/videos/d_54 .mp4"]),
        (
            "hac",
            Clip("cartoon/d_54 .mp4", 3),
            "flow",
            ["HAC/cartoon/flow/d_54 _flow_x.mp4", "HAC/cartoon/flow/d_54 _flow_y.mp4"],
        ),
        (
            "epic",
            EPIC_CLIP,
            "video",
            [f"EPIC-KITCHENS/rgb/test/D3/P22_04/frame_{i:010d}.jpg" for i in range(11, 15)],
        ),
        (
            "epic",
            EPIC_CLIP,
            "flow",
            [
                f"EPIC-KITCHENS/flow/test/D3/P22_04/{part}/frame_{i:010d}.jpg"
                for part in "uv"
                for i in (6, 7)
            ],
        ),
        ("epic", EPIC_CLIP, "audio", ["EPIC-KITCHENS/rgb/test/D3/P22_04.wav"]),
        (
            "epic",
            Clip("P22_05", 0, 2, 3),
            "video",
            ["EPIC-KITCHENS/rgb/train/D3/P22_05/frame_0000000002.jpg"],
        ),
    ],
)
def test_layouts(base: Path, layout: str, clip: Clip, modality: str, paths: list[str]) -> None:
    assert list(LAYOUTS[layout].paths(base, clip, modality)) == paths


def test_kinetics_folders_of_three_modalities(base: Path) -> None:
    place, clip = LAYOUTS["kinetics600"], Clip("a b/c.mp4", 0)
    (base / "Kinetics-600/Kinetics-600-train").mkdir(parents=True)
    (base / "Kinetics-600/Kinetics-600-train-flow").mkdir()
    other = "Kinetics-600/Kinetics-600-train"
    assert place.paths(base, clip, "audio") == (f"{other}/a b/c.wav",)
    assert place.paths(base, clip, "flow")[0] == f"{other}-flow/a b/c_flow_x.mp4"
    (base / "Kinetics-600/video").mkdir()
    assert place.paths(base, clip, "video") == ("Kinetics-600/video/a b/c.mp4",)


# labels


def test_near_ood_labels_begin_at_zero(base: Path, put: Any) -> None:
    put("HMDB_eval_near_ood.txt", ["wave/c.avi 50", "pour/a.avi 25", "pour/b.avi 25"])
    for path in ("pour/a", "pour/b", "wave/c"):
        fill(base, f"HMDB51/video/{path}.avi")
    samples = sets.HMDB_26.load("test")
    assert samples.labels.tolist() == [1, 0, 0]
    assert samples.classes == ("pour", "wave")
    assert samples.name == "hmdb51-26/test"


def test_far_ood_labels_with_gaps(base: Path, put: Any) -> None:
    put("ID_HMDB_OOD_UCF.txt", ["v_YoYo_g01_c01.avi 94", "v_PlayingDaf_g02_c01.avi 53"])
    fill(base, "UCF101/video/v_YoYo_g01_c01.avi", "UCF101/video/v_PlayingDaf_g02_c01.avi")
    samples = sets.UCF_VS_HMDB.load("test")
    assert samples.labels.tolist() == [1, 0]
    assert samples.classes == ("PlayingDaf", "YoYo")


def test_classes_are_those_of_the_training_split(base: Path, put: Any) -> None:
    put("HMDB_train.txt", ["a/1.avi 0", "b/2.avi 1", "c/3.avi 2"])
    put("HMDB_val.txt", ["c/4.avi 2"])
    fill(base, *(f"HMDB51/video/{p}.avi" for p in ("a/1", "b/2", "c/3", "c/4")))
    assert sets.HMDB.load("train").classes == ("a", "b", "c")
    samples = sets.HMDB.load("val")
    assert (samples.classes, samples.labels.tolist()) == (("a", "b", "c"), [2])
    put("HMDB_val.txt", ["d/4.avi 3"])
    with pytest.raises(DataError, match="no training sample has the label 3"):
        sets.HMDB.load("val")
    put("HMDB_val.txt", ["d/4.avi 2"])
    with pytest.raises(DataError, match="hmdb51/val: label 2 is both 'c' and 'd'"):
        sets.HMDB.load("val")


def test_sets_of_several_lists(base: Path, put: Any) -> None:
    for domain in ("human", "animal", "cartoon"):
        for split in ("test", "train"):
            put(f"HAC_{split}_only_{domain}.csv", f"{split}.mp4,4\r\nother.mp4,0\r\n".encode())
            fill(base, *(f"HAC/{domain}/videos/{name}.mp4" for name in (split, "other")))
    samples = sets.HAC.load("test")
    assert isinstance(samples, Clips)
    assert [clip.path for clip in samples.clips][:4] == [
        "human/test.mp4",
        "human/other.mp4",
        "human/train.mp4",
        "human/other.mp4",
    ]
    assert samples.classes == ("sleeping", "swimming")
    assert samples.labels.tolist() == [1, 0] * 6


def test_names_that_are_none_of_ucf(base: Path, put: Any) -> None:
    put("UCF_eval_near_ood.txt", ["PlayingDaf.avi 53"])
    with pytest.raises(DataError, match=r"'PlayingDaf\.avi' is no name of a video of UCF101"):
        sets.UCF_51.load("test")


# samples


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


# missing files


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


def test_nothing_is_there_but_the_lists(base: Path, put: Any) -> None:
    put("HMDB_eval_near_ood.txt", ["pour/a.avi 25"])
    with pytest.raises(MissingDataError) as error:
        sets.MULTIOOD_HMDB_26.load("test")
    for part in (str(files.data_dir()), "Get it:", "OODBENCH_DATA", "multiood-hmdb51-26/test"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", sorted(ALL_SETS))
def test_nothing_is_there(name: str) -> None:
    spec = ALL_SETS[name]
    for split in spec.splits:
        with pytest.raises(MissingDataError) as error:
            spec.load(split)
        for part in (str(files.data_dir()), "Get it:", "OODBENCH_DATA", f"{name}/{split}"):
            assert part in str(error.value)
        assert "{" not in str(error.value)
    with pytest.raises(OptionError, match=f"{name} has the splits"):
        spec.load("eval")


# benchmarks


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
    clips = ClipPreprocess(4, 2, 32, (0.5,) * 3, (0.5,) * 3)  # at its own size it takes 20 times
    flow = dataclasses.replace(clips, mean=(0.5,) * 2, std=(0.5,) * 2)
    small = MultimodalPreprocess({"video": clips, "flow": flow})
    results = oodbench.evaluate(
        benchmark=dataclasses.replace(benchmarks.near_hmdb(), preprocess=small),
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


# preparation


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
    results = oodbench.evaluate(
        benchmark=benchmark,
        detectors=["msp", "energy", "knn", "modality-discrepancy"],
        method="a2d-npmix",
        recipe="quick",
        recipe_options={"epochs": 1, "start_epoch": 0, "queue_size": 2, "batch_size": 3},
        hardware=oodbench.Hardware(accelerator="cpu", devices="1", workers=0),
    )
    assert not results.missing
    assert set(results.failures) == {"knn"}  # fewer training clips than neighbours
    assert {(row["n_id"], row["n_ood"]) for row in results} == {(6, 3)}


def address(name: str) -> str:
    """Where the mirror has a split file."""
    return f"/{split_url(name).removeprefix('https://')}"


def publish(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    """Puts a split file on the mirror, and has its sum taken for the published one."""
    monkeypatch.setitem(SPLIT_FILES, name, hashlib.sha256(content).hexdigest())
    publisher.put(address(name), content)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """Small split files under all names, on a mirror."""
    with publishing() as publisher:
        monkeypatch.setenv("OODBENCH_MIRROR", publisher.base)
        for name in SPLIT_FILES:
            if name.startswith("D3"):
                content = pickle.dumps([("P22_05", 1, 3, "00:00:00.0", "00:00:01.0", 0)])
            elif name.startswith("HAC"):
                content = b"drinking_54 .mp4,3\r\n"
            elif "UCF" in name.partition("OOD")[2] or name.startswith("UCF"):
                content = b"v_YoYo_g01_c01.avi 0\n"
            elif "HMDB" in name.partition("OOD")[2] or name.startswith("HMDB"):
                content = b"sit/a.b.avi 0\n"
            else:
                content = b"a b/loud.mp4 0\na b/silent.mp4 0\n"
            publish(publisher, monkeypatch, name, content)
        yield publisher


def asked_for(publisher: Publisher) -> list[str]:
    """What it was asked for since the last time."""
    paths = sorted(one.path for one in publisher.asked)
    publisher.asked.clear()
    return paths


def test_lists_are_fetched_once(base: Path, published: Publisher) -> None:
    lines: list[str] = []
    counts = prepare(files.data_dir(), lines.append)
    assert asked_for(published) == sorted(map(address, SPLIT_FILES))
    assert len(read_split(base, "HAC_test_only_human.csv")) == 1
    assert lines[0] == "split files: 34 fetched"
    assert counts["HMDB51 video"] == 1
    assert counts["EPIC-KITCHENS flow"] == 2
    changed = base / split_path("HMDB_val.txt")
    changed.write_bytes(b"other")
    prepare(files.data_dir())
    assert asked_for(published) == [address("HMDB_val.txt")]
    prepare(files.data_dir(), lines.append)
    assert asked_for(published) == []
    assert "split files: all 34 are there" in lines


def test_offline(base: Path, published: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(SPLIT_FILES)[3:]:
        del published.files[address(name)]
    with pytest.raises(DownloadError) as error:
        prepare(files.data_dir(), patience=QUICK)
    message = str(error.value)
    assert "404" in message
    assert "put these 31 files there" in message
    there = [name for name in SPLIT_FILES if (base / split_path(name)).exists()]
    assert len(there) == 3
    for name in SPLIT_FILES:
        assert (f"{base / split_path(name)}\n" in message) == (name not in there)
        assert (f"from {split_url(name)}" in message) == (name not in there)
    monkeypatch.setenv("OODBENCH_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(NoNetworkError, match="put these 31 files there"):
        prepare(files.data_dir(), patience=QUICK)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"<html>log in</html>", "a web page"), (b"other", "not the published file")],
)
def test_what_is_fetched_is_verified(
    base: Path, published: Publisher, content: bytes, told: str
) -> None:
    for name in SPLIT_FILES:
        published.put(address(name), content)
    with pytest.raises(DownloadError, match=told):
        prepare(files.data_dir(), patience=QUICK)
    assert [path for path in base.rglob("*.*") if path.is_file() and "lock" not in path.name] == []


def test_what_a_person_has_to_get_is_told(published: Publisher) -> None:
    """By the names of the sets as well, and never as something that could be fetched."""
    with pytest.raises(MissingDataError) as error:
        prepare_sets("multiood-hmdb51", report=lambda _: None)
    message = str(error.value)
    assert f"has to be got by hand, below {files.data_dir()}. 1. Run `oodbench data" in message
    assert "2. Get multiood/HMDB51/video/<class>/*.avi from hmdb51_org.rar of https" in message
    assert not obtainable(of_dataset(ALL_SETS["multiood-hmdb51"]))
    assert asked_for(published) == []


def test_what_is_missing_is_listed(base: Path, published: Publisher) -> None:
    fill(base, "HMDB51/video/sit/a.b.avi", "HMDB51/flow/a_flow_x.mp4")
    fill(base, "EPIC-KITCHENS/rgb/train/D3/P22_05/frame_0000000001.jpg")
    lines: list[str] = []
    counts = prepare(files.data_dir(), lines.append, audio=False)
    assert counts == {
        "HMDB51 video": 0,
        "HMDB51 flow": 1,
        "UCF101 video": 1,
        "UCF101 flow": 2,
        "Kinetics-600 video": 2,
        "Kinetics-600 audio": 2,
        "Kinetics-600 flow": 4,
        "HAC video": 3,
        "HAC flow": 6,
        "EPIC-KITCHENS video": 1,
        "EPIC-KITCHENS audio": 1,
        "EPIC-KITCHENS flow": 2,
    }
    text = "\n".join(lines)
    assert "HMDB51 video: complete" in text
    assert "HMDB51 flow: 1 of 2 files missing: HMDB51/flow/a_flow_y.mp4" in text
    assert "UCF101.rar" in text
    assert "kinetics600_flow_mp4_part_*" in text
    listed = (base / preparing.MISSING).read_text().splitlines()
    assert "HMDB51/flow/a_flow_y.mp4" in listed
    assert "EPIC-KITCHENS/rgb/train/D3/P22_05/frame_0000000002.jpg" in listed
    assert "UCF101/ (flow, 2 files)" in listed


def test_sound_is_taken_from_videos(base: Path, published: Publisher) -> None:
    folder = base / "Kinetics-600/video/a b"
    write_clip(folder / "loud.mp4", channels=2)
    write_clip(folder / "silent.mp4")
    lines: list[str] = []
    counts = prepare(files.data_dir(), lines.append)
    assert counts["Kinetics-600 audio"] == 1
    text = "\n".join(lines)
    assert "Kinetics-600: 1 recordings taken from videos" in text
    assert f"{folder / 'silent.mp4'} has no sound" in text
    made = (folder / "loud.wav").stat().st_mtime_ns
    prepare(files.data_dir())
    assert (folder / "loud.wav").stat().st_mtime_ns == made


@pytest.mark.parametrize("channels", [1, 2])
def test_sound_is_mono_of_16_khz(tmp_path: Path, channels: int) -> None:
    target = tmp_path / "sound.wav"
    video = write_clip(tmp_path / "video.mp4", channels=channels)
    assert extract_audio(video, target)
    with wave.open(str(target)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 16000)
        samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16) / 2**15
    assert len(samples) == pytest.approx(16000, abs=1200)
    middle = samples[4000:12000]
    assert np.abs(np.fft.rfft(middle)).argmax() * 2 == 440
    assert middle.std() == pytest.approx(0.5 / np.sqrt(2), abs=0.03)
    assert not extract_audio(video, target)


def test_no_sound_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"silent\.mp4 has no sound"):
        extract_audio(write_clip(tmp_path / "silent.mp4"), tmp_path / "a.wav")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"broken\.mp4"):
        extract_audio(broken, tmp_path / "a.wav")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    video = write_clip(tmp_path / "loud.mp4", channels=1)
    with monkeypatch.context() as patch:
        patch.setattr(wave.Wave_write, "writeframes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract_audio(video, tmp_path / "a.wav")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.mp4", "loud.mp4", "silent.mp4"]
    assert extract_audio(video, tmp_path / "a.wav")


def test_levels_of_flow() -> None:
    flow = np.array([-np.inf, -25, -20, -0.1, 0, 0.1, 10, 20, 99, np.nan])
    assert encode_flow(flow).tolist() == [0, 0, 0, 127, 128, 128, 191, 255, 255, 128]


def test_flow_is_of_the_size_of_the_frames() -> None:
    """The network sees multiples of 8 from 128 on; flow is scaled back to the frames' pixels."""
    frames = np.zeros((21, 50, 3), np.uint8)
    network = Shift(12.8, 6.4)
    flow = compute_flow(network, [(frames, frames)] * 2)
    assert network.sizes == [(2, 3, 128, 128)]
    assert flow.shape == (2, 2, 21, 50)
    np.testing.assert_allclose(flow[:, 0], 12.8 * 50 / 128, rtol=1e-5)
    np.testing.assert_allclose(flow[:, 1], 6.4 * 21 / 128, rtol=1e-5)


def test_raft_is_such_a_network() -> None:
    from torchvision.models.optical_flow import raft_small

    frame = np.random.default_rng(0).integers(0, 256, (136, 130, 3), dtype=np.uint8)
    flow = compute_flow(raft_small(weights=None).eval(), [(frame, frame)])
    assert flow.shape == (1, 2, 136, 130)
    assert np.isfinite(flow).all()


@pytest.mark.parametrize("size", [(48, 32), (131, 133)])
def test_flow_in_two_grey_videos(tmp_path: Path, size: tuple[int, int]) -> None:
    if size[0] % 2:  # as published, frames may have odd sides; x264 in colour takes none
        video = tmp_path / "odd.avi"
        with av.open(str(video), "w") as container:
            stream = container.add_stream("ffv1", rate=24)
            stream.width, stream.height, stream.pix_fmt = *size, "gray"
            for level in range(0, 100, 20):
                pixels = np.full(size[::-1], level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray")))
            container.mux(stream.encode(None))
    else:
        video = write_clip(tmp_path / "even.mp4", 5, size)
    scale = max(128, 8 * round(size[0] / 8)) / size[0], max(128, 8 * round(size[1] / 8)) / size[1]
    network = Shift(5 * scale[0], -30 * scale[1])
    x, y = tmp_path / "flow/a_flow_x.mp4", tmp_path / "flow/a_flow_y.mp4"
    assert write_flow(video, x, y, network, batch=3)
    assert [shape[0] for shape in network.sizes] == [3, 1]
    flow = FlowFiles(x, y)
    assert flow.frame_count == 4
    pixels = flow.frames(range(4))
    assert pixels.shape == (4, size[1], size[0], 2)
    np.testing.assert_allclose(pixels[..., 0], encode_flow(np.array(5.0)), atol=2)
    np.testing.assert_allclose(pixels[..., 1], 0, atol=2)
    assert not write_flow(video, x, y, network)


def test_preparation_goes_on_where_it_was(base: Path, published: Publisher) -> None:
    write_clip(base / "HMDB51/video/sit/a.b.avi")
    write_clip(base / "UCF101/video/v_YoYo_g01_c01.avi")
    fill(base, "UCF101/flow/v_YoYo_g01_c01_flow_x.mp4")
    write_clip(base / "HAC/cartoon/videos/drinking_54 .mp4")
    fill(base, "HAC/human/videos/drinking_54 .mp4")
    root = files.data_dir()
    with pytest.raises(KeyboardInterrupt):
        prepare(root, flow=Shift(1, 1, after=1), batch=4)
    flows = lambda: sorted(p.relative_to(base).as_posix() for p in base.rglob("*flow_*"))
    hmdb = ["HMDB51/flow/a_flow_x.mp4", "HMDB51/flow/a_flow_y.mp4"]
    assert flows() == [*hmdb, "UCF101/flow/v_YoYo_g01_c01_flow_x.mp4"], "no part of a file is left"
    network, lines = Shift(1, 1), []
    counts = prepare(root, lines.append, flow=network, batch=4)
    assert len(network.sizes) == 2, "what was there was not made again"
    assert flows() == [
        "HAC/cartoon/flow/drinking_54 _flow_x.mp4",
        "HAC/cartoon/flow/drinking_54 _flow_y.mp4",
        *hmdb,
        "UCF101/flow/v_YoYo_g01_c01_flow_x.mp4",
        "UCF101/flow/v_YoYo_g01_c01_flow_y.mp4",
    ]
    assert (counts["HMDB51 flow"], counts["UCF101 flow"], counts["HAC flow"]) == (0, 0, 4)
    text = "\n".join(lines)
    assert "not the published one" in text
    assert "HAC: no flow of 1 videos; the first: cannot read the video" in text


def test_raft_only_where_asked_for(published: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import optical_flow

    asked = []

    def build(weights: Any) -> nn.Module:
        asked.append(weights)
        return Shift(0, 0)

    monkeypatch.setattr(optical_flow, "raft_small", build)
    prepare(files.data_dir())
    assert asked == []
    prepare(files.data_dir(), flow="small")
    assert asked == ["DEFAULT"]
    with pytest.raises(OptionError, match="'small', 'large' or a network"):
        prepare(files.data_dir(), flow="huge")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="batch"):
        prepare(files.data_dir(), batch=0)


def test_videos_without_flow(tmp_path: Path) -> None:
    x, y = tmp_path / "x.mp4", tmp_path / "y.mp4"
    with pytest.raises(DataError, match="fewer than two frames"):
        write_flow(write_clip(tmp_path / "one.mp4", 1), x, y, Shift(0, 0))
    assert not x.exists()
    assert not y.exists()


def test_a_folder_that_cannot_be_written(base: Path) -> None:
    base.parent.mkdir(parents=True)
    base.write_text("a file in the folder's place")
    with pytest.raises(StorageError, match="OODBENCH_DATA"):
        prepare(files.data_dir())

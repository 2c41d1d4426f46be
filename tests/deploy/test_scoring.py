"""Scoring streams: files, folders, lists, videos; one row each, in order, whatever fails."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import oodbench
from oodbench import FittedDetector
from oodbench.cli.scoring import ALARM, FLAGGED
from oodbench.deploy.calibration import discoveries
from oodbench.deploy.scoring import COLUMNS, Row, Scorer
from oodbench.deploy.sources import Item, items
from oodbench.deploy.writers import Discoveries, writing
from oodbench.errors import OptionError
from tests.conftest import write_images
from tests.helpers.cli import CLI
from tests.helpers.fitted import CPU, blobs, fitted, network, strange


@pytest.fixture(scope="module")
def detector() -> FittedDetector:
    return fitted("knn")


def write(folder: Path, n: int = 5, kind: Any = blobs, seed: int = 5) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03d}.png" for i in range(n)]
    samples = kind(n, seed)
    for i, path in enumerate(paths):
        samples[i].save(path)
    return paths


def test_rows_are_what_python_says(detector: FittedDetector, tmp_path: Path) -> None:
    paths = write(tmp_path, 7)
    scorer = Scorer(detector, batch_size=3, workers=2)
    rows = list(scorer.rows(items([str(tmp_path)])))
    assert [row.path for row in rows] == [str(path) for path in paths]
    np.testing.assert_allclose([row.score for row in rows], detector.score(paths), atol=1e-6)
    assert [row.p_value for row in rows] == detector.p_values(paths).tolist()
    assert [row.flagged for row in rows] == detector.is_ood(paths).tolist()
    names = [detector.classes[i] for i in detector.predict(paths)]
    assert [row.predicted for row in rows] == names
    assert scorer.counts.images == 7
    assert len(scorer.counts.times) == 3
    assert "7 images" in scorer.counts.summary(3)
    assert "p99" in scorer.counts.summary(3)


def test_what_fails_is_a_row_and_the_rest_goes_on(detector: FittedDetector, tmp_path: Path) -> None:
    paths = write(tmp_path, 5)
    paths[1].write_text("no image")
    paths[3].unlink()
    rows = list(Scorer(detector, batch_size=4).rows(items(map(str, paths))))
    assert [row.error is None for row in rows] == [True, False, True, False, True]
    assert "damaged" in (rows[1].error or "")
    assert "missing" in (rows[3].error or "")
    assert rows[1].score is rows[1].flagged is rows[1].predicted is None


def test_one_bad_image_spoils_no_batch(tmp_path: Path) -> None:
    class Brittle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: Tensor) -> Tensor:
            bad = (images.flatten(1).amax(dim=1) < -1)[:, None]
            return torch.where(bad, torch.nan, self.inner(images))

    detector = fitted("msp", model=Brittle())
    paths = write(tmp_path, 4)
    Image.new("L", (8, 8)).save(paths[2])
    rows = list(Scorer(detector).rows(items(map(str, paths))))
    assert [row.error is None for row in rows] == [True, True, False, True]
    assert "NaN" in (rows[2].error or "")


def test_memory_is_constant(detector: FittedDetector) -> None:
    """However long the source, a few images are read ahead of what is asked for."""
    read = 0

    def source() -> Iterator[Item]:
        nonlocal read
        image = blobs(1)[0]
        while True:
            read += 1
            yield Item(str(read), lambda: image)

    rows = Scorer(detector, batch_size=4, workers=2).rows(source())
    for _ in range(20):
        next(rows)
    assert read < 60
    rows.close()  # type: ignore[attr-defined]


def test_a_stream_that_pauses_is_not_waited_for(detector: FittedDetector) -> None:
    go = threading.Event()

    def source() -> Iterator[Item]:
        for i in range(6):
            if i == 3:
                go.wait(20)
            yield Item(str(i), lambda: blobs(1)[0])

    rows = Scorer(detector, batch_size=64, eager=True).rows(source())
    first = [next(rows).path for _ in range(3)]
    assert first == ["0", "1", "2"]
    go.set()
    assert [row.path for row in rows] == ["3", "4", "5"]


def test_an_interrupted_source_is_heard(detector: FittedDetector) -> None:
    def source() -> Iterator[Item]:
        yield Item("0", lambda: blobs(1)[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Scorer(detector, batch_size=8).rows(source()))


def test_sources(tmp_path: Path) -> None:
    write(tmp_path / "b", 2)
    write(tmp_path / "a" / "inner", 1)
    (tmp_path / "a" / "notes.txt").write_text("notes")
    (tmp_path / ".hidden.png").write_text("")
    found = [Path(item.path).relative_to(tmp_path).as_posix() for item in items([str(tmp_path)])]
    assert found == ["a/inner/000.png", "b/000.png", "b/001.png"]
    lines = [f"{tmp_path / 'b' / '000.png'}\r\n", "\n", str(tmp_path / "a")]
    assert len(list(items(["-"], lines))) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="holds no images"):
        list(items([str(tmp_path / "empty")]))
    with pytest.raises(OptionError, match="every"):
        list(items([], every=0))


def test_frames_of_a_video(detector: FittedDetector, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(10):
            pixels = np.full((64, 64, 3), 20 * i, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    found = list(items([str(path)], every=4))
    assert [item.path for item in found] == [f"{path}#frame={i}" for i in (0, 4, 8)]
    levels = [float(np.asarray(item.load()).mean()) for item in found]
    np.testing.assert_allclose(levels, [0, 80, 160], atol=6)
    rows = list(Scorer(detector).rows(items([str(path)], every=4)))
    assert all(row.error is None for row in rows)
    path.write_bytes(path.read_bytes()[:200])
    (row,) = Scorer(detector).rows(items([str(path)]))
    assert "video" in (row.error or "")


# --- how rows are written -----------------------------------------------------------------------

ROWS = [
    Row("a, b.png", "cät", 0.1 + 0.2, 0.5, False),
    Row("c.png", None, 1e-30, 1.0, True),
    Row("d.png", error="gone"),
]


def test_csv() -> None:
    stream = io.StringIO()
    with writing("csv", None, stream) as writer:
        for row in ROWS:
            writer.write(row)
        writer.close()
    lines = list(csv.reader(io.StringIO(stream.getvalue())))
    assert lines[0] == list(COLUMNS)
    assert lines[1] == ["a, b.png", "cät", "0.30000000000000004", "0.5", "false", ""]
    assert lines[2][4] == "true"
    assert lines[3] == ["d.png", "", "", "", "", "gone"]


def test_json_lines() -> None:
    stream = io.StringIO()
    with writing("jsonl", None, stream) as writer:
        for row in ROWS:
            writer.write(row)
        writer.close()
    read = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [Row(**one) for one in read] == ROWS
    assert list(read[0]) == list(COLUMNS)


def test_parquet(tmp_path: Path) -> None:
    with writing("parquet", tmp_path / "rows.parquet", None) as writer:
        for row in ROWS * 7000:
            writer.write(row)
        writer.close()
    table = pd.read_parquet(tmp_path / "rows.parquet")
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 21_000
    assert table.score[0] == 0.1 + 0.2
    assert table.flagged[1]
    assert table.score.isna()[2]


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"

    def broken_off() -> None:
        with writing("csv", out, None) as writer:
            writer.write(ROWS[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert not list(tmp_path.iterdir())


def test_discoveries_wait_for_all(detector: FittedDetector) -> None:
    stream = io.StringIO()
    scorer = Scorer(detector, flags=False)
    p = [0.5, 0.001, 0.002, 0.9]
    with writing("jsonl", None, stream) as inner:
        writer = Discoveries(inner, 0.1, scorer.counts)
        for i, value in enumerate(p):
            writer.write(Row(str(i), "x", 1.0, value))
        writer.write(Row("bad", error="gone"))
        assert not stream.getvalue()
        writer.close()
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [row["flagged"] for row in rows[:4]] == discoveries(p, 0.1).tolist()
    assert rows[4]["flagged"] is None
    assert scorer.counts.flagged == 2


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, digits_checkpoint: Path) -> Path:
    made = oodbench.fit(
        "knn", id="digits", backbone="digits-cnn", checkpoint=digits_checkpoint, hardware=CPU
    )
    return made.save(tmp_path_factory.mktemp("fitted") / "it")


def test_fit_and_score(run: CLI, digits: list[str | Path], tmp_path: Path) -> None:
    words = ["fit", "--detector", "msp", *digits, "--accelerator", "cpu", "--workers", "0"]
    ran = run(*words, "--tpr", "0.95,0.9", "--out", tmp_path / "it")
    assert ran.status == 0, ran.both
    assert "threshold" in ran.out
    assert "already" in run.refuses(*words, "--out", tmp_path / "it")
    assert run(*words, "--out", tmp_path / "it", "--replace").status == 0
    folder = write_digits(tmp_path / "images")
    ran = run("score", tmp_path / "it", folder, "--exit-zero")
    assert ran.status == 0
    lines = list(csv.DictReader(io.StringIO(ran.out)))
    assert len(lines) == 40
    assert "40 images" in ran.err
    assert "images/s" in ran.err


def write_digits(folder: Path, n: int = 40) -> Path:
    samples = oodbench.get_benchmark("digits").id.load("test")
    folder.mkdir()
    for i in range(n):
        samples[i].save(folder / f"{i:03d}.png")
    return folder


def test_exit_status_and_formats(run: CLI, saved: Path, tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "id", 10)
    calm = run("score", saved, folder, "--tpr", "0.99")
    assert calm.status == 0, calm.both
    write(tmp_path / "ood", 30, strange)
    ran = run("score", saved, tmp_path / "ood", "--format", "jsonl", "--quiet")
    assert ran.status == FLAGGED, ran.both
    assert ran.err == ""
    assert len(ran.out.splitlines()) == 30
    assert run("score", saved, tmp_path / "ood", "--exit-zero").status == 0
    (folder / "bad.png").write_text("no image")
    assert run("score", saved, folder, "--tpr", "0.99").status == 3
    out = tmp_path / "rows.parquet"
    ran = run("score", saved, tmp_path / "ood", "--format", "parquet", "--out", out, "--fdr", "0.1")
    assert ran.status == FLAGGED
    assert pd.read_parquet(out).flagged.sum() > 20


def test_watch(run: CLI, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, state = write_digits(tmp_path / "id", 40), tmp_path / "state"
    calm = run("score", saved, folder, "--watch", "--state", state)
    assert calm.status in (0, FLAGGED)
    assert "no alarm" in calm.err
    paths = write(tmp_path / "ood", 40, strange)
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{path}\n" for path in paths)))
    ran = run("score", saved, "-", "--watch", "--state", state)
    assert ran.status == ALARM
    assert "ALARM since image 4" in ran.err  # after the 40 of the first run
    assert "80 images" in ran.err


def test_what_contradicts_itself_is_refused(run: CLI, saved: Path, tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "id", 2)
    assert "--format is one of" in run.refuses("score", saved, folder, "--format", "xml")
    assert "--fdr" in run.refuses("score", saved, folder, "--fdr", "0.1", "--watch")
    assert "--watch" in run.refuses("score", saved, folder, "--state", tmp_path / "s")
    assert "--device" in run.refuses("score", saved, folder, "--device", "cuda:99")
    assert "no fitted detector" in run.refuses("score", tmp_path, folder)
    (tmp_path / "empty").mkdir()
    assert "no images" in run.refuses("score", saved, tmp_path / "empty")
    assert "--tpr" in run.refuses("score", saved, folder, "--tpr", "1.5")


def test_a_network_that_is_not_in_the_folder(run: CLI, tmp_path: Path) -> None:
    """It is named again; another one, or another preprocessing, is refused with what differs."""
    for split, seed in (("train", 1), ("test", 2)):
        write_images(Path("own") / split, {"a": 12, "b": 12}, seed=seed)
    Path("its_network.py").write_text(
        "import torch\n"
        "def make(seed=0):\n"
        "    torch.manual_seed(seed)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2))\n"
        "def other():\n"
        "    return make(1)\n"
    )
    sees = ["--input-size", "16", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    named = ["--network", "its_network:make"]
    ran = run("fit", "--detector", "msp", "--id", "folder:own", *named, *sees, "--tpr", "0.9",
              "--out", "it", "--accelerator", "cpu")  # fmt: skip
    assert ran.status == 0, ran.both
    score = ["score", "it", "own/test", "--device", "cpu", "--exit-zero"]
    rows = run(*score, *named)
    assert rows.status == 0, rows.both
    assert len(pd.read_csv(io.StringIO(rows.out))) == 24
    assert run(*score, *named, *sees).out == rows.out, "what is said and is so changes nothing"
    assert "its_network:make" in run.refuses(*score)
    assert "its weights" in run.refuses(*score, "--network", "its_network:other")
    assert "the preprocessing differs" in run.refuses(*score, *named, "--input-size", "32")
    assert "the preprocessing differs" in run.refuses(*score, *named, "--preprocess", "cifar10")
    assert "leave out" in run.refuses(*score, *named, "--backbone", "resnet20")
    assert "names no weights" in run.refuses(*score, "--backbone", "resnet20")
    loaded = oodbench.load("it", network="its_network:make", input_size=16)
    assert loaded.score([]).shape == (0,)
    with pytest.raises(OptionError, match="no such option"):
        oodbench.load("it", nothing=1)

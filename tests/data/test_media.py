"""Videos, flow and recordings: the right frames and samples, and what is said of broken files."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from oodbench.data.audio import AudioFile
from oodbench.data.clips import ClipPreprocess
from oodbench.data.spectrograms import LogMel, LogSpectrogram
from oodbench.data.transforms import content_key
from oodbench.data.video import VideoFile
from oodbench.errors import OODBenchError
from tests.helpers.video import RGB

av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")


# Optional libraries


def test_importing_reads_with_nothing() -> None:
    code = (
        "import sys, oodbench.data.audio, oodbench.data.video; "
        "print([m for m in ('av', 'soundfile', 'torchcodec') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("library", "extra", "read"),
    [
        ("av", "video", lambda root: VideoFile(root / "a.mp4").frames([0])),
        ("av", "video", lambda root: AudioFile(root / "a.mp4").read()),
        ("soundfile", "audio", lambda root: AudioFile(root / "a.wav").read()),
    ],
)
def test_a_missing_library_is_told_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, extra: str, read
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(OODBenchError, match=rf"{library}.*pip install 'oodbench\[{extra}\]'"):
        read(tmp_path)


def test_transforms_say_all_that_they_do() -> None:
    transforms = [
        ClipPreprocess(4, 2, 24, *RGB),
        ClipPreprocess(4, 2, 24, [0.485, 0.456, 0.406], RGB[1], flip=False),
        ClipPreprocess(4, 3, 24, *RGB),
        LogMel(16000, 1.0),
        LogMel(16000, 1.0, pad="tile"),
        LogSpectrogram(),
        LogSpectrogram(pad="zero"),
    ]
    assert len({content_key(transform) for transform in transforms}) == len(transforms)
    for transform in transforms:
        assert pickle.loads(pickle.dumps(transform)) == transform
        assert len({transform, replace(transform)}) == 1

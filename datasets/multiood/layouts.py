"""Where the files of MultiOOD's five datasets are, below ``<data>/multiood``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from oodbench.data.audio import AudioFile
from oodbench.data.flow import FlowFiles, FlowFolder
from oodbench.data.video import FrameFolder, VideoFile
from oodbench.download.described import Download
from oodbench.errors import DataError

from .splits import SPLIT_FILES, Clip

FOLDER = "multiood"
"""Below the data folder: one folder per dataset, and the split files as in the repository."""

HAC_CLASSES = (
    "sleeping",
    "watching tv",
    "eating",
    "drinking",
    "swimming",
    "running",
    "opening door",
)
"""Not in its split files: the order of the data set's card, and what its cartoons are named."""

EPIC_CLASSES = ("take", "put", "open", "close", "wash", "cut", "mix", "pour")
"""Not in its split files: those verbs of EPIC-Kitchens-55 have these ids."""

VIDEO = ("video",)
VIDEO_FLOW = ("video", "flow")
VIDEO_AUDIO_FLOW = ("video", "audio", "flow")
"""In the order in which MultiOOD joins embeddings."""

_EPIC_TEST_VIDEOS = ("P22_01", "P22_02", "P22_03", "P22_04")


@dataclass(frozen=True)
class Layout:
    """Where a dataset's files are, relative to ``multiood``.

    Args:
        folder: of the dataset.
        class_name: the class of a clip.
        modalities: that it has.
        split_files: patterns of the names of the split files that list it.
        how: how to get its files, relative to its folder; a line each.
        source: where it is published.
        licence: what its publisher allows.
        citation: paper to cite.
    """

    folder: str
    class_name: Callable[[Clip], str]
    modalities: tuple[str, ...]
    split_files: tuple[str, ...]
    how: tuple[str, ...]
    source: str
    licence: str
    citation: str

    @property
    def download(self) -> Download:
        """What a person has to do to have its files; `rar` archives and accounts leave no other."""
        target = f"{FOLDER}/{self.folder}"
        steps = [f"Get {target}/{how}." for how in self.how]
        return Download(
            target,
            steps=("Run `oodbench data prepare multiood`, for the split files.", *steps),
            licence=self.licence,
        )

    def paths(self, base: Path, clip: Clip, modality: str) -> tuple[str, ...]:
        """Every file of one modality of a clip."""
        raise NotImplementedError

    def open(self, base: Path, clip: Clip, modality: str) -> Any:
        """A handle that reads them when they are needed."""
        paths = [base / path for path in self.paths(base, clip, modality)]
        if modality == "flow":
            return FlowFiles(*paths)
        return VideoFile(paths[0]) if modality == "video" else AudioFile(paths[0])

    def listed_in(self) -> list[str]:
        """Names of all split files that list its clips."""
        return [
            name
            for name in SPLIT_FILES
            if any(fnmatchcase(name, pattern) for pattern in self.split_files)
        ]


def _flow(stem: str) -> tuple[str, str]:
    return f"{stem}_flow_x.mp4", f"{stem}_flow_y.mp4"


class _HMDB(Layout):
    """``video/<class>/<name>.avi`` and ``flow/<name>_flow_x.mp4``, whose name ends at a dot."""

    def paths(self, base: Path, clip: Clip, modality: str) -> tuple[str, ...]:
        if modality == "video":
            return (f"{self.folder}/video/{clip.path}",)
        # as in MultiOOD: flow is in one folder, and a name is cut at its first dot
        return _flow(f"{self.folder}/flow/{clip.path.rpartition('/')[2].partition('.')[0]}")


class _Kinetics(Layout):
    """``video/<class>/<name>.mp4``, ``.wav`` beside it, and ``flow/<class>/<name>_flow_x.mp4``.

    MultiOOD's runs of three modalities read the same from ``Kinetics-600-train`` and
    ``Kinetics-600-train-flow``; these are taken where the others are not.
    """

    def paths(self, base: Path, clip: Clip, modality: str) -> tuple[str, ...]:
        stem = clip.path.removesuffix(".mp4")
        if modality == "flow":
            return _flow(f"{self._part(base, 'flow', 'Kinetics-600-train-flow')}/{stem}")
        suffix = ".mp4" if modality == "video" else ".wav"
        return (f"{self._part(base, 'video', 'Kinetics-600-train')}/{stem}{suffix}",)

    def _part(self, base: Path, name: str, other: str) -> str:
        return _kinetics_part(base / self.folder, name, other)


class _HAC(Layout):
    """``<domain>/videos/<name>.mp4`` and ``<domain>/flow/<name>_flow_x.mp4``."""

    def paths(self, base: Path, clip: Clip, modality: str) -> tuple[str, ...]:
        domain, _, name = clip.path.partition("/")
        if modality == "video":
            return (f"{self.folder}/{domain}/videos/{name}",)
        return _flow(f"{self.folder}/{domain}/flow/{name.removesuffix('.mp4')}")


class _EPIC(Layout):
    """Frames: ``rgb/<part>/D3/<id>/frame_<number>.jpg``, and of flow, each second one, in u and v.

    ``rgb/<part>/D3/<id>.wav`` is the sound of the whole video.
    """

    def paths(self, base: Path, clip: Clip, modality: str) -> tuple[str, ...]:
        folder = self._of(clip, modality)
        if modality == "audio":
            return (f"{folder}.wav",)
        if modality == "video":
            return tuple(f"{folder}/frame_{i:010d}.jpg" for i in range(clip.first, clip.end))
        frames = range(self._flow_first(clip), self._flow_last(clip) + 1)
        return tuple(f"{folder}/{part}/frame_{i:010d}.jpg" for part in "uv" for i in frames)

    def open(self, base: Path, clip: Clip, modality: str) -> Any:
        folder = base / self._of(clip, modality)
        if modality == "audio":
            return AudioFile(folder.with_name(f"{folder.name}.wav"), clip.start, clip.stop)
        if modality == "video":
            return FrameFolder(folder, clip.first, clip.end - 1)
        return FlowFolder(folder, self._flow_first(clip), self._flow_last(clip))

    def _of(self, clip: Clip, modality: str) -> str:
        part = "test" if clip.path in _EPIC_TEST_VIDEOS else "train"
        return f"{self.folder}/{'flow' if modality == 'flow' else 'rgb'}/{part}/D3/{clip.path}"

    @staticmethod
    def _flow_first(clip: Clip) -> int:
        return -(-clip.first // 2)

    @classmethod
    def _flow_last(cls, clip: Clip) -> int:
        return cls._flow_first(clip) + (clip.end - clip.first) // 2 - 1


def _kinetics_part(root: Path, name: str, other: str) -> str:
    chosen = other if not (root / name).is_dir() and (root / other).is_dir() else name
    return f"{root.name}/{chosen}"


def _first_folder(clip: Clip) -> str:
    return clip.path.partition("/")[0]


def _ucf_class(clip: Clip) -> str:
    match = re.fullmatch(r"v_(.+)_g\d+_c\d+\.avi", clip.path)
    if match is None:
        raise DataError(f"{clip.path!r} is no name of a video of UCF101.")
    return match[1]


_HF = "https://huggingface.co/datasets/hdong51"

LAYOUTS: Mapping[str, Layout] = {
    "hmdb51": _HMDB(
        "HMDB51",
        _first_folder,
        VIDEO_FLOW,
        ("HMDB_*.txt", "ID_*_OOD_HMDB.txt"),
        (
            "video/<class>/*.avi from hmdb51_org.rar of https://serre-lab.clps.brown.edu/resource/"
            "hmdb-a-large-human-motion-database/#Downloads",
            f"flow/*_flow_[xy].mp4 from hmdb51_flow_mp4.tar.gz of {_HF}/MultiOOD",
        ),
        "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database",
        "CC BY 4.0",
        "Kuehne et al., ICCV 2011; arXiv:2405.17419",
    ),
    "ucf101": _HMDB(
        "UCF101",
        _ucf_class,
        VIDEO_FLOW,
        ("UCF_*.txt", "ID_*_OOD_UCF.txt"),
        (
            "video/*.avi, without folders of classes, from https://www.crcv.ucf.edu/data/UCF101/"
            "UCF101.rar",
            f"flow/*_flow_[xy].mp4 from ucf101_flow_mp4.tar.gz of {_HF}/MultiOOD",
        ),
        "https://www.crcv.ucf.edu/data/UCF101.php",
        "own terms, for research",
        "arXiv:1212.0402; arXiv:2405.17419",
    ),
    "kinetics600": _Kinetics(
        "Kinetics-600",
        _first_folder,
        VIDEO_AUDIO_FLOW,
        ("Kinetics_*.txt",),
        (
            "video/<class>/*.mp4 from https://s3.amazonaws.com/kinetics/600/train/<class>.tar.gz, "
            "the 229 of utils/filtered_k600_train_path.txt in github.com/donghao51/MultiOOD",
            "flow/<class>/*_flow_[xy].mp4 from kinetics600_flow_mp4_part_* (join them with cat, "
            f"then untar) of {_HF}/MultiOOD",
            "video/<class>/*.wav: `oodbench data prepare multiood` takes them from the videos",
        ),
        "https://github.com/cvdfoundation/kinetics-dataset",
        "CC BY 4.0 (annotations)",
        "arXiv:1808.01340; arXiv:2405.17419",
    ),
    "hac": _HAC(
        "HAC",
        lambda clip: HAC_CLASSES[clip.label],
        VIDEO_FLOW,
        ("HAC_*.csv",),
        (
            "{human,animal,cartoon}/{videos,flow}/*.mp4 from human.zip, animal.zip and "
            f"cartoon.zip of {_HF}/Human-Animal-Cartoon",
        ),
        f"{_HF}/Human-Animal-Cartoon",
        "own terms",
        "Dong et al., NeurIPS 2023 (SimMMDG); arXiv:2405.17419",
    ),
    "epic": _EPIC(
        "EPIC-KITCHENS",
        lambda clip: EPIC_CLASSES[clip.label],
        VIDEO_AUDIO_FLOW,
        ("D3_*.pkl",),
        (
            "rgb/{train,test}/D3/P22_NN/frame_*.jpg and flow/{train,test}/D3/P22_NN/{u,v}/"
            "frame_*.jpg from the tar files P22_01 to P22_17 (01 to 04 are of test) of "
            "https://data.bris.ac.uk/datasets/3h91syskeag572hl6tvuovwv4d/frames_rgb_flow/"
            "{rgb,flow}/{train,test}/P22",
            f"rgb/{{train,test}}/D3/P22_NN.wav from EPIC-KITCHENS-audio.zip of {_HF}/"
            "Human-Animal-Cartoon",
        ),
        "https://epic-kitchens.github.io",
        "CC BY-NC 4.0",
        "Damen et al., ECCV 2018; arXiv:2405.17419",
    ),
}

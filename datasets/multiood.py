"""MultiOOD (arXiv:2405.17419): actions on video, as optical flow and in sound.

In the layouts that MultiOOD publishes, below ``<data>/multiood``; nothing is downloaded when a
benchmark is loaded. ``oodbench data prepare multiood`` fetches the split files, and says what else
is needed and where it goes.

Near-OOD: half of a dataset's classes against the other half. Far-OOD: a dataset against others,
without the classes that they share. Datasets named ``multiood-*`` have video and flow, those that
end in ``-audio`` sound as well, those without that prefix video alone.

Post-hoc detectors have their own settings unless ``--preset multiood`` asks for those of MultiOOD's
evaluation (:func:`posthoc_preset`): k 50 instead of 10, a covariance that is shrunk where there are
fewer samples than twice the features, instead of never, ViM by its paper's rule (512 dimensions of
ours) instead of 256, GEN at most 100 classes instead of all, ReAct one percentile of all training
activations and ASH-B one share of all, instead of one for each modality (ReAct's of validation
activations).

Differs from MultiOOD, with that preset too: (1) a clip is chosen among all frames of a video; there
(but for EPIC-Kitchens) among all but the last, and each frame shown is the one before the chosen
one (of the first, itself), so that clips begin one or two frames earlier; (2) frames are resized
with antialiasing, there without, and in training a crop is resized once from the frame as stored,
there from the frame brought to a short side of 256 first; (3) detectors are fitted on the train
split of Kinetics-600 as of all others, there on its val split; (4) AUPR is average precision, there
the area by trapezoids (``oodbench.metrics.aupr_trapezoid``), which differs where scores are tied;
(5) kNN's distance is the root of the one there, which ranks alike; (6) the sound of Kinetics-600 is
the whole recording (10 s), there the seconds of the video's clip alone (its first to its last frame
at 24 frames a second, 2.6 s), repeated to 10 s, which in training move with the random clip; (7)
with sound, ReAct's thresholds of Kinetics-600 are of the embeddings of video, flow and sound, there
(by the name of the file that is read) of video and flow alone, so that those of sound are of the
flow. How networks are trained, and which, is told in ``oodbench.detectors._multiood``.

Labels of an OOD set are numbered from 0 in the order of the published ones, which have gaps or
begin at the number of ID classes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from oodbench import files
from oodbench.benchmark import Benchmark, DatasetSpec, Protocol
from oodbench.data.audio import AudioFile, LogSpectrogram
from oodbench.data.samples import MultimodalSamples, content_digest
from oodbench.data.transforms import MultimodalPreprocess
from oodbench.data.video import ClipPreprocess, FlowFiles, FlowFolder, FrameFolder, VideoFile
from oodbench.errors import DataError, MissingDataError, OODBenchWarning, OptionError

from .folder import IMAGENET_MEAN, IMAGENET_STD

FOLDER = "multiood"
"""Below the data folder; holds a folder a dataset, and the split files as in the repository."""

COMMIT = "ab7b221e42a598dada7fb702c08dcb4292610d8e"
"""Of github.com/donghao51/MultiOOD."""

SPLIT_FILES: dict[str, str] = {
    line.split()[1]: line.split()[0]
    for line in """
010ac78a562f7d95d93d4d69a5e6492c17338a4254751ca107a19c35f76a7414  HMDB_train_near_ood.txt
d4369c7d477c5038dfc3c17381e9a475a9fb189cdf017f372859bfac28d6515c  HMDB_val_near_ood.txt
9c8fd6bf308c0f1faa8c43a22ffc418d9cc64e30175de5abb84a5b37a4adf5ae  HMDB_test_near_ood.txt
3d00c768628565d1f191a66f38c1cb3c86c0193d26c7a5afafd40cfb6bcca30a  HMDB_eval_near_ood.txt
5622d0983e156b10fc383d25833ceb17331998eda21679b340514d3bf8718c73  UCF_train_near_ood.txt
7127b2148ba4c44b61b15da37add78e8a2929978ec5a790ecf99d64542f6ea68  UCF_val_near_ood.txt
527b176bf9b31aafb79863de4ab22395c510ca073b65fe86b40bfb01dea14acd  UCF_test_near_ood.txt
685553ad24d9f808e65cab72a0a0839c29f2d882e590936da8a18ccbd5551ce2  UCF_eval_near_ood.txt
4f71068864b7a196378e46bc4b1dc0d001be69d703a689cfda41e382eb4d00b3  Kinetics_train_near_ood.txt
da97d44c2c3b735845b2af7c85429c2222691ff531a5f78010c5ee39d9f59f7d  Kinetics_val_near_ood.txt
ac1bfdb3dac1d2735a08995b538dcbebe0487d889c996da958ef86f889f8ba1f  Kinetics_test_near_ood.txt
87d6a97cbb86101ea96274192b2391f8e4af7410b32a9777953ffb7e31658f8d  Kinetics_eval_near_ood.txt
3f8e745d9e48ec0d29e9ce3ab9292ecd80b985f9a9ea131f0979a5760a5c2101  HMDB_train.txt
4f4859b7bb322704e81e36c24e0f1775603a3df1eda6a04a6f9979b283c8a7c6  HMDB_val.txt
7155f4cbff0c6469383e81bbe87fac2b075a61d83b1c9a02ec7d83f9aed83586  HMDB_test.txt
5c9e391da438443010fd752a05db333bd7a02fb671e7515a764ec3236b4ba199  Kinetics_train.txt
d24728e073a159f72dd4815d24ed8d8634d682326672915592364520bbfd2c69  Kinetics_val.txt
94fe680b4c2aef82d431876caadf6bf51135c5827f57ed6b3c0375a5164b4ba0  Kinetics_test.txt
3bbf3b91d62e7d8f651b675b326ba301d5a84689532f47e5f112c8e2b1065688  ID_HMDB_OOD_UCF.txt
1010fe96be2e0b91f762cdd3cf39bc201fb5457805056eaaafc0dce0cf209b4f  ID_Kinetics_OOD_UCF.txt
35dbf41b6e248d2e5986e400a23b340766ef66cb537ac21baf16554514f31ec5  ID_Kinetics_OOD_HMDB.txt
fa8a6b0dc35ef87d5d1f5eec3f04850abf67809f6c72579f206b9c64d6ed63a5  HAC_test_only_human.csv
4592505e84ae0061306cf3b44593330be30de4dc57c11481b49601db3ab2e456  HAC_train_only_human.csv
28e2c2482f7fef6a2412bd4acd19e5f13a7d132186b6d00b0d85fd8bcf7770d4  HAC_test_only_animal.csv
cd6b5e5328b908932fe02f6ba9723df10ff80d06657b876c3a170ce15eb4666c  HAC_train_only_animal.csv
06227ea1d45de2e2de033450f1fa684f69af193fa907c92cc7f7f316b7524729  HAC_test_only_cartoon.csv
2df289fe434ece5871ca77868f0f56be82c37400d12722e36b39667541acdf48  HAC_train_only_cartoon.csv
ba7f1126164843d9144549bcee57a7a54b94df496c26d683bf0c2eebc002666a  D3_train_near_ood.pkl
5e19494d8ae4a148dff96ab7914d9f6cc81f236cf4578e41427d0c8516fa2870  D3_val_near_ood.pkl
a65f050f561871230fb8b70e3cf512b93fcea38289921bbbf3ca46df8065648a  D3_test_near_ood.pkl
6a77cdbcec7ca12c008c84768abe129d52137849991a8d9d25504cc09d62bb9b  D3_eval_near_ood.pkl
ecdb6aba0f1c0f8b83f0bdd1bfbc14fef17e35582bdaee1196a52765cf129ab8  D3_train.pkl
03fe06559b769b3e706b14120faa7989fc9a3bc1092af73487c47aba9059c7c1  D3_val.pkl
1fe9e93470699c7976a1de51452d97845119da66cae39193d902f8be535c13f6  D3_test.pkl
""".strip().splitlines()
}
"""sha256 by name, of all that are read; ``ID_HMDB_OOD_Kinetics.txt`` is ``Kinetics_test.txt``."""

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
class Clip:
    """A sample as a split file names it.

    Args:
        path: of the video, relative to the folder of videos; in EPIC-Kitchens its id.
        label: as published.
        first: number of the first frame; like the rest, in EPIC-Kitchens alone.
        end: number of the frame after the last.
        start: seconds at which its sound begins.
        stop: seconds at which its sound ends.
    """

    path: str
    label: int
    first: int = 0
    end: int = 0
    start: float = 0.0
    stop: float = 0.0


class _Plain(pickle.Unpickler):
    """Reads numbers, texts, lists and tuples; a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and would run code")


def _read_txt(content: bytes) -> list[Clip]:
    """Lines ``<path> <label>``; paths have spaces, so the last space is the one that parts."""
    rows = [line.strip().rsplit(" ", 1) for line in content.decode().splitlines()]
    return [Clip(path, int(label)) for path, label in rows]


def _read_csv(content: bytes) -> list[Clip]:
    """Lines ``<name>.mp4,<label>`` with CRLF; a space before the extension is part of the name."""
    rows = csv.reader(io.StringIO(content.decode(), newline=""))
    return [Clip(name, int(label)) for name, label in rows]


def _read_pkl(content: bytes) -> list[Clip]:
    """A list of (video id, first frame, frame after the last, begin, end, label)."""
    rows = _Plain(io.BytesIO(content)).load()
    return [
        Clip(str(video), int(label), int(first), int(end), _seconds(start), _seconds(stop))
        for video, first, end, start, stop, label in rows
    ]


def _seconds(time: str) -> float:
    """Of ``"hh:mm:ss.ss"``."""
    hours, minutes, seconds = map(float, time.split(":"))
    return (hours * 60 + minutes) * 60 + seconds


_READERS: Mapping[str, Callable[[bytes], list[Clip]]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".pkl": _read_pkl,
}


def split_path(name: str) -> str:
    """Where a split file is, in the repository as below ``multiood``."""
    return f"{'EPIC' if name.startswith('D3_') else 'HMDB'}-rgb-flow/splits/{name}"


def split_url(name: str) -> str:
    """The address of a split file."""
    return f"https://raw.githubusercontent.com/donghao51/MultiOOD/{COMMIT}/{split_path(name)}"


def read_split(base: Path, name: str) -> list[Clip]:
    """The samples of a split file, once its sha256 was verified.

    A pickle runs no code: one that names any class or function is refused.

    Args:
        base: the folder ``multiood``.
        name: of the file, a key of ``SPLIT_FILES``.

    Raises:
        MissingDataError: it is not there.
        DataError: it is not the published one, or cannot be read.
    """
    path = base / split_path(name)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingDataError(f"there is no {path}.") from error
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}).") from error
    if sha256(content) != SPLIT_FILES[name]:
        raise DataError(
            f"{path} is not the file of MultiOOD's commit {COMMIT[:7]} (its sha256 is another). "
            f"Get it again: {split_url(name)}"
        )
    try:
        clips = _READERS[path.suffix](content)
    except (ValueError, TypeError, LookupError, EOFError, AttributeError) as error:
        raise DataError(f"{path} is no list of samples ({error}). Get it again.") from error
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} is refused: {error}. Get it again: {split_url(name)}") from error
    if name.startswith("HAC_"):
        domain = path.stem.rpartition("_")[2]
        return [Clip(f"{domain}/{clip.path}", clip.label) for clip in clips]
    return clips


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


class Tree:
    """Sizes of the files below a folder; each folder is listed once, when it is first asked for.

    Args:
        base: the folder.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self._known: dict[str, dict[str, int]] = {}

    def size(self, path: str) -> int:
        """Bytes of a file, relative to the folder; 0 if it is missing."""
        folder, _, name = path.rpartition("/")
        if folder not in self._known:
            self._known[folder] = dict(self._list(self.base / folder))
        return self._known[folder].get(name, 0)

    @staticmethod
    def _list(folder: Path) -> Iterator[tuple[str, int]]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        if entry.is_file():
                            yield entry.name, entry.stat().st_size
                    except OSError:  # a link to nothing
                        continue
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise DataError(f"cannot list {folder} ({error.strerror}).") from error


@dataclass(frozen=True)
class Layout:
    """Where a dataset's files are, relative to ``multiood``.

    Args:
        folder: of the dataset.
        class_name: the class of a clip.
        modalities: that it has.
        how: how to get its files; a line each.
        source: where it is published.
        licence: what its publisher allows.
        citation: paper to cite.
    """

    folder: str
    class_name: Callable[[Clip], str]
    modalities: tuple[str, ...]
    how: tuple[str, ...]
    source: str
    licence: str
    citation: str

    def paths(self, base: Path, clip: Clip, modality: str) -> tuple[str, ...]:
        """Every file of one modality of a clip."""
        raise NotImplementedError

    def open(self, base: Path, clip: Clip, modality: str) -> Any:
        """A handle that reads them when they are needed."""
        found = [base / path for path in self.paths(base, clip, modality)]
        if modality == "flow":
            return FlowFiles(*found)
        return VideoFile(found[0]) if modality == "video" else AudioFile(found[0])


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


class Clips(MultimodalSamples):
    """Clips whose files are read when they are needed.

    A sample's digest is of the relative path and the size of each of its files, and, in
    EPIC-Kitchens, of which seconds of sound are its own: not of their content, as of other
    datasets, because reading 100 GB of video takes hours, and it would be read again each time. A
    file that was cut off or encoded anew has another size; one that was changed and kept its size
    goes unnoticed.

    Args:
        name: what messages call it.
        base: the folder that paths are relative to.
        layout: where the files are.
        clips: N samples.
        labels: ``[N]``.
        classes: class names.
        modalities: of each sample.
    """

    def __init__(
        self,
        name: str,
        base: Path,
        layout: Layout,
        clips: Sequence[Clip],
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
        modalities: Sequence[str],
    ) -> None:
        super().__init__(name, labels, classes, modalities)
        self.base, self.layout, self.clips = base, layout, list(clips)

    def __getitem__(self, index: int) -> Any:
        """By modality ``video`` (RGB), ``flow`` (x, y) and ``audio``, as handles."""
        clip = self.clips[index]
        return {name: self.layout.open(self.base, clip, name) for name in self.modalities}

    def _digests(self) -> np.ndarray:
        tree = Tree(self.base)
        digests = np.zeros(len(self), np.uint64)
        for row, clip in enumerate(self.clips):
            lines = [f"{clip.start} {clip.stop}"] if "audio" in self.modalities else []
            for modality in self.modalities:
                for path in self.layout.paths(self.base, clip, modality):
                    size = tree.size(path)
                    if not size:
                        raise DataError(
                            f"{self.name}: {self.base / path} is gone since the samples were "
                            "listed. Get it again."
                        )
                    lines.append(f"{path}\0{size}")
            digests[row] = content_digest("\n".join(lines).encode())
        return digests


def _classes(layout: Layout, clips: Sequence[Clip]) -> dict[int, str]:
    """Class names by published label, in the order of labels.

    Raises:
        DataError: a label has two names.
    """
    found: dict[int, str] = {}
    for clip in clips:
        name = layout.class_name(clip)
        if found.setdefault(clip.label, name) != name:
            raise DataError(f"label {clip.label} is both {found[clip.label]!r} and {name!r}.")
    return dict(sorted(found.items()))


def _whole(
    name: str, base: Path, layout: Layout, clips: list[Clip], modalities: Sequence[str]
) -> list[Clip]:
    """The clips of which all files are there: all of them, unless others may be left out.

    Raises:
        MissingDataError: no file of any clip is there.
        DataError: files of some are missing.
    """
    tree = Tree(base)
    whole, missing, some = [], [], False
    for clip in clips:
        paths = [path for part in modalities for path in layout.paths(base, clip, part)]
        lacking = [path for path in paths if not tree.size(path)]
        some |= len(lacking) < len(paths)
        missing += lacking[:1]
        if not lacking:
            whole.append(clip)
    if not missing:
        return whole
    if not some:
        raise MissingDataError(
            f"{name}: none of its {len(clips):,} samples is below {base / layout.folder}; the "
            f"first file that is looked for is {base / missing[0]}. Get it: `oodbench data "
            "prepare multiood` says where each file comes from and where it goes; or set "
            "OODBENCH_DATA to the folder that has it."
        )
    told = f"{len(missing):,} of {len(clips):,} samples lack files"
    first = ", ".join(str(base / path) for path in missing[:3])
    if os.environ.get("OODBENCH_SKIP_MISSING", "") in ("", "0") or not whole:
        skip = (
            ", or set OODBENCH_SKIP_MISSING=1 to leave such samples out: then results do not "
            "compare with others"
        )
        raise DataError(
            f"{name}: {told}; the first are {first}. `oodbench data prepare multiood` lists all. "
            f"Get them{skip if whole else ': no sample has all of its files'}."
        )
    warnings.warn(
        f"{name}: {told} (the first: {first}) and are left out, as OODBENCH_SKIP_MISSING asks; "
        "results do not compare with others.",
        OODBenchWarning,
        stacklevel=2,
    )
    return whole


def _load(
    name: str,
    layout: str,
    lists: Mapping[str, tuple[str, ...]],
    modalities: tuple[str, ...],
    split: str,
) -> Clips:
    if split not in lists:
        raise OptionError(f"{name} has the splits {', '.join(lists)}, not {split!r}.")
    base, place = files.data_dir() / FOLDER, LAYOUTS[layout]
    title = f"{name}/{split}"
    try:
        clips = [clip for file in lists[split] for clip in read_split(base, file)]
        # an ID set's splits have the classes of its training split, whatever is in them
        known = lists.get("train", lists[split])
        first = clips if known == lists[split] else [c for f in known for c in read_split(base, f)]
        classes = _classes(place, first)
        _classes(place, [*first, *clips])
    except MissingDataError as error:
        raise MissingDataError(
            f"{title}: {error} Get it: `oodbench data prepare multiood` fetches the split files "
            "and says where all others come from and where they go; or set OODBENCH_DATA to the "
            "folder that has it."
        ) from error
    except DataError as error:
        raise DataError(f"{title}: {error}") from error
    rank = {label: i for i, label in enumerate(classes)}
    unknown = {clip.label for clip in clips} - set(rank)
    if unknown:
        raise DataError(f"{title}: no training sample has the label {min(unknown)}.")
    clips = _whole(title, base, place, clips, modalities)
    labels = [rank[clip.label] for clip in clips]
    return Clips(title, base, place, clips, labels, tuple(classes.values()), modalities)


@dataclass(frozen=True)
class _Listed:
    """A dataset before it is known which modalities are read: layout, split files, description."""

    layout: str
    lists: Mapping[str, tuple[str, ...]]
    description: str


def _three(pattern: str) -> dict[str, tuple[str, ...]]:
    return {split: (pattern.replace("*", split),) for split in ("train", "val", "test")}


_HAC_FILES = tuple(
    f"HAC_{split}_only_{domain}.csv"
    for domain in ("human", "animal", "cartoon")
    for split in ("test", "train")
)
_EPIC_FILES = tuple(f"D3_{split}.pkl" for split in ("train", "val", "test"))

_SETS: Mapping[str, _Listed] = {
    "hmdb51-25": _Listed("hmdb51", _three("HMDB_*_near_ood.txt"), "25 classes of HMDB51"),
    "hmdb51-26": _Listed(
        "hmdb51", {"test": ("HMDB_eval_near_ood.txt",)}, "the other 26 classes of HMDB51"
    ),
    "ucf101-50": _Listed("ucf101", _three("UCF_*_near_ood.txt"), "50 classes of UCF101"),
    "ucf101-51": _Listed(
        "ucf101", {"test": ("UCF_eval_near_ood.txt",)}, "the other 51 classes of UCF101"
    ),
    "kinetics600-129": _Listed(
        "kinetics600", _three("Kinetics_*_near_ood.txt"), "129 classes of Kinetics-600"
    ),
    "kinetics600-100": _Listed(
        "kinetics600",
        {"test": ("Kinetics_eval_near_ood.txt",)},
        "100 other classes of Kinetics-600",
    ),
    "epic-0-3": _Listed("epic", _three("D3_*_near_ood.pkl"), "verbs 0-3 of EPIC-Kitchens"),
    "epic-4-7": _Listed("epic", {"test": ("D3_eval_near_ood.pkl",)}, "verbs 4-7 of EPIC-Kitchens"),
    "hmdb51": _Listed("hmdb51", _three("HMDB_*.txt"), "43 classes of HMDB51"),
    "ucf101": _Listed("ucf101", _three("UCF_*_near_ood.txt"), "50 classes of UCF101"),
    "kinetics600": _Listed("kinetics600", _three("Kinetics_*.txt"), "229 classes of Kinetics-600"),
    "ucf101-vs-hmdb51": _Listed(
        "ucf101", {"test": ("ID_HMDB_OOD_UCF.txt",)}, "UCF101 without classes of HMDB51"
    ),
    "ucf101-vs-kinetics600": _Listed(
        "ucf101", {"test": ("ID_Kinetics_OOD_UCF.txt",)}, "UCF101 without classes of Kinetics-600"
    ),
    "hmdb51-vs-kinetics600": _Listed(
        "hmdb51", {"test": ("ID_Kinetics_OOD_HMDB.txt",)}, "HMDB51 without classes of Kinetics-600"
    ),
    "epic": _Listed("epic", {"test": _EPIC_FILES}, "8 verbs of EPIC-Kitchens"),
    "hac": _Listed("hac", {"test": _HAC_FILES}, "humans, animals and cartoons in action"),
}


def _spec(name: str, modalities: tuple[str, ...]) -> DatasetSpec:
    """A dataset whose name says which modalities are read."""
    listed = _SETS[name]
    place = LAYOUTS[listed.layout]
    if modalities != VIDEO:
        name = f"multiood-{name}{'-audio' if 'audio' in modalities else ''}"
    return DatasetSpec(
        name=name,
        load=partial(_load, name, listed.layout, listed.lists, modalities),
        splits=tuple(listed.lists),
        description=f"{listed.description}; {', '.join(modalities)}",
        source=place.source,
        licence=place.licence,
        citation=place.citation,
    )


MULTIOOD_HMDB_25 = _spec("hmdb51-25", VIDEO_FLOW)
MULTIOOD_HMDB_26 = _spec("hmdb51-26", VIDEO_FLOW)
MULTIOOD_UCF_50 = _spec("ucf101-50", VIDEO_FLOW)
MULTIOOD_UCF_51 = _spec("ucf101-51", VIDEO_FLOW)
MULTIOOD_KINETICS_129 = _spec("kinetics600-129", VIDEO_FLOW)
MULTIOOD_KINETICS_100 = _spec("kinetics600-100", VIDEO_FLOW)
MULTIOOD_EPIC_0_3 = _spec("epic-0-3", VIDEO_FLOW)
MULTIOOD_EPIC_4_7 = _spec("epic-4-7", VIDEO_FLOW)
MULTIOOD_HMDB = _spec("hmdb51", VIDEO_FLOW)
MULTIOOD_KINETICS = _spec("kinetics600", VIDEO_FLOW)
MULTIOOD_UCF_VS_HMDB = _spec("ucf101-vs-hmdb51", VIDEO_FLOW)
MULTIOOD_UCF_VS_KINETICS = _spec("ucf101-vs-kinetics600", VIDEO_FLOW)
MULTIOOD_HMDB_VS_KINETICS = _spec("hmdb51-vs-kinetics600", VIDEO_FLOW)
MULTIOOD_EPIC = _spec("epic", VIDEO_FLOW)
MULTIOOD_HAC = _spec("hac", VIDEO_FLOW)
MULTIOOD_KINETICS_129_AUDIO = _spec("kinetics600-129", VIDEO_AUDIO_FLOW)
MULTIOOD_KINETICS_100_AUDIO = _spec("kinetics600-100", VIDEO_AUDIO_FLOW)
MULTIOOD_EPIC_0_3_AUDIO = _spec("epic-0-3", VIDEO_AUDIO_FLOW)
MULTIOOD_EPIC_4_7_AUDIO = _spec("epic-4-7", VIDEO_AUDIO_FLOW)
HMDB_25 = _spec("hmdb51-25", VIDEO)
HMDB_26 = _spec("hmdb51-26", VIDEO)
UCF = _spec("ucf101", VIDEO)
UCF_51 = _spec("ucf101-51", VIDEO)
KINETICS_129 = _spec("kinetics600-129", VIDEO)
KINETICS_100 = _spec("kinetics600-100", VIDEO)
HMDB = _spec("hmdb51", VIDEO)
KINETICS = _spec("kinetics600", VIDEO)
UCF_VS_HMDB = _spec("ucf101-vs-hmdb51", VIDEO)
UCF_VS_KINETICS = _spec("ucf101-vs-kinetics600", VIDEO)
HMDB_VS_KINETICS = _spec("hmdb51-vs-kinetics600", VIDEO)
EPIC = _spec("epic", VIDEO)
HAC = _spec("hac", VIDEO)

_PARTS: Mapping[str, Any] = {
    "video": ClipPreprocess(
        32, 2, 224, IMAGENET_MEAN, IMAGENET_STD, short_side=256, min_scale=0.08
    ),
    "audio": LogSpectrogram(),
    # 256 where it is tested, though 224 where it is trained: MultiOOD's configuration
    "flow": ClipPreprocess(
        8, 4, 256, (128 / 255,) * 2, (128 / 255,) * 2, train_size=224, min_scale=0.08
    ),
}
"""What SlowFast 8x8, VGGSound's AVENet and SlowOnly 8x8 see in MultiOOD."""


_ID_CLASSES = {
    "hmdb51-25": 25,
    "ucf101-50": 50,
    "kinetics600-129": 129,
    "epic-0-3": 4,
    "hmdb51": 43,
    "ucf101": 50,
    "kinetics600": 229,
}


def posthoc_preset(classes: int) -> dict[str, dict[str, Any]]:
    """Settings of post-hoc detectors in MultiOOD's evaluation, by detector.

    k is 10 for kNN on normalised embeddings, the covariance of Mahalanobis' distance is not shrunk,
    ViM's principal subspace has 256 dimensions, GEN takes all C classes. ReAct clips and ASH-B
    shapes each modality's embedding by itself, at the 90th percentile (ReAct: of the validation
    split's activations), with the energy of the joint head.

    Args:
        classes: C.
    """
    shaped = {"percentile": 90.0, "score": "energy", "per_modality": True}
    return {
        "knn": {"k": 10, "normalize": True},
        "mahalanobis": {"shrinkage": "none"},
        "vim": {"dim": 256},
        "gen": {"M": classes, "gamma": 0.1},
        "react": {**shaped, "fit_split": "val"},
        "ash-b": shaped,
    }


def _benchmark(
    name: str,
    group: str,
    id_set: DatasetSpec,
    ood: tuple[DatasetSpec, ...],
    modalities: tuple[str, ...] = VIDEO_FLOW,
) -> Benchmark:
    listed = id_set.name.removeprefix("multiood-").removesuffix("-audio")
    return Benchmark(
        name=name,
        id=id_set,
        near=ood if group == "near" else (),
        far=ood if group == "far" else (),
        preprocess=MultimodalPreprocess({part: _PARTS[part] for part in modalities}),
        # MultiOOD takes OOD as positive where it prints FPR@95
        protocol=Protocol(rank_group=group, fpr="fpr95_ood"),
        backbone="clips-small",
        citation="arXiv:2405.17419",
        presets={"multiood": posthoc_preset(_ID_CLASSES[listed])},
    )


def near_hmdb() -> Benchmark:
    """25 classes of HMDB51 against the other 26, in video and flow."""
    return _benchmark("multiood/hmdb51-25-26", "near", MULTIOOD_HMDB_25, (MULTIOOD_HMDB_26,))


def near_ucf() -> Benchmark:
    """50 classes of UCF101 against the other 51, in video and flow."""
    return _benchmark("multiood/ucf101-50-51", "near", MULTIOOD_UCF_50, (MULTIOOD_UCF_51,))


def near_kinetics() -> Benchmark:
    """129 classes of Kinetics-600 against 100 others, in video and flow."""
    return _benchmark(
        "multiood/kinetics600-129-100", "near", MULTIOOD_KINETICS_129, (MULTIOOD_KINETICS_100,)
    )


def near_kinetics_audio() -> Benchmark:
    """The same in video, sound and flow."""
    return _benchmark(
        "multiood/kinetics600-129-100-audio",
        "near",
        MULTIOOD_KINETICS_129_AUDIO,
        (MULTIOOD_KINETICS_100_AUDIO,),
        VIDEO_AUDIO_FLOW,
    )


def near_epic() -> Benchmark:
    """Four verbs of EPIC-Kitchens against four others, in video and flow."""
    return _benchmark("multiood/epic-4-4", "near", MULTIOOD_EPIC_0_3, (MULTIOOD_EPIC_4_7,))


def near_epic_audio() -> Benchmark:
    """The same in video, sound and flow."""
    return _benchmark(
        "multiood/epic-4-4-audio",
        "near",
        MULTIOOD_EPIC_0_3_AUDIO,
        (MULTIOOD_EPIC_4_7_AUDIO,),
        VIDEO_AUDIO_FLOW,
    )


def far_hmdb() -> Benchmark:
    """43 classes of HMDB51 against four other datasets, in video and flow."""
    return _benchmark(
        "multiood/hmdb51",
        "far",
        MULTIOOD_HMDB,
        (MULTIOOD_UCF_VS_HMDB, MULTIOOD_EPIC, MULTIOOD_HAC, MULTIOOD_KINETICS),
    )


def far_kinetics() -> Benchmark:
    """229 classes of Kinetics-600 against four other datasets, in video and flow."""
    return _benchmark(
        "multiood/kinetics600",
        "far",
        MULTIOOD_KINETICS,
        (MULTIOOD_HMDB_VS_KINETICS, MULTIOOD_UCF_VS_KINETICS, MULTIOOD_EPIC, MULTIOOD_HAC),
    )


def hmdb() -> Benchmark:
    """43 classes of HMDB51 against four other datasets, in video."""
    return _benchmark("hmdb51", "far", HMDB, (UCF_VS_HMDB, EPIC, HAC, KINETICS), VIDEO)


def hmdb_near() -> Benchmark:
    """25 classes of HMDB51 against the other 26, in video."""
    return _benchmark("hmdb51/25-26", "near", HMDB_25, (HMDB_26,), VIDEO)


def ucf() -> Benchmark:
    """50 classes of UCF101 against the other 51, in video."""
    return _benchmark("ucf101", "near", UCF, (UCF_51,), VIDEO)


def kinetics() -> Benchmark:
    """229 classes of Kinetics-600 against four other datasets, in video."""
    return _benchmark(
        "kinetics600", "far", KINETICS, (HMDB_VS_KINETICS, UCF_VS_KINETICS, EPIC, HAC), VIDEO
    )


def kinetics_near() -> Benchmark:
    """129 classes of Kinetics-600 against 100 others, in video."""
    return _benchmark("kinetics600/129-100", "near", KINETICS_129, (KINETICS_100,), VIDEO)

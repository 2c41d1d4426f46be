"""MultiOOD's split files: which are published, what they name, and how they are read safely."""

from __future__ import annotations

import csv
import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench.errors import DataError, MissingDataError

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
    """The seconds of a time of day ``"hh:mm:ss.ss"``."""
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
    """The hex digest of a file."""
    return hashlib.sha256(content).hexdigest()

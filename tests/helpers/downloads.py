"""A small dataset that is downloaded, and its jobs in processes of their own."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

from oodbench import DatasetSpec, files
from oodbench.data.samples import Samples, image_folder
from oodbench.download import prepare
from oodbench.download.described import Download, RemoteFile
from oodbench.download.placing import Means
from oodbench.download.progress import Lines
from oodbench.download.transfer import Patience
from oodbench.download.wanted import Wanted
from tests.helpers.datasets import images_of, png

QUICK = Patience(connect=5, silence=0.5, window=1, tries=4, pause=0.001)
NAMES = ("birds/test/a/1.png", "birds/test/a/2.png", "birds/test/b/1.png")


def packed(*names: str, size: int = 8) -> bytes:
    """A zip of images."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for number, name in enumerate(names):
            made.writestr(name, png(images_of(1, (size, size, 3), number)[0]))
    return stream.getvalue()


def tree(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def birds_of(*downloads: Download, count: int = 3) -> DatasetSpec:
    """Images of birds, of which there are three."""

    def load(split: str) -> Samples:
        return image_folder(f"birds/{split}", files.data_dir() / "birds" / split)

    return DatasetSpec("birds", load, description="birds", licence="CC0", downloads=downloads)


def birds(url: str, content: bytes, *, is_checked: bool = True) -> DatasetSpec:
    """The same, published at an address."""
    sha256 = hashlib.sha256(content).hexdigest() if is_checked else ""
    file = RemoteFile(url, "birds.zip", len(content) if is_checked else None, sha256)
    return birds_of(Download("birds", (file,), inside="birds"))


def fetched(spec: DatasetSpec, told: list[str] | None = None, brought=None) -> None:
    """Get a dataset."""
    told = [] if told is None else told
    prepare.fetch(Wanted(spec, spec.splits), Means(Lines(told.append), brought, QUICK))


def fetch_birds(url: str, digest: str, size: int, data: str) -> None:
    """A job: get the birds into a data folder."""
    os.environ["OODBENCH_DATA"] = data
    file = RemoteFile(url, "birds.zip", size, digest)
    fetched(birds_of(Download("birds", (file,), inside="birds")))

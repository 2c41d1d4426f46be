"""Download: where a dataset's files are published, what they are, and where they go; plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from oodbench.errors import OptionError


@dataclass(frozen=True)
class RemoteFile:
    """A file that a source has.

    Args:
        url: its address (http or https); ``"drive:ID"`` for a file on Google Drive; ``""`` for one
            that only a person can get.
        name: what it is called in the downloads folder, where a file that a person got is looked
            for as well; the last part of its address if ``""``.
        size: bytes, exactly; None if not known.
        sha256: hex digest of its content, ``""`` if its publisher gives none.
        md5: likewise; for publishers that give no better one.
        git: the id of its content in a git repository, likewise.
        path: where it is among what is unpacked, if it is no archive; its name's last part if
            ``""``.
        is_archive: whether it is unpacked; None for by its name (``.zip``, ``.tar``, ``.tar.gz``,
            ``.tgz``, ``.gz``).
    """

    url: str = ""
    name: str = ""
    size: int | None = None
    sha256: str = ""
    md5: str = ""
    git: str = ""
    path: str = ""
    is_archive: bool | None = None

    def __post_init__(self) -> None:
        if not self.name:
            path = unquote(urlsplit(self.url).path)
            object.__setattr__(self, "name", PurePosixPath(path).name)
        object.__setattr__(self, "path", self.path or PurePosixPath(self.name).name)
        for text in (self.name, self.path):
            parts = PurePosixPath(text).parts
            if not parts or ".." in parts or "\\" in text or PurePosixPath(text).is_absolute():
                raise OptionError(f"a file to download wants a name, not {text!r}.")
        if self.url and not self.url.startswith(("https://", "http://", "drive:")):
            raise OptionError(f"{self.url} is no address that files are downloaded from.")

    @property
    def is_unpacked(self) -> bool:
        """Whether it is an archive, whose members are the data."""
        by_name = self.name.lower().endswith((".zip", ".tar", ".gz", ".tgz"))
        return by_name if self.is_archive is None else self.is_archive

    @property
    def has_checksum(self) -> bool:
        """Whether its publisher says what its content is."""
        return bool(self.sha256 or self.md5 or self.git)


@dataclass(frozen=True)
class HubFiles:
    """Files of a dataset's repository on the Hugging Face hub, which tells their sizes and digests.

    Args:
        repository: ``"OWNER/NAME"``.
        patterns: which of its files, as in :mod:`fnmatch`; ``*`` stands for ``/`` as well.
        revision: a commit or a branch.
        is_gated: whether its terms have to be agreed to, by a person with an account.
    """

    repository: str
    patterns: tuple[str, ...] = ("*.parquet",)
    revision: str = "main"
    is_gated: bool = False

    @property
    def url(self) -> str:
        """The repository's page, for people."""
        return f"https://huggingface.co/datasets/{self.repository}"


@dataclass(frozen=True)
class Download:
    """A source of a dataset, or of some of its splits.

    What it gives appears at its target at once and whole, after it was checked. Where a dataset
    has several sources of a split, they are tried in order.

    Args:
        target: where it goes, below the data folder: ``"cifar10/cifar-10-batches-py"``.
        files: what is fetched; archives among them are unpacked, one into the other. Without any,
            and without ``hub``, it is a person who puts the set where it belongs, as ``steps`` say.
        hub: files of the Hugging Face hub, instead.
        splits: the dataset's splits that it holds; ``()`` for all.
        inside: what becomes the target, of what is there when all is unpacked: a file or a folder;
            ``""`` for all of it.
        size: bytes that are fetched, about, where the files do not say.
        unpacked: bytes that it takes on disk, at most; None for no more than 20 times the archives.
        licence: what its publisher allows, if the dataset does not say it.
        steps: what a person has to do, a sentence each, where there is an account, a form or an
            address that only a browser opens.
        arrange: given the folder where all is unpacked; puts it in order before it is checked.
        needs: modules that reading it takes; a source whose modules are not installed is left out.

    Raises:
        OptionError: files and a repository, nothing at all, or a target outside of the data folder.
    """

    target: str
    files: tuple[RemoteFile, ...] = ()
    hub: HubFiles | None = None
    splits: tuple[str, ...] = ()
    inside: str = ""
    size: int = 0
    unpacked: int | None = None
    licence: str = ""
    steps: tuple[str, ...] = ()
    arrange: Callable[[Path], None] | None = None
    needs: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        kinds = bool(self.files) + (self.hub is not None)
        if kinds > 1 or not (kinds or self.steps):
            raise OptionError(
                f"the download to {self.target} has either files or a repository, or steps alone."
            )
        for path in (self.target, self.inside or "."):
            if ".." in PurePosixPath(path).parts or PurePosixPath(path).is_absolute() or not path:
                raise OptionError(f"{path!r} is no path below the data folder.")

    @property
    def is_vouched_for(self) -> bool:
        """Whether its publisher says what the content of all its files is."""
        return self.hub is not None or all(file.has_checksum for file in self.files)

    @property
    def bytes(self) -> int:
        """About how many bytes are fetched; 0 if that is not known."""
        sizes = [file.size for file in self.files]
        return self.size or sum(size for size in sizes if size is not None)

    @property
    def source(self) -> str:
        """The address that it comes from, for people."""
        if self.hub is not None:
            return self.hub.url
        if not self.files:
            return "by hand"
        first = self.files[0]
        if first.url.startswith("drive:"):
            return f"https://drive.google.com/file/d/{first.url.removeprefix('drive:')}"
        return first.url or "by hand"


def archive(
    url: str, target: str, inside: str = "", *, name: str = "", size: int | None = None,
    sha256: str = "", md5: str = "", splits: tuple[str, ...] = (), unpacked: int | None = None,
    licence: str = "", about: int = 0,
) -> Download:  # fmt: skip
    """One archive, or one file that is data as it is; ``about`` many bytes, if not ``size``."""
    file = RemoteFile(url, name, size, sha256=sha256, md5=md5)
    return Download(
        target,
        (file,),
        splits=splits,
        inside=inside,
        size=about,
        unpacked=unpacked,
        licence=licence,
    )


def hub(
    repository: str, name: str, patterns: tuple[str, ...] = ("*.parquet",), *, size: int = 0,
    splits: tuple[str, ...] = (), is_gated: bool = False, steps: tuple[str, ...] = (),
    licence: str = "",
) -> Download:  # fmt: skip
    """A snapshot of parquet files on the hub, for the dataset of a name."""
    files = HubFiles(repository, patterns, is_gated=is_gated)
    return Download(
        f"{name}/hub", hub=files, splits=splits, size=size, steps=steps, licence=licence,
        needs=("pyarrow",),
    )  # fmt: skip

"""Archives of strangers, unpacked: only files and folders, nothing outside, nothing endless."""

from __future__ import annotations

import gzip
import lzma
import re
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, NoReturn

from oodbench.disk import full
from oodbench.errors import DataError, StorageError

_PIECE = 2**20
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_DAMAGED = (
    zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError,
    zlib.error, EOFError, RuntimeError, NotImplementedError, UnicodeError,
)  # fmt: skip
"""What the standard library raises of archives that are damaged, encrypted or strangely packed."""


@dataclass
class Limits:
    """What an archive may become.

    Args:
        size: bytes of all files together.
        count: how many files and folders.
    """

    size: int
    count: int = 5_000_000


def limits(archive: Path, unpacked: int | None = None) -> Limits:
    """What an archive may become: what its description says, or 20 times its size.

    Images hardly shrink when they are packed; the labels of some sets do, which are small.
    """
    if unpacked is not None:
        return Limits(unpacked)
    return Limits(max(20 * archive.stat().st_size, 2**26))


def unpack(
    archive: Path,
    folder: Path,
    most: Limits | None = None,
    name: str = "",
    at: Callable[[int], object] = lambda _: None,
) -> None:
    """Unpack a zip, a tar (plain, gzip, bzip2, xz) or one gzipped file into a folder.

    Refused is a whole archive of which any member has an absolute path or one with ``..``, a name
    with control characters, backslashes or one that Windows cannot have, a link, a device or a
    pipe; of which two members have one name where case is not told apart; or that becomes more than
    it may. What was unpacked by then stays in the folder, which is nobody's data yet.

    Args:
        archive: the file.
        folder: where to; made if it is not there.
        most: what it may become.
        name: what it was published as, where the file bears another name.
        at: told how many bytes were unpacked, as they come.

    Raises:
        DataError: it is refused, or damaged.
        StorageError: the folder cannot be written, or the disk is full.
    """
    name = name or archive.name
    most = most or limits(archive)
    unpacking = _Unpacking(archive, name, folder, most, at)
    try:
        _kind(archive, name)(unpacking)
        if not (unpacking.count and unpacking.size):
            unpacking.damaged("nothing is in it")
    except (DataError, StorageError):
        raise
    except _DAMAGED as error:
        raise DataError(f"{archive} is damaged ({error}). Get it again.") from error
    except OSError as error:
        if isinstance(error, zipfile.BadZipFile) or error.errno is None:
            raise DataError(f"{archive} is damaged ({error}). Get it again.") from error
        raise full.storage_error(folder, error) from error


def _kind(archive: Path, name: str) -> Callable[[_Unpacking], None]:
    """How an archive is unpacked: by its name, since zeros are an empty tar as well."""
    lower = name.lower()
    if lower.endswith(".zip") or (zipfile.is_zipfile(archive) and ".tar" not in lower):
        return _Unpacking.of_zip
    if lower.endswith(".gz") and not lower.endswith(".tar.gz"):
        return _Unpacking.of_gzip
    return _Unpacking.of_tar


class _Unpacking:
    """One archive on its way into a folder."""

    def __init__(
        self, archive: Path, name: str, folder: Path, most: Limits, at: Callable[[int], object]
    ) -> None:
        self.archive, self.name, self.folder, self.most, self.at = archive, name, folder, most, at
        self.size = self.count = 0
        self.spelled: dict[tuple[str, ...], tuple[str, bool]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def of_zip(self) -> None:
        with zipfile.ZipFile(self.archive) as file:
            members = file.infolist()
            for member in members:  # all of them, before any is written
                self._check_zipped(member)
            self._check_size(sum(member.file_size for member in members), len(members))
            self.spelled.clear()
            for member in members:
                path = self._path(member.orig_filename, member.is_dir())
                if not member.is_dir():
                    with file.open(member) as content:
                        self._write(path, content)

    def _check_zipped(self, member: zipfile.ZipInfo) -> None:
        mode = member.external_attr >> 16
        kind = stat.S_IFMT(mode)
        if member.create_system == 3 and kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            self._refuse(member.orig_filename, "is a link or a device")
        if member.flag_bits & 1:
            self._refuse(member.orig_filename, "is encrypted")
        self._path(member.orig_filename, member.is_dir(), make=False)

    def of_tar(self) -> None:
        with tarfile.open(self.archive) as file:
            for member in file:
                if not (member.isreg() or member.isdir()):
                    self._refuse(member.name, "is a link or a device")
                path = self._path(member.name, member.isdir())
                if member.isdir():
                    continue
                content = file.extractfile(member)
                if content is None:
                    self._refuse(member.name, "cannot be read")
                self._write(path, content, member.size)
                file.members.clear()  # type: ignore[attr-defined]  # else a million stay in memory
        with self.archive.open("rb") as handle:  # cut between two members it would seem whole
            is_plain = handle.read(512)[257:262] == b"ustar"
            handle.seek(max(0, self.archive.stat().st_size - 512))
            if is_plain and any(handle.read()):
                self.damaged("it has no end")

    def of_gzip(self) -> None:
        with gzip.open(self.archive) as content:
            self._write(
                self._path(self.name[: -len(".gz")].rpartition("/")[2], is_folder=False), content
            )

    def _path(self, name: str, is_folder: bool, *, make: bool = True) -> Path:
        """Where a member goes; it was not there before, nor anything of nearly its name.

        Raises:
            DataError: it may not go there.
        """
        self.count += make
        if self.count > self.most.count:
            self._refuse(name, f"is one more than the {self.most.count:,} that it may have")
        parts = self._parts(name)
        if not parts:
            return self.folder
        for depth in range(1, len(parts) + 1):
            is_leaf = depth == len(parts) and not is_folder
            key, spelled = tuple(map(_folded, parts[:depth])), "/".join(parts[:depth])
            known = self.spelled.setdefault(key, (spelled, is_leaf))
            is_new = known[0] is spelled
            if known[0] != spelled or known[1] != is_leaf or (is_leaf and not is_new):
                self._refuse(name, f"is in the way of {known[0]!r}: some disks take both for one")
        path = self.folder.joinpath(*parts)
        if make:
            (path if is_folder else path.parent).mkdir(parents=True, exist_ok=True)
        return path

    def _parts(self, name: str) -> list[str]:
        if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") for letter in name):
            self._refuse(name, "has a name with characters that do not show")
        if name.startswith(("/", "~")) or "\\" in name or re.match(r"[A-Za-z]:", name):
            self._refuse(name, "lies outside of the folder")
        parts = [part for part in PurePosixPath(name).parts if part != "."]
        if ".." in parts:
            self._refuse(name, "lies outside of the folder")
        for part in parts:
            if _DEVICES.fullmatch(part) or re.search(r'[<>:"|?*]|[. ]$', part):
                self._refuse(name, "has a name that Windows cannot have")
        return parts

    def _write(
        self, path: Path, content: IO[bytes] | gzip.GzipFile, size: int | None = None
    ) -> None:
        if size is not None:
            self._check_size(self.size + size, self.count)
        try:
            with path.open("xb", buffering=0) as handle:
                self._copy(content, handle)
        except FileExistsError:
            self._refuse(path.name, "is there twice")

    def _copy(self, content: IO[bytes] | gzip.GzipFile, handle: BinaryIO) -> None:
        for piece in _pieces(content):
            self.size += len(piece)
            self._check_size(self.size, self.count)
            full.write_all(handle, piece)
            self.at(self.size)

    def _check_size(self, size: int, count: int) -> None:
        if size > self.most.size or count > self.most.count:
            raise DataError(
                f"{self.archive} is refused: it unpacks to more than "
                f"{full.size_in_words(self.most.size)} or {self.most.count:,} files, which the "
                "published one does not. Get it again, from its publisher."
            )

    def damaged(self, why: str) -> NoReturn:
        """Raise the error of a damaged archive.

        Raises:
            DataError: always.
        """
        raise DataError(f"{self.archive} is damaged ({why}). Get it again.")

    def _refuse(self, member: str, why: str) -> NoReturn:
        shown = ascii(member)[1:-1]
        raise DataError(
            f"{self.archive} is refused: {shown[:100]!r} in it {why}. The published archive has no "
            "such thing; get it again, from its publisher."
        )


def _pieces(content: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while piece := content.read(_PIECE):
        yield piece


def _folded(part: str) -> str:
    """A name as disks see it that do not tell cases apart."""
    return unicodedata.normalize("NFC", part).casefold().rstrip(". ")

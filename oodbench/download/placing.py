"""One source into the data folder: fetched, unpacked and checked aside, then moved there at once.

All of it happens in ``downloads`` in the data folder, so that the last step is one renaming: what
lies at a target is whole. A process that is killed leaves pieces there, which the next one uses
or removes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from oodbench import files
from oodbench.disk import full, leftovers, locks
from oodbench.download import hub, transfer
from oodbench.download.archives import Limits, limits, unpack
from oodbench.download.described import Download, RemoteFile
from oodbench.download.progress import Watch
from oodbench.download.transfer import Patience, mirrored
from oodbench.errors import DataError, DownloadError, MissingDataError, StorageError

DOWNLOADS = "downloads"
"""The folder below the data folder where files arrive, and where those are looked for that a person
got."""

_HINT = "Set OODBENCH_DATA to a folder for datasets that you may write."


@dataclass(frozen=True)
class Means:
    """How sources are obtained.

    Args:
        watch: receives the progress.
        brought: a file that a person got, or a folder with such files.
        patience: how long to wait for servers.
    """

    watch: Watch
    brought: Path | None = None
    patience: Patience | None = None


def downloads_dir() -> Path:
    """The folder in which files arrive."""
    return files.data_dir() / DOWNLOADS


def lacking_module(download: Download) -> str:
    """The first module that reading a source takes and that is not installed; ``""`` for none."""
    missing = (name for name in download.needs if importlib.util.find_spec(name) is None)
    return next(missing, "")


def place(
    download: Download,
    name: str,
    is_there: Callable[[], bool],
    check: Callable[[], None],
    means: Means,
) -> None:
    """Put what a source holds into the data folder, unless it is there by now.

    Args:
        download: the source.
        name: of the dataset, for messages.
        is_there: whether what it holds is in the data folder.
        check: raises ``DataError`` if what it holds is not in the data folder as it should be; it
            is called before that, with another data folder.
        means: how.

    Raises:
        MissingDataError: a person has to get some of its files; the message says how.
        DownloadError: it cannot be fetched.
        DataError: it is not what was published.
        StorageError: there is no room, or the folder cannot be written.
    """
    folder = files.writable_dir(downloads_dir(), _HINT)
    lock = folder / f".{files.digested_name(download.target)}.lock"
    with locks.alone(lock, f"the download of {name}"):
        try:
            if not is_there():
                _Placing(download, name, check, means, folder).run()
        finally:
            _remove_empty(folder)


def tidy(download: Download, name: str) -> None:
    """Remove what was fetched for a source that is in its place, by a process that was killed."""
    folder = downloads_dir()
    if not (folder.is_dir() and (files.data_dir() / download.target).exists()):
        return
    repository = "" if download.hub is None else download.hub.repository.replace("/", "--")
    markers = [_marker(folder / file.name) for file in download.files]
    markers += (folder / repository).rglob(".*.fetched") if repository else []
    work = folder / f".{files.digested_name(download.target)}.placing"
    if not work.exists() and not any(marker.is_file() for marker in markers):
        return
    lock = folder / f".{files.digested_name(download.target)}.lock"
    with locks.alone(lock, f"the download of {name}"):
        leftovers.remove(work)
        for marker in markers:
            if marker.is_file():
                fetched = marker.name.removeprefix(".").removesuffix(".fetched")
                leftovers.remove(marker.with_name(fetched))
                leftovers.remove(marker)
        _remove_empty(folder)


class _Placing:
    """One source on its way; the lock is held."""

    def __init__(
        self,
        download: Download,
        name: str,
        check: Callable[[], None],
        means: Means,
        folder: Path,
    ) -> None:
        self.download, self.name, self.check, self.means = download, name, check, means
        self.folder, self.watch, self.done = folder, means.watch, 0
        self.root = files.data_dir()
        self.target = self.root / download.target
        self.work = folder / f".{files.digested_name(download.target)}.placing"

    def run(self) -> None:
        if self.target.exists() and not _is_empty(self.target):
            raise DataError(
                f"{self.name}: {self.target} is there, but it is not the whole set. Move it away, "
                "or remove it, and run this again."
            )
        leftovers.remove(self.work)  # of a process that was killed
        remote = self._files()
        self._check_room(remote)
        total = sum(file.size or 0 for file in remote) or self.download.bytes
        self.watch.begin(self.name, total)
        paths = [self._get(file) for file in remote]
        try:
            with _telling(self.work):
                self._unpack(remote, paths)
            self._check()
            with _telling(self.target):
                self._move()
        except DataError:
            self._discard(paths)
            raise
        finally:
            leftovers.remove(self.work)
        self._discard(paths)

    def _discard(self, paths: list[Path]) -> None:
        """Remove what was fetched and is of no more use; what a person brought stays."""
        for path in paths:
            marker = _marker(path)
            if marker.is_file():
                leftovers.remove(path)
                leftovers.remove(marker)

    def _files(self) -> tuple[RemoteFile, ...]:
        """What there is to fetch.

        Raises:
            MissingDataError: of some a person has to get, not all are there.
        """
        if self.download.hub is not None:
            if self.download.hub.is_gated and not hub.headers():
                raise MissingDataError(by_hand(self.download, self.name, []))
            return hub.listing(self.download.hub, self.means.patience)
        absent = [file for file in self.download.files if not file.url and not self._brought(file)]
        if absent or not self.download.files:
            raise MissingDataError(by_hand(self.download, self.name, absent))
        return self.download.files

    def _brought(self, file: RemoteFile) -> Path | None:
        """A file that is there already, where a person put it or names it."""
        name = Path(file.name).name
        brought = self.means.brought
        candidates = [self.folder / file.name, self.folder / name]
        if brought is not None:
            is_only = len(self.download.files) == 1 and brought.is_file()
            candidates.insert(0, brought if is_only or brought.name == name else brought / name)
        return next((path for path in candidates if path.is_file()), None)

    def _check_room(self, remote: tuple[RemoteFile, ...]) -> None:
        """Check that there is room for what is fetched and for what becomes of it.

        Raises:
            StorageError: there is not.
        """
        wanted = 0
        for file in remote:
            there = self._brought(file)
            path = there or self.folder / f"{file.name}.partial"
            present = path.stat().st_size if path.is_file() else 0
            size = file.size or (self.download.bytes if len(remote) == 1 else 0) or present
            wanted += max(0, size - present) + (
                size if file.is_unpacked or self.download.arrange else 0
            )
        free = full.free_space(self.folder)
        if free is not None and free < wanted:
            raise StorageError(
                f"{self.name} takes {full.size_in_words(wanted)}, and {full.size_in_words(free)} "
                f"are free at {self.root}. Make room, or set OODBENCH_DATA to another folder."
            )

    def _get(self, file: RemoteFile) -> Path:
        """Where a file is, fetched or brought; it is the published one as far as that is known."""
        there = self._brought(file)
        if there is None:
            there = self.folder / file.name
            files.make_dir(there.parent)
            with files.locked(there):  # two sets may be made of one file
                if not there.is_file():
                    with _telling(there):
                        _marker(there).touch()
                    self._fetch(file, there)
                    self.done += there.stat().st_size
                    return there
        self.done += there.stat().st_size
        self.watch.at(self.done)
        problem = transfer.difference(file, there)
        if problem:
            raise DataError(
                f"{self.name}: {there} is not the published file: {problem}. Remove it, and run "
                "this again."
            )
        return there

    def _fetch(self, file: RemoteFile, path: Path) -> None:
        headers = hub.headers() if self.download.hub is not None else {}
        try:
            transfer.fetch(
                file, path, headers=headers, patience=self.means.patience, say=self.watch.say,
                at=lambda count: self.watch.at(self.done + count),
            )  # fmt: skip
        except DownloadError as error:
            if not path.with_name(f"{path.name}.partial").exists():
                leftovers.remove(_marker(path))
            raise type(error)(f"{self.name}: {error}") from error

    def _unpack(self, remote: tuple[RemoteFile, ...], paths: list[Path]) -> None:
        """All that there is into one folder, and what is wanted of it where it will be.

        Raises:
            DataError: an archive is damaged or refused, or has not what is wanted.
        """
        unpacked = self.work / "unpacked"
        unpacked.mkdir(parents=True)
        for file, path in zip(remote, paths, strict=True):
            if file.is_unpacked:
                most = self._limits(path)
                self.watch.begin(f"{self.name}: unpacking {path.name}", 0)
                unpack(path, unpacked, most, Path(file.name).name, self.watch.at)
            else:
                _link(path, unpacked / file.path)
        if self.download.arrange is not None:
            self.watch.say(f"{self.name}: putting it in order")
            self.download.arrange(unpacked)
        source = unpacked / self.download.inside
        if not source.exists():
            raise DataError(
                f"{self.name}: what was fetched from {self.download.source} has no "
                f"{self.download.inside}; it is not what was published."
            )
        placed = self.work / "data" / self.download.target
        placed.parent.mkdir(parents=True)
        source.rename(placed)

    def _limits(self, path: Path) -> Limits:
        most = limits(path, self.download.unpacked)
        free = full.free_space(self.work)
        return most if free is None else Limits(min(most.size, max(free, 1)), most.count)

    def _check(self) -> None:
        """Check the set where it is, before anybody else can see it.

        Raises:
            DataError: it is not the published one.
        """
        self.watch.begin(f"{self.name}: checking", 0)
        with files.data_in(self.work / "data"):
            try:
                self.check()
            except DataError as error:
                here = str(error).replace(str(self.work / "data"), str(self.root))
                raise DataError(
                    f"{self.name}: what was fetched from {self.download.source} is not the "
                    f"published set, and was not kept: {here}"
                ) from error

    def _move(self) -> None:
        placed = self.work / "data" / self.download.target
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if self.target.is_dir():
            self.target.rmdir()  # it is empty, see above
        placed.rename(self.target)


def by_hand(download: Download, name: str, wanted: list[RemoteFile]) -> str:
    """The steps that a person has to take for a source."""
    listed = list(download.steps)
    if download.hub is not None:
        listed.append("Run `hf auth login`, or set HF_TOKEN to a token of that account.")
        listed.append("Run this again.")
    elif wanted:
        names = ", ".join(file.name for file in wanted)
        listed.append(
            f"Put {names} into {downloads_dir()} and run this again, or name the file or its "
            "folder: `brought=PATH`."
        )
    steps = " ".join(f"{number}. {step}" for number, step in enumerate(listed, 1))
    below = "" if download.hub or wanted else f", below {files.data_dir()}"
    how = "wants an account" if download.hub is not None else f"has to be got by hand{below}"
    return f"{name} {how}. {steps}"


def addresses(download: Download) -> list[str]:
    """Where a source's files are fetched from, as things are set on this machine."""
    if download.hub is not None:
        return [f"{hub.endpoint()}/datasets/{download.hub.repository}"]
    drive = "drive:"
    return [
        download.source if file.url.startswith(drive) else mirrored(file.url) if file.url else
        file.name for file in download.files
    ]  # fmt: skip


def _marker(path: Path) -> Path:
    """The file that marks another as fetched, which may go once it is unpacked."""
    return path.with_name(f".{path.name}.fetched")


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _link(path: Path, to: Path) -> None:
    """Give a file a second name; it is copied only where the file system has no links."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def _remove_empty(folder: Path) -> None:
    """Remove empty folders below a folder, those of files that came and went."""
    for inside in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            inside.rmdir()


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Report what cannot be written as for other files."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise full.storage_error(path, error) from error

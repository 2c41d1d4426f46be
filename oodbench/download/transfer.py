"""One file over HTTP: resumed, tried again, and checked before it bears its name.

Neither pooch nor huggingface_hub nor gdown promises all of this: a download that goes on after a
kill, that notices when the file changed in between (``If-Range``), that takes no web page for data,
and whose content is compared with what its publisher says. So they tell what to fetch, and this
fetches it, over requests.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from oodbench import files
from oodbench.disk import full
from oodbench.download import answers, drive
from oodbench.download.described import RemoteFile
from oodbench.errors import DownloadError, NoNetworkError, StorageError

_PIECE = 2**18
_MOST_REDIRECTS = 10
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_PAGE = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    Args:
        connect: seconds until it accepts a connection.
        silence: seconds without a byte, after which it is asked again.
        window: seconds over which it must send ``slowest`` bytes a second on average.
        slowest: bytes a second.
        tries: how often in a row it may send next to nothing.
        pause: seconds before it is asked again; doubled each time.
    """

    connect: float = 20.0
    silence: float = 30.0
    window: float = 60.0
    slowest: float = 1000.0
    tries: int = 6
    pause: float = 1.0


class _AgainError(Exception):
    """A failure that another attempt may mend."""

    def __init__(self, reason: str, wait: float = 0.0, *, is_unreachable: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.is_unreachable = wait, is_unreachable


class _WrongError(Exception):
    """What came is not the published file."""


def mirrored(url: str) -> str:
    """An address, or its place on the mirror that ``OODBENCH_MIRROR`` names: ``MIRROR/HOST/…``."""
    mirror = os.environ.get("OODBENCH_MIRROR", "").rstrip("/")
    parts = urlsplit(url)
    if not mirror or url.startswith(f"{mirror}/"):
        return url
    return f"{mirror}/{parts.netloc}{parts.path}" + (f"?{parts.query}" if parts.query else "")


def fetch(
    file: RemoteFile,
    path: Path,
    *,
    headers: Mapping[str, str] | None = None,
    patience: Patience | None = None,
    at: Callable[[int], object] = lambda _: None,
    say: Callable[[str], object] = lambda _: None,
) -> None:
    """Fetch a file; it appears at its path once it is whole and is the published one.

    What has come so far lies beside it, ``NAME.partial``, so that another call goes on from there.

    Args:
        file: what is fetched.
        path: where it goes.
        headers: what the server is told besides, a token for example.
        patience: how long it is waited for.
        at: told how many bytes are there, as they come.
        say: told, line by line, why it is tried again.

    Raises:
        NoNetworkError: the server cannot be reached.
        DownloadError: it does not have the file, or has another one.
        StorageError: it cannot be written.
    """
    Transfer(file, path, dict(headers or {}), patience or Patience(), at, say).run()


class Transfer:
    """A file on its way; see :func:`fetch`."""

    def __init__(
        self,
        file: RemoteFile,
        path: Path,
        headers: dict[str, str],
        patience: Patience,
        at: Callable[[int], object],
        say: Callable[[str], object],
    ) -> None:
        self.file, self.path, self.patience, self.at, self.say = file, path, patience, at, say
        self.part = path.with_name(f"{path.name}.partial")
        self.notes = path.with_name(f"{path.name}.partial.json")
        self.headers = {
            "Accept-Encoding": "identity",  # else a length would be that of something else
            "User-Agent": "oodbench",
            **headers,
        }
        is_on_drive = file.url.startswith("drive:")
        url = drive.address(file.url.removeprefix("drive:")) if is_on_drive else file.url
        self.is_on_drive, self.url = is_on_drive, mirrored(url)

    def run(self) -> None:
        """Fetch it.

        Raises:
            NoNetworkError, DownloadError, StorageError: see :func:`fetch`.
        """
        failures, wrong = 0, 0
        files.make_dir(self.path.parent)
        with requests.Session() as session:
            while True:
                received = self.received
                try:
                    self._request(session)
                    self._check()
                    break
                except _AgainError as error:
                    failures = 0 if self.received - received >= _PIECE else failures + 1
                    self._wait(error, failures)
                except _WrongError as error:
                    # the pieces of two answers may be the fault: once more, in one
                    self._forget()
                    wrong += 1
                    if not received or wrong > 1:
                        raise DownloadError(
                            f"what {self.url} gives is not the published file: {error}. Nothing "
                            "was kept. Is a proxy in between? Else its publisher has changed it."
                        ) from None
                    self.say(f"{self.file.name}: {error}; fetching it anew")
        self._finish()

    @property
    def received(self) -> int:
        """How many bytes have arrived so far."""
        try:
            return self.part.stat().st_size
        except OSError:
            return 0

    def _wait(self, error: _AgainError, failures: int) -> None:
        most = min(3, self.patience.tries) if error.is_unreachable else self.patience.tries
        if failures >= most:
            if error.is_unreachable:
                raise NoNetworkError(
                    f"{urlsplit(self.url).netloc} cannot be reached ({error}). Is there a network? "
                    f"Else get {self.url} on a machine that has one, and put it at {self.path}."
                ) from None
            raise DownloadError(
                f"{self.url}: {error}, {failures} times in a row. The same command goes on "
                f"from the {full.size_in_words(self.received)} that are there."
            ) from None
        pause = self.patience.pause * 2 ** max(0, failures - 1) * random.uniform(0.75, 1.25)  # noqa: S311
        pause = min(max(pause, error.wait), _LONGEST_PAUSE)
        self.say(f"{self.file.name}: {error}; again in {pause:.0f} s")
        time.sleep(pause)

    def _request(self, session: requests.Session) -> None:
        """Ask for what is not there yet, and take what comes.

        Raises:
            _AgainError: another attempt may succeed.
            DownloadError: it will not.
        """
        known = self._known()
        received = self.received
        total = known.get("total")
        if received and received == total:  # killed between the last byte and the check
            self.at(received)
            return
        validator = known.get("validator")
        headers = dict(self.headers)
        if received and (validator or self.file.has_checksum) and not (total and received > total):
            headers["Range"] = f"bytes={received}-"
            if validator:
                headers["If-Range"] = validator
        with self._answer(session, headers) as answer:
            self._take(answer, received, known)

    def _known(self) -> dict[str, Any]:
        known = files.read_json(self.notes)
        is_ours = isinstance(known, dict) and known.get("url") == self.url
        if not is_ours and self.part.exists():
            self._forget()
        return known if is_ours else {}

    def _answer(self, session: requests.Session, headers: dict[str, str]) -> requests.Response:
        url, confirmed = self.url, False
        for _ in range(_MOST_REDIRECTS):
            try:
                answer = session.get(
                    url, headers=headers, stream=True, allow_redirects=False,
                    timeout=(self.patience.connect, self.patience.silence),
                )  # fmt: skip
            except requests.exceptions.SSLError as error:
                raise DownloadError(
                    f"{url}: the connection is not secure ({answers.reason_of(error)}). Is a "
                    "proxy in between, or the clock wrong?"
                ) from error
            except requests.exceptions.ConnectionError as error:
                raise _AgainError(
                    answers.reason_of(error), is_unreachable=answers.is_unreachable(error)
                ) from error
            except requests.exceptions.Timeout as error:
                raise _AgainError("it does not answer") from error
            except requests.exceptions.RequestException as error:
                raise DownloadError(
                    f"{url} cannot be asked for: {answers.reason_of(error)}."
                ) from error
            if answer.is_redirect:
                to = urljoin(url, answer.headers["Location"])
                answer.close()
                url = self._redirected(url, to, headers)
            elif self.is_on_drive and answer.status_code == 200 and answers.is_page(answer):
                if confirmed:
                    answer.close()
                    raise DownloadError(f"{self.url}: Google Drive asks again and again.")
                confirmed, page = True, answers.text_of(answer)
                url = mirrored(self._redirected(url, urljoin(url, drive.confirmed(page)), headers))
            else:
                return answer
        raise DownloadError(f"{self.url} is redirected {_MOST_REDIRECTS} times and more.")

    def _redirected(self, url: str, to: str, headers: dict[str, str]) -> str:
        """Where a redirect leads, if it may; no token goes to another host.

        Raises:
            DownloadError: it may not.
        """
        before, after = urlsplit(url), urlsplit(to)
        if after.scheme not in ("http", "https") or not after.netloc:
            raise DownloadError(f"{url} redirects to {to}, which is not on the web. It is refused.")
        is_less_secure = before.scheme == "https" and after.scheme == "http"
        if is_less_secure and not self.file.sha256:
            raise DownloadError(f"{url} redirects to {to}, which is not secure. It is refused.")
        if (before.scheme, before.netloc) != (after.scheme, after.netloc):
            headers.pop("Authorization", None)
        return to

    def _take(self, answer: requests.Response, received: int, known: dict[str, Any]) -> None:
        status = answer.status_code
        if status in _PASSING:
            wait = answer.headers.get("Retry-After", "")
            raise _AgainError(
                f"it answers {status} {answer.reason}", float(wait) if wait.isdigit() else 0.0
            )
        if status == 416:
            self._forget()
            raise _AgainError("it has not as many bytes as before")
        if status not in (200, 206):
            raise DownloadError(
                f"{self.url}: it answers {status} {answer.reason}. {answers.hint_of(status)}"
            )
        validator = answers.validator_of(answer)
        if status == 206:
            total = answers.total_of(answer, received)
            if total is None or (known.get("total") or total) != total:
                self._forget()
                raise _AgainError("it sends another part than was asked for")
            if known.get("validator") and (validator or known["validator"]) != known["validator"]:
                self._forget()
                raise _AgainError("the file changed in between")
        else:
            length = answer.headers.get("Content-Length", "")
            received, total = 0, int(length) if length.isdigit() else None
        if self.file.size is not None and total is not None and total != self.file.size:
            raise DownloadError(
                f"{self.url} has {total:,} bytes, the published file {self.file.size:,}. It is "
                "another one; nothing was fetched."
            )
        pieces = _pieces(answer, self.patience)
        first = next(pieces, b"")
        if received == 0 and (answers.is_page(answer) or _PAGE.match(first)):
            raise DownloadError(
                f"{self.url} gives a web page, not the file. Does the network want you to log in, "
                "or was it moved? Open it in a browser, and put the file at "
                f"{self.path}."
            )
        if status == 200:
            self._begin(total, validator)
        self._append(first, pieces, received, total)

    def _begin(self, total: int | None, validator: str | None) -> None:
        """From the first byte: what lies there is of another answer."""
        self._forget()
        files.write_json(self.notes, {"url": self.url, "total": total, "validator": validator})

    def _append(
        self, first: bytes, pieces: Iterator[bytes], received: int, total: int | None
    ) -> None:
        self.at(received)
        try:
            with self.part.open("ab", buffering=0) as handle:
                for piece in itertools.chain([first], pieces):
                    full.write_all(handle, piece)
                    received += len(piece)
                    self.at(received)
        except (StorageError, _AgainError):
            raise
        except OSError as error:
            raise full.storage_error(self.part, error, total) from error
        if total is not None and received < total:
            raise _AgainError(f"it ends after {received:,} of {total:,} bytes")

    def _check(self) -> None:
        """Check what is there.

        Raises:
            _WrongError: it is not the published file.
        """
        problem = difference(self.file, self.part)
        if problem:
            raise _WrongError(problem)

    def _finish(self) -> None:
        try:
            with self.part.open("r+b") as handle:
                full.flush(handle)
            self.part.replace(self.path)
        except OSError as error:
            raise full.storage_error(self.path, error) from error
        self.notes.unlink(missing_ok=True)

    def _forget(self) -> None:
        try:
            self.part.unlink(missing_ok=True)  # first: notes without it mean nothing
            self.notes.unlink(missing_ok=True)
        except OSError as error:
            raise full.storage_error(self.part, error) from error
        self.at(0)


def difference(file: RemoteFile, path: Path) -> str:
    """How a file differs from the published one; ``""`` if it does not.

    Raises:
        DownloadError: it cannot be read.
    """
    try:
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            return f"it has {size:,} bytes, not {file.size:,}"
        for kind, expected in (("sha256", file.sha256), ("md5", file.md5), ("git", file.git)):
            if expected:  # the best that there is
                digest = _digest(path, kind, size)
                return (
                    "" if digest == expected.lower() else f"its {kind} is {digest}, not {expected}"
                )
    except OSError as error:
        raise DownloadError(f"cannot read {path} ({error.strerror}).") from error
    return ""


def _digest(path: Path, kind: str, size: int) -> str:
    """Hex digest of a file; md5 and git's sha1 only where a publisher gives nothing better."""
    whole = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":
        whole.update(b"blob %d\0" % size)
    with path.open("rb") as handle:
        while piece := handle.read(2**20):
            whole.update(piece)
    return whole.hexdigest()


def _pieces(answer: requests.Response, patience: Patience) -> Iterator[bytes]:
    """The body as it is on the wire.

    Raises:
        _AgainError: it breaks off, falls silent or comes too slowly.
    """
    began, count = time.monotonic(), 0
    try:
        for piece in answer.raw.stream(_PIECE, decode_content=False):
            yield piece
            count += len(piece)
            elapsed = time.monotonic() - began
            if elapsed > patience.window:
                if count < patience.slowest * elapsed:
                    raise _AgainError(f"it sends {count / elapsed:.0f} bytes a second")
                began, count = time.monotonic(), 0
    except urllib3.exceptions.ReadTimeoutError as error:
        raise _AgainError(f"it is silent for {patience.silence:.0f} s") from error
    except (urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise _AgainError("the connection broke") from error

"""A web server on this machine that publishes files, and misbehaves where it is told to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Asked:
    """A request."""

    path: str
    headers: dict[str, str]

    @property
    def first(self) -> int:
        """The first byte that is asked for."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(match[1]) if match else 0


Answer = Callable[["Handler", "Asked", bytes], None]


@dataclass
class Publisher:
    """What a server has, what it does, and what it was asked for.

    Args:
        base: its address.
        files: contents by path.
        behaviour: by path, what it does instead of answering well, one after the other.
    """

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    behaviour: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def put(self, path: str, content: bytes | Path, *answers: Answer) -> str:
        """Publish a file; gives its address."""
        self.files[path] = content.read_bytes() if isinstance(content, Path) else content
        self.behaviour[path] = list(answers)
        return self.base + path

    def of(self, path: str) -> list[Asked]:
        """The requests for a file."""
        return [one for one in self.asked if one.path.partition("?")[0] == path]


class Handler(BaseHTTPRequestHandler):
    publisher: Publisher

    def log_message(self, *words: object) -> None:
        return

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.path, headers)
        self.publisher.asked.append(asked)
        for path in (self.path, self.path.partition("?")[0]):
            if path in self.publisher.files:
                break
        else:
            self.answer(404, b"nothing here")
            return
        content = self.publisher.files[path]
        waiting = self.publisher.behaviour[path]
        answer = waiting.pop(0) if waiting else well
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            answer(self, asked, content)

    def answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


def well(
    handler: Handler,
    asked: Asked,
    content: bytes,
    most: int | None = None,
    end: Callable[[], object] = lambda: None,
) -> None:
    """As a good server answers; of the body, ``most`` bytes, and then what ``end`` does."""
    first, tag = asked.first, etag(content)
    if asked.headers.get("if-range", tag) != tag:
        first = 0
    if first and first >= len(content):
        handler.answer(416, b"")
        return
    body = content[first:]
    headers = {"ETag": tag, "Accept-Ranges": "bytes"}
    if first:
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
    sent = body if most is None else body[:most]
    handler.answer(206 if first else 200, sent, len(body), **headers)
    end()


def truncating(most: int) -> Answer:
    """The connection ends after some bytes of the body."""
    return lambda handler, asked, content: well(handler, asked, content, most)


def stalling(most: int) -> Answer:
    """Nothing comes after some bytes of the body, and the connection stays."""

    def answer(handler: Handler, asked: Asked, content: bytes) -> None:
        well(handler, asked, content, most, lambda: handler.publisher.released.wait(20))

    return answer


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """Another status."""
    return lambda handler, asked, content: handler.answer(code, body, **headers)


def page(text: bytes = b"<!DOCTYPE html><html><body>Log in.</body></html>") -> Answer:
    """A web page, with status 200."""
    return lambda handler, asked, content: handler.answer(200, text, Content_Type="text/html")


def redirect(to: str) -> Answer:
    """Elsewhere."""
    return status(302, Location=to)


def whole(handler: Handler, asked: Asked, content: bytes, most: int | None = None) -> None:
    """All of it, whatever range is asked for; nothing that tells one version from another."""
    handler.answer(200, content if most is None else content[:most], len(content))


@contextlib.contextmanager
def publishing() -> Iterator[Publisher]:
    """A server on this machine."""
    publisher = Publisher()
    handler = type("Publishing", (Handler,), {"publisher": publisher})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    publisher.base = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield publisher
    finally:
        publisher.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def publish_on_hub(
    publisher: Publisher, repository: str, content: dict[str, bytes], base: str = "/huggingface.co"
) -> None:
    """A dataset's repository as the Hugging Face hub has it: its state, its tree, its files."""
    commit = hashlib.sha1("".join(content).encode()).hexdigest()
    api = f"{base}/api/datasets/{repository}"
    state = {"id": repository, "sha": commit, "private": False, "gated": False, "tags": [],
             "downloads": 0, "likes": 0, "siblings": []}  # fmt: skip
    tree: list[dict[str, object]] = []
    for path, data in content.items():
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": oid}
        if path.endswith(".parquet"):
            sha256 = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
        tree.append(entry)
        publisher.put(f"{base}/datasets/{repository}/resolve/{commit}/{path}", data)
    publisher.put(f"{api}/revision/main", json.dumps(state).encode())
    publisher.put(f"{api}/tree/{commit}", json.dumps(tree).encode())

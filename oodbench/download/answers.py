"""What a web server's answer says: which version, which part, a page or a file, or why not."""

from __future__ import annotations

import re

import requests
import urllib3


def validator_of(answer: requests.Response) -> str | None:
    """What identifies a version of the file: a strong ETag, else the time it was changed."""
    etag = answer.headers.get("ETag", "")
    strong = etag if etag.startswith('"') else None
    return strong or answer.headers.get("Last-Modified")


def total_of(answer: requests.Response, offset: int) -> int | None:
    """The size of the whole file, if an answer is its part from an offset on; else None."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != offset or int(match[2]) != int(match[3]) - 1:
        return None
    return int(match[3])


def is_page(answer: requests.Response) -> bool:
    """Whether an answer says that it is a web page."""
    return answer.headers.get("Content-Type", "").lower().startswith("text/html")


def text_of(answer: requests.Response) -> str:
    """The text of a page: its first MiB."""
    with answer:
        content: bytes = answer.raw.read(2**20, decode_content=True)
    return content.decode("utf-8", "replace")


def is_unreachable(error: Exception) -> bool:
    """Whether there was no connection at all."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, urllib3.exceptions.NewConnectionError | OSError)


def reason_of(error: Exception) -> str:
    """What a library says of a failure, in its last words."""
    inner = error.args[0] if error.args else error
    text = str(getattr(inner, "reason", None) or inner)
    return text.rpartition(": ")[2].strip("'\")") or type(error).__name__


def hint_of(status: int) -> str:
    """What to do next, by the status of an answer."""
    if status in (401, 403):
        return (
            "It wants to know who you are: agree to its terms in a browser; for the Hugging Face "
            "hub, `hf auth login` or HF_TOKEN is the account's token."
        )
    if status in (404, 410):
        return "It is not there any more; its publisher may have moved it."
    return "It was not expected to."

"""What answers of web servers say, made by hand."""

from __future__ import annotations

import io

import pytest
import requests
import urllib3

from oodbench.download import answers


def answer(body: bytes = b"", **headers: str) -> requests.Response:
    made = requests.Response()
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    made.raw = urllib3.HTTPResponse(io.BytesIO(body), made.headers, preload_content=False)
    return made


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": '"abc"'}, '"abc"'),
        ({"ETag": '"abc"', "Last_Modified": "Mon"}, '"abc"'),
        ({"ETag": 'W/"abc"', "Last_Modified": "Mon"}, "Mon"),  # a weak one is of many contents
        ({"ETag": 'W/"abc"'}, None),
        ({"Last_Modified": "Mon"}, "Mon"),
        ({}, None),
    ],
)
def test_what_a_version_is_recognised_by(headers: dict[str, str], validator: str | None) -> None:
    assert answers.validator_of(answer(**headers)) == validator


@pytest.mark.parametrize(
    ("part", "offset", "total"),
    [
        ("bytes 30-99/100", 30, 100),
        ("bytes 0-99/100", 0, 100),
        ("bytes 30-99/100", 31, None),  # another part than was asked for
        ("bytes 30-89/100", 30, None),  # not to the end
        ("bytes 30-99/*", 30, None),
        ("bytes */100", 30, None),
        ("", 0, None),
    ],
)
def test_the_size_of_the_whole_file(part: str, offset: int, total: int | None) -> None:
    assert answers.total_of(answer(Content_Range=part), offset) == total


@pytest.mark.parametrize(
    ("kind", "is_page"),
    [
        ("text/html", True),
        ("Text/HTML; charset=utf-8", True),
        ("application/zip", False),
        ("text/plain", False),
        ("", False),
    ],
)
def test_a_web_page(kind: str, is_page: bool) -> None:
    assert answers.is_page(answer(Content_Type=kind)) is is_page


def test_the_text_of_a_page() -> None:
    assert answers.text_of(answer("Grüße".encode())) == "Grüße"
    assert answers.text_of(answer(b"a\xffb")) == "a\ufffdb"  # it need not be text
    assert len(answers.text_of(answer(b"x" * (2**20 + 5)))) == 2**20  # nor end


def unreachable(reason: Exception) -> requests.ConnectionError:
    """As requests wraps what urllib3 gave up for."""
    pool = urllib3.HTTPConnectionPool("a.org")
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(pool, "/x", reason))


def test_no_connection_is_told_from_one_that_broke() -> None:
    connection = urllib3.connection.HTTPConnection("a.org")
    refused = urllib3.exceptions.NewConnectionError(connection, "Connection refused")
    assert answers.is_unreachable(unreachable(refused))
    assert answers.is_unreachable(unreachable(OSError("no route")))
    broken = urllib3.exceptions.ProtocolError("Connection broken")
    assert not answers.is_unreachable(requests.ConnectionError(broken))
    assert not answers.is_unreachable(requests.ConnectionError())


def test_the_last_words_of_a_failure() -> None:
    connection = urllib3.connection.HTTPConnection("a.org")
    refused = urllib3.exceptions.NewConnectionError(connection, "Failed: [Errno 111] No")
    assert answers.reason_of(unreachable(refused)) == "[Errno 111] No"
    assert answers.reason_of(requests.ConnectionError("it: is 'so'")) == "is 'so"
    assert answers.reason_of(requests.Timeout()) == "Timeout"


def test_hints() -> None:
    assert "hf auth login" in answers.hint_of(401)
    assert answers.hint_of(403) == answers.hint_of(401)
    assert "not there any more" in answers.hint_of(404)
    assert answers.hint_of(410) == answers.hint_of(404)
    assert answers.hint_of(418) not in (answers.hint_of(401), answers.hint_of(404))

"""The hub is asked which files a repository has; it answers, refuses, or is not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from oodbench.download import hub
from oodbench.download.described import Download, HubFiles
from oodbench.errors import DownloadError, NoNetworkError
from tests.helpers.downloads import QUICK, birds_of, fetched, tree
from tests.helpers.publisher import Publisher, publish_on_hub, status

BIRDS = HubFiles("some/birds")
API = "/huggingface.co/api/datasets/some/birds/revision/main"
CONTENT = {
    "README.md": b"birds",
    "data/test-00000-of-00001.parquet": b"two",
    "data/train-00000-of-00001.parquet": b"three",
    "labels.csv": b"a,b",
}


@pytest.fixture(autouse=True)
def _mirror(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("OODBENCH_MIRROR", publisher.base)


def test_files_of_one_commit_with_sizes_and_digests(publisher: Publisher) -> None:
    publish_on_hub(publisher, "some/birds", CONTENT)
    commit = hashlib.sha1("".join(CONTENT).encode()).hexdigest()
    found = hub.listing(HubFiles("some/birds", ("*.parquet", "labels.csv")), QUICK)
    assert [file.path for file in found] == sorted(set(CONTENT) - {"README.md"})
    for file in found:
        content = CONTENT[file.path]
        base = f"{publisher.base}/huggingface.co/datasets/some/birds/resolve"
        assert file.url == f"{base}/{commit}/{file.path}"
        assert file.name == f"some--birds/{file.path}"
        assert file.size == len(content)
        assert not file.is_unpacked
        if file.path.endswith(".parquet"):
            assert (file.sha256, file.git) == (hashlib.sha256(content).hexdigest(), "")
        else:  # small files are in git itself
            blob = b"blob %d\0" % len(content) + content
            assert (file.sha256, file.git) == ("", hashlib.sha1(blob).hexdigest())


def test_patterns_choose_files(publisher: Publisher) -> None:
    publish_on_hub(publisher, "some/birds", CONTENT)
    found = hub.listing(HubFiles("some/birds", ("data/test-*.parquet",)), QUICK)
    assert [file.path for file in found] == ["data/test-00000-of-00001.parquet"]
    with pytest.raises(DownloadError, match=r"no files \*\.zip; it was changed"):
        hub.listing(HubFiles("some/birds", ("*.zip",)), QUICK)


@pytest.mark.parametrize(
    ("code", "text", "is_asked_again"),
    [
        (401, "hf auth login", False),
        (403, "hf auth login", False),
        (404, "answers 404", False),
        (500, "does not answer well", True),
    ],
)
def test_the_hub_refuses(publisher: Publisher, code: int, text: str, is_asked_again: bool) -> None:
    """What will not change is asked once."""
    refusal = status(code, json.dumps({"error": "no"}).encode(), Content_Type="application/json")
    publisher.put(API, b"", *[refusal] * 40)
    with pytest.raises(DownloadError, match=text):
        hub.listing(BIRDS, QUICK)
    assert len(publisher.asked) == 1 or is_asked_again
    assert len(publisher.asked) >= QUICK.tries or not is_asked_again


def test_a_failure_that_passes(publisher: Publisher) -> None:
    publish_on_hub(publisher, "some/birds", CONTENT)
    publisher.behaviour[API] = [status(500)]
    assert len(hub.listing(BIRDS, QUICK)) == 2


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(NoNetworkError, match=r"127\.0\.0\.1:9.*Is there a network"):
        hub.listing(BIRDS, QUICK)


def test_the_hub_is_not_asked_where_that_is_forbidden(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NoNetworkError, match=r"HF_HUB_OFFLINE|Is there a network"):
        hub.listing(BIRDS, QUICK)
    assert publisher.asked == []


def test_a_file_of_the_hub_that_is_another(publisher: Publisher, data: Path) -> None:
    publish_on_hub(publisher, "some/birds", {"test-00000-of-00001.parquet": b"one"})
    for path in publisher.files:
        if "resolve" in path:
            publisher.files[path] = b"two"
    with pytest.raises(DownloadError, match="not the published file"):
        fetched(birds_of(Download("birds", hub=BIRDS)))
    assert tree(data) == []


def test_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set for the hub goes before the mirror, and that before the hub itself."""
    monkeypatch.setenv("OODBENCH_MIRROR", "https://mirror.example/")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    assert hub.endpoint() == "https://hub.example"
    monkeypatch.delenv("HF_ENDPOINT")
    assert hub.endpoint() == "https://mirror.example/huggingface.co"
    monkeypatch.delenv("OODBENCH_MIRROR")
    assert hub.endpoint() == "https://huggingface.co"


def test_the_token_of_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    assert hub.headers() == {}
    monkeypatch.setattr(hub, "get_token", lambda: "secret")
    assert hub.headers() == {"Authorization": "Bearer secret"}

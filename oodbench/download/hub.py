"""Repositories of the Hugging Face hub: which files they have, of what size and content."""

from __future__ import annotations

import os
import time
from fnmatch import fnmatchcase

from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from oodbench.download.described import HubFiles, RemoteFile
from oodbench.download.transfer import Patience
from oodbench.errors import DownloadError, NoNetworkError


def endpoint() -> str:
    """The hub's address: ``HF_ENDPOINT``, the mirror's, or its own."""
    mirror = os.environ.get("OODBENCH_MIRROR", "").rstrip("/")
    default = f"{mirror}/huggingface.co" if mirror else "https://huggingface.co"
    return (os.environ.get("HF_ENDPOINT") or default).rstrip("/")


def headers() -> dict[str, str]:
    """Headers that identify the account to the hub: its token, if there is one."""
    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def listing(repository: HubFiles, patience: Patience | None = None) -> tuple[RemoteFile, ...]:
    """The files of a repository that are asked for, all of one commit, with sizes and digests.

    Raises:
        NoNetworkError: the hub cannot be reached.
        DownloadError: there is no such repository, it is not for everybody, or it has other files.
    """
    patience = patience or Patience()
    for turn in range(patience.tries):
        try:
            return _listing(repository)
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise DownloadError(_not_given(repository)) from error
        except OfflineModeIsEnabled as error:
            raise NoNetworkError(
                "the Hugging Face hub is not asked, since HF_HUB_OFFLINE is set. Unset it."
            ) from error
        except HfHubHTTPError as error:
            code = error.response.status_code
            if code in (401, 403):
                raise DownloadError(_not_given(repository)) from error
            if code < 500 and code != 429:
                raise DownloadError(f"{repository.url}: it answers {code}.") from error
            reason: Exception = error
        except (DownloadError, KeyboardInterrupt):
            raise
        except Exception as error:  # of one HTTP library or another, by the hub's version
            if turn >= 2:
                raise NoNetworkError(
                    f"{endpoint()} cannot be reached ({error}). Is there a network?"
                ) from error
            reason = error
        if turn + 1 < patience.tries:
            time.sleep(min(60.0, patience.pause * 2**turn))
    raise DownloadError(f"{repository.url} does not answer well ({reason}). Try again later.")


def _listing(repository: HubFiles) -> tuple[RemoteFile, ...]:
    api = HfApi(endpoint=endpoint())
    name = repository.repository
    commit = api.dataset_info(name, revision=repository.revision).sha
    tree = api.list_repo_tree(name, repo_type="dataset", revision=commit, recursive=True)
    listed = []
    for entry in tree:
        if not isinstance(entry, RepoFile):
            continue
        if any(fnmatchcase(entry.path, pattern) for pattern in repository.patterns):
            listed.append(
                RemoteFile(
                    hf_hub_url(
                        name, entry.path, repo_type="dataset", revision=commit, endpoint=endpoint()
                    ),
                    name=f"{name.replace('/', '--')}/{entry.path}",
                    size=entry.lfs.size if entry.lfs else entry.size,
                    sha256=entry.lfs.sha256 if entry.lfs else "",
                    git="" if entry.lfs else entry.blob_id,
                    path=entry.path,
                    is_archive=False,
                )
            )
    if not listed:
        raise DownloadError(
            f"{repository.url} has no files {', '.join(repository.patterns)}; it was changed."
        )
    return tuple(sorted(listed, key=lambda file: file.path))


def _not_given(repository: HubFiles) -> str:
    return (
        f"{repository.url} is not given to everybody. Agree to its terms there, with an account, "
        "and then run `hf auth login`, or set HF_TOKEN to a token of that account."
    )

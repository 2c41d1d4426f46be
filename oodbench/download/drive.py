"""Files on Google Drive: their addresses, and the page that asks before large ones are sent."""

from __future__ import annotations

from gdown.download import get_url_from_gdrive_confirmation
from gdown.exceptions import FileURLRetrievalError

from oodbench.errors import DownloadError


def address(file_id: str) -> str:
    """The address of the file with an id."""
    return f"https://drive.google.com/uc?id={file_id}"


def confirmed(page: str) -> str:
    """The address behind the page that Google sends first: it cannot look for viruses in it.

    Raises:
        DownloadError: the page says something else, such as that too many people want the file.
    """
    try:
        return get_url_from_gdrive_confirmation(page)
    except FileURLRetrievalError as error:
        raise DownloadError(f"Google Drive does not give the file: {error}") from error

"""Cards: who submitted a result, with what, and what a reader has to know of how it came about."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.errors import OODBenchError

ENDING = ".card.toml"

LARGEST = 100_000
"""Bytes that a card may have."""

_NONE = "none"
_URL = re.compile(r"https?://[^\s/]+\.[^\s]+|doi:10\.\S+|arXiv:\d{4}\.\d{4,5}(v\d+)?")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")


@dataclass(frozen=True)
class Card:
    """What stands beside a submitted result.

    Args:
        who: names of those who measured it.
        contact: an e-mail address, or an address on the web where they can be asked.
        paper: where the method is described: an address, ``arXiv:…`` or ``doi:…``; ``none``.
        code: where the code is that made the result; ``none`` where the detector is oodbench's.
        licence: of the network's weights, such as ``MIT``; ``none`` where they are not given away.
        weights: where the weights are; ``none`` where nobody else can have them.
        outlier_data: which images known to be OOD were trained or tuned on; ``none``.
        test_time_adaptation: what adapts to the test data while it is scored; ``none``.
        tuned_on: what options were chosen on: ``nothing``, ``validation`` (the benchmark's own
            split and OOD sets, as ``--tune`` does), or a sentence on what else.
        challenges: of a measurement of an entry that is there already, the name of its result.
        remark: what else a reader should know.
    """

    who: str
    contact: str
    paper: str
    code: str
    licence: str
    weights: str
    outlier_data: str
    test_time_adaptation: str
    tuned_on: str
    challenges: str = ""
    remark: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """What sets the result apart from others: sentences for the page."""
        remarks = []
        if self.outlier_data.casefold() != _NONE:
            remarks.append(f"trained or tuned on outlier data: {self.outlier_data}")
        if self.test_time_adaptation.casefold() != _NONE:
            remarks.append(f"adapts to the test data: {self.test_time_adaptation}")
        if self.tuned_on.casefold() not in ("nothing", "validation"):
            remarks.append(f"tuned elsewhere than on validation data: {self.tuned_on}")
        return tuple(remarks)


FIELDS = tuple(field.name for field in dataclasses.fields(Card))
_OPTIONAL = ("challenges", "remark")


def path_of(result: Path) -> Path:
    """Where the card of a result's file is."""
    return result.with_name(f"{result.stem}{ENDING}")


def beside(result: Path) -> Card | None:
    """The card beside a result; None if there is none.

    Raises:
        OODBenchError: it is no card.
    """
    path = path_of(result)
    return read(path) if path.is_file() else None


def in_folders(folders: Iterable[Path]) -> set[Path]:
    """The cards that lie in some folders: one look at each, however many results are there."""
    return {path for folder in folders for path in folder.glob(f"*{ENDING}") if path.is_file()}


def read(path: Path) -> Card:
    """The card of a file.

    Raises:
        OODBenchError: names the field, and what is wrong with it.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise OODBenchError(f"{path} is too large for a card.")
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OODBenchError(f"{path} is no card ({error}). Write it anew.") from error
    return of(content, str(path))


def of(content: Mapping[str, Any], place: str = "the card") -> Card:
    """A card of its fields.

    Args:
        content: the fields by their names.
        place: where they are, for messages.

    Raises:
        OODBenchError: names the field, and what is wrong with it.
    """
    unknown = [name for name in content if name not in FIELDS]
    missing = [name for name in FIELDS if name not in _OPTIONAL and not content.get(name)]
    if unknown or missing:
        what = [f"it lacks {', '.join(missing)}"] if missing else []
        what += [f"it has {', '.join(unknown)}, which no card has"] if unknown else []
        raise OODBenchError(
            f"{place} is not whole: {'; '.join(what)}. Its fields are {', '.join(FIELDS)}; write "
            "none where there is nothing to name."
        )
    wrong = [name for name, value in content.items() if not _is_line(value)]
    if wrong:
        raise OODBenchError(f"{place}: {', '.join(wrong)} must be text on one line.")
    card = Card(**content)
    if not (_EMAIL.fullmatch(card.contact) or _URL.fullmatch(card.contact)):
        raise OODBenchError(f"{place}: contact {card.contact!r} is no address. Give one.")
    for name in ("paper", "code"):
        value = getattr(card, name)
        if value.casefold() != _NONE and not _URL.fullmatch(value):
            raise OODBenchError(
                f"{place}: {name} {value!r} is no address. Give https://…, arXiv:…, doi:… or none."
            )
    if card.weights.casefold() != _NONE and card.licence.casefold() == _NONE:
        raise OODBenchError(
            f"{place}: weights are given away without a licence, so that nobody may use them. Name "
            "their licence."
        )
    return card


def _is_line(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 2000 and "\n" not in value and "\r" not in value


def text_of(card: Card) -> str:
    """A card as the content of its file."""
    values = dataclasses.asdict(card)
    # a string of JSON is one of TOML too, but for DEL, which JSON leaves as it is
    lines = [f"{name} = {_quoted(value)}" for name, value in values.items() if value]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write(card: Card, result: Path) -> Path:
    """Write the card beside a result; returns its file."""
    path = path_of(result)
    files.write_text(path, text_of(card))
    return path

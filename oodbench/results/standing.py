"""How far results have been checked, in the words of pages; and which are of older code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from oodbench.caching.written import written_digest
from oodbench.errors import OODBenchError
from oodbench.registry import DETECTORS
from oodbench.results.rows import Row
from oodbench.results.stored import StoredResult

REPORTED = "reported"
"""Somebody's figures, of which no scores were kept."""
WORDS = {"scores": "scores checked", "outputs": "outputs checked", "network": "retrained"}
"""What is said of a result by the most that was made again of it."""


@dataclass(frozen=True)
class Standing:
    """What pages say of results besides their figures.

    Args:
        words: by row id, how far the result of the row was checked.
        older: ids of rows that another version of their detector made.
    """

    words: Mapping[str, str] = field(default_factory=dict)
    older: frozenset[str] = frozenset()


def standing_of(results: Iterable[StoredResult]) -> Standing:
    """What pages say of results besides their figures."""
    words: dict[str, str] = {}
    older: set[str] = set()
    known: dict[tuple[str, str | None], bool] = {}  # many results are of the same code
    for result in results:
        first, word = result.rows[0], word_of(result)
        code = first["detector"], first.get("detector_code")
        if code not in known:
            # a detector that is not known here is not of older code: pages are the same everywhere
            known[code] = code[0] in DETECTORS and changed_code(first) is not None
        ids = [row["row_id"] for row in result.rows]
        words |= dict.fromkeys(ids, word)
        if known[code]:
            older.update(ids)
    return Standing(words, frozenset(older))


def word_of(result: StoredResult) -> str:
    """How far a result was checked: the most that was made again, by which version and when.

    Scores that are kept are checked whenever results are (``oodbench verify``).
    """
    for check in reversed(result.checks):
        if check.level in WORDS and check.outcome in ("identical", "within tolerance"):
            return f"{WORDS[check.level]} ({check.oodbench}, {check.date})"
    return REPORTED if result.scores is None else WORDS["scores"]


def changed_code(row: Row) -> str | None:
    """Whether the detector's code is another than that which made the row; a sentence if so."""
    made_with, name = row.get("detector_code"), row["detector"]
    if made_with is None:
        return None
    today = _code_of(name)
    if today is None:
        return f"the detector {name!r} is not known here"
    if today == made_with:
        return None
    return (
        f"another version of the detector {name!r} made it: run `oodbench verify --level outputs` "
        "to see whether its scores are the same today, `--rescore` to make it again"
    )


def _code_of(detector: str) -> str | None:
    """The digest of a detector's code today; None for one that is not known here."""
    if detector not in DETECTORS:
        return None
    try:
        cls = DETECTORS.get(detector)
    except OODBenchError:  # what it needs is not installed
        return None
    if cls not in _DIGESTS:
        _DIGESTS[cls] = written_digest(cls)
    return _DIGESTS[cls]


_DIGESTS: dict[type, str] = {}
"""Digests of classes, which thousands of rows are asked for."""

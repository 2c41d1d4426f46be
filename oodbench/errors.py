"""The errors that oodbench raises on purpose, and the names that somebody may have meant.

Every message says who was wrong, what was expected and what to do next; the command line prints
it without a traceback and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OODBenchError(Exception):
    """Base of all errors that a user can mend."""


class UnknownNameError(OODBenchError, LookupError):
    """A name that is in no registry. The message names the nearest ones."""


class PluginError(OODBenchError):
    """An installed package declares what cannot be used. Names the package and the reason."""


class OptionError(OODBenchError, ValueError, TypeError):
    """An option that does not exist, or a value that it cannot take."""


class NotFittedError(OODBenchError, RuntimeError):
    """``score`` was called before ``fit``."""


class MissingOutputError(OODBenchError, ValueError):
    """A detector needs something of a network's outputs that is not there."""


class BadScoresError(OODBenchError, ValueError):
    """Scores or features that cannot be ranked: empty, NaN or infinite."""


class ChangedInputsError(OODBenchError, RuntimeError):
    """A detector changed the outputs that it was given to read."""


class DataError(OODBenchError):
    """A dataset that is missing, empty or damaged."""


class MissingDataError(DataError, FileNotFoundError):
    """A dataset that is nowhere under the data folder."""


class DownloadError(DataError):
    """A file that cannot be fetched, or that is not the one that was published."""


class NoNetworkError(DownloadError):
    """No publisher can be reached from this machine."""


class CheckpointError(OODBenchError):
    """A checkpoint that does not fit, is damaged, or would run code when read."""


class FittedError(OODBenchError):
    """A fitted detector that cannot be saved, is damaged, or is not for what is at hand."""


class ExportError(OODBenchError):
    """A fitted detector that cannot be written as a graph, and why."""


class StorageError(OODBenchError, OSError):
    """A folder that oodbench has to write to, and cannot."""


class WorkerError(OODBenchError, RuntimeError):
    """Data workers died, or could not hand over what they read."""


class OODBenchWarning(UserWarning):
    """What a reader of the scores has to know; goes into ``Results.warnings``."""


def nearest_names(
    name: str, known: Iterable[str], preferred: Iterable[str] = (), most: int = 3
) -> list[str]:
    """Known names that somebody may have meant, the likeliest first.

    They are alike by :class:`difflib.SequenceMatcher` (a ratio of at least 0.6, of at least 0.5
    where at most three characters were typed, whatever the case of letters), begin with what was
    typed, or have the same characters in another order.

    Args:
        name: what was typed.
        known: the names that there are.
        preferred: more of them, which come first where two are about as near.
        most: how many are returned at most.
    """
    typed = name.lower()
    least = 0.5 if len(typed) <= 3 else 0.6
    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(typed)
    likeness: dict[str, float] = {}
    for names, bonus in ((preferred, 0.05), (known, 0.0)):
        for candidate in names:
            matcher.set_seq1(candidate.lower())
            ratio = 0.0
            if matcher.real_quick_ratio() >= least and matcher.quick_ratio() >= least:
                ratio = matcher.ratio()
            if len(typed) > 2 and candidate.lower().startswith(typed):
                ratio = max(ratio, 0.9)
            if sorted(candidate.lower()) == sorted(typed):
                ratio = max(ratio, 0.95)
            if ratio >= least:
                likeness.setdefault(candidate, ratio + bonus)
    return sorted(likeness, key=lambda other: (-likeness[other], len(other), other))[:most]


def did_you_mean(
    name: str, known: Iterable[str], preferred: Iterable[str] = (), most: int = 3
) -> str:
    """`` Did you mean 'knn' or 'msp'?``, with a space in front; ``""`` where nothing is near.

    Args:
        name: what was typed.
        known: the names that there are.
        preferred: more of them, which come first where two are about as near.
        most: how many are named at most.
    """
    near = nearest_names(name, known, preferred, most)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""

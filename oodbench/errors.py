"""The errors that oodbench raises on purpose.

Every message says who was wrong, what was expected and what to do next; the command line prints
it without a traceback and exits with status 2.
"""

from __future__ import annotations


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


class CheckpointError(OODBenchError):
    """A checkpoint that does not fit, is damaged, or would run code when read."""


class StorageError(OODBenchError, OSError):
    """A folder that oodbench has to write to, and cannot."""


class WorkerError(OODBenchError, RuntimeError):
    """Data workers died, or could not hand over what they read."""


class OODBenchWarning(UserWarning):
    """What a reader of the scores has to know; goes into ``Results.warnings``."""

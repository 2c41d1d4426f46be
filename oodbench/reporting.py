"""What an evaluation says while it runs: lines, progress, warnings, and why a detector failed."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from oodbench.detector import Detector
from oodbench.errors import OODBenchError, OODBenchWarning
from oodbench.runtime.progress import has_terminal
from oodbench.runtime.workers import worker_failure

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")

Report = Callable[[str], None]


def reason_of(error: Exception) -> str:
    """What a user is told of a detector that failed."""
    return str(error) if isinstance(error, OODBenchError) else repr(error)


def own_failure(error: BaseException) -> Exception:
    """What a detector raised, as an error of its own; raises what is none, an interruption.

    A detector that ends the program (``sys.exit``) has failed like any other.
    """
    cause = worker_failure(error) or error
    if isinstance(cause, KeyboardInterrupt):
        raise cause
    if isinstance(cause, Exception):
        return cause
    failure = OODBenchError(f"it ends the program ({cause!r}); a detector has to raise an error.")
    failure.__cause__ = cause
    return failure


def track(detectors: Sequence[Detector], shown: bool | None) -> Iterator[Detector]:
    """The detectors one by one, with a progress bar that names the one at work."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not (has_terminal() if shown is None else shown),
    ) as progress:
        task = progress.add_task("detectors", total=len(detectors))
        for detector in detectors:
            progress.update(task, description=detector.label)
            yield detector
            progress.advance(task)


def of_a_kind(texts: Iterable[str]) -> list[str]:
    """Texts that differ by more than numbers, the first of each: what a detector said once more.

    One that warns whenever it scores, of the share of samples that it is about, is heard once.
    """
    kinds: dict[str, str] = {}
    for text in texts:
        kinds.setdefault(_NUMBER.sub("#", text), text)
    return list(kinds.values())


@contextlib.contextmanager
def warnings_to(note: Callable[[str], None]) -> Iterator[None]:
    """Hands oodbench's warnings to ``note`` when the block ends well; others pass as they are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", OODBenchWarning)
        yield
    for one in caught:
        if issubclass(one.category, OODBenchWarning):
            note(str(one.message))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)

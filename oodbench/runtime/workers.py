"""What it means when data workers fail: the processes that read images beside the main one."""

from __future__ import annotations

import errno
import re
import signal
import traceback
from pathlib import Path

from oodbench.errors import WorkerError
from oodbench.runtime.signals import Interrupted

ALONE = "read images in the main process (`workers=0`)"
_SENT = {"Terminated": "SIGTERM", "Hangup": "SIGHUP", "Interrupt": "SIGINT"}
"""Signals as DataLoader names them that are sent to all processes of a command at once."""


def worker_failure(error: BaseException) -> BaseException | None:
    """What to raise instead of what DataLoader raises when its workers fail.

    Args:
        error: any; its causes are looked at too.

    Returns:
        An interruption, or an error that says what to do; None if no worker failed.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    meaning = next(filter(None, map(_meaning, chain)), None)
    is_silent = any(re.search(r"DataLoader worker.* exited unex", str(e)) for e in chain)
    if meaning is None and (is_silent or is_cut_off(error)):
        return WorkerError(
            "a data worker ended without a word: it crashed, or had no memory. Choose fewer "
            f"workers, or {ALONE}, which shows what is wrong."
        )
    return meaning


def _meaning(error: BaseException) -> BaseException | None:
    text = str(error)
    number = getattr(error, "errno", None) if _is_of_processes(error) else None
    if number in (errno.EMFILE, errno.ENFILE) or re.search(
        r"items of ancdata|shared memory.*Too many open files", text
    ):
        return WorkerError(
            "too many files are open, as data workers hand over each batch in one. Raise the limit "
            f"(ulimit -n 4096), choose fewer workers, or {ALONE}."
        )
    if number == errno.ENOSPC or re.search(r"shared memory|</torch_\d+|shm_open|Bus error", text):
        return WorkerError(
            "the data workers ran out of shared memory, of which a container often has 64 MiB "
            f"(docker run --shm-size=8g gives more). Or {ALONE}."
        )
    if number in (errno.ENOMEM, errno.EAGAIN):
        return WorkerError(
            f"no memory or no processes are left for data workers. Choose fewer, or {ALONE}."
        )
    killed = re.search(r"DataLoader worker.* killed by signal: ([\w ]+)", text)
    if killed and killed[1] in _SENT:
        return Interrupted(getattr(signal, _SENT[killed[1]], signal.SIGTERM))
    if killed and killed[1] == "Killed":
        return WorkerError(
            "a data worker was killed, most likely because the memory is full. Choose fewer "
            f"workers or smaller batches, or {ALONE}."
        )
    if killed:
        return WorkerError(f"a data worker crashed ({killed[1]}). To see why, {ALONE}.")
    return None


def is_cut_off(error: BaseException) -> bool:
    """Whether a process that was talked to is gone."""
    return isinstance(error, ConnectionError | EOFError) and _is_of_processes(error)


def _is_of_processes(error: BaseException) -> bool:
    """Whether Python raised it when it made processes, or what they talk through."""
    frames = traceback.walk_tb(error.__traceback__)
    return any("multiprocessing" in Path(f.f_code.co_filename).parts for f, _ in frames)

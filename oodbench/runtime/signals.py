"""Interruptions: Ctrl-C, a scheduler's SIGTERM and a lost terminal's SIGHUP end a command alike.

Handlers belong to the command line alone and are taken away when it ends; what is called from
Python leaves the caller's as they are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command.

    Args:
        signum: which one.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        _raised[:] = [signum]


_raised: list[int] = []
"""The signal of the last :class:`Interrupted`; the command line's parser hides the exception."""

_pending: list[int] = []
"""The first signal that came, in here from when it came."""


@contextlib.contextmanager
def handled(*, ends: bool) -> Iterator[None]:
    """Raise :class:`Interrupted` in the main thread when such a signal comes.

    Signals that are ignored stay so (``nohup``; SIGINT of a shell's background jobs).

    Args:
        ends: whether the process ends afterwards: then no signal disturbs it any more. Else the
            handlers are put back that were there before.
    """
    before: dict[int, Any] = {}
    _pending.clear()
    _raised.clear()
    owner = os.getpid()

    def handler(signum: int, _: Any) -> None:
        if os.getpid() != owner and signum != signal.SIGINT:  # a data worker, as it was forked
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        _pending.append(signum)
        raise Interrupted(signum)

    try:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
                signum = getattr(signal, name, None)
                if signum is not None and signal.getsignal(signum) is not signal.SIG_IGN:
                    before[signum] = signal.signal(signum, handler)
        yield
    finally:
        if ends:
            ignore()
        else:
            for signum, old in before.items():
                signal.signal(signum, signal.SIG_DFL if old is None else old)
        _pending.clear()


def ignore() -> None:
    """From now on let no signal disturb: the command ends already."""
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)


def raise_if_lost() -> None:
    """Raise again what came where Python drops exceptions: in a hook of a fork, or a destructor."""
    if _pending:
        raise Interrupted(_pending[0])


def status() -> int:
    """The exit status after an interruption, as a shell has it: 130, 143, 129."""
    return 128 + next(iter(_pending or _raised), signal.SIGINT)

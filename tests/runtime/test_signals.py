"""Signals that end a command: in its threads, in processes that it forks, and at its end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from oodbench.runtime import signals
from oodbench.runtime.signals import Interrupted, ignore, raise_if_lost, status
from tests.helpers.cli import HANDLED

NAMES = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
SIGNALS = [signal.Signals[name] for name in NAMES]


@pytest.fixture(autouse=True)
def _signals_are_listened_to() -> Iterator[None]:
    """As in a terminal; a shell's background jobs ignore Ctrl-C."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_is_raised_and_handlers_are_put_back(signum: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught, HANDLED(ends=False):
        signal.raise_signal(signum)
    assert caught.value.signum == signum
    assert status() == 128 + signum
    assert [signal.getsignal(one) for one in SIGNALS] == [signal.SIG_DFL] * len(SIGNALS)


def test_what_was_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with HANDLED(ends=False):
        signal.raise_signal(signal.SIGINT)
        raise_if_lost()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_lost_interruption_is_raised_again() -> None:
    with HANDLED(ends=False):
        with contextlib.suppress(Interrupted):  # as Python drops it in a destructor
            signal.raise_signal(signal.SIGTERM)
        assert status() == 143
        with pytest.raises(Interrupted) as caught:
            raise_if_lost()
    assert caught.value.signum == signal.SIGTERM
    raise_if_lost()  # nothing of it is left for the next command


def test_at_a_commands_end_no_signal_disturbs() -> None:
    with HANDLED(ends=True):
        pass
    for signum in SIGNALS:
        assert signal.getsignal(signum) is signal.SIG_IGN
        signal.raise_signal(signum)


def test_threads_leave_signals_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with HANDLED(ends=True):
            seen.append(signal.getsignal(signal.SIGTERM))
        ignore()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
    assert [signal.getsignal(one) for one in SIGNALS] == [signal.SIG_DFL] * len(SIGNALS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX systems fork")
@pytest.mark.parametrize(("signum", "ends_by"), [(signal.SIGTERM, signal.SIGTERM), (2, 0)])
def test_a_forked_worker_ends_as_if_nobody_listened(signum: int, ends_by: int) -> None:
    """But for Ctrl-C, which the terminal sends to it as well as to the command."""
    with HANDLED(ends=False):
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signum)
                time.sleep(60)
            except Interrupted:
                os._exit(5)
            finally:
                os._exit(6)
        _, ended = os.waitpid(child, 0)
    assert os.WTERMSIG(ended) == ends_by
    assert ends_by or os.WEXITSTATUS(ended) == 5
    assert signals._pending == []

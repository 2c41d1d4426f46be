"""Data workers' begin and end: the processes that read images beside the main one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, ClassVar
from weakref import WeakSet

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from oodbench.runtime.workers import is_cut_off


class Loader(DataLoader[Any]):
    """A ``DataLoader`` whose workers begin by :func:`begin_worker` and end with :func:`ended`."""

    running: ClassVar[WeakSet[_BaseDataLoaderIter]] = WeakSet()
    """The passes of all loaders that somebody still holds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["worker_init_fn"] = begin_worker
        super().__init__(*args, **kwargs)

    def __iter__(self) -> _BaseDataLoaderIter:
        one = super().__iter__()
        self.running.add(one)
        return one


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """Where this fails, end the data workers that were begun within.

    The error would hold them else, idle and with all their memory, until garbage is collected; and
    that waits five seconds for each, as the thread that would tell them is gone by then.
    """
    before = set(Loader.running)
    try:
        yield
    except Exception:  # an interruption ends all processes
        for one in set(Loader.running) - before:
            getattr(one, "_shutdown_workers", lambda: None)()  # without workers it has none
        raise


def begin_worker(_: int = 0) -> None:
    """What a data worker does first: it will not complain that the main process is gone.

    A thread of the worker hands over its batches, and prints how the other side left in the middle
    of one. Where that was an interruption, all is said by the main process.
    """
    others = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not is_cut_off(error):
            others(kind, error, trace)

    sys.excepthook = hook

"""Scoring a stream of images in constant memory: rows in order, whatever becomes of one of them."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import default_collate

from oodbench.deploy.fitted import FittedDetector, Judged
from oodbench.deploy.inputs import prepared
from oodbench.deploy.sources import Item
from oodbench.errors import OODBenchError
from oodbench.hardware import spare_cores

COLUMNS = ("path", "predicted", "score", "p_value", "flagged", "error")
"""Of the rows, in this order."""

_KEPT_TIMES = 20_000
"""Batches whose times are kept for percentiles: the last ones."""


@dataclass
class Row:
    """What is said of one image.

    Args:
        path: which.
        predicted: the ID class that the network gives it; None where it gives none.
        score: higher = more OOD.
        p_value: conformal, small = more OOD.
        flagged: whether it is taken for OOD.
        error: why it could not be scored; the others are None then.
    """

    path: str
    predicted: str | None = None
    score: float | None = None
    p_value: float | None = None
    flagged: bool | None = None
    error: str | None = None


@dataclass
class Counts:
    """What was done so far.

    Args:
        images: rows, with those that could not be read.
        flagged: rows that were flagged.
        failed: rows with an error.
        began: when the first image was asked for.
        times: seconds that network and detector took, by batch.
    """

    images: int = 0
    flagged: int = 0
    failed: int = 0
    began: float = field(default_factory=time.perf_counter)
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_TIMES))

    def summary(self, batch_size: int) -> str:
        """One line for people: how many images, and how fast."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        line = (
            f"{self.images:,} images, {self.flagged:,} flagged, {self.failed:,} could not be "
            f"scored; {self.images / seconds:,.1f} images/s"
        )
        if self.times:
            half, late = 1000 * np.percentile(list(self.times), [50, 99])
            line += (
                f"; network and detector took {half:.2f} ms (p50) and {late:.2f} ms (p99) for a "
                f"batch of {batch_size}"
            )
        return line


class Scorer:
    """Rows of images, in their order; images are read by threads while the network runs.

    Args:
        fitted: the detector.
        tpr: the share of ID images that the threshold keeps; None for the detector's first.
        batch_size: images that the network sees at a time.
        workers: threads that read images; None for as many as there are cores to spare.
        flags: whether the threshold flags; else rows are not flagged yet.
        eager: whether a batch is not waited for until it is full: for streams that pause.

    Attributes:
        counts: what was done so far.
    """

    def __init__(
        self,
        fitted: FittedDetector,
        *,
        tpr: float | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        flags: bool = True,
        eager: bool = False,
    ) -> None:
        self.fitted = fitted
        self.flags = flags
        self.threshold = fitted.threshold_at(tpr)
        self.batch_size = batch_size or fitted.batch_size
        self.workers = max(1, spare_cores() if workers is None else workers)
        self.eager = eager
        self.counts = Counts()

    def rows(self, items: Iterable[Item]) -> Iterator[Row]:
        """The rows of images, as soon as their batch is done."""
        for batch in self._read(items):
            for row in self._scored(batch):
                self.counts.images += 1
                self.counts.flagged += row.flagged is True
                self.counts.failed += row.error is not None
                yield row

    def _read(self, items: Iterable[Item]) -> Iterator[list[tuple[Item, Any]]]:
        """Batches of images as the network sees them, or the errors that took their place."""
        feed = _Feed(items, self.fitted, self.workers, 2 * self.batch_size + self.workers)
        try:
            batch: list[tuple[Item, Any]] = []
            while True:
                taken = feed.take(wait=not batch or not self.eager)
                if taken is not None:
                    batch.append(taken)
                is_done = taken is None and feed.is_over
                if batch and (len(batch) == self.batch_size or taken is None):
                    yield batch
                    batch = []
                if is_done:
                    return
        finally:
            feed.close()

    def _scored(self, batch: list[tuple[Item, Any]]) -> Iterator[Row]:
        good = [i for i, (_, value) in enumerate(batch) if not isinstance(value, Exception)]
        rows = [
            Row(item.path, error=_line(value) if isinstance(value, Exception) else None)
            for item, value in batch
        ]
        if good:
            for index, row in zip(good, self._judged([batch[i] for i in good]), strict=True):
                rows[index] = row
        yield from rows

    def _judged(self, batch: list[tuple[Item, Any]]) -> list[Row]:
        """Rows of images that could be read; where one spoils the batch, it is told of alone."""
        began = time.perf_counter()
        try:
            judged = self.fitted.judge(default_collate([value for _, value in batch]))
        except (OODBenchError, RuntimeError) as error:
            if len(batch) == 1:
                return [Row(batch[0][0].path, error=_line(error))]
            return [row for one in batch for row in self._judged([one])]
        self.counts.times.append(time.perf_counter() - began)
        return self._rows(batch, judged)

    def _rows(self, batch: list[tuple[Item, Any]], judged: Judged) -> list[Row]:
        p_values = self.fitted.calibration.p_values(judged.scores).tolist()
        flagged: list[bool | None] = [None] * len(batch)
        if self.flags:
            flagged = (judged.scores > self.threshold).tolist()
        scores = judged.scores.tolist()
        names = [None] * len(batch) if judged.predicted is None else self._names(judged.predicted)
        return [
            Row(item.path, *values)
            for (item, _), *values in zip(batch, names, scores, p_values, flagged, strict=True)
        ]

    def _names(self, predicted: np.ndarray) -> list[str]:
        classes = self.fitted.classes
        return [classes[i] if i < len(classes) else str(i) for i in predicted.tolist()]


class _Feed:
    """Images that threads read ahead, in order; the source itself runs in a thread, as it may wait.

    Args:
        items: the source.
        fitted: whose preprocessing is done.
        workers: threads.
        ahead: images that are read ahead at most.
    """

    def __init__(
        self, items: Iterable[Item], fitted: FittedDetector, workers: int, ahead: int
    ) -> None:
        self.fitted = fitted
        self.is_over = False
        self._failure: BaseException | None = None
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="oodbench-read")
        self._queue: queue.Queue[tuple[Item, Future[Any]] | None] = queue.Queue(ahead)
        self._thread = threading.Thread(target=self._run, args=(iter(items),), daemon=True)
        self._thread.start()

    def _run(self, items: Iterator[Item]) -> None:
        try:
            for item in items:
                if self._closing.is_set():
                    return
                self._put((item, self._pool.submit(_prepare, item, self.fitted)))
        except BaseException as error:
            self._failure = error
        finally:
            self._put(None)

    def _put(self, value: tuple[Item, Future[Any]] | None) -> None:
        while not self._closing.is_set():
            try:
                self._queue.put(value, timeout=0.1)
            except queue.Full:
                continue
            return

    def take(self, *, wait: bool) -> tuple[Item, Any] | None:
        """The next image and what the network sees of it, or its error; None if there is none.

        Args:
            wait: whether to wait for one; else None also where none is ready.
        """
        if self.is_over:
            return None
        try:
            taken = self._next(wait)
        except queue.Empty:
            return None
        if taken is None:
            self.is_over = True
            if self._failure is not None:
                raise self._failure
            return None
        item, future = taken
        return item, future.result()

    def _next(self, wait: bool) -> tuple[Item, Future[Any]] | None:
        if not wait:
            return self._queue.get_nowait()
        while True:  # with a limit, so that Ctrl-C is heard on every system
            try:
                return self._queue.get(timeout=0.2)
            except queue.Empty:
                continue

    def close(self) -> None:
        """End the threads."""
        self._closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _prepare(item: Item, fitted: FittedDetector) -> Any:
    """What the network sees of an image, or the error."""
    try:
        return prepared(item.load(), fitted.preprocess)
    except Exception as error:  # whatever a damaged file raises
        return error


def _line(error: Exception) -> str:
    text = str(error) if isinstance(error, OODBenchError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())

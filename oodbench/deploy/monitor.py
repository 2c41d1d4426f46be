r"""Monitor: whether a stream of images still is what the detector was calibrated on.

Each score gets the smoothed conformal p-value of its rank among the calibration scores and all
scores of the stream before it, ties broken at random:

.. math:: p_t = \frac{\#\{s > s_t\} + u_t (\#\{s = s_t\} + 1)}{N_t + 1}

While calibration and stream are exchangeable, :math:`p_1, p_2, \dots` are independent and uniform
(Vovk, Gammerman, Shafer, 2005, Theorem 8.2). That would not hold of p-values that compare with the
calibration scores alone: these share one fixed set, and their small common error adds up over a
long stream. Against uniformity a family of bets is laid, each a density f on [0, 1] whose capital
is multiplied by f(p). A share :math:`\pi` of the stream is taken to be OOD, with scores that are
moved by d where those of ID images are made normal, or with p-values below :math:`\alpha` alone:

.. math:: f = 1 - \pi + \pi \exp(d z - d^2 / 2), \; z = \Phi^{-1}(1 - p)
    \quad \text{or} \quad f = 1 - \pi + \pi\,\alpha^{-1} 1[p \le \alpha]

As nobody knows when a stream changes, a part :math:`w_k` of the capital is laid at each step k anew
(Shiryaev and Roberts lay as much each time, which bounds the time between false alarms; parts that
sum to one bound the chance of any). With :math:`W_k` for what is not laid before step k,

.. math:: M_t = W_{t+1} + \frac1B \sum_b \sum_{k \le t} w_k \prod_{i=k}^{t} f_b(p_i), \quad
    W_k = \frac13 \sum_{K \in \{1, 30, 1000\}} \frac{K}{k + K - 1}, \quad w_k = W_k - W_{k+1}

so that a change within the first images costs little evidence, and one among thousands not much
more. Bets and parts were chosen on simulated streams, of normal and other scores.

M is a non-negative martingale that begins at 1, so by Ville's inequality

.. math:: P(\exists t: M_t \ge 1/\delta) \le \delta

which is the bound on a false alarm over the whole stream, however long it is and however often one
looks. Betting against exchangeability: V. Vovk, I. Nouretdinov, A. Gammerman, "Testing
exchangeability on-line", ICML 2003; V. Vovk et al., "Retrain or not retrain: conformal test
martingales for change-point detection", COPA 2021, arXiv:2102.10439. Bets that begin at each step:
J. Shin, A. Ramdas, A. Rinaldo, "E-detectors: a nonparametric framework for sequential change
detection", NEJSDS 2024, arXiv:2203.03532.

What is not guaranteed: nothing holds where ID images do not come in an exchangeable order (frames
of a video, a day and a night), or where calibration images are of another kind than the stream's
ID images: that is a change too, and may raise the alarm. Beyond ``REMEMBERED`` scores new ones are
compared, but not remembered, and the bound holds nearly, no longer exactly.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save
from scipy import special

from oodbench import files
from oodbench.deploy.fitted import FittedDetector
from oodbench.errors import BadScoresError, FittedError, OptionError

REMEMBERED = 1_000_000
"""Scores that a stream is compared with at most, the calibration's among them: 8 MB."""

RECENT = 500
"""Images over which the recent share is taken."""

_LARGEST = 1e280
"""Where capital stays, so that it does not overflow; an alarm was raised long before."""

_ONSETS = (1, 30, 1000)
"""The images by which half of the capital of each third is laid."""

_MOVED = np.array([0.75, 1.25, 1.75, 2.5])  # d
_MOVED_SHARES = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
_TAILS = np.array([0.05, 0.1, 0.2, 0.4])  # alpha
_TAIL_SHARES = np.array([0.1, 0.2, 0.4])
_BETS = len(_MOVED) * len(_MOVED_SHARES) + len(_TAILS) * len(_TAIL_SHARES)
_VERSION = 2


class Monitor:
    """A stream of scores: the share that is flagged, and an alarm when it is no longer ID.

    Args:
        fitted: whose calibration scores and threshold count; or the scores themselves, ``[n]``.
        false_alarms: the probability that an alarm is ever raised in a stream of ID images.
        threshold: the score above which an image counts as flagged; None for the detector's.
        seed: of the random numbers that break ties.

    Attributes:
        seen: images so far.
        flagged: how many of them were.
        alarmed_at: the number of the image at which the alarm was raised, from 1; None before.

    Raises:
        OptionError: ``false_alarms`` is not in (0, 1), or scores are given without a threshold.
    """

    def __init__(
        self,
        fitted: FittedDetector | Any,
        false_alarms: float = 0.05,
        *,
        threshold: float | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 < false_alarms < 1:
            raise OptionError(f"`false_alarms` is a probability in (0, 1), not {false_alarms:g}.")
        if isinstance(fitted, FittedDetector):
            reference = fitted.calibration.scores
            threshold = fitted.threshold if threshold is None else threshold
        else:
            reference = np.sort(np.asarray(fitted, dtype=np.float64).reshape(-1))
        if threshold is None:
            raise OptionError("scores alone have no threshold: give threshold=... beside them.")
        if not len(reference) or not np.isfinite(reference).all():
            raise BadScoresError("a monitor wants finite scores of held-out ID images.")
        self.false_alarms = float(false_alarms)
        self.threshold = float(threshold)
        self.seen = self.flagged = 0
        self.alarmed_at: int | None = None
        self._reference = array("d", reference.tolist())
        self._calibration: np.ndarray = reference
        self._calibrated_on = files.digest(reference.tolist())
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._capital = np.zeros(_BETS)
        self._recent: deque[bool] = deque(maxlen=RECENT)

    # --- what there is to see -------------------------------------------------------------------

    @property
    def alarm(self) -> bool:
        """Whether the alarm was raised; it stays so until :meth:`reset`."""
        return self.alarmed_at is not None

    @property
    def evidence(self) -> float:
        """The martingale, 1 at the beginning: the alarm is raised at ``1 / false_alarms``."""
        return float(self._capital.mean()) + _not_laid(self.seen + 1)

    @property
    def share(self) -> float:
        """The share of images so far that were flagged; NaN before the first."""
        return self.flagged / self.seen if self.seen else math.nan

    @property
    def recent_share(self) -> float:
        """The same of the last ``RECENT`` images."""
        return sum(self._recent) / len(self._recent) if self._recent else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """A 95 % interval of the rate at which images are flagged, all looks together.

        It holds for a rate that does not change, at every time at once: see
        :func:`confidence_sequence`.
        """
        return confidence_sequence(self.flagged, self.seen)

    def summary(self) -> str:
        """A line for people."""
        if not self.seen:
            return "no image so far"
        low, high = self.interval
        state = (
            f"ALARM since image {self.alarmed_at:,}: these are no longer images as it was "
            "calibrated on"
            if self.alarmed_at is not None
            else f"no alarm (evidence {self.evidence:.3g} of {1 / self.false_alarms:.3g})"
        )
        return (
            f"{self.seen:,} images, {100 * self.share:.2f} % flagged (95 % interval "
            f"{100 * low:.2f} to {100 * high:.2f} %), {100 * self.recent_share:.2f} % of the last "
            f"{len(self._recent):,}; {state}"
        )

    # --- the stream -----------------------------------------------------------------------------

    def update(self, scores: float | Iterable[float]) -> bool:
        """Take the next scores of the stream, in order.

        Args:
            scores: one, or several.

        Returns:
            Whether the alarm is raised, by these or before.

        Raises:
            BadScoresError: one is not finite; those before it count.
        """
        for score in np.asarray(scores, dtype=np.float64).reshape(-1).tolist():
            if not math.isfinite(score):
                raise BadScoresError(f"the score of image {self.seen + 1:,} is {score}.")
            self._take(score)
        return self.alarm

    def _take(self, score: float) -> None:
        step = self.seen + 1
        self._capital += _not_laid(step) - _not_laid(step + 1)
        self._capital *= _bets(self._p_value(score))
        np.minimum(self._capital, _LARGEST, out=self._capital)
        self.seen += 1
        self.flagged += score > self.threshold
        self._recent.append(score > self.threshold)
        if self.alarmed_at is None and self.evidence >= 1 / self.false_alarms:
            self.alarmed_at = self.seen

    def _p_value(self, score: float) -> float:
        known = self._reference
        left, right = bisect_left(known, score), bisect_right(known, score)
        above, ties = len(known) - right, right - left
        p = (above + self._random.random() * (ties + 1)) / (len(known) + 1)
        if len(known) < REMEMBERED:
            known.insert(right, score)
        return p

    def reset(self) -> None:
        """Begin a new stream with the same calibration; it has a false alarm probability anew."""
        self._reference = array("d", self._calibration.tolist())
        self._capital[:] = 0
        self._recent.clear()
        self.seen = self.flagged = 0
        self.alarmed_at = None

    # --- on disk --------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the state to one file, whole or not at all; no pickle.

        Raises:
            StorageError: it cannot be written.
        """
        about: dict[str, Any] = {
            "version": _VERSION,
            "false_alarms": self.false_alarms,
            "threshold": self.threshold,
            "seen": self.seen,
            "flagged": self.flagged,
            "alarmed_at": self.alarmed_at,
            "random": self._random.bit_generator.state,
        }
        tensors = {
            "reference": np.frombuffer(self._reference, dtype=np.float64),
            "calibration": self._calibration,
            "capital": self._capital,
            "recent": np.array(self._recent, dtype=bool),
        }
        about["sha256"] = _sealed(about, tensors)
        content = save(tensors, metadata={"oodbench_monitor": json.dumps(about)})
        files.write_bytes(files.user_path(path), content)

    @classmethod
    def load(cls, path: str | Path, fitted: FittedDetector | None = None) -> Monitor:
        """The monitor that was saved; it goes on where it stopped.

        Args:
            path: the file.
            fitted: the detector that it must be of; None for whichever it was.

        Raises:
            FittedError: there is no such file, it is damaged, or it is another detector's.
        """
        where = files.user_path(path)
        try:
            monitor = cls._read(where)
        except FileNotFoundError as error:
            raise FittedError(f"there is no state of a monitor {where}.") from error
        except Exception as error:  # damaged files have as many errors as bytes
            raise FittedError(
                f"{where} is no state of a monitor, or is damaged ({error}). Begin a new one."
            ) from error
        if fitted is not None and monitor._calibrated_on != files.digest(
            fitted.calibration.scores.tolist()
        ):
            raise FittedError(f"{where} is the state of another detector's monitor.")
        return monitor

    @classmethod
    def _read(cls, path: Path) -> Monitor:
        with safe_open(path, framework="numpy") as handle:
            about = json.loads((handle.metadata() or {})["oodbench_monitor"])
            held = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        if about["version"] != _VERSION:
            raise FittedError(f"it is of version {about['version']}")
        if about["sha256"] != _sealed(about, held):
            raise FittedError("it is not what was written")
        monitor = cls(held["calibration"], about["false_alarms"], threshold=about["threshold"])
        monitor._reference = array("d", held["reference"].tolist())
        monitor._capital = held["capital"].copy()
        monitor._recent.extend(held["recent"].tolist())
        monitor._random.bit_generator.state = about["random"]
        monitor.seen, monitor.flagged = about["seen"], about["flagged"]
        monitor.alarmed_at = about["alarmed_at"]
        return monitor


def _sealed(about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """A digest of all that a state says."""
    plain = {name: value for name, value in about.items() if name != "sha256"}
    content = {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in tensors.items()}
    return files.digest([plain, content])


def _not_laid(k: int) -> float:
    """The part of the capital that is not laid before step k, from 1: all of it, and less and less.

    Half of each third is laid within as many images as ``_ONSETS`` says.
    """
    return sum(scale / (k + scale - 1) for scale in _ONSETS) / len(_ONSETS)


def _bets(p: float) -> np.ndarray:
    """``[B]``: by what each bet multiplies its capital."""
    z = -special.ndtri(min(max(p, 1e-12), 1 - 1e-12))
    moved = np.exp(_MOVED * z - _MOVED**2 / 2)
    tails = (p <= _TAILS) / _TAILS
    factors = (
        1 + _MOVED_SHARES[:, None] * (moved - 1),
        1 + _TAIL_SHARES[:, None] * (tails - 1),
    )
    return np.concatenate([one.ravel() for one in factors])


def confidence_sequence(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """An interval of a rate from its hits so far, which holds at all times together.

    Robbins's mixture: the rates p for which the likelihood of the hits under a uniform prior, over
    that under p, is below 1 / (1 - confidence). That ratio is a martingale under the true p.

    Args:
        hits: in n trials.
        n: trials so far.
        confidence: that no interval, from the first trial on, misses the rate.
    """
    if n == 0:
        return 0.0, 1.0
    limit = special.betaln(hits + 1, n - hits + 1) + math.log(1 - confidence)

    def log_likelihood(p: float) -> float:
        return float(special.xlogy(hits, p) + special.xlog1py(n - hits, -p))

    def edge(outside: float, inside: float) -> float:
        if log_likelihood(outside) > limit:
            return outside
        for _ in range(60):
            middle = (outside + inside) / 2
            is_in = log_likelihood(middle) > limit
            outside, inside = (outside, middle) if is_in else (middle, inside)
        return outside

    best = hits / n
    return edge(0.0, best), edge(1.0, best)

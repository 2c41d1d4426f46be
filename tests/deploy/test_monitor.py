"""Monitor: no alarm on ID streams, one soon after contamination, and a state that goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from oodbench import Monitor
from oodbench.deploy import monitor as module
from oodbench.deploy.monitor import confidence_sequence
from oodbench.errors import BadScoresError, FittedError, OptionError
from tests.helpers.fitted import blobs, fitted, strange


def new(n: int = 500, seed: int = 0, false_alarms: float = 0.05) -> Monitor:
    rng = np.random.default_rng(100 + seed)
    return Monitor(rng.normal(size=n), false_alarms, threshold=1.645, seed=seed)


def test_no_more_capital_is_laid_than_there_is() -> None:
    left = np.array([module._not_laid(k) for k in range(1, 5000)])
    assert left[0] == 1
    assert (np.diff(left) < 0).all()
    assert module._not_laid(10**9) < 1e-6


def test_bets_are_fair() -> None:
    """Each is a density: under uniform p-values the capital is on average what it was."""
    v = (np.arange(4000) + 0.5) / 4000  # p = v^10: the steep bets have their mass near zero
    gains = np.array([module._bets(one**10) * 10 * one**9 for one in v])
    assert gains.shape[1] == module._BETS
    np.testing.assert_allclose(gains.mean(axis=0), 1, atol=0.02)
    assert (module._bets(0.9999) > 0).all()


def test_p_values_are_uniform_and_independent() -> None:
    monitor = new(50)
    rng = np.random.default_rng(1)
    p = np.array([monitor._p_value(score) for score in rng.normal(size=3000)])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(p[1:], p[:-1])[0, 1]) < 4 / np.sqrt(len(p))


def test_tied_scores_are_no_evidence() -> None:
    monitor = Monitor(np.zeros(100), 0.05, threshold=0.0)
    monitor.update(np.zeros(3000))
    assert not monitor.alarm
    assert monitor.flagged == 0


def test_no_alarm_on_id_streams() -> None:
    """20 streams of 2,000; the slow test has longer ones."""
    alarms = 0
    for seed in range(20):
        monitor = new(seed=seed)
        alarms += monitor.update(np.random.default_rng(seed).normal(size=2000))
    assert alarms <= 3  # P(more than 3 of 20 at 5 %) = 0.016


@pytest.mark.slow
def test_no_alarm_on_long_id_streams() -> None:
    """Of 100 ID streams of 10,000 at most 5 % raise an alarm, within sampling error."""
    alarms = 0
    for seed in range(100):
        monitor = new(seed=seed)
        alarms += monitor.update(np.random.default_rng(seed).normal(size=10_000))
    assert alarms <= stats.binom.ppf(0.99, 100, 0.05)


@pytest.mark.parametrize("onset", [0, 1000])
def test_contamination_is_found(onset: int) -> None:
    """20 % of images whose scores are one and a half deviations higher (AUROC 0.86)."""
    delays = []
    for seed in range(9):
        monitor, rng = new(2000, seed), np.random.default_rng(seed)
        monitor.update(rng.normal(size=onset))
        assert not monitor.alarm
        while not monitor.alarm:
            monitor.update(rng.normal() + 1.5 * (rng.random() < 0.2))
        assert monitor.alarmed_at == monitor.seen
        delays.append(monitor.seen - onset)
    assert np.median(delays) < 200


def test_a_fitted_detectors_stream() -> None:
    detector = fitted("knn")
    monitor = Monitor(detector, seed=1)
    assert not monitor.update(detector.score(blobs(300, 5)))
    assert "no alarm" in monitor.summary()
    assert 0 <= monitor.interval[0] <= monitor.share <= monitor.interval[1] <= 1
    assert monitor.update(detector.score(strange(100)))
    assert monitor.alarmed_at is not None
    assert 300 < monitor.alarmed_at < 400
    assert "ALARM since image 3" in monitor.summary()
    assert monitor.recent_share > 0.2


def test_a_state_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(size=200).round(1), rng.normal(1, 1, 300).round(1)])
    whole, first = new(), new()
    whole.update(scores)
    first.update(scores[:150])
    first.save(tmp_path / "state")
    second = Monitor.load(tmp_path / "state")
    second.update(scores[150:])
    for name in ("evidence", "alarmed_at", "seen", "flagged", "share", "recent_share"):
        assert getattr(second, name) == getattr(whole, name), name
    whole.reset()
    assert (whole.seen, whole.evidence, whole.alarm) == (0, 1.0, False)
    assert "no image" in whole.summary()


def test_a_damaged_or_another_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(FittedError, match="there is no state"):
        Monitor.load(path)
    monitor = new()
    monitor.update([1.0, 2.0])
    monitor.save(path)
    with pytest.raises(FittedError, match="another detector's"):
        Monitor.load(path, fitted("msp"))
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(FittedError, match="damaged"):
        Monitor.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(FittedError, match="damaged"):
        Monitor.load(path)


def test_what_cannot_be_is_refused() -> None:
    for wrong in (0, 1, 2):
        with pytest.raises(OptionError, match="false_alarms"):
            Monitor([1.0], wrong, threshold=1)
    with pytest.raises(OptionError, match="threshold"):
        Monitor([1.0])
    with pytest.raises(BadScoresError):
        Monitor([], threshold=1)
    monitor = new()
    with pytest.raises(BadScoresError, match="image 2"):
        monitor.update([1.0, np.nan])
    assert monitor.seen == 1


def test_long_streams_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 600)
    monitor = new(500)
    monitor.update(np.random.default_rng(0).normal(size=300))
    assert len(monitor._reference) == 600
    assert monitor.seen == 300


def test_intervals_hold_at_all_times() -> None:
    assert confidence_sequence(0, 0) == (0.0, 1.0)
    assert confidence_sequence(0, 100)[0] == 0.0
    assert confidence_sequence(100, 100)[1] == 1.0
    low, high = confidence_sequence(50, 1000)
    assert low < 0.05 < high < 0.09
    rng, missed = np.random.default_rng(0), 0
    for _ in range(100):
        hits = np.cumsum(rng.random(300) < 0.1)
        looks = (confidence_sequence(int(hits[n - 1]), n) for n in range(1, 301, 7))
        missed += any(not low <= 0.1 <= high for low, high in looks)
    assert missed <= 10

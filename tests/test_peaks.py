"""Peaks: found as they would be in the whole, kept line by line, read back whatever was cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsd.detect import peaks
from kwsd.detect.detector import Trace
from kwsd.detect.peaks import FLOOR, PeakMeter
from kwsd.state.peak_log import PeakLog, WordPeaks, pack, unpack

CHUNK = 1280


def trace(scores: np.ndarray, begin: int = 0) -> Trace:
    return Trace(("a", "b"), (begin + 1 + np.arange(len(scores))) * CHUNK, scores.astype(np.float32))


def test_a_peak_within_a_second_of_a_higher_one_is_not_told() -> None:
    scores = np.zeros((100, 2))
    scores[[10, 12, 50, 90], 0] = 0.9, 0.95, 0.4, FLOOR / 2
    scores[30, 1] = 0.3
    meter = PeakMeter()
    meter.add(trace(scores))
    found = meter.take()
    assert found["a"] == [(13 * CHUNK, pytest.approx(0.95)), (51 * CHUNK, pytest.approx(0.4))]
    assert found["b"] == [(31 * CHUNK, pytest.approx(0.3))]
    assert meter.take() == {}
    assert meter.end == 100 * CHUNK


@given(st.lists(st.integers(0, 200), max_size=6), st.integers(0, 2**32 - 1))
def test_the_cuts_between_traces_do_not_matter(cuts: list[int], seed: int) -> None:
    scores = np.random.default_rng(seed).random((200, 2)) ** 12
    whole, parts = PeakMeter(), PeakMeter()
    whole.add(trace(scores))
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 200], strict=True):
        parts.add(trace(scores[begin:end], begin))
    assert parts.take() == whole.take()


def test_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = PeakLog(tmp_path / "state")
    assert log.read() == {}
    first = {"a": WordPeaks("m1", 600.0, ((1000.0, 0.5, True), (1001.5, 0.1, False)))}
    monkeypatch.setattr(peaks.time, "time", lambda: 5000.0)
    log.append(first)
    with log.path.open("ab") as cut_off:
        cut_off.write(b'{"written": 5100, "wor')
    monkeypatch.setattr(peaks.time, "time", lambda: 5600.0)
    log.append({"a": WordPeaks("m2", 300.0, ())})
    assert log.read() == {"a": [*first.values(), WordPeaks("m2", 300.0, ())]}
    assert log.read(since=5000.0) == {"a": [WordPeaks("m2", 300.0, ())]}
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_it_forgets_its_older_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "MOST_BYTES", 4000)
    log = PeakLog(tmp_path)
    for n in range(300):
        log.append({"a": WordPeaks(str(n), 600.0, ())})
    kept = [int(one.model) for one in log.read()["a"]]
    assert kept == list(range(kept[0], 300))
    assert log.path.stat().st_size < 5000


def test_messages_carry_the_highest() -> None:
    stretches = [WordPeaks("m", 10.0, ((1.0, 0.2, False), (2.0, 0.9, True))), WordPeaks("m", 20.0, ((3.0, 0.5, False),))]
    assert unpack(pack(stretches, 10)) == stretches
    assert unpack(pack(stretches, 2)) == [WordPeaks("m", 10.0, ((2.0, 0.9, True),)), stretches[1]]

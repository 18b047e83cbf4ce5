"""The peak meter finds the same peaks in parts as in the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsd.detect.peaks import FLOOR, PeakMeter
from kwsd.detect.trace import Trace

CHUNK = 1280


def trace(scores: np.ndarray, begin: int = 0) -> Trace:
    """Return the trace of consecutive chunks, the first of which has the index `begin`."""
    end = (begin + 1 + np.arange(len(scores))) * CHUNK
    scores = scores.astype(np.float32)
    nothing = np.full_like(scores, np.nan)
    return Trace(("a", "b"), end, scores, scores, nothing, np.ones(len(end), np.bool_))


def test_a_peak_within_a_second_of_a_higher_one_is_not_reported() -> None:
    scores = np.zeros((100, 2))
    scores[[10, 12, 50, 90], 0] = 0.9, 0.95, 0.4, FLOOR / 2
    scores[30, 1] = 0.3
    meter = PeakMeter()
    meter.add(trace(scores))
    found = meter.take()
    assert [one.at for one in found["a"]] == [13 * CHUNK, 51 * CHUNK]
    assert [one.peak for one in found["a"]] == pytest.approx([0.95, 0.4])
    assert [one.decided for one in found["a"]] == [None, None]
    assert [one.at for one in found["b"]] == [31 * CHUNK]
    assert [one.peak for one in found["b"]] == pytest.approx([0.3])
    assert meter.take() == {}
    assert meter.end == 100 * CHUNK


def test_beside_the_peak_is_the_score_that_decided() -> None:
    scores = np.zeros((100, 2))
    scores[10:15, 0] = 0.3, 0.55, 0.8, 0.95, 0.7
    scores[40:43, 0] = 0.2, 0.45, 0.3
    scores[10:12, 1] = 0.6, 0.7
    meter = PeakMeter()
    for begin in range(0, 100, 12):  # the decision and the peak lie in different parts
        meter.add(trace(scores[begin : begin + 12], begin), {"a": 0.5})
    found = meter.take()
    assert [one.peak for one in found["a"]] == pytest.approx([0.95, 0.45])
    assert [one.decided for one in found["a"]] == [pytest.approx(0.55), None]
    assert [one.decided for one in found["b"]] == [None]  # it has no threshold


@given(st.lists(st.integers(0, 200), max_size=6), st.integers(0, 2**32 - 1))
def test_the_cuts_between_traces_do_not_matter(cuts: list[int], seed: int) -> None:
    scores = np.random.default_rng(seed).random((200, 2)) ** 12
    whole = PeakMeter()
    parts = PeakMeter()
    whole.add(trace(scores), {"a": 0.5})
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 200], strict=True):
        parts.add(trace(scores[begin:end], begin), {"a": 0.5})
    assert parts.take() == whole.take()

"""Where a phrase lies in a take: with its speaker's pauses, without clicks and other speech."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import RATE, hiss, say

from kwsd.audio.speech_span import phrase_span, speech_span


def spoken(text: str) -> np.ndarray:
    """Return speech without the silence around it."""
    speech = say(text)
    start, end = speech_span(speech.astype(np.float32))
    return speech[start:end]


def with_pause(pause_s: float, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return two parts with a pause between them, and half a second around them."""
    return np.concatenate([hiss(0.5), first, hiss(pause_s), second, hiss(0.5)])


@pytest.mark.parametrize("pause_s", [0.05, 0.2, 0.36, 0.45, 0.6, 0.66])
@pytest.mark.parametrize("quieter", [1, 4])
def test_a_phrase_with_a_pause_is_whole_whichever_half_is_louder(
    pause_s: float, quieter: int
) -> None:
    okay, banana = spoken("okay"), spoken("banana")
    for first, second in ((okay, banana // quieter), (okay // quieter, banana)):
        take = with_pause(pause_s, first, second)
        phrase = phrase_span(take.astype(np.float32))
        assert phrase.left_out == ()
        assert abs(phrase.start - RATE // 2) < RATE // 20
        assert abs(len(take) - RATE // 2 - phrase.end) < RATE // 20
        if pause_s >= 0.36:
            (_, end), (start, _) = phrase.parts
            assert (start - end) / RATE == pytest.approx(pause_s, abs=0.1)


@pytest.mark.parametrize(("pause_s", "quieter"), [(0.9, 3), (1.5, 3), (0.5, 16)])
def test_what_is_further_apart_or_far_quieter_is_left_out_and_said(
    pause_s: float, quieter: int
) -> None:
    okay, banana = spoken("okay") // quieter, spoken("banana")
    phrase = phrase_span(with_pause(pause_s, okay, banana).astype(np.float32))
    ((start, end),) = phrase.left_out
    assert abs(start - RATE // 2) < RATE // 10
    assert abs(end - RATE // 2 - len(okay)) < RATE // 5
    assert (phrase.end - phrase.start) / RATE == pytest.approx(len(banana) / RATE, abs=0.1)


def test_a_click_is_no_part_of_a_phrase() -> None:
    click = np.zeros(RATE // 50, np.int16)
    click[::3] = 20000
    banana = spoken("banana")
    take = with_pause(0.5, click, banana)
    phrase = phrase_span(take.astype(np.float32))
    assert abs(phrase.start - RATE - len(click)) < RATE // 20
    assert phrase.left_out == ()


@pytest.mark.parametrize("samples", [100, RATE])
def test_where_nothing_stands_out_the_whole_clip_counts(samples: int) -> None:
    steady = np.full(samples, 3, np.float32)
    phrase = phrase_span(steady)
    assert (phrase.start, phrase.left_out) == (0, ())
    assert samples - phrase.end < RATE // 100
    assert speech_span(steady) == (phrase.start, phrase.end)

"""What `echo_cancel.py` plays and counts; the sound servers themselves take minutes."""

from __future__ import annotations

import echo_cancel
import numpy as np
from echo_cancel import Count, Take
from echo_room import BLOCK, RATE, Convolver, loudspeaker, response

from kwsd.audio.pcm import to_int16


def test_the_room_convolves_without_delay() -> None:
    rng = np.random.default_rng(0)
    impulse, samples = rng.normal(size=1000), rng.normal(size=20 * BLOCK)
    convolver = Convolver(impulse)
    out = np.concatenate([convolver.step(block) for block in samples.reshape(-1, BLOCK)])
    np.testing.assert_allclose(out, np.convolve(samples, impulse)[: len(samples)], atol=1e-9)


def test_wakes_by_people_and_by_the_device_are_counted_apart() -> None:
    takes = echo_cancel.takes_of(None, 3)
    near, far, said, own = echo_cancel.tracks(takes)
    assert len(near) == len(far)
    quiet = echo_cancel.count(to_int16(32768 * near), said, own)
    assert quiet == Count(takes=3, heard=3, false_wakes=0, own_words=1)
    device = echo_cancel.count(to_int16(32768 * far), said, own)
    assert device == Count(takes=3, heard=0, false_wakes=1, own_words=1)
    elsewhere = [Take(take.word, take.end + 32000) for take in said]
    missed = echo_cancel.count(to_int16(32768 * near), elsewhere, own)
    assert (missed.heard, missed.false_wakes) == (0, 3)


def test_the_playback_is_as_loud_as_it_is_asked_to_be() -> None:
    near, far, _, _ = echo_cancel.tracks(echo_cancel.takes_of(None, 3))
    spoken = near[int(echo_cancel.LEAD_S * RATE) :]
    level = 20 * np.log10(echo_cancel.level(spoken))
    assert abs(level - echo_cancel.NEAR_DBFS) < 1
    gain = echo_cancel.gain_of(far, 10)
    echo = np.convolve(loudspeaker(far), response(2) * gain)
    assert abs(20 * np.log10(echo_cancel.level(echo)) - echo_cancel.NEAR_DBFS - 10) < 1

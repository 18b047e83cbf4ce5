"""The gate: opens for voices, not for clicks; sleeps in a quiet room without asking the detector; never before it must."""

from __future__ import annotations

import numpy as np
from conftest import RATE, hiss, say

from kwsd.audio.vad import VoiceGate

CHUNK = 1280


def states(samples: np.ndarray, hangover_s: float = 0.5) -> list[bool]:
    gate = VoiceGate(0, int(hangover_s * RATE))
    return [gate.step(samples[at : at + CHUNK], at + CHUNK) for at in range(0, len(samples) - CHUNK + 1, CHUNK)]


def test_opens_for_a_voice_and_closes_after_the_hangover() -> None:
    room, word = hiss(8.0, 20), say("computer")
    talk = np.concatenate([room, word + hiss(len(word) / RATE, 20, seed=2)[: len(word)], hiss(3.0, 20, seed=1)])
    open_ = np.array(states(talk))
    first, last = int(len(room) / CHUNK), int((len(room) + len(word)) / CHUNK)
    assert not open_[20:first].any()
    assert open_[first : last + 1].sum() >= last - first - 2  # within two chunks of the word's beginning
    closed = last + 1 + int(np.argmin(open_[last + 1 :]))
    assert closed - last <= 0.5 * RATE / CHUNK + 3
    assert not open_[closed:].any()


def test_a_click_does_not_open_it() -> None:
    room = hiss(8.0, 20).astype(np.float32)
    room[96000:96400] += np.random.default_rng(0).normal(0, 3000, 400) * np.exp(-np.arange(400) / 80)
    assert not any(states(room.astype(np.int16))[20:])


def test_a_steady_room_is_not_asked_about() -> None:
    gate, asked = VoiceGate(0, RATE), list[bytes]()
    voiced = gate._voiced
    gate._voiced = lambda data: asked.append(data) or voiced(data)  # type: ignore[method-assign,func-returns-value]
    room = hiss(60.0, 20)
    for at in range(0, len(room) - CHUNK + 1, CHUNK):
        gate.step(room[at : at + CHUNK], at + CHUNK)
    learnt = len(asked)
    assert 60 <= learnt < 80  # the floor has to be known first
    talk = np.concatenate([hiss(2.0, 20, seed=3), say("good evening, it is raining again, is it not")])
    opened = [gate.step(talk[at : at + CHUNK], len(room) + at + CHUNK) for at in range(0, len(talk) - CHUNK + 1, CHUNK)]
    assert any(opened[25:])
    assert len(asked) > learnt

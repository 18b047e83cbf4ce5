"""The gate opens for voices, not for clicks, and asks its detector nothing in a quiet room."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import RATE, hiss, say

from kwsd.audio.vad import VoiceGate

CHUNK = 1280


def run(gate: VoiceGate, samples: np.ndarray, begin: int = 0) -> list[bool]:
    """Return the state after each chunk; the first sample has index `begin`."""
    starts = range(0, len(samples) - CHUNK + 1, CHUNK)
    return [gate.step(samples[at : at + CHUNK], begin + at + CHUNK) for at in starts]


def states(samples: np.ndarray, hangover_s: float = 0.5) -> list[bool]:
    return run(VoiceGate(0, int(hangover_s * RATE)), samples)


def test_opens_for_a_voice_and_closes_after_the_hangover() -> None:
    room = hiss(8.0, 20)
    word = say("computer")
    noisy = word + hiss(len(word) / RATE, 20, seed=2)[: len(word)]
    talk = np.concatenate([room, noisy, hiss(3.0, 20, seed=1)])
    open_ = np.array(states(talk))
    first = int(len(room) / CHUNK)
    last = int((len(room) + len(word)) / CHUNK)
    assert not open_[20:first].any()
    assert open_[first : last + 1].sum() >= last - first - 2  # within two chunks of its start
    closed = last + 1 + int(np.argmin(open_[last + 1 :]))
    assert closed - last <= 0.5 * RATE / CHUNK + 3
    assert not open_[closed:].any()


def test_a_click_does_not_open_it() -> None:
    room = hiss(8.0, 20).astype(np.float32)
    room[96000:96400] += np.random.default_rng(0).normal(0, 3000, 400) * np.exp(
        -np.arange(400) / 80
    )
    assert not any(states(room.astype(np.int16))[20:])


def test_a_steady_room_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = VoiceGate(0, RATE)
    asked: list[bytes] = []
    voiced_frames = gate._voiced_frames

    def count(data: bytes) -> int:
        asked.append(data)
        return voiced_frames(data)

    monkeypatch.setattr(gate, "_voiced_frames", count)
    room = hiss(60.0, 20)
    run(gate, room)
    learned = len(asked)
    assert 60 <= learned < 80  # the floor has to be known first
    speech = say("good evening, it is raining again, is it not")
    talk = np.concatenate([hiss(2.0, 20, seed=3), speech])
    opened = run(gate, talk, len(room))
    assert any(opened[25:])
    assert len(asked) > learned

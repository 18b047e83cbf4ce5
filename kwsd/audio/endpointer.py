"""The endpointer: says when whoever speaks in a stream has finished. It holds its own state."""

from __future__ import annotations

from typing import Literal

import numpy as np

from kwsd.audio.format import BLOCK_S, CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.vad import VoiceGate

MODE = 3
"""Aggressiveness of the voice detector. With five seconds of the room before it, the least
aggressive is as good in hiss, and hears a quiet television as speech."""
ROOM_SAMPLES = 5 * SAMPLE_RATE
"""Samples before the stream from which the voice detector learns the noise, if there are so many.
"""
FAINTER_DB = 20.0
"""What is fainter than the loudest speech by more than this is somebody else's, or the room's."""
FADES_DB_PER_S = 2.0
"""How fast the loudest speech is forgotten."""
MIN_SPEECH_CHUNKS = 2
"""Chunks with speech from which there was some."""
MIN_FIRST_CHUNKS = 5
"""The same, where they begin with the stream: up to 0.4 s may be the end of the wake word."""
NO_SPEECH_S = 5.0
"""Seconds without speech from the start that end a stream, where `silence_s` is not more."""


class Endpointer:
    """Hears consecutive chunks of int16 `[1280]`."""

    def __init__(self, silence_s: float, before: np.ndarray) -> None:
        """`silence_s`: without speech, after some. `before`: what came before, int16 `[sample]`."""
        self._silence_s = silence_s
        self._gate = VoiceGate(MODE, 1)  # open for no longer than there is a voice
        self._end = 0
        self._loudest = -np.inf
        self._speech_chunks = 0
        self._wanted_chunks = MIN_FIRST_CHUNKS
        self._quiet_s = 0.0
        first = len(before) % CHUNK_SAMPLES
        for at in range(first, len(before), CHUNK_SAMPLES):
            self._is_speech(before[at : at + CHUNK_SAMPLES])

    def step(self, chunk: np.ndarray) -> Literal["silence", "no_speech"] | None:
        """Return why the stream ends with `chunk`, or None."""
        if self._is_speech(chunk):
            self._speech_chunks += 1
            self._quiet_s = 0.0
            return None
        self._quiet_s += BLOCK_S
        if self._speech_chunks >= self._wanted_chunks:
            return "silence" if self._reached(self._silence_s) else None
        if self._wanted_chunks == MIN_FIRST_CHUNKS:
            self._speech_chunks = 0
            self._wanted_chunks = MIN_SPEECH_CHUNKS
        return "no_speech" if self._reached(max(self._silence_s, NO_SPEECH_S)) else None

    def _reached(self, seconds: float) -> bool:
        return self._quiet_s > seconds - BLOCK_S / 2

    def _is_speech(self, chunk: np.ndarray) -> bool:
        self._end += len(chunk)
        samples = chunk.astype(np.float64)
        power = float(samples @ samples)
        level = 10 * np.log10(power + 1)
        voiced = self._gate.step(chunk, self._end)
        self._loudest -= FADES_DB_PER_S * BLOCK_S
        if voiced and level > self._loudest:
            self._loudest = level
        return voiced and level >= self._loudest - FAINTER_DB

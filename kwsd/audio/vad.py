"""The voice-activity gate: open while someone may be speaking, so that the encoder can sleep through the rest."""

from __future__ import annotations

import numpy as np
import webrtcvad

FRAME_SAMPLES = 320
"""20 ms; a chunk of 80 ms holds four."""


class VoiceGate:
    """WebRTC's detector over 20 ms frames, held open for a hang-over. Its state is this object's."""

    def __init__(self, mode: int, hangover_samples: int, rate: int = 16000) -> None:
        self._vad, self._rate, self._hangover = webrtcvad.Vad(mode), rate, hangover_samples
        self._closes_at = 0

    def step(self, chunk: np.ndarray, end: int) -> bool:
        """Whether the gate is open after `chunk` (int16, whole frames of 20 ms) whose last sample precedes index `end`."""
        data = chunk.tobytes()
        size = FRAME_SAMPLES * 2
        # All frames are asked, also after a voiced one: the detector adapts to the noise with each.
        voiced = sum([self._vad.is_speech(data[at : at + size], self._rate) for at in range(0, len(data), size)])
        if voiced:
            self._closes_at = end + self._hangover
        return end < self._closes_at

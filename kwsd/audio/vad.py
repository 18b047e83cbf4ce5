"""The voice-activity gate: open while someone may be speaking, so that the encoder can sleep."""

from __future__ import annotations

import _webrtcvad  # the module webrtcvad around it takes 2 MB more, to know its own version
import numpy as np

from kwsd.audio.format import SAMPLE_RATE

FRAME_SAMPLES = 320
"""Samples of one frame of the detector: 20 ms; a chunk of 80 ms has four."""
OPENS_AFTER_FRAMES = 6
"""Voiced frames, of the eight of two chunks, that open the gate. A click or a creak, with what the
detector appends to it, is five."""
QUIET_RATIO = 2.0
"""A chunk of less than this many times the floor's power is silent; the detector is not asked."""
FLOOR_CHUNKS = 60
"""The floor is the quietest of the last one to two times this many chunks: five to ten seconds."""


class VoiceGate:
    """WebRTC's detector over 20 ms frames, held open for a hangover. It holds its own state."""

    def __init__(self, mode: int, hangover_samples: int, rate: int = SAMPLE_RATE) -> None:
        """`mode` is the detector's aggressiveness, 0 to 3."""
        self._vad = _webrtcvad.create()
        self._rate = rate
        self._hangover_samples = hangover_samples
        _webrtcvad.init(self._vad)
        _webrtcvad.set_mode(self._vad, mode)
        self._closes_at = 0
        # The least power of the present period, and of the one before it: 0, so that nothing is
        # quiet at first.
        self._floor = np.inf
        self._previous_floor = 0.0
        self._counted_chunks = 0
        self._previous_voiced = 0

    def step(self, chunk: np.ndarray, end: int) -> bool:
        """Return whether the gate is open after `chunk`, whose last sample precedes index `end`.

        `chunk` is int16 `[sample]`, whole frames of 20 ms.
        """
        samples = chunk.astype(np.float32)
        power = float(samples @ samples)
        self._floor = min(self._floor, power)
        self._counted_chunks += 1
        quiet = power <= QUIET_RATIO * min(self._floor, self._previous_floor)
        voiced = 0 if quiet else self._voiced_frames(chunk.tobytes())
        if self._counted_chunks == FLOOR_CHUNKS:
            self._previous_floor = self._floor
            self._floor = np.inf
            self._counted_chunks = 0
        if voiced + self._previous_voiced >= OPENS_AFTER_FRAMES:
            self._closes_at = end + self._hangover_samples
        self._previous_voiced = voiced
        return end < self._closes_at

    def _voiced_frames(self, data: bytes) -> int:
        size = FRAME_SAMPLES * 2
        # Every frame is shown to the detector, which adapts to the noise with each.
        return sum(
            [
                _webrtcvad.process(self._vad, self._rate, data[at : at + size], FRAME_SAMPLES)
                for at in range(0, len(data), size)
            ]
        )

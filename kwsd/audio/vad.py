"""The voice-activity gate: open while someone may be speaking, so that the encoder can sleep through the rest."""

from __future__ import annotations

import _webrtcvad  # the module webrtcvad around it wants 2 MB more, to know its own version
import numpy as np

FRAME_SAMPLES = 320
"""20 ms; a chunk of 80 ms holds four."""


OPENS_AFTER_FRAMES = 6
"""Voiced frames among the eight of two chunks; a click or a creak, with what the detector hangs on to it, is five."""
QUIET = 2.0
"""A chunk of less than twice the floor's power holds nobody: the detector is not even asked."""
FLOOR_CHUNKS = 60
"""The floor is the quietest chunk of the last one to two times so many: five to ten seconds."""


class VoiceGate:
    """WebRTC's detector over 20 ms frames, held open for a hang-over. Its state is this object's."""

    def __init__(self, mode: int, hangover_samples: int, rate: int = 16000) -> None:
        self._vad, self._rate, self._hangover = _webrtcvad.create(), rate, hangover_samples
        _webrtcvad.init(self._vad)
        _webrtcvad.set_mode(self._vad, mode)
        self._closes_at = 0
        # The least power of the chunks at present counted, and of those before them; 0 so that nothing is quiet at first.
        self._least, self._least_before, self._counted = np.inf, 0.0, 0
        self._before = 0  # voiced frames of the chunk before

    def step(self, chunk: np.ndarray, end: int) -> bool:
        """Whether the gate is open after `chunk` (int16, whole frames of 20 ms) whose last sample precedes index `end`."""
        samples = chunk.astype(np.float32)
        power = float(samples @ samples)
        self._least, self._counted = min(self._least, power), self._counted + 1
        voiced = self._voiced(chunk.tobytes()) if power > QUIET * min(self._least, self._least_before) else 0
        if self._counted == FLOOR_CHUNKS:
            self._least_before, self._least, self._counted = self._least, np.inf, 0
        if voiced + self._before >= OPENS_AFTER_FRAMES:
            self._closes_at = end + self._hangover
        self._before = voiced
        return end < self._closes_at

    def _voiced(self, data: bytes) -> int:
        size = FRAME_SAMPLES * 2
        # All frames are asked, also after a voiced one: the detector adapts to the noise with each.
        return sum([_webrtcvad.process(self._vad, self._rate, data[at : at + size], FRAME_SAMPLES) for at in range(0, len(data), size)])

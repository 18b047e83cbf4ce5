"""How loud a word is, and how far it stands out: the one definition of `level_dbfs` and `snr_db`.

Both are of the samples behind the high-pass, which are what the detector hears.

- `level_dbfs` is the RMS level of the samples of the word, from its `start` to its `end`.
- The noise is what was there before the word: of the chunks of 80 ms in the five seconds that end
  with its `start`, the power that the quietest quarter does not exceed. So other speech before the
  word, with its pauses, is no noise, and a steady sound is.
- `snr_db` is ten times the decimal logarithm of the power of the word less that of the noise, over
  that of the noise; at least -20, and at most 100. No noise counts as less than a power
  of a quarter of a step of int16, so that a word in digital silence has an SNR, too.

Two microphones that hear one word can be compared by `snr_db`, whatever their gains are; by
`level_dbfs` they cannot.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.pcm import level_dbfs
from kwsd.audio.ring import Ring

NOISE_S = 5.0
"""Seconds before a word that tell the noise."""
MIN_NOISE_S = 0.4
"""With less than this, there is no telling."""
QUIETEST = 0.25
LEAST_POWER = 0.25
"""Mean square of the faintest noise, in steps of int16."""
MIN_SNR_DB = -20.0
MAX_SNR_DB = 100.0


class Loud(NamedTuple):
    """The loudness of a word, rounded as events have it."""

    level_dbfs: float
    snr_db: float | None
    """None where too little was heard before it."""


class Loudness:
    """Knows the powers of the chunks of a stream, on the grid of the detector."""

    def __init__(self, chunk_samples: int, extra_chunks: int = 0) -> None:
        """`extra_chunks`: how long ago a word may have begun, at most."""
        self._chunk_samples = chunk_samples
        self._noise_chunks = int(NOISE_S * SAMPLE_RATE) // chunk_samples
        self._least_chunks = int(MIN_NOISE_S * SAMPLE_RATE) // chunk_samples
        self._powers = Ring(self._noise_chunks + extra_chunks, np.float64)

    def hear(self, samples: np.ndarray) -> None:
        """Process whole chunks, int16 `[sample]`."""
        rows = samples.reshape(-1, self._chunk_samples).astype(np.int64)
        self._powers.append((rows * rows).sum(axis=1) / self._chunk_samples)

    def restart(self, chunk: int) -> None:
        """Forget everything; `chunk` comes next."""
        self._powers.restart(chunk)

    def noise(self, sample: int) -> float | None:
        """Return the power of the noise before `sample`; None where too little was heard."""
        last = min(sample // self._chunk_samples, self._powers.end)
        first = max(last - self._noise_chunks, self._powers.begin)
        if last - first < self._least_chunks:
            return None
        powers = np.asarray(self._powers.read(first, last))
        return max(float(np.quantile(powers, QUIETEST, method="lower")), LEAST_POWER)

    def of(self, audio: Ring, start: int, end: int) -> Loud:
        """Return the loudness of the word `[start, end)` of `audio`, as far as that is kept."""
        first = max(start, audio.begin)
        word = np.asarray(audio.read(first, max(first, min(end, audio.end))), np.int16)
        return Loud(round(level_dbfs(word), 1), self._snr_db(word, self.noise(start)))

    def _snr_db(self, word: np.ndarray, noise: float | None) -> float | None:
        if noise is None or not len(word):
            return None
        power = float(np.mean(word.astype(np.float64) ** 2))
        ratio = max(power / noise - 1, 10 ** (MIN_SNR_DB / 10))
        return round(min(10 * math.log10(ratio), MAX_SNR_DB), 1)


def power_dbfs(power: float) -> float:
    """Return a mean square of int16 samples in dB of full scale."""
    return round(10 * math.log10(power / 32768.0**2 + 1e-10), 1)

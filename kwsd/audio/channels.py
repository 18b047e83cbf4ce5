"""The channels of a stream before they become one: what each carries, and their mean."""

from __future__ import annotations

import numpy as np

from kwsd.audio.format import SILENCE_DBFS

LEVEL_S = 1.0
"""Seconds over which levels are averaged."""
DEAD_S = 1.0
"""A channel that has been exactly zero for this long has no part in the mix."""


class ChannelMeter:
    """What each channel of a stream has carried so far. One meter serves one stream."""

    def __init__(self, channels: int, rate: int) -> None:
        self._rate = rate
        self._samples = 0
        self._heard = np.full(channels, -int(DEAD_S * rate), np.int64)  # last sample that was not 0
        self._power = np.zeros(channels)

    def step(self, block: np.ndarray) -> None:
        """Measure `block [sample, channel]`, int16 or finite float."""
        samples = len(block)
        if not samples:
            return
        if block[-1].all():  # as nearly always
            self._heard[:] = self._samples + samples - 1
        else:
            for channel in np.flatnonzero(block.any(axis=0)):
                after = int(np.argmax(block[::-1, channel] != 0))
                self._heard[channel] = self._samples + samples - 1 - after
        self._samples += samples
        scaled = block.astype(np.float32)
        full_scale = 32768.0 if block.dtype == np.int16 else 1.0
        power = np.einsum("sc,sc->c", scaled, scaled) / (samples * full_scale**2)
        self._power += min(samples / (LEVEL_S * self._rate), 1.0) * (power - self._power)

    def carrying(self, block: np.ndarray) -> np.ndarray:
        """Return at which samples of the next `block` each channel carries sound.

        The result, bool `[sample, channel]`, does not depend on how the stream is cut into blocks.
        """
        index = np.arange(self._samples, self._samples + len(block))[:, None]
        heard = np.where(block != 0, index, self._heard)
        return index - np.maximum.accumulate(heard, axis=0) < int(DEAD_S * self._rate)

    @property
    def levels_dbfs(self) -> list[float]:
        """RMS level of each channel over about the last second, in dB of full scale."""
        levels = 10 * np.log10(self._power + 1e-10)
        return [round(max(float(level), SILENCE_DBFS), 1) for level in levels]

    @property
    def zeros_s(self) -> list[float]:
        """Seconds for which each channel has been exactly zero."""
        since = np.minimum(self._samples - 1 - self._heard, self._samples)
        return [float(samples) for samples in since / self._rate]

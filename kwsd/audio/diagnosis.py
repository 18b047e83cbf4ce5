"""What is wrong with a microphone, by a short recording of it: an offset, clipping, silence, or the
band of a telephone.

Give it samples as the device delivers them, at 16 kHz and before the high-pass; of a block with
several channels, give it each (`for channel in block.T`). Only what a recording shows is said: a
quiet room cannot show clipping, and shows the band only where its noise is well above the rounding
of int16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwsd.audio.format import BLOCK_S, SAMPLE_RATE
from kwsd.audio.pcm import level_dbfs
from kwsd.protocol.data import Band

SILENT_DBFS = -90.0
"""A recording whose loudest block is no louder, its offset apart, is silent."""
RAIL = 32700
"""From this sample value on, in either direction, a converter is at its end."""
FLAT_SAMPLES = 3
"""So many equal samples at the extreme of a recording, after a jump, are a clipped peak: some
devices clip below full scale."""
FLAT_JUMP = 0.03
"""Least jump into a clipped peak, as a share of the peak."""
FLAT_DBFS = -20.0
"""Peaks below this are not looked at: no converter ends there."""
FRAME_SAMPLES = 512
INSIDE_HZ = (2000.0, 3200.0)
"""Frequencies that a telephone carries."""
OUTSIDE_HZ = (4300.0, 5500.0)
"""Frequencies that it does not."""
ROUNDING_DB = 10 * np.log10(1 / 12)
"""Power of the rounding to int16, in dB of one step, spread evenly over all frequencies."""
AUDIBLE_DB = 35.0
"""Power of a frame inside, above that of rounding, from which the frame says something."""
STEP_DB = 28.0
"""Least drop between the two that is a telephone's: between them speech and noise drop by 5 to 15
dB, in vowels by 20."""
WIDE_DB = 20.0
"""Greatest drop that is none."""
MIN_FRAMES = 8
"""Frames of 32 ms that must say something: a short word has as many."""


@dataclass(frozen=True)
class Diagnosis:
    """What a recording of one channel shows."""

    level_dbfs: float
    """RMS level of its loudest block, its offset apart."""
    offset: float
    """Its mean, as a share of full scale: -1 to 1."""
    clipped: float
    """Share of the samples that are clipped."""
    band: Band
    """Whether it carries sound above 4 kHz; unknown where too little was heard to tell."""

    @property
    def silent(self) -> bool:
        """Whether nothing was heard at all, not even the noise of a microphone."""
        return self.level_dbfs <= SILENT_DBFS


def diagnose(samples: np.ndarray) -> Diagnosis:
    """Return what int16 `[sample]` at 16 kHz shows; a second or more is of use."""
    if not len(samples):
        return Diagnosis(level_dbfs(samples), 0.0, 0.0, "unknown")
    offset = float(np.mean(samples.astype(np.float64)))
    centered = samples.astype(np.float64) - np.median(samples)
    block = int(BLOCK_S * SAMPLE_RATE)
    blocks = np.split(centered, range(block, len(centered), block))
    return Diagnosis(
        level_dbfs=max(level_dbfs(one - one.mean()) for one in blocks),
        offset=offset / 32768,
        clipped=_clipped(samples),
        band=band(samples),
    )


def _clipped(samples: np.ndarray) -> float:
    """Return the share of samples at the converter's end, or in flat peaks below it."""
    x = samples.astype(np.int32)
    at_rail = np.abs(x) >= RAIL
    flat = np.zeros(len(x), bool)
    for extreme in (int(x.max()), int(x.min())):
        if abs(extreme) < 32768 * 10 ** (FLAT_DBFS / 20):
            continue
        edges = np.flatnonzero(np.diff(np.concatenate([[0], x == extreme, [0]])))
        for begin, end in edges.reshape(-1, 2):
            before = abs(extreme - x[begin - 1]) if begin else 0
            if end - begin >= FLAT_SAMPLES and before >= FLAT_JUMP * abs(extreme):
                flat[begin:end] = True
    return float(np.mean(at_rail | flat))


def _at_share(values: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the value over a `share` of each row `[…, n]`; `np.quantile` imports modules when
    it is first called."""
    at = int(share * values.shape[-1])
    return np.asarray(np.partition(values, at, axis=-1)[..., at])


def band(samples: np.ndarray) -> Band:
    """Return the band of int16 `[sample]` at 16 kHz, by the drop of its spectrum at 4 kHz; filtered
    by the high-pass or not.

    A band's power is the median over its frequencies, so that neither a tone nor the harmonics of a
    voice count as sound everywhere. The drop must be there in nearly all frames that say something,
    those of the room's noise as well: a vowel has little above 4 kHz, and other sounds have.
    """
    whole = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
    frames = samples[:whole].astype(np.float64).reshape(-1, FRAME_SAMPLES)
    window = np.hanning(FRAME_SAMPLES)
    spectrum = np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * window)
    power = 10 * np.log10(np.abs(spectrum) ** 2 / np.sum(window**2) + 1e-9)
    hz = np.fft.rfftfreq(FRAME_SAMPLES, 1 / SAMPLE_RATE)
    inside, outside = (
        _at_share(power[:, (hz >= low) & (hz <= high)], 0.5)
        for low, high in (INSIDE_HZ, OUTSIDE_HZ)
    )
    drops = (inside - outside)[inside > ROUNDING_DB + AUDIBLE_DB]
    if len(drops) >= MIN_FRAMES and _at_share(drops, 0.1) >= STEP_DB:
        return "telephone"
    # Sound outside that is above the rounding is sound outside, however quiet the room is.
    heard = outside > ROUNDING_DB + 10
    if heard.sum() >= MIN_FRAMES and _at_share((inside - outside)[heard], 0.25) <= WIDE_DB:
        return "wide"
    return "unknown"

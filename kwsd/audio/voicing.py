"""What sounds like a voice in a short take: by its pitch, frame by frame of 10 ms."""

from __future__ import annotations

import numpy as np

from kwsd.audio.format import SAMPLE_RATE

HOP_SAMPLES = 160
WINDOW_SAMPLES = 640
"""Two periods of the lowest voice: 40 ms."""
LOWEST_HZ = 60
HIGHEST_HZ = 400
PERIODIC = 0.5
"""Share of a frame's power that its period explains, from which it is voiced."""
SPECTRUM = 2048
"""Length of the spectra in which tones are looked for."""
TONE_HZ = 60.0
"""Half the width of a tone in them."""
TONE_FROM_HZ = 350.0
"""A lower one may be a voice's."""
TONAL = 0.9
"""Share of a frame's power in its two strongest tones from which it is nothing but tones."""
STEADY = 0.004
"""By how much of its frequency a tone moves in a frame at most; a voice never stands so still."""
STEADY_FRAMES = 6
"""Frames for which it does."""


def frames_of(samples: np.ndarray) -> np.ndarray:
    """Return windows `[frame, WINDOW_SAMPLES]` around each 10 ms of `samples`, float64."""
    half = WINDOW_SAMPLES // 2
    padded = np.pad(samples.astype(np.float64), (half - HOP_SAMPLES // 2, half))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    frames = max(len(samples) // HOP_SAMPLES, 1)
    return windows[:frames] - windows[:frames].mean(axis=1, keepdims=True)


def voiced_frames(samples: np.ndarray) -> np.ndarray:
    """Return in which frames there is a pitch of 60 to 400 Hz, bool `[frame]`; tones have none."""
    frames = frames_of(samples)
    return _is_periodic(frames) & ~_is_tone(frames)


def tone_frames(samples: np.ndarray) -> np.ndarray:
    """Return which frames are part of a beep, bool `[frame]`: one or two tones that stand still."""
    return _is_tone(frames_of(samples))


def _is_periodic(frames: np.ndarray) -> np.ndarray:
    spectra = np.abs(np.fft.rfft(frames, 2 * WINDOW_SAMPLES, axis=1)) ** 2
    spectra[:, int(1500 * 2 * WINDOW_SAMPLES / SAMPLE_RATE) :] = 0  # pitch is in the lower bands
    correlation = np.fft.irfft(spectra, axis=1)[:, :WINDOW_SAMPLES]
    overlap = 1 - np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES
    likeness = correlation / np.maximum(correlation[:, :1], 1e-9) / overlap
    lags = likeness[:, SAMPLE_RATE // HIGHEST_HZ : SAMPLE_RATE // LOWEST_HZ + 1]
    return np.asarray(lags.max(axis=1) >= PERIODIC)


def _is_tone(frames: np.ndarray) -> np.ndarray:
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW_SAMPLES), SPECTRUM, axis=1)) ** 2
    total = np.maximum(power.sum(axis=1), 1e-9)
    width = int(TONE_HZ * SPECTRUM / SAMPLE_RATE)
    first = power.argmax(axis=1)
    in_tones = _taken(power, first, width) + _taken(power, power.argmax(axis=1), width)
    hertz = first * SAMPLE_RATE / SPECTRUM
    alone = (in_tones >= TONAL * total) & (hertz >= TONE_FROM_HZ)
    step = SAMPLE_RATE / SPECTRUM
    still = np.abs(np.diff(hertz, prepend=hertz[:1])) <= np.maximum(STEADY * hertz, step)
    return _runs_of(alone & still, STEADY_FRAMES)


def _taken(power: np.ndarray, at: np.ndarray, width: int) -> np.ndarray:
    """Return the power around the bin `at` of each row, and take it out of `power`."""
    bins = np.arange(power.shape[1])
    around = np.abs(bins - at[:, None]) <= width
    found = np.where(around, power, 0).sum(axis=1)
    power[around] = 0
    return np.asarray(found)


def _runs_of(flags: np.ndarray, least: int) -> np.ndarray:
    """Return `flags [frame]` without runs of fewer than `least`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    kept = np.zeros(len(flags), bool)
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if end - begin >= least:
            kept[begin:end] = True
    return kept

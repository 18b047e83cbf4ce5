"""One voice made another: pitch, formants, a whisper of noise bands, singing.

All keep the length of what they change, so that words stay where they are. Arrays are float32
`[sample]` in int16 scale."""

from __future__ import annotations

import itertools

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.training.data import augment

WINDOW = 512
"""Samples of a frame: 32 ms."""
HOP = 128
ENVELOPE = 40
"""Cepstral coefficients of the spectral envelope: what is finer is pitch."""
MOST_DB = 20.0
"""Most that a band is raised or lowered."""
SCALE = 2 ** (np.array([-8, -5, -3, 0, 2, 4, 7]) / 12)
"""Notes that are sung, as factors of the voice's own pitch."""


def change_formants(x: np.ndarray, factor: float) -> np.ndarray:
    """Return `x` with its formants at `factor` times their frequency, at its own pitch."""
    window = np.hanning(WINDOW + 1)[:-1]
    padded = np.pad(x.astype(np.float64), (WINDOW, 2 * WINDOW))
    count = (len(padded) - WINDOW) // HOP + 1
    at = HOP * np.arange(count)[:, None] + np.arange(WINDOW)
    spectra = np.fft.rfft(padded[at] * window, axis=1)
    level = np.log(np.abs(spectra) + 1.0)
    cepstra = np.fft.irfft(level, axis=1)
    cepstra[:, ENVELOPE : WINDOW - ENVELOPE + 1] = 0
    envelope = np.fft.rfft(cepstra, axis=1).real
    bins = np.arange(envelope.shape[1])
    source = np.minimum(bins / factor, bins[-1])
    below = np.minimum(source.astype(int), bins[-1] - 1)
    part = source - below
    moved = envelope[:, below] * (1 - part) + envelope[:, below + 1] * part
    most = MOST_DB / 20 * np.log(10)
    spectra *= np.exp(np.clip(moved - envelope, -most, most))
    frames = np.fft.irfft(spectra, axis=1) * window
    out = np.zeros(len(padded))
    weight = np.full(len(padded), 1e-3)
    for n, frame in enumerate(frames):
        out[n * HOP : n * HOP + WINDOW] += frame
        weight[n * HOP : n * HOP + WINDOW] += window**2
    return (out / weight)[WINDOW : WINDOW + len(x)].astype(np.float32)


def change_pitch(x: np.ndarray, factor: float) -> np.ndarray:
    """Return `x` at `factor` times its pitch, with its own formants and tempo."""
    shifted = augment.change_tempo(augment.change_speed(x, factor), 1 / factor)
    return change_formants(_fit(shifted, len(x)), 1 / factor)


def vocode(x: np.ndarray, rng: np.random.Generator, bands: int) -> np.ndarray:
    """Return `x` as noise in `bands` bands, each as loud as there at every moment (Shannon et al.
    1995): speech without pitch."""
    length = 1 << max(len(x) - 1, 1).bit_length()
    hz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    edges = np.geomspace(100, 7800, bands + 1)
    speech = np.fft.rfft(x, length)
    noise = np.fft.rfft(rng.standard_normal(length))
    smooth = np.hanning(SAMPLE_RATE // 50)
    smooth /= smooth.sum()
    out = np.zeros(len(x))
    for low, high in itertools.pairwise(edges):
        inside = (hz >= low) & (hz < high)
        band, carrier = (np.fft.irfft(s * inside, length)[: len(x)] for s in (speech, noise))
        envelope = np.convolve(np.abs(band), smooth, "same")
        out += carrier / (carrier.std() + 1e-9) * envelope
    return out.astype(np.float32)


def sing(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return `x` drawn out, on notes of a quarter to a whole second with vibrato."""
    slow = augment.change_tempo(x, float(rng.uniform(0.45, 0.75)))
    notes: list[np.ndarray] = []
    while sum(map(len, notes)) < 2 * len(x):
        samples = int(rng.uniform(0.25, 1.0) * SAMPLE_RATE)
        notes.append(np.full(samples, rng.choice(SCALE)))
    pitch = np.concatenate(notes)
    glide = np.hanning(SAMPLE_RATE // 20)
    pitch = np.convolve(pitch, glide / glide.sum(), "same")
    beat = 2 * np.pi * rng.uniform(4.5, 6.5) * np.arange(len(pitch)) / SAMPLE_RATE
    at = np.cumsum(pitch * (1 + 0.02 * np.sin(beat)))
    sung = np.interp(at[at < len(slow) - 1], np.arange(len(slow)), slow)
    return _fit(sung, len(x))


def _fit(x: np.ndarray, samples: int) -> np.ndarray:
    """Return `x`, cut or filled up with silence to `samples`."""
    return np.pad(x[:samples], (0, max(samples - len(x), 0))).astype(np.float32)

"""From samples to what the networks get: the front ends, their features in numpy and in torch, and
the grid that they lie on.

The student's front end is the one of Google's speech embedding (Lin et al. 2020, arXiv 2002.01322),
read from its published graph. The speaker heads also get finer bands. Both front ends travel inside
the bundle, so that training and serving cannot differ."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.log_mel import LogMel
from kwsd.training import tflite

BANDS = 32
"""Mel bands of the student's front end."""
HOP_SAMPLES = 160
"""Samples from one feature frame to the next: 10 ms."""
STRIDE_FRAMES = CHUNK_SAMPLES // HOP_SAMPLES
"""Feature frames per chunk, of which the encoder makes one embedding: 80 ms."""
INTERMEDIATE_FRAMES = 4
"""Frames of intermediate features per chunk: 20 ms each."""
RECEPTIVE_FRAMES = 76
"""Feature frames that one embedding depends on."""
WAKE_CONTEXT = 16
"""Embeddings that the wake head sees at once: 1.28 s."""
SMOOTHING_CHUNKS = 5
"""Chunks after its end during which a word is trained to fire. Its score is their mean: what only
resembles it rarely fires that long."""
LEAD_CHUNKS = 6
"""Chunks of silence before a crop of a voice, so that the encoder has warmed up as it has in a
running stream."""
FLOOR_DB = 10.0
"""The student's absolute floor in dB of int16-scaled power, in place of the speech embedding's own
floor of 80 dB below the maximum: digital silence lies at -100 dB, and speech at a common level
peaks at about 90 dB."""
FINE_BANDS = 64
"""Bands of the speaker heads' front end."""
FINE_HZ = (20.0, 7600.0)
"""Lowest and highest frequency of the fine bands."""

Features = Callable[[Tensor], Tensor]
"""Int16-scale `[batch, sample]` (whole chunks) to float32 `[batch, frame, band]`, eight frames per
chunk, on the same device."""


def receptive_chunks() -> int:
    """Return the chunks, the present one included, that a posterior depends on: the encoder's
    frames and the wake head's embeddings."""
    return -(-(RECEPTIVE_FRAMES - STRIDE_FRAMES) // STRIDE_FRAMES) + 1 + WAKE_CONTEXT - 1


@cache
def front_end(floor_db: float = FLOOR_DB) -> LogMel:
    """Return the student's front end: the speech embedding's, with an absolute floor.

    The 512-tap kernels of the published graph are a 400-sample Hann window between zeros. Raises
    ModuleNotFoundError where the packages of the extra `[train]` are missing."""
    model = tflite.interpreter("melspectrogram.tflite", (1, 12400))
    constants = {tuple(t["shape"]): t["index"] for t in model.get_tensor_details()}
    kernels = [
        np.array(model.get_tensor(t["index"]))
        for t in model.get_tensor_details()
        if tuple(t["shape"]) == (257, 1, 512, 1)
    ]
    kernel = max(kernels, key=lambda k: float(np.abs(k[0]).max()))
    window = kernel[0, 0, :, 0]
    inside = np.flatnonzero(np.abs(window) > 1e-7)
    start = int(inside[0]) - 1  # a periodic Hann window begins with a zero
    filters = np.array(model.get_tensor(constants[(257, BANDS)]))
    return LogMel(
        window[start : start + 400].copy(),
        filters,
        hop_samples=HOP_SAMPLES,
        fft_samples=512,
        floor_db=floor_db,
        scale=0.1,
        offset=2.0,
    )


def voice_front_end() -> LogMel:
    """Return the speaker heads' front end: fine bands, evenly spaced on O'Shaughnessy's mel scale.

    The student's own bands end at 3.8 kHz and are too wide to resolve a voice's harmonics."""
    low, high = 2595 * np.log10(1 + np.array(FINE_HZ) / 700)
    edges = 700 * (10 ** (np.linspace(low, high, FINE_BANDS + 2) / 2595) - 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    fft = 1024
    hz = np.arange(fft // 2 + 1)[:, None] * SAMPLE_RATE / fft
    rising = (hz - edges[:-2]) / np.diff(edges[:-1])
    falling = (edges[2:] - hz) / np.diff(edges[1:])
    filters = np.maximum(np.minimum(rising, falling), 0)
    return LogMel(
        window.astype(np.float32),
        filters.astype(np.float32),
        hop_samples=HOP_SAMPLES,
        fft_samples=fft,
        floor_db=FLOOR_DB,
        scale=0.1,
        offset=0.0,
    )


def floor() -> float:
    """Return the lowest value of the student's features: that of digital silence, and of masked
    frames."""
    front = front_end()
    return front.floor_db * front.scale + front.offset


def mel_of(front: LogMel, x: np.ndarray) -> np.ndarray:
    """Return the features `[..., frame, band]` of `x [..., sample]`, from the start of a stream."""
    history = [(0, 0)] * (x.ndim - 1) + [(front.history_samples, 0)]
    return front(np.pad(x, history))


def log_mel(front: LogMel, x: Tensor) -> Tensor:
    """Return the features of `front` in torch, from the start of a stream: `x [batch, sample]` to
    `[batch, frame, band]`."""
    window = torch.tensor(front.window, device=x.device)
    filters = torch.tensor(front.filters, device=x.device)
    padded = nn.functional.pad(x, (front.history_samples, 0))
    frames = padded.unfold(1, front.window_samples, front.hop_samples)
    spectrum = torch.view_as_real(torch.fft.rfft(frames * window, front.fft_samples))
    power = spectrum.square().sum(-1) @ filters
    return (
        power.clamp(min=10.0 ** (front.floor_db / 10)).log10() * (10 * front.scale) + front.offset
    )


def student_features(x: Tensor) -> Tensor:
    """Return the student's log-mel features `[batch, frame, band]` of `x [batch, sample]`."""
    return log_mel(front_end(), x)


def voice_features(x: Tensor) -> Tensor:
    """Return the speaker heads' fine bands `[batch, frame, band]` of `x [batch, sample]`."""
    return log_mel(voice_front_end(), x)

"""The front end: int16-scaled samples in, log-mel frames out; its constants are in the bundle.

Training and serving both call `LogMel.__call__`, so they cannot differ. It is causal: frame `f` of
a stream covers the `window_samples` samples that end at sample `(f + 1) * hop_samples`; samples
before the stream count as zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.fft import rfft
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class LogMel:
    """Log-mel filter bank energies of a fixed window and hop.

    The window, the filters and the scaling are those of Google's speech embedding (Lin et al. 2020,
    arXiv 2002.01322), as its published graph has them, except for the floor: there it is 80 dB
    below the maximum of whatever is passed in, which looks into the future; here it is `floor_db`.
    """

    window: FloatArray
    """`[window_samples]`, the analysis window."""
    filters: FloatArray
    """`[fft_samples // 2 + 1, band]`, the mel filters over the power spectrum."""
    hop_samples: int
    fft_samples: int
    floor_db: float
    """Band energies below this (dB of int16-scaled power) are raised to it."""
    scale: float
    offset: float

    @property
    def window_samples(self) -> int:
        """Samples of the analysis window."""
        return len(self.window)

    @property
    def bands(self) -> int:
        """Number of mel bands."""
        return int(self.filters.shape[1])

    @property
    def history_samples(self) -> int:
        """Samples before a chunk that its first frame still covers."""
        return self.window_samples - self.hop_samples

    def __call__(self, samples: NDArray[np.generic]) -> FloatArray:
        """Return the frames of int16-scaled samples, float32 `[..., k, band]`.

        `samples` is `[..., history_samples + k * hop_samples]`.
        """
        x = np.asarray(samples, np.float32)
        if (x.shape[-1] - self.history_samples) % self.hop_samples:
            text = f"{self.history_samples} of history and whole hops of {self.hop_samples}"
            raise ValueError(f"{x.shape[-1]} samples are not {text}")
        k = (x.shape[-1] - self.history_samples) // self.hop_samples
        step = x.strides[-1]
        shape = (*x.shape[:-1], k, self.window_samples)
        strides = (*x.strides[:-1], self.hop_samples * step, step)
        windows = np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)
        spectrum = rfft(windows * self.window, self.fft_samples)
        parts = spectrum.view(spectrum.real.dtype)  # [..., k, 2 * bin]: real, imaginary, real …
        power = (parts * parts) @ self._filters_of_parts
        floor = np.float32(10.0 ** (self.floor_db / 10.0))
        bels = np.log10(np.maximum(power, floor))
        scaled = bels * np.float32(10.0 * self.scale) + np.float32(self.offset)
        return scaled.astype(np.float32, copy=False)

    @cached_property
    def _filters_of_parts(self) -> FloatArray:
        """The filters over squared real and imaginary parts, whose sum is the power."""
        return np.repeat(self.filters, 2, axis=0)

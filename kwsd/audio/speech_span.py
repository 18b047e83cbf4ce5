"""Where in a take somebody speaks."""

from __future__ import annotations

import numpy as np


def speech_span(samples: np.ndarray) -> tuple[int, int]:
    """Where the speech of a short clip lies: `(start, end)` in samples; the whole clip where nothing stands out.

    The loudest run of 10 ms frames above both 30 dB under the peak and 9 dB over the quietest tenth, gaps up to 0.3 s bridged.
    """
    hop = 160
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::hop] if len(samples) >= 400 else samples[None]
    level = 10 * np.log10(np.mean(frames.astype(np.float64) ** 2, axis=1) + 1.0)
    active = level > max(level.max() - 30.0, min(np.percentile(level, 10) + 9.0, level.max() - 12.0))
    at = np.flatnonzero(active)
    if len(at) == 0:
        return 0, len(samples)
    runs = np.split(at, np.flatnonzero(np.diff(at) > 30) + 1)
    best = max(runs, key=lambda run: float(np.sum(10 ** (level[run] / 10))))
    return int(best[0]) * hop, min(int(best[-1]) * hop + 400, len(samples))

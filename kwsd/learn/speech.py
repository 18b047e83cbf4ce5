"""When somebody speaks, as the encoder hears it: a linear probe of its frames.

It comes with the bundle, since it is of one encoder. A bundle without it is used without.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kwsd.model.bundle import RESTORE, SPEECH, SPEECH_ARRAYS, Bundle, BundleError

LATER_FRAMES = 1
"""Frames after a chunk that help to tell what it was."""


@dataclass(frozen=True)
class SpeechProbe:
    """Tells the chunks in which somebody speaks."""

    weights: np.ndarray
    """float32 `[1 + LATER_FRAMES, dim]`: of a chunk's frame, and of those after it."""
    bias: float

    def __call__(self, embedding: np.ndarray) -> np.ndarray:
        """Return the probability of speech in all but the last chunks of `[chunk, dim]`."""
        chunks = len(embedding) - LATER_FRAMES
        logits = np.full(chunks, self.bias)
        for later, weights in enumerate(self.weights):
            logits += embedding[later : later + chunks] @ weights
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))))


def read_probe(bundle: Bundle) -> SpeechProbe | None:
    """Return the bundle's probe; None where it has none. Raises BundleError where it is damaged."""
    if SPEECH not in bundle.hashes:
        return None
    arrays = bundle.arrays(SPEECH, SPEECH_ARRAYS)
    weights, bias = arrays["weights"], arrays["bias"]
    if len(weights) != 1 + LATER_FRAMES or len(bias) != 1:
        text = f"{bundle.path / SPEECH}: damaged (its weights and bias do not fit together)"
        raise BundleError(f"{text}; {RESTORE}")
    return SpeechProbe(weights, float(bias[0]))

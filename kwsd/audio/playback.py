"""Playing a recording to a person."""

from __future__ import annotations

import numpy as np

from kwsd.config import SAMPLE_RATE


def play(samples: np.ndarray) -> None:
    """int16 `[sample]` at 16 kHz through the default output device, to its end. Raises OSError where there is none."""
    import sounddevice

    try:
        sounddevice.play(samples, SAMPLE_RATE, blocking=True)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise OSError(f"there is no output device to play on ({error}); --out FILE.wav writes the clip instead") from error

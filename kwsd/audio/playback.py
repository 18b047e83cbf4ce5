"""Playing a recording to a person."""

from __future__ import annotations

import numpy as np

from kwsd.audio.format import SAMPLE_RATE


def play(samples: np.ndarray) -> None:
    """Play int16 `[sample]` at 16 kHz through the default output device, to its end.

    Raises OSError where there is none.
    """
    import sounddevice

    try:
        sounddevice.play(samples, SAMPLE_RATE, blocking=True)
    except (sounddevice.PortAudioError, ValueError) as error:
        text = f"there is no output device to play on ({error})"
        raise OSError(f"{text}; --out FILE.wav writes the clip instead") from error

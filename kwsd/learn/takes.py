"""Takes, of a voice or of a word: what makes one unusable."""

from __future__ import annotations

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.pcm import level_dbfs
from kwsd.audio.vad import FRAME_SAMPLES
from kwsd.detect.embedder import voiced
from kwsd.protocol.request import MAX_AUDIO_S

MIN_LEVEL_DBFS = -60.0
MAX_CLIPPED_SHARE = 0.0005
"""Of clipped samples the high-pass moves half away from full scale: 0.1 % were clipped."""
CLIPPED_AT = 32700
REPEATED = "the take is a recording that was given already; one recording is one take"
SAME_RECORDING = 0.92
"""Correlation of their waveforms from which two recordings are one. Of 4,400 pairs of takes by one
person of one word none was above 0.9."""
PRINT_S = 2
PRINT_STEP = 4
"""Samples of a recording for each that is compared."""


class TakeRejected(ValueError):
    """A take cannot be used: `reason` for programs, the message for people.

    Reasons are silent, no_voice, clipped, too_short, take_too_long, repeated, inconsistent,
    several_people and too_few.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class KnownRecordings:
    """Recordings that were given, by which one that is given again is known.

    It is known at another level, in another format, and with more or less around it: nobody says a
    word twice so that the waveforms fit each other. Their loudest 2 s are compared.
    """

    def __init__(self) -> None:
        self._prints: list[np.ndarray] = []

    def find(self, samples: np.ndarray) -> int | None:
        """Return the number of the recording that int16 `[sample]` is, from 0, or None."""
        new = _print(samples)
        likeness = (float(np.abs(np.fft.irfft(new * old.conj())).max()) for old in self._prints)
        return next((n for n, each in enumerate(likeness) if each >= SAME_RECORDING), None)

    def add(self, samples: np.ndarray) -> None:
        """Add a recording, int16 `[sample]`."""
        self._prints.append(_print(samples))


def _print(samples: np.ndarray) -> np.ndarray:
    """Return the spectrum of the loudest 2 s of a recording, of unit power as a waveform."""
    rate = SAMPLE_RATE // PRINT_STEP
    whole = samples[: len(samples) // PRINT_STEP * PRINT_STEP].astype(np.float32)
    x = whole.reshape(-1, PRINT_STEP).mean(axis=1)
    length = PRINT_S * rate
    sums = np.cumsum(np.pad(x.astype(np.float64) ** 2, (1, length)))
    first = int(np.argmax(sums[length:] - sums[:-length]))
    x = x[first : first + length]
    return np.fft.rfft(x / max(float(np.linalg.norm(x)), 1e-9), 2 * length)


def check_take(
    samples: np.ndarray,
    min_speech_s: float,
    max_take_s: float = MAX_AUDIO_S,
    max_clipped: float = MAX_CLIPPED_SHARE,
) -> tuple[float, float]:
    """Return the level of the speech in a take, dBFS, and its length in seconds.

    `samples` is int16 `[sample]`. Raises TakeRejected.
    """
    seconds = len(samples) / SAMPLE_RATE
    if seconds > max_take_s:
        text = f"the take lasts {seconds:.0f} s; at most {max_take_s:.0f} s are of use: cut it"
        raise TakeRejected("take_too_long", text)
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    if not len(frames):
        raise TakeRejected("too_short", "the take contains no samples")
    speech = frames[voiced(frames)]
    speech_dbfs = level_dbfs(speech.reshape(-1))
    speech_s = len(speech) * FRAME_SAMPLES / SAMPLE_RATE
    if not len(speech) or speech_dbfs < MIN_LEVEL_DBFS:
        text = f"the take is silent ({speech_dbfs:.0f} dBFS)"
        raise TakeRejected("silent", f"{text}; speak up, or raise the microphone's gain")
    clipped = float(np.mean((samples >= CLIPPED_AT) | (samples <= -CLIPPED_AT)))
    if clipped > max_clipped:
        text = f"{100 * clipped:.1f} % of the take is clipped"
        raise TakeRejected("clipped", f"{text}; lower the microphone's gain, or step back")
    if speech_s < min_speech_s:
        text = f"the take contains {speech_s:.1f} s of speech; at least {min_speech_s} s are needed"
        raise TakeRejected("too_short", text)
    return speech_dbfs, speech_s

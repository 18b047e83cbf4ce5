"""Takes, of a voice or of a word: what makes one unusable."""

from __future__ import annotations

import numpy as np

from kwsd.config import SAMPLE_RATE
from kwsd.detect.embedder import voiced

MAX_TAKE_S = 20.0
QUIET_DBFS, CLIPPED_SHARE = -60.0, 0.001


class TakeRejected(ValueError):
    """A take cannot be used: `reason` for programs (silent, clipped, too_short, too_long, inconsistent), the message for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def level_dbfs(samples: np.ndarray) -> float:
    """RMS level of int16 `samples`, dB of full scale; -100 for silence."""
    if not len(samples):
        return -100.0
    return max(float(10 * np.log10(np.mean(samples.astype(np.float64) ** 2) / 32768.0**2 + 1e-10)), -100.0)


def check_take(samples: np.ndarray, min_speech_s: float, max_take_s: float = MAX_TAKE_S, max_clipped: float = CLIPPED_SHARE) -> tuple[float, float]:
    """Level in dBFS and seconds of the speech in a take, int16 `[sample]`. Raises TakeRejected."""
    seconds = len(samples) / SAMPLE_RATE
    if seconds > max_take_s:
        raise TakeRejected("too_long", f"the take lasts {seconds:.0f} s; at most {max_take_s:.0f} s are of use: cut it")
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    if not len(frames):
        raise TakeRejected("too_short", "the take holds no samples")
    speech = frames[voiced(frames)]
    level, speech_s = level_dbfs(speech.reshape(-1)), len(speech) * 320 / SAMPLE_RATE
    if not len(speech) or level < QUIET_DBFS:
        raise TakeRejected("silent", f"the take is silent ({level:.0f} dBFS); speak up, or raise the microphone's gain")
    clipped = float(np.mean((samples >= 32700) | (samples <= -32700)))
    if clipped > max_clipped:
        raise TakeRejected("clipped", f"{100 * clipped:.1f} % of the take is clipped; lower the microphone's gain, or step back")
    if speech_s < min_speech_s:
        raise TakeRejected("too_short", f"the take holds {speech_s:.1f} s of speech; at least {min_speech_s} s are needed")
    return level, speech_s

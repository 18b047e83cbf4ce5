"""Samples as bytes and as WAV files, and their level."""

from __future__ import annotations

import io
import wave

import numpy as np

from kwsd.audio.format import SAMPLE_RATE, SILENCE_DBFS


def level_dbfs(samples: np.ndarray) -> float:
    """Return the RMS level of int16 `[sample]` in dB of full scale; -100 for silence."""
    if not len(samples):
        return SILENCE_DBFS
    power = np.mean(samples.astype(np.float64) ** 2) / 32768.0**2
    return max(float(10 * np.log10(power + 1e-10)), SILENCE_DBFS)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Return samples in int16 scale, rounded and clipped to int16."""
    return np.clip(np.round(samples), -32768, 32767).astype(np.int16)


def to_bytes(samples: np.ndarray) -> bytes:
    """Return int16 `[sample]` as little-endian bytes, the form in which messages carry audio."""
    return samples.astype("<i2").tobytes()


def from_bytes(data: bytes) -> np.ndarray:
    """Return little-endian bytes as int16 `[sample]`. Raises ValueError for half a sample."""
    return np.frombuffer(data, "<i2").astype(np.int16)


def wav_bytes(samples: np.ndarray) -> bytes:
    """Return int16 `[sample]` at 16 kHz as a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(SAMPLE_RATE)
        wav.writeframes(to_bytes(samples))
    return buffer.getvalue()


def from_wav_bytes(data: bytes) -> np.ndarray:
    """Return the samples of a WAV file as `wav_bytes` makes it. Raises ValueError."""
    try:
        with wave.open(io.BytesIO(data), "rb") as wav:
            form = (wav.getnchannels(), wav.getsampwidth(), wav.getframerate())
            if form != (1, 2, SAMPLE_RATE):
                raise ValueError("it is not mono int16 at 16 kHz")
            return from_bytes(wav.readframes(wav.getnframes()))
    except (wave.Error, EOFError, RuntimeError, OverflowError) as error:
        raise ValueError(f"it is no WAV file ({error or 'cut off'})") from error

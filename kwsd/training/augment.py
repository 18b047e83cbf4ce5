"""What a room and a microphone do to speech, in batches of numpy arrays `[batch, sample]`, float32 in int16 scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RATE = 16000


def level_dbfs(x: np.ndarray) -> float:
    """Level of the loud half of 25 ms frames, dB of full scale: the active-speech level of a take with pauses."""
    n = len(x) // 400 * 400
    if n == 0:
        return -100.0
    power = np.sort(np.mean(x[:n].reshape(-1, 400) ** 2, axis=1))
    return float(10 * np.log10(power[len(power) // 2 :].mean() / 32768.0**2 + 1e-10))


def gain_to(x: np.ndarray, dbfs: float) -> np.ndarray:
    return (x * np.float32(10 ** ((dbfs - level_dbfs(x)) / 20))).astype(np.float32)


def change_speed(x: np.ndarray, factor: float) -> np.ndarray:
    """Play `x` `factor` times as fast (pitch moves along), by linear interpolation."""
    at = np.arange(0, len(x) - 1, factor)
    return np.interp(at, np.arange(len(x)), x).astype(np.float32)


class Rooms:
    """Room impulse responses, the direct sound at sample 0 and of unit gain. One in five is kept for development."""

    def __init__(self, path: Path, development: bool = False) -> None:
        responses = np.load(path)["rirs"].astype(np.float32)
        keep = [i for i in range(len(responses)) if (i % 5 == 0) == development]
        self.responses = []
        for response in responses[keep]:
            direct = int(np.argmax(np.abs(response)))
            tail = response[max(direct - 8, 0) :]
            self.responses.append(tail / (np.abs(tail).max() + 1e-9))

    def reverberate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`x [sample]` in a random room, as loud as before."""
        response = self.responses[rng.integers(len(self.responses))]
        n = 1 << int(np.ceil(np.log2(len(x) + len(response))))
        y = np.fft.irfft(np.fft.rfft(x, n) * np.fft.rfft(response, n), n)[: len(x)].astype(np.float32)
        return y * np.float32(np.sqrt((np.mean(x**2) + 1e-9) / (np.mean(y**2) + 1e-9)))


def mix(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """`speech + noise` `[sample]`, the noise `snr_db` under the active level of the speech."""
    power = np.mean(noise**2) + 1e-9
    target = 10 ** ((level_dbfs(speech) - snr_db) / 10) * 32768.0**2
    return (speech + noise * np.float32(np.sqrt(target / power))).astype(np.float32)


def band_limit(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A microphone's frequency response: a soft low cut, a soft high cut, a tilt."""
    spectrum = np.fft.rfft(x)
    hz = np.fft.rfftfreq(len(x), 1 / RATE)
    low, high = rng.uniform(30, 350), np.exp(rng.uniform(np.log(3000), np.log(9000)))
    response = 1 / np.sqrt(1 + (low / np.maximum(hz, 1)) ** 4) / np.sqrt(1 + (hz / high) ** 8)
    response *= 10 ** (rng.uniform(-6, 6) * (np.log2(np.maximum(hz, 125) / 1000)) / 3 / 20)
    return np.fft.irfft(spectrum * response, len(x)).astype(np.float32)


def spec_augment(mel: np.ndarray, rng: np.random.Generator, floor: float) -> np.ndarray:
    """Up to two masks of 5 bands and one of 10 frames a second (Park et al. 2019, arXiv 1904.08779); `mel [frame, band]`."""
    mel = mel.copy()
    for _ in range(rng.integers(0, 3)):
        width = rng.integers(1, 6)
        at = rng.integers(0, mel.shape[1] - width)
        mel[:, at : at + width] = floor
    for _ in range(max(len(mel) // 100, 1)):
        width = rng.integers(1, 11)
        at = rng.integers(0, len(mel) - width)
        mel[at : at + width] = floor
    return mel


def to_int16(x: np.ndarray) -> np.ndarray:
    """Rounded and clipped as a converter would; float32."""
    return np.clip(np.round(x), -32768, 32767).astype(np.float32)

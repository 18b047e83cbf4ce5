"""What a room and a microphone do to speech. Takes are put together as numpy arrays `[sample]`, float32 in int16 scale; what is heard of
them is computed by torch in batches `[batch, sample]`, on the device where they lie: on a GPU in batched FFTs, so that it does not starve.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

RATE = 16000


def level_dbfs(x: np.ndarray) -> float:
    """Level of the loud half of 25 ms frames, dB of full scale: the active-speech level of a take with pauses."""
    return float(levels_dbfs(torch.from_numpy(x.astype(np.float32, copy=False))[None])[0])


def gain_to(x: np.ndarray, dbfs: float) -> np.ndarray:
    return (x * np.float32(10 ** ((dbfs - level_dbfs(x)) / 20))).astype(np.float32)


def change_speed(x: np.ndarray, factor: float) -> np.ndarray:
    """Play `x` `factor` times as fast (pitch moves along), by linear interpolation."""
    at = np.arange(0, len(x) - 1, factor)
    return np.interp(at, np.arange(len(x)), x).astype(np.float32)


def change_tempo(x: np.ndarray, factor: float) -> np.ndarray:
    """Say `x [sample]` `factor` times as fast, at its own pitch: overlap-add of 25 ms, each where it goes on most alike (WSOLA, Verhelst
    and Roelands 1993)."""
    window, search = 400, 120
    hop = window // 2
    pieces = int(len(x) / factor) // hop
    padded = np.pad(x, (search, window + hop + 2 * search + int(hop * factor))).astype(np.float32)
    power = np.cumsum(np.pad(padded.astype(np.float64) ** 2, (1, 0)))
    loudness = np.sqrt(power[window:] - power[:-window] + 1)
    fade = np.hanning(window + 1)[:-1].astype(np.float32)
    out, at = np.zeros((pieces + 1) * hop, np.float32), search
    for n in range(pieces):
        if n:
            ideal = int(n * hop * factor)
            alike = np.correlate(padded[ideal : ideal + window + 2 * search], padded[at + hop : at + hop + window], "valid")
            alike /= loudness[ideal : ideal + len(alike)]
            at = ideal + (int(alike.argmax()) if alike.any() else search)
        out[n * hop : n * hop + window] += padded[at : at + window] * fade
    return out[: int(len(x) / factor)]


def pause_within(x: np.ndarray, begin: int, end: int, samples: int) -> np.ndarray:
    """`x [sample]` with a pause of so many samples at the quietest 20 ms of the middle of `begin … end`, where a phrase parts most likely."""
    window, third = 320, (end - begin) // 3
    if third <= window:
        return x
    power = np.convolve(np.square(x[begin + third : end - third], dtype=np.float64), np.ones(window), "valid")
    at = begin + third + int(power.argmin()) + window // 2
    fade = np.linspace(0, 1, 80, dtype=np.float32)
    before, after = x[:at].copy(), x[at:].copy()
    before[-80:] *= fade[::-1]
    after[:80] *= fade
    return np.concatenate([before, np.zeros(samples, np.float32), after])


def to_int16(x: np.ndarray) -> np.ndarray:
    """Rounded and clipped as a converter would; float32."""
    return np.clip(np.round(x), -32768, 32767).astype(np.float32)


class Degradation(NamedTuple):
    """What happens to one take, or, stacked, to a batch: drawn on the host, done wherever the take lies."""

    room: Tensor
    """int64 `[]`: which response; -1 for none."""
    noise: Tensor
    """float32 `[sample]`; zeros for none."""
    snr_db: Tensor
    microphone: Tensor
    """`[3]`: low cut and high cut in Hz, tilt in dB over three octaves; a low cut of 0 for none."""
    gain_db: Tensor

    def to(self, device: torch.device) -> Degradation:
        return Degradation(*(part.to(device, non_blocking=True) for part in self))


def stack(each: Sequence[Degradation]) -> Degradation:
    """One for a batch of takes of one length."""
    return Degradation(*(torch.stack(parts) for parts in zip(*each, strict=True)))


class Rooms:
    """Room impulse responses, the direct sound at sample 0 and of unit gain. One in five is kept for development."""

    def __init__(self, path: Path, development: bool = False) -> None:
        responses = np.load(path)["rirs"].astype(np.float32)
        keep = [i for i in range(len(responses)) if (i % 5 == 0) == development]
        self.responses = torch.zeros(len(keep), responses.shape[1])
        for row, response in zip(self.responses, responses[keep], strict=True):
            tail = response[max(int(np.argmax(np.abs(response))) - 8, 0) :]
            row[: len(tail)] = torch.from_numpy(tail / (np.abs(tail).max() + 1e-9))

    def __len__(self) -> int:
        return len(self.responses)

    def of(self, which: Tensor) -> Tensor:
        """The responses `which [batch]`, on its device, to which all of them move with the first batch."""
        self.responses = self.responses.to(which.device)
        return self.responses[which]


def degrade(clean: Tensor, how: Degradation, rooms: Rooms) -> Tensor:
    """What a microphone hears of `clean [batch, sample]`, int16 scale: a room, noise, its response, its gain, its converter."""
    heard = clean
    if (inside := how.room >= 0).any():
        heard = heard.index_copy(0, inside.nonzero()[:, 0], reverberate(heard[inside], rooms.of(how.room[inside])))
    heard = mix(heard, how.noise, how.snr_db)
    if (coloured := how.microphone[:, 0] > 0).any():
        heard = heard.index_copy(0, coloured.nonzero()[:, 0], band_limit(heard[coloured], *how.microphone[coloured].T))
    return (heard * (10 ** (how.gain_db / 20))[:, None]).round().clamp(-32768, 32767)


def levels_dbfs(x: Tensor) -> Tensor:
    """Level of the loud half of the 25 ms frames of each row of `x [batch, sample]`, dB of full scale."""
    n = x.shape[1] // 400 * 400
    if n == 0:
        return x.new_full((len(x),), -100.0)
    power = x[:, :n].reshape(len(x), -1, 400).square().mean(2).sort(dim=1).values
    return 10 * torch.log10(power[:, power.shape[1] // 2 :].mean(1) / 32768.0**2 + 1e-10)


def reverberate(x: Tensor, responses: Tensor) -> Tensor:
    """`x [batch, sample]` in a room each, `responses [batch, tap]`, as loud as before."""
    n = _transform_length(x.shape[1] + responses.shape[1])
    y = torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(responses, n), n)[:, : x.shape[1]]
    return y * ((x.square().mean(1) + 1e-9) / (y.square().mean(1) + 1e-9)).sqrt()[:, None]


def _transform_length(least: int) -> int:
    """The next length of few small factors, which transforms fast: 2^k, or 3 or 5 times a power of two."""
    return min(factor << max(-(-least // factor) - 1, 0).bit_length() for factor in (1, 3, 5))


def mix(speech: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """`speech + noise` `[batch, sample]`, the noise `snr_db [batch]` under the active level of the speech."""
    target = 10 ** ((levels_dbfs(speech) - snr_db) / 10) * 32768.0**2
    return speech + noise * (target / (noise.square().mean(1) + 1e-9)).sqrt()[:, None]


def band_limit(x: Tensor, low_hz: Tensor, high_hz: Tensor, tilt_db: Tensor) -> Tensor:
    """`x [batch, sample]` through a microphone's frequency response each: a soft low cut, a soft high cut, a tilt over three octaves; `[batch]`."""
    hz = torch.fft.rfftfreq(x.shape[1], 1 / RATE, device=x.device)
    response = 1 / (1 + (low_hz[:, None] / hz.clamp(min=1)) ** 4).sqrt() / (1 + (hz / high_hz[:, None]) ** 8).sqrt()
    response = response * 10 ** (tilt_db[:, None] * torch.log2(hz.clamp(min=125) / 1000) / 3 / 20)
    return torch.fft.irfft(torch.fft.rfft(x) * response, x.shape[1])


def draw_masks(frames: int, bands: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(axis, begin, end) of up to two masks of 5 bands and one of 10 frames a second (SpecAugment, Park et al. 2019, arXiv 1904.08779)."""
    masks = []
    for axis, count, most, length in ((1, int(rng.integers(0, 3)), 5, bands), (0, max(frames // 100, 1), 10, frames)):
        for _ in range(count):
            width = int(rng.integers(1, most + 1))
            at = int(rng.integers(0, length - width))
            masks.append((axis, at, at + width))
    return masks


def mask(mel: Tensor, masks: Sequence[tuple[int, int, int]]) -> None:
    """Set what `masks` name of `mel [frame, band]` to its least value, in place."""
    floor = mel.min()
    for axis, begin, end in masks:
        mel.narrow(axis, begin, end - begin).fill_(floor)

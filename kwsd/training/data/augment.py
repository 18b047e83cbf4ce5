"""What a room and a microphone do to speech.

Scenes are assembled as numpy arrays `[sample]`, float32 in int16 scale. What a microphone hears of
them is computed by torch in batches `[batch, sample]` on their device: on a GPU in batched FFTs, so
that the GPU does not starve.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kwsd.audio.format import SAMPLE_RATE

FOLDS = 5
"""One room in this many belongs to the development split."""
TELEPHONE_HZ = (300.0, 3400.0)
"""The band of a telephone."""
FRAME_SAMPLES = 400
"""Frames of 25 ms, of which levels are taken."""


def loud_half_dbfs(x: np.ndarray) -> float:
    """Return the level of the loud half of the 25 ms frames of `x [sample]` in dB of full scale.

    That is the level of the speech alone, whatever pauses there are."""
    return float(speech_levels_dbfs(torch.from_numpy(x.astype(np.float32, copy=False))[None])[0])


def gain_to(x: np.ndarray, dbfs: float) -> np.ndarray:
    """Return `x [sample]` at a speech level of `dbfs`, float32."""
    return (x * np.float32(10 ** ((dbfs - loud_half_dbfs(x)) / 20))).astype(np.float32)


def change_speed(x: np.ndarray, factor: float) -> np.ndarray:
    """Return `x [sample]` played `factor` times as fast, at a changed pitch, by interpolation."""
    at = np.arange(0, len(x) - 1, factor)
    return np.interp(at, np.arange(len(x)), x).astype(np.float32)


def change_tempo(x: np.ndarray, factor: float) -> np.ndarray:
    """Return `x [sample]` spoken `factor` times as fast, at its own pitch.

    Overlap-add of 25 ms, each from where the signal continues most similarly (WSOLA, Verhelst and
    Roelands 1993)."""
    window = FRAME_SAMPLES
    search = 120
    hop = window // 2
    pieces = int(len(x) / factor) // hop
    padded = np.pad(x, (search, window + hop + 2 * search + int(hop * factor))).astype(np.float32)
    power = np.cumsum(np.pad(padded.astype(np.float64) ** 2, (1, 0)))
    loudness = np.sqrt(power[window:] - power[:-window] + 1)
    fade = np.hanning(window + 1)[:-1].astype(np.float32)
    out = np.zeros((pieces + 1) * hop, np.float32)
    at = search
    for n in range(pieces):
        if n:
            ideal = int(n * hop * factor)
            candidates = padded[ideal : ideal + window + 2 * search]
            similarity = np.correlate(candidates, padded[at + hop : at + hop + window], "valid")
            similarity /= loudness[ideal : ideal + len(similarity)]
            at = ideal + (int(similarity.argmax()) if similarity.any() else search)
        out[n * hop : n * hop + window] += padded[at : at + window] * fade
    return out[: int(len(x) / factor)]


def pause_within(x: np.ndarray, begin: int, end: int, samples: int) -> np.ndarray:
    """Return `x [sample]` with a pause of `samples` between the words of the phrase `begin … end`.

    The pause goes to the quietest 20 ms of the phrase's middle third."""
    window = 320
    third = (end - begin) // 3
    if third <= window:
        return x
    power = np.convolve(
        np.square(x[begin + third : end - third], dtype=np.float64), np.ones(window), "valid"
    )
    at = begin + third + int(power.argmin()) + window // 2
    fade = np.linspace(0, 1, 80, dtype=np.float32)
    before = x[:at].copy()
    after = x[at:].copy()
    before[-80:] *= fade[::-1]
    after[:80] *= fade
    return np.concatenate([before, np.zeros(samples, np.float32), after])


def quantize_int16(x: np.ndarray) -> np.ndarray:
    """Return `x` rounded and clipped as an analog-to-digital converter does, float32."""
    return np.clip(np.round(x), -32768, 32767).astype(np.float32)


class Degradation(NamedTuple):
    """What happens to one scene, or, stacked, to a batch: drawn on the host, applied on its
    device."""

    room: Tensor
    """int64 `[]`: the index of the room; -1 for none."""
    noise: Tensor
    """float32 `[sample]`; zeros for none."""
    snr_db: Tensor
    """`[]`"""
    microphone: Tensor
    """`[3]`: low cut and high cut in Hz, tilt in dB over three octaves; a low cut of 0 for none."""
    gain_db: Tensor
    """`[]`"""

    def to(self, device: torch.device) -> Degradation:
        """Return the degradation on `device`."""
        return Degradation(*(part.to(device, non_blocking=True) for part in self))


def stack(degradations: Sequence[Degradation]) -> Degradation:
    """Return one degradation for a batch of scenes of one length."""
    return Degradation(*(torch.stack(parts) for parts in zip(*degradations, strict=True)))


class Rooms:
    """Room impulse responses, the direct sound at sample 0 and of unit gain.

    One in five belongs to the development split, by what it sounds like. Responses whose names
    begin with the same word and a slash are of one room, and on one side."""

    def __init__(self, paths: Path | Sequence[Path], development: bool = False) -> None:
        """Read `paths`: in each, `rirs`, float16 `[response, sample]` at 16 kHz, and perhaps their
        `names`."""
        chosen = [
            response
            for path in ([paths] if isinstance(paths, Path) else paths)
            for response in _responses(path, development)
        ]
        self.responses = torch.zeros(len(chosen), max(map(len, chosen), default=0))
        for row, response in zip(self.responses, chosen, strict=True):
            tail = response[max(int(np.argmax(np.abs(response))) - 8, 0) :]
            row[: len(tail)] = torch.from_numpy(tail / (np.abs(tail).max() + 1e-9))

    def __len__(self) -> int:
        return len(self.responses)

    def of(self, which: Tensor) -> Tensor:
        """Return the responses `which [batch]`, on its device; the first call moves all there."""
        self.responses = self.responses.to(which.device)
        return self.responses[which]


def _responses(path: Path, development: bool) -> list[np.ndarray]:
    """Return the responses of one split in `path`, each float32 `[sample]`."""
    with np.load(path, allow_pickle=False) as saved:
        responses = saved["rirs"]
        names = saved["names"].tolist() if "names" in saved else [""] * len(responses)
    rooms = [
        zlib.crc32(name.split("/")[0].encode() if "/" in name else response.tobytes())
        for name, response in zip(names, responses, strict=True)
    ]
    order = sorted(set(rooms))
    return [
        response.astype(np.float32)
        for room, response in zip(rooms, responses, strict=True)
        if (order.index(room) % FOLDS == FOLDS - 1) == development
    ]


def degrade(clean: Tensor, how: Degradation, rooms: Rooms) -> Tensor:
    """Return what a microphone hears of `clean [batch, sample]`, int16 scale.

    In turn: the room, noise, the microphone's response, its gain, its converter."""
    heard = clean
    if (inside := how.room >= 0).any():
        wet = reverberate(heard[inside], rooms.of(how.room[inside]))
        heard = heard.index_copy(0, inside.nonzero()[:, 0], wet)
    heard = mix(heard, how.noise, how.snr_db)
    if (filtered := how.microphone[:, 0] > 0).any():
        limited = band_limit(heard[filtered], *how.microphone[filtered].T)
        heard = heard.index_copy(0, filtered.nonzero()[:, 0], limited)
    return (heard * (10 ** (how.gain_db / 20))[:, None]).round().clamp(-32768, 32767)


def speech_levels_dbfs(x: Tensor) -> Tensor:
    """Return `loud_half_dbfs` of each row of `x [batch, sample]`: `[batch]`."""
    n = x.shape[1] // FRAME_SAMPLES * FRAME_SAMPLES
    if n == 0:
        return x.new_full((len(x),), -100.0)
    frames = x[:, :n].reshape(len(x), -1, FRAME_SAMPLES)
    power = frames.square().mean(2).sort(dim=1).values
    return 10 * torch.log10(power[:, power.shape[1] // 2 :].mean(1) / 32768.0**2 + 1e-10)


def reverberate(x: Tensor, responses: Tensor) -> Tensor:
    """Return `x [batch, sample]`, each row in its room `responses [batch, sample]`, equally
    loud."""
    n = transform_length(x.shape[1] + responses.shape[1])
    y = torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(responses, n), n)[:, : x.shape[1]]
    return y * ((x.square().mean(1) + 1e-9) / (y.square().mean(1) + 1e-9)).sqrt()[:, None]


def transform_length(least: int) -> int:
    """Return the next length of few small factors, which transforms fast: 1, 3 or 5 times 2^k."""
    return min(factor << max(-(-least // factor) - 1, 0).bit_length() for factor in (1, 3, 5))


def mix(speech: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """Return `speech + noise` `[batch, sample]`, the noise `snr_db [batch]` below the speech
    level."""
    target = 10 ** ((speech_levels_dbfs(speech) - snr_db) / 10) * 32768.0**2
    return speech + noise * (target / (noise.square().mean(1) + 1e-9)).sqrt()[:, None]


def band_limit(x: Tensor, low_hz: Tensor, high_hz: Tensor, tilt_db: Tensor) -> Tensor:
    """Return `x [batch, sample]`, each row through its microphone's frequency response.

    `low_hz`, `high_hz` and `tilt_db`, each `[batch]`: a soft low cut, a soft high cut, and a tilt
    over three octaves."""
    hz = torch.fft.rfftfreq(x.shape[1], 1 / SAMPLE_RATE, device=x.device)
    low_cut = (1 + (low_hz[:, None] / hz.clamp(min=1)) ** 4).sqrt()
    high_cut = (1 + (hz / high_hz[:, None]) ** 8).sqrt()
    response = 1 / low_cut / high_cut
    response = response * 10 ** (tilt_db[:, None] * torch.log2(hz.clamp(min=125) / 1000) / 3 / 20)
    return torch.fft.irfft(torch.fft.rfft(x) * response, x.shape[1])


def narrow_band(x: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Return `x [sample]` without what lies outside of `low_hz … high_hz`, as if it had been
    recorded at a low rate: 48 dB in the octave below and 96 dB in the octave above."""
    hz = np.fft.rfftfreq(len(x), 1 / SAMPLE_RATE)
    low_cut = np.sqrt(1 + (low_hz / np.maximum(hz, 1)) ** 16)
    high_cut = np.sqrt(1 + (hz / high_hz) ** 32)
    return np.fft.irfft(np.fft.rfft(x) / low_cut / high_cut, len(x)).astype(np.float32)


def draw_masks(frames: int, bands: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Draw masks `(axis, begin, end)`: up to two of 5 bands, and one of 10 frames per second.

    SpecAugment (Park et al. 2019, arXiv 1904.08779)."""
    masks = []
    over_bands = (1, int(rng.integers(0, 3)), 5, bands)
    over_frames = (0, max(frames // 100, 1), 10, frames)
    for axis, count, most, length in (over_bands, over_frames):
        for _ in range(count):
            width = int(rng.integers(1, most + 1))
            at = int(rng.integers(0, length - width))
            masks.append((axis, at, at + width))
    return masks


def mask(mel: Tensor, masks: Sequence[tuple[int, int, int]]) -> None:
    """Set the masked parts of `mel [frame, band]` to its lowest value, in place."""
    floor = mel.min()
    for axis, begin, end in masks:
        mel.narrow(axis, begin, end - begin).fill_(floor)

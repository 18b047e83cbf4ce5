"""The audio of the benchmarks: an idle room, television-like continuous speech, a day of both.

It is made from bundled synthetic voices and seeded noise, so that everybody measures the same;
int16 mono at 16 kHz. The bundled voices are Kokoro 82M's (Apache-2.0): `television.ogg` contains a
minute and a half of talk, `computer.ogg` ten takes of "computer", whose first and last samples are
in `computer.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kwsd.audio.files import read_all
from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.pcm import to_int16

FOLDER = Path(__file__).parent
SPEECH_SHARE = 0.25
"""Share of the day during which somebody talks."""
HISS_SAMPLES = 10 * SAMPLE_RATE
"""The hiss repeats after ten seconds, which nothing that listens can know."""
CHORDS_HZ = ((220, 277, 330), (196, 247, 294), (175, 220, 262))


def idle(seconds: float, seed: int = 0) -> np.ndarray:
    """Return a quiet room, int16 `[sample]`.

    Hiss that falls with frequency, at -62 dBFS, some mains hum, and a click or a creak every half
    minute.
    """
    rng = np.random.default_rng(seed)
    samples = int(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(HISS_SAMPLES))
    hiss = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 20)), HISS_SAMPLES)
    hum = 4 * np.sin(2 * np.pi * 50 * np.arange(HISS_SAMPLES) / SAMPLE_RATE)
    room = 32768 * 10 ** (-62 / 20) * hiss / np.sqrt(np.mean(hiss**2)) + hum
    out = np.resize(room, samples)
    for at in rng.integers(0, max(samples - 800, 1), int(seconds / 30)):
        click = rng.normal(0, 400, 800) * np.exp(-np.arange(800) / 120)
        out[at : at + 800] += click[: len(out) - at]
    return to_int16(out)


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Return television, int16 `[sample]`.

    One voice after the other with short pauses, over a soft chord that changes every two seconds.
    """
    rng = np.random.default_rng(seed)
    samples = int(seconds * SAMPLE_RATE)
    talk = television().astype(np.float64)
    start = int(rng.integers(len(talk)))
    voices = np.resize(np.roll(talk, -start), samples)
    time = np.arange(SAMPLE_RATE * 2) / SAMPLE_RATE
    chords = [sum(np.sin(2 * np.pi * hz * time) for hz in chord) for chord in CHORDS_HZ]
    music = np.resize(np.concatenate(chords), samples)
    return to_int16(voices + 60 * music)


def day(seconds: float, seed: int = 0) -> np.ndarray:
    """Return a day, int16 `[sample]`.

    An idle room in which somebody talks a quarter of the time, 5 to 20 s at a stretch; "computer"
    is said every two minutes.
    """
    rng = np.random.default_rng(seed)
    out = idle(seconds, seed).astype(np.float64)
    talk = speech(120, seed + 1).astype(np.float64)
    takes = [take for take, _ in wakes()]
    at = 0
    while True:
        length = int(rng.uniform(5, 20) * SAMPLE_RATE)
        at += int(length * rng.uniform(0.5, 1.5) * (1 - SPEECH_SHARE) / SPEECH_SHARE)
        if at + length > len(out):
            break
        begin = int(rng.integers(len(talk) - length))
        out[at : at + length] += talk[begin : begin + length]
        at += length
    for n in range(1, int(seconds // 120) + 1):
        take = takes[n % len(takes)]
        begin = n * 120 * SAMPLE_RATE - 4 * SAMPLE_RATE
        out[begin : begin + len(take)] += take[: len(out) - begin]
    return to_int16(out)


def television() -> np.ndarray:
    """Return a minute and a half of talk by several voices, int16 `[sample]`."""
    return read_all(FOLDER / "television.ogg")


def wakes() -> list[tuple[np.ndarray, int]]:
    """Return the takes of "computer", int16 `[sample]`, each with the sample at which it ends."""
    audio = read_all(FOLDER / "computer.ogg")
    spans: list[list[int]] = json.loads((FOLDER / "computer.json").read_text(encoding="utf-8"))
    lead = SAMPLE_RATE // 10
    return [(audio[start - lead : end + lead], end - start + lead) for start, end in spans]


SCENES: dict[str, Callable[[float], np.ndarray]] = {"idle": idle, "day": day, "speech": speech}
"""Every scene by its name: seconds to int16 `[sample]`."""


def between_silence(samples: np.ndarray) -> np.ndarray:
    """Return int16 `[sample]` with a second of faint hiss before and after it."""
    hiss = np.random.default_rng(0).normal(0, 3, 2 * SAMPLE_RATE).astype(np.int16)
    return np.concatenate([hiss[:SAMPLE_RATE], samples, hiss[SAMPLE_RATE:]])


def with_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Return int16 `[sample]` in `noise`, which is repeated where it is shorter.

    The noise is `snr_db` below the level of the louder half of the 25 ms frames of `samples`.
    """
    x = samples.astype(np.float64)
    y = np.resize(noise, len(samples)).astype(np.float64)
    frames = np.sort(np.mean(x[: len(x) // 400 * 400].reshape(-1, 400) ** 2, axis=1))
    power = frames[len(frames) // 2 :].mean()
    gain = np.sqrt(power / 10 ** (snr_db / 10) / (np.mean(y**2) + 1e-9))
    return to_int16(x + gain * y)

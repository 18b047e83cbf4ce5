"""The audio of the benchmarks: an idle room, television-like continuous speech, a day with a quarter of speech.

Made from bundled synthetic voices and seeded noise, so that everybody measures the same; int16 mono at 16 kHz. The bundled
voices are Kokoro 82M's (Apache-2.0): `television.ogg` is a minute and a half of talk, `computer.ogg` ten takes of
"computer" whose begin and end samples stand in `computer.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kwsd.audio.files import RATE, read_all

HERE = Path(__file__).parent
SPEECH_SHARE = 0.25
"""Of the day-like mix."""


def idle(seconds: float, seed: int = 0) -> np.ndarray:
    """A quiet room: hiss that falls with frequency, at -62 dBFS, some mains hum, and a click or a creak every half minute."""
    rng, samples = np.random.default_rng(seed), int(seconds * RATE)
    second = RATE * 10  # the hiss repeats after ten seconds; what hears it does not know
    spectrum = np.fft.rfft(rng.standard_normal(second))
    hiss = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 20)), second)
    room = 32768 * 10 ** (-62 / 20) * hiss / np.sqrt(np.mean(hiss**2)) + 4 * np.sin(2 * np.pi * 50 * np.arange(second) / RATE)
    out = np.resize(room, samples)
    for at in rng.integers(0, max(samples - 800, 1), int(seconds / 30)):
        out[at : at + 800] += (rng.normal(0, 400, 800) * np.exp(-np.arange(800) / 120))[: len(out) - at]
    return _int16(out)


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Television: one voice after the other with short pauses, over a soft chord that changes every two seconds."""
    rng, samples = np.random.default_rng(seed), int(seconds * RATE)
    talk = read_all(HERE / "television.ogg").astype(np.float64)
    start = int(rng.integers(len(talk)))
    voices = np.resize(np.roll(talk, -start), samples)
    time = np.arange(RATE * 2) / RATE
    chords = [sum(np.sin(2 * np.pi * f * time) for f in chord) for chord in ((220, 277, 330), (196, 247, 294), (175, 220, 262))]
    music = np.resize(np.concatenate(chords), samples)
    return _int16(voices + 60 * music)


def day(seconds: float, seed: int = 0) -> np.ndarray:
    """An idle room in which a quarter of the time somebody talks, 5 to 20 s at a stretch; "computer" is said every two minutes."""
    rng, out = np.random.default_rng(seed), idle(seconds, seed).astype(np.float64)
    talk, takes = speech(120, seed + 1).astype(np.float64), [take for take, _ in wakes()]
    at = 0
    while True:
        length = int(rng.uniform(5, 20) * RATE)
        at += int(length * rng.uniform(0.5, 1.5) * (1 - SPEECH_SHARE) / SPEECH_SHARE)
        if at + length > len(out):
            break
        begin = int(rng.integers(len(talk) - length))
        out[at : at + length] += talk[begin : begin + length]
        at += length
    for minute in range(1, int(seconds // 120) + 1):
        take = takes[minute % len(takes)]
        begin = minute * 120 * RATE - 4 * RATE
        out[begin : begin + len(take)] += take[: len(out) - begin]
    return _int16(out)


def wakes() -> list[tuple[np.ndarray, int]]:
    """The takes of "computer", each with the sample at which the word ends in it."""
    audio = read_all(HERE / "computer.ogg")
    spans: list[list[int]] = json.loads((HERE / "computer.json").read_text(encoding="utf-8"))
    lead = RATE // 10
    return [(audio[start - lead : end + lead], end - start + lead) for start, end in spans]


SCENES: dict[str, Callable[[float], np.ndarray]] = {"idle": idle, "day": day, "speech": speech}


def _int16(x: np.ndarray) -> np.ndarray:
    return np.clip(np.round(x), -32768, 32767).astype(np.int16)

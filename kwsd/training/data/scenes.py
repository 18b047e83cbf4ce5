"""Training scenes: a few seconds of words, other speech and pauses, clean and as a microphone in a room hears them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kwsd.audio.log_mel import LogMel
from kwsd.audio.speech_span import speech_span
from kwsd.training.data import augment
from kwsd.training.data.augment import Degradation, Rooms
from kwsd.training.data.corpora import Clip, Corpora
from kwsd.training.data.transcripts import Said, Spoken, labelled
from kwsd.training.models.network import SMOOTHING_CHUNKS, WORDS

CHUNK = 1280
SPEEDS = (0.87, 1.22)
"""Slowest and fastest that a clip is played: some people say a wake word in half a second."""
TEMPOS = (0.85, 1.18)
"""Slowest and fastest that a short clip is said beside that, at its own pitch: children speak high and slowly."""
PHRASES = tuple(n for n, word in enumerate(WORDS) if "_" in word)
"""Of several words, between which some people pause."""


@dataclass(frozen=True)
class Scene:
    clean: np.ndarray
    """`[sample]`, dry, at a common level."""
    degradation: Degradation
    """What the microphone makes of it."""
    words: list[tuple[int, int, int]]
    """`(word, start, end)` in samples of each wake word that lies in it."""
    said: list[Said]
    """All words that are known to be said in it."""


class Scenes:
    """Draws scenes from one split of the corpora."""

    def __init__(self, corpora: Corpora, rooms: Path, *, development: bool = False, seed: int = 0, spoken: Spoken | None = None) -> None:
        self.corpora, self.rng, self.spoken = corpora, np.random.default_rng(seed), spoken
        self.rooms = Rooms(rooms, development)
        clips = [c for c in corpora.clips if c.development == development]
        self.words: list[dict[bool, list[Clip]]] = [
            {s: [c for c in clips if c.word == w and c.synthetic == s] for s in (False, True)} for w in range(len(WORDS))
        ]
        self.noise = [c for c in clips if c.noise]
        self.near = [c for c in clips if c.synthetic and c.word < 0]
        self.speech: dict[str, list[Clip]] = {}
        for clip in clips:
            if clip.word < 0 and not clip.noise and not clip.synthetic:
                self.speech.setdefault(clip.corpus, []).append(clip)

    def pick(self, clips: list[Clip]) -> Clip:
        """One of `clips`, at random."""
        return clips[self.rng.integers(len(clips))]

    def word_clip(self, word: int, synthetic_share: float = 0.35) -> Clip:
        pools = self.words[word]
        synthetic = bool(pools[True]) and (not pools[False] or self.rng.random() < synthetic_share)
        return self.pick(pools[synthetic])

    def other_clip(self) -> Clip:
        if self.near and self.rng.random() < 0.3:
            return self.pick(self.near)
        names = list(self.speech)
        return self.pick(self.speech[names[self.rng.integers(len(names))]])

    def noise_take(self, samples: int) -> np.ndarray:
        """Noise, music, babble or hiss `[samples]`."""
        kind = self.rng.random()
        if kind < 0.1 or not self.noise:
            hiss = np.fft.rfft(self.rng.standard_normal(samples))
            tilt = np.maximum(np.arange(len(hiss)), 1) ** -self.rng.uniform(0, 1)
            return (np.fft.irfft(hiss * tilt, samples) * 1000).astype(np.float32)
        if kind < 0.25:
            return sum((augment.gain_to(self.fill(self.other_clip, samples), -26) for _ in range(self.rng.integers(1, 5))), np.zeros(samples, np.float32))
        return self.fill(lambda: self.pick(self.noise), samples)

    def fill(self, draw: Callable[[], Clip], samples: int) -> np.ndarray:
        """Clips that `draw` gives, cut and joined: float32 `[samples]`."""
        parts, have = [], 0
        while have < samples:
            x = self.corpora.read(draw())
            if len(x) > samples:
                at = self.rng.integers(len(x) - samples + 1)
                x = x[at : at + samples]
            parts.append(x)
            have += len(x)
        return np.concatenate(parts)[:samples]

    def degradation(self, samples: int, harsh: float = 1.0) -> Degradation:
        """A room, noise, a microphone and a gain range of 40 dB for a take of so many samples; `harsh` scales how often."""
        rng = self.rng
        room = int(rng.integers(len(self.rooms))) if rng.random() < 0.5 * harsh else -1
        noise, snr_db, microphone = np.zeros(samples, np.float32), 0.0, (0.0, 0.0, 0.0)
        if rng.random() < 0.8 * harsh:
            noise, snr_db = self.noise_take(samples), float(rng.uniform(0, 30))
        if rng.random() < 0.4 * harsh:
            microphone = (rng.uniform(30, 350), float(np.exp(rng.uniform(np.log(3000), np.log(9000)))), rng.uniform(-6, 6))
        return Degradation(
            torch.tensor(room), torch.from_numpy(noise.astype(np.float32)), torch.tensor(snr_db), torch.tensor(microphone), torch.tensor(rng.uniform(-30, 10))
        )

    def degrade(self, clean: np.ndarray, *, harsh: float = 1.0) -> np.ndarray:
        """What a microphone hears of `clean [sample]`, the degradation drawn anew."""
        return self.hear(clean[None], [self.degradation(len(clean), harsh)])[0]

    def hear(self, clean: np.ndarray, how: Sequence[Degradation]) -> np.ndarray:
        """What microphones hear of `clean [batch, sample]`, each by its degradation."""
        return augment.degrade(torch.from_numpy(clean.astype(np.float32, copy=False)), augment.stack(how), self.rooms).numpy()

    def draw(self, samples: int, word_share: float = 0.4) -> Scene:
        """One scene of `samples`."""
        rng = self.rng
        clean, words, said = np.zeros(samples, np.float32), [], list[Said]()
        at = int(rng.uniform(0, 0.7) * 16000)
        while at < samples - 3200:
            word = int(rng.integers(len(WORDS))) if rng.random() < word_share else -1
            clip = self.word_clip(word) if word >= 0 else self.other_clip()
            x, speed = self.corpora.read(clip), 1.0
            if rng.random() < 0.5:
                speed = float(rng.uniform(*SPEEDS))
                x = augment.change_speed(x, speed)
            if (word >= 0 or len(x) < 48000) and rng.random() < 0.3:
                tempo = float(rng.uniform(*TEMPOS))
                x, speed = augment.change_tempo(x, tempo), speed * tempo
            if word >= 0 or len(x) < 48000:
                start, end = self._span(clip, x, speed)
                if word in PHRASES and rng.random() < 0.15:
                    whole = len(x)
                    x = augment.pause_within(x, start, end, int(rng.uniform(0.03, 0.35) * 16000))
                    end += len(x) - whole
                lead, tail = (int(rng.uniform(0.02, 0.2) * 16000) for _ in range(2))
                begin = max(start - lead, 0)
                x = x[begin : end + tail]
                start, end = start - begin, end - begin
            else:
                length = min(int(rng.uniform(0.8, 3.0) * 16000), len(x))
                begin = int(rng.integers(len(x) - length + 1))
                x, start, end = x[begin : begin + length], 0, length
            if clip.label:
                found = [Said(labelled(clip), start, end)]
            else:
                within = self.spoken.within(clip, round(begin * speed), round((begin + len(x)) * speed)) if self.spoken else []
                found = [Said(text, round(a / speed), round(b / speed)) for text, a, b in within]
            x = augment.gain_to(x, float(rng.normal(-26, 3)))[: samples - at]
            clean[at : at + len(x)] += x
            if word >= 0:
                words.append((word, at + start, at + end))
            said += [Said(text, at + a, at + b) for text, a, b in found if text and at + b <= samples]
            at += len(x) + int(rng.choice([0.0, rng.uniform(0, 0.3), rng.uniform(0.3, 1.0)]) * 16000)
        return Scene(clean, self.degradation(samples), words, said)

    def _span(self, clip: Clip, x: np.ndarray, speed: float) -> tuple[int, int]:
        """Where the word lies in `x`, the clip played `speed` times as fast: as aligned, else by what stands out."""
        aligned = self.spoken.within(clip, 0, clip.samples) if self.spoken and clip.word >= 0 else []
        return (round(aligned[0].start / speed), round(aligned[-1].end / speed)) if aligned else speech_span(x)

    def labels(self, words: list[tuple[int, int, int]], chunks: int) -> np.ndarray:
        """int8 `[chunk, word]`: 1 where a word has just ended (for as long as scores are smoothed), -1 around that (ignored), 0 elsewhere.

        A chunk is placed by its end."""
        out = np.zeros((chunks, len(WORDS)), np.int8)
        ends = (np.arange(chunks) + 1) * CHUNK
        for word, _, end in words:
            out[(ends >= end - 5600) & (ends <= end + 9600), word] = -1
        for word, _, end in words:
            out[(ends >= end) & (ends < end + SMOOTHING_CHUNKS * CHUNK), word] = 1
        return out


def mel_of(front_end: LogMel, x: np.ndarray) -> np.ndarray:
    """Features of `x [..., sample]` from the start of a stream."""
    history = [(0, 0)] * (x.ndim - 1) + [(front_end.history_samples, 0)]
    return front_end(np.pad(x, history))

"""Training scenes: a few seconds of words, other speech and pauses, clean and as a microphone in a
room hears them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.speech_span import speech_span
from kwsd.training.data import augment, revoicing
from kwsd.training.data.augment import Degradation, Rooms
from kwsd.training.data.backgrounds import Backgrounds, Draw
from kwsd.training.data.corpora import Corpora, Utterance
from kwsd.training.data.transcripts import SpokenWord, Transcripts
from kwsd.training.features import SMOOTHING_CHUNKS
from kwsd.training.settings.catalog import MUSIC

SPEEDS = (0.87, 1.22)
"""Slowest and fastest playback: some people say a wake word in half a second."""
TEMPOS = (0.85, 1.18)
"""Slowest and fastest tempo of a short utterance at its own pitch, in addition: children speak high
and slowly."""
HOMOPHONES = 0.15
"""Share of the other speech that is recorded and sounds like a wake word, where there is any."""
REVOICED = 0.2
"""Share of the short utterances that are spoken in another voice."""
VOICES = (0.82, 1.2)
"""Least and greatest change of pitch, and, apart from it, of the formants."""
NARROW = (0.1, 0.25)
"""Share of the utterances in a narrow band: others, and wake words."""
NARROW_HZ = (3200, 5500)
"""Lowest and highest end of a narrow band."""
SHORT_SAMPLES = 3 * SAMPLE_RATE
"""Utterances below this length are single words or phrases, and are used whole."""
IGNORED_SAMPLES = (5600, 9600)
"""Before and after a word's end, chunks are neither positive nor negative: 0.35 and 0.6 s."""


@dataclass(frozen=True)
class Scene:
    """A few seconds of audio and what is in them."""

    clean: np.ndarray
    """float32 `[sample]`, dry, at a common level."""
    degradation: Degradation
    """What the room and the microphone do to it."""
    words: list[tuple[int, int, int]]
    """`(word, start, end)` in samples of each wake word."""
    transcript: list[SpokenWord]
    """All words that are known to be in it."""


@dataclass
class _Excerpt:
    """An utterance as it goes into a scene; positions are samples of `samples`."""

    samples: np.ndarray
    start: int
    """Where its speech starts."""
    end: int
    begin: int
    """Where it begins in the utterance, played at `speed`."""
    speed: float


class Scenes:
    """Draws scenes from one split of the corpora."""

    def __init__(
        self,
        corpora: Corpora,
        rooms: Path | Sequence[Path],
        *,
        development: bool = False,
        seed: int = 0,
        transcripts: Transcripts | None = None,
    ) -> None:
        """`rooms` are files of room impulse responses. Without `transcripts` only labels say
        which words a scene holds."""
        self.corpora = corpora
        self.rng = np.random.default_rng(seed)
        self.transcripts = transcripts
        self.rooms = Rooms(rooms, development)
        utterances = [u for u in corpora.utterances if u.development == development]
        self.words: list[dict[bool, list[Utterance]]] = [
            {
                synthetic: [u for u in utterances if u.word == word and u.synthetic == synthetic]
                for synthetic in (False, True)
            }
            for word in range(len(corpora.words))
        ]
        """The utterances of each wake word, by whether they are synthetic."""
        self.noise = [u for u in utterances if u.noise]
        self.near = [u for u in utterances if u.synthetic and u.word < 0]
        """Synthetic words that sound like a wake word."""
        self.homophones = [u for u in utterances if u.homophone]
        """Recorded phrases that sound like a wake word."""
        self.speech: dict[str, list[Utterance]] = {}
        """Other recorded speech without a wake word, by corpus."""
        for utterance in utterances:
            recorded = not utterance.noise and not utterance.synthetic and not utterance.homophone
            if utterance.word < 0 and recorded:
                self.speech.setdefault(utterance.corpus, []).append(utterance)
        self.backgrounds = self._make_backgrounds()

    def pick(self, utterances: list[Utterance]) -> Utterance:
        """Return one of `utterances`, at random."""
        return utterances[self.rng.integers(len(utterances))]

    def reseed(self, seed: Sequence[int]) -> None:
        """Draw as a new source would with this seed."""
        state = np.random.default_rng(seed).bit_generator.state
        self.rng.bit_generator.state = state  # the backgrounds draw from it too

    def pick_word(self, word: int, synthetic_share: float = 0.35) -> Utterance:
        """Return an utterance of the wake word with the index `word`.

        Raises ValueError where the split holds none."""
        pools = self.words[word]
        if not any(pools.values()):
            name = self.corpora.words.names[word]
            raise ValueError(
                f"the stores hold no recording of {name!r} in this split; add some by more speakers"
            )
        synthetic = bool(pools[True]) and (not pools[False] or self.rng.random() < synthetic_share)
        return self.pick(pools[synthetic])

    def pick_other(self) -> Utterance:
        """Return speech without a wake word; corpora are equally likely.

        Raises ValueError where the split holds none."""
        if self.near and self.rng.random() < 0.3:
            return self.pick(self.near)
        if self.homophones and self.rng.random() < HOMOPHONES:
            return self.pick(self.homophones)
        names = list(self.speech)
        if not names:
            raise ValueError("the stores hold no recorded speech besides the wake words; add some")
        return self.pick(self.speech[names[self.rng.integers(len(names))]])

    def draw_noise(self, samples: int) -> np.ndarray:
        """Return a background of any kind, float32 `[samples]`."""
        return self.backgrounds.draw(samples).samples

    def _pick_noise(self, music: bool) -> Callable[[], Utterance]:
        """Return what picks music, or noise without it; a corpus is the likelier the longer it is,
        by the root of its length.

        Where there is none, it picks the other of both."""
        corpora: dict[str, list[Utterance]] = {}
        for utterance in self.noise:
            corpora.setdefault(utterance.corpus, []).append(utterance)
        roles = self.corpora.roles
        wanted = {c: u for c, u in corpora.items() if (roles.source(c) == MUSIC) == music}
        pools = list((wanted or corpora).values())
        weights = np.sqrt([sum(u.samples for u in pool) for pool in pools])
        return lambda: self.pick(pools[self.rng.choice(len(pools), p=weights / weights.sum())])

    def _make_backgrounds(self) -> Backgrounds:
        """Return what draws backgrounds from this split."""

        def of(pick: Callable[[], Utterance]) -> Draw:
            return lambda samples: self.fill(pick, samples)

        return Backgrounds(
            self.rng,
            of(self.pick_other) if self.speech or self.near else None,
            of(self._pick_noise(music=False)) if self.noise else None,
            of(self._pick_noise(music=True)) if self.noise else None,
        )

    def fill(self, draw: Callable[[], Utterance], samples: int) -> np.ndarray:
        """Return utterances that `draw` gives, cut and joined: float32 `[samples]`."""
        parts = []
        length = 0
        while length < samples:
            utterance = draw()
            begin = int(self.rng.integers(max(utterance.samples - samples, 0) + 1))
            x = self.corpora.read(utterance, begin, begin + samples)
            parts.append(x)
            length += len(x)
        return np.concatenate(parts)[:samples]

    def degradation(self, samples: int, harsh: float = 1.0) -> Degradation:
        """Draw a room, noise, a microphone and a gain (a range of 40 dB) for this many samples.

        `harsh` scales how often each happens; 0 leaves only the gain."""
        rng = self.rng
        room = int(rng.integers(len(self.rooms))) if rng.random() < 0.5 * harsh else -1
        noise = np.zeros(samples, np.float32)
        snr_db = 0.0
        microphone = (0.0, 0.0, 0.0)
        if rng.random() < 0.8 * harsh:
            noise, snr_db = self.backgrounds.draw(samples)
        if rng.random() < 0.4 * harsh:
            low_hz = rng.uniform(30, 350)
            high_hz = float(np.exp(rng.uniform(np.log(3000), np.log(9000))))
            microphone = (low_hz, high_hz, rng.uniform(-6, 6))
        return Degradation(
            torch.tensor(room),
            torch.from_numpy(noise.astype(np.float32)),
            torch.tensor(snr_db),
            torch.tensor(microphone),
            torch.tensor(rng.uniform(-30, 10)),
        )

    def degrade(self, clean: np.ndarray, *, harsh: float = 1.0) -> np.ndarray:
        """Return what a microphone hears of `clean [sample]`, with a newly drawn degradation."""
        return self.hear(clean[None], [self.degradation(len(clean), harsh)])[0]

    def hear(self, clean: np.ndarray, degradations: Sequence[Degradation]) -> np.ndarray:
        """Return what microphones hear of `clean [batch, sample]`, one degradation per row."""
        x = torch.from_numpy(clean.astype(np.float32, copy=False))
        return augment.degrade(x, augment.stack(degradations), self.rooms).numpy()

    def draw(self, samples: int, word_share: float = 0.4) -> Scene:
        """Draw a scene of `samples`; `word_share` of its utterances are wake words."""
        rng = self.rng
        clean = np.zeros(samples, np.float32)
        words: list[tuple[int, int, int]] = []
        transcript: list[SpokenWord] = []
        at = int(rng.uniform(0, 0.7) * SAMPLE_RATE)
        while at < samples - 3200:
            word = int(rng.integers(len(self.words))) if rng.random() < word_share else -1
            utterance = self.pick_word(word) if word >= 0 else self.pick_other()
            excerpt = self._excerpt(utterance, word)
            found = self._words_of(utterance, excerpt)
            x = augment.gain_to(excerpt.samples, float(rng.normal(-26, 3)))[: samples - at]
            clean[at : at + len(x)] += x
            if word >= 0:
                words.append((word, at + excerpt.start, at + excerpt.end))
            transcript += [
                SpokenWord(text, at + start, at + end)
                for text, start, end in found
                if text and at + end <= samples
            ]
            pause_s = rng.choice([0.0, rng.uniform(0, 0.3), rng.uniform(0.3, 1.0)])
            at += len(x) + int(pause_s * SAMPLE_RATE)
        return Scene(clean, self.degradation(samples), words, transcript)

    def _excerpt(self, utterance: Utterance, word: int) -> _Excerpt:
        """Return `utterance` at a drawn speed and tempo, cut to its speech; `word` is -1 for
        none."""
        rng = self.rng
        x = self.corpora.read(utterance)
        speed = 1.0
        if rng.random() < 0.5:
            speed = float(rng.uniform(*SPEEDS))
            x = augment.change_speed(x, speed)
        if (word >= 0 or len(x) < SHORT_SAMPLES) and rng.random() < 0.3:
            tempo = float(rng.uniform(*TEMPOS))
            x = augment.change_tempo(x, tempo)
            speed *= tempo
        x = self._revoiced(x, word)
        if word < 0 and len(x) >= SHORT_SAMPLES:
            length = min(int(rng.uniform(0.8, 3.0) * SAMPLE_RATE), len(x))
            begin = int(rng.integers(len(x) - length + 1))
            return _Excerpt(x[begin : begin + length], 0, length, begin, speed)
        start, end = self._span(utterance, x, speed)
        if word in self.corpora.words.phrases and rng.random() < 0.15:
            before = len(x)
            x = augment.pause_within(x, start, end, int(rng.uniform(0.03, 0.35) * SAMPLE_RATE))
            end += len(x) - before
        lead, tail = (int(rng.uniform(0.02, 0.2) * SAMPLE_RATE) for _ in range(2))
        begin = max(start - lead, 0)
        return _Excerpt(x[begin : end + tail], start - begin, end - begin, begin, speed)

    def _revoiced(self, x: np.ndarray, word: int) -> np.ndarray:
        """Return `x [sample]`, some of the time in another voice, and some of the time without what
        recordings of a low rate lack; `word` is -1 for none.

        Much of the speech without wake words is so narrow: unless the words are as well, the band
        tells them apart."""
        rng = self.rng
        if len(x) < SHORT_SAMPLES and rng.random() < REVOICED:
            if word < 0 and rng.random() < 0.3:
                x = revoicing.vocode(x, rng, int(rng.integers(4, 17)))
            else:
                x = revoicing.change_pitch(x, float(rng.uniform(*VOICES)))
                x = revoicing.change_formants(x, float(rng.uniform(*VOICES)))
        if rng.random() < NARROW[word >= 0]:
            high_hz = float(np.exp(rng.uniform(*np.log(NARROW_HZ))))
            x = augment.narrow_band(x, float(rng.uniform(20, 300)), high_hz)
        return x

    def _words_of(self, utterance: Utterance, excerpt: _Excerpt) -> list[SpokenWord]:
        """Return the known words of `excerpt`, in its samples."""
        if utterance.label:
            return [SpokenWord(utterance.text, excerpt.start, excerpt.end)]
        if self.transcripts is None:
            return []
        begin = excerpt.begin
        speed = excerpt.speed
        words = self.transcripts.within(
            utterance, round(begin * speed), round((begin + len(excerpt.samples)) * speed)
        )
        return [
            SpokenWord(text, round(start / speed), round(end / speed)) for text, start, end in words
        ]

    def _span(self, utterance: Utterance, x: np.ndarray, speed: float) -> tuple[int, int]:
        """Return where the word lies in `x`, the utterance played at `speed`: as aligned, else the
        part that stands out."""
        if self.transcripts and utterance.word >= 0:
            aligned = self.transcripts.within(utterance, 0, utterance.samples)
            if aligned:
                return round(aligned[0].start / speed), round(aligned[-1].end / speed)
        return speech_span(x)

    def labels(self, words: list[tuple[int, int, int]], chunks: int) -> np.ndarray:
        """Return int8 `[chunk, word]`: 1 where a word has just ended (for as long as scores are
        smoothed), -1 around that (ignored), 0 elsewhere.

        `words` are those of a scene. A chunk is placed by its end."""
        out = np.zeros((chunks, len(self.words)), np.int8)
        ends = (np.arange(chunks) + 1) * CHUNK_SAMPLES
        before, after = IGNORED_SAMPLES
        for word, _, end in words:
            out[(ends >= end - before) & (ends <= end + after), word] = -1
        for word, _, end in words:
            out[(ends >= end) & (ends < end + SMOOTHING_CHUNKS * CHUNK_SAMPLES), word] = 1
        return out

"""Takes of a word as the encoder's frames: what few-shot learning learns from.
Where a checker knows words, what it hears at their ends belongs to them.

Each take is encoded in several versions: faster and slower, in noise, and with speech before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from kwsd.audio.format import SAMPLE_RATE, SILENCE_DBFS
from kwsd.audio.pcm import level_dbfs
from kwsd.audio.phrase import MIN_WORD_FRAMES, Phrase, find_phrase, word_cuts
from kwsd.audio.voicing import HOP_SAMPLES
from kwsd.detect.embedder import Embedder
from kwsd.learn.speech import LATER_FRAMES, SpeechProbe, read_probe
from kwsd.learn.takes import TakeRejected, check_take
from kwsd.learn.word_vectors import EVERY_CHUNKS, word_vectors
from kwsd.model.bundle import Bundle, CheckerModel
from kwsd.model.runtime import Frames, Runtime
from kwsd.state.words import CONTEXT_FRAMES

MIN_WORD_S = MIN_WORD_FRAMES * HOP_SAMPLES / SAMPLE_RATE
MAX_WORD_S = 2.4
"""Longest word, to a tenth of a second. Its last 2 s decide: the frames that a word looks at."""
MAX_TAKE_S = 6.0
MAX_CLIPPED = 0.01
"""Share of samples at full scale behind the high-pass, half of those before it. A clipped word is
still the word; a clipped voice is not."""
FIRING_CHUNKS = 4
"""Chunks, from the one that contains the end of the word on, at which it should fire."""
WRONG_CHUNKS = 8
"""Chunks around the end of a wrong clip at which the word must not fire."""
BEFORE_S = 2.4
"""Seconds of background before a take."""
AFTER_S = 0.6
"""Seconds of background after a take."""
MARGIN_SAMPLES = SAMPLE_RATE // 10


class Version(NamedTuple):
    """How a take is varied."""

    speed: float
    snr_db: float | None
    """Signal-to-noise ratio; None for a faint hiss."""
    speech_before: bool
    """Whether there is speech before it: the take itself, backwards."""


VERSIONS = (
    Version(1.0, None, False),
    Version(1.0, 10.0, False),
    Version(1.0, 20.0, False),
    Version(0.9, None, True),
    Version(0.9, 14.0, False),
    Version(1.12, None, True),
    Version(1.12, 14.0, False),
    Version(1.06, 8.0, True),
)
"""The first is the take as it is, the second the take in noise."""
JUDGED_VERSIONS = 2
"""The first of these are judged, and heard at every chunk; the others are learned from alone, and
heard at every `EVERY_CHUNKS`th, which counts for those after it too."""


class TakeStream(NamedTuple):
    """A recording as it is, and silence after it: what a detector that is fed it sees."""

    embedding: np.ndarray
    """float32 `[chunk, dim]`."""
    logits: np.ndarray
    """float32 `[chunk, word]`, of the bundle's words."""
    heard: HeardStream | None = None
    """The same, as added words hear it."""


class HeardStream:
    """A recording that is heard from its start on; its vectors are computed when asked for."""

    def __init__(
        self, encoder: TakeEncoder, samples: np.ndarray, embedding: np.ndarray | None = None
    ) -> None:
        """`samples` is int16-scaled `[sample]`; its frames are computed unless they are given."""
        self.embedding = encoder.frames(samples) if embedding is None else embedding
        """float32 `[chunk, dim]`."""
        self._encoder = encoder
        self._samples = samples
        self._vectors: dict[int, np.ndarray] = {}

    def vector(self, chunk: int) -> np.ndarray:
        """Return the vector `[dim]` of the window that ends with a chunk; empty without any."""
        if chunk not in self._vectors:
            found = self._encoder.vectors(self._samples, [chunk])
            self._vectors[chunk] = np.zeros(0, np.float32) if found is None else found[0]
        return self._vectors[chunk]


class WrongClip(NamedTuple):
    """A clip that is not the word, encoded around where it ended for the detector."""

    frames: np.ndarray
    """float32 `[CONTEXT_FRAMES + WRONG_CHUNKS, dim]`."""
    vectors: np.ndarray | None
    """float32 `[window, dim]`: what the checker hears at the end of every `EVERY_CHUNKS`th of
    these chunks; None without a checker that knows words."""


@dataclass(frozen=True)
class WordTake:
    """One recording of a word, encoded."""

    frames: np.ndarray
    """float32 `[version, CONTEXT_FRAMES + FIRING_CHUNKS, dim]`: frames before the end of the word,
    and `FIRING_CHUNKS` from there on."""
    length_s: float
    stream: TakeStream | None = None
    """None for a take that was read from a word's file."""
    voice: np.ndarray | None = None
    """Speaker embedding `[dim]`, where it was asked for."""
    speech_dbfs: float = SILENCE_DBFS
    """Level of the speech in a take."""
    start_s: float = 0.0
    """Where the word begins in its recording, in seconds."""
    vectors: np.ndarray | None = None
    """float32 `[version, FIRING_CHUNKS, dim]`: what the checker hears in the windows that end with
    the chunks of the end of the word, or one before; None without a checker that knows words."""
    parts: tuple[WrongClip, ...] = ()
    """What its pauses or words part, said without the rest, as `TakeEncoder.wrong_clip` returns it.
    """
    left_out: tuple[tuple[float, float], ...] = ()
    """`(start, end)` in seconds of other speech in the recording, further than a pause away."""

    @property
    def end_s(self) -> float:
        """Where the word ends in its recording, in seconds."""
        return self.start_s + self.length_s

    def said(self, samples: np.ndarray) -> np.ndarray:
        """Return the word alone, of `samples` of its recording."""
        return samples[round(self.start_s * SAMPLE_RATE) : round(self.end_s * SAMPLE_RATE)]

    @property
    def warning(self) -> str | None:
        """What a person should know of the take."""
        if not self.left_out:
            return None
        apart = " and ".join(f"{start:.1f}–{end:.1f} s" for start, end in self.left_out)
        kept = f"{self.start_s:.1f}–{self.end_s:.1f} s"
        return (
            f"the speech at {apart} is left out, and the word is what is said at {kept}; "
            "pauses within a word last at most 0.7 s"
        )


class TakeEncoder:
    """Encodes takes and clips of words."""

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime | None = None,
        checker: CheckerModel | None = None,
    ) -> None:
        """`checker` hears them too, where it knows words. Raises BundleError."""
        self.bundle = bundle
        self.runtime = runtime or Runtime(bundle)
        knows_words = checker is not None and checker.word_id is not None
        self.graph = self.runtime.checker(checker) if knows_words else None
        """The checker, where there is one that knows words."""

    @cached_property
    def _probe(self) -> SpeechProbe | None:
        return read_probe(self.bundle)

    @cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self.bundle, self.runtime)

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """Return the frames `[chunk, dim]` of int16-scaled `samples` from the start of a stream."""
        return self._encode(samples).embedding

    def heard(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the frames of samples as above, and the vectors of every `EVERY_CHUNKS`th."""
        frames = self.frames(samples)
        return frames, self.vectors(samples, range(0, len(frames), EVERY_CHUNKS))

    def take(
        self, samples: np.ndarray, name: str = "", span: tuple[int, int] | None = None
    ) -> WordTake:
        """Encode one take, int16 `[sample]`, which contains the word `name` alone.

        A name of several words says where to cut its parts. A `span`, in samples, says where the
        word is; without, its voice is looked for. Raises TakeRejected.
        """
        check_take(samples, 0.0, MAX_TAKE_S, MAX_CLIPPED)
        phrase = self._phrase(samples, span)
        take = self._take(samples, phrase.start, phrase.end)
        return replace(
            take,
            voice=self._embedder.embed([samples]),
            speech_dbfs=level_dbfs(samples[phrase.start : phrase.end]),
            start_s=phrase.start / SAMPLE_RATE,
            parts=tuple(self._parts(samples, phrase, words_of(name))),
            left_out=tuple((a / SAMPLE_RATE, b / SAMPLE_RATE) for a, b in phrase.left_out),
        )

    def clip_take(self, samples: np.ndarray, begin: int, end: int) -> WordTake:
        """Encode a clip, int16 `[sample]`, in which the word is said in samples `[begin, end)`.

        Raises TakeRejected.
        """
        take = self._take(samples, begin, end)
        frames, vectors = self._around(samples, end, FIRING_CHUNKS)
        take = replace(take, frames=np.concatenate([frames[None], take.frames[1:]]))
        if take.vectors is None or vectors is None:
            return take
        return replace(take, vectors=np.concatenate([vectors[None], take.vectors[1:]]))

    def wrong_clip(self, samples: np.ndarray, end: int) -> WrongClip:
        """Return a clip that is not the word, encoded.

        `samples` is int16 `[sample]`; a word ended at sample `end` for the detector.
        """
        first = end - WRONG_CHUNKS // 4 * self.bundle.chunk_samples
        return WrongClip(*self._around(samples, max(first, 1), WRONG_CHUNKS, EVERY_CHUNKS))

    def vectors(self, samples: np.ndarray, chunks: Iterable[int]) -> np.ndarray | None:
        """Return the vectors `[window, dim]` of the windows of `samples`, from the start of a
        stream, that end with these chunks; None without a checker that knows words."""
        if self.graph is None:
            return None
        ends = ((chunk + 1) * self.bundle.chunk_samples for chunk in chunks)
        return word_vectors(self.graph, samples, ends)

    def _encode(self, samples: np.ndarray) -> Frames:
        chunk_samples = self.bundle.chunk_samples
        front_end = self.bundle.front_end
        whole = samples[: len(samples) // chunk_samples * chunk_samples].astype(np.float32)
        mel = front_end(np.pad(whole, (front_end.history_samples, 0)))
        encoder = self.runtime.encoder
        return encoder.step(mel, encoder.zero_state())[0]

    def _around(
        self, samples: np.ndarray, end: int, after: int, every: int = 1
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return frames before the chunk that contains sample `end`, and `after` from it on; and
        the vectors of `every` so many of these.

        There is silence around the clip.
        """
        chunk_samples = self.bundle.chunk_samples
        lead = CONTEXT_FRAMES * chunk_samples
        padded = np.pad(samples, (lead, (after + 1) * chunk_samples))
        frames = self._encode(padded).embedding
        first = (lead + end - 1) // chunk_samples
        vectors = self.vectors(padded, range(first, first + after, every))
        return frames[first - CONTEXT_FRAMES : first + after], vectors

    def _phrase(self, samples: np.ndarray, span: tuple[int, int] | None) -> Phrase:
        """Return where the word lies in a take: in `span`, if there is one. Raises TakeRejected."""
        speech = None
        if self._probe is not None:
            chunk_samples = self.bundle.chunk_samples
            lead = self.bundle.receptive_chunks * chunk_samples
            after = (1 + LATER_FRAMES) * chunk_samples
            heard = self._encode(np.pad(samples, (lead, after))).embedding
            by_chunk = self._probe(heard[self.bundle.receptive_chunks :])
            speech = np.repeat(by_chunk, chunk_samples // HOP_SAMPLES)
        phrase = find_phrase(samples, speech)
        if span is not None:
            phrase = phrase.within(*span) if phrase else Phrase((span,), ())
        if phrase is None:
            text = "the take contains no voice: a word is voiced for 0.06 s at least, and a click"
            raise TakeRejected("no_voice", f"{text}, a beep or a whisper is not")
        if (length_s := (phrase.end - phrase.start) / SAMPLE_RATE) < MIN_WORD_S:
            text = f"the take contains {length_s:.2f} s of speech; a word lasts at least"
            raise TakeRejected("too_short", f"{text} {MIN_WORD_S} s")
        return phrase

    def _parts(
        self, samples: np.ndarray, phrase: Phrase, words: Sequence[str]
    ) -> Iterator[WrongClip]:
        """Yield a phrase without its first parts, and without its last ones.

        Pauses part it, or else its `words`. There is silence in the place of what is left out, or
        speech: the same backwards. It must not fire where the whole would: at the end of the
        phrase, said or not.
        """
        begin = max(phrase.start - MARGIN_SAMPLES, 0)
        spoken = samples[begin : phrase.end + MARGIN_SAMPLES]
        for cut in word_cuts(samples, phrase, words):
            first, last = slice(cut - begin), slice(cut - begin, None)
            for unsaid in (last, first):
                for instead in (0, spoken[unsaid][::-1]):
                    alone = spoken.copy()
                    alone[unsaid] = instead
                    yield self.wrong_clip(alone, phrase.end - begin)

    def _take(self, samples: np.ndarray, begin: int, end: int) -> WordTake:
        length_s = (end - begin) / SAMPLE_RATE
        if round(length_s, 1) > MAX_WORD_S:
            text = (
                f"the take contains {length_s:.1f} s of speech; a word lasts at most {MAX_WORD_S} s"
            )
            raise TakeRejected("take_too_long", f"{text}: say it alone, or choose a shorter one")
        rng = np.random.default_rng(0)
        first = max(begin - MARGIN_SAMPLES, 0)
        spoken = samples[first : end + MARGIN_SAMPLES].astype(np.float64)
        frames = []
        vectors = []
        for n, version in enumerate(VERSIONS):
            varied, ends = _varied(spoken, end - first, version, rng)
            chunk = -(-ends // self.bundle.chunk_samples) - 1
            embedding = self._encode(varied).embedding
            frames.append(embedding[chunk - CONTEXT_FRAMES : chunk + FIRING_CHUNKS])
            first_heard, every = (0, 1) if n < JUDGED_VERSIONS else (n % EVERY_CHUNKS, EVERY_CHUNKS)
            heard = self.vectors(varied, range(chunk + first_heard, chunk + FIRING_CHUNKS, every))
            vectors.append(heard if heard is None else np.repeat(heard, every, axis=0))
        whole = np.pad(samples, (0, int(AFTER_S * SAMPLE_RATE)))
        found = self._encode(whole)
        later = HeardStream(self, whole, found.embedding)
        stream = TakeStream(found.embedding, found.logits, later)
        known = [one for one in vectors if one is not None]
        return WordTake(
            np.stack(frames), length_s, stream, vectors=np.stack(known) if known else None
        )


def words_of(name: str) -> list[str]:
    """Return the words of a name, as it is stored or said."""
    return name.replace("_", " ").split()


def _varied(
    spoken: np.ndarray, end: int, version: Version, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Return a version of a take amid background, int16-scaled, and where its word ends."""
    at = np.arange(0, len(spoken) - 1, version.speed)
    x = np.interp(at, np.arange(len(spoken)), spoken)
    level = 3.0
    if version.snr_db is not None:
        level = np.sqrt(np.mean(x**2) / 10 ** (version.snr_db / 10))
    before = np.zeros(int(BEFORE_S * SAMPLE_RATE))
    if version.speech_before:
        gap = 2 * MARGIN_SAMPLES
        spoken_before = x[::-1][-(len(before) - gap) :]
        before[-gap - len(spoken_before) : -gap] = spoken_before
    x = np.concatenate([before, x, np.zeros(int(AFTER_S * SAMPLE_RATE))])
    x += level * _noise(len(x), rng)
    return np.clip(x, -32768, 32767), len(before) + int(end / version.speed)


def _noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return noise of unit power that falls with frequency, more or less steeply."""
    length = 1 << (samples - 1).bit_length()  # a fast one
    spectrum = rng.standard_normal(length + 2).view(np.complex128)
    tilt = np.maximum(np.arange(len(spectrum)), 1) ** -rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum * tilt, length)[:samples]
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))

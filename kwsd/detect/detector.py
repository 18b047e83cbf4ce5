"""The detector: samples in, events out; the sole owner of a stream's state.

Chunks lie on a fixed grid of the stream (chunk `c` is samples `[c * 1280, (c + 1) * 1280)`), so that what it says does not
depend on how the samples are handed to it, and a chunk's scores depend on the `receptive_chunks` that end with it and
on nothing else. That is why the gate may let the encoder sleep: on opening it is fed the look-back from the zero state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from kwsd.audio.ring import Ring
from kwsd.audio.vad import VoiceGate
from kwsd.config import SAMPLE_RATE, Config
from kwsd.detect.setup import speaker_threshold, vocabulary
from kwsd.detect.trigger import Firing, Trigger
from kwsd.events import SpeakerMatch, Wake
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Frames, SpeakerEncoder, State, Student
from kwsd.state.calibration import Calibration
from kwsd.state.voiceprints import Likeness, Voiceprint, best_match
from kwsd.state.words import REACH, UserWord, after_silence

SPAN_CHUNKS = (10, 25)
"""Fewest and most chunks of a triggered span that the speaker head gets: 0.8 to 2 s."""
PATIENCE = 4
"""Chunks taken at once while no word is in sight: 0.32 s, which is shorter than a word, so that none is told late."""
IN_SIGHT = 0.01
"""The posterior from which on every chunk counts."""
ADDED_DECIDED_SAMPLES = SAMPLE_RATE // 10
"""From the end of an added word to its decision, on average."""
TYPICAL_WORD_S = 0.7
"""Length that a word is given where its frames are gone."""
EXTRA_CHUNKS = 10
"""Look-back beyond the receptive field, so that the frames of a span that began before the gate opened are right too."""


@dataclass(frozen=True)
class Trace:
    """Scores of consecutive chunks: what the trigger compares."""

    words: tuple[str, ...]
    end: np.ndarray
    """int64 `[chunk]`, the sample index after each chunk."""
    scores: np.ndarray
    """float32 `[chunk, word]`; 0 while the gate is closed or scores are withheld."""


class Detector:
    """`feed` it samples, get `Wake` events; one instance a stream. Not thread-safe."""

    def __init__(
        self,
        config: Config,
        bundle: Bundle,
        voiceprints: Mapping[str, Voiceprint] | None = None,
        words: Mapping[str, UserWord] | None = None,
        calibration: Calibration | None = None,
        *,
        student: Student | None = None,
        speaker: SpeakerEncoder | None = None,
        on_trace: Callable[[Trace], None] | None = None,
    ) -> None:
        vocabulary(config, bundle, words or {}, calibration)  # what is wrong with it is said before anything is loaded
        self.bundle, self.on_trace = bundle, on_trace
        self._student = student or Student(bundle)
        self._speaker = speaker or SpeakerEncoder(bundle)
        self.chunk = bundle.chunk_samples
        self._warmup = bundle.receptive_chunks - 1 + bundle.smoothing_chunks - 1 + EXTRA_CHUNKS
        self._history = max(bundle.front_end.history_samples, self._speaker.history_samples)
        # A run of chunks is appended before it is encoded: its look-back must still be there then.
        self._longest_run = self._warmup // 2
        keep = self._warmup + self._longest_run + SPAN_CHUNKS[1]
        self._audio = Ring(keep * self.chunk + self._history, np.int16)
        self._high = Ring(keep, np.float32, (self._student.embedding_dim,))
        self._low = Ring(keep, np.float32, (self._student.frames_per_chunk // 2, self._student.tap_dim))
        self._timing = Ring(keep, np.float32, (2,))
        self._state: State = self._student.zero_state()
        self._rest = np.zeros(0, np.int16)
        self.end = 0
        """Sample index after the last whole chunk."""
        self._fed = 0  # chunk index after the last one that the encoder saw
        self._origin = 0  # chunk index at which the stream began, or began anew after a discontinuity
        self._withhold_until = 0
        self._asleep = False  # the gate is closed, and the triggers have been told
        self._in_sight = False  # the last posterior of some word was no longer negligible
        self.encoded_chunks = 0
        self._likeness: Likeness | None = None
        self.configure(config, voiceprints or {}, words or {}, calibration)

    def configure(self, config: Config, voiceprints: Mapping[str, Voiceprint], words: Mapping[str, UserWord], calibration: Calibration | None) -> None:
        """Take up another configuration, other voiceprints, added words and calibration between two chunks, without losing audio or state.

        Raises ConfigError, and then nothing has changed."""
        self.listened = vocabulary(config, self.bundle, words, calibration)
        self.triggers = {
            name: Trigger(one.threshold, int(one.refractory_s * SAMPLE_RATE), config.near_miss, self.bundle.smoothing_chunks)
            for name, one in self.listened.items()
        }
        self._added = {name: one.known for name, one in self.listened.items() if isinstance(one.known, UserWord)}
        columns = [*self.bundle.words, *self._added]
        self._columns = [columns.index(name) for name in self.listened]
        self._config, self._words = config, tuple(self.listened)
        self.speaker_threshold, _ = speaker_threshold(config, self.bundle, calibration)
        self._gate = VoiceGate(config.vad.mode, int(config.vad.hangover_s * SAMPLE_RATE)) if config.vad.enabled else None
        self.use_voiceprints(voiceprints)

    @property
    def patience(self) -> int:
        """How many chunks it may be fed at once without telling a wake late: each feed costs, the more so the less is in it."""
        return 1 if self._in_sight else PATIENCE

    @property
    def voiceprints(self) -> Mapping[str, Voiceprint]:
        return self._voiceprints

    def use_voiceprints(self, voiceprints: Mapping[str, Voiceprint]) -> None:
        if voiceprints and self._likeness is None:
            self._likeness = Likeness(self.bundle)
        self._voiceprints = dict(voiceprints)

    def feed(self, samples: np.ndarray) -> list[Wake]:
        """Take in int16 `[sample]`, any number, and say what was decided; without wall-clock time and latency."""
        joined = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        whole = len(joined) // self.chunk * self.chunk
        self._rest = joined[whole:].copy()
        events: list[Wake] = []
        step = self._longest_run * self.chunk
        for at in range(0, whole, step):
            events += self._run(joined[at : min(at + step, whole)])
        return events

    def discontinuity(self, lost_samples: int = 0) -> None:
        """Samples are missing here: the state is void, and scores are withheld for one receptive field.

        The index moves on by `lost_samples`, to the next chunk boundary."""
        self.end += -(-(lost_samples + len(self._rest)) // self.chunk) * self.chunk
        self._rest = np.zeros(0, np.int16)
        self._origin = self._fed = self.end // self.chunk
        self._withhold_until = self._origin + self.bundle.receptive_chunks
        self._state = self._student.zero_state()
        self._audio.restart(self.end)
        self._restart_frames(self._fed)
        for trigger in self.triggers.values():
            trigger.clear()

    def _run(self, samples: np.ndarray) -> list[Wake]:
        """Whole chunks: gate, encode the open stretches, decide."""
        gate, chunk, begin = self._gate, self.chunk, self.end
        rows = samples.reshape(-1, chunk)
        states = [gate is None or gate.step(row, begin + n * chunk) for n, row in enumerate(rows, 1)]
        events: list[Wake] = []
        at = 0
        for is_open, stretch in groupby(states):
            first, at = at, at + sum(1 for _ in stretch)
            self._audio.append(samples[first * chunk : at * chunk])
            self.end = begin + at * chunk
            decide = self._score if is_open else self._sleep
            events += decide((begin // chunk) + first, (begin // chunk) + at)
        return events

    def _sleep(self, begin: int, end: int) -> list[Wake]:
        if self.on_trace:
            self._trace(begin, np.zeros((end - begin, len(self.triggers)), np.float32))
        if self._asleep:
            return []
        self._asleep, self._in_sight = True, False
        firings = [(word, t.idle((begin + 1) * self.chunk)) for word, t in self.triggers.items()]
        return [self._rejected(word, f) for word, f in firings if f]

    def _score(self, begin: int, end: int) -> list[Wake]:
        """Encode chunks `[begin, end)`, after the look-back that they need, and let the triggers decide."""
        self._asleep = False
        frames, start = self._encode(begin, end)
        logits = np.concatenate([frames.logits, self._added_logits(start, end)], axis=1) if self._added else frames.logits
        with np.errstate(over="ignore"):
            posteriors = 1 / (1 + np.exp(-logits[:, self._columns]))
        self._in_sight = bool(posteriors[-1].max() > IN_SIGHT)
        scores = np.zeros((end - begin, len(self._columns)), np.float32)
        events: list[Wake] = []
        primed = self.bundle.smoothing_chunks - 1
        for k in range(max(start, begin - primed) - start, end - start):
            chunk, at = start + k, (start + k + 1) * self.chunk
            if chunk < self._withhold_until:
                continue
            row = posteriors[k].tolist()
            for n, (word, trigger) in enumerate(self.triggers.items()):
                if chunk < begin:
                    trigger.prime(row[n])
                    continue
                firing = trigger.step(row[n], at)
                scores[chunk - begin, n] = trigger.score
                if firing:
                    events.append(self._wake(word, firing) if firing.kind == "wake" else self._rejected(word, firing))
        self._trace(begin, scores)
        return events

    def _added_logits(self, begin: int, end: int) -> np.ndarray:
        """Logits `[chunk, word]` of the added words for chunks `[begin, end)`; before the first frame there was silence."""
        high = self._high.read(max(begin - REACH, self._high.begin), end)
        missing = REACH + end - begin - len(high)
        high = after_silence(high, self._student, self.bundle, missing) if missing else high
        return np.stack([word.logits(high) for word in self._added.values()], axis=1)

    def _encode(self, begin: int, end: int) -> tuple[Frames, int]:
        """Frames from chunk `start <= begin` to `end`; where the encoder slept, from the zero state and far enough back."""
        start = max(begin - self._warmup, self._origin)
        if self._fed >= start:
            start = self._fed
        else:
            self._state = self._student.zero_state()
            self._restart_frames(start)
        frames, self._state = self._student.step(self._features(start, end), self._state)
        self._high.append(frames.embedding)
        self._low.append(frames.tap)
        self._timing.append(frames.timing)
        self.encoded_chunks += end - start
        self._fed = end
        return frames, start

    def _features(self, begin: int, end: int) -> np.ndarray:
        """Mel frames `[frame, band]` of chunks `[begin, end)`."""
        front = self.bundle.front_end
        return front(self._samples(begin, end, front.history_samples))

    def _samples(self, begin: int, end: int, history: int) -> np.ndarray:
        """Chunks `[begin, end)` and so many samples before them, float32; before the stream there were zeros."""
        first = begin * self.chunk - history
        padding = max(self._origin * self.chunk - first, 0)
        samples = np.asarray(self._audio.read(first + padding, end * self.chunk), np.float32)
        return np.pad(samples, (padding, 0)) if padding else samples

    def _trace(self, begin: int, scores: np.ndarray) -> None:
        if self.on_trace:
            self.on_trace(Trace(self._words, (begin + 1 + np.arange(len(scores), dtype=np.int64)) * self.chunk, scores))

    def _restart_frames(self, chunk: int) -> None:
        for ring in (self._high, self._low, self._timing):
            ring.restart(chunk)

    def _rejected(self, word: str, firing: Firing) -> Wake:
        assert firing.kind != "wake"
        start, end = self._span(word, firing.at)
        return Wake(word, round(firing.score, 6), self.triggers[word].threshold, start, end, reason=firing.kind)

    def _wake(self, word: str, firing: Firing) -> Wake:
        start, end = self._span(word, firing.at)
        match = self.identify(start, firing.at)
        wake = Wake(word, round(firing.score, 6), self.triggers[word].threshold, start, end, speaker=match)
        require = self._config.speaker.require
        allowed = require == "anyone" or (match is not None and match.verified and (require == "enrolled" or match.name in require))
        return wake if allowed else replace(wake, reason="wrong_speaker")

    def _span(self, word: str, at: int) -> tuple[int, int]:
        """Where the word lies that was decided at sample `at`: the head says how long ago it began and ended.

        Of added words it says nothing: they are as long as their takes were, and decided soon after their end."""
        if word in self._added:
            end = at - ADDED_DECIDED_SAMPLES
            return max(end - int(self._added[word].length_s * SAMPLE_RATE), 0), end
        chunk = at // self.chunk - 1
        known = self._timing.begin <= chunk < self._timing.end
        began, ended = (float(t) for t in self._timing.read(chunk, chunk + 1)[0]) if known else (TYPICAL_WORD_S, 0.0)
        end = min(at - round(ended * SAMPLE_RATE), at)
        start = max(at - round(began * SAMPLE_RATE), end - 2 * SAMPLE_RATE, 0)
        return min(start, max(end - SAMPLE_RATE // 10, 0)), end

    def identify(self, start: int, end: int) -> SpeakerMatch | None:
        """Who spoke in samples `[start, end)`; None where nobody is enrolled or the frames are gone."""
        if not self._voiceprints or self._likeness is None:
            return None
        embedding = self.embedding(start, end)
        return best_match(embedding, self._voiceprints, self.speaker_threshold, self._likeness) if embedding is not None else None

    def embedding(self, start: int, end: int) -> np.ndarray | None:
        """Speaker embedding `[dim]` of samples `[start, end)`, widened to at least 0.8 s; None where the frames or the audio are gone."""
        last = min(-(-end // self.chunk), self._fed)
        begin = min(start // self.chunk, last - SPAN_CHUNKS[0])
        whole = self._audio.begin == self._origin * self.chunk
        heard_from = self._origin if whole else -(-(self._audio.begin + self._history) // self.chunk)
        begin = max(begin, last - SPAN_CHUNKS[1], self._high.begin, heard_from)
        if last - begin < self._speaker.min_chunks or last > self._high.end:
            return None
        fine = self._speaker.fine(self._samples(begin, last, self._speaker.history_samples))
        return self._speaker(self._low.read(begin, last), self._high.read(begin, last), fine)

"""The detector: samples in, wakes out; the sole owner of a stream's state.

Chunks lie on a fixed grid of the stream (chunk `c` is samples `[c * 1280, (c + 1) * 1280)`), so
that the result does not depend on how the samples are fed. A chunk's scores depend on the
`receptive_chunks` that end with it, and on nothing else. That is why the gate may let the encoder
sleep: when it opens, the encoder is fed the look-back from the zero state, and so is the smoothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np

from kwsd.audio.diagnosis import band
from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.ring import Ring
from kwsd.audio.vad import VoiceGate
from kwsd.detect.checker import REMEMBERED_CHUNKS, Checker
from kwsd.detect.contest import Contest, Entry, Level, Outcome
from kwsd.detect.embedder import HeardVoice, speech_s
from kwsd.detect.loudness import Loudness
from kwsd.detect.setup import DetectorSetup
from kwsd.detect.trace import Step, Trace
from kwsd.detect.trigger import Firing
from kwsd.detect.word_stream import WordStream
from kwsd.events import Detection, Rejected, SpeakerMatch, Wake
from kwsd.metrics import SCORE_DIGITS
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Frames, Runtime, State
from kwsd.state.words import CONTEXT_FRAMES, AddedWord

MIN_SPAN_CHUNKS = 10
"""Chunks of a span that the speaker head gets at least: 0.8 s."""
MAX_SPAN_CHUNKS = 25
"""Chunks of a span that the speaker head gets at most: 2 s."""
MAX_CHUNKS_PER_CALL = 4
"""Chunks that are fed at once while every posterior is negligible: 0.32 s, which is shorter than a
word, so that no wake is late."""
FULL_RATE_ABOVE = 0.01
"""Posterior above which every chunk is fed by itself."""
EXTRA_CHUNKS = 10
"""Look-back beyond the receptive field, so that the frames of a span that began before the gate
opened are exact too, and the `REMEMBERED_CHUNKS` of a candidate."""


class Detector:
    """The detector of one stream. Not thread-safe."""

    def __init__(
        self, bundle: Bundle, setup: DetectorSetup, runtime: Runtime | None = None
    ) -> None:
        """`runtime` holds the bundle's sessions, for streams that share them."""
        runtime = runtime or Runtime(bundle)
        self.bundle = bundle
        self._runtime = runtime
        self.encoded_chunks = 0
        """Chunks that the encoder was awake for."""
        self.end = 0
        """Sample index after the last whole chunk."""
        self.chunk_samples = bundle.chunk_samples
        self._encoder = runtime.encoder
        self._speaker = runtime.speaker
        self._warmup = bundle.receptive_chunks - 1 + bundle.smoothing_chunks - 1 + EXTRA_CHUNKS
        self._history = max(bundle.front_end.history_samples, self._speaker.history_samples)
        # A run of chunks is appended before it is encoded: its look-back must still be there then.
        self._longest_run = self._warmup // 2
        keep = self._warmup + self._longest_run + MAX_SPAN_CHUNKS
        heard = keep * self.chunk_samples + self._history
        # A window may end with any chunk of a run, or with one shortly before it.
        longest = max([model.samples for model in bundle.checkers.values()], default=0)
        checked = (self._longest_run + REMEMBERED_CHUNKS) * self.chunk_samples + longest
        self._audio = Ring(max(heard, checked if longest else 0), np.int16)
        self._embedding = Ring(keep, np.float32, (self._encoder.embedding_dim,))
        # The speaker head looks no further back than a span before the run that is decided.
        shape = (self._encoder.intermediate_per_chunk, self._encoder.intermediate_dim)
        spans = self._longest_run + MAX_SPAN_CHUNKS
        self._intermediate = Ring(spans, np.float32, shape)
        self._timing = Ring(keep, np.float32, (2,))
        self.loudness = Loudness(self.chunk_samples, keep)
        self._state: State = self._encoder.zero_state()
        self._rest = np.zeros(0, np.int16)
        self._fed = 0  # chunk index after the last one that the encoder saw
        self._origin = 0  # chunk index at which the stream began, or began again after a gap
        self._withhold_until = 0
        self._asleep = False  # the gate is closed, and the triggers know it
        self._full_rate = False  # the last posterior of some word was not negligible
        self.setup = setup
        self._streams: dict[str, WordStream] = {}
        self._contest = Contest()
        self._late: list[Detection] = []  # decided when the stream broke off
        self.checker: Checker | None = None
        """The second stage, where one is in force."""
        self._gate: VoiceGate | None = None
        self.configure(setup)

    def configure(self, setup: DetectorSetup) -> None:
        """Apply another setup between two chunks, without losing audio or state.

        What stays as it was goes on: a word's excursion and refractory time, and the voice gate.
        Raises BundleError where the checker cannot be loaded, which the runtime may have done.
        """
        before = self.setup
        streams = self._streams
        graph = self._runtime.checker(setup.checker)
        self.setup = setup
        self._added = {
            name: word.model
            for name, word in setup.words.items()
            if isinstance(word.model, AddedWord)
        }
        columns = [*self.bundle.words, *self._added]
        self._streams = {}
        for name, word in setup.words.items():
            stream = WordStream(
                word, columns.index(name), setup.near_miss, self.bundle.smoothing_chunks
            )
            if name in streams:
                stream.goes_on(streams[name])
            self._streams[name] = stream
        self._columns = [stream.column for stream in self._streams.values()]
        self._words = tuple(setup.words)
        if graph is None:
            self.checker = None
        elif self.checker is None or self.checker.graph is not graph:
            self.checker = Checker(graph, self._samples)
        if self.checker:
            self.checker.ask(added=any(word.second for word in setup.words.values()))
        vad = setup.vad
        if not vad.enabled:
            self._gate = None
        elif self._gate is None or vad != before.vad:
            self._gate = VoiceGate(vad.mode, int(vad.hangover_s * SAMPLE_RATE))

    @property
    def max_chunks_per_call(self) -> int:
        """How many chunks may be fed at once without a late wake: every call costs."""
        return 1 if self._full_rate else MAX_CHUNKS_PER_CALL

    def feed(self, samples: np.ndarray) -> Step:
        """Process int16 `[sample]`, any number, and return what was decided."""
        joined = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        whole = len(joined) // self.chunk_samples * self.chunk_samples
        self._rest = joined[whole:].copy()
        first = self.end // self.chunk_samples
        wakes, self._late = self._late, []
        ends = (first + 1 + np.arange(whole // self.chunk_samples)) * self.chunk_samples
        trace = Trace.of(self._words, ends, checked=self.checker is not None)
        size = self._longest_run * self.chunk_samples
        for at in range(0, whole, size):
            run = joined[at : min(at + size, whole)]
            self.loudness.hear(run)
            wakes += self._run(run, trace, at // self.chunk_samples)
        return Step(tuple(wakes), trace)

    def forgive(self, word: str) -> None:
        """Undo the refractory time of a word: its last wake let nobody in."""
        self._streams[word].trigger.forgive()

    def discontinuity(self, lost_samples: int = 0) -> None:
        """Skip samples that were lost here.

        The state is void, and scores are withheld for one receptive field. The index moves on by
        `lost_samples`, to the next chunk. What was about to be decided comes next, unless a second
        or more was lost.
        """
        decided = self._outcomes(self._contest.settle())
        self._late += decided if lost_samples < SAMPLE_RATE else []
        missing = lost_samples + len(self._rest)
        self.end += -(-missing // self.chunk_samples) * self.chunk_samples
        self._rest = np.zeros(0, np.int16)
        self._origin = self.end // self.chunk_samples
        self._fed = self._origin
        self._withhold_until = self._origin + self.bundle.receptive_chunks
        self._state = self._encoder.zero_state()
        self._audio.restart(self.end)
        self.loudness.restart(self._origin)
        self._restart_frames(self._fed)
        for stream in self._streams.values():
            stream.clear()

    def _run(self, samples: np.ndarray, trace: Trace, row: int) -> Iterable[Detection]:
        """Gate whole chunks, encode the open stretches and decide; fill in the trace from `row`."""
        gate = self._gate
        begin = self.end
        chunks = samples.reshape(-1, self.chunk_samples)
        listens = bool(self._streams)  # else there is nothing to encode for
        opened = [
            (gate is None or gate.step(one, begin + n * self.chunk_samples)) and listens
            for n, one in enumerate(chunks, 1)
        ]
        trace.gate[row : row + len(chunks)] = opened
        wakes: list[Detection] = []
        at = 0
        for is_open, stretch in groupby(opened):
            first = at
            at += sum(1 for _ in stretch)
            self._audio.append(samples[first * self.chunk_samples : at * self.chunk_samples])
            self.end = begin + at * self.chunk_samples
            chunk = begin // self.chunk_samples
            if is_open:
                wakes += self._decide(chunk + first, chunk + at, trace, row + first)
            else:
                wakes += self._sleep(chunk + first)
        return wakes

    def _sleep(self, chunk: int) -> list[Detection]:
        """Record that the gate is closed from `chunk` on."""
        if self._asleep:
            return []
        self._asleep = True
        self._full_rate = False
        at = (chunk + 1) * self.chunk_samples
        firings = [(word, stream.idle(at)) for word, stream in self._streams.items()]
        ended = [self._detection(word, firing) for word, firing in firings if firing]
        return ended + self._outcomes(self._contest.settle())

    def _decide(self, begin: int, end: int, trace: Trace, first: int) -> list[Detection]:
        """Encode chunks `[begin, end)` after their look-back, let each word decide, and fill in the
        trace from row `first`."""
        self._asleep = False
        frames, start = self._encode(begin, end)
        logits = frames.logits
        if self._added:
            logits = np.concatenate([logits, self._added_logits(start, end)], axis=1)
        with np.errstate(over="ignore"):
            posteriors = 1 / (1 + np.exp(-logits[:, self._columns]))
        if not np.isfinite(posteriors).all():  # a model that is broken: it never wakes
            posteriors = np.nan_to_num(posteriors, nan=0.0)
        wakes: list[Detection] = []
        for chunk in range(max(start, self._withhold_until), end):
            row = posteriors[chunk - start].tolist()
            at = (chunk + 1) * self.chunk_samples
            for n, (word, stream) in enumerate(self._streams.items()):
                stream.hear(row[n], chunk)
                if chunk < begin:  # before the gate opened: it takes the place of what was heard
                    continue
                firing = stream.decide(at, self.checker)
                at_row = first + chunk - begin
                trace.scores[at_row, n] = stream.trigger.score
                if self.checker:
                    trace.streaming[at_row, n] = stream.streaming
                    trace.checker[at_row, n] = stream.checked
                if firing:
                    wakes += self._fired(word, firing)
            if self._contest.is_open:
                wakes += self._outcomes(self._contest.step(self._levels(), at))
        self._full_rate = (
            bool((posteriors[-1] > FULL_RATE_ABOVE).any())
            or any(stream.is_candidate for stream in self._streams.values())
            or self._contest.is_open
        )
        return wakes

    def _fired(self, word: str, firing: Firing) -> list[Detection]:
        """Return the event for a firing, unless other words may be better."""
        alone = not self.setup.exclusive or len(self._streams) == 1
        if alone or firing.kind == "near_miss":
            return [self._detection(word, firing)]
        level = Level(firing.score, self._streams[word].trigger.threshold)
        self._contest.enter(Entry(word, firing, *self._span(word, firing.at), level.excess))
        return []

    def _levels(self) -> dict[str, Level]:
        triggers = {word: stream.trigger for word, stream in self._streams.items()}
        return {word: Level(one.score, one.threshold) for word, one in triggers.items()}

    def _outcomes(self, outcomes: list[Outcome]) -> list[Detection]:
        """Return the events for what was decided of the words that are still listened for."""
        return [
            self._detection(entry.word, entry.firing, won=won)
            for entry, won in outcomes
            if entry.word in self._streams
        ]

    def _added_logits(self, begin: int, end: int) -> np.ndarray:
        """Return logits `[chunk, word]` of the added words; silence came before the first frame."""
        frames = self._embedding.read(max(begin - CONTEXT_FRAMES, self._embedding.begin), end)
        missing = CONTEXT_FRAMES + end - begin - len(frames)
        embedding = self._encoder.after_silence(frames, missing) if missing else frames
        return np.stack([word.logits(embedding) for word in self._added.values()], axis=1)

    def _encode(self, begin: int, end: int) -> tuple[Frames, int]:
        """Return frames from chunk `start <= begin` to `end`, and `start`.

        Where the encoder slept, it starts from the zero state and far enough back.
        """
        start = max(begin - self._warmup, self._origin)
        if self._fed >= start:
            start = self._fed
        else:
            self._state = self._encoder.zero_state()
            self._restart_frames(start)
        frames, self._state = self._encoder.step(self._features(start, end), self._state)
        self._embedding.append(frames.embedding)
        self._intermediate.append(frames.intermediate)
        self._timing.append(frames.timing)
        self.encoded_chunks += end - start
        self._fed = end
        return frames, start

    def _features(self, begin: int, end: int) -> np.ndarray:
        """Return mel frames `[frame, band]` of chunks `[begin, end)`."""
        front_end = self.bundle.front_end
        return front_end(self._samples(begin, end, front_end.history_samples))

    def _samples(self, begin: int, end: int, history: int) -> np.ndarray:
        """Return chunks `[begin, end)` and so many samples before them, float32.

        Zeros came before the stream.
        """
        first = begin * self.chunk_samples - history
        padding = max(self._origin * self.chunk_samples - first, 0)
        read = self._audio.read(first + padding, end * self.chunk_samples)
        samples = np.asarray(read, np.float32)
        return np.pad(samples, (padding, 0)) if padding else samples

    def _restart_frames(self, chunk: int) -> None:
        for ring in (self._embedding, self._intermediate, self._timing):
            ring.restart(chunk)

    def _detection(self, word: str, firing: Firing, *, won: bool = True) -> Detection:
        """Return the event for a firing, the speaker of a wake identified."""
        start, end = self._span(word, firing.at)
        facts: dict[str, Any] = {
            "word": word,
            "score": round(firing.score, SCORE_DIGITS),
            "stages": firing.stages,
            "threshold": self._streams[word].trigger.threshold,
            "start": start,
            "end": end,
            **self.loudness.of(self._audio, start, end)._asdict(),
        }
        if not won:
            return Rejected(**facts, reason="other_word")
        if firing.kind != "wake":
            return Rejected(**facts, reason=firing.kind)
        speaker = self.identify(start, firing.at)
        if not self.setup.speakers.admits(speaker):
            return Rejected(**facts, speaker=speaker, reason="wrong_speaker")
        self._streams[word].trigger.accepted(firing.at)
        return Wake(**facts, speaker=speaker)

    def _span(self, word: str, at: int) -> tuple[int, int]:
        """Return the samples `[start, end)` of the word that was decided at sample `at`."""
        chunk = at // self.chunk_samples - 1
        is_there = self._timing.begin <= chunk < self._timing.end
        timing = self._timing.read(chunk, chunk + 1)[0] if is_there else None
        return self._streams[word].span(at, timing)

    def identify(self, start: int, end: int) -> SpeakerMatch | None:
        """Return who spoke in samples `[start, end)`.

        None where nobody is enrolled, or the frames are gone.
        """
        speakers = self.setup.speakers
        if speakers.scorer is None:  # the embedding takes a while
            return None
        voice = self.voice(start, end)
        return voice and speakers.match(*voice)

    def voice(self, start: int, end: int) -> HeardVoice | None:
        """Return the voice in samples `[start, end)`, of at least 0.8 s; None where it is gone."""
        span = self._voice_span(start, end)
        if span is None:
            return None
        samples = self._samples(*span, 0)
        return HeardVoice(self._embedding_of(*span), band(samples), speech_s(samples))

    def embedding(self, start: int, end: int) -> np.ndarray | None:
        """Return the speaker embedding `[dim]` of at least 0.8 s; None where it is gone."""
        span = self._voice_span(start, end)
        return None if span is None else self._embedding_of(*span)

    def _voice_span(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the chunks `[first, last)` for the speaker head; None where they are gone."""
        last = min(-(-end // self.chunk_samples), self._fed)
        first = min(start // self.chunk_samples, last - MIN_SPAN_CHUNKS)
        heard_from = self._origin
        if self._audio.begin != self._origin * self.chunk_samples:
            heard_from = -(-(self._audio.begin + self._history) // self.chunk_samples)
        first = max(first, last - MAX_SPAN_CHUNKS, self._intermediate.begin, heard_from)
        if last - first < self._speaker.min_chunks or last > self._intermediate.end:
            return None
        return first, last

    def _embedding_of(self, first: int, last: int) -> np.ndarray:
        history = self._speaker.history_samples
        samples = self._samples(first, last, history)
        intermediate = self._intermediate.read(first, last)
        frames = self._embedding.read(first, last)
        head = self._speaker(intermediate, frames, self._speaker.fine(samples))
        graph = self.checker and self.checker.graph
        return graph.with_voice(head, samples[history:][-graph.model.samples :]) if graph else head

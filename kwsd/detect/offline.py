"""The detector and the embedder over recordings: many times real time, in constant memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from kwsd.audio.diagnosis import band
from kwsd.audio.files import read_blocks
from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.high_pass import high_passed
from kwsd.detect.detector import Detector
from kwsd.detect.embedder import Embedder
from kwsd.detect.setup import DetectorSetup
from kwsd.detect.trace import Step, Trace
from kwsd.events import SpeakerMatch
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime

READ_S = 5.0
"""Seconds that are read and detected at once."""
BAND_S = 30.0
"""Seconds of a recording that say what band it has."""
TAIL_SAMPLES = SAMPLE_RATE // 2
"""Samples of silence after a recording, so that a word at its very end is decided."""

Progress = Callable[[float], None]
"""Called after each block with the seconds of audio in it."""


def with_tail(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield `blocks`, then half a second of silence: the last sample, which may have an offset."""
    last = np.zeros(1, np.int16)
    for block in blocks:
        yield block
        last = block[-1:] if len(block) else last
    yield np.repeat(last, TAIL_SAMPLES)


class Recordings:
    """Runs recordings one after the other, each a stream of its own, with models loaded once."""

    def __init__(
        self,
        bundle: Bundle,
        setup: DetectorSetup,
        channel: int | str = 0,
        runtime: Runtime | None = None,
    ) -> None:
        """`channel` of recordings with several, or `mix`."""
        self._bundle = bundle
        self._setup = setup
        self._channel = channel
        self._runtime = runtime or Runtime(bundle)

    def detect(self, path: Path, progress: Progress | None = None) -> Iterator[Step]:
        """Yield the steps of one recording as they are computed. Raises AudioFileError."""
        detector = Detector(self._bundle, self._setup, self._runtime)
        for block in high_passed(with_tail(self._blocks(path, progress))):
            yield detector.feed(block)

    def embed(self, path: Path, progress: Progress | None = None) -> np.ndarray | None:
        """Return the speaker embedding of one recording, float32 `[dim]`.

        None where it contains no voice. Raises AudioFileError.
        """
        return self.embedder().embed(high_passed(self._blocks(path, progress)))

    def identify(self, path: Path, progress: Progress | None = None) -> SpeakerMatch | None:
        """Return who of those who are enrolled speaks in one recording.

        None where it contains no voice. Raises AudioFileError, and ValueError where nobody is
        enrolled.
        """
        speakers = self._setup.speakers
        if speakers.scorer is None:
            raise ValueError("nobody is enrolled")
        beginning = _Beginning(high_passed(self._blocks(path, progress)))
        embedder = self.embedder()
        voice = embedder.voice(beginning)
        if voice is None:
            return None
        heard_in = band(np.concatenate(beginning.kept))
        return speakers.match(embedder.joined(voice), heard_in, voice.speech_s)

    def embedder(self) -> Embedder:
        """Return what embeds voices as the setup asks for. Raises BundleError."""
        checker = self._runtime.checker(self._setup.checker)
        return Embedder(self._bundle, self._runtime, checker)

    def _blocks(self, path: Path, progress: Progress | None) -> Iterator[np.ndarray]:
        for block in read_blocks(path, READ_S, self._channel):
            yield block
            if progress:
                progress(len(block) / SAMPLE_RATE)


class _Beginning:
    """Passes blocks on, and keeps those of the first seconds."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self.kept: list[np.ndarray] = []
        self._blocks = blocks

    def __iter__(self) -> Iterator[np.ndarray]:
        left = int(BAND_S * SAMPLE_RATE)
        for block in self._blocks:
            if left > 0:
                self.kept.append(block[:left])
                left -= len(block)
            yield block


class TraceFile:
    """Collects the traces of recordings for an `.npz`.

    It holds `files`, `words`, and for file k `scores_k [chunk, word]`, the first stage's
    `stream_scores_k [chunk, word]`, and `end_k [chunk]`.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = list(words)
        self._files: list[str] = []
        # Flat arrays that grow in one piece: thousands of small ones between the encoder's buffers
        # would fragment the heap.
        self._ends: list[array[int]] = []
        self._scores: list[array[float]] = []
        self._streaming: list[array[float]] = []

    def begin(self, path: Path) -> None:
        """Start on another recording."""
        self._files.append(str(path))
        self._ends.append(array("q"))
        self._scores.append(array("f"))
        self._streaming.append(array("f"))

    def add(self, trace: Trace) -> None:
        """Add a trace of the present recording."""
        self._ends[-1].frombytes(trace.end.tobytes())
        self._scores[-1].frombytes(trace.scores.tobytes())
        self._streaming[-1].frombytes(trace.streaming.tobytes())

    def save(self, path: Path) -> None:
        """Write the file. Raises OSError."""
        arrays: dict[str, np.ndarray] = {
            "files": np.array(self._files, np.str_),
            "words": np.array(self._words, np.str_),
        }
        shape = -1, len(self._words)
        for k, ends in enumerate(self._ends):
            arrays[f"scores_{k}"] = np.array(self._scores[k], np.float32).reshape(shape)
            arrays[f"stream_scores_{k}"] = np.array(self._streaming[k], np.float32).reshape(shape)
            arrays[f"end_{k}"] = np.array(ends, np.int64)
        np.savez(path, **arrays)  # type: ignore[arg-type]

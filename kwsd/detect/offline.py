"""The detector and the embedder over recordings: many times faster than real time, in constant memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from kwsd.audio.files import RATE, open_file, read_blocks
from kwsd.config import Config
from kwsd.detect.detector import Detector, Trace
from kwsd.detect.embedder import Embedder
from kwsd.detect.setup import vocabulary
from kwsd.events import Wake
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import SpeakerEncoder, Student
from kwsd.state.calibration import Calibration
from kwsd.state.voiceprints import Voiceprint
from kwsd.state.words import UserWord

BLOCK_S = 5.0
TAIL_SAMPLES = RATE // 2
"""Silence that follows a recording, so that a word at its very end is decided."""

Progress = Callable[[float], None]
"""Told after each block how many seconds of audio it held."""


def total_seconds(paths: Iterable[Path]) -> float:
    """Length of the recordings together. Raises AudioFileError."""
    seconds = 0.0
    for path in paths:
        with open_file(path) as source:
            seconds += source.frames / source.samplerate
    return seconds


def with_tail(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """`blocks`, and half a second of silence."""
    yield from blocks
    yield np.zeros(TAIL_SAMPLES, np.int16)


class Recordings:
    """Runs recordings one after the other, each a stream of its own; the models are loaded once."""

    def __init__(
        self,
        config: Config,
        bundle: Bundle,
        voiceprints: Mapping[str, Voiceprint] | None = None,
        words: Mapping[str, UserWord] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """Raises ConfigError."""
        vocabulary(config, bundle, words or {}, calibration)
        self._config, self._bundle, self._voiceprints, self._words, self._calibration = config, bundle, voiceprints or {}, words or {}, calibration
        self._student, self._speaker = Student(bundle), SpeakerEncoder(bundle)

    def detect(self, path: Path, on_trace: Callable[[Trace], None] | None = None, progress: Progress | None = None) -> Iterator[Wake]:
        """The events of one recording, as they are found. Raises AudioFileError."""
        detector = Detector(
            self._config, self._bundle, self._voiceprints, self._words, self._calibration, student=self._student, speaker=self._speaker, on_trace=on_trace
        )  # fmt: skip
        for block in with_tail(self._blocks(path, progress)):
            yield from detector.feed(block)

    def embed(self, path: Path, progress: Progress | None = None) -> np.ndarray | None:
        """The speaker embedding of one recording, float32 `[dim]`; None where it holds no voice. Raises AudioFileError."""
        return Embedder(self._bundle, self._student, self._speaker).embed(self._blocks(path, progress))

    def _blocks(self, path: Path, progress: Progress | None) -> Iterator[np.ndarray]:
        for block in read_blocks(path, BLOCK_S, self._config.microphone.channel):
            yield block
            if progress:
                progress(len(block) / RATE)


class TraceFile:
    """Collects the traces of recordings for an `.npz`: `files`, `words`, and per file k `scores_k` and `end_k`."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = list(words)
        self._files: list[str] = []
        # Flat arrays that grow in one piece: thousands of small ones amid the encoder's buffers would tear the heap to shreds.
        self._ends: list[array[int]] = []
        self._scores: list[array[float]] = []

    def begin(self, path: Path) -> Callable[[Trace], None]:
        """Start on another recording; what its detector traces goes to the returned function."""
        self._files.append(str(path))
        ends, scores = array("q"), array("f")
        self._ends.append(ends)
        self._scores.append(scores)

        def add(trace: Trace) -> None:
            ends.frombytes(trace.end.tobytes())
            scores.frombytes(trace.scores.tobytes())

        return add

    def save(self, path: Path) -> None:
        arrays: dict[str, np.ndarray] = {}
        for k, (ends, scores) in enumerate(zip(self._ends, self._scores, strict=True)):
            arrays[f"scores_{k}"] = np.array(scores, np.float32).reshape(-1, len(self._words))
            arrays[f"end_{k}"] = np.array(ends, np.int64)
        np.savez(path, files=np.array(self._files, np.str_), words=np.array(self._words, np.str_), **arrays)  # type: ignore[arg-type]

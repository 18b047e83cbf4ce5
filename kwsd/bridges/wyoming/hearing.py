"""One stream of somebody's audio, in any format: bytes in, wakes out, in the sender's own time."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import NamedTuple

import numpy as np

from kwsd.audio.format import BLOCK_S, SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.audio.raw_pcm import RawConverter, RawFormat, SampleFormat
from kwsd.bridges.wyoming.frames import AudioFormat
from kwsd.detect.detector import MAX_CHUNKS_PER_CALL, Detector
from kwsd.detect.embedder import HeardVoice
from kwsd.detect.offline import TAIL_SAMPLES
from kwsd.detect.setup import DetectorSetup
from kwsd.events import Wake
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime

FORMATS: dict[int, SampleFormat] = {1: "s8", 2: "s16", 3: "s24", 4: "s32"}
"""The format of samples of so many bytes."""
MAX_MARKS = 1024
"""Chunks of the past whose timestamps are known."""


class Heard(NamedTuple):
    """A wake, and what its speaker can be told by."""

    wake: Wake
    timestamp: int
    """End of the word, in milliseconds of the sender's time."""
    voice: HeardVoice | None
    """The embedding `[dim]`, and the band it was heard in; None where nobody asks for it."""


class Piece(NamedTuple):
    """Bytes that are heard at once."""

    data: bytes
    format: AudioFormat
    last: bool = False
    """Whether the stream ends with it."""


class Hearing:
    """A detector, and what makes its samples of somebody's bytes.

    `add` takes bytes as they come, `due` gives back as many as are heard at once, and `hear` hears
    them. Only `hear` computes; it runs on a thread of its own.
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        setup: DetectorSetup | None,
        start_ms: float | None = None,
    ) -> None:
        """With no `setup`, what comes is dropped. `start_ms` is the sender's time at the start."""
        self._bundle = bundle
        self._runtime = runtime
        self._start_ms = start_ms or 0.0
        self._format: AudioFormat | None = None
        self._pending = bytearray()
        self._converter: RawConverter | None = None
        self._converted: AudioFormat | None = None
        self._high_pass = HighPass()
        self._added = 0.0  # samples at 16 kHz
        self._marks: deque[tuple[float, float]] = deque(maxlen=MAX_MARKS)
        self._last = np.zeros(1, np.int16)
        self._detector: Detector | None = None
        self._setup = setup

    def configure(self, setup: DetectorSetup | None) -> None:
        """Listen for other words from the next piece on."""
        self._setup = setup

    def add(self, data: bytes, format: AudioFormat, timestamp: float | None = None) -> list[Piece]:
        """Take the next bytes; return what of another format is left to be heard before them.

        Raises ValueError for a part of a sample.
        """
        if len(data) % format.frame_bytes:
            text = f"{len(data)} bytes are not whole samples of {format.frame_bytes} bytes"
            raise ValueError(text)
        before: list[Piece] = []
        if self._format != format:
            before = self.rest()
            self._format = format
        if timestamp is not None:
            self._marks.append((self._added, timestamp))
        self._pending += data
        samples = len(data) / format.frame_bytes
        self._added += samples * SAMPLE_RATE / format.rate
        return before

    def due(self) -> Piece | None:
        """Return the next bytes to be heard at once; None where more must come first.

        They are four chunks while every posterior is low, and one from then on, as in the daemon.
        """
        if self._format is None:
            return None
        chunks = self._detector.max_chunks_per_call if self._detector else MAX_CHUNKS_PER_CALL
        frames = int(chunks * BLOCK_S * self._format.rate)
        size = max(frames, 1) * self._format.frame_bytes
        if len(self._pending) < size:
            return None
        return self._take(size, self._format)

    def rest(self, *, last: bool = False) -> list[Piece]:
        """Return all bytes that are left, in pieces; with `last`, an end follows them."""
        pieces = []
        format = self._format
        if format is not None:
            size = max(int(BLOCK_S * format.rate), 1) * format.frame_bytes
            while self._pending:
                pieces.append(self._take(size, format))
            if last:
                pieces.append(Piece(b"", format, last=True))
        return pieces

    def _take(self, size: int, format: AudioFormat) -> Piece:
        data = bytes(self._pending[:size])
        del self._pending[:size]
        return Piece(data, format)

    def hear(self, piece: Piece, *, voices: bool = False) -> list[Heard]:
        """Return the wakes of the next piece; with `voices`, each with its voice."""
        if self._converter is None or self._converted != piece.format:
            channel = 0 if piece.format.channels == 1 else "mix"
            self._converter = RawConverter(_raw(piece.format), channel, "a client's audio")
            self._converted = piece.format
        samples = self._converter.step(piece.data)
        if piece.last:
            samples = np.concatenate([samples, self._converter.finish()])
            self._last = samples[-1:] if len(samples) else self._last
            samples = np.concatenate([samples, np.repeat(self._last, TAIL_SAMPLES)])
        self._last = samples[-1:] if len(samples) else self._last
        self._detector = detector = self._as_configured()
        if detector is None or not len(samples):
            return []
        heard = []
        for event in detector.feed(self._high_pass.step(samples)).wakes:
            if isinstance(event, Wake):
                voice = detector.voice(event.start, detector.end) if voices else None
                heard.append(Heard(event, self._time(event.end), voice))
        return heard

    def forgive(self, word: str) -> None:
        """Undo the refractory time of a word whose wake was not let through; no `hear` runs."""
        if self._detector is not None:
            self._detector.forgive(word)

    def _as_configured(self) -> Detector | None:
        """Return the detector of the present setup, the same for as long as there is one."""
        setup = self._setup
        if setup is None:
            return None
        if self._detector is None:
            return Detector(self._bundle, setup, self._runtime)
        if self._detector.setup is not setup:
            self._detector.configure(setup)
        return self._detector

    def _time(self, sample: int) -> int:
        """Return the sender's time of a sample of the stream, in milliseconds."""
        # A converter delays nothing but what its filter looks ahead: a millisecond.
        marks = list(self._marks)
        at = bisect_right(marks, (float(sample), float("inf"))) - 1
        begin, time_ms = marks[max(at, 0)] if marks else (0.0, self._start_ms)
        return round(time_ms + (sample - begin) * 1000 / SAMPLE_RATE)


def _raw(format: AudioFormat) -> RawFormat:
    """Return the same format, for the converter."""
    return RawFormat(FORMATS[format.width], format.rate, format.channels)

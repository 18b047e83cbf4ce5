"""The take recorder: one take of a voice or of a word, cut out of the stream."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES
from kwsd.audio.pcm import level_dbfs
from kwsd.audio.ring import Ring
from kwsd.learn.enrollment import TakeCutter
from kwsd.server.consumer import Consumer, Heard, not_yet


class TakeRecorder(Consumer):
    """Waits for one take; `taken` is done when it was heard."""

    every_block = True

    def __init__(self, cutter: TakeCutter, audio: Ring, on_level: Callable[[float], None]) -> None:
        """`audio` is the look-back. `on_level` is called with the level of every block that comes,
        in dBFS."""
        self.taken: Future[np.ndarray] = Future()
        self._cutter = cutter
        self._audio = audio
        self._on_level = on_level
        self._span: tuple[int, int] | None = None

    def begin(self, start: int | None) -> None:
        """Hear what the look-back holds from sample `start` on, by default nothing.

        Raises LookupError where that sample has not come yet.
        """
        audio = self._audio
        if start is not None and start > audio.end:
            raise LookupError(not_yet(start, audio))
        first = audio.end if start is None else max(start, audio.begin)
        self._cutter.begin = first
        for at in range(first, audio.end, CHUNK_SAMPLES):
            end = min(at + CHUNK_SAMPLES, audio.end)
            self._hear(np.asarray(audio.read(at, end), np.int16), end)

    def consume(self, heard: Heard) -> None:
        """Process a block; finish once all of the take was heard."""
        for wake in heard.wakes:
            self._span = self._span or self._cutter.detected(wake.word, wake.start, wake.end)
        self._on_level(round(level_dbfs(heard.block.samples), 1))
        self._hear(heard.block.samples, heard.audio.end)

    def _hear(self, block: np.ndarray, block_end: int) -> None:
        self._span = self._span or self._cutter.step(block, block_end)
        if self._span is None or self.taken.done():
            return
        start, end = self._span
        if self._audio.end >= end:
            samples = self._audio.read(max(start, self._audio.begin), end)
            self.taken.set_result(np.asarray(samples, np.int16))

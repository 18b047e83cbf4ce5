"""The take recorder: one take of a voice or of a word, cut out of the running stream."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from kwsd.audio.pcm import level_dbfs
from kwsd.learn.enrollment import TakeCutter
from kwsd.server.consumer import Consumer, Heard


class TakeRecorder(Consumer):
    """Waits for one take; `taken` is done when it was heard."""

    every_block = True

    def __init__(self, cutter: TakeCutter, on_level: Callable[[float], None]) -> None:
        """`on_level` is called with the level of every block, in dBFS."""
        self.taken: Future[np.ndarray] = Future()
        self._cutter = cutter
        self._on_level = on_level
        self._span: tuple[int, int] | None = None

    def consume(self, heard: Heard) -> None:
        """Process a block; finish once all of the take was heard."""
        for wake in heard.wakes:
            self._span = self._span or self._cutter.detected(wake.word, wake.start, wake.end)
        self._span = self._span or self._cutter.step(heard.audio, heard.block.samples)
        self._on_level(round(level_dbfs(heard.block.samples), 1))
        if self._span is None or self.taken.done():
            return
        start, end = self._span
        if heard.audio.end >= end:
            samples = heard.audio.read(max(start, heard.audio.begin), end)
            self.taken.set_result(np.asarray(samples, np.int16))

"""The peak recorder: a stretch of the peaks of every word's score, every ten minutes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kwsd.audio.format import SAMPLE_RATE
from kwsd.detect.peaks import PeakMeter
from kwsd.detect.setup import ActiveWord
from kwsd.protocol.data import Peak, WordPeaks
from kwsd.server.consumer import Consumer, Heard
from kwsd.server.sources import StreamClock

PEAKS_EVERY_S = 600


class PeakRecorder(Consumer):
    """Gives the peaks of each stretch of time to `keep`."""

    def __init__(self, keep: Callable[[dict[str, WordPeaks]], None], clock: StreamClock) -> None:
        self._keep = keep
        self._clock = clock
        self._meter = PeakMeter()
        self._samples = 0
        self._words: Mapping[str, ActiveWord] = {}
        self._thresholds: dict[str, float] = {}

    def consume(self, heard: Heard) -> None:
        """Process a block; end the stretch after ten minutes."""
        if heard.words is not self._words:
            self._words = heard.words
            self._thresholds = {name: word.threshold for name, word in heard.words.items()}
        self._meter.add(heard.trace, self._thresholds)
        self._samples += len(heard.block.samples)
        if self._samples >= PEAKS_EVERY_S * SAMPLE_RATE:
            self.flush()

    def reset(self) -> None:
        """End the stretch: other words follow."""
        self.flush()

    def close(self) -> None:
        """End the stretch."""
        self.flush()

    def flush(self) -> None:
        """End the stretch now; one of less than a second is dropped."""
        samples = self._samples
        found = self._meter.take()
        self._samples = 0
        if samples < SAMPLE_RATE:
            return
        words = {}
        for name, word in self._words.items():
            peaks = [
                Peak(self._clock.wall(one.at), one.peak, one.decided is not None, one.decided)
                for one in found.get(name, ())
            ]
            words[name] = WordPeaks(word.model.id, samples / SAMPLE_RATE, peaks)
        self._keep(words)

"""The clip recorder: cuts recordings of wakes and near misses out of the look-back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kwsd.audio.format import BLOCK_S, SAMPLE_RATE
from kwsd.audio.ring import Ring
from kwsd.detect.contest import WAIT_SAMPLES
from kwsd.detect.trace import Trace
from kwsd.events import Detection, Rejected
from kwsd.protocol.data import Clip
from kwsd.server.consumer import Consumer, Heard
from kwsd.state.clips import AFTER_S, BEFORE_S

LONGEST_CLIP_S = 8.0
"""Seconds of scores that are kept for clips."""


class _Waiting(NamedTuple):
    """An event whose clip is not complete yet."""

    wake: Detection
    model: str
    """Id of the model of its word."""
    fired_after: int
    """Sample index before the block in which it fired at the earliest: the score rises from there
    to its peak."""


class ClipRecorder(Consumer):
    """Gives each clip to `keep`, once the half second after its word was heard."""

    def __init__(self, keep: Callable[[Clip, np.ndarray], None], enabled: bool) -> None:
        self.enabled = enabled
        """Whether clips are asked for."""
        self._keep = keep
        self._traces: deque[Trace] = deque(maxlen=int(LONGEST_CLIP_S / BLOCK_S))
        self._waiting: list[_Waiting] = []
        self._audio: Ring | None = None

    def consume(self, heard: Heard) -> None:
        """Process a block; cut the clips that are complete."""
        if self.enabled:
            self._audio = heard.audio
            self._traces.append(heard.trace)
            for wake in heard.wakes:
                word = heard.words.get(wake.word)
                model = word.model.id if word else ""
                fired_after = heard.audio.end - len(heard.block.samples) - WAIT_SAMPLES
                self._waiting.append(_Waiting(wake, model, fired_after))
        if self._waiting:
            self._cut(heard.audio.end)

    def reset(self) -> None:
        """Forget the scores, which are of other words."""
        self._traces.clear()

    def close(self) -> None:
        """Cut what is left, even if less was heard after the word."""
        self._cut(None)

    def _cut(self, heard_until: int | None) -> None:
        """Cut the clips of which everything was heard; all of them for None."""
        waiting = self._waiting
        self._waiting = []
        for one in waiting:
            wake = one.wake
            complete = wake.end + AFTER_S * SAMPLE_RATE
            if heard_until is not None and heard_until < complete:
                self._waiting.append(one)
                continue
            assert self._audio is not None
            begin = max(wake.start - int(BEFORE_S * SAMPLE_RATE), self._audio.begin)
            end = min(wake.end + int(AFTER_S * SAMPLE_RATE), self._audio.end)
            if begin < wake.end <= end:
                samples = np.asarray(self._audio.read(begin, end), np.int16)
                self._keep(self._clip(one, begin, end), samples)

    def _clip(self, one: _Waiting, begin: int, end: int) -> Clip:
        wake = one.wake
        scores = [
            (int(at) - begin, round(float(row[trace.words.index(wake.word)]), 4))
            for trace in self._traces
            if wake.word in trace.words
            for at, row in zip(trace.end, trace.scores, strict=True)
            if begin < at <= end
        ]
        after = [score for at, score in scores if begin + at > one.fired_after]
        near_miss = isinstance(wake, Rejected) and wake.reason == "near_miss"
        return Clip(
            id="",
            word=wake.word,
            model=one.model,
            kind=wake.reason if isinstance(wake, Rejected) else "wake",
            time=wake.time or 0.0,
            score=wake.score,
            peak=wake.score if near_miss else max([wake.score, *after]),
            threshold=wake.threshold,
            start=max(wake.start - begin, 0),
            end=wake.end - begin,
            scores=scores,
            speaker=wake.speaker and wake.speaker.without_details(),
        )

"""The score recorder: where the words' scores stand, to one client, up to 12.5 times a second.

They are for whoever watches: what a client does not read in time is left out.
"""

from __future__ import annotations

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES
from kwsd.audio.pcm import level_dbfs
from kwsd.detect.loudness import power_dbfs
from kwsd.detect.trace import Trace
from kwsd.metrics import SCORE_DIGITS
from kwsd.protocol.data import WordScores
from kwsd.protocol.live import RunningScores
from kwsd.server.channel import Channel
from kwsd.server.consumer import Break, Consumer, Heard


class ScoreRecorder(Consumer):
    """Sends running scores, the highest of every `chunks` chunks."""

    every_block = True

    def __init__(self, chunks: int, channel: Channel) -> None:
        self._chunks = chunks
        self._channel = channel
        self._traces: list[Trace] = []

    def consume(self, heard: Heard) -> None:
        """Send a message once it is due and there is room for it."""
        self._traces.append(heard.trace)
        if sum(len(trace.end) for trace in self._traces) < self._chunks:
            return
        traces, self._traces = self._traces, []
        if not self._channel.is_full:
            self._channel.send(_scores(traces, heard))

    def broken_off(self, why: Break) -> None:
        """Begin again after a gap."""
        self._traces.clear()

    def reset(self) -> None:
        """Begin again with other words."""
        self._traces.clear()


def _scores(traces: list[Trace], heard: Heard) -> RunningScores:
    """Return the highest scores of consecutive traces, of which `heard` has the last."""
    ends = np.concatenate([trace.end for trace in traces])
    end = int(ends[-1])
    begin = max(int(ends[0]) - CHUNK_SAMPLES, heard.audio.begin)
    noise = heard.loudness.noise(end)
    scores, streaming, checker = (
        np.concatenate([getattr(trace, part) for trace in traces])
        for part in ("scores", "streaming", "checker")
    )
    words = {
        name: WordScores(
            score=_rounded(scores[:, n].max()),
            streaming=_rounded(streaming[:, n].max()),
            checker=_highest(checker[:, n]),
            threshold=heard.words[name].threshold,
        )
        for n, name in enumerate(traces[-1].words)
    }
    samples = np.asarray(heard.audio.read(begin, end), np.int16)
    return RunningScores(
        end=end,
        gate=bool(any(trace.gate.any() for trace in traces)),
        level_dbfs=round(level_dbfs(samples), 1),
        noise_dbfs=None if noise is None else power_dbfs(noise),
        words=words,
    )


def _highest(probabilities: np.ndarray) -> float | None:
    """Return the highest that is known, or None."""
    known = probabilities[~np.isnan(probabilities)]
    return _rounded(known.max()) if len(known) else None


def _rounded(score: float) -> float:
    return round(float(score), SCORE_DIGITS)

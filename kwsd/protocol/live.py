"""The messages that follow a request for as long as the client wants them: audio and scores."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from kwsd.protocol.data import WordScores

EndReason = Literal[
    "silence", "no_speech", "length", "stopped", "paused", "lost", "slow", "recording_ended"
]
"""Why a stream has ended.

`silence`: there was speech, and then `silence_s` without any. `no_speech`: there was none from the
start. `length`: it has `max_s`. `stopped`: by `stream.stop`. `paused`, `lost`: the microphone was
released, or gives no sound. `slow`: the client has not read it before the look-back had forgotten
it. `recording_ended`: so has the recording that the daemon listens to.
"""


class StreamAudio(Struct, frozen=True, tag="stream"):
    """Audio of a stream: 80 ms, or less before its end and before a gap."""

    stream: int
    """Number of the stream."""
    index: int
    """Number of the message in the stream, from 0, without gaps."""
    start: int
    """Its first sample: the one after the message before, or later where samples were lost."""
    pcm: bytes
    """Little-endian int16 at 16 kHz."""


class StreamEnd(Struct, frozen=True, tag="stream.end"):
    """A stream has ended."""

    stream: int
    """Number of the stream."""
    messages: int
    """How many messages it had."""
    end: int
    """Sample after its last one."""
    reason: EndReason


class RunningScores(Struct, frozen=True, tag="scores"):
    """Where the words stand: the highest scores since the message before."""

    end: int
    """Sample after what was heard last."""
    gate: bool
    """Whether the voice gate was open, so that the encoder was awake."""
    level_dbfs: float
    """RMS level since the message before."""
    noise_dbfs: float | None
    """Level of the noise, as the `snr_db` of an event takes it; null while too little was heard."""
    words: dict[str, WordScores]


LiveMessage = StreamAudio | StreamEnd | RunningScores
LIVE_TYPES = ("stream", "stream.end", "scores")

_encoder = msgspec.json.Encoder()


def encode_live(message: LiveMessage) -> bytes:
    """Return a message as a line."""
    return _encoder.encode(message) + b"\n"

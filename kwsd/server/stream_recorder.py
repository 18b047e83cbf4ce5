"""The stream recorder: audio to one client, from a sample of the look-back on, as it comes.

The look-back holds what the client has not read yet. Where the client reads so slowly that the
look-back forgets some of it, the stream ends: what one misses in a stream, its messages show.
"""

from __future__ import annotations

import numpy as np

from kwsd.audio.endpointer import ROOM_SAMPLES, Endpointer
from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.pcm import to_bytes
from kwsd.audio.ring import Ring
from kwsd.protocol.commands import Stream
from kwsd.protocol.live import EndReason, StreamAudio, StreamEnd
from kwsd.protocol.request import MAX_AUDIO_S
from kwsd.server.channel import Channel
from kwsd.server.consumer import Break, Consumer, Heard, not_yet


class StreamRecorder(Consumer):
    """Sends one stream of what is in the look-back `audio`. The listener calls all methods."""

    every_block = True

    def __init__(self, number: int, request: Stream, audio: Ring, channel: Channel) -> None:
        self._number = number
        self._request = request
        self._audio = audio
        self._channel = channel
        self._messages = 0
        self._at = 0  # the next sample
        self._until = 0
        self._after_gap = False
        self._endpointer: Endpointer | None = None
        self._over = False

    def begin(self) -> int:
        """Send what the look-back holds of it already, and return its first sample.

        Raises LookupError where that has not come yet.
        """
        audio = self._audio
        start = self._request.start
        if start is None:
            start = audio.end - int((self._request.pre_roll_s or 0.0) * SAMPLE_RATE)
        if start > audio.end:
            raise LookupError(not_yet(start, audio))
        self._at = start = max(start, audio.begin)
        self._until = start + max(round(self._request.max_s * SAMPLE_RATE), 1)
        if self._request.silence_s:
            before = audio.read(max(start - ROOM_SAMPLES, audio.begin), start)
            self._endpointer = Endpointer(self._request.silence_s, np.asarray(before, np.int16))
        self._send_on()
        return start

    def consume(self, heard: Heard) -> None:
        """Send what has come, as far as the client reads on."""
        self._send_on()

    def broken_off(self, why: Break) -> None:
        """Send the rest of what was heard, and end; only after a gap the stream goes on."""
        self._send_rest()
        if why == "gap":
            self._after_gap = True
        else:
            self._end(why)

    def close(self) -> None:
        """Send the rest, and end with the recording."""
        self._send_rest()
        self._end("recording_ended")

    def stop(self) -> bool:
        """End it at once; return whether it had not ended yet."""
        stopped = not self._over
        self._end("stopped")
        return stopped

    def _send_on(self) -> None:
        """Send whole messages, as many as the client has room for."""
        if self._after_gap:
            self._until += self._audio.begin - self._at  # what was lost does not count
            self._at = self._audio.begin
            self._after_gap = False
        while not self._ends():
            size = min(CHUNK_SAMPLES, self._until - self._at)
            if self._audio.end - self._at < size or self._channel.is_full:
                return
            self._send(size)

    def _send_rest(self) -> None:
        """Send everything that was heard: no more of it comes."""
        if self._after_gap:  # nothing has come since
            return
        left = min(self._audio.end, self._until) - self._at
        if left > MAX_AUDIO_S * SAMPLE_RATE:
            self._end("slow")
        while not self._ends() and (left := min(self._audio.end, self._until) - self._at):
            self._send(min(CHUNK_SAMPLES, left))

    def _ends(self) -> bool:
        """Return whether it has ended, or ends here."""
        if self._at >= self._until:
            self._end("length")
        elif self._at < self._audio.begin:
            self._end("slow")
        return self._over

    def _send(self, size: int) -> None:
        samples = np.asarray(self._audio.read(self._at, self._at + size), np.int16)
        pcm = to_bytes(samples)
        self._channel.send(StreamAudio(self._number, self._messages, self._at, pcm))
        self._messages += 1
        self._at += size
        whole = size == CHUNK_SAMPLES
        if whole and self._endpointer and (why := self._endpointer.step(samples)):
            self._end(why)

    def _end(self, reason: EndReason) -> None:
        if not self._over:
            self._over = True
            self._channel.send(StreamEnd(self._number, self._messages, self._at, reason))

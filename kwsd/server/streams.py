"""The handlers of streams and running scores. All here is on the event loop; what the listener's
thread does for them is in `stream_recorder` and `score_recorder`.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import NamedTuple

from kwsd.audio.format import BLOCK_S, SAMPLE_RATE
from kwsd.protocol import commands, replies
from kwsd.protocol.errors import RequestError
from kwsd.server.calls import Calls
from kwsd.server.channel import Channel
from kwsd.server.clients import ClientSession
from kwsd.server.consumer import remove
from kwsd.server.listener import Listener
from kwsd.server.pauses import Pauses
from kwsd.server.score_recorder import ScoreRecorder
from kwsd.server.stream_recorder import StreamRecorder

MAX_LIVE = 16
"""Streams and clients with running scores, together, at the same time."""


class _Live(NamedTuple):
    """What goes to a client until it is stopped, or ends by itself."""

    session: ClientSession
    channel: Channel
    recorder: StreamRecorder | ScoreRecorder


class Streams:
    """Answers `stream`, `stream.stop`, `scores` and `scores.stop`."""

    def __init__(self, listener: Listener, calls: Calls, pauses: Pauses) -> None:
        self._listener = listener
        self._calls = calls
        self._pauses = pauses
        self._numbers = itertools.count(1)
        self._live: dict[int, _Live] = {}

    @property
    def count(self) -> int:
        """How many streams of audio there are."""
        return len(self.uids)

    @property
    def uids(self) -> list[int]:
        """The user whom each stream of audio goes to."""
        live = self._live.values()
        return [one.session.peer.uid for one in live if isinstance(one.recorder, StreamRecorder)]

    async def stream(self, session: ClientSession, command: commands.Stream) -> replies.StreamReply:
        """Begin a stream; its messages follow the reply. Raises RequestError."""
        if command.start is not None and command.pre_roll_s is not None:
            text = "stream: start and pre_roll_s both say where it begins; leave one of them out"
            raise RequestError("bad_request", text)
        if self._pauses.holders:
            raise self._pauses.refusal()
        listener = self._listener
        number = next(self._numbers)
        channel = Channel(session.subscriber)
        recorder = StreamRecorder(number, command, listener.audio, channel)

        def begin() -> int:
            start = recorder.begin()
            listener.consumers.append(recorder)
            if listener.is_lost:
                recorder.broken_off("lost")
            return start

        self._enter(number, _Live(session, channel, recorder))
        try:
            start = await self._calls.run(begin)
        except BaseException as error:
            self._drop(number)
            if isinstance(error, LookupError):
                raise RequestError("gone", f"stream: {error}") from error
            raise
        asyncio.get_running_loop().call_soon(channel.open)
        return replies.StreamReply(stream=number, start=start, sample_rate=SAMPLE_RATE)

    async def stop_stream(
        self, session: ClientSession, command: commands.StreamStop
    ) -> replies.StopReply:
        """End a stream of this client; its end comes before the reply. Raises RequestError."""
        one = self._live.get(command.stream)
        if one is None or one.session is not session:
            return replies.StopReply(stopped=False)
        recorder = one.recorder
        if not isinstance(recorder, StreamRecorder):
            return replies.StopReply(stopped=False)
        return replies.StopReply(stopped=await self._calls.run(recorder.stop))

    async def scores(self, session: ClientSession, command: commands.Scores) -> replies.ScoresReply:
        """Begin to send running scores, in place of those that this client gets. Raises
        RequestError."""
        listener = self._listener
        self._stop_scores(session)
        channel = Channel(session.subscriber)
        chunks = max(round(command.interval_s / BLOCK_S), 1)
        recorder = ScoreRecorder(chunks, channel)

        number = next(self._numbers)
        self._enter(number, _Live(session, channel, recorder))
        try:
            await self._calls.run(lambda: listener.consumers.append(recorder))
        except BaseException:
            self._drop(number)
            raise
        asyncio.get_running_loop().call_soon(channel.open)
        return replies.ScoresReply(interval_s=round(chunks * BLOCK_S, 2))

    async def stop_scores(
        self, session: ClientSession, command: commands.ScoresStop
    ) -> replies.StopReply:
        """Send this client no more scores."""
        return replies.StopReply(stopped=self._stop_scores(session))

    def left(self, session: ClientSession) -> None:
        """End what goes to a client that has left."""
        for number in [n for n, one in self._live.items() if one.session is session]:
            self._drop(number)

    def _enter(self, number: int, one: _Live) -> None:
        """Raises RequestError where there are too many."""
        if len(self._live) >= MAX_LIVE:
            text = f"{MAX_LIVE} streams and running scores go to clients, and no more may"
            raise RequestError("busy", f"{text}; try again when one has ended")
        self._live[number] = one
        one.channel.ended = lambda: self._drop(number)
        one.session.has_live = True

    def _drop(self, number: int) -> None:
        """Forget one that has ended."""
        one = self._live.pop(number, None)
        if one is not None:
            one.channel.close()
            consumers = self._listener.consumers
            self._listener.call(lambda: remove(consumers, one.recorder))

    def _stop_scores(self, session: ClientSession) -> bool:
        found = [
            n
            for n, one in self._live.items()
            if one.session is session and isinstance(one.recorder, ScoreRecorder)
        ]
        for number in found:
            self._drop(number)
        return bool(found)

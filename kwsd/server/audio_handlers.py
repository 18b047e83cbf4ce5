"""The handlers of the requests for audio that was heard, and of takes that are recorded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from kwsd.audio import pcm
from kwsd.audio.format import SAMPLE_RATE
from kwsd.learn.enrollment import STRETCHES, TakeCutter, TakeKind
from kwsd.protocol import commands, replies
from kwsd.protocol.errors import RequestError
from kwsd.protocol.messages import encode_level
from kwsd.protocol.request import MAX_AUDIO_S
from kwsd.server.calls import Calls
from kwsd.server.clients import ClientSession
from kwsd.server.consumer import remove
from kwsd.server.listener import Listener
from kwsd.server.passed import PassedFiles
from kwsd.server.pauses import Pauses
from kwsd.server.take_recorder import TakeRecorder

LOOK_BACK = "lookback_s in the configuration sets how much is kept"


class AudioHandlers:
    """Answers `audio` and `take`, and records the takes of enrollments."""

    def __init__(
        self, listener: Listener, calls: Calls, pauses: Pauses, words: Callable[[], list[str]]
    ) -> None:
        """`words` returns the names of those that are listened for."""
        self._listener = listener
        self._calls = calls
        self._pauses = pauses
        self._words = words
        self._passed = PassedFiles()
        self._recording = False

    async def audio(self, session: ClientSession, command: commands.Audio) -> replies.AudioReply:
        """Return what the look-back holds of the samples. Raises RequestError."""
        fd = session.take_fd()
        try:
            if not 0 < command.end - command.start <= MAX_AUDIO_S * SAMPLE_RATE:
                text = f"audio: start must lie before end, by at most {MAX_AUDIO_S:g} s"
                raise RequestError("bad_request", text)
            try:
                start, samples = await self._calls.run(
                    lambda: self._look_back(command.start, command.end)
                )
            except LookupError as error:
                raise RequestError("gone", f"audio: {error}; {LOOK_BACK}") from error
            end = start + len(samples)
            reply = replies.AudioReply(start=start, end=end, sample_rate=SAMPLE_RATE)
            if fd is None:
                return msgspec.structs.replace(reply, pcm=pcm.to_bytes(samples))
            passed, fd = fd, None  # the writer closes it
            await self._passed.write(passed, pcm.wav_bytes(samples))
            return msgspec.structs.replace(reply, written="wav")
        finally:
            if fd is not None:
                os.close(fd)

    def _look_back(self, start: int, end: int) -> tuple[int, np.ndarray]:
        """Return the first sample of `[start, end)` that is kept, and those that are.

        Raises LookupError where none is.
        """
        audio = self._listener.audio
        first = max(start, audio.begin)
        last = min(end, audio.end)
        if first >= last:
            text = f"samples {start} to {end} were asked for"
            raise LookupError(f"{text}; {audio.begin} to {audio.end} are kept")
        return first, np.asarray(audio.read(first, last), np.int16)

    async def take(self, session: ClientSession, command: commands.RecordTake) -> replies.TakeReply:
        """Record one utterance. Raises RequestError."""
        samples = await self.record(session, "utterance", None, command.timeout_s, command.start)
        return replies.TakeReply(sample_rate=SAMPLE_RATE, pcm=pcm.to_bytes(samples))

    async def record(
        self,
        session: ClientSession,
        kind: TakeKind,
        word: str | None,
        timeout_s: float,
        start: int | None = None,
    ) -> np.ndarray:
        """Return one take from the microphone; the client gets levels while it waits.

        It begins at sample `start` or later; without that, at the next sample or later. Raises
        RequestError.
        """
        if self._recording:
            text = "another client is recording a take; try again when it has finished"
            raise RequestError("busy", text)
        pauses = self._pauses
        if pauses.holders:
            raise pauses.refusal()
        loop = asyncio.get_running_loop()
        listener = self._listener

        def send_level(level_dbfs: float) -> None:
            loop.call_soon_threadsafe(session.subscriber.send, encode_level(level_dbfs))

        recorder = TakeRecorder(TakeCutter(kind, word), listener.audio, send_level)

        def begin() -> None:
            recorder.begin(start)
            listener.consumers.append(recorder)

        self._recording = True
        paused = loop.create_task(pauses.any.wait())
        try:
            try:
                await self._calls.run(begin)
            except LookupError as error:
                raise RequestError("gone", f"take: {error}") from error
            taken = asyncio.wrap_future(recorder.taken)
            either: list[asyncio.Future[Any]] = [taken, paused]
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if taken.done():
                return taken.result()
            if paused.done():
                raise pauses.refusal()
            raise RequestError("no_speech", self._not_heard(kind, word, timeout_s))
        finally:
            self._recording = False
            paused.cancel()
            listener.call(lambda: remove(listener.consumers, recorder))

    def _not_heard(self, kind: TakeKind, word: str | None, timeout_s: float) -> str:
        expected = f"the word {word or ' or '.join(self._words())}"
        if kind != "word":
            expected = f"speech of {STRETCHES[kind].min_speech_s:g} s"
        hint = "" if self._listener.stats.microphone == "ok" else "; the microphone is lost"
        return f"{expected} was not heard within {timeout_s:g} s{hint}"

"""The handlers of requests. Everything that touches the detector goes through the listener's
`call`, and everything that touches the disk through the disk's thread. Little is worked on at the
same time: whoever asks for much waits for those who asked before. A listener that hangs is reported
to whoever needs it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
import numpy as np

from kwsd.audio import pcm
from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.config import Config
from kwsd.detect.embedder import Embedder
from kwsd.learn.enrollment import STRETCHES, Enrollment, TakeCutter, TakeKind, known_as
from kwsd.learn.takes import TakeRejected
from kwsd.names import look_up, word_name
from kwsd.protocol import commands, replies
from kwsd.protocol.commands import MAX_AUDIO_S, Command, type_of
from kwsd.protocol.data import ActiveWordInfo, CheckerInfo, LookBack, MicrophoneInfo
from kwsd.protocol.errors import RequestError
from kwsd.protocol.messages import encode_greeting, encode_level
from kwsd.protocol.replies import Reply
from kwsd.server.clients import ClientSession
from kwsd.server.consumer import Consumer
from kwsd.server.disk import Disk
from kwsd.server.hub import Filter, Hub
from kwsd.server.listener import Listener
from kwsd.server.passed import PassedFiles
from kwsd.server.pauses import Pauses
from kwsd.server.peak_recorder import PeakRecorder
from kwsd.server.state_handlers import StateHandlers
from kwsd.server.take_recorder import TakeRecorder
from kwsd.server.unix_socket import user_name
from kwsd.state.voiceprints import VoiceprintError
from kwsd.version import __version__

T = TypeVar("T")
MAX_CALLS = 4
"""Calls of the listener that requests make at the same time."""
MAX_TAKES = 100
"""Takes of an enrollment."""
STALLED_S = 10.0
"""Longest time that a request waits for the listener."""
Handler = Callable[[ClientSession, Any], Awaitable[Reply]]


@dataclass
class Parts:
    """The parts of the daemon that handlers use."""

    config: Callable[[], Config]
    """Returns the configuration in force."""
    listener: Listener
    hub: Hub
    state: StateHandlers
    disk: Disk
    embedder: Callable[[], Embedder]
    """Returns what embeds voices now."""
    peaks: PeakRecorder
    pauses: Pauses
    apply: Callable[[], Coroutine[Any, Any, None]]
    """Configures the detector after a change of the state directory. Raises RequestError."""
    reload: Callable[[], Coroutine[Any, Any, None]]
    """Raises RequestError."""
    config_path: Callable[[], Path | None]
    """Returns the path of the configuration in force."""


class Handlers:
    """Answers requests by their type."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started = time.monotonic()
        self._recording = False
        self._calling = asyncio.Semaphore(MAX_CALLS)
        self._embedding = asyncio.Lock()
        self._passed = PassedFiles()
        self._applying: set[asyncio.Task[None]] = set()
        self._handlers: dict[type[Command], Handler] = {
            commands.Subscribe: self._subscribe,
            commands.Status: self._status,
            commands.Audio: self._audio,
            commands.RecordTake: self._record_take,
            commands.EnrollBegin: self._enroll_begin,
            commands.EnrollNext: self._enroll_next,
            commands.EnrollCommit: self._enroll_commit,
            commands.EnrollAbort: self._enroll_abort,
            commands.Reload: self._reload,
            commands.Pause: parts.pauses.pause,
            commands.Resume: parts.pauses.resume,
            commands.Peaks: self._peaks,
        }
        for kind in parts.state.handled - self._handlers.keys():
            self._handlers[kind] = self._state
        assert self._handlers.keys() == set(get_args(Command))

    def greeting(self) -> bytes:
        """Return the first line to a client."""
        return encode_greeting(__version__, self._words(), SAMPLE_RATE)

    async def dispatch(self, session: ClientSession, command: Command) -> Reply:
        """Answer a request. Raises RequestError."""
        if command.privileged:
            self._check_privilege(session, type_of(command))
        reply = await self._handlers[type(command)](session, command)
        if command.changes_state:
            await self._finish(self._parts.apply(), "the change is kept, and takes effect")
        return reply

    async def _finish(self, change: Coroutine[Any, Any, None], what: str) -> None:
        """Wait until `change` is in force; it goes on where the client hangs up meanwhile.

        Raises RequestError.
        """
        task = asyncio.get_running_loop().create_task(change)
        self._applying.add(task)
        task.add_done_callback(self._applied)
        done, _ = await asyncio.wait({task}, timeout=STALLED_S)
        if not done:
            raise _stalled(f"{what} as soon as it is back")
        task.result()

    def _applied(self, task: asyncio.Task[None]) -> None:
        self._applying.discard(task)
        if not task.cancelled():
            task.exception()  # it is logged, and raised to the client where there is one

    def _check_privilege(self, session: ClientSession, what: str) -> None:
        if why := session.peer.refusal(self._parts.config().socket.admin_group):
            raise RequestError("permission_denied", f"{what} is {why}")

    async def _subscribe(self, session: ClientSession, command: commands.Subscribe) -> replies.Done:
        if command.details:
            self._check_privilege(session, "subscribe with details")
        disabled = self._parts.listener.detector.setup.disabled
        words = command.words and [self._check_word(word, disabled) for word in command.words]
        session.subscriber.filter = Filter(
            types=None if command.types is None else frozenset(command.types),
            words=None if words is None else frozenset(words),
            details=command.details,
        )
        self._parts.hub.subscribed.set()
        return replies.Done()

    async def _status(
        self, session: ClientSession, command: commands.Status
    ) -> replies.StatusReply:
        listener = self._parts.listener
        stats = listener.stats
        detector = listener.detector
        checker = detector.checker
        config = self._parts.config()
        path = self._parts.config_path()
        audio_s = stats.samples / SAMPLE_RATE
        encoded = detector.encoded_chunks * detector.chunk_samples
        return replies.StatusReply(
            version=__version__,
            uptime_s=round(time.monotonic() - self._started, 1),
            audio_s=round(audio_s, 1),
            real_time_factor=round(stats.cpu_s / audio_s, 6) if audio_s else None,
            encoded_share=round(encoded / stats.samples, 4) if stats.samples else None,
            words={
                name: ActiveWordInfo(word.threshold, word.origin)
                for name, word in detector.setup.words.items()
            },
            checker=CheckerInfo(checker.graph.model.size, checker.checks) if checker else None,
            speakers=sorted(detector.setup.speakers.voiceprints),
            clients=len(self._parts.hub.subscribers),
            microphone=MicrophoneInfo(
                stats.microphone, stats.source, meter.levels_dbfs if (meter := stats.meter) else []
            ),
            lag_s=None if stats.lag_s is None else round(stats.lag_s, 3),
            look_back=LookBack(listener.audio.begin, listener.audio.end),
            encoder_id=detector.bundle.encoder_id,
            user=user_name(os.geteuid()),
            config=str(path.absolute()) if path else None,
            state=str(self._parts.state.folder.absolute()),
            log_peaks=config.log_peaks,
            refused=session.peer.refusal(config.socket.admin_group),
            warnings=detector.setup.warnings,
            unusable=self._parts.state.unusable,
            pauses=self._parts.pauses.infos(),
            disabled=list(detector.setup.disabled),
        )

    async def _audio(self, session: ClientSession, command: commands.Audio) -> replies.AudioReply:
        start = command.start
        end = command.end
        fd = session.take_fd()
        try:
            if start >= end or end - start > MAX_AUDIO_S * SAMPLE_RATE:
                text = f"audio: start must lie before end, by at most {MAX_AUDIO_S:g} s"
                raise RequestError("bad_request", text)
            try:
                samples = await self._on_listener(lambda: self._look_back(start, end))
            except LookupError as error:
                text = f"audio: {error}; lookback_s in the configuration sets how much is kept"
                raise RequestError("gone", text) from error
            reply = replies.AudioReply(start=start, end=end, sample_rate=SAMPLE_RATE)
            if fd is None:
                return msgspec.structs.replace(reply, pcm=pcm.to_bytes(samples))
            passed, fd = fd, None  # the writer closes it
            await self._passed.write(passed, pcm.wav_bytes(samples))
            return msgspec.structs.replace(reply, written="wav")
        finally:
            if fd is not None:
                os.close(fd)

    def _look_back(self, start: int, end: int) -> np.ndarray:
        return np.asarray(self._parts.listener.audio.read(start, end), np.int16)

    async def _record_take(
        self, session: ClientSession, command: commands.RecordTake
    ) -> replies.TakeReply:
        samples = await self._record(session, "utterance", None, command.timeout_s)
        return replies.TakeReply(sample_rate=SAMPLE_RATE, pcm=pcm.to_bytes(samples))

    async def _state(self, session: ClientSession, command: Command) -> Reply:
        """Answer from the state directory, on the disk's thread."""
        try:
            return await self._on_disk(lambda: self._parts.state.answer(command))
        except OSError as error:  # out of descriptors
            raise RequestError("internal", f"{type_of(command)}: {error}; try again") from error

    async def _peaks(self, session: ClientSession, command: commands.Peaks) -> Reply:
        if command.after is None:
            await self._on_listener(self._parts.peaks.flush)
        return await self._state(session, command)

    async def _reload(self, session: ClientSession, command: commands.Reload) -> replies.Done:
        await self._finish(self._parts.reload(), "the configuration takes effect")
        return replies.Done()

    async def _enroll_begin(
        self, session: ClientSession, command: commands.EnrollBegin
    ) -> replies.EnrollBeginReply:
        try:
            session.enrollment = Enrollment(command.name, self._parts.embedder())
        except VoiceprintError as error:
            raise RequestError("bad_name", str(error)) from error
        name = session.enrollment.name
        voiceprints = self._parts.state.voiceprints
        replaces = await self._on_disk(lambda: voiceprints.path(name).exists())
        return replies.EnrollBeginReply(name=name, replaces=replaces, words=self._words())

    async def _enroll_next(
        self, session: ClientSession, command: commands.EnrollNext
    ) -> replies.EnrollNextReply:
        enrollment = _enrollment(session)
        if len(enrollment.takes) >= MAX_TAKES:
            text = f"enroll.next: an enrollment has at most {MAX_TAKES} takes"
            raise RequestError("bad_request", f"{text}; enroll.commit keeps them")
        if command.audio is not None:
            samples = HighPass().step(_decoded(command.audio))
        else:
            samples = await self._record(session, command.kind, command.word, command.timeout_s)
        try:
            # A take from the microphone can be said again.
            again = command.audio is None
            async with self._embedding:
                take = await asyncio.to_thread(enrollment.add, samples, judged_now=again)
        except TakeRejected as error:
            raise RequestError(error.reason, str(error)) from error
        return replies.EnrollNextReply(
            take=len(enrollment.takes),
            speech_dbfs=round(take.speech_dbfs, 1),
            speech_s=round(take.speech_s, 2),
        )

    async def _enroll_commit(
        self, session: ClientSession, command: commands.EnrollCommit
    ) -> replies.EnrollCommitReply:
        enrollment = _enrollment(session)
        speakers = self._parts.listener.detector.setup.speakers
        known: list[str] = []
        try:
            voiceprint, left_out = enrollment.finish()
            if speakers.scorer:
                enrolled = speakers.voiceprints
                seen = speakers.as_compared(voiceprint)
                known = known_as(seen, enrolled, speakers.scorer, speakers.threshold)
            await self._on_disk(lambda: self._parts.state.voiceprints.save(voiceprint))
        except TakeRejected as error:
            raise RequestError(error.reason, str(error)) from error
        except VoiceprintError as error:
            raise RequestError("not_saved", str(error)) from error
        session.enrollment = None
        return replies.EnrollCommitReply(
            name=voiceprint.name,
            takes=len(voiceprint.takes),
            left_out=left_out,
            known_as=known,
        )

    async def _enroll_abort(
        self, session: ClientSession, command: commands.EnrollAbort
    ) -> replies.Done:
        session.enrollment = None
        return replies.Done()

    async def _record(
        self, session: ClientSession, kind: TakeKind, word: str | None, timeout_s: float
    ) -> np.ndarray:
        """Return one take from the microphone; the client gets levels while it waits."""
        word = self._check_word(word) if word is not None else None
        if self._recording:
            text = "another client is recording a take; try again when it has finished"
            raise RequestError("busy", text)
        pauses = self._parts.pauses
        if pauses.holders:
            raise pauses.refusal()
        loop = asyncio.get_running_loop()
        listener = self._parts.listener

        def send_level(level_dbfs: float) -> None:
            loop.call_soon_threadsafe(session.subscriber.send, encode_level(level_dbfs))

        recorder = TakeRecorder(TakeCutter(kind, word, listener.audio.end), send_level)
        self._recording = True
        paused = loop.create_task(pauses.any.wait())
        try:
            await self._on_listener(lambda: listener.consumers.append(recorder))
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
            listener.call(lambda: _remove(listener.consumers, recorder))

    def _not_heard(self, kind: TakeKind, word: str | None, timeout_s: float) -> str:
        expected = f"the word {word or ' or '.join(self._words())}"
        if kind != "word":
            expected = f"speech of {STRETCHES[kind].min_speech_s:g} s"
        hint = "" if self._parts.listener.stats.microphone == "ok" else "; the microphone is lost"
        return f"{expected} was not heard within {timeout_s:g} s{hint}"

    def _words(self) -> list[str]:
        return list(self._parts.listener.detector.setup.words)

    def _check_word(self, word: str, others: Sequence[str] = ()) -> str:
        """Return the name of a word that is listened for, or of `others`. Raises RequestError."""
        words = [*self._words(), *others]
        name = look_up(word_name(word), words)
        if name is None:
            text = f"{word!r} is not listened for; the words are {', '.join(words)}"
            raise RequestError("unknown_word", text)
        return name

    async def _on_disk(self, do: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._parts.disk.run(do))

    async def _on_listener(self, do: Callable[[], T]) -> T:
        """Return what `do` gives on the listener's thread. Raises RequestError where it hangs."""
        try:
            async with asyncio.timeout(STALLED_S), self._calling:
                return await asyncio.wrap_future(self._parts.listener.call(do))
        except TimeoutError:
            raise _stalled("nothing was done; try again when it is back") from None


def _remove(consumers: list[Consumer], one: Consumer) -> None:
    """Remove a consumer that may never have been added."""
    consumers[:] = [consumer for consumer in consumers if consumer is not one]


def _stalled(effect: str) -> RequestError:
    text = f"the source of the audio has stalled for {STALLED_S:g} s"
    return RequestError("stalled", f"{text}; {effect}")


def _enrollment(session: ClientSession) -> Enrollment:
    if session.enrollment is None:
        raise RequestError("no_session", "enroll.begin comes first")
    return session.enrollment


def _decoded(audio: bytes) -> np.ndarray:
    try:
        return pcm.from_bytes(audio)
    except ValueError as error:
        text = "enroll.next: audio must be whole int16 samples at 16 kHz"
        raise RequestError("bad_request", text) from error

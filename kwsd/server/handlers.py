"""The handlers of requests. Everything that touches the detector goes through `Calls`, and
everything that touches the disk through the disk's thread. Little is worked on at the same time:
whoever asks for much waits for those who asked before. A listener that hangs is reported to whoever
needs it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.config import Config
from kwsd.detect.embedder import Embedder
from kwsd.learn.enrollment import Enrollment, compared
from kwsd.learn.takes import TakeRejected
from kwsd.names import look_up, word_name
from kwsd.protocol import commands, replies
from kwsd.protocol.commands import Command
from kwsd.protocol.data import ActiveWordInfo, CheckerInfo, LookBack, MicrophoneInfo
from kwsd.protocol.errors import RequestError
from kwsd.protocol.messages import encode_greeting
from kwsd.protocol.replies import Reply
from kwsd.protocol.request import type_of
from kwsd.server import calls
from kwsd.server.audio_handlers import AudioHandlers
from kwsd.server.calls import Calls, stalled
from kwsd.server.clients import ClientSession
from kwsd.server.disk import Disk
from kwsd.server.hub import Filter, Hub
from kwsd.server.listener import Listener
from kwsd.server.pauses import Pauses
from kwsd.server.peak_recorder import PeakRecorder
from kwsd.server.state_handlers import StateHandlers
from kwsd.server.streams import Streams
from kwsd.server.unix_socket import user_name, users_of
from kwsd.server.voices import decoded, hear, identify
from kwsd.state.voiceprints import VoiceprintError
from kwsd.version import __version__

log = logging.getLogger(__name__)
T = TypeVar("T")
NOBODY = "nobody is enrolled; `kwsd enroll NAME` enrolls a speaker"
MAX_TAKES = 100
"""Takes of an enrollment."""
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
        self._calls = Calls(parts.listener)
        self._audio = AudioHandlers(parts.listener, self._calls, parts.pauses, self._words)
        self._streams = Streams(parts.listener, self._calls, parts.pauses)
        self._embedding = asyncio.Lock()
        self._applying: set[asyncio.Task[None]] = set()
        self._handlers: dict[type[Command], Handler] = {
            commands.Subscribe: self._subscribe,
            commands.Status: self._status,
            commands.Audio: self._audio.audio,
            commands.RecordTake: self._audio.take,
            commands.Stream: self._streams.stream,
            commands.StreamStop: self._streams.stop_stream,
            commands.Scores: self._streams.scores,
            commands.ScoresStop: self._streams.stop_scores,
            commands.EnrollBegin: self._enroll_begin,
            commands.EnrollNext: self._enroll_next,
            commands.EnrollCommit: self._enroll_commit,
            commands.EnrollAbort: self._enroll_abort,
            commands.Reload: self._reload,
            commands.Pause: parts.pauses.pause,
            commands.Resume: parts.pauses.resume,
            commands.Peaks: self._logged,
            commands.CalibrationTradeOff: self._logged,
            commands.SpeakersIdentify: self._identify,
            commands.SpeakersHear: self._hear,
        }
        for kind in parts.state.handled - self._handlers.keys():
            self._handlers[kind] = self._state
        assert self._handlers.keys() == set(get_args(Command))

    def greeting(self) -> bytes:
        """Return the first line to a client."""
        return encode_greeting(__version__, self._words(), SAMPLE_RATE)

    async def dispatch(self, session: ClientSession, command: Command) -> Reply:
        """Answer a request. Raises RequestError."""
        log.debug("%s asks for %s", session.subscriber.name, type_of(command))
        if command.privileged:
            self._check_privilege(session, type_of(command), command.group_key)
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
        done, _ = await asyncio.wait({task}, timeout=calls.STALLED_S)
        if not done:
            raise stalled(f"{what} as soon as it is back")
        task.result()

    def _applied(self, task: asyncio.Task[None]) -> None:
        self._applying.discard(task)
        if not task.cancelled():
            task.exception()  # it is logged, and raised to the client where there is one

    def left(self, session: ClientSession) -> None:
        """End what belongs to a client that has gone."""
        self._parts.pauses.left(session)
        self._streams.left(session)

    def _check_privilege(self, session: ClientSession, what: str, key: str | None = None) -> None:
        if why := session.peer.refusal(self._parts.config().socket, key):
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
                name: ActiveWordInfo(word.threshold, word.origin, word.model.id, word.rate)
                for name, word in detector.setup.words.items()
            },
            checker=CheckerInfo(checker.graph.model.size, checker.checks) if checker else None,
            speakers=sorted(detector.setup.speakers.voiceprints),
            clients=len(self._parts.hub.subscribers),
            users=users_of(one.uid for one in self._parts.hub.subscribers),
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
            refused=session.peer.refusal(config.socket),
            warnings=detector.setup.warnings,
            unusable=self._parts.state.unusable,
            pauses=self._parts.pauses.infos(),
            pause_refused=session.peer.refusal(config.socket, commands.Pause.group_key),
            disabled=list(detector.setup.disabled),
            streams=self._streams.count,
            stream_users=users_of(self._streams.uids),
            false_accepts_per_hour=detector.setup.false_accepts_per_hour,
        )

    async def _state(self, session: ClientSession, command: Command) -> Reply:
        """Answer from the state directory, on the disk's thread."""
        try:
            return await self._on_disk(lambda: self._parts.state.answer(command))
        except OSError as error:  # out of descriptors
            raise RequestError("internal", f"{type_of(command)}: {error}; try again") from error

    async def _logged(
        self, session: ClientSession, command: commands.Peaks | commands.CalibrationTradeOff
    ) -> Reply:
        """Answer from the log of peaks, up to now."""
        if getattr(command, "after", None) is None:
            await self._calls.run(self._parts.peaks.flush)
        return await self._state(session, command)

    async def _reload(self, session: ClientSession, command: commands.Reload) -> replies.Done:
        await self._finish(self._parts.reload(), "the configuration takes effect")
        return replies.Done()

    async def _identify(
        self, session: ClientSession, command: commands.SpeakersIdentify
    ) -> replies.SpeakersIdentifyReply:
        detector = self._parts.listener.detector
        return identify(command, detector.bundle, detector.setup.speakers)

    async def _hear(
        self, session: ClientSession, command: commands.SpeakersHear
    ) -> replies.SpeakersHearReply:
        speakers = self._parts.listener.detector.setup.speakers
        if speakers.scorer is None:
            raise RequestError("no_speaker", NOBODY)
        samples = await self._audio.record(session, "utterance", None, command.timeout_s)
        async with self._embedding:
            return await asyncio.to_thread(hear, samples, self._parts.embedder(), speakers)

    async def _enroll_begin(
        self, session: ClientSession, command: commands.EnrollBegin
    ) -> replies.EnrollBeginReply:
        try:
            begun = Enrollment(command.name, self._parts.embedder(), command.reference)
        except VoiceprintError as error:
            raise RequestError("bad_name", str(error)) from error
        session.enrollment = begun
        store = self._parts.state.voiceprints
        replaces, known = await self._on_disk(lambda: store.replaced(begun.name, begun.reference))
        return replies.EnrollBeginReply(
            name=begun.name, replaces=replaces, words=self._words(), references=known
        )

    async def _enroll_next(
        self, session: ClientSession, command: commands.EnrollNext
    ) -> replies.EnrollNextReply:
        enrollment = _enrollment(session)
        if len(enrollment.takes) >= MAX_TAKES:
            text = f"enroll.next: an enrollment has at most {MAX_TAKES} takes"
            raise RequestError("bad_request", f"{text}; enroll.commit keeps them")
        if command.audio is not None:
            samples = HighPass().step(decoded(command.audio))
        elif (id := command.clip) is not None:
            samples = await self._on_disk(lambda: self._parts.state.voice_in(id))
        else:
            word = None if command.word is None else self._check_word(command.word)
            samples = await self._audio.record(session, command.kind, word, command.timeout_s)
        try:
            # A take from the microphone can be said again.
            again = command.audio is None and command.clip is None
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
        try:
            voiceprint, left_out = enrollment.finish()
            known, unlike = compared(voiceprint, self._parts.listener.detector.setup.speakers)
            await self._on_disk(lambda: self._parts.state.voiceprints.add(voiceprint))
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
            unlike=unlike,
        )

    async def _enroll_abort(
        self, session: ClientSession, command: commands.EnrollAbort
    ) -> replies.Done:
        session.enrollment = None
        return replies.Done()

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


def _enrollment(session: ClientSession) -> Enrollment:
    if session.enrollment is None:
        raise RequestError("no_session", "enroll.begin comes first")
    return session.enrollment

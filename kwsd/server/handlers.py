"""What the daemon does for each request. Everything that touches the detector goes through the listener's `call`."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from kwsd.audio.capture import Block
from kwsd.config import SAMPLE_RATE, Config, ConfigError
from kwsd.detect.embedder import Embedder
from kwsd.events import Wake
from kwsd.learn.enrollment import STRETCHES, Enrolment, Kind, Take, TakeListener
from kwsd.learn.takes import TakeRejected, level_dbfs
from kwsd.protocol import messages as protocol
from kwsd.protocol.messages import Body, Request, RequestError
from kwsd.server.hub import Filter, Hub
from kwsd.server.listener import Listener
from kwsd.server.state_handlers import CHANGING, Keeping, unbase64
from kwsd.server.unix_socket import Connection
from kwsd.state.clips import wav_bytes
from kwsd.state.voiceprints import VoiceprintError
from kwsd.version import __version__

log = logging.getLogger(__name__)
T = TypeVar("T")
PRIVILEGED = (
    "audio",
    "take",
    "enroll.begin",
    "enroll.next",
    "enroll.commit",
    "enroll.abort",
    "speakers.delete",
    "speakers.trials",
    "words.get",
    "words.put",
    "words.delete",
    "calibration.put",
    "calibration.undo",
    "peaks",
    "clips",
    "clips.get",
    "clips.label",
    "clips.clear",
    "reload",
)
MAX_AUDIO_S = 20.0
"""Longest look-back in one reply; its base64 has to fit a line."""


@dataclass
class Service:
    """The parts that requests need."""

    config: Config
    listener: Listener
    hub: Hub
    keeping: Keeping
    embedder: Embedder
    reload: Callable[[], Any]
    """Coroutine function; raises RequestError."""
    started: float = 0.0

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self._recording = False
        self._does = {
            "subscribe": self.subscribe, "status": self.status, "audio": self.audio, "take": self.take, "enroll.begin": self.enroll_begin,
            "enroll.next": self.enroll_next, "enroll.commit": self.enroll_commit, "enroll.abort": self.enroll_abort, "reload": self.reload_all,
        }  # fmt: skip
        assert {*self._does, *self.keeping.requests} == set(protocol.REQUESTS)

    def hello(self) -> Body:
        return {
            "type": "hello",
            "protocol": protocol.PROTOCOL,
            "version": __version__,
            "words": list(self.listener.detector.triggers),
            "sample_rate": SAMPLE_RATE,
        }

    async def dispatch(self, connection: Connection, request: Request) -> Body:
        if request.type in PRIVILEGED and not connection.peer.privileged(self.config.socket.admin_group):
            group = self.config.socket.admin_group
            who = f"root, the daemon's user and the group {group}" if group else "root and the daemon's user (socket.admin_group may name a group)"
            raise RequestError("permission_denied", f"{request.type} is for {who}")
        if request.type in self.keeping.requests:
            return await self.kept(connection, request)
        return await self._does[request.type](connection, request.body)

    async def subscribe(self, connection: Connection, body: Body) -> Body:
        for word in body.get("words", ()):
            self._check_word(word)
        wanted = {k: frozenset(body[k]) if k in body else None for k in ("types", "words")}
        connection.outlet.filter = Filter(**wanted)
        self.hub.subscribed.set()
        return {}

    async def status(self, connection: Connection, body: Body) -> Body:
        figures, detector = self.listener.figures, self.listener.detector
        audio_s = figures.samples / SAMPLE_RATE
        return {
            "version": __version__,
            "uptime_s": round(time.monotonic() - self.started, 1),
            "audio_s": round(audio_s, 1),
            "real_time_factor": round(figures.cpu_s / audio_s, 6) if audio_s else None,
            "encoded_share": round(detector.encoded_chunks * detector.chunk / figures.samples, 4) if figures.samples else None,
            "words": {name: {"threshold": one.threshold, "origin": one.origin} for name, one in detector.listened.items()},
            "speakers": self._speakers(),
            "clients": len(self.hub.outlets),
            "microphone": {"state": figures.microphone, "name": figures.source},
            "look_back": {"start": self.listener.audio.begin, "end": self.listener.audio.end},
            "encoder_id": detector.bundle.encoder_id,
        }

    async def audio(self, connection: Connection, body: Body) -> Body:
        start, end, fd = body["start"], body["end"], connection.take_fd()
        try:
            if not 0 <= start < end or end - start > MAX_AUDIO_S * SAMPLE_RATE:
                raise RequestError("bad_request", f"audio: start must lie before end, by at most {MAX_AUDIO_S:g} s")
            try:
                samples = cast(np.ndarray, await self._on_listener(lambda: self.listener.audio.read(start, end)))
            except LookupError as error:
                raise RequestError("gone", f"audio: {error}; lookback_s in the configuration sets how much is kept") from error
            if fd is None:
                return {"start": start, "end": end, "sample_rate": SAMPLE_RATE, "pcm": protocol.pcm(samples)}
            await asyncio.to_thread(_write, os.dup(fd), wav_bytes(samples))
            return {"start": start, "end": end, "sample_rate": SAMPLE_RATE, "written": "wav"}
        finally:
            if fd is not None:
                os.close(fd)

    async def take(self, connection: Connection, body: Body) -> Body:
        samples = await self._record(connection, "utterance", None, body)
        return {"sample_rate": SAMPLE_RATE, "pcm": protocol.pcm(samples)}

    async def kept(self, connection: Connection, request: Request) -> Body:
        """What is answered from the state directory."""
        if request.type == "peaks":
            await self._on_listener(self.listener.tell_peaks)
        body = await self._on_disk(lambda: self.keeping.request(request.type, **request.body))
        if request.type in CHANGING:
            await self.take_up()
        return body

    async def reload_all(self, connection: Connection, body: Body) -> Body:
        await self.reload()
        return {}

    async def enroll_begin(self, connection: Connection, body: Body) -> Body:
        try:
            connection.session = Enrolment(body["name"], self.embedder)
        except VoiceprintError as error:
            raise RequestError("bad_name", str(error)) from error
        exists = self.keeping.voiceprints.path(body["name"]).exists()
        return {"name": body["name"], "replaces": exists, "words": list(self.listener.detector.triggers)}

    async def enroll_next(self, connection: Connection, body: Body) -> Body:
        session = self._session(connection)
        if "audio" in body:
            samples = _decode(body["audio"])
        else:
            samples = await self._record(connection, body.get("kind", "word"), body.get("word"), body)
        try:
            take: Take = await asyncio.to_thread(session.add, samples)
        except TakeRejected as error:
            raise RequestError(error.reason, str(error)) from error
        return {"take": len(session.takes), "level_dbfs": round(take.level_dbfs, 1), "speech_s": round(take.speech_s, 2)}

    async def enroll_commit(self, connection: Connection, body: Body) -> Body:
        session = self._session(connection)
        try:
            voiceprint = session.finish()
            await self._on_disk(lambda: self.keeping.voiceprints.save(voiceprint))
        except TakeRejected as error:
            raise RequestError(error.reason, str(error)) from error
        except VoiceprintError as error:
            raise RequestError("not_saved", str(error)) from error
        connection.session = None
        await self.take_up()
        return {"name": voiceprint.name, "takes": len(voiceprint.takes)}

    async def enroll_abort(self, connection: Connection, body: Body) -> Body:
        connection.session = None
        return {}

    async def take_up(self) -> None:
        """Hand what the state directory holds to the detector; on an error it goes on as it was. Raises RequestError."""
        household = await self._on_disk(self.keeping.household)
        try:
            await self._on_listener(lambda: self.listener.configure(self.config, *household))
        except ConfigError as error:
            raise RequestError("bad_config", str(error)) from error

    def _check_word(self, word: str) -> None:
        if word not in (words := self.listener.detector.triggers):
            raise RequestError("unknown_word", f"{word!r} is not listened for; the words are {', '.join(words)}")

    def _speakers(self) -> list[str]:
        return sorted(self.listener.detector.voiceprints)

    def _session(self, connection: Connection) -> Enrolment:
        if not isinstance(connection.session, Enrolment):
            raise RequestError("no_session", "enroll.begin comes first")
        return connection.session

    async def _on_disk(self, do: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self.keeping.in_turn(do))

    async def _on_listener(self, do: Callable[[], T]) -> T:
        return await asyncio.wait_for(asyncio.wrap_future(self.listener.call(do)), 10)

    async def _record(self, connection: Connection, kind: Kind, word: str | None, body: Body) -> np.ndarray:
        """One take from the microphone, with `level` messages to the client while it waits."""
        timeout_s = float(body.get("timeout_s", 15.0))
        if kind not in ("word", *STRETCHES) or not 1 <= timeout_s <= 60:
            raise RequestError("bad_request", f"a take: kind must be word or {' or '.join(STRETCHES)}, timeout_s 1 to 60")
        if word is not None:
            self._check_word(word)
        if self._recording:
            raise RequestError("busy", "another client is recording a take; try again when it has finished")
        loop, taken = asyncio.get_running_loop(), Future[np.ndarray]()
        listener, outlet = self.listener, connection.outlet
        cutter = TakeListener(kind, word, listener.audio.end)
        wanted: list[tuple[int, int]] = []

        def on_heard(wake: Wake) -> None:
            if span := cutter.heard_word(wake.word, wake.start, wake.end):
                wanted.append(span)

        def on_block(block: Block) -> None:
            if span := cutter.step(listener.audio, block.samples):
                wanted.append(span)
            level = protocol.encode({"type": "level", "level_dbfs": round(level_dbfs(block.samples), 1)})
            loop.call_soon_threadsafe(outlet.send, level)
            if wanted and not taken.done() and listener.audio.end >= wanted[0][1]:
                start, end = wanted[0]
                taken.set_result(cast(np.ndarray, listener.audio.read(max(start, listener.audio.begin), end)))

        self._recording = True
        self._listen_to(on_heard, on_block)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(taken), timeout_s)
        except TimeoutError:
            heard = f"the word {word or ' or '.join(listener.detector.triggers)}" if kind == "word" else f"speech of {STRETCHES[kind][0]:g} s"
            state = "" if listener.figures.microphone == "ok" else "; the microphone is lost"
            raise RequestError("no_speech", f"{heard} was not heard within {timeout_s:g} s{state}") from None
        finally:
            self._recording = False
            self._listen_to(None, None)

    def _listen_to(self, on_heard: Callable[[Wake], None] | None, on_block: Callable[[Block], None] | None) -> None:
        def change() -> None:
            self.listener.on_heard, self.listener.on_block = on_heard, on_block

        self.listener.call(change)


def _decode(text: str) -> np.ndarray:
    data = unbase64("enroll.next: audio", text)
    if len(data) % 2:
        raise RequestError("bad_request", "enroll.next: audio must be whole int16 samples at 16 kHz")
    return np.frombuffer(data, "<i2").astype(np.int16)


def _write(fd: int, data: bytes) -> None:
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(data)
    except OSError as error:
        raise RequestError("not_written", f"audio: the passed descriptor could not be written ({error.strerror})") from error

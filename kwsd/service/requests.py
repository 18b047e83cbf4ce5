"""What the daemon does for each request. Everything that touches the detector goes through the listener's `call`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import time
import wave
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from kwsd import __version__
from kwsd.audio.capture import Block
from kwsd.config import SAMPLE_RATE, Config
from kwsd.detect.embedder import Embedder
from kwsd.detect.enrolment import STRETCHES, Enrolment, Kind, Take, TakeListener
from kwsd.detect.takes import TakeRejected, level_dbfs
from kwsd.detect.voiceprints import VoiceprintError, VoiceprintStore
from kwsd.detect.words import WordError, WordStore, about, check_name, from_bytes, to_bytes
from kwsd.events import Wake
from kwsd.service import protocol
from kwsd.service.hub import Filter, Hub
from kwsd.service.listener import Listener
from kwsd.service.protocol import Body, Request, RequestError
from kwsd.service.server import Connection

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
    "words.get",
    "words.put",
    "words.delete",
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
    voiceprints: VoiceprintStore
    words: WordStore
    embedder: Embedder
    reload: Callable[[], Any]
    """Coroutine function; raises RequestError."""
    started: float = 0.0

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self._recording = False
        self._does = {
            "subscribe": self.subscribe, "status": self.status, "audio": self.audio, "take": self.take, "speakers": self.speakers,
            "speakers.delete": self.delete_speaker, "enroll.begin": self.enroll_begin, "enroll.next": self.enroll_next,
            "enroll.commit": self.enroll_commit, "enroll.abort": self.enroll_abort, "words": self.added_words,
            "words.get": self.get_word, "words.put": self.put_word, "words.delete": self.delete_word, "reload": self.reload_all,
        }  # fmt: skip
        assert set(self._does) == set(protocol.REQUESTS)

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
            "words": {w: {"threshold": t.threshold} for w, t in detector.triggers.items()},
            "speakers": self._speakers(),
            "clients": len(self.hub.outlets),
            "microphone": {"state": figures.microphone, "name": figures.source},
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
            await asyncio.to_thread(_write_wav, os.dup(fd), samples)
            return {"start": start, "end": end, "sample_rate": SAMPLE_RATE, "written": "wav"}
        finally:
            if fd is not None:
                os.close(fd)

    async def take(self, connection: Connection, body: Body) -> Body:
        samples = await self._record(connection, "utterance", None, body)
        return {"sample_rate": SAMPLE_RATE, "pcm": protocol.pcm(samples)}

    async def speakers(self, connection: Connection, body: Body) -> Body:
        good, bad = await asyncio.to_thread(self.voiceprints.load_all)
        listed = [{"name": v.name, "takes": len(v.takes), "created": v.created} for v in good.values()]
        return {"speakers": listed, "unusable": [str(e) for e in bad]}

    async def delete_speaker(self, connection: Connection, body: Body) -> Body:
        try:
            await asyncio.to_thread(self.voiceprints.delete, body["name"])
        except VoiceprintError as error:
            raise RequestError("no_speaker", str(error)) from error
        await self.use_voiceprints()
        return {"deleted": body["name"]}

    async def added_words(self, connection: Connection, body: Body) -> Body:
        good, bad = await asyncio.to_thread(self.words.load_all)
        return {"words": [about(word) for word in good.values()], "unusable": [str(e) for e in bad]}

    async def get_word(self, connection: Connection, body: Body) -> Body:
        try:
            word = await asyncio.to_thread(self.words.load, check_name(body["name"]))
        except WordError as error:
            raise RequestError("unknown_word", str(error)) from error
        return {"name": word.name, "file": base64.b64encode(to_bytes(word)).decode()}

    async def put_word(self, connection: Connection, body: Body) -> Body:
        try:
            word = from_bytes(_unbase64("words.put: file", body["file"]), self.words.encoder_id, "words.put")
        except WordError as error:
            raise RequestError("bad_word", str(error)) from error
        if word.name in self.listener.detector.bundle.words:
            raise RequestError("bad_word", f"{word.name!r} comes with kwsd; call yours something else")
        replaces = await asyncio.to_thread(self.words.path(word.name).exists)
        try:
            await asyncio.to_thread(self.words.save, word)
        except WordError as error:
            raise RequestError("not_saved", str(error)) from error
        await self.reload()
        return {"name": word.name, "replaces": replaces}

    async def delete_word(self, connection: Connection, body: Body) -> Body:
        try:
            name = check_name(body["name"])
            if name in self.config.words:
                raise RequestError("in_use", f"{name!r} stands in the configuration; take it out of `words` there first")
            await asyncio.to_thread(self.words.delete, name)
        except WordError as error:
            raise RequestError("unknown_word", str(error)) from error
        await self.reload()
        return {"deleted": name}

    async def reload_all(self, connection: Connection, body: Body) -> Body:
        await self.reload()
        return {}

    async def enroll_begin(self, connection: Connection, body: Body) -> Body:
        try:
            connection.session = Enrolment(body["name"], self.embedder)
        except VoiceprintError as error:
            raise RequestError("bad_name", str(error)) from error
        exists = self.voiceprints.path(body["name"]).exists()
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
            await asyncio.to_thread(self.voiceprints.save, voiceprint)
        except TakeRejected as error:
            raise RequestError(error.reason, str(error)) from error
        except VoiceprintError as error:
            raise RequestError("not_saved", str(error)) from error
        connection.session = None
        await self.use_voiceprints()
        return {"name": voiceprint.name, "takes": len(voiceprint.takes)}

    async def enroll_abort(self, connection: Connection, body: Body) -> Body:
        connection.session = None
        return {}

    async def use_voiceprints(self) -> None:
        """Hand the voiceprints on the disk to the detector; say which cannot be used."""
        good, bad = await asyncio.to_thread(self.voiceprints.load_all)
        for error in bad:
            log.error("%s", error)
        await self._on_listener(lambda: self.listener.detector.use_voiceprints(good))

    def _check_word(self, word: str) -> None:
        if word not in (words := self.listener.detector.triggers):
            raise RequestError("unknown_word", f"{word!r} is not listened for; the words are {', '.join(words)}")

    def _speakers(self) -> list[str]:
        return sorted(self.listener.detector.voiceprints)

    def _session(self, connection: Connection) -> Enrolment:
        if not isinstance(connection.session, Enrolment):
            raise RequestError("no_session", "enroll.begin comes first")
        return connection.session

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


def _unbase64(what: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("bad_request", f"{what} is not base64 ({error})") from error


def _decode(text: str) -> np.ndarray:
    data = _unbase64("enroll.next: audio", text)
    if len(data) % 2:
        raise RequestError("bad_request", "enroll.next: audio must be whole int16 samples at 16 kHz")
    return np.frombuffer(data, "<i2").astype(np.int16)


def _write_wav(fd: int, samples: np.ndarray) -> None:
    try:
        with os.fdopen(fd, "wb") as out, wave.open(out, "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(2)
            wav.setframerate(SAMPLE_RATE)
            wav.setnframes(len(samples))
            wav.writeframes(samples.astype("<i2").tobytes())
    except OSError as error:
        raise RequestError("not_written", f"audio: the passed descriptor could not be written ({error.strerror})") from error

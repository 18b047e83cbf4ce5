"""The wake service: who may connect and how many, the models, the daemon beside it.

Every connection has a detector of its own, and all share the models. They compute on one thread,
four chunks at most at a time, so that nobody waits for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wyoming.event import Event

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.bridges.service import Service
from kwsd.bridges.wyoming.connection import Connection, Shared
from kwsd.bridges.wyoming.frames import MAX_LINE
from kwsd.bridges.wyoming.hearing import Heard
from kwsd.bridges.wyoming.info import info
from kwsd.bridges.wyoming.voices import Voices
from kwsd.bridges.wyoming.words import Words
from kwsd.client.async_client import AsyncClient
from kwsd.config import Config, WyomingConfig
from kwsd.model import bundle as bundles
from kwsd.model.runtime import Runtime
from kwsd.protocol.commands import Status, WordsDetector
from kwsd.protocol.commands import Words as ListWords
from kwsd.protocol.errors import RequestError
from kwsd.protocol.replies import StatusReply
from kwsd.seldom import Seldom
from kwsd.state.words import AddedWord, WordError, from_bytes

log = logging.getLogger(__name__)
LOOK_S = 10.0
"""Seconds between two looks at the daemon's words."""
SILENT_S = 60.0
"""A client that has sent nothing for so long makes room where others find no place."""
LINGER_S = 1.0
"""Longest time for what was written last to be read."""
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A satellite that has lost its power is noticed after two minutes."""


class WakeService:
    """The service, its clients and its link to the daemon."""

    def __init__(self, config: Config, socket_path: Path | None) -> None:
        """Load the models. Raises ConfigError or BundleError."""
        self._config: WyomingConfig = config.wyoming
        self._bundle = bundles.load(config.models_path())
        self._words = Words(config, self._bundle)
        self._link = DaemonLink(socket_path)
        self._voices = Voices(self._link, config.speaker.require, self._bundle.encoder_id)
        self._worker = ThreadPoolExecutor(1, "detectors")
        self._clients: dict[asyncio.Task[None], Connection] = {}
        self._refused = Seldom(log)
        self._lost = Seldom(log)
        self._info: tuple[int, Event] | None = None
        setup = self._words.setup(None)
        runtime = Runtime(self._bundle)
        runtime.checker(setup.checker if setup else None)
        self._shared = Shared(
            bundle=self._bundle,
            runtime=runtime,
            words=self._words,
            worker=self._worker,
            info=self._described,
            knows_voices=lambda: self._voices.known,
            admitted=self._admitted,
        )

    async def serve(self, service: Service) -> None:
        """Serve for as long as the task lives. Raises OSError where the port cannot be had."""
        try:
            async with self._listening(), asyncio.TaskGroup() as group:
                service.ready(f"{self._config.uri}: {', '.join(self._words.names)}")
                log.info("serving %s on %s", ", ".join(self._words.names), self._config.uri)
                group.create_task(self._link.run(self._follow, went=self._voices.forget))
                group.create_task(service.watch(self._beat))
        finally:
            self._worker.shutdown()

    async def _beat(self) -> None:
        """Return when the thread of the detectors has had a turn."""
        await asyncio.get_running_loop().run_in_executor(self._worker, int)

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        host, port = self._config.address()
        hosts = ["::", "0.0.0.0"] if host == "::" else [host]
        try:
            server = await asyncio.start_server(self._accept, hosts, port, limit=MAX_LINE)
        except OSError as error:
            why = f"wyoming.uri: {self._config.uri} cannot be had ({error.strerror or error})"
            raise OSError(f"{why}; stop what uses the port, or set another: ss -ltnp") from error
        try:
            yield
        finally:
            server.close()
            for task in list(self._clients):
                task.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = Connection(reader, writer, self._shared)
        peer = writer.get_extra_info("peername")
        try:
            _keep_alive(writer)
            if not peer or not self._config.admits(peer[0]):
                self._refused("%s may not connect; wyoming.allow says who may", peer and peer[0])
                return
            if len(self._clients) >= self._config.max_clients and not self._make_room():
                text = f"{self._config.max_clients} clients are connected (wyoming.max_clients)"
                self._refused("%s is turned away: %s", peer[0], text)
                await connection.refuse(text, "busy")
                return
            self._clients[task] = connection
            await connection.run()
        except (ConnectionError, TimeoutError) as error:
            self._lost("%s is lost: %s", peer and peer[0], str(error) or "it does not read")
        except asyncio.CancelledError:  # it made room, or the service stops
            pass
        finally:
            self._clients.pop(task, None)
            await _close(writer)

    def _make_room(self) -> bool:
        """Disconnect the client that has been silent for longest; return whether one has been."""
        task, connection = min(self._clients.items(), key=lambda item: item[1].heard_at)
        if time.monotonic() - connection.heard_at < SILENT_S:
            return False
        del self._clients[task]
        task.cancel()
        return True

    def _described(self) -> Event:
        generation = self._words.generation
        if self._info is None or self._info[0] != generation:
            self._info = generation, info(self._words.described())
        return self._info[1]

    async def _admitted(self, heard: Heard) -> tuple[bool, str | None]:
        name = await self._voices.name(heard.voice) if heard.voice else None
        return self._voices.admits(name), name

    async def _follow(self, client: AsyncClient) -> None:
        """Keep the daemon's words, for as long as it is there. Raises DaemonError."""
        seen = None
        while True:
            status = await client.request(Status())
            self._voices.known = bool(status.speakers) and self._is_of_one_mind(status)
            now = ({name: word.id for name, word in status.words.items()}, status.disabled)
            if now != seen and self._is_of_one_mind(status):
                self._words.add(await self._added(client))
            seen = now
            await asyncio.sleep(LOOK_S)

    def _is_of_one_mind(self, status: StatusReply) -> bool:
        """Return whether the daemon has the same models."""
        if status.encoder_id == self._bundle.encoder_id:
            return True
        text = "the daemon has other models (encoder %s), so its words and voices are not used"
        self._refused(text + "; restart both", status.encoder_id)
        return False

    async def _added(self, client: AsyncClient) -> dict[str, AddedWord]:
        """Return the daemon's added words that can be used. Raises DaemonError."""
        found = {}
        for entry in (await client.request(ListWords())).words:
            try:
                reply = await client.request(WordsDetector(name=entry.name))
                word = from_bytes(
                    reply.file, self._bundle.encoder_id, entry.name, self._bundle.frame_dim
                )
                found[word.name] = word
            except (RequestError, WordError) as error:
                log.warning("%s cannot be served: %s", entry.name, error)
        return found


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection; what it leaves unread is dropped soon."""
    try:
        writer.close()
        async with asyncio.timeout(LINGER_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()

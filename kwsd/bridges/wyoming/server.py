"""The wake service: who may connect and how many, the models, the daemon beside it.

Every connection has a detector of its own, and all share the models. They compute on one thread,
four chunks at most at a time, so that nobody waits for long.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wyoming.event import Event

from kwsd.bridge_config import WyomingConfig
from kwsd.bridges.daemon_link import DaemonLink
from kwsd.bridges.service import Service
from kwsd.bridges.wyoming.connection import Connection, Shared
from kwsd.bridges.wyoming.hearing import Heard
from kwsd.bridges.wyoming.info import info
from kwsd.bridges.wyoming.port import Places, listening
from kwsd.bridges.wyoming.voices import Voices
from kwsd.bridges.wyoming.words import Words
from kwsd.client.async_client import AsyncClient
from kwsd.config import Config
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
        self._places: Places[Connection] = Places(self._config.max_clients)
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
            async with (
                listening(self._config, "wyoming", self._accept),
                asyncio.TaskGroup() as group,
            ):
                service.ready(f"{self._config.uri}: {', '.join(self._words.names)}")
                log.info("serving %s on %s", ", ".join(self._words.names), self._config.uri)
                group.create_task(self._link.run(self._follow, went=self._voices.forget))
                group.create_task(service.watch(self._beat))
        finally:
            self._worker.shutdown()

    async def _beat(self) -> None:
        """Return when the thread of the detectors has had a turn."""
        await asyncio.get_running_loop().run_in_executor(self._worker, int)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer, self._shared)
        peer = writer.get_extra_info("peername")
        try:
            if not peer or not self._config.admits(peer[0]):
                self._refused("%s may not connect; wyoming.allow says who may", peer and peer[0])
                return
            with self._places.taken(connection) as placed:
                if placed:
                    await connection.run()
                    return
            text = f"{self._places.most} clients are connected (wyoming.max_clients)"
            self._refused("%s is turned away: %s", peer[0], text)
            await connection.refuse(text, "busy")
        except (ConnectionError, TimeoutError) as error:
            self._lost("%s is lost: %s", peer and peer[0], str(error) or "it does not read")

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

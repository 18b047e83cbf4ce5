"""`kwsd wyoming --satellite`: the daemon's microphone as a satellite of Home Assistant.

It is the one bridge that sends sound: what is said after a wake word, to a server that the
configuration admits by its address, for as long as the server wants it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from pathlib import Path

from wyoming.event import Event
from wyoming.pipeline import PipelineStage

from kwsd import events
from kwsd.bridge_config import SatelliteConfig
from kwsd.bridges.daemon_link import DaemonLink
from kwsd.bridges.programs import Commands
from kwsd.bridges.service import Service
from kwsd.bridges.wyoming import served
from kwsd.bridges.wyoming.info import satellite_info
from kwsd.bridges.wyoming.port import Places, listening
from kwsd.bridges.wyoming.session import Session, Shared
from kwsd.bridges.wyoming.sounds import Speaker, read_wav
from kwsd.client.async_client import AsyncClient
from kwsd.config import Config, ConfigError
from kwsd.names import look_up, word_name
from kwsd.protocol.commands import Status, StreamStop, Words
from kwsd.protocol.errors import RequestError
from kwsd.protocol.replies import StatusReply
from kwsd.seldom import Seldom

log = logging.getLogger(__name__)
KEY = "wyoming.satellite"
LOOK_S = 10.0
"""Seconds between two looks at the daemon's words."""
LATE_S = 5.0
"""A wake that is older is nobody's wish any more."""
DEAD_S = 10.0
"""A server that has sent nothing for so long makes room for another; Home Assistant pings every two
seconds."""
LEAVES_S = 1.0
"""Longest time for a server to leave when it connects anew."""
MAX_CLIENTS = 8
"""Connections at the same time, most of which ask who is there."""
TIMER_S = 60.0
"""Longest time that the command of a timer runs."""


class Satellite:
    """The satellite, its server and its link to the daemon."""

    def __init__(self, config: Config, socket_path: Path | None) -> None:
        """Raises ConfigError where nobody may connect, or a sound cannot be read."""
        own: SatelliteConfig = config.wyoming.satellite
        if own.allow is None:
            text = "name the server that sound may be sent to, such as --allow 192.168.1.5"
            raise ConfigError(f"{KEY}.allow: says nobody may connect; {text}")
        self._config = own
        self._name = own.name or f"kwsd on {socket.gethostname()}"
        self._link = DaemonLink(socket_path, ["wake"])
        self._speaker = Speaker(own.play, self._played)
        self._timers = Commands("timer", own.timer, TIMER_S)
        self._stop_words = [word_name(name) for name in own.stop_words]
        self._words: list[served.ServedWord] = []
        self._server: Session | None = None
        self._service: Service | None = None
        self._places: Places[Session] = Places(MAX_CLIENTS)
        self._refused = Seldom(log)
        self._lost = Seldom(log)
        self._shared = Shared(
            link=self._link,
            speaker=self._speaker,
            timers=self._timers,
            info=self._described,
            takes=self._takes,
            left=self._left,
            last_stage=PipelineStage.TTS if own.play else PipelineStage.HANDLE,
            awake=read_wav(f"{KEY}.awake_sound", own.awake_sound),
            done=read_wav(f"{KEY}.done_sound", own.done_sound),
        )

    async def serve(self, service: Service) -> None:
        """Serve for as long as the task lives. Raises OSError where the port cannot be had."""
        self._service = service
        try:
            async with listening(self._config, KEY, self._accept), asyncio.TaskGroup() as group:
                service.ready(self._status())
                log.info("%s; %s may connect", self._status(), ", ".join(self._config.allow or ()))
                group.create_task(self._link.run(self._follow, self._heard))
                group.create_task(self._speaker.run())
                group.create_task(service.watch(self._beat))
        finally:
            self._speaker.stop()
            self._timers.stop(all=True)

    async def _beat(self) -> None:
        """Return when everything that is ready has had a turn."""
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = (writer.get_extra_info("peername") or ("",))[0]
        if not peer or not self._config.admits(peer):
            self._refused("%s may not connect; %s.allow says who may", peer, KEY)
            return
        session = Session(reader, writer, peer, self._shared)
        try:
            with self._places.taken(session) as placed:
                if placed:
                    await session.run()
                    return
            self._refused("%s is turned away: %d are connected", peer, MAX_CLIENTS)
            await session.refuse(f"{MAX_CLIENTS} clients are connected", "busy")
        except (ConnectionError, TimeoutError) as error:
            self._lost("%s is lost: %s", peer, str(error) or "it does not read")

    async def _takes(self, session: Session) -> bool:
        """Make a connection the server's, unless there is another; return whether it is."""
        other = self._server
        if other is session:
            return True
        if other is not None and time.monotonic() - other.heard_at >= DEAD_S:
            self._places.dismiss(other)
        if other is not None and not await other.leaves(LEAVES_S):
            self._refused("%s is refused: %s is the server", session.peer, other.peer)
            return False
        if self._server is not None:  # another one was quicker
            return False
        self._server = session
        self._say()
        return True

    def _left(self, session: Session) -> None:
        """Forget a server that has gone."""
        if self._server is session:
            self._server = None
            self._speaker.end()
            self._say()

    def _heard(self, event: events.Event) -> None:
        if not isinstance(event, events.Wake):
            return
        if look_up(event.word, self._stop_words) is not None:
            self._speaker.stop()
            self._timers.stop()
            return
        late = event.time is not None and time.time() - event.time > LATE_S
        if self._server is None or self._speaker.speaks or late:
            return
        log.info("%s woke; what follows is sent to %s", event.word, self._server.peer)
        self._server.wake(event)

    async def _played(self) -> None:
        if self._server is not None:
            try:
                await self._server.played()
            except (ConnectionError, TimeoutError) as error:
                self._lost("%s is lost: %s", self._server.peer, str(error) or "it does not read")

    async def _follow(self, client: AsyncClient) -> None:
        """Keep the daemon's words, for as long as it is there. Raises DaemonError."""
        try:
            await client.request(StreamStop(stream=0))  # there is none; may there be?
        except RequestError as error:
            log.warning("the daemon gives no audio: %s", error)
        seen = None
        while True:
            status = await client.request(Status())
            now = {name: word.id for name, word in status.words.items()}
            if now != seen:
                self._words = await self._listened_for(client, status)
                log.info("woken by %s", ", ".join(word.name for word in self._words) or "no word")
            seen = now
            await asyncio.sleep(LOOK_S)

    async def _listened_for(
        self, client: AsyncClient, status: StatusReply
    ) -> list[served.ServedWord]:
        """Return the words that wake it. Raises DaemonError."""
        if missing := [n for n in self._stop_words if look_up(n, list(status.words)) is None]:
            log.warning("%s.stop_words: nobody listens for %s", KEY, ", ".join(missing))
        made = {entry.name: entry.made for entry in (await client.request(Words())).words}
        return [
            served.added(name, word.id, made[name])
            if name in made
            else served.bundled(name, word.id)
            for name, word in status.words.items()
            if look_up(name, self._stop_words) is None
        ]

    def _described(self) -> Event:
        return satellite_info(self._name, self._config.area, self._words)

    def _status(self) -> str:
        """Return who is sent what, as systemd is told."""
        if self._server is None:
            return f"{self._config.uri}: no server is connected"
        return f"{self._config.uri}: what follows a wake word goes to {self._server.peer}"

    def _say(self) -> None:
        log.info("%s", self._status())
        if self._service is not None:
            self._service.status(self._status())

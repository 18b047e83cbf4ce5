"""A real broker, mosquitto, and what its other clients see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiomqtt
from bridge_process import free_port

PROGRAM = "/usr/sbin/mosquitto"


class Mosquitto:
    """A broker on a port of its own, without anything that it kept from before."""

    def __init__(self, folder: Path, *settings: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self._config = folder / f"mosquitto.{self.port}.conf"
        self._log = folder / "mosquitto.log"
        lines = [f"listener {self.port} 127.0.0.1", *(settings or ["allow_anonymous true"])]
        self._config.write_text("\n".join([*lines, "user root", ""]))
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self._log.open("ab") as log:
            command = [PROGRAM, "-c", str(self._config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self._log.read_text()
                assert self.process.poll() is None, self._log.read_text()
                time.sleep(0.02)

    def kill(self) -> None:
        """End it, without a word to its clients."""
        self.process.kill()
        self.process.wait()


class Heard(NamedTuple):
    """A message that a client received."""

    topic: str
    payload: str
    qos: int
    retained: bool
    at: float

    @property
    def body(self) -> dict[str, Any]:
        """The payload, which is an object of JSON."""
        body: dict[str, Any] = json.loads(self.payload)
        return body


class Ear:
    """A client of the broker that hears everything, and can speak."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.heard: list[Heard] = []

    async def listen(self) -> None:
        """Keep what comes, for as long as the connection lasts."""
        async for message in self.client.messages:
            payload = message.payload
            assert isinstance(payload, bytes | bytearray)
            self.heard.append(
                Heard(
                    str(message.topic),
                    payload.decode(),
                    message.qos,
                    bool(message.retain),
                    time.monotonic(),
                )
            )

    def on(self, topic: str) -> list[Heard]:
        """Return what came on topics that end with `topic`."""
        return [one for one in self.heard if one.topic.endswith(topic)]

    async def until(
        self, topic: str, wanted: Callable[[Heard], bool] = lambda _: True, after: int = 0
    ) -> Heard:
        """Return the first of the messages from number `after` on that is `wanted`."""
        async with asyncio.timeout(40):
            while True:
                for one in self.heard[after:]:
                    if one.topic.endswith(topic) and wanted(one):
                        return one
                await asyncio.sleep(0.02)

    async def state(self, after: int = 0, **wanted: object) -> Heard:
        """Return the first state of the device from message `after` on that is as `wanted`."""

        def fits(one: Heard) -> bool:
            return wanted.items() <= hashable(one.body).items()

        return await self.until("/state", fits, after)

    async def say(self, topic: str, payload: str, *, retain: bool = False) -> None:
        """Publish something."""
        await self.client.publish(topic, payload, qos=1, retain=retain)


def hashable(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with tuples for lists."""
    return {key: tuple(one) if isinstance(one, list) else one for key, one in body.items()}


@contextlib.asynccontextmanager
async def ear(port: int, topic: str = "#", **options: Any) -> AsyncIterator[Ear]:
    """Connect a client that hears everything."""
    async with aiomqtt.Client("127.0.0.1", port, **options) as client:
        found = Ear(client)
        await client.subscribe(topic, qos=1)
        task = asyncio.create_task(found.listen())
        try:
            yield found
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await task


class Proxy:
    """A way to the broker that can lose what it carries."""

    def __init__(self, port: int) -> None:
        """It leads to `port`."""
        self._to = port
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()
        self.swallows = False
        """Whether what comes from the client vanishes."""
        self.mutes = False
        """Whether what comes from the broker vanishes."""
        self.refuses = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """Serve on a port; yield it."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        """End all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        back, to = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, to}
        try:
            await asyncio.gather(
                self._carry(reader, to, lambda: self.swallows),
                self._carry(back, writer, lambda: self.mutes),
            )
        except asyncio.CancelledError:  # the test is over
            pass
        finally:
            for one in (writer, to):
                self._writers.discard(one)
                one.transport.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: Callable[[], bool]
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if not lost():
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()

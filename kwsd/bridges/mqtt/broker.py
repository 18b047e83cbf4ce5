"""The connection to the broker: made again as often as it takes, and never late.

What a lost connection has not delivered is not delivered later: the kernel gives a connection up
whose data nobody acknowledges, and one that fails is reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from kwsd.bounded import file as bounded
from kwsd.bridge_config import MqttConfig
from kwsd.bridges.mqtt.outbox import Message
from kwsd.config import ConfigError

log = logging.getLogger(__name__)
RETRY_MIN_S = 0.5
"""First pause before a broker that was lost is tried again; pauses double."""
RETRY_MAX_S = 20.0
STEADY_S = 5.0
"""A connection that has lasted so long was a good one: pauses begin anew."""
ANSWER_S = 5.0
"""Longest time that the broker may take to answer, and to acknowledge what was sent."""
KEEPALIVE_S = 15
MAX_PACKET = 1 << 16
"""Bytes of a message that the broker may send."""
MAX_INCOMING = 64
"""Messages that came and wait; more are dropped."""
MAX_PASSWORD = 1024
NO_LINGER = struct.pack("ii", 1, 0)
OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(ANSWER_S * 1000)),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
CLOSED = (0x80, 0x8E)
"""Reasons of a broker that has closed a connection: unspecified, and taken over. Not every broker
says which."""
WHY_CLOSED = "it has closed the connection; if that goes on, another device has the same mqtt.name"


class Broker:
    """The broker that the configuration names."""

    def __init__(self, config: MqttConfig, client_id: str, will: Message) -> None:
        """`will` is what the broker publishes when it loses the client.

        Raises ConfigError for files that cannot be read.
        """
        self._config = config
        self._id = client_id
        self._will = will
        self._said = ""
        self._tls = _tls(config)
        self._warned = False
        self._password()

    @property
    def where(self) -> str:
        """The broker's address, for people."""
        return f"{self._config.host}:{self._config.broker_port}"

    async def run(
        self, session: Callable[[aiomqtt.Client], Awaitable[None]], moved: Callable[[], None]
    ) -> NoReturn:
        """Stay connected for as long as the task lives; `session` runs while it is.

        An MqttError of it ends the connection. `moved` is called with each try. Why the broker
        cannot be had is logged once for each reason.
        """
        pause_s = RETRY_MIN_S
        while True:
            began = time.monotonic()
            try:
                await self._connected(session)
            except (aiomqtt.MqttError, OSError, ConfigError) as error:
                self._say(f"the broker at {self.where} is away ({_why(error)}); trying again")
            if time.monotonic() - began > STEADY_S:
                pause_s = RETRY_MIN_S
            moved()
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # not all at the same time
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _connected(self, session: Callable[[aiomqtt.Client], Awaitable[None]]) -> None:
        client = self._client()
        async with client:
            self._say(f"connected to the broker at {self.where}")
            try:
                await session(client)
            except asyncio.CancelledError:  # a connection that is ended in order has no will
                with contextlib.suppress(aiomqtt.MqttError):
                    await publish(client, self._will, timeout_s=1.0)
                raise
            except BaseException:
                _reset(client)
                raise

    def _client(self) -> aiomqtt.Client:
        properties = Properties(PacketTypes.CONNECT)
        properties.MaximumPacketSize = MAX_PACKET
        will = self._will
        quiet = logging.getLogger(f"{__name__}.library")
        quiet.setLevel(logging.CRITICAL)  # what goes wrong is raised
        return aiomqtt.Client(
            self._config.host,
            self._config.broker_port,
            username=self._config.username,
            password=self._password(),
            identifier=self._id,
            protocol=aiomqtt.ProtocolVersion.V5,
            will=aiomqtt.Will(will.topic, will.payload, will.qos, will.retain),
            clean_start=True,
            properties=properties,
            timeout=ANSWER_S,
            keepalive=KEEPALIVE_S,
            max_queued_incoming_messages=MAX_INCOMING,
            tls_context=self._tls,
            socket_options=OPTIONS,
            logger=quiet,
        )

    def _password(self) -> str | None:
        """Return the password as the file has it now. Raises ConfigError."""
        if self._config.password_file is None:
            return None
        path = Path(self._config.password_file)
        try:
            password = bounded.read(path, MAX_PASSWORD).decode().rstrip("\r\n")
            others = path.stat().st_mode & 0o004
        except (OSError, ValueError) as error:
            raise ConfigError(f"mqtt.password_file: cannot read {path}: {error}") from error
        if others and not self._warned:
            self._warned = True
            log.warning("everybody on this machine may read %s: chmod o-r %s", path, path)
        return password

    def _say(self, text: str) -> None:
        if text != self._said:
            log.info("%s", text)
        self._said = text


async def publish(client: aiomqtt.Client, message: Message, timeout_s: float | None = None) -> None:
    """Publish a message, and wait until the broker has it. Raises MqttError.

    One that is wanted for a while only is not kept for others by the broker for longer.
    """
    left_s = message.left_s()
    properties = None
    if left_s is not None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.MessageExpiryInterval = max(int(left_s), 1)
        timeout_s = min(timeout_s or ANSWER_S, max(left_s, 0.01))
    await client.publish(
        message.topic,
        message.payload,
        message.qos,
        message.retain,
        properties,
        timeout=timeout_s or ANSWER_S,
    )


def _tls(config: MqttConfig) -> ssl.SSLContext | None:
    """Return how the connection is encrypted. Raises ConfigError."""
    if not config.tls:
        if config.password_file and config.host not in ("localhost", "127.0.0.1", "::1"):
            log.warning("the password goes to %s in clear text; set mqtt.tls: on", config.host)
        return None
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        text = f"mqtt.ca_file: {config.ca_file} cannot be used: {error}"
        raise ConfigError(text) from error
    if config.certificate_file:
        try:
            context.load_cert_chain(config.certificate_file)
        except (OSError, ssl.SSLError) as error:
            text = f"mqtt.certificate_file: {config.certificate_file} cannot be used: {error}"
            raise ConfigError(text) from error
    return context


def _reset(client: aiomqtt.Client) -> None:
    """End a connection at once, so that what it has not delivered yet is dropped."""
    client.timeout = 1.0
    sock = client._client.socket()
    if isinstance(sock, socket.socket):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            sock.shutdown(socket.SHUT_RDWR)


def _why(error: BaseException) -> str:
    """Return why a connection has failed, in a few words."""
    cause = error.__cause__ or error
    code = getattr(cause, "rc", None)
    if isinstance(code, ReasonCode):
        return WHY_CLOSED if code.value in CLOSED else str(code)
    return str(cause)

"""The bridge: what the daemon says goes to the broker, and the switch's flips to the daemon.

Wakes are published while they are fresh, and never retained. What is retained (the device for Home
Assistant, the states, whether the daemon is there) is kept in the outbox as it should be, which
publishes what differs from what the broker has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiomqtt
from paho.mqtt.subscribeoptions import SubscribeOptions

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.bridges.mqtt.broker import Broker, publish
from kwsd.bridges.mqtt.discovery import AWAY, Device
from kwsd.bridges.mqtt.outbox import Message, Outbox
from kwsd.bridges.mqtt.payloads import Topics, encode, of_event
from kwsd.bridges.mqtt.rooms import Rooms
from kwsd.bridges.service import Service, together
from kwsd.client.async_client import AsyncClient
from kwsd.config import Config
from kwsd.events import Event, Rejected, Wake
from kwsd.protocol.commands import Pause, Resume, Status
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.replies import StatusReply
from kwsd.protocol.request import MAX_PAUSE_S
from kwsd.seldom import Seldom

log = logging.getLogger(__name__)
FRESH_S = 5.0
"""A wake that is older is dropped: whoever spoke has given up."""
LOOK_S = 10.0
"""Seconds between two looks at the daemon's state."""
SOON_S = 0.5
"""Shortest time between two looks, and between two flips of the switch."""
RENEW_S = MAX_PAUSE_S / 2
"""A pause that ends sooner is begun again."""
HOLDER = "mqtt"
"""Whose pause the switch is."""
ON, OFF = "ON", "OFF"
ONLINE, OFFLINE = "online", "offline"


class MqttBridge:
    """The bridge between one daemon and one broker."""

    def __init__(self, config: Config, socket_path: Path | None) -> None:
        """Raises ConfigError for files that cannot be read."""
        mqtt = config.mqtt
        self._name = mqtt.device_name
        self._topics = Topics(mqtt)
        self._outbox = Outbox()
        self._outbox.keep(self._topics.status, OFFLINE)
        will = Message(self._topics.status, OFFLINE, retain=True)
        self._broker = Broker(mqtt, self._topics.id, will)
        self._link = DaemonLink(socket_path, ["wake", "rejected", "microphone"])
        self._device = Device(self._topics, self._name)
        self._rooms: Rooms | None = None
        if mqtt.arbitrate_s is not None:
            self._rooms = Rooms(self._topics, mqtt.arbitrate_s, self._outbox)
        self._state: dict[str, Any] = {"last_speaker": None}
        self._config: str | None = None
        self._flip: str | None = None
        self._flipped = asyncio.Event()
        self._look = asyncio.Event()
        self._moved = asyncio.Event()
        self._contests: set[asyncio.Task[None]] = set()
        self._late = Seldom(log)
        self._odd = Seldom(log)
        self._may_not: str | None = None

    async def serve(self, service: Service) -> None:
        """Serve for as long as the task lives."""
        where = f"{self._topics.base} at {self._broker.where}"
        service.ready(where)
        log.info("publishing %s", where)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._link.run(self._follow, self._heard, self._lost))
            group.create_task(self._broker.run(self._session, self._moved.set))
            group.create_task(self._flip_switch())
            group.create_task(service.watch(self._beat))

    async def _beat(self) -> None:
        """Return when the daemon or the broker was tried, or has answered."""
        self._moved.clear()
        await self._moved.wait()

    # -- the daemon --------------------------------------------------------------------------------

    async def _follow(self, client: AsyncClient) -> None:
        """Keep what is retained as the daemon has it. Raises DaemonError."""
        while True:
            self._look.clear()
            self._show(await self._link.request(Status()))
            self._moved.set()
            await asyncio.sleep(SOON_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), LOOK_S - SOON_S)

    def _show(self, status: StatusReply) -> None:
        topics = self._topics
        why_not = status.pause_refused
        if why_not and why_not != self._may_not:
            log.info("there is no switch for the pause: to pause is %s", why_not)
        self._may_not = why_not
        own = [pause for pause in status.pauses if pause.holder == HOLDER]
        if own and (own[0].left_s or 0) < RENEW_S:
            self._ask(ON)
        hears = status.microphone.state in ("ok", "silent")
        levels = status.microphone.levels_dbfs if hears else []
        self._state |= {
            "microphone": status.microphone.state,
            "source": status.microphone.name,
            "level_dbfs": round(max(levels)) if levels else None,
            "pause": ON if own else OFF,
            "paused_by": [pause.holder for pause in status.pauses],
            "version": status.version,
        }
        if topics.discovery:
            words = [*status.words, *status.disabled]
            config = self._device.config(words, may_pause=why_not is None)
            if self._config is not None and self._device.replaces(self._config, config):
                config = self._device.config(words, may_pause=why_not is None)
            self._config = config
            self._outbox.keep(topics.discovery, config)
        self._outbox.keep(topics.state, encode(self._state))
        self._outbox.keep(topics.status, ONLINE)

    def _lost(self) -> None:
        """Say that the daemon is away."""
        self._state |= {"microphone": AWAY, "level_dbfs": None, "pause": OFF, "paused_by": []}
        self._outbox.keep(self._topics.state, encode(self._state))
        self._outbox.keep(self._topics.status, OFFLINE)

    def _heard(self, event: Event) -> None:
        if not isinstance(event, Wake | Rejected):
            self._look.set()
            return
        body = of_event(event, self._topics, self._name)
        age_s = max(time.time() - event.time, 0.0) if event.time is not None else 0.0
        if age_s > FRESH_S:
            self._late("%s was heard %.1f s ago, and is not published", event.word, age_s)
        elif self._rooms is not None and isinstance(event, Wake):
            contest = asyncio.create_task(self._contest(self._rooms, body, age_s))
            self._contests.add(contest)
            contest.add_done_callback(self._contests.discard)
        else:
            self._publish(body, FRESH_S - age_s)

    def _publish(self, body: dict[str, Any], left_s: float) -> None:
        topic = self._topics.wake if body["event_type"] == "wake" else self._topics.rejected
        self._outbox.put(Message(topic, encode(body), until=time.monotonic() + left_s))
        if body["event_type"] == "wake" and body["speaker"] is not None:
            self._state["last_speaker"] = body["speaker"]
            self._outbox.keep(self._topics.state, encode(self._state))

    async def _contest(self, rooms: Rooms, body: dict[str, Any], age_s: float) -> None:
        """Publish a wake if this is the room that answers; else that another does."""
        began = time.monotonic()
        winner = await rooms.winner(body)
        left_s = FRESH_S - age_s - (time.monotonic() - began)
        if winner is None:
            self._late("%s is not published: the other rooms could not be asked", body["word"])
        elif winner == self._topics.device:
            self._publish(body, left_s)
        else:
            lost = {"event_type": "rejected", "reason": "other_room", "answered_by": winner}
            self._publish(body | lost, left_s)

    # -- the broker --------------------------------------------------------------------------------

    async def _session(self, client: aiomqtt.Client) -> None:
        """Speak with the broker for as long as it is there. Raises MqttError."""
        topics = self._topics
        own = (topics.pause, topics.birth, topics.discovery)
        filters = [topic for topic in own if topic]
        if self._rooms is not None:
            filters += self._rooms.filters
        await client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in filters])
        self._outbox.resend()
        await together(
            self._receive(client),
            self._send(client, self._outbox.event),
            self._send(client, self._outbox.difference),
        )

    async def _send(self, client: aiomqtt.Client, next: Callable[[], Awaitable[Message]]) -> None:
        while True:
            message = await next()
            await publish(client, message)
            self._outbox.done(message)
            self._moved.set()

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload
            if isinstance(payload, bytes | bytearray):
                self._incoming(str(message.topic), bytes(payload), retained=bool(message.retain))

    def _incoming(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """Do what a message asks for; only the device's own configuration may be an old one."""
        topics = self._topics
        if topic == topics.discovery:
            if self._config is not None and self._device.replaces(payload, self._config):
                self._look.set()
        elif topic == topics.birth:
            if payload == b"online" and not retained:
                log.info("Home Assistant is back")
                self._outbox.resend()
        elif topic == topics.pause:
            asked = payload.decode("ascii", "replace").strip().upper()
            if retained or asked not in (ON, OFF):
                self._odd("%s: %.40r is not done", topic, "retained" if retained else payload)
            else:
                self._ask(asked)
        elif self._rooms is not None and not retained:
            self._rooms.hear(topic, payload)

    def _ask(self, what: str) -> None:
        self._flip = what
        self._flipped.set()

    async def _flip_switch(self) -> None:
        """Pause and resume as the switch was flipped last, however often it is."""
        while True:
            await self._flipped.wait()
            self._flipped.clear()
            try:
                if self._flip == ON:
                    await self._link.request(Pause(holder=HOLDER, for_s=MAX_PAUSE_S))
                else:
                    await self._link.request(Resume(holder=HOLDER))
            except DaemonError as error:
                self._odd("the switch does not turn %s: %s", self._flip, error)
            self._look.set()
            await asyncio.sleep(SOON_S)

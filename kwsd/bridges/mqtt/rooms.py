"""Rooms that agree on who answers, by way of the broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from kwsd.bounded import json
from kwsd.bounded.file import Damaged
from kwsd.bridges.mqtt.arbiter import Arbiter, rank
from kwsd.bridges.mqtt.outbox import Message, Outbox
from kwsd.bridges.mqtt.payloads import Topics, encode

ASK_S = 1.0
"""Longest time that it may take to tell the broker of a candidate."""
CANDIDATE = ("id", "device", "word", "snr_db", "level_dbfs")
"""Fields of an event that a candidate has."""
Decibels = Annotated[float, Meta(ge=-1000, le=1000)]


class _Claim(Struct, frozen=True):
    """What matters of another room's candidate or wake."""

    word: Annotated[str, Meta(max_length=256)]
    snr_db: Decibels | None = None
    level_dbfs: Decibels | None = None


class Rooms:
    """The other rooms, and who of all answers."""

    def __init__(self, topics: Topics, window_s: float, outbox: Outbox) -> None:
        """Every room waits for `window_s` seconds."""
        self._topics = topics
        self._window_s = window_s
        self._outbox = outbox
        self._arbiter = Arbiter(window_s)
        self.filters = (topics.of_all("candidate"), topics.of_all("wake"))
        """What is to be subscribed to."""

    def hear(self, topic: str, payload: bytes) -> None:
        """Remember what another room has published."""
        room, _, what = topic.removeprefix(f"{self._topics.prefix}/").partition("/")
        if room == self._topics.device:
            return
        try:
            claim = json.decode(payload, _Claim)
        except Damaged:
            return
        now = time.monotonic()
        note = self._arbiter.answer if what == "wake" else self._arbiter.candidate
        note(claim.word, rank(claim.snr_db, claim.level_dbfs, room), now)

    async def winner(self, body: Mapping[str, Any]) -> str | None:
        """Return the room that answers to a wake of this one, once all had their time; None where
        the broker could not be told in time."""
        told = asyncio.Event()
        until = time.monotonic() + ASK_S
        candidate = {key: body[key] for key in CANDIDATE if key in body}
        self._outbox.put(
            Message(self._topics.candidate, encode(candidate), until=until, sent=told.set)
        )
        try:
            await asyncio.wait_for(told.wait(), ASK_S)
        except TimeoutError:
            return None
        told_at = time.monotonic()
        await asyncio.sleep(self._window_s)
        mine = rank(body.get("snr_db"), body.get("level_dbfs"), self._topics.device)
        return self._arbiter.winner(body["word"], mine, told_at)

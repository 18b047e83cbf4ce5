"""The hub: who sees what of an event, and how often it is encoded."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from kwsd.events import Event, MicrophoneChange, SpeakerMatch, SpeakerScore, Wake
from kwsd.protocol.messages import encode_event
from kwsd.server import hub as hubs
from kwsd.server.hub import Filter, Hub, Subscriber

STRANGER = SpeakerMatch(None, 0.2, 0.75, False, SpeakerScore("ann", 0.2), SpeakerScore("bob", 0.1))
WAKE = Wake(word="computer", score=0.9, threshold=0.5, start=0, end=1, speaker=STRANGER)
PLAIN = {"name": None, "score": 0.2, "threshold": 0.75, "verified": False}


def test_an_event_is_encoded_once_and_once_more_for_details(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[bool] = []

    def encode(event: Event, *, details: bool = False) -> bytes:
        encoded.append(details)
        return encode_event(event, details=details)

    monkeypatch.setattr(hubs, "encode_event", encode)

    async def published(filters: list[Filter | None], event: Event) -> list[bytes]:
        hub = Hub()
        pairs = [socket.socketpair() for _ in filters]
        for (server, client), wanted in zip(pairs, filters, strict=True):
            server.setblocking(False)
            client.settimeout(0.0)
            subscriber = Subscriber(server, "client", 1 << 16, lambda: None)
            subscriber.filter = wanted
            hub.subscribers.add(subscriber)
        hub.publish(event)
        for server, _ in pairs:
            server.close()
        lines = [client.recv(1 << 16) for _, client in pairs]
        for _, client in pairs:
            client.close()
        return lines

    plain = Filter()
    detailed = Filter(details=True)
    lines = asyncio.run(published([plain, detailed, None, plain, detailed], WAKE))
    speakers = [json.loads(line)["speaker"] if line else None for line in lines]
    nearest = {"nearest": {"name": "ann", "score": 0.2}, "runner_up": {"name": "bob", "score": 0.1}}
    assert speakers == [PLAIN, {**PLAIN, **nearest}, None, PLAIN, {**PLAIN, **nearest}]
    assert sorted(encoded) == [False, True]
    encoded.clear()
    asyncio.run(published([None, Filter(words=frozenset())], WAKE))
    assert encoded == []  # nobody wants it
    asyncio.run(published([plain, plain], MicrophoneChange(state="ok")))
    assert encoded == [False]

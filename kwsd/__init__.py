"""kwsd: an always-on wake-word and speaker-verification daemon for Linux edge hardware.

with kwsd.connect() as daemon:
    for event in daemon.events(types=["wake"]):
        print(event.word, "by", event.speaker and event.speaker.name)

The names below are imported when they are first used (PEP 562), so that a program pays only for
what it uses, and the daemon does not load the client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kwsd.version import __version__

if TYPE_CHECKING:
    from kwsd.client.async_client import AsyncClient, connect_async
    from kwsd.client.client import Client, connect
    from kwsd.client.exchange import Gap
    from kwsd.client.streams import AsyncStream, Stream
    from kwsd.events import (
        Event,
        Lag,
        MicrophoneChange,
        Rejected,
        SpeakerMatch,
        SpeakerScore,
        Stages,
        Wake,
    )
    from kwsd.protocol import commands
    from kwsd.protocol.errors import DaemonError
    from kwsd.protocol.live import RunningScores, StreamAudio, StreamEnd

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Client",
    "DaemonError",
    "Event",
    "Gap",
    "Lag",
    "MicrophoneChange",
    "Rejected",
    "RunningScores",
    "SpeakerMatch",
    "SpeakerScore",
    "Stages",
    "Stream",
    "StreamAudio",
    "StreamEnd",
    "Wake",
    "__version__",
    "commands",
    "connect",
    "connect_async",
]

_HOMES = {
    "AsyncClient": "kwsd.client.async_client",
    "AsyncStream": "kwsd.client.streams",
    "Client": "kwsd.client.client",
    "DaemonError": "kwsd.protocol.errors",
    "Event": "kwsd.events",
    "Gap": "kwsd.client.exchange",
    "Lag": "kwsd.events",
    "MicrophoneChange": "kwsd.events",
    "Rejected": "kwsd.events",
    "RunningScores": "kwsd.protocol.live",
    "SpeakerMatch": "kwsd.events",
    "SpeakerScore": "kwsd.events",
    "Stages": "kwsd.events",
    "Stream": "kwsd.client.streams",
    "StreamAudio": "kwsd.protocol.live",
    "StreamEnd": "kwsd.protocol.live",
    "Wake": "kwsd.events",
    "commands": "kwsd.protocol.commands",
    "connect": "kwsd.client.client",
    "connect_async": "kwsd.client.async_client",
}
"""The module of each public name."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'kwsd' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    return home if name == "commands" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)

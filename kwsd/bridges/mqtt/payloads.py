"""What is published: where, and the payloads of events."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from kwsd.bridge_config import OFF, MqttConfig
from kwsd.events import Rejected, Wake
from kwsd.names import identifier

FIELDS = ("word", "score", "threshold", "level_dbfs", "snr_db", "time", "latency_ms", "stale")
"""Fields of an event that are published as they are, where it has them."""


class Topics:
    """The topics of one device."""

    def __init__(self, config: MqttConfig) -> None:
        name = config.device_name
        self.prefix = config.topic
        """What the topics of all devices begin with."""
        self.device = name if config.is_plain(name) else identifier(name)
        """The level of this device."""
        self.id = f"kwsd_{identifier(name).replace('-', '_')}"
        """Identifies the device to Home Assistant and the client to the broker."""
        base = f"{self.prefix}/{self.device}"
        self.base = base
        self.wake = f"{base}/wake"
        self.rejected = f"{base}/rejected"
        self.status = f"{base}/status"
        """`online` while the daemon is there, `offline` otherwise; retained, and the last will."""
        self.state = f"{base}/state"
        """What sensors and the switch show; retained."""
        self.candidate = f"{base}/candidate"
        """A wake that has yet to be agreed on."""
        self.pause = f"{base}/pause/set"
        """`ON` and `OFF`: where the switch is flipped."""
        discovery = None if config.discovery == OFF else config.discovery
        self.discovery = f"{discovery}/device/{self.id}/config" if discovery else None
        """Where Home Assistant finds the device; None for nowhere."""
        self.birth = f"{discovery}/status" if discovery else None
        """Where Home Assistant says that it is `online`."""

    def of_all(self, what: str) -> str:
        """Return the filter of a topic of every device, such as `wake`."""
        return f"{self.prefix}/+/{what}"

    def device_of(self, topic: str) -> str:
        """Return the level of the device in a topic that `of_all` matches."""
        return topic.removeprefix(f"{self.prefix}/").partition("/")[0]


def of_event(event: Wake | Rejected, topics: Topics, name: str) -> dict[str, Any]:
    """Return an event as it is published by the device `name`.

    The same event has the same `id` whoever publishes it, and however often. A voice that is not
    verified has neither name nor score.
    """
    kind = "wake" if isinstance(event, Wake) else "rejected"
    known = f"{topics.device}|{kind}|{event.word}|{event.time}|{event.end}"
    body: dict[str, Any] = {
        "id": hashlib.sha256(known.encode()).hexdigest()[:16],
        "event_type": kind,
        "device": name,
    }
    body |= {key: getattr(event, key) for key in FIELDS if getattr(event, key) is not None}
    verified = event.speaker if event.speaker and event.speaker.verified else None
    body["speaker"] = verified.name if verified else None
    if verified:
        body["speaker_score"] = verified.score
    if isinstance(event, Rejected):
        body["reason"] = event.reason
    return body


def encode(body: Mapping[str, Any]) -> str:
    """Return a payload as text."""
    return json.dumps(body, ensure_ascii=False)

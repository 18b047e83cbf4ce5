"""The device as Home Assistant discovers it: one configuration with all of its entities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import msgspec

from kwsd.bounded import json
from kwsd.bounded.file import Damaged
from kwsd.bridges.mqtt.payloads import Topics, encode
from kwsd.events import MicrophoneState
from kwsd.names import identifier
from kwsd.version import __version__

MAX_COMPONENTS = 512
"""Components of an earlier configuration that are looked at."""
EVENT_TEMPLATE = "{{ value if value_json is defined and value_json.event_type is defined else '' }}"
"""Of all that the device publishes, what has a type is an event."""
AWAY = "away"
"""The state of the microphone while there is no daemon."""


class _Known(msgspec.Struct):
    """What matters of a configuration that was published before."""

    components: dict[str, dict[str, Any]] = {}


class Device:
    """The configuration of one device, and what it once had."""

    def __init__(self, topics: Topics, name: str) -> None:
        """The device is called `name`."""
        self._topics = topics
        self._name = name
        self._removed: dict[str, str] = {}

    def config(self, words: Iterable[str], *, may_pause: bool) -> str:
        """Return the configuration, with a trigger for each of `words`.

        What an earlier one had and this one has not is there with nothing but its platform, by
        which Home Assistant removes it.
        """
        topics = self._topics
        components = self._entities(may_pause) | dict(map(self._trigger, words))
        for key in components.keys() & self._removed.keys():
            del self._removed[key]
        gone = {key: {"platform": platform} for key, platform in sorted(self._removed.items())}
        return encode(
            {
                "device": {
                    "identifiers": [topics.id],
                    "name": self._name,
                    "manufacturer": "kwsd contributors",
                    "model": "kwsd",
                    "sw_version": __version__,
                },
                "origin": {"name": "kwsd", "sw_version": __version__},
                "availability": [{"topic": topics.status}],
                "qos": 1,
                "components": components | gone,
            }
        )

    def replaces(self, before: str | bytes, now: str) -> bool:
        """Remember what a configuration `before` had that the one of `now` has not; return whether
        there was any that is news."""
        removed = _components(before)
        for key in _components(now):
            removed.pop(key, None)
        news = {key: one["platform"] for key, one in removed.items() if len(one) > 1}
        news = {key: name for key, name in news.items() if key not in self._removed}
        self._removed |= news
        return bool(news)

    def _trigger(self, word: str) -> tuple[str, dict[str, Any]]:
        trigger = {
            "platform": "device_automation",
            "automation_type": "trigger",
            "type": "wake",
            "subtype": word,
            "topic": self._topics.wake,
            "value_template": "{{ value_json.word }}",
            "payload": word,
        }
        return f"wake_{identifier(word).replace('-', '_')}", trigger

    def _entities(self, may_pause: bool) -> dict[str, dict[str, Any]]:
        topics = self._topics
        entities: dict[str, dict[str, Any]] = {
            "event": {
                "platform": "event",
                "name": "Wake word",
                "icon": "mdi:account-voice",
                "event_types": ["wake", "rejected"],
                "state_topic": f"{topics.base}/+",
                "value_template": EVENT_TEMPLATE,
            },
            "microphone": {
                "platform": "sensor",
                "name": "Microphone",
                "icon": "mdi:microphone",
                "device_class": "enum",
                "options": [*get_args(MicrophoneState), AWAY],
                "value_template": "{{ value_json.microphone }}",
                "json_attributes_topic": topics.state,
                "json_attributes_template": (
                    "{{ {'source': value_json.source, 'paused_by': value_json.paused_by}"
                    " | tojson }}"
                ),
                "entity_category": "diagnostic",
            },
            "level": {
                "platform": "sensor",
                "name": "Level",
                "icon": "mdi:volume-source",
                "unit_of_measurement": "dBFS",
                "state_class": "measurement",
                "value_template": "{{ value_json.level_dbfs }}",
                "entity_category": "diagnostic",
            },
            "speaker": {
                "platform": "sensor",
                "name": "Last speaker",
                "icon": "mdi:account",
                "value_template": "{{ value_json.last_speaker }}",
            },
        }
        if may_pause:
            entities["pause"] = {
                "platform": "switch",
                "name": "Pause",
                "icon": "mdi:microphone-off",
                "command_topic": topics.pause,
                "value_template": "{{ value_json.pause }}",
            }
        for key, entity in entities.items():
            entity["unique_id"] = f"{topics.id}_{key}"
            entity.setdefault("state_topic", topics.state)
        return entities


def _components(config: str | bytes) -> dict[str, Mapping[str, Any]]:
    """Return the components of a configuration, by key; none where it is no configuration."""
    data = config.encode() if isinstance(config, str) else config
    try:
        found = json.decode(data, _Known).components
    except Damaged:
        return {}
    few = list(found.items())[:MAX_COMPONENTS]
    return {key: one for key, one in few if isinstance(one.get("platform"), str)}

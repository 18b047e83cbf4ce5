"""`kwsd mqtt` and Home Assistant's own `mqtt` component, with mosquitto between them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import numpy as np
import pytest
from bridge_process import BridgeProcess, fed
from conftest import ROOT, VOICES, Daemon, Start, hiss, say
from mosquitto import Mosquitto
from test_mqtt import CONFIG, ID, enroll, run, spoken

from kwsd.model.bundle import Bundle
from kwsd.protocol.commands import Reload, Status, WordsDelete
from kwsd.state.words import AddedWord, WordStore

PYTHON = os.environ.get("HOME_ASSISTANT_PYTHON") or str(ROOT / ".venv/home-assistant/bin/python")
"""The Python that has the package `homeassistant`, in an environment of its own."""
DEVICES_SINCE = (2024, 12)
"""The first version that discovers a whole device by one message."""

pytestmark = pytest.mark.skipif(not Path(PYTHON).exists(), reason="no Home Assistant")


class HomeAssistant:
    """Home Assistant in a process of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        script = str(Path(__file__).with_name("home_assistant.py"))
        folder.mkdir()
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PYTHON, script, str(folder), str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        began = self._read()
        assert began["added"] == "create_entry"
        year, month, *_ = began["version"].split(".")
        self.knows_devices = (int(year), int(month)) >= DEVICES_SINCE

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return json.loads(line)

    def ask(self, what: str, *arguments: str) -> Any:
        """Return the answer to a question."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self.process.stdin.flush()
        return self._read()

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the report, once it is as `wanted`."""
        deadline = time.monotonic() + 90
        while True:
            report: dict[str, Any] = self.ask("report")
            if wanted(report):
                return report
            assert time.monotonic() < deadline, json.dumps(report, indent=1) + self.log.read_text()
            time.sleep(0.3)

    def state(self, entity: str, state: str, **attributes: object) -> dict[str, Any]:
        """Return an entity, once its state and some of its attributes are these."""

        def fits(report: dict[str, Any]) -> bool:
            found = report["entities"].get(entity, {"state": None, "attributes": {}})
            return found["state"] == state and attributes.items() <= found["attributes"].items()

        found: dict[str, Any] = self.until(fits)["entities"][entity]
        return found

    def end(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that everybody may use."""
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


def translate(port: int) -> None:
    """Tell a Home Assistant that knows no devices of each component of the device by itself."""

    async def steps() -> None:
        async with aiomqtt.Client("127.0.0.1", port) as client:
            await client.subscribe(CONFIG)
            payload = (await anext(aiter(client.messages))).payload
            assert isinstance(payload, bytes)
            body = json.loads(payload)
            shared = {key: body[key] for key in ("device", "origin", "availability", "qos")}
            for key, part in body["components"].items():
                platform = part.pop("platform")
                own = {**part, **shared} if part else None
                if platform == "device_automation" and own:
                    own.pop("availability")
                topic = f"homeassistant/{platform}/{ID}/{key}/config"
                await client.publish(topic, json.dumps(own) if own else "", qos=1, retain=True)

    run(steps())


def event_of(report: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of the event entity."""
    found: dict[str, Any] = report["entities"]["event.kitchen_wake_word"]["attributes"]
    return found


def test_home_assistant_shows_the_device_and_its_switch_works(
    broker: Mosquitto, start: Start, tmp_path: Path, bundle: Bundle, banana: AddedWord
) -> None:
    daemon = fed(start, tmp_path)
    enroll(daemon, "ann", VOICES[0], tmp_path)
    WordStore(daemon.state, bundle.encoder_id).save(banana)
    with daemon.connect() as client:
        client.request(Reload())
    given = ("--host", "127.0.0.1", "--port", str(broker.port), "--name", "kitchen")
    bridge = BridgeProcess(tmp_path, "mqtt", "", *given)
    home = HomeAssistant(tmp_path / "home", broker.port)
    try:
        daemon.hear(hiss(1.0))
        steps(home, daemon, broker, banana)
    finally:
        home.end()
        bridge.close()
    log = home.log.read_text()
    assert "ERROR:homeassistant.components.mqtt" not in log, log


def steps(home: HomeAssistant, daemon: Daemon, broker: Mosquitto, banana: AddedWord) -> None:
    """Use the device as its owner would."""

    def know() -> None:
        if not home.knows_devices:
            translate(broker.port)

    know()
    words = [
        {"type": "wake", "subtype": "computer"},
        {"type": "wake", "subtype": banana.name},
    ]

    def subtypes(report: dict[str, Any]) -> list[dict[str, str]]:
        return sorted(report["triggers"], key=lambda one: str(one["subtype"]))

    report = home.until(lambda report: subtypes(report) == words)
    assert report["devices"] == ["kitchen"]
    assert set(report["entities"]) == {
        "event.kitchen_wake_word",
        "sensor.kitchen_microphone",
        "sensor.kitchen_level",
        "sensor.kitchen_last_speaker",
        "switch.kitchen_pause",
    }
    home.ask("listen")
    home.state("switch.kitchen_pause", "off")
    daemon.hear(spoken("computer", VOICES[0]))
    home.state("sensor.kitchen_last_speaker", "ann")
    woken = home.until(lambda report: report["fired"] == ["computer"])
    assert event_of(woken)["event_type"] == "wake"
    assert (event_of(woken)["word"], event_of(woken)["speaker"]) == ("computer", "ann")
    daemon.hear(np.concatenate([hiss(2), say("computer"), hiss(0.4), say("computer"), hiss(2)]))
    home.until(lambda report: event_of(report)["event_type"] == "rejected")
    home.ask("call", "switch", "turn_on", "switch.kitchen_pause")
    home.state("switch.kitchen_pause", "on")
    paused = home.state("sensor.kitchen_microphone", "paused")
    assert paused["attributes"]["paused_by"] == ["mqtt"]
    with daemon.connect() as client:
        assert [pause.holder for pause in client.request(Status()).pauses] == ["mqtt"]
    home.ask("call", "switch", "turn_off", "switch.kitchen_pause")
    home.state("switch.kitchen_pause", "off")
    with daemon.connect() as client:
        assert client.request(Status()).pauses == []
        client.request(WordsDelete(name=banana.name))
    if home.knows_devices:
        home.until(lambda report: subtypes(report) == words[:1])
    # The broker restarts, with nothing that it knew; then the daemon goes.
    broker.kill()
    home.state("switch.kitchen_pause", "unavailable")
    broker.start()
    home.state("switch.kitchen_pause", "off")
    daemon.kill()
    home.state("sensor.kitchen_level", "unavailable")

"""`kwsd mqtt` as a process, beside a daemon, and a real mosquitto as its peer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiomqtt
import forked
import numpy as np
import pytest
from bridge_process import BridgeProcess, fed
from conftest import RATE, VOICES, Daemon, Start, hiss, say
from mosquitto import Mosquitto, Proxy, ear

from kwsd.model.bundle import Bundle
from kwsd.names import identifier
from kwsd.protocol.commands import Pause, Reload, Status, WordsDelete
from kwsd.state.words import AddedWord, WordStore

T = TypeVar("T")
ROOM = "kitchen"
ID = f"kwsd_{identifier(ROOM).replace('-', '_')}"
CONFIG = f"homeassistant/device/{ID}/config"


def run(steps: Coroutine[Any, Any, T]) -> T:
    """Run steps that take two minutes at most."""
    return asyncio.run(asyncio.wait_for(steps, 120))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that everybody may use."""
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


Serve = Callable[..., BridgeProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start bridges, and stop those that still run."""
    bridges: list[BridgeProcess] = []

    def start(port: int, *arguments: str, folder: Path | None = None, config: str = "") -> Any:
        given = [*arguments] if "--name" in arguments else [*arguments, "--name", ROOM]
        where = folder or tmp_path
        bridge = BridgeProcess(
            where, "mqtt", config, "--host", "127.0.0.1", "--port", str(port), *given
        )
        bridges.append(bridge)
        return bridge

    yield start
    for bridge in bridges:
        bridge.close()


@pytest.fixture
def daemon(start: Start, tmp_path: Path) -> Daemon:
    """A daemon that hears what the test writes into it."""
    return fed(start, tmp_path)


def spoken(text: str = "computer", voice: str = "en-us") -> np.ndarray:
    """Return words with pauses around them."""
    return np.concatenate([hiss(1.5), say(text, voice), hiss(1.5)])


def enroll(daemon: Daemon, name: str, voice: str, folder: Path) -> None:
    """Enroll a voice with the daemon."""
    import soundfile

    takes = []
    for n, text in enumerate(("computer", "computer, turn on the light", "it is nice today")):
        takes.append(str(folder / f"{name}{n}.wav"))
        soundfile.write(takes[-1], say(text, voice), RATE)
    socket_path = str(daemon.socket)
    done = forked.run(["-m", "kwsd", "enroll", name, "--socket", socket_path, "--wav", *takes])
    assert done.returncode == 0, done.stderr


def test_wakes_rejections_and_states(
    broker: Mosquitto, daemon: Daemon, serve: Serve, tmp_path: Path
) -> None:
    enroll(daemon, "ann", VOICES[0], tmp_path)
    bridge = serve(broker.port)

    async def steps() -> None:
        async with ear(broker.port) as one:
            await one.until("kitchen/status", lambda heard: heard.payload == "online")
            daemon.hear(spoken("computer", VOICES[0]))
            wake = await one.until("kwsd/kitchen/wake")
            assert (wake.qos, wake.retained) == (1, False)
            body = wake.body
            assert (body["event_type"], body["word"], body["speaker"]) == (
                "wake",
                "computer",
                "ann",
            )
            assert body["device"] == ROOM
            assert body["score"] >= body["threshold"]
            assert -60 < body["level_dbfs"] < 0
            assert body["speaker_score"] > 0.5
            await one.state(last_speaker="ann", microphone="ok", pause="OFF")
            daemon.hear(spoken("computer", VOICES[1]))  # a stranger has no name, and no score
            stranger = await one.until("/wake", lambda heard: heard.body["id"] != body["id"])
            assert stranger.body["speaker"] is None
            assert "speaker_score" not in stranger.body
            # Twice within the refractory time is a rejection.
            daemon.hear(np.concatenate([hiss(2), say("computer"), hiss(0.4), say("computer")]))
            daemon.hear(hiss(2))
            rejected = await one.until("kwsd/kitchen/rejected")
            assert rejected.body["event_type"] == "rejected"
            assert rejected.body["reason"] in ("refractory", "near_miss")
            ids = [heard.body["id"] for heard in [*one.on("/wake"), *one.on("/rejected")]]
            assert len(ids) == len(set(ids))
        async with ear(broker.port) as late:  # what is retained, and nothing else
            await late.until("config")
            await asyncio.sleep(0.3)
            found = {heard.topic: heard.retained for heard in late.heard}
            assert found == dict.fromkeys(
                [CONFIG, "kwsd/kitchen/state", "kwsd/kitchen/status"], True
            )

    run(steps())
    assert bridge.stop() == 0


def test_the_device_is_described_with_a_trigger_for_each_word(
    broker: Mosquitto,
    daemon: Daemon,
    serve: Serve,
    tmp_path: Path,
    bundle: Bundle,
    banana: AddedWord,
) -> None:
    store = WordStore(daemon.state, bundle.encoder_id)
    store.save(banana)
    trigger = f"wake_{identifier(banana.name).replace('-', '_')}"
    with daemon.connect() as client:
        client.request(Reload())
    bridge = serve(broker.port)

    async def steps() -> None:
        async with ear(broker.port) as one:
            first = (await one.until("config")).body
            assert first["device"]["identifiers"] == [ID]
            assert first["device"]["name"] == ROOM
            assert first["origin"]["name"] == "kwsd"
            parts = first["components"]
            assert set(parts) == {
                "event",
                "microphone",
                "level",
                "speaker",
                "pause",
                "wake_computer_aa9730",
                trigger,
            }
            assert parts[trigger]["subtype"] == parts[trigger]["payload"] == banana.name
            assert parts["event"]["event_types"] == ["wake", "rejected"]
            assert len({part["unique_id"] for part in parts.values() if "unique_id" in part}) == 5
            with daemon.connect() as client:
                client.request(WordsDelete(name=banana.name))
            emptied = await one.until(
                "config", lambda heard: len(heard.body["components"][trigger]) == 1
            )
            assert emptied.body["components"][trigger] == {"platform": "device_automation"}
            # What is removed while the bridge is away is emptied when it is back.
            store.save(banana)
            with daemon.connect() as client:
                client.request(Reload())
            at = len(one.heard)
            await one.until("config", lambda heard: len(heard.body["components"][trigger]) > 1, at)
            assert bridge.stop() == 0
            with daemon.connect() as client:
                client.request(WordsDelete(name=banana.name))
            at = len(one.heard)
            bridge.start()
            await one.until(
                "config", lambda heard: len(heard.body["components"].get(trigger, "no")) == 1, at
            )

    run(steps())


def test_home_assistant_is_told_again_when_it_is_back(
    broker: Mosquitto, daemon: Daemon, serve: Serve
) -> None:
    serve(broker.port)

    async def steps() -> None:
        async with ear(broker.port) as one:
            await one.until("kitchen/status", lambda heard: heard.payload == "online")
            await one.until("config")
            await one.say("homeassistant/status", "offline")
            at = len(one.heard)
            await one.say("homeassistant/status", "online")
            for topic in ("config", "kitchen/state", "kitchen/status"):
                await one.until(topic, after=at)
            # Somebody who loses the retained messages is no Home Assistant: nothing is sent.
            await asyncio.sleep(0.3)
            at = len(one.heard)
            await one.say("homeassistant/status", "restarting")
            await asyncio.sleep(0.5)
            assert CONFIG not in [heard.topic for heard in one.heard[at:]]

    run(steps())


def test_the_switch_pauses_and_resumes(broker: Mosquitto, daemon: Daemon, serve: Serve) -> None:
    bridge = serve(broker.port)

    def holders() -> list[str]:
        with daemon.connect() as client:
            return [pause.holder for pause in client.request(Status()).pauses]

    async def steps() -> None:
        async with ear(broker.port) as one:
            await one.state(pause="OFF")
            await one.say("kwsd/kitchen/pause/set", "ON")
            await one.state(pause="ON", microphone="paused", paused_by=("mqtt",))
            assert holders() == ["mqtt"]
            # It outlives the bridge: who has turned the microphone off must turn it on.
            at = len(one.heard)
            bridge.crash()
            bridge.start()
            await one.until("kitchen/status", lambda heard: heard.payload == "online", at)
            await one.state(at, pause="ON")
            assert holders() == ["mqtt"]
            with daemon.connect() as client:
                client.request(Pause(holder="cli", for_s=60))
            await one.say("kwsd/kitchen/pause/set", "OFF")
            await one.state(at, pause="OFF", microphone="paused", paused_by=("cli",))
            # What is neither ON nor OFF is no wish, and what is retained is none of now.
            await one.say("kwsd/kitchen/pause/set", "perhaps")
            bridge.said("b'perhaps' is not done")
            bridge.crash()
            await one.say("kwsd/kitchen/pause/set", "ON", retain=True)
            bridge.start()
            bridge.said("'retained' is not done")
            assert holders() == ["cli"]

    run(steps())


def test_who_is_killed_is_offline_and_comes_back(
    broker: Mosquitto, start: Start, serve: Serve
) -> None:
    bridge = serve(broker.port)

    async def steps() -> None:
        async with ear(broker.port) as one:

            async def status(payload: str) -> None:
                at = len(one.heard)
                await one.until("kitchen/status", lambda heard: heard.payload == payload, at)

            await one.until("kitchen/status", lambda heard: heard.payload == "offline")
            waiting = asyncio.create_task(status("online"))
            await asyncio.sleep(0)
            daemon = start("--source", "-", stdin=forked.PIPE)
            await waiting
            for end, back in (
                (bridge.crash, bridge.start),
                (lambda: bridge.stop(), bridge.start),
                (daemon.kill, lambda: start("--source", "-", stdin=forked.PIPE)),
            ):
                waiting = asyncio.create_task(status("offline"))
                await asyncio.sleep(0)
                end()
                await waiting
                waiting = asyncio.create_task(status("online"))
                await asyncio.sleep(0)
                back()
                await waiting
            assert {heard.body["microphone"] for heard in one.on("/state")} == {"away", "lost"}

    run(steps())


def test_the_broker_restarts_and_knows_all_again(
    broker: Mosquitto, daemon: Daemon, serve: Serve
) -> None:
    bridge = serve(broker.port)

    async def steps() -> None:
        async with ear(broker.port) as one:
            await one.until("kitchen/status", lambda heard: heard.payload == "online")
            daemon.hear(spoken())
            before = (await one.until("/wake")).body["id"]
        broker.kill()
        bridge.said("is away")
        daemon.hear(spoken())  # a wake that nobody waits for any more when the broker is back
        await asyncio.sleep(6)
        broker.start()
        async with ear(broker.port) as one:
            for topic in ("config", "kitchen/state"):
                await one.until(topic)
            await one.until("kitchen/status", lambda heard: heard.payload == "online")
            daemon.hear(spoken())
            await one.until("/wake")
            await asyncio.sleep(1)
            (wake,) = one.on("/wake")
            assert wake.body["id"] != before
            assert wake.body["time"] > 0

    run(steps())
    assert bridge.log.read_text().count("Connection refused") == 1, "each reason is logged once"


def test_what_is_lost_is_said_again_with_its_id_or_never(
    broker: Mosquitto, daemon: Daemon, serve: Serve
) -> None:
    async def steps() -> None:
        proxy = Proxy(broker.port)
        async with proxy.running() as port, ear(broker.port) as one:
            serve(port)
            await one.until("kitchen/status", lambda heard: heard.payload == "online")
            await asyncio.sleep(1)
            # It arrives, and the broker's word that it has does not: it is doubled, with one id.
            proxy.mutes = True
            daemon.hear(spoken())
            await one.until("/wake")
            proxy.mutes = False
            proxy.cut()
            await asyncio.sleep(4)
            first = {heard.body["id"] for heard in one.on("/wake")}
            assert len(one.on("/wake")) == 2
            assert len(first) == 1
            # It vanishes, and the connection with it: it is said again.
            await one.until("kitchen/status", lambda heard: heard.payload == "online")
            proxy.swallows = True
            daemon.hear(spoken())
            await asyncio.sleep(1.5)
            assert len(one.on("/wake")) == 2
            proxy.swallows = False
            proxy.cut()
            second = await one.until("/wake", lambda heard: heard.body["id"] not in first)
            # It vanishes, and the way is open again when it is too late.
            await asyncio.sleep(2)
            proxy.swallows = True
            daemon.hear(spoken())
            await asyncio.sleep(1.5)
            proxy.refuses = True
            proxy.cut()
            await asyncio.sleep(5)
            proxy.swallows = proxy.refuses = False
            at = len(one.heard)
            await one.until("kitchen/status", lambda heard: heard.payload == "online", at)
            await asyncio.sleep(1)
            known = first | {second.body["id"]}
            assert {heard.body["id"] for heard in one.on("/wake")} == known

    run(steps())


def test_of_two_rooms_the_one_that_hears_better_answers(
    broker: Mosquitto, start: Start, serve: Serve, tmp_path: Path
) -> None:
    rooms: dict[str, Daemon] = {}
    for room in ("bath", "hall"):
        folder = tmp_path / room
        folder.mkdir()
        rooms[room] = fed(start, folder)
        serve(broker.port, "--name", room, "--arbitrate", "300ms", folder=folder)

    def far(samples: np.ndarray) -> np.ndarray:
        """Return it as it is heard across a room, with a fan."""
        noise = hiss(len(samples) / RATE, level=12, seed=3)[: len(samples)]
        return (samples * 0.3).astype(np.int16) + noise

    async def steps() -> None:
        async with ear(broker.port) as one:
            for room in rooms:
                await one.until(f"{room}/status", lambda heard: heard.payload == "online")
            expected = []
            for near, away in (("bath", "hall"), ("hall", "bath"), ("bath", "hall")):
                at = len(one.heard)
                rooms[near].hear(spoken())
                rooms[away].hear(far(spoken()))
                wake = await one.until("/wake", after=at)
                lost = await one.until("/rejected", after=at)
                assert (wake.topic, lost.topic) == (f"kwsd/{near}/wake", f"kwsd/{away}/rejected")
                assert lost.body["reason"] == "other_room"
                assert lost.body["answered_by"] == near
                assert wake.body["snr_db"] > lost.body["snr_db"] + 6
                expected.append(near)
                await asyncio.sleep(2)
            # Who alone has heard it answers, once the others had their time.
            at = len(one.heard)
            rooms["hall"].hear(far(spoken()))
            candidate = await one.until("hall/candidate", after=at)
            alone = await one.until("hall/wake", after=at)
            assert 0.25 < alone.at - candidate.at < 2
            expected.append("hall")
            await asyncio.sleep(1)
            assert [heard.body["device"] for heard in one.on("/wake")] == expected
            assert len(one.on("/candidate")) == 7

    run(steps())


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return a certificate for localhost and its key."""
    files = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    done = subprocess.run(
        [*command, *names, "-out", str(files[0]), "-keyout", str(files[1])], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return files


def test_a_broker_that_asks_who_it_is_and_encrypts(
    daemon: Daemon, serve: Serve, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    users = tmp_path / "users"
    users.touch(mode=0o600)
    command = ["mosquitto_passwd", "-b", str(users), "kitchen", "s3cret"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    broker = Mosquitto(
        tmp_path,
        f"certfile {cert}",
        f"keyfile {key}",
        "allow_anonymous false",
        f"password_file {users}",
    )
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    given = ("--username", "kitchen", "--password-file", str(secret), "--tls")
    try:
        stranger = serve(broker.port, *given)
        stranger.said("certificate verify failed")
        assert stranger.stop() == 0
        bridge = serve(broker.port, *given, "--ca-file", str(cert))
        bridge.said("Not authorized")
        assert f"everybody on this machine may read {secret}" in bridge.log.read_text()
        secret.write_text("s3cret\n")  # it is read again with each try
        bridge.said("connected to the broker")
        assert "s3cret" not in bridge.log.read_text()

        async def steps() -> None:
            import ssl

            context = ssl.create_default_context(cafile=str(cert))
            options: dict[str, Any] = {
                "username": "kitchen",
                "password": "s3cret",
                "tls_context": context,
            }
            async with ear(broker.port, **options) as one:
                await one.until("kitchen/status", lambda heard: heard.payload == "online")

        run(steps())
    finally:
        broker.kill()


def test_two_of_one_name_are_told_what_is_wrong(
    broker: Mosquitto, daemon: Daemon, serve: Serve, tmp_path: Path
) -> None:
    first = serve(broker.port)
    first.said("connected to the broker")
    folder = tmp_path / "other"
    folder.mkdir()
    serve(broker.port, folder=folder)
    first.said("another device has the same mqtt.name")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--port", "70000"], "mqtt.port: 70000 is not a whole number between 1 and 65535"),
        (["--topic", "a/#"], "topic: 'a/#' cannot begin a topic"),
        (["--topic", "/a"], "topic: '/a' cannot begin a topic"),
        (["--name", "a\nb"], "name: 'a\\nb' is no name"),
        (["--arbitrate", "5s"], "mqtt.arbitrate_s: 5.0 is not a number between 0.05 and 2"),
        (["--password-file", "x"], "password_file: needs username"),
        (["--username", "a", "--password-file", "/x"], "mqtt.password_file: cannot read /x"),
        (["--ca-file", "x"], "ca_file: needs tls: on"),
        (["--tls", "--ca-file", "/x"], "mqtt.ca_file: /x cannot be used"),
        (["--tls", "--certificate-file", "/x"], "mqtt.certificate_file: /x cannot be used"),
    ],
)
def test_options_that_cannot_be(options: list[str], why: str, tmp_path: Path) -> None:
    config = tmp_path / "kwsd.yaml"
    config.touch()
    done = forked.run(["-m", "kwsd", "mqtt", "--config", str(config), *options])
    assert done.returncode == 78
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


AS_NOBODY = """
import os, sys, encodings.idna, kwsd.bridges.mqtt.bridge  # what only root can read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from kwsd.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Nobodys(BridgeProcess):
    """A bridge of a user without any rights."""

    python = ("-c", AS_NOBODY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_who_may_not_pause_has_no_switch(broker: Mosquitto, daemon: Daemon, tmp_path: Path) -> None:
    for folder in [tmp_path, *tmp_path.parents]:
        folder.chmod(folder.stat().st_mode | 0o055)
    daemon.socket.chmod(0o666)
    previous = os.umask(0)
    given = ("--host", "127.0.0.1", "--port", str(broker.port), "--name", ROOM)
    bridge = Nobodys(tmp_path, "mqtt", "", *given)
    os.umask(previous)

    async def steps() -> None:
        async with ear(broker.port) as one:
            await one.until("kitchen/status", lambda heard: heard.payload == "online")
            parts = (await one.until("config")).body["components"]
            assert "pause" not in parts
            assert "event" in parts
            await one.say("kwsd/kitchen/pause/set", "ON")
            bridge.said("the switch does not turn ON")
            with daemon.connect() as client:
                assert client.request(Status()).pauses == []

    try:
        run(steps())
        bridge.said("there is no switch for the pause: ")
        assert "set socket.pause_group in the daemon's configuration" in bridge.log.read_text()
    finally:
        bridge.close()


def test_a_flood_from_the_broker_holds_up_neither_wakes_nor_the_daemon(
    broker: Mosquitto, daemon: Daemon, serve: Serve
) -> None:
    bridge = serve(broker.port, "--arbitrate", "300ms")

    async def steps() -> None:
        async with ear(broker.port, "kwsd/kitchen/+") as one, contextlib.AsyncExitStack() as stack:
            await one.until("kitchen/status", lambda heard: heard.payload == "online")
            before = bridge.memory_mib()
            floods = [
                ("kwsd/kitchen/pause/set", "perhaps"),
                ("kwsd/kitchen/pause/set", "x" * 60_000),
                (CONFIG, '{"components":{"a":{"platform":[]},"b":{}}}'),
                ("kwsd/hall/candidate", '{"word":"alexa","snr_db":1e999}'),
                ("kwsd/hall/candidate", "[" * 10_000),
                ("kwsd//candidate", '{"word":"alexa","snr_db":10}'),
            ]
            for topic, payload in floods:
                client = aiomqtt.Client("127.0.0.1", broker.port)
                await stack.enter_async_context(client)
                for _ in range(10 if len(payload) > 5000 else 1000):
                    await client.publish(topic, payload, qos=0)
            at = len(one.heard)
            while not [heard for heard in one.heard[at:] if heard.topic.endswith("/state")]:
                await one.say("homeassistant/status", "online")  # until it has read what came
                await asyncio.sleep(0.5)
            for n in range(3):
                at = len(one.heard)
                daemon.hear(spoken())
                await one.until("kitchen/wake", after=at)
                assert len(one.on("kitchen/wake")) == n + 1
                await asyncio.sleep(1)
            assert bridge.memory_mib() < before + 32

    run(steps())
    assert bridge.stop() == 0

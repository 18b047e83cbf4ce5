"""A flood on a bridge, beside a daemon that listens: does the daemon slow?

    python tests/bridge_flood.py --bridge wyoming --clients 24 --seconds 40

A daemon hears a word every few seconds in real time, first beside an idle bridge and then beside
one on which clients throw what they can as fast as they can: on `wyoming` pings, unknown events,
audio and starts of streams; on `mqtt`, by way of mosquitto, commands, births of Home Assistant,
other rooms' candidates and noise; on `metrics` scrapes, endless heads and noise. The bridge, and
the broker, have the `Nice=` of its unit, the flood the lowest priority. It prints the latency of
the daemon's wakes as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from conftest import RATE, hiss, say

from kwsd.bridges.wyoming.frames import MAX_PAYLOAD
from kwsd.client.client import Client, connect
from kwsd.events import Wake
from kwsd.protocol.errors import DaemonError

NICE = ("nice", "-n", "10")
"""As the unit has it."""
MQTT_CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
CHUNK = b'{"type":"audio-chunk","data":{"rate":16000,"width":2,"channels":1},"payload_length":%d}\n'


def published(topic: str, payload: str) -> bytes:
    """Return a client of a broker that publishes a payload again and again, as MQTT 3.1.1."""
    body = len(topic).to_bytes(2, "big") + topic.encode() + payload.encode()
    assert len(body) < 128
    return MQTT_CONNECT + (b"\x30" + bytes([len(body)]) + body) * 20_000


def thrown(bridge: str, n: int) -> bytes:
    """Return what client `n` throws over and over."""
    noise = np.random.default_rng(n).normal(0, 3000, MAX_PAYLOAD // 2).astype("<i2").tobytes()
    if bridge == "mqtt":
        return (
            published("kwsd/flood/pause/set", "perhaps"),
            published("homeassistant/status", "online"),
            published("kwsd/bath/candidate", '{"word":"computer","snr_db":1}'),
            published("kwsd/bath/candidate", "x" * 90),
        )[n % 4]
    if bridge == "metrics":
        return (
            b"GET /metrics HTTP/1.1\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\n" * 5000,
            noise,
        )[n % 4]
    return (
        b'{"type":"ping"}\n' * 5000,
        b'{"type":"nonsense"}\n' * 5000,
        CHUNK % MAX_PAYLOAD + noise,
        b'{"type":"audio-start"}\n' * 5000,
    )[n % 4]


def flood(bridge: str, port: int, clients: int) -> None:
    """Throw until the process is ended; who is thrown out connects again."""
    os.nice(19)
    selector = selectors.DefaultSelector()
    rests: dict[socket.socket, memoryview] = {}
    data = [memoryview(thrown(bridge, n)) for n in range(4)]

    def join(n: int) -> None:
        with contextlib.suppress(OSError):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, n)
            rests[sock] = data[n % 4]

    for n in range(clients):
        join(n)
    while True:
        for key, _ in selector.select(1.0):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                with contextlib.suppress(BlockingIOError):
                    if not sock.recv(1 << 16):
                        raise ConnectionResetError
                sent = sock.send(rests[sock])
                rests[sock] = rests[sock][sent:] or data[key.data % 4]
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                selector.unregister(sock)
                sock.close()
                join(key.data)


@contextlib.contextmanager
def running(*command: str) -> Iterator[None]:
    """Run a command for as long as the context lasts."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def daemon_at(path: Path, port: int) -> Client:
    """Return a client of the daemon, as soon as both answer."""
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return connect(path)
        except (OSError, DaemonError):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def served(bridge: str, port: int, folder: Path) -> list[tuple[str, ...]]:
    """Return what is to be run so that the flood has something to go to."""
    if bridge == "mqtt":
        config = folder / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n")
        given = ("--host", "127.0.0.1", "--port", str(port), "--name", "flood")
        return [
            ("/usr/sbin/mosquitto", "-c", str(config)),
            ("mqtt", *given, "--arbitrate", "300ms"),
        ]
    if bridge == "metrics":
        return [("metrics", "--listen", f"127.0.0.1:{port}")]
    return [("wyoming", "--uri", f"tcp://127.0.0.1:{port}")]


def measure(bridge: str, clients: int, seconds: float) -> dict[str, object]:
    """Return the latencies of the daemon's wakes, alone and beside the flood."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "c.yaml").touch()
        part = np.concatenate([hiss(1.2), say("computer"), hiss(1.2)])
        soundfile.write(folder / "words.wav", np.tile(part, int(seconds)), RATE)
        kwsd = (sys.executable, "-m", "kwsd")
        where = ("--config", f"{folder}/c.yaml", "--socket", f"{folder}/k.sock")
        source = ("--source", f"{folder}/words.wav", "--state", f"{folder}/state", "--realtime")
        stack.enter_context(running(*kwsd, "run", *where, *source))
        for command in served(bridge, port, folder):
            program = kwsd if command[0] == bridge else ()
            stack.enter_context(running(*NICE, *program, *command, *(where if program else ())))
        client = stack.enter_context(daemon_at(folder / "k.sock", port))
        heard: list[Wake] = []
        threading.Thread(target=lambda: heard.extend(client.events(["wake"])), daemon=True).start()
        time.sleep(seconds)
        alone = [wake.latency_ms or 0.0 for wake in heard]
        before = len(heard)
        throw = ("--bridge", bridge, "--port", str(port), "--clients", str(clients))
        with running(sys.executable, __file__, *throw):
            time.sleep(seconds)
        beside = [wake.latency_ms or 0.0 for wake in heard[before:]]
        client.close()
    found = {"alone": alone, "beside the flood": beside}
    return {
        name: {"wakes": len(ms), "median_ms": statistics.median(ms), "greatest_ms": max(ms)}
        for name, ms in found.items()
    }


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bridge", choices=("wyoming", "mqtt", "metrics"), default="wyoming")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--port", type=int, help="only flood this port")
    arguments = parser.parse_args()
    if arguments.port:
        flood(arguments.bridge, arguments.port, arguments.clients)
    report = measure(arguments.bridge, arguments.clients, arguments.seconds)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

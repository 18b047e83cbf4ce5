#!/usr/bin/env python3
"""Let Linux Voice Assistant listen when kwsd hears a wake word.

    python3 linux_voice_assistant.py
    python3 linux_voice_assistant.py --url ws://127.0.0.1:6055 --words computer --only-verified

Linux Voice Assistant speaks ESPHome's protocol to Home Assistant, and has a WebSocket for buttons
and lights on this machine (its option `--peripheral-port`, 6055). A wake of kwsd presses the
button: `start_listening`. Both hear the microphone through PulseAudio or PipeWire. Give it a wake
word of its own that you do not say: it has no switch that turns its own detection off.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import struct
import sys
import time
from urllib.parse import urlsplit

import kwsd

LATE_S = 5.0
"""A wake that is older is nobody's wish any more."""
TIMEOUT_S = 3.0
"""Longest time that the assistant has to answer."""


def main() -> int:
    """Press the button at each wake; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="ws://127.0.0.1:6055", help="the assistant's WebSocket")
    parser.add_argument("--socket", help="the daemon's socket (default: the usual one)")
    parser.add_argument("--words", help="only these words, with commas between them")
    parser.add_argument("--only-verified", action="store_true", help="only enrolled voices")
    parser.add_argument("--count", type=int, help="exit after so many wakes")
    arguments = parser.parse_args()
    words = arguments.words.split(",") if arguments.words else None
    done = 0
    with kwsd.connect(arguments.socket) as daemon:
        for wake in daemon.events(types=["wake"], words=words, reconnect=True):
            late = wake.time is not None and time.time() - wake.time > LATE_S
            verified = wake.speaker is not None and wake.speaker.verified
            if late or (arguments.only_verified and not verified):
                continue
            try:
                send(arguments.url, {"command": "start_listening"})
                print(f"{wake.word}: the assistant listens", flush=True)
            except OSError as error:
                print(f"{arguments.url}: {error}; does the assistant run?", file=sys.stderr)
            done += 1
            if done == arguments.count:
                break
    return 0


def send(url: str, message: dict[str, str]) -> None:
    """Send one message to a WebSocket (RFC 6455). Raises OSError."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    key = base64.b64encode(os.urandom(16)).decode()
    request = (
        f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection((host, port), TIMEOUT_S) as sock:
        sock.sendall(request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            more = sock.recv(4096)
            if not more or len(head) > 1 << 16:
                raise OSError("it is no WebSocket")
            head += more
        if b" 101 " not in head.splitlines()[0]:
            raise OSError(f"it answers {head.splitlines()[0].decode(errors='replace')}")
        sock.sendall(frame(0x1, json.dumps(message).encode()))
        sock.sendall(frame(0x8, struct.pack(">H", 1000)))
        while sock.recv(1 << 16):  # its events, up to its farewell
            pass


def frame(kind: int, payload: bytes) -> bytes:
    """Return a frame of a client, whose payload is masked and shorter than 126 bytes."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    return bytes([0x80 | kind, 0x80 | len(payload)]) + mask + masked


if __name__ == "__main__":
    try:
        sys.exit(main())
    except kwsd.DaemonError as error:
        sys.exit(f"linux_voice_assistant.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

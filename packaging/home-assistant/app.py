"""The start of the app for Home Assistant: the wake service, announced; the daemon, if wanted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PORT = 10400
KWSD = os.environ.get("KWSD", "/opt/kwsd/bin/kwsd")
OPTIONS = Path(os.environ.get("KWSD_OPTIONS", "/data/options.json"))
FOLDER = Path(os.environ.get("KWSD_FOLDER", "/config"))
SUPERVISOR = os.environ.get("KWSD_SUPERVISOR", "http://supervisor")
START_S = 60


def main() -> int:
    """Run until a part ends or the app is stopped; return the exit status."""
    options = json.loads(OPTIONS.read_text(encoding="utf-8")) if OPTIONS.exists() else {}
    config = FOLDER / "kwsd.yaml"
    given = ["--config", str(config)] if config.exists() else []
    verbose = ["-v"] if options.get("log_level") == "debug" else []
    state = FOLDER / "state"
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.update(STATE_DIRECTORY=str(state))
    parts = [subprocess.Popen([KWSD, *verbose, "wyoming", *given])]
    if options.get("microphone"):
        parts.append(subprocess.Popen([KWSD, *verbose, "run", *given]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: [part.terminate() for part in parts])
    if wait_for_port(parts[0]):
        announce()
    while all(part.poll() is None for part in parts):
        time.sleep(0.5)
    for part in parts:
        part.terminate()
    return max(abs(part.wait()) for part in parts)


def wait_for_port(service: subprocess.Popen[bytes]) -> bool:
    """Return whether the service listens before it ends or the time is up."""
    end = time.monotonic() + START_S
    while service.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", PORT), timeout=1).close()
        except OSError:
            time.sleep(0.5)
        else:
            return True
    return False


def announce() -> None:
    """Tell Home Assistant's Supervisor where the service listens."""
    token = os.environ.get("SUPERVISOR_TOKEN")
    if not token:
        say("no Supervisor here: add the service in Home Assistant by its address")
        return
    body = {"service": "wyoming", "config": {"uri": f"tcp://{socket.gethostname()}:{PORT}"}}
    request = urllib.request.Request(
        f"{SUPERVISOR}/discovery",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            reply: dict[str, Any] = json.load(answer)
        say(f"announced to Home Assistant: {reply.get('result', reply)}")
    except (OSError, ValueError, urllib.error.URLError) as error:
        say(f"Home Assistant was not told ({error}): add the service by its address")


def say(text: str) -> None:
    """Print a line to the log of the app."""
    print(f"app: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

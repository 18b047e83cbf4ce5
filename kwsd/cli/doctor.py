"""`kwsd doctor`: what is wrong with this machine, and the command that mends it."""

from __future__ import annotations

import ctypes.util
import grp
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kwsd import config as configuration
from kwsd.audio import capture
from kwsd.client import client
from kwsd.config import Config, ConfigError
from kwsd.learn.takes import level_dbfs
from kwsd.model import bundle as bundles
from kwsd.model.bundle import BundleError
from kwsd.protocol.errors import DaemonError
from kwsd.state.voiceprints import VoiceprintStore
from kwsd.state.words import WordStore


@dataclass(frozen=True)
class Finding:
    check: str
    ok: bool
    detail: str
    mend: str = ""


def examine(config_path: Path | None, socket: Path | None) -> Iterator[Finding]:
    """All checks, one after the other; those that need what is broken are left out."""
    try:
        config = configuration.load(config_path)
        used = config_path or next((p for p in configuration.default_paths() if p.exists()), None)
        yield Finding("configuration", True, str(used or "none; the defaults are used"))
    except ConfigError as error:
        yield Finding("configuration", False, str(error), "correct the line, then run kwsd doctor again")
        config = Config()
    yield from _models(config)
    running = _daemon(socket or (config.socket_path() if config.socket.path else None))
    yield running
    yield from _service_unit()
    yield from _microphone(config, daemon_runs=running.ok)


def _models(config: Config) -> Iterator[Finding]:
    try:
        bundle = bundles.load(Path(config.models) if config.models else None)
    except BundleError as error:
        yield Finding("models", False, str(error), "pip install --force-reinstall kwsd")
        return
    yield Finding("models", True, f"{bundle.path}, encoder {bundle.encoder_id}, {len(bundle.words)} words")
    folder = config.state_directory()
    added, _ = WordStore(folder, bundle.encoder_id).load_all()
    unknown = [w for w in config.words if w not in bundle.words and w not in added]
    if unknown and (not folder.exists() or os.access(folder, os.R_OK)):
        yield Finding("words", False, f"no model of {', '.join(unknown)}", f"set words to some of {', '.join([*bundle.words, *added])}, or kwsd word add")
    good, bad = VoiceprintStore(folder, bundle.encoder_id).load_all()
    for damaged in bad:
        yield Finding("voiceprints", False, str(damaged), "kwsd enroll NAME")
    if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        yield Finding("voiceprints", True, f"{folder} is the daemon's own; `kwsd speakers` asks it")
    elif not bad:
        yield Finding("voiceprints", True, f"{len(good)} in {folder}")


def _daemon(socket: Path | None) -> Finding:
    try:
        with client.connect(socket) as daemon:
            status = daemon.request("status")
    except DaemonError as error:
        return Finding("daemon", False, str(error), "systemctl start kwsd   (or: kwsd run)")
    microphone = status["microphone"]
    if microphone["state"] == "lost":
        return Finding("daemon", False, f"runs for {status['uptime_s']:.0f} s, but hears no microphone", "see the microphone's finding below")
    return Finding("daemon", True, f"hears {microphone['name']} for {status['audio_s']:.0f} s, {status['clients']} client(s)")


def _service_unit() -> Iterator[Finding]:
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return
    state = subprocess.run(["systemctl", "is-active", "kwsd.service"], capture_output=True, text=True, check=False).stdout.strip()
    if state == "failed":
        yield Finding("service", False, "kwsd.service has failed", "journalctl -u kwsd -n 50")
    else:
        yield Finding("service", True, f"kwsd.service is {state or 'not installed'}")


def _microphone(config: Config, daemon_runs: bool) -> Iterator[Finding]:
    if ctypes.util.find_library("portaudio") is None:
        yield Finding("PortAudio", False, "the library is not installed", "sudo apt-get install libportaudio2")
        return
    try:
        listed = capture.devices()
    except capture.MicrophoneError as error:
        yield Finding("PortAudio", False, str(error), "sudo apt-get install libportaudio2")
        return
    if not listed:
        nodes = list(Path("/dev/snd").glob("pcmC*c"))
        if nodes and not any(os.access(n, os.R_OK | os.W_OK) for n in nodes):
            mine = {grp.getgrgid(g).gr_name for g in os.getgroups()}
            why = "" if "audio" in mine else "; you are not in the group audio"
            yield Finding(
                "microphone",
                False,
                f"there are {len(nodes)} sound devices, and you may use none of them{why}",
                "sudo usermod -aG audio $USER   (then log in again)",
            )
        else:
            yield Finding("microphone", False, "no input device at all", "plug a microphone in; on a desktop, see that PipeWire or PulseAudio runs: pactl info")
        return
    yield Finding("input devices", True, ", ".join(f"{d['index']}: {d['name']}" for d in listed))
    if daemon_runs:
        return  # it has the microphone; opening it twice would say nothing
    yield _listen_once(config)


def _listen_once(config: Config, seconds: float = 1.0) -> Finding:
    try:
        with capture.open_microphone(config.microphone) as microphone:
            blocks = [b.samples for b in iter(_reader(microphone, seconds), None)]
    except capture.MicrophoneError as error:
        mend = "stop the program that uses it: fuser -v /dev/snd/*" if "in use" in str(error) else "kwsd devices; then set microphone.device"
        return Finding("microphone", False, str(error), mend)
    level = max((level_dbfs(b) for b in blocks), default=-100.0)
    if level <= -90:
        return Finding(
            "microphone", False, f"{microphone.name} delivers silence ({level:.0f} dBFS)", "unmute it: alsamixer, or pactl set-source-mute @DEFAULT_SOURCE@ 0"
        )
    return Finding("microphone", True, f"{microphone.name}, {microphone.rate} Hz, peaks at {level:.0f} dBFS")


def _reader(microphone: capture.Microphone, seconds: float) -> Callable[[], capture.Block | None]:
    left = [int(seconds / 0.08)]

    def read() -> capture.Block | None:
        left[0] -= 1
        return microphone.read() if left[0] >= 0 else None

    return read

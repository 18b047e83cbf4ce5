"""The checks of `kwsd doctor`."""

from __future__ import annotations

import ctypes.util
import grp
import os
import shutil
import subprocess
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kwsd import config_file
from kwsd.audio.capture import open_microphone
from kwsd.audio.devices import MicrophoneError, devices
from kwsd.audio.format import BLOCK_S
from kwsd.audio.pcm import SILENCE_DBFS, level_dbfs
from kwsd.client.client import connect
from kwsd.config import Config, ConfigError
from kwsd.detect.setup import resolve
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle, BundleError
from kwsd.protocol.commands import Status
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.replies import StatusReply
from kwsd.state.library import Library
from kwsd.state.voiceprints import VoiceprintStore

SILENT_DBFS = -90.0
"""A microphone whose loudest block is no louder is muted."""
LISTEN_S = 1.0
REINSTALL = "pip install --force-reinstall kwsd"
PORTAUDIO_FIX = "sudo apt-get install libportaudio2"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    ok: bool
    detail: str
    fix: str = ""
    """A command or a step; empty where all is well."""


def examine(config_path: Path | None, socket: Path | None) -> Iterator[Finding]:
    """Yield the findings of all checks; checks that need what is broken are left out."""
    try:
        config = config_file.load(config_path)
        used = config_path or config_file.find()
        yield Finding("configuration", True, str(used or "none; the defaults are used"))
    except ConfigError as error:
        fix = "correct the line, then run kwsd doctor again"
        yield Finding("configuration", False, str(error), fix)
        config = Config()
    running, status = _daemon(socket or (config.socket_path() if config.socket.path else None))
    yield from _models(config, status)
    yield running
    yield from _service_unit()
    yield from _audio(config, daemon_runs=running.ok)


def _models(config: Config, status: StatusReply | None) -> Iterator[Finding]:
    try:
        bundle = bundles.load(config.models_path())
    except BundleError as error:
        yield Finding("models", False, str(error), REINSTALL)
        return
    words = f"{len(bundle.words)} words"
    yield Finding("models", True, f"{bundle.path}, encoder {bundle.encoder_id}, {words}")
    folder = config.state_directory()
    warnings = yield from _words(config, bundle, folder)
    yield from _voiceprints(bundle, folder)
    for warning in warnings if status is None else status.warnings:
        yield Finding("speakers", False, warning, "kwsd enroll NAME, or change speaker.require")


def _words(config: Config, bundle: Bundle, folder: Path) -> Generator[Finding, None, Sequence[str]]:
    """Yield what is wrong with the words; return the warnings about who may wake it."""
    if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        return ()  # only the daemon knows the added words and the speakers
    library, _ = Library.load(folder, bundle.encoder_id)
    try:
        return resolve(config, bundle, library).speakers.warnings
    except ConfigError as error:
        fix = "correct the configuration, then run kwsd doctor again"
        yield Finding("words", False, str(error), fix)
    except BundleError as error:
        yield Finding("models", False, str(error), REINSTALL)
    return ()


def _voiceprints(bundle: Bundle, folder: Path) -> Iterator[Finding]:
    good, bad = VoiceprintStore(folder, bundle.encoder_id).load_all()
    for damaged in bad:
        yield Finding("voiceprints", False, str(damaged), "kwsd enroll NAME")
    if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        text = f"only the daemon may read {folder}; `kwsd speakers` asks it"
        yield Finding("voiceprints", True, text)
    elif not bad:
        yield Finding("voiceprints", True, f"{len(good)} in {folder}")


def _daemon(socket: Path | None) -> tuple[Finding, StatusReply | None]:
    """Return the finding about the daemon, and its status where it answers."""
    try:
        with connect(socket) as client:
            status = client.request(Status())
    except DaemonError as error:
        fix = "systemctl start kwsd   (or: kwsd run)"
        return Finding("daemon", False, str(error), fix), None
    if status.microphone.state == "lost":
        text = f"has run for {status.uptime_s:.0f} s, but has no microphone"
        fix = "see the finding about the microphone below"
        return Finding("daemon", False, text, fix), status
    heard = f"has listened to {status.microphone.name} for {status.audio_s:.0f} s"
    return Finding("daemon", True, f"{heard}, {status.clients} client(s)"), status


def _service_unit() -> Iterator[Finding]:
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return
    command = ["systemctl", "is-active", "kwsd.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    state = done.stdout.strip()
    if state == "failed":
        yield Finding("service", False, "kwsd.service has failed", "journalctl -u kwsd -n 50")
    else:
        yield Finding("service", True, f"kwsd.service is {state or 'not installed'}")


def _audio(config: Config, *, daemon_runs: bool) -> Iterator[Finding]:
    if ctypes.util.find_library("portaudio") is None:
        yield Finding("PortAudio", False, "the library is not installed", PORTAUDIO_FIX)
        return
    try:
        found = devices()
    except MicrophoneError as error:
        yield Finding("PortAudio", False, str(error), PORTAUDIO_FIX)
        return
    if not found:
        yield _no_device()
        return
    listed = ", ".join(f"{device.index}: {device.name}" for device in found)
    yield Finding("input devices", True, listed)
    if not daemon_runs:  # it has the microphone; opening it twice would show nothing
        yield _microphone(config)


def _no_device() -> Finding:
    nodes = list(Path("/dev/snd").glob("pcmC*c"))
    if not nodes or any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        fix = "plug a microphone in; on a desktop, check PipeWire or PulseAudio: pactl info"
        return Finding("microphone", False, "there is no input device", fix)
    groups = {grp.getgrgid(group).gr_name for group in os.getgroups()}
    why = "" if "audio" in groups else "; you are not in the group audio"
    text = f"there are {len(nodes)} sound devices, and you may use none of them{why}"
    fix = "sudo usermod -aG audio $USER   (then log in again)"
    return Finding("microphone", False, text, fix)


def _microphone(config: Config) -> Finding:
    """Listen for a second."""
    level = SILENCE_DBFS
    try:
        with open_microphone(config.microphone) as microphone:
            for _ in range(int(LISTEN_S / BLOCK_S)):
                if block := microphone.read():
                    level = max(level, level_dbfs(block.samples))
    except MicrophoneError as error:
        fix = "kwsd devices; then set microphone.device"
        if "in use" in str(error):
            fix = "stop the program that uses it: fuser -v /dev/snd/*"
        return Finding("microphone", False, str(error), fix)
    if level <= SILENT_DBFS:
        text = f"{microphone.name} delivers silence ({level:.0f} dBFS)"
        fix = "unmute it: alsamixer, or pactl set-source-mute @DEFAULT_SOURCE@ 0"
        return Finding("microphone", False, text, fix)
    text = f"{microphone.name}, {microphone.rate} Hz, peaks at {level:.0f} dBFS"
    return Finding("microphone", True, text)

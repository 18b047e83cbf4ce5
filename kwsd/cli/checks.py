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

import msgspec
import numpy as np

from kwsd import config_file
from kwsd.audio.capture import open_microphone
from kwsd.audio.devices import MicrophoneError, devices
from kwsd.audio.diagnosis import Diagnosis, diagnose
from kwsd.audio.format import BLOCK_S, SILENCE_DBFS
from kwsd.cli.output import channel_levels, pause_sentence
from kwsd.cli.verbs import GROUPS
from kwsd.client.client import connect
from kwsd.config import Config, ConfigError
from kwsd.detect.setup import chosen_checker, resolve
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle, BundleError
from kwsd.model.runtime import CheckerGraph
from kwsd.protocol.commands import Status
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.replies import StatusReply
from kwsd.server.source_health import BEHIND_S, UNMUTE
from kwsd.state.calibration import CalibrationError
from kwsd.state.folder import check as check_folder
from kwsd.state.library import Library
from kwsd.state.voiceprints import VoiceprintStore
from kwsd.state.words import WordError

LISTEN_S = 3.0
CLIPPED = 0.001
"""Share of clipped samples from which a microphone is too loud."""
OFFSET = 0.005
"""Offset, as a share of full scale, that is worth naming."""
HARMFUL_OFFSET = 0.2
"""Offset that leaves loud voices no room."""
MANAGERS = (((), "the machine's"), (("--user",), "your"))
"""Options of systemctl for each manager, and whose it is."""
REINSTALL = "install kwsd again, as it was: sudo ./dev install, or by its .deb or wheel"
ALONE = "; the streaming scores decide alone"
PORTAUDIO_FIX = "sudo apt-get install libportaudio2"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    ok: bool
    detail: str
    fix: str = ""
    """A command or a step; empty where all is well."""


def examine(
    config_path: Path | None, socket: Path | None, *, listens: bool = True
) -> Iterator[Finding]:
    """Yield the findings of all checks; checks that need what is broken are left out.

    They judge the daemon that runs for the user who asks, by its own configuration and folders.
    One that `listens` hears the microphone itself, where no daemon has it.
    """
    own, finding = _configuration(config_path or config_file.find())
    at = socket or (own.socket_path() if own.socket.path else None)
    status, reached = _daemon(at)
    config = own
    if status and not config_path:
        used = Path(status.config) if status.config else None
        config, finding = _configuration(used, status.user)
    yield finding
    folder = Path(status.state) if status else config.state_directory()
    yield from _models(config, folder, status)
    yield reached
    if status:
        yield _rights(status)
    yield from _groups(config)
    yield from _services(status)
    paused = status is not None and status.microphone.state == "paused"
    if listens:
        yield from _audio(config, daemon_runs=reached.ok or paused)


def _configuration(path: Path | None, user: str | None = None) -> tuple[Config, Finding]:
    """Return the configuration in a file, that of a daemon of `user`, and a finding about it."""
    check = "configuration"
    if path is None:
        return Config(), Finding(check, True, "none; the defaults are used")
    if user and not os.access(path, os.R_OK):
        return Config(), Finding(check, True, f"{path}, which you may not read")
    own = config_file.find()
    detail = str(path)
    if user and own and own.absolute() != path:
        detail += f", for the daemon runs as {user}; it does not read {own}"
    try:
        return config_file.load(path), Finding(check, True, detail)
    except ConfigError as error:
        fix = "correct the line, then run kwsd doctor again"
        return Config(), Finding(check, False, str(error), fix)


def _models(config: Config, folder: Path, status: StatusReply | None) -> Iterator[Finding]:
    try:
        bundle = bundles.load(config.models_path())
    except BundleError as error:
        yield Finding("models", False, str(error), REINSTALL)
        return
    words = f"{len(bundle.words)} words"
    yield Finding("models", True, f"{bundle.path}, encoder {bundle.encoder_id}, {words}")
    finding = _checker(config, bundle, status)
    yield finding
    if not finding.ok:  # which is said once
        config = msgspec.structs.replace(config, checker="off")
    try:
        check_folder(folder)
    except ConfigError as error:
        yield Finding("state", False, str(error), "correct the configuration, or the folder")
        return
    warnings = yield from _words(config, bundle, folder)
    yield from _voiceprints(bundle, folder, running=status is not None)
    for warning in warnings if status is None else status.warnings:
        if "`kwsd calibrate" in warning:
            fix = "kwsd calibrate" + (" --speakers" if warning.startswith("speaker.") else "")
            yield Finding("calibration", False, warning, fix)
        elif warning.startswith("words:"):
            yield Finding("words", False, warning, "kwsd word enable WORD")
        elif warning.startswith("words."):
            yield Finding("words", False, warning, "kwsd word rebuild")
        else:
            fix = "kwsd enroll NAME, or change speaker.require"
            yield Finding("speakers", False, warning, fix)


def _checker(config: Config, bundle: Bundle, status: StatusReply | None) -> Finding:
    """Return what the daemon that runs says of its checker, else what one that is started has."""
    if status:
        used = status.checker
        text = f"{used.size}, asked {used.checks} time(s)" if used else f"none{ALONE}"
        return Finding("checker", True, text)
    try:
        model = chosen_checker(config, bundle)
        if model is None:
            why = "checker: off" if config.checker == "off" else "the models have none"
            return Finding("checker", True, f"none ({why}){ALONE}")
        CheckerGraph(bundle, model)
    except ConfigError as error:
        return Finding("checker", False, str(error), "change checker in the configuration")
    except BundleError as error:
        return Finding("checker", False, str(error), REINSTALL)
    return Finding("checker", True, f"{model.size}, {model.file}")


def _words(config: Config, bundle: Bundle, folder: Path) -> Generator[Finding, None, Sequence[str]]:
    """Yield what is wrong with the words; return the warnings about who may wake it."""
    if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        return ()  # only the daemon knows the added words and the speakers
    library, faults = Library.load(folder, bundle.encoder_id, bundle.voice_dim, bundle.frame_dim)
    for fault in faults:
        if isinstance(fault, WordError):
            yield Finding("words", False, str(fault), "kwsd word rebuild WORD, or add it again")
        elif isinstance(fault, CalibrationError):
            yield Finding("calibration", False, str(fault), "kwsd calibrate")
    try:
        return resolve(config, bundle, library).warnings
    except ConfigError as error:
        fix = "correct the configuration, then run kwsd doctor again"
        yield Finding("words", False, str(error), fix)
    except BundleError as error:
        yield Finding("models", False, str(error), REINSTALL)
    return ()


def _voiceprints(bundle: Bundle, folder: Path, *, running: bool) -> Iterator[Finding]:
    """Yield what is in the folder of a daemon that is `running`, else of one that is started."""
    whose = "" if running else "; a daemon that you start now uses it, one that runs may not"
    good, bad = VoiceprintStore(folder, bundle.encoder_id, bundle.voice_dim).load_all()
    for damaged in bad:
        yield Finding("voiceprints", False, str(damaged), "kwsd enroll NAME")
    if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        text = f"only the daemon may read {folder}; `kwsd speakers` asks it{whose}"
        yield Finding("voiceprints", True, text)
    elif not bad:
        yield Finding("voiceprints", True, f"{len(good)} in {folder}{whose}")


def _daemon(socket: Path | None) -> tuple[StatusReply | None, Finding]:
    """Return the status of the daemon that answers this user, and a finding about it."""
    try:
        with connect(socket) as client:
            status = client.request(Status())
            path = client.path
    except DaemonError as error:
        fix = "systemctl start kwsd   (or: systemctl --user start kwsd, or: kwsd run)"
        if isinstance(error.__cause__, PermissionError):
            fix = "sudo usermod -aG kwsd $USER   (then log in again)"
        return None, Finding("daemon", False, str(error), fix)
    at = f"kwsd {status.version} of user {status.user} at {path}"
    if status.microphone.state == "lost":
        text = f"{at} has run for {status.uptime_s:.0f} s, but has no microphone"
        fix = "see the finding about the microphone below; if it is fine, see the daemon's log"
        return status, Finding("daemon", False, text, fix)
    if status.microphone.state == "paused":
        text = f"{at} hears nothing: the microphone is paused {pause_sentence(status.pauses)}"
        fix = "   and: ".join(one.remedy for one in status.pauses)
        return status, Finding("daemon", False, text, fix)
    microphone = status.microphone
    heard = f"has listened to {microphone.name} for {status.audio_s:.0f} s"
    if microphone.levels_dbfs:
        heard += f" ({channel_levels(microphone.levels_dbfs)})"
    text = f"{at} {heard}, {status.clients} client(s)"
    if microphone.state == "silent":
        text = f"{text}; it delivers nothing but zeros"
        return status, Finding("daemon", False, text, UNMUTE)
    if status.lag_s is not None and status.lag_s >= BEHIND_S:
        text = f"{text}; it is {status.lag_s:.1f} s behind it"
        fix = "unless kwsd was stopped for a while, see what keeps this machine busy: top"
        return status, Finding("daemon", False, text, fix)
    return status, Finding("daemon", True, text)


def _rights(status: StatusReply) -> Finding:
    if status.refused:
        return Finding(
            "rights", True, f"you may hear events; enrolling and the like is {status.refused}"
        )
    return Finding("rights", True, "you may make every request")


def _groups(config: Config) -> Iterator[Finding]:
    for key in ("group", "admin_group", "stream_group", "identify_group", "pause_group"):
        name = getattr(config.socket, key)
        try:
            if name:
                grp.getgrnam(name)
        except KeyError:
            text = f"socket.{key}: there is no group {name!r}"
            yield Finding("groups", False, text, f"sudo groupadd --system {name}")


def _services(status: StatusReply | None) -> Iterator[Finding]:
    """Yield what systemd says of the machine's unit and of the user's, where it knows of them."""
    if not _has_systemd():
        return
    active = []
    for options, whose in MANAGERS:
        state = _state_of("kwsd.service", options)
        if state is None:
            continue
        active += [whose] if state == "active" else []
        ok = state == "active" or (state != "failed" and status is not None)
        unit = " ".join(["journalctl", *options, "-u", "kwsd", "-n", "50"])
        start = " ".join(["systemctl", *options, "start", "kwsd"])
        fix = "" if ok else unit if state == "failed" else start
        yield Finding("service", ok, f"{whose} kwsd.service is {state}", fix)
    if len(active) > 1:
        text = "the machine's service and your own compete for the microphone"
        fix = "systemctl --user disable --now kwsd   (or: sudo systemctl disable --now kwsd)"
        yield Finding("service", False, text, fix)
    for options, whose in MANAGERS:
        for bridge in (*GROUPS["Bridges to other programs"], "satellite"):
            unit = f"kwsd-{bridge}.service"
            if state := _state_of(unit, options):
                fix = " ".join(["journalctl", *options, "-u", f"kwsd-{bridge}", "-n", "50"])
                ok = state == "active"
                yield Finding("bridge", ok, f"{whose} {unit} is {state}", "" if ok else fix)


def _state_of(unit: str, options: Sequence[str]) -> str | None:
    """Return the state of a unit that runs, or should; None for one that nobody wants."""
    state = _systemctl("is-active", *options, unit)
    if state == "inactive" and _systemctl("is-enabled", *options, unit) != "enabled":
        return None
    return state or None


def _has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def _systemctl(*arguments: str) -> str:
    command = ["systemctl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


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
        if not daemon_runs:  # it may listen to something else
            yield _no_device()
        return
    listed = ", ".join(f"{device.index}: {device.name}" for device in found)
    yield Finding("input devices", True, listed)
    if not daemon_runs:  # it has the microphone, or has left it to somebody else
        yield from _microphone(config)


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


def _microphone(config: Config) -> Iterator[Finding]:
    """Listen for some seconds."""
    try:
        with open_microphone(config.microphone, every_channel=True) as microphone:
            read = (microphone.read() for _ in range(int(LISTEN_S / BLOCK_S)))
            blocks = [block.samples for block in read if block]
    except MicrophoneError as error:
        fix = "kwsd devices; then set microphone.device"
        if "in use" in str(error):
            fix = "stop the program that uses it: fuser -v /dev/snd/*"
        yield Finding("microphone", False, str(error), fix)
        return
    found = diagnose(np.concatenate(blocks))
    named = f"{microphone.name}, {microphone.rate} Hz"
    levels = microphone.meter.levels_dbfs
    yield from _heard(named, found)
    if len(levels) > 1:
        yield _channels(levels, config.microphone.channel)


def _channels(levels_dbfs: Sequence[float], channel: int | str) -> Finding:
    """Return what the channels carry; the one that is heard should not be the dead one."""
    text = channel_levels(levels_dbfs)
    alive = [n for n, level in enumerate(levels_dbfs) if level > SILENCE_DBFS]
    if isinstance(channel, int) and alive and channel not in alive:
        text = f"channel {channel} is silent, and another is not: {text}"
        fix = f"set microphone.channel to {alive[0]}, or to mix"
        return Finding("channels", False, text, fix)
    return Finding("channels", True, text)


def _heard(microphone: str, found: Diagnosis) -> Iterator[Finding]:
    """Yield what a recording of `microphone` shows."""
    if found.silent:
        text = f"{microphone}, delivers silence ({found.level_dbfs:.0f} dBFS)"
        yield Finding("microphone", False, text, UNMUTE)
        return
    text = f"{microphone}, peaks at {found.level_dbfs:.0f} dBFS"
    if found.band == "unknown":
        text += "; too quiet to tell its band (speak while doctor listens)"
    yield Finding("microphone", True, text)
    if found.clipped >= CLIPPED:
        text = f"{100 * found.clipped:.1f} % of the samples are clipped"
        fix = "lower its gain: alsamixer, or pactl set-source-volume @DEFAULT_SOURCE@ -6dB"
        yield Finding("microphone", False, text, fix)
    if abs(found.offset) >= HARMFUL_OFFSET:
        text = f"a constant offset of {100 * found.offset:.0f} % of full scale leaves little room"
        fix = "try another input (kwsd devices, then microphone.device): this one is faulty"
        yield Finding("microphone", False, text, fix)
    elif abs(found.offset) >= OFFSET:
        text = f"a constant offset of {100 * found.offset:.1f} % of full scale, which kwsd removes"
        yield Finding("microphone", True, text)
    if found.band == "telephone":
        text = "it carries nothing above 4 kHz, as a telephone or a Bluetooth headset in a call"
        fix = "choose the headset's profile with mSBC (pactl list cards), or another microphone"
        yield Finding("microphone", False, text, f"{fix}: kwsd devices")

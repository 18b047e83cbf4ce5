"""The configuration: frozen structs with a default for every key.

The types are the validation: `kwsd.config_file` reads YAML into them, refuses what does not fit,
and makes the JSON Schema of `kwsd.yaml` from them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from kwsd.bounded.file import FileError
from kwsd.bridge_config import MetricsConfig, MqttConfig, Section, Text, WebConfig, WyomingConfig

SOCKET_PATH_BYTES = 107
"""Longest path of a socket that Linux accepts."""


class ConfigError(FileError):
    """The configuration is wrong; the message names file, line and key, and what is expected."""


class UnknownWords(ConfigError):
    """There is no model of some words that are to be listened for."""

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


OperatingPointName = Literal["strict", "balanced", "lenient"]
"""Operating points by rising rate of false accepts; `kwsd.detect.setup` gives their thresholds."""


class WordConfig(Section, frozen=True):
    """One wake word. A `null` is taken from the model bundle."""

    threshold: Annotated[float, Meta(gt=0, le=1)] | OperatingPointName | None = None
    """Score from which the word fires, above 0 and at most 1; or one of its operating points,
    measured at 0.1, 0.5 and 1 false accept an hour (0.5, 1 and 2 for an added word)."""
    refractory_s: Annotated[float, Meta(ge=0, le=60)] = 2.0
    """Seconds after a wake during which the same word does not fire again."""
    enabled: bool = True
    """Whether it is listened for from the start; `kwsd word enable` and `disable` change that while
    the daemon runs."""


class MicrophoneConfig(Section, frozen=True):
    """The input device."""

    device: Text | Annotated[int, Meta(ge=0, le=1000)] | None = None
    """An input device (`kwsd devices`): the name of its sound card, which survives a reboot
    (`hw:CARD=Device`), words of its name, or its number. Null is the default."""
    channel: Annotated[int, Meta(ge=0)] | Literal["mix"] = 0
    """Channel of a device or a recording with several, from 0; or `mix`, the mean of those that
    carry sound."""
    retry_s: Annotated[float, Meta(gt=0, le=15)] = 1.0
    """Seconds before a lost device is tried again; the pause doubles up to 15 s."""
    stall_s: Annotated[float, Meta(ge=0.5, le=60)] = 3.0
    """A device that delivers nothing for this many seconds counts as lost."""


class VadConfig(Section, frozen=True):
    """The voice-activity gate (WebRTC's detector), which lets the encoder sleep."""

    enabled: bool = True
    """Whether there is a gate; without it the encoder never sleeps."""
    mode: Literal[0, 1, 2, 3] = 0
    """Aggressiveness of the detector: 0 lets most audio through, 3 least."""
    hangover_s: Annotated[float, Meta(ge=0.2, le=30)] = 1.5
    """Seconds that the gate stays open after the last voiced frame."""


class SpeakerConfig(Section, frozen=True):
    """Speaker verification."""

    threshold: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """Score from which a voice counts as an enrolled speaker's; null is calibrated or the bundle's.
    """
    require: Literal["anyone", "enrolled"] | Annotated[list[Text], Meta(min_length=1)] = "anyone"
    """Who may wake the daemon: anyone, any enrolled speaker, or a list of names. Other voices give
    a `rejected` event with the reason `wrong_speaker`."""


class ClipsConfig(Section, frozen=True):
    """Recordings of wakes and near misses, kept in the state directory (`kwsd clips`)."""

    enabled: bool = False
    """Whether clips are kept."""
    max_count: Annotated[int, Meta(ge=1, le=100_000)] = 200
    """The oldest clips are deleted first, unlabeled ones before labeled ones; the same holds for
    age and size."""
    max_age_days: Annotated[float, Meta(gt=0, le=3650)] = 30.0
    """Days after which a clip is deleted."""
    max_mib: Annotated[float, Meta(ge=1, le=1 << 20)] = 32.0
    """MiB that all clips may take together."""


class TakesConfig(Section, frozen=True):
    """Recordings of added words, kept in the state directory (`kwsd word takes`)."""

    keep: bool = True
    """Whether the takes of new words are kept as recordings, until the word is removed, so that the
    words can be made again (`kwsd word rebuild`)."""


class SocketConfig(Section, frozen=True):
    """The Unix socket."""

    path: Text | None = None
    """Null is `$RUNTIME_DIRECTORY/kwsd.sock` under systemd, else `/run/kwsd/kwsd.sock` for root and
    `$XDG_RUNTIME_DIR/kwsd/kwsd.sock` for others."""
    admin_group: Text | None = None
    """Members of this group may enroll, delete and fetch audio, as root and the daemon's user may.
    """
    stream_group: Text | None = None
    """Members of this group may receive the audio of commands (`stream`) as well, and nothing else
    of what the admin group may."""
    group: Text | None = None
    """Group of the socket file, whose members may subscribe; null is the daemon's own."""
    identify_group: Text | None = None
    """Members of this group may ask whose voice was heard elsewhere, as `kwsd wyoming` does."""
    pause_group: Text | None = None
    """Members of this group may pause the microphone and resume it, as `kwsd mqtt` does."""
    backlog_bytes: Annotated[int, Meta(ge=4096, le=1 << 28)] = 1 << 20
    """A client with more bytes of unread events than this is dropped; replies do not count."""
    max_clients: Annotated[int, Meta(ge=1, le=4096)] = 64
    """Clients that may be connected at the same time; four places, or half of fewer than eight, are
    kept for root and the daemon's own user."""


class Config(Section, frozen=True):
    """The whole configuration, `kwsd.yaml`."""

    words: Annotated[dict[str, WordConfig], Meta(min_length=1)] = field(
        default_factory=lambda: {"computer": WordConfig()}
    )
    """The wake words, by name."""
    added_words: bool = True
    """Listen for the words of `kwsd word add` as well, even where `words` does not name them."""
    exclusive_words: bool = True
    """Of words that fire on one utterance only the best wakes, at most 160 ms later. The others are
    `rejected` with the reason `other_word`."""
    microphone: MicrophoneConfig = MicrophoneConfig()
    """The input device."""
    vad: VadConfig = VadConfig()
    """The voice-activity gate; `on` and `off` are short for `enabled`."""
    checker: Literal["small", "large", "off"] = "small"
    """The second stage, which hears a candidate of a word that comes with kwsd again before it
    fires: `small`, `large` for a stronger machine where the bundle has one, or `off`."""
    speaker: SpeakerConfig = SpeakerConfig()
    """Speaker verification."""
    socket: SocketConfig = SocketConfig()
    """The Unix socket."""
    clips: ClipsConfig = ClipsConfig()
    """Recordings of wakes and near misses; `on` and `off` are short for `enabled`."""
    wyoming: WyomingConfig = WyomingConfig()
    """The wake service for Home Assistant and satellites."""
    mqtt: MqttConfig = MqttConfig()
    """The bridge to an MQTT broker."""
    metrics: MetricsConfig = MetricsConfig()
    """The figures for Prometheus."""
    web: WebConfig = WebConfig()
    """The page in a browser."""
    takes: TakesConfig = TakesConfig()
    """Recordings of added words."""
    log_peaks: bool = True
    """Log time and score of what came near a word (no audio) in the state directory, for
    `kwsd calibrate --log`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the daemon logs, to the journal or standard error; `-v` is `debug`."""
    near_miss: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """A score that peaks above this share of its threshold without reaching it is reported as
    `rejected` with the reason `near_miss`."""
    lookback_s: Annotated[float, Meta(ge=4, le=300)] = 10.0
    """Seconds of past audio that the ring keeps for `audio` requests."""
    models: Text | None = None
    """Folder of the model bundle; null is the one that came with kwsd."""
    state: Text | None = None
    """Folder of voiceprints, added words and their takes, calibration and clips. Null is
    `$STATE_DIRECTORY` under systemd, else `/var/lib/kwsd` for root and `$XDG_STATE_HOME/kwsd` for
    others."""

    def socket_path(self) -> Path:
        """Return the path of the socket."""
        return Path(self.socket.path) if self.socket.path else runtime_directory() / "kwsd.sock"

    def state_directory(self) -> Path:
        """Return the folder of voiceprints, added words and their takes, calibration and clips."""
        if self.state:
            return Path(self.state)
        if under_systemd := os.environ.get("STATE_DIRECTORY"):
            return Path(under_systemd.split(":")[0])
        if os.geteuid() == 0:
            return Path("/var/lib/kwsd")
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "kwsd"

    def models_path(self) -> Path | None:
        """Return the folder of the model bundle, or None for the one that came with kwsd."""
        return Path(self.models) if self.models else None


def runtime_directory() -> Path:
    """Return the folder in which a daemon of this user keeps its socket."""
    if under_systemd := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(under_systemd.split(":")[0])
    if os.geteuid() == 0:
        return Path("/run/kwsd")
    return user_directory()


def user_directory() -> Path:
    """Return the folder in which a daemon of this user, started by hand, keeps its socket."""
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(base) / "kwsd"
    return Path(f"/tmp/kwsd-{os.geteuid()}")


def why_too_long(socket: Path) -> str | None:
    """Return why there can be no socket at a path, with the remedy; None where there can."""
    length = len(os.fsencode(socket))
    if length <= SOCKET_PATH_BYTES:
        return None
    text = f"{socket} has {length} bytes, and the path of a socket at most {SOCKET_PATH_BYTES}"
    return f"{text}; choose a shorter one"


def why_unsafe(folder: Path) -> str | None:
    """Return why somebody else could put a socket into `folder`; None where nobody could.

    Below `/tmp` anybody may make the folder first.
    """
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{folder} cannot be examined ({error.strerror})"
    if not stat.S_ISDIR(status.st_mode):
        return f"{folder} is not a folder"
    if status.st_uid != os.geteuid():
        return f"{folder} belongs to another user (uid {status.st_uid})"
    if status.st_mode & 0o022:
        return f"others may write into {folder} (mode {stat.S_IMODE(status.st_mode):o})"
    return None

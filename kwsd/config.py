"""The configuration: frozen, validated data, and the YAML file it is read from. Every key has a default that works."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

SAMPLE_RATE = 16000
"""Everything behind the microphone runs at this rate, Hz."""


class ConfigError(ValueError):
    """The configuration is wrong; the message names file, line and key, and says what would be right."""


@dataclass(frozen=True)
class Word:
    """One wake word. What is `null` comes from the model bundle."""

    threshold: float | Literal["strict", "balanced", "lenient"] | None = None
    """Score from which it fires, above 0 and up to 1; or one of its operating points, measured at 0.1, 0.5 and 1 false accept an hour
    (0.5, 1 and 2 of an added word)."""
    refractory_s: float = 2.0
    """After a wake, the same word is deaf for so long."""

    def __post_init__(self) -> None:
        number = isinstance(self.threshold, int | float)
        _check("threshold", not number or 0 < float(self.threshold or 0) <= 1, self.threshold, "above 0 and at most 1, or null")
        _check("refractory_s", 0 <= self.refractory_s <= 60, self.refractory_s, "between 0 and 60 seconds")


@dataclass(frozen=True)
class Microphone:
    device: str | int | None = None
    """Number or part of the name of an input device (`kwsd devices`); null is the system's default."""
    channel: int | Literal["mix"] = 0
    """Which channel of a device with several, from 0; or `mix`, their mean."""
    retry_s: float = 1.0
    """First pause before a lost device is tried again; doubles up to 15 s."""
    stall_s: float = 3.0
    """A device that delivers nothing for so long counts as lost."""

    def __post_init__(self) -> None:
        _check("channel", self.channel == "mix" or self.channel >= 0, self.channel, "a channel number from 0, or mix")
        _check("retry_s", 0 < self.retry_s <= 15, self.retry_s, "above 0 and at most 15 seconds")
        _check("stall_s", 0.5 <= self.stall_s <= 60, self.stall_s, "between 0.5 and 60 seconds")


@dataclass(frozen=True)
class Vad:
    """The voice-activity gate (WebRTC's detector) that lets the encoder sleep."""

    enabled: bool = True
    mode: int = 0
    """0 lets most through, 3 least."""
    hangover_s: float = 1.5
    """The gate stays open so long after the last voiced frame."""

    def __post_init__(self) -> None:
        _check("mode", self.mode in (0, 1, 2, 3), self.mode, "0, 1, 2 or 3")
        _check("hangover_s", 0.2 <= self.hangover_s <= 30, self.hangover_s, "between 0.2 and 30 seconds")


@dataclass(frozen=True)
class Speaker:
    threshold: float | None = None
    """Similarity from which a voice counts as an enrolled speaker's; null takes the bundle's."""
    require: Literal["anyone", "enrolled"] | list[str] = "anyone"
    """Who may wake it: anyone, any enrolled speaker, or a list of names. Others give `rejected: wrong_speaker`."""

    def __post_init__(self) -> None:
        _check("threshold", self.threshold is None or 0 < self.threshold < 1, self.threshold, "between 0 and 1, or null")
        _check("require", self.require != [], self.require, "anyone, enrolled, or a list of at least one name")


@dataclass(frozen=True)
class Clips:
    """Recordings of wakes and near misses that the daemon keeps in its state directory (`kwsd clips`)."""

    enabled: bool = False
    max_count: int = 200
    """The oldest go first, those that nobody has labelled before all others; the same for age and size."""
    max_age_days: float = 30.0
    max_mib: float = 32.0

    def __post_init__(self) -> None:
        _check("max_count", 1 <= self.max_count <= 100_000, self.max_count, "between 1 and 100000")
        _check("max_age_days", 0 < self.max_age_days <= 3650, self.max_age_days, "above 0 and at most 3650 days")
        _check("max_mib", 1 <= self.max_mib <= 1 << 20, self.max_mib, "between 1 and 1048576 MiB")


@dataclass(frozen=True)
class Socket:
    path: str | None = None
    """Null: `$RUNTIME_DIRECTORY/kwsd.sock` under systemd, else `/run/kwsd/kwsd.sock` for root, `$XDG_RUNTIME_DIR/kwsd/kwsd.sock` for others."""
    admin_group: str | None = None
    """Members may enrol, delete and fetch audio, as root and the daemon's own user may."""
    group: str | None = None
    """The socket file is given to this group, whose members may subscribe; null leaves the daemon's own."""
    backlog_bytes: int = 1 << 20
    """A client with more unread bytes than this is dropped."""
    max_clients: int = 64

    def __post_init__(self) -> None:
        _check("backlog_bytes", 4096 <= self.backlog_bytes <= 1 << 28, self.backlog_bytes, "between 4096 and 268435456")
        _check("max_clients", 1 <= self.max_clients <= 4096, self.max_clients, "between 1 and 4096")


@dataclass(frozen=True)
class Config:
    words: dict[str, Word] = field(default_factory=lambda: {"computer": Word()})
    added_words: bool = True
    """Listen for the words of `kwsd word add` as well, also where they do not stand in `words`."""
    microphone: Microphone = field(default_factory=Microphone)
    vad: Vad = field(default_factory=Vad)
    speaker: Speaker = field(default_factory=Speaker)
    socket: Socket = field(default_factory=Socket)
    clips: Clips = field(default_factory=Clips)
    log_peaks: bool = True
    """Keep times and scores of what came near a word (no audio) in the state directory, for `kwsd calibrate --log`."""
    near_miss: float = 0.5
    """A score that peaks over this share of the threshold without reaching it is reported as `rejected: near_miss`."""
    lookback_s: float = 10.0
    """How much past audio the ring keeps for `audio` requests."""
    models: str | None = None
    """Folder of the model bundle; null is the one that came with kwsd."""
    state: str | None = None
    """Folder of voiceprints, added words, calibration and clips.

    Null: `$STATE_DIRECTORY` under systemd, else `/var/lib/kwsd` for root, `$XDG_STATE_HOME/kwsd` for others."""

    def __post_init__(self) -> None:
        _check("words", len(self.words) > 0, self.words, "at least one wake word")
        _check("near_miss", 0 < self.near_miss <= 1, self.near_miss, "above 0 and at most 1")
        _check("lookback_s", 4 <= self.lookback_s <= 300, self.lookback_s, "between 4 and 300 seconds")

    def socket_path(self) -> Path:
        return Path(self.socket.path) if self.socket.path else runtime_directory() / "kwsd.sock"

    def state_directory(self) -> Path:
        if self.state:
            return Path(self.state)
        if under_systemd := os.environ.get("STATE_DIRECTORY"):
            return Path(under_systemd.split(":")[0])
        if os.geteuid() == 0:
            return Path("/var/lib/kwsd")
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "kwsd"


def runtime_directory() -> Path:
    if under_systemd := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(under_systemd.split(":")[0])
    if os.geteuid() == 0:
        return Path("/run/kwsd")
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(base) / "kwsd"
    return Path(f"/tmp/kwsd-{os.geteuid()}")


def default_paths() -> list[Path]:
    """Where a configuration is looked for: the user's, then the system's."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [home / "kwsd" / "kwsd.yaml", Path("/etc/kwsd/kwsd.yaml")]


def load(path: Path | None = None) -> Config:
    """The configuration of `path`, else of the first default path that exists, else all defaults. Raises ConfigError."""
    if path is None:
        path = next((p for p in default_paths() if _exists(p)), None)
        if path is None:
            return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    return parse(text, str(path))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def parse(text: str, name: str = "<config>") -> Config:
    """The configuration in a YAML `text`; `name` stands in error messages. Raises ConfigError."""
    result = parse_as(Config, text, name)
    assert isinstance(result, Config)
    return result


def parse_as(kind: Any, text: str, name: str) -> Any:
    """A YAML `text` as the type `kind`: a dataclass, or a dict of names to them. Raises ConfigError."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {error}") from error
    return _read(kind, node, name, "") if node is not None else kind()


def dump(config: Config) -> str:
    """The effective configuration as YAML that `parse` reads back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def _check(key: str, ok: bool, value: object, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"{key}: {value!r} is not {wanted}")


def _read(kind: Any, node: yaml.Node, name: str, key: str) -> Any:
    """The value of type `kind` that the YAML `node` holds; errors name the file, the line and the key."""
    where = f"{name}, line {node.start_mark.line + 1}"
    if dataclasses.is_dataclass(kind):
        return _read_struct(kind, node, name, key)
    if get_origin(kind) is dict:
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{where}: {key} must be a mapping of names")
        values = {}
        for k, v in node.value:
            if not isinstance(k, yaml.ScalarNode) or k.value in values:
                raise ConfigError(f"{name}, line {k.start_mark.line + 1}: {key}: {getattr(k, 'value', k)!r} stands twice or is no name")
            empty = isinstance(v, yaml.ScalarNode) and v.tag.endswith(":null")
            values[k.value] = get_args(kind)[1]() if empty else _read(get_args(kind)[1], v, name, f"{key}.{k.value}" if key else k.value)
        return values
    options = get_args(kind) if get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    value = _plain(node)
    for option in options:
        if get_origin(option) is Literal and value in get_args(option) and not isinstance(value, bool):
            return value
        if get_origin(option) is list and isinstance(value, list) and all(type(v) is get_args(option)[0] for v in value):
            return value
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(option, type) and isinstance(value, option) and isinstance(value, bool) == (option is bool):
            return value
    raise ConfigError(f"{where}: {key}: {value!r} is not {_wanted(options)}")


def _read_struct(kind: Any, node: yaml.Node, name: str, key: str) -> Any:
    if kind in (Vad, Clips) and isinstance(node, yaml.ScalarNode) and isinstance(_plain(node), bool):
        return kind(enabled=_plain(node))  # `vad: off`, `clips: on`
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{name}, line {node.start_mark.line + 1}: {key or 'the file'} must be a mapping of keys to values")
    fields = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for k, v in node.value:
        line = f"{name}, line {k.start_mark.line + 1}"
        path = f"{key}.{k.value}" if key else str(k.value)
        if k.value not in fields:
            raise ConfigError(f"{line}: unknown key {path!r}; here stand {', '.join(fields)}")
        if k.value in values:
            raise ConfigError(f"{line}: {path} stands twice")
        values[k.value] = _read(fields[k.value], v, name, path)
    try:
        return kind(**values)
    except ConfigError as error:
        bad = str(error).split(":", 1)[0]
        at = next((k for k, _ in node.value if k.value == bad), node)
        raise ConfigError(f"{name}, line {at.start_mark.line + 1}: {key + '.' if key else ''}{error}") from None


def _plain(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def _wanted(options: tuple[Any, ...]) -> str:
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false", type(None): "null"}
    words = []
    for option in options:
        words += (
            [repr(a) for a in get_args(option)]
            if get_origin(option) is Literal
            else [names.get(option, "a list of names" if get_args(option) == (str,) else "a list of whole numbers")]
        )
    return " or ".join(words)

"""The configuration file: where it is, what is in it, and its JSON Schema."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kwsd.bounded import file as bounded
from kwsd.bridge_config import OFF
from kwsd.config import Config, ConfigError
from kwsd.names import look_up, word_name

MAX_BYTES = 1 << 20
"""Bytes of a configuration."""

SWITCHES = ("vad", "clips")
"""Sections for which `on` and `off` stand for `enabled: true` and `false`."""
OFF_IS_TEXT = (("checker",), ("mqtt", "discovery"), ("metrics", "listen"))
"""Keys whose values are text, `off` among them."""


def default_paths() -> list[Path]:
    """Return where a configuration is looked for: the user's file, then the system's."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [home / "kwsd" / "kwsd.yaml", Path("/etc/kwsd/kwsd.yaml")]


class Loaded(NamedTuple):
    """A configuration, and where it came from."""

    config: Config
    path: Path | None = None
    """The file; None where there is none, and defaults are in force."""
    origins: Mapping[str, str] = {}
    """Where each key that the file sets is set, as `FILE, line N`, by its path."""


def load(path: Path | None = None) -> Config:
    """Return the configuration in `path`, else in the first default path that exists, else
    defaults.

    Raises ConfigError.
    """
    return read(path).config


def read(path: Path | None = None) -> Loaded:
    """Return what `load` returns, and where it came from. Raises ConfigError."""
    path = path or find()
    if path is None:
        return Loaded(Config())
    try:
        data = b"" if path == Path(os.devnull) else bounded.read(path, MAX_BYTES)
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: is not text in UTF-8") from error
    except FileNotFoundError:
        text = "no such file; check its name, or leave it out for the defaults"
        raise ConfigError(f"cannot read the configuration {path}: {text}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    config = parse(text, str(path))
    from kwsd import yaml_structs

    origins = {_stored(key): where for key, where in yaml_structs.lines(text, str(path)).items()}
    return Loaded(config, path, origins)


def find() -> Path | None:
    """Return the first default path that exists."""
    return next((path for path in default_paths() if _exists(path)), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def parse(text: str, name: str = "<config>") -> Config:
    """Return the configuration in a YAML `text`; errors call it `name`. Raises ConfigError."""
    from kwsd.yaml_structs import parse_as

    abbreviated = dict.fromkeys(SWITCHES, "on, off or a mapping of keys to values")
    return parse_as(Config, text, name, lambda value: _fill_in(value, name), abbreviated)


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of `kwsd.yaml`."""
    from kwsd import validation

    (root,), definitions = validation.json_schema([Config])
    properties = definitions["Config"]["properties"]
    for key in SWITCHES:
        section = {k: v for k, v in properties[key].items() if k not in ("description", "default")}
        properties[key] = {**properties[key], "anyOf": [section, {"type": "boolean"}]}
        properties[key].pop("$ref", None)
    word = properties["words"]["additionalProperties"]
    properties["words"]["additionalProperties"] = {"anyOf": [word, {"type": "null"}]}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "kwsd.yaml"}
    return {**head, **root, "$defs": definitions}


def _stored(path: tuple[str, ...]) -> str:
    """Return the path of a key, with words under the names that they are stored by."""
    if path[0] == "words" and len(path) > 1:
        path = ("words", word_name(path[1]), *path[2:])
    return ".".join(path)


def _off_as_text(value: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return a mapping with `off` at a path where YAML has read it as `false`."""
    key, *rest = path
    inside = value.get(key)
    if rest and isinstance(inside, dict):
        return {**value, key: _off_as_text(inside, rest)}
    return {**value, key: OFF} if not rest and inside is False else value


def _fill_in(value: Any, name: str) -> Any:
    """Write out what the configuration lets people abbreviate: `vad: off`, `words: {alexa: }`.

    In the same way, `off` is the text that it looks like at the keys `OFF_IS_TEXT`.

    A word may be written with spaces; errors call the file `name`. Raises ConfigError.
    """
    if not isinstance(value, dict):
        return value
    full = dict(value)
    for path in OFF_IS_TEXT:
        full = _off_as_text(full, path)
    for key in SWITCHES:
        if isinstance(full.get(key), bool):
            full[key] = {"enabled": full[key]}
    if isinstance(full.get("words"), dict):
        words: dict[str, Any] = {}
        for word, own in full["words"].items():
            if first := look_up(word_name(word), words):
                raise ConfigError(f"{name}: words: {word!r} appears twice, as {first!r}")
            words[word_name(word)] = {} if own is None else own
        full["words"] = words
    return full

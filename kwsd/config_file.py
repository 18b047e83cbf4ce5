"""The configuration file: where it is, what is in it, and its JSON Schema."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kwsd.config import Config, ConfigError

SWITCHES = ("vad", "clips")
"""Sections for which `on` and `off` stand for `enabled: true` and `false`."""


def default_paths() -> list[Path]:
    """Return where a configuration is looked for: the user's file, then the system's."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [home / "kwsd" / "kwsd.yaml", Path("/etc/kwsd/kwsd.yaml")]


def load(path: Path | None = None) -> Config:
    """Return the configuration in `path`, else in the first default path that exists, else
    defaults.

    Raises ConfigError.
    """
    path = path or find()
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    return parse(text, str(path))


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
    return parse_as(Config, text, name, _fill_in, abbreviated)


def dump(config: Config) -> str:
    """Return the effective configuration as YAML that `parse` reads back."""
    from kwsd import yaml_structs

    return yaml_structs.dump(config)


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


def _fill_in(value: Any) -> Any:
    """Write out what the configuration lets people abbreviate: `vad: off`, `words: {alexa: }`."""
    if not isinstance(value, dict):
        return value
    full = dict(value)
    for key in SWITCHES:
        if isinstance(full.get(key), bool):
            full[key] = {"enabled": full[key]}
    if isinstance(full.get("words"), dict):
        full["words"] = {word: {} if own is None else own for word, own in full["words"].items()}
    return full

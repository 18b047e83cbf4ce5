"""The settings of the training stages: small YAML files beside this one, each read as the type that
its stage declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from msgspec import Struct

from kwsd.config import ConfigError
from kwsd.yaml_structs import parse_as

Kind = TypeVar("Kind")


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of one stage, or a part of them."""


def read(stage: str, kind: type[Kind], changes: Sequence[str] = ()) -> Kind:
    """Return the settings of `stage` as `kind`, after `KEY.KEY=VALUE` changes.

    `kind` is a `Settings` or a dict of names to `Settings`. Raises ConfigError."""
    path = shipped(stage)
    text = path.read_text(encoding="utf-8")
    if not changes:
        return parse(kind, text, str(path))
    body = yaml.safe_load(text)
    for change in changes:
        keys, equals, value = change.partition("=")
        *outer, last = keys.split(".")
        inner = body
        for key in outer:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if not equals or not isinstance(inner, dict):
            missing = ".".join(outer) or keys
            raise ConfigError(
                f"--set {change}: {path.name} has no {missing!r}; write KEY.KEY=VALUE"
            )
        inner[last] = _value(value)
    return parse(
        kind, yaml.safe_dump(body, sort_keys=False), f"{path.name} with {', '.join(changes)}"
    )


def parse(
    kind: type[Kind], text: str, name: str, defaults: Mapping[str, Any] | None = None
) -> Kind:
    """Return the YAML `text` as `kind`; `name` stands in the messages.

    What `text` does not name is taken from `defaults`. Raises ConfigError."""

    def filled_in(value: Any) -> Any:
        return {**(defaults or {}), **value} if isinstance(value, dict) else value

    return parse_as(kind, text, name, filled_in)


def shipped(name: str) -> Path:
    """Return the path of the settings file `name` that comes with kwsd."""
    return Path(__file__).with_name(f"{name}.yaml")


def _value(text: str) -> Any:
    """Return `text` as YAML reads it, and 2e-4, which YAML 1.1 takes for a string, as a number."""
    value = yaml.safe_load(text)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value

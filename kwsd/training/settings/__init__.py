"""Settings of the training stages: small YAML files beside this one, typed by the stage that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kwsd.config import ConfigError, parse_as


def read(stage: str, kind: Any, changes: Sequence[str] = ()) -> Any:
    """The settings of `stage` as the type `kind`, with `KEY.KEY=VALUE` changes. Raises ConfigError."""
    path = Path(__file__).with_name(f"{stage}.yaml")
    text = path.read_text(encoding="utf-8")
    if not changes:
        return parse_as(kind, text, str(path))
    body = yaml.safe_load(text)
    for change in changes:
        keys, equals, value = change.partition("=")
        *outer, last = keys.split(".")
        inner = body
        for key in outer:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if not equals or not isinstance(inner, dict):
            raise ConfigError(f"--set {change}: {path.name} has no {'.'.join(outer) or keys!r}; write KEY.KEY=VALUE")
        inner[last] = _value(value)
    return parse_as(kind, yaml.safe_dump(body), f"{path.name} with {', '.join(changes)}")


def _value(text: str) -> Any:
    """As YAML has it; and 2e-4, which YAML 1.1 takes for a word, is a number."""
    value = yaml.safe_load(text)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value

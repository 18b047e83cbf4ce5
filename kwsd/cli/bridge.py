"""What the verbs of bridges share: their section of the configuration, and their libraries."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kwsd import config_file, extras, validation
from kwsd.cli.output import UNAVAILABLE, fail
from kwsd.config import Config, ConfigError


def missing_library(extra: str, library: str | None = None) -> int | None:
    """Report that the library of the extra is not installed; return the exit code, or None."""
    library = library or extra
    if importlib.util.find_spec(library):
        return None
    fix = f"sudo ./dev install --with {extra}, for the service; else {extras.command(extra)}"
    return fail(UNAVAILABLE, f"the library {library} is not installed: {fix}")


def configured(arguments: argparse.Namespace, section: str, keys: Sequence[str]) -> Config:
    """Return the configuration, where the options named as the `keys` of a section override them.

    Raises ConfigError.
    """
    config = config_file.load(arguments.config)
    before = getattr(config, section)
    given = {key: getattr(arguments, key) for key in keys}
    value = msgspec.to_builtins(before)
    value |= {key: one for key, one in given.items() if one is not None}
    try:
        changed = msgspec.convert(value, type(before))
    except msgspec.ValidationError as error:
        fault = validation.explain(error, type(before), value)
        found = f" {validation.value_at(value, fault.path)!r}" if fault.path else ""
        at = ".".join([section, *map(str, fault.path)])
        raise ConfigError(f"command line: {at}:{found} {fault.problem}") from None
    return msgspec.structs.replace(config, **{section: changed})


def socket_of(arguments: argparse.Namespace, config: Config) -> Path | None:
    """Return the daemon's socket, where it is named; None is the usual one.

    The option comes before the variable `KWSD_SOCKET`, and that before the configuration.
    """
    if arguments.socket is not None or os.environ.get("KWSD_SOCKET"):
        named: Path | None = arguments.socket
        return named
    return Path(config.socket.path) if config.socket.path else None

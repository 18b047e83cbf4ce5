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

    A section within another one has a name with a dot. Raises ConfigError.
    """
    config = config_file.load(arguments.config)
    given = {key: getattr(arguments, key) for key in keys if getattr(arguments, key) is not None}
    names = section.split(".")
    value = msgspec.to_builtins(config)
    inner = value
    for name in names:
        inner = inner[name]
    inner |= given
    kind = type(getattr(config, names[0]))
    try:
        changed = msgspec.convert(value[names[0]], kind)
    except msgspec.ValidationError as error:
        fault = validation.explain(error, kind, value[names[0]])
        found = f" {validation.value_at(value[names[0]], fault.path)!r}" if fault.path else ""
        if fault.own_words:
            found = ""
        at = ".".join([names[0], *map(str, fault.path)])
        raise ConfigError(f"command line: {at}:{found} {fault.problem}") from None
    return msgspec.structs.replace(config, **{names[0]: changed})


def socket_of(arguments: argparse.Namespace, config: Config) -> Path | None:
    """Return the daemon's socket, where it is named; None is the usual one.

    The option comes before the variable `KWSD_SOCKET`, and that before the configuration.
    """
    if arguments.socket is not None or os.environ.get("KWSD_SOCKET"):
        named: Path | None = arguments.socket
        return named
    return Path(config.socket.path) if config.socket.path else None

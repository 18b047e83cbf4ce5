"""Where a verb's requests go: to the daemon, or to the handlers over the folder of `--state`."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kwsd import config_file
from kwsd.cli.output import show
from kwsd.config import Config, ConfigError, WordConfig
from kwsd.names import look_up
from kwsd.protocol.messages import Requester

if TYPE_CHECKING:
    from kwsd.client.client import Client
    from kwsd.model.bundle import Bundle, CheckerModel
    from kwsd.server.state_handlers import StateHandlers


class Endpoint:
    """What answers requests, with the configuration and the bundle, which load when first used."""

    def __init__(self, arguments: argparse.Namespace, client: Client | None = None) -> None:
        """`arguments` are a verb's; without a `client`, its state directory answers."""
        self.client = client
        """The daemon, or None where the state directory answers."""
        self._arguments = arguments
        self._reported: set[str] = set()

    @cached_property
    def loaded(self) -> config_file.Loaded:
        """The configuration as it is written. Raises ConfigError."""
        return config_file.read(self._arguments.config)

    @cached_property
    def config(self) -> Config:
        """The configuration, with what the command line changes in it. Raises ConfigError."""
        return overrides(self._arguments)(self.loaded.config)

    @cached_property
    def bundle(self) -> Bundle:
        """The model bundle. Raises BundleError or ConfigError."""
        from kwsd.model import bundle

        return bundle.load(self.config.models_path())

    @property
    def checker(self) -> CheckerModel | None:
        """The checker that the configuration asks for. Raises BundleError or ConfigError."""
        from kwsd.detect.setup import chosen_checker

        return chosen_checker(self.config, self.bundle)

    @cached_property
    def state(self) -> StateHandlers:
        """The handlers over the configured state directory.

        Raises BundleError, ConfigError, and OSError where the directory that `--state` names is
        missing or closed to a verb that stores nothing in it.
        """
        from kwsd.server.state_handlers import StateHandlers

        named = getattr(self._arguments, "state", None)
        if named and not getattr(self._arguments, "stores", False):
            _check_there(named)
        folder = self.config.state_directory()
        return StateHandlers(folder, self.bundle, lambda: self.config, self._origins, self.report)

    def report(self, fault: str) -> None:
        """Print why a file of the state directory cannot be used, once for each reason."""
        if fault not in self._reported:
            self._reported.add(fault)
            show(f"kwsd: {fault}")

    def _origins(self) -> dict[str, str]:
        from kwsd.detect.in_force import overridden

        return {**self.loaded.origins, **overridden(self.loaded.config, self.config)}

    @property
    def requester(self) -> Requester:
        """The daemon, or the handlers over the state directory."""
        return self.client or self.state


def _check_there(folder: Path) -> None:
    """Raise OSError where there is no folder, or none that may be read."""
    if not folder.exists():
        fix = "check the name; `kwsd config show` names the daemon's"
        raise FileNotFoundError(f"--state {folder}: no such folder; {fix}")
    if not folder.is_dir():
        raise NotADirectoryError(f"--state {folder}: not a folder; name the one it is in")
    if not os.access(folder, os.R_OK | os.X_OK):
        fix = "leave --state out to ask the daemon, or use sudo"
        raise PermissionError(f"--state {folder}: you may not read it; {fix}")


@contextlib.contextmanager
def open_endpoint(arguments: argparse.Namespace) -> Iterator[Endpoint]:
    """Open the daemon, or the state directory where `--state` names one. Raises DaemonError."""
    if arguments.state:
        yield Endpoint(arguments)
    else:
        with connect_daemon(arguments) as client:
            yield Endpoint(arguments, client)


def connect_daemon(arguments: argparse.Namespace) -> Client:
    """Connect to the socket of `--socket`, else to the configured one, else to the usual one.

    Raises DaemonError.
    """
    path: Path | str | None = arguments.socket
    if path is None and not os.environ.get("KWSD_SOCKET"):
        with contextlib.suppress(ConfigError):  # a broken one is for the daemon to report
            path = config_file.load(arguments.config).socket.path
    from kwsd.client.client import connect

    return connect(path)


def load_config(arguments: argparse.Namespace) -> Config:
    """Return the configuration, with what the command line changes in it. Raises ConfigError."""
    return overrides(arguments)(config_file.load(arguments.config))


def overrides(arguments: argparse.Namespace) -> Callable[[Config], Config]:
    """Return what applies `--words`, `--state`, `--socket` and `-v` to a configuration."""

    def change(config: Config) -> Config:
        if words := getattr(arguments, "words", None):
            given = {
                name: config.words.get(look_up(name, config.words) or name, WordConfig())
                for name in words
            }
            chosen = {
                name: msgspec.structs.replace(word, enabled=True) for name, word in given.items()
            }
            config = msgspec.structs.replace(config, words=chosen, added_words=False)
        if state := getattr(arguments, "state", None):
            config = msgspec.structs.replace(config, state=str(state))
        if getattr(arguments, "verbose", False):
            config = msgspec.structs.replace(config, log_level="debug")
        if path := getattr(arguments, "socket", None):
            socket = msgspec.structs.replace(config.socket, path=str(path))
            config = msgspec.structs.replace(config, socket=socket)
        return config

    return change

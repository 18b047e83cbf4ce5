"""`kwsd reload`: the daemon reads its configuration and its state directory again."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.endpoint import connect_daemon
from kwsd.cli.output import print_json
from kwsd.protocol.commands import Reload

HELP = "make the daemon read its configuration and its state directory again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd reload`."""
    options.add_config(parser)
    options.add_socket(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Let the daemon reload; where it refuses, nothing has changed."""
    with connect_daemon(arguments) as client:
        client.request(Reload())
    if arguments.json:
        print_json({"reloaded": True})
    return 0

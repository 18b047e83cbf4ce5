"""`kwsd config`: the configuration in force, and the JSON Schema of `kwsd.yaml`."""

from __future__ import annotations

import argparse
import json
import os

import msgspec

from kwsd import config_file
from kwsd.cli import options
from kwsd.cli.endpoint import Endpoint, connect_daemon
from kwsd.cli.output import print_json, show
from kwsd.protocol.commands import GetConfig
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.replies import ConfigReply

HELP = "show the configuration in force, or the JSON Schema of kwsd.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd config`."""
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=["show", "schema"],
        help="show: what is in force in the daemon, or would be in one that is started now, with "
        "the source of each key, as YAML or with --json; "
        "schema: the JSON Schema, with which editors complete kwsd.yaml",
    )
    options.add_endpoint(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration or the schema."""
    if arguments.action == "schema":
        print(json.dumps(config_file.schema(), indent=2, ensure_ascii=False))
        return 0
    where, reply = _in_force(arguments)
    if arguments.json:
        config = config_file.parse(reply.text)
        print_json({**msgspec.to_builtins(config), "sources": reply.sources, "daemon": where})
        return 0
    print(f"# in force in the daemon at {where}" if where else "# in a daemon that is started now")
    print(reply.text, end="")
    return 0


def _in_force(arguments: argparse.Namespace) -> tuple[str | None, ConfigReply]:
    """Return the socket of the daemon that answers, and its configuration.

    The files answer where they are named, or where no daemon runs. Raises DaemonError for a socket
    that is named, and ConfigError.
    """
    named = bool(arguments.socket or os.environ.get("KWSD_SOCKET"))
    if named or not (arguments.config or arguments.state):
        try:
            with connect_daemon(arguments) as client:
                return str(client.path), client.request(GetConfig())
        except DaemonError as error:
            if named:
                raise
            show(f"no daemon answers: {error}")
    return None, Endpoint(arguments).requester.request(GetConfig())

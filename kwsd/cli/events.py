"""`kwsd events`: the daemon's events as they come, printed or given to a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import get_args

from kwsd.cli import options
from kwsd.cli.endpoint import connect_daemon
from kwsd.cli.event_commands import MAX_RUNNING, TIMEOUT_S, EventCommands
from kwsd.cli.output import USAGE, fail, print_event, print_gap
from kwsd.cli.parser import invalid_choice
from kwsd.events import Event
from kwsd.protocol.request import EventType

HELP = "print the daemon's events"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd events`."""
    options.add_config(parser)
    options.add_socket(parser)
    parser.add_argument(
        "--types",
        type=_event_types,
        metavar="A,B",
        help=f"only these: {', '.join(get_args(EventType))}",
    )
    options.add_words(parser, "only events of these words")
    parser.add_argument("--count", type=options.positive, metavar="N", help="exit after N events")
    options.add_details(parser, "; for root, the daemon's user and socket.admin_group")
    parser.add_argument(
        "--reconnect",
        action=argparse.BooleanOptionalAction,
        help="wait for a daemon that goes to come back, and print the gap; the default on a "
        "terminal (else kwsd events fails when the daemon goes)",
    )
    parser.add_argument(
        "--exec",
        dest="command",
        metavar="CMD",
        help="instead of printing an event, run the shell command CMD with its JSON on standard "
        f"input: at most {MAX_RUNNING} at once, {TIMEOUT_S:g} s each; exit with 1 if one failed",
    )
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print events until there were enough, or a recording has ended.

    Raises DaemonError where the daemon goes, unless it may come back.
    """
    command = arguments.command
    reconnect = arguments.reconnect
    if reconnect is None:
        reconnect = sys.stdout.isatty()
    if command is not None and not command.strip():
        return fail(USAGE, "--exec: name a command, such as --exec 'jq .word'")
    with connect_daemon(arguments) as client:
        details = arguments.details
        events = client.events(
            arguments.types,
            arguments.words,
            details=details,
            reconnect=reconnect,
            on_gap=None
            if arguments.command
            else lambda gap: print_gap(gap, as_json=arguments.json),
        )
        wanted = islice(events, arguments.count)
        if command is not None:
            return _run_commands(wanted, command, client.path, details=details)
        for event in wanted:
            print_event(event, as_json=arguments.json, details=details)
    return 0


def _run_commands(events: Iterable[Event], command: str, socket: Path, *, details: bool) -> int:
    """Run a command for each event; return 1 if one has failed."""
    with EventCommands(command, socket, details=details) as commands:
        for event in events:
            commands.start(event)
    return int(commands.failed)


def _event_types(text: str) -> list[str]:
    types = text.split(",")
    for name in types:
        if name not in get_args(EventType):
            raise argparse.ArgumentTypeError(invalid_choice(name, get_args(EventType)))
    return types

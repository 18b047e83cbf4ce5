"""`kwsd events`: the daemon's events as they come."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from kwsd.cli import options
from kwsd.cli.endpoint import connect_daemon
from kwsd.cli.output import print_event, print_gap
from kwsd.cli.parser import invalid_choice
from kwsd.protocol.commands import EventType

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
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print events until there were enough, or a recording has ended.

    Raises DaemonError where the daemon goes, unless it may come back.
    """
    reconnect = arguments.reconnect
    if reconnect is None:
        reconnect = sys.stdout.isatty()
    with connect_daemon(arguments) as client:
        details = arguments.details
        events = client.events(
            arguments.types,
            arguments.words,
            details=details,
            reconnect=reconnect,
            on_gap=lambda gap: print_gap(gap, as_json=arguments.json),
        )
        for number, event in enumerate(events, 1):
            print_event(event, as_json=arguments.json, details=details)
            if number == arguments.count:
                break
    return 0


def _event_types(text: str) -> list[str]:
    types = text.split(",")
    for name in types:
        if name not in get_args(EventType):
            raise argparse.ArgumentTypeError(invalid_choice(name, get_args(EventType)))
    return types

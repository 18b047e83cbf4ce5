"""`kwsd events`: the daemon's events as they come."""

from __future__ import annotations

import argparse
from typing import get_args

from kwsd.cli import options
from kwsd.cli.endpoint import connect_daemon
from kwsd.cli.output import print_event
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
    parser.add_argument("--count", type=int, metavar="N", help="exit after N events")
    options.add_details(parser, "; for root, the daemon's user and socket.admin_group")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print events until the daemon ends, or until there were enough."""
    with connect_daemon(arguments) as client:
        details = arguments.details
        events = client.events(arguments.types, arguments.words, details=details)
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

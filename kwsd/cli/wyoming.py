"""`kwsd wyoming`: a wake service for Home Assistant and satellites."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.bridge import configured, missing_library, socket_of

HELP = "serve wake words to Home Assistant and to satellites, by the Wyoming protocol"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd wyoming`."""
    parser.add_argument(
        "--uri", metavar="URI", help="where to listen (default: tcp://0.0.0.0:10400)"
    )
    parser.add_argument(
        "--allow",
        action="append",
        metavar="ADDR",
        help="an address or network that may connect, again for each (default: local networks)",
    )
    parser.add_argument(
        "--max-clients",
        type=options.positive,
        metavar="N",
        help="clients that may be connected at the same time (default: 32)",
    )
    options.add_config(parser)
    options.add_socket(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is stopped. Raises ConfigError, BundleError or OSError."""
    if missing := missing_library("wyoming"):
        return missing
    config = configured(arguments, "wyoming", ("uri", "allow", "max_clients"))
    from kwsd.bridges import service
    from kwsd.bridges.wyoming.server import WakeService

    return service.run(WakeService(config, socket_of(arguments, config)).serve)

"""`kwsd install-service`: a service that runs from boot or from login on."""

from __future__ import annotations

import argparse

from kwsd.cli.service import act

HELP = "install kwsd as a service of this machine (as root), or as your own (--user)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd install-service`."""
    parser.add_argument(
        "--user", action="store_true", help="your own service, for a desktop, not as root"
    )
    parser.add_argument(
        "--with",
        dest="bridges",
        metavar="A,B",
        help="also these bridges to other programs, such as wyoming; later upgrades keep them",
    )


def run(arguments: argparse.Namespace) -> int:
    """Install it, or what is newer, and start it."""
    given = ["--user"] if arguments.user else []
    return act("install", given + ([f"--with={arguments.bridges}"] if arguments.bridges else []))

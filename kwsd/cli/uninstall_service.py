"""`kwsd uninstall-service`: removes what `kwsd install-service` has put there."""

from __future__ import annotations

import argparse

from kwsd.cli.service import act

HELP = "remove the service of this machine (as root), or your own (--user)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd uninstall-service`."""
    parser.add_argument("--user", action="store_true", help="your own service, not as root")
    parser.add_argument(
        "--purge",
        action="store_true",
        help="also voiceprints, added words, clips, calibrations and the configuration",
    )


def run(arguments: argparse.Namespace) -> int:
    """Remove it."""
    names = {"--user": arguments.user, "--purge": arguments.purge}
    return act("uninstall", [name for name, given in names.items() if given])

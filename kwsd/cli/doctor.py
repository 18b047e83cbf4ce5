"""`kwsd doctor`: what is wrong with this machine, and the fix."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.output import UNAVAILABLE, print_json

HELP = "check this machine and name the fix for what is wrong"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd doctor`."""
    options.add_config(parser)
    options.add_socket(parser)
    parser.add_argument(
        "--no-microphone",
        action="store_true",
        help="do not listen to it, even if no daemon has it",
    )
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; the status is 69 where one is bad."""
    from kwsd.cli.checks import examine

    healthy = True
    for finding in examine(arguments.config, arguments.socket, listens=not arguments.no_microphone):
        healthy = healthy and finding.ok
        if arguments.json:
            print_json(finding)
            continue
        print(f"{'ok ' if finding.ok else 'BAD'} {finding.check}: {finding.detail}", flush=True)
        if finding.fix:
            print(f"    fix: {finding.fix}", flush=True)
    return 0 if healthy else UNAVAILABLE

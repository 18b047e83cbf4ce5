"""`kwsd help`: the verbs, or the arguments of one verb or action."""

from __future__ import annotations

import argparse

from kwsd.cli.verbs import build_parser

HELP = "show the verbs, or the arguments of one verb or action"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd help`."""
    parser.add_argument("topic", nargs="?", metavar="VERB")
    parser.add_argument("action", nargs="?", metavar="ACTION")


def run(arguments: argparse.Namespace) -> int:
    """Print the help that was asked for. Raises SystemExit, as `--help` does."""
    parser = build_parser(arguments.topic)
    if arguments.topic is None:
        parser.print_help()
    else:
        path = [arguments.topic, *([arguments.action] if arguments.action else [])]
        parser.parse_args([*path, "--help"])
    return 0

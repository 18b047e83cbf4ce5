"""The verbs of `kwsd`, and the parser of its arguments.

A verb is a module of this package with `HELP`, `add_arguments` and `run`. Only the module of the
verb that was asked for is imported; the list of `kwsd --help` imports them all.
"""

from __future__ import annotations

import argparse
import importlib
from typing import Protocol, cast

from kwsd.cli.parser import Parser, sentence
from kwsd.version import __version__

DESCRIPTION = """\
Detect wake words, recognize who spoke, and send events to programs over a Unix socket."""
GROUPS = {
    "The daemon": {
        "run": "kwsd.cli.run",
        "events": "kwsd.cli.events",
        "status": "kwsd.cli.status",
        "reload": "kwsd.cli.reload",
        "pause": "kwsd.cli.pause",
        "resume": "kwsd.cli.resume",
    },
    "Speakers, words and thresholds": {
        "enroll": "kwsd.cli.enroll",
        "speakers": "kwsd.cli.speakers",
        "word": "kwsd.cli.word",
        "clips": "kwsd.cli.clips",
        "calibrate": "kwsd.cli.calibrate",
    },
    "Bridges to other programs": {
        "wyoming": "kwsd.cli.wyoming",
        "mqtt": "kwsd.cli.mqtt",
        "metrics": "kwsd.cli.metrics",
        "web": "kwsd.cli.web",
    },
    "Recordings": {
        "detect": "kwsd.cli.detect",
        "embed": "kwsd.cli.embed",
    },
    "This machine": {
        "devices": "kwsd.cli.devices",
        "doctor": "kwsd.cli.doctor",
        "config": "kwsd.cli.config",
        "install-service": "kwsd.cli.install_service",
        "uninstall-service": "kwsd.cli.uninstall_service",
    },
    "Measuring and training": {
        "bench": "kwsd.cli.bench",
        "train": "kwsd.cli.train",
    },
    "Help": {
        "help": "kwsd.cli.help",
    },
}
"""The module of each verb, in the order of `kwsd --help`."""
VERBS = {verb: module for group in GROUPS.values() for verb, module in group.items()}


class Verb(Protocol):
    """The module of a verb."""

    HELP: str
    """What it does, in one line without a capital or a period."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments, and its actions, to its parser."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do what was asked for and return the exit status."""
        ...


def load(verb: str) -> Verb:
    """Return the module of a verb."""
    return cast(Verb, importlib.import_module(VERBS[verb]))


def build_parser(verb: str | None = None) -> Parser:
    """Return the parser of `kwsd`; it knows this one verb, or without one the names of all."""
    root = _Root(
        prog="kwsd",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"kwsd {__version__}")
    root.set_defaults(verbose=False)
    parsers = root.add_subparsers(
        dest="verb",
        required=True,
        metavar="VERB",
        help="one of the verbs below",
        parser_class=Parser,
    )
    if verb in VERBS:
        module = load(verb)
        module.add_arguments(parsers.add_parser(verb, description=sentence(module.HELP)))
    else:  # the names alone, from which the error takes what may have been meant
        for name in VERBS:
            parsers.add_parser(name)
    return root


def verb_of(argv: list[str]) -> str | None:
    """Return the verb that arguments begin with; no option before it has a value."""
    first = next((argument for argument in argv if not argument.startswith("-")), None)
    return first if first in VERBS else None


class _Root(Parser):
    """The parser of `kwsd` itself, whose help lists the verbs by group."""

    def format_help(self) -> str:
        lines = []
        for title, verbs in GROUPS.items():
            lines += ["", f"{title}:"]
            width = max(10, *map(len, verbs))
            lines += [f"  {verb:<{width}} {load(verb).HELP}" for verb in verbs]
        lines += ["", "`kwsd help VERB [ACTION]` shows the arguments of one of them."]
        self.epilog = "\n".join(lines[1:])
        return super().format_help()

"""The options and values that several verbs share, each spelled one way."""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from kwsd.cli.parser import sentence
from kwsd.names import word_name
from kwsd.protocol.data import CLI_HOLDER

if TYPE_CHECKING:
    Actions = argparse._SubParsersAction[argparse.ArgumentParser]

SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add `--config`."""
    text = "configuration (default: the user's, then /etc/kwsd/kwsd.yaml)"
    parser.add_argument("--config", type=path, metavar="FILE", help=text)


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Add `--socket`."""
    text = "the daemon's socket (default: the configured one)"
    parser.add_argument("--socket", type=path, metavar="PATH", help=text)


def add_state(
    parser: argparse.ArgumentParser,
    text: str = "use the state directory DIR; no daemon is needed",
) -> None:
    """Add `--state`, described by `text`."""
    parser.add_argument("--state", type=path, metavar="DIR", help=text)


def add_words(
    parser: argparse.ArgumentParser,
    text: str = "listen for these words instead of the configured ones",
) -> None:
    """Add `--words`, described by `text`."""
    parser.add_argument("--words", type=word_list, metavar="A,B", help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_holder(parser: argparse.ArgumentParser) -> None:
    """Add `--holder`."""
    text = (
        f"whose pause it is (default: {CLI_HOLDER}); the microphone returns when the last is gone"
    )
    parser.add_argument("--holder", default=CLI_HOLDER, metavar="NAME", help=text)


def add_rate(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--rate`, described by `text`."""
    parser.add_argument("--rate", metavar="RATE", help=text)


def rate(arguments: argparse.Namespace) -> float | None:
    """Return the false wakes an hour that are asked for, if any are. Raises ValueError."""
    from kwsd.client.calibrate import parse_rate

    return None if arguments.rate is None else parse_rate(arguments.rate)


def add_details(parser: argparse.ArgumentParser, text: str = "") -> None:
    """Add `--details`; `text` says who may ask for them."""
    parser.add_argument(
        "--details",
        action="store_true",
        help=f"also name the nearest speaker and the runner-up, verified or not{text}",
    )


def path(text: str) -> Path:
    """Return a path; one that is blank names nothing. Raises argparse.ArgumentTypeError."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is blank; write one, or leave the option out")
    return Path(text)


def positive(text: str) -> int:
    """Return a number of at least 1. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def add_endpoint(parser: argparse.ArgumentParser, *, stores: bool = False) -> None:
    """Add the options of a verb that asks the daemon or a state directory.

    One that `stores` something makes the directory; for any other, it must be there.
    """
    parser.set_defaults(stores=stores)
    add_config(parser)
    add_socket(parser)
    add_state(parser)
    add_json(parser)


def add_yes(parser: argparse.ArgumentParser, text: str = "keep it without asking") -> None:
    """Add `--yes`, described by `text`."""
    parser.add_argument("--yes", action="store_true", help=text)


def add_actions(parser: argparse.ArgumentParser, *, required: bool = True) -> Actions:
    """Return what adds the parsers of a verb's actions; `arguments.action` names the one chosen."""
    return parser.add_subparsers(dest="action", required=required, metavar="ACTION")


def add_action(
    actions: Actions, name: str, text: str, *, inherits: bool = False
) -> argparse.ArgumentParser:
    """Return the parser of the action `name`, described by `text`, one line as a verb's `HELP`.

    `inherits`: the verb has all its options too, and one that is not given is the verb's.
    """
    default = argparse.SUPPRESS if inherits else None
    return actions.add_parser(name, help=text, description=sentence(text), argument_default=default)


def word_list(text: str) -> list[str]:
    """Return names of words, given with commas between them; a space counts as an underscore."""
    return [word_name(word) for word in text.split(",") if word.strip()]


def duration(text: str) -> float:
    """Return `300ms`, `90s`, `45m`, `8h` or `2d` in seconds. Raises ArgumentTypeError."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*(ms|[smhd])\s*", text)
    if found:
        with contextlib.suppress(ValueError):
            seconds = float(found.group(1)) * SECONDS[found.group(2)]
            if seconds > 0:
                return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a length of time: 300ms, 90s, 45m, 8h, 2d")

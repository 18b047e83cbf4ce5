"""Verbs that a program guides step by step: JSON lines in, and one out for each.

The first line out says what is there at the start. A step that fails is answered by `{"error":
{"code", "message"}}`, and has changed nothing. Where the lines in end, nothing is kept.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Protocol

import msgspec

from kwsd.cli.output import print_json
from kwsd.learn.takes import TakeRejected
from kwsd.protocol.errors import RequestError

MAX_LINE = 2 << 20
"""Bytes of a line: the longest take, 20 s, in base64, and what is said of it."""
HELP = "do the steps that a program writes to standard input, as lines of JSON"


class Guided(Protocol):
    """What is done step by step."""

    steps: Any
    """The types of its steps."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""

    def state(self) -> object:
        """Return what is there now."""

    def step(self, step: Any) -> object:
        """Do a step, and return what is there then. Raises ValueError, OSError or RequestError."""


def add_option(parser: argparse._ActionsContainer) -> None:
    """Add `--steps`."""
    parser.add_argument("--steps", action="store_true", help=HELP)


def follow(guided: Guided) -> int:
    """Do the steps that standard input has, up to its end, or until nothing is left to do."""
    decoder = msgspec.json.Decoder(guided.steps)
    print_json(guided.state())
    while not guided.is_over and (line := sys.stdin.buffer.readline(MAX_LINE + 1)):
        try:
            if len(line) > MAX_LINE:
                raise ValueError(f"a step has more than {MAX_LINE} bytes")
            answer = guided.step(decoder.decode(line))
        except (ValueError, OSError, RequestError) as error:  # msgspec's are ValueErrors
            answer = {"error": {"code": _code(error), "message": str(error)}}
        print_json(answer)
    return 0


def _code(error: Exception) -> str:
    if isinstance(error, RequestError):
        return error.code
    if isinstance(error, TakeRejected):
        return error.reason
    return "bad_request" if isinstance(error, msgspec.MsgspecError) else "refused"

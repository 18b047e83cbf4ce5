"""The entry point of `kwsd`: parses the arguments, runs the verb, maps errors to exit codes."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from kwsd.cli.output import (
    CANNOT_CREATE,
    CONFIGURATION,
    DATA,
    INTERRUPTED,
    NO_INPUT,
    NO_PERMISSION,
    UNAVAILABLE,
    USAGE,
    CannotCreate,
    fail,
)
from kwsd.cli.verbs import build_parser, load, verb_of
from kwsd.config import ConfigError, UnknownWords
from kwsd.protocol.errors import RequestError

__all__ = [
    "CANNOT_CREATE",
    "CONFIGURATION",
    "DATA",
    "NO_INPUT",
    "NO_PERMISSION",
    "UNAVAILABLE",
    "USAGE",
    "main",
]

REQUEST_CODES = {
    "permission_denied": NO_PERMISSION,
    "not_saved": CANNOT_CREATE,
    "not_written": CANNOT_CREATE,
    "bad_config": CONFIGURATION,
    "not_kept": CONFIGURATION,
    **dict.fromkeys(("bad_word", "unknown_word", "in_use", "bad_name", "no_speaker"), DATA),
    **dict.fromkeys(
        ("no_clip", "no_take", "bad_calibration", "bad_log", "bad_request", "gone"), DATA
    ),
    **dict.fromkeys(
        ("silent", "no_voice", "clipped", "too_short", "take_too_long", "repeated"), DATA
    ),
    **dict.fromkeys(("inconsistent", "several_people", "too_few"), DATA),
}
"""The exit code of each code of a RequestError; any other is UNAVAILABLE."""


UNREADABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors of a file that was to be read; a link that leads to itself is another."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit status. Raises SystemExit for help and for usage errors."""
    # The matrices here are small: numpy's threads would only wait for each other. It reads this
    # when it is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = sys.argv[1:] if argv is None else list(argv)
    if not given:
        build_parser().print_help(sys.stderr)
        return USAGE
    arguments = build_parser(verb_of(given)).parse_args(given)
    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.basicConfig(level=level, format=_log_format(), stream=_log_stream())
    try:
        return load(arguments.verb).run(arguments)
    except BrokenPipeError:
        # The reader has gone; nothing may be flushed to it at exit.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (RequestError, OSError, ValueError) as error:
        return fail(_exit_code(error, getattr(arguments, "words", None) or ()), error)


def _exit_code(error: Exception, words: Sequence[str]) -> int:
    """Return the exit code of an error; `words` are those that the command line names."""
    if isinstance(error, UnknownWords):
        return DATA if set(error.names) <= set(words) else CONFIGURATION
    if isinstance(error, ConfigError):
        return CONFIGURATION
    if isinstance(error, CannotCreate):
        return CANNOT_CREATE
    if isinstance(error, RequestError):
        return REQUEST_CODES.get(error.code, UNAVAILABLE)
    from kwsd.audio.files import AudioFileError

    if isinstance(error, (*UNREADABLE, AudioFileError)):
        return NO_INPUT
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return NO_INPUT
    return DATA if isinstance(error, ValueError) else UNAVAILABLE


def _log_stream() -> TextIO:
    """Return standard error by a descriptor of its own.

    The module `sounddevice` leads descriptor 2 to /dev/null while PortAudio looks for devices. That
    call may hang for ever, and what the log says of it must be read.
    """
    try:
        if sys.stderr.fileno() == 2:
            own = os.dup(2)
            return os.fdopen(own, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    except (AttributeError, OSError):  # it is closed, or no file
        pass
    return sys.stderr


def _log_format() -> str:
    under_systemd = "JOURNAL_STREAM" in os.environ
    short = "%(name)s: %(message)s"
    return short if under_systemd else f"%(asctime)s %(levelname)s {short}"


if __name__ == "__main__":
    sys.exit(main())

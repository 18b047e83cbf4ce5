"""The parser of arguments: exit code 64 with the usage line, and "did you mean".

Every parser, also that of a verb or an action, accepts `-v`, so that it may stand anywhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from kwsd.cli.output import USAGE


class Parser(argparse.ArgumentParser):
    """The parser of `kwsd`, of its verbs and of their actions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Accept the arguments of `argparse.ArgumentParser`."""
        super().__init__(*args, **options)
        self._has_actions = False
        # Without a default, an action's parser does not overwrite a `-v` before the action.
        self.add_argument(
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="log more"
        )

    def add_subparsers(self, **options: Any) -> Any:
        """Return what adds the parsers of verbs or actions, as argparse does."""
        self._has_actions = True
        return super().add_subparsers(**options)

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse `args` and refuse what this parser does not know, with what may have been meant.

        argparse also calls it for the arguments of a verb and of an action.
        """
        given = sys.argv[1:] if args is None else list(args)
        if not self._has_actions:
            self._refuse_unknown(given)
        namespace, unknown = super().parse_known_args(given, namespace)
        if unknown:
            self._unrecognized(unknown)
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """Print the usage line and the message, and exit with code 64."""
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"kwsd: {message}\n")

    def _refuse_unknown(self, given: Sequence[str]) -> None:
        """Refuse a mistyped option before argparse reports what is missing without it."""
        for argument in given:
            if argument == "--":
                return
            option = argument.partition("=")[0]
            if option.startswith("--") and not any(o.startswith(option) for o in self._options()):
                self._unrecognized([option])

    def _unrecognized(self, unknown: Sequence[str]) -> NoReturn:
        near = closest(unknown[0], self._options()) if unknown[0].startswith("-") else None
        hint = f"; did you mean {near}?" if near else ""
        self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")

    def _options(self) -> list[str]:
        return list(self._option_string_actions)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is none of the choices (argparse calls it for each value)."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, invalid_choice(value, action.choices))


def invalid_choice(value: object, choices: Iterable[object]) -> str:
    """Return the sentence about a value that is none of `choices`."""
    known = [str(choice) for choice in choices]
    near = closest(str(value), known)
    hint = f"did you mean {near!r}?" if near else f"expected one of {', '.join(known)}"
    return f"invalid choice: {value!r}; {hint}"


def sentence(text: str) -> str:
    """Return the one-line help of a verb or an action as a sentence."""
    return f"{text[0].upper()}{text[1:]}."


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant, or None."""
    import difflib  # 200 kB that only a mistake needs

    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)

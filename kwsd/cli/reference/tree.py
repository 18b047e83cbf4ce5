"""The commands of `kwsd` and their arguments, as the parsers of the verbs have them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field

from kwsd.cli.verbs import DESCRIPTION, VERBS, build_parser, load

MANY = ("+", "*")
"""The numbers of values of argparse that have no upper bound."""
FILES = ("FILE", "PATH", "FOLDER")
"""What values are called that are paths of files; `DIR` is one of a folder."""


@dataclass(frozen=True)
class Argument:
    """An option, or an argument by position."""

    flags: tuple[str, ...]
    """Its names, such as `-v` and `--verbose`; none for an argument by position."""
    value: str
    """What its value is called, such as `FILE`; empty for a switch."""
    help: str
    choices: tuple[str, ...] = ()
    many: bool = False
    """Whether any number of values may follow it."""
    optional: bool = False
    """Whether it may be given without a value, or left out."""
    repeated: bool = False
    """Whether the option may be given again."""

    @property
    def kind(self) -> str:
        """What completes its value: `choices`, `files`, `folders` or `nothing`."""
        if self.choices:
            return "choices"
        if self.value == "DIR":
            return "folders"
        return "files" if self.value in FILES or "." in self.value else "nothing"


@dataclass(frozen=True)
class Command:
    """`kwsd` itself, a verb, or an action of one."""

    path: tuple[str, ...]
    """Its names, such as `kwsd`, `word` and `add`."""
    help: str
    """What it does, in one line without a capital or a period."""
    options: tuple[Argument, ...]
    positions: tuple[Argument, ...]
    """Its arguments by position, those before the name of an action first."""
    commands: tuple[Command, ...] = field(default=())

    @property
    def usage(self) -> str:
        """What stands behind the name of the command."""
        parts = ["[OPTION ...]"]
        for one in self.positions:
            name = f"{one.value} ..." if one.many else one.value
            parts.append(f"[{name}]" if one.optional else name)
        if self.commands:
            parts.append("VERB ..." if len(self.path) == 1 else "ACTION ...")
        return " ".join(parts)

    def walk(self) -> Iterator[Command]:
        """Yield the command and all those below it."""
        yield self
        for command in self.commands:
            yield from command.walk()


def tree() -> Command:
    """Return `kwsd` with all its verbs."""
    verbs = []
    for verb in VERBS:
        below = _subparsers(build_parser(verb))
        assert below is not None
        verbs.append(_command(("kwsd", verb), load(verb).HELP, below.choices[verb]))
    root = build_parser()
    return Command(
        path=("kwsd",),
        help=DESCRIPTION.replace("\n", " "),
        options=_options(root),
        positions=(),
        commands=tuple(verbs),
    )


def _command(path: tuple[str, ...], text: str, parser: argparse.ArgumentParser) -> Command:
    below = _subparsers(parser)
    helps = {one.dest: one.help or "" for one in below._choices_actions} if below else {}
    commands = [
        _command((*path, name), helps[name], action)
        for name, action in (below.choices if below else {}).items()
    ]
    return Command(
        path=path,
        help=text,
        options=_options(parser),
        positions=_positions(path, parser),
        commands=tuple(commands),
    )


def _subparsers(
    parser: argparse.ArgumentParser,
) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
    found = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return next(found, None)


def _options(parser: argparse.ArgumentParser) -> tuple[Argument, ...]:
    shown = (one for one in parser._actions if one.option_strings)
    return tuple(_argument(parser, one) for one in shown if one.help != argparse.SUPPRESS)


def _positions(path: tuple[str, ...], parser: argparse.ArgumentParser) -> tuple[Argument, ...]:
    actions = (one for one in parser._actions if not one.option_strings)
    found = [
        _argument(parser, one) for one in actions if not isinstance(one, argparse._SubParsersAction)
    ]
    if path == ("kwsd", "help"):  # its parser takes any name, to say what may have been meant
        found[0] = Argument((), found[0].value, found[0].help, tuple(VERBS), optional=True)
    return tuple(found)


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> Argument:
    choices = tuple(str(choice) for choice in action.choices or ())
    takes_none = action.nargs == 0
    value = action.metavar or ("|".join(choices) if choices else action.dest.upper())
    assert isinstance(value, str)
    # The text as `--help` shows it, but for the default that Python 3.11 appends to some.
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    if isinstance(action, argparse.BooleanOptionalAction):
        text = text.removesuffix(f" (default: {action.default})")
    return Argument(
        flags=tuple(action.option_strings),
        value="" if takes_none else value,
        help=" ".join(text.split()),
        choices=choices,
        many=action.nargs in MANY,
        optional=action.nargs in ("?", "*"),
        repeated=isinstance(action, argparse._AppendAction),
    )

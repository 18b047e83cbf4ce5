"""The manual page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from kwsd.cli import output
from kwsd.cli.parser import sentence
from kwsd.cli.reference.tree import Argument, Command
from kwsd.cli.verbs import GROUPS
from kwsd.version import __version__

EXIT_STATUS = (
    (0, "All went well."),
    (output.USAGE, "The arguments cannot be understood."),
    (output.DATA, "The data cannot be used: a word, a speaker, a recording, damaged models."),
    (output.NO_INPUT, "A file is missing, or is no recording."),
    (output.UNAVAILABLE, "The daemon, a device or a library is not there."),
    (70, "The daemon stood still and ended itself, to be started again."),
    (output.CANNOT_CREATE, "Something could not be stored."),
    (output.NO_PERMISSION, "The request is for root, the daemon's user and its admin_group."),
    (output.CONFIGURATION, "The configuration is wrong."),
    (output.INTERRUPTED, "Stopped by ^C."),
)
ENVIRONMENT = (
    ("KWSD_SOCKET", "The daemon's socket, where --socket is not given."),
    ("XDG_CONFIG_HOME", "The user's configuration is in kwsd/kwsd.yaml below it (~/.config)."),
    ("XDG_STATE_HOME", "The user's state is in the folder kwsd below it (~/.local/state)."),
    ("XDG_RUNTIME_DIR", "The user's socket is in the folder kwsd below it."),
)
FILES = (
    ("~/.config/kwsd/kwsd.yaml", "The configuration of a user."),
    ("/etc/kwsd/kwsd.yaml", "The configuration of the machine, where the user has none."),
    ("/var/lib/kwsd", "Voiceprints, added words and calibrations of the machine's service."),
    ("~/.local/state/kwsd", "The same of a user's own service."),
    ("/run/kwsd/kwsd.sock", "The socket of the machine's service."),
)
EXAMPLES = (
    ("kwsd doctor", "Say whether the machine is fine, and what to do where it is not."),
    ("kwsd events --json --types wake", "Print each wake as a line of JSON."),
    ('kwsd word add "hey banana" --record 5', "Add a wake word by saying it five times."),
    ("kwsd pause --for 10m", "Leave the microphone to others for ten minutes."),
)


def page(root: Command, author: str) -> str:
    """Return the page `kwsd(1)` as roff; `author` is who has written kwsd."""
    lines = [
        '.\\" Made by `python -m kwsd.cli.reference`; do not edit.',
        f'.TH KWSD 1 "" "kwsd {__version__}" "User Commands"',
        ".SH NAME",
        "kwsd \\- wake words and who spoke, for programs on this machine",
        ".SH SYNOPSIS",
        *_usage(root),
        ".SH DESCRIPTION",
        *_text(root.help),
        *_text(
            "Options may stand before and after the other arguments of a verb; each verb has those "
            "of OPTIONS, too."
        ),
        ".SH OPTIONS",
        *_arguments(root.options),
    ]
    verbs = {command.path[-1]: command for command in root.commands}
    for title, names in GROUPS.items():
        lines.append(f".SH {_quoted(title.upper())}")
        for name in names:
            for command in verbs[name].walk():
                lines += _command(command)
    lines += [".SH EXIT STATUS", *_pairs((str(code), text) for code, text in EXIT_STATUS)]
    lines += [".SH ENVIRONMENT", *_pairs(ENVIRONMENT)]
    lines += [".SH FILES", *_pairs(FILES)]
    lines += [".SH EXAMPLES", *_pairs(EXAMPLES)]
    lines += [".SH AUTHORS", *_text(f"{author}. License: Apache-2.0.")]
    lines += [".SH SEE ALSO", ".BR systemctl (1),", ".BR journalctl (1)"]
    return "\n".join(lines) + "\n"


def _command(command: Command) -> list[str]:
    lines = [f".SS {_quoted(' '.join(command.path))}", *_text(sentence(command.help))]
    if command.commands:
        names = ", ".join(one.path[-1] for one in command.commands)
        lines += _text(f"{'Stages' if command.path[-1] == 'train' else 'Actions'}: {names}.")
    lines += [".PP", *_usage(command)]
    described = [one for one in command.positions if one.help]
    everywhere = (("-h", "--help"), ("-v", "--verbose"))
    own = [one for one in command.options if one.flags not in everywhere]
    return lines + _arguments((*described, *own))


def _usage(command: Command) -> list[str]:
    name = " ".join(command.path)
    return [f".B {_escaped(name)}", *_text(command.usage)]


def _arguments(arguments: Iterable[Argument]) -> list[str]:
    lines = []
    for one in arguments:
        lines += [".TP", _heading(one), *_text(one.help)]
    return lines


def _heading(argument: Argument) -> str:
    value = f"\\fI{_escaped(argument.value)}\\fR" if argument.value else ""
    if not argument.flags:
        return value
    flags = ", ".join(f"\\fB{_escaped(flag)}\\fR" for flag in argument.flags)
    if not value:
        return flags
    value = f"[{value}]" if argument.optional else value
    return f"{flags} {value}{' ...' if argument.many else ''}"


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for name, text in pairs:
        lines += [".TP", f"\\fB{_escaped(name)}\\fR", *_text(text)]
    return lines


def _text(text: str) -> list[str]:
    """Return lines of text, none of which begins as a request of roff."""
    wrapped = textwrap.wrap(text, 90, break_long_words=False, break_on_hyphens=False)
    return ["\\&" * line.startswith((".", "'")) + _escaped(line) for line in wrapped]


def _escaped(text: str) -> str:
    for plain, roff in (
        ("\\", "\\e"),
        ("-", "\\-"),
        ("~", "\\(ti"),
        ("^", "\\(ha"),
        ("`", "\\(ga"),
    ):
        text = text.replace(plain, roff)
    return text


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'

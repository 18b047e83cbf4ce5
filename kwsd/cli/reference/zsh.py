"""The completion of zsh."""

from __future__ import annotations

from kwsd.cli.reference.tree import Argument, Command

HEADER = """\
#compdef kwsd
# Completion of kwsd in zsh. Made by `python -m kwsd.cli.reference`; do not edit.
"""
FOOTER = """
if [ "$funcstack[1]" = _kwsd ]; then
    _kwsd "$@"
else
    compdef _kwsd kwsd
fi
"""
COMPLETES = {"files": "_files", "folders": "_files -/", "nothing": " "}


def completion(root: Command) -> str:
    """Return the file that zsh reads."""
    functions = [_function(command) for command in root.walk()]
    return "\n".join([HEADER, *functions]) + FOOTER


def _name(command: Command) -> str:
    return "_" + "_".join(command.path).replace("-", "_")


def _function(command: Command) -> str:
    specs = [_option(one) for one in command.options]
    specs += [_position(index, one) for index, one in enumerate(command.positions, 1)]
    lines = [f"{_name(command)}() {{"]
    if not command.commands:
        body = " \\\n        ".join(["    _arguments -S", *specs])
        return "\n".join([*lines, body, "}", ""])
    at = len(command.positions) + 1
    specs += [f"'{at}: :->action'", "'*:: :->arguments'"]
    lines += [
        "    local context state state_descr line",
        "    typeset -A opt_args",
        " \\\n        ".join(["    _arguments -C -S", *specs]),
        "    case $state in",
        "    action)",
        "        local -a actions=(",
    ]
    lines += [f"            {_quoted(f'{one.path[-1]}:{one.help}')}" for one in command.commands]
    what = "action" if len(command.path) > 1 else "verb"
    lines += [
        "        )",
        f"        _describe {what} actions",
        "        ;;",
        "    arguments)",
        f"        case $line[{at}] in",
    ]
    lines += [f"        {one.path[-1]}) {_name(one)} ;;" for one in command.commands]
    return "\n".join([*lines, "        esac", "        ;;", "    esac", "}", ""])


def _option(argument: Argument) -> str:
    excluded = f"({' '.join(argument.flags)})" if not argument.repeated else "*"
    value = ""
    if argument.value:
        # Any number of values, up to what looks like an option.
        lead = ":*-*:" if argument.many else "::" if argument.optional else ":"
        value = lead + _value(argument)
    text = f"[{_escaped(argument.help)}]{value}"
    if len(argument.flags) == 1:
        excluded = "*" if argument.repeated else ""
        return _quoted(f"{excluded}{argument.flags[0]}{text}")
    return f"{_quoted(excluded)}{{{','.join(argument.flags)}}}{_quoted(text)}"


def _position(index: int, argument: Argument) -> str:
    lead = "*:" if argument.many else f"{index}::" if argument.optional else f"{index}:"
    return _quoted(lead + _value(argument))


def _value(argument: Argument) -> str:
    if argument.choices:
        return f"{_escaped(argument.value)}:({' '.join(argument.choices)})"
    return f"{_escaped(argument.value)}:{COMPLETES[argument.kind]}"


def _escaped(text: str) -> str:
    for character in "\\[]:":
        text = text.replace(character, "\\" + character)
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"

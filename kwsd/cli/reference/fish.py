"""The completion of fish."""

from __future__ import annotations

from kwsd.cli.reference.tree import Argument, Command

DRIVER = """\
# Completion of kwsd in fish. Made by `python -m kwsd.cli.reference`; do not edit.

# Print the command that is being typed, such as `kwsd word add`, how many arguments by position it
# has, and the option that may have one more value; nothing where there is no such command.
function __kwsd_typed
    set -l path kwsd
    set -l position 0
    set -l waiting ''
    set -l only ''
    set -l words (commandline -opc)
    for word in $words[2..-1]
        if test -z "$only"; and string match -q -- '-?*' $word
            set waiting ''
            if test $word = --
                set only yes
            else if contains -- "$path $word" $__kwsd_single
                set waiting single
            else if contains -- "$path $word" $__kwsd_many
                set waiting $word
            end
            continue
        end
        if test -n "$waiting"
            test $waiting != single; or set waiting ''
        else if set -l before (string match -r -g -- "^$path=(\\d+)\\$" $__kwsd_before)
            and test $position -ge $before
            set path "$path $word"
            set position 0
            contains -- $path $__kwsd_commands; or return 1
        else
            set position (math $position + 1)
        end
    end
    echo $path
    echo $position
    echo $waiting
end

# __kwsd_in PATH succeeds where this command is being typed.
function __kwsd_in
    set -l typed (__kwsd_typed)
    and test "$typed[1]" = "$argv[1]"
end

# __kwsd_at PATH NUMBER succeeds where the argument of this number is being typed; + is any.
function __kwsd_at
    set -l typed (__kwsd_typed)
    and test "$typed[1]" = "$argv[1]"
    and test -z "$typed[3]"
    and begin
        test "$argv[2]" = +; or test "$typed[2]" = "$argv[2]"
    end
end

# __kwsd_after PATH OPTION succeeds where one more value of an option is being typed.
function __kwsd_after
    set -l typed (__kwsd_typed)
    and test "$typed[1]" = "$argv[1]"
    and test "$typed[3]" = "$argv[2]"
end

# The commands; options with one value, and with many; arguments before the name of an action.
"""


def completion(root: Command) -> str:
    """Return the file that fish reads."""
    lists: dict[str, list[str]] = {"commands": [], "single": [], "many": [], "before": []}
    lines: list[str] = []
    for command in root.walk():
        path = " ".join(command.path)
        lists["commands"].append(path)
        for one in command.options:
            if one.value:
                flags = [f"{path} {flag}" for flag in one.flags]
                lists["many" if one.many else "single"] += flags
        if command.commands:
            lists["before"].append(f"{path}={len(command.positions)}")
        lines += _completes(command)
    tables = [
        f"set -g __kwsd_{name}{''.join(f' {_quoted(value)}' for value in values)}"
        for name, values in lists.items()
    ]
    return DRIVER + "\n".join([*tables, "", "complete -c kwsd -f", *lines]) + "\n"


def _completes(command: Command) -> list[str]:
    path = " ".join(command.path)
    inside = f"-n {_quoted(f'__kwsd_in {_quoted(path)}')}"
    lines = [f"complete -c kwsd {inside}{_option(one)}" for one in command.options]
    lines += [
        f"complete -c kwsd -n {_quoted(f'__kwsd_after {_quoted(path)} {flag}')}{_value(one)}"
        for one in command.options
        if one.many and one.kind != "nothing"
        for flag in one.flags
    ]
    for index, one in enumerate(command.positions):
        if one.kind != "nothing":
            at = "+" if one.many else index
            lines.append(f"complete -c kwsd {_at(path, at)}{_value(one)}")
    lines += [
        f"complete -c kwsd {_at(path, len(command.positions))} -a {one.path[-1]}"
        f" -d {_quoted(one.help)}"
        for one in command.commands
    ]
    return lines


def _at(path: str, number: object) -> str:
    return f"-n {_quoted(f'__kwsd_at {_quoted(path)} {number}')}"


def _option(argument: Argument) -> str:
    names = "".join(
        f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}" for flag in argument.flags
    )
    value = f" -r{_value(argument)}" if argument.value else ""
    return f"{names}{value} -d {_quoted(argument.help)}"


def _value(argument: Argument) -> str:
    if argument.kind == "choices":
        return f" -f -a {_quoted(' '.join(argument.choices))}"
    if argument.kind == "folders":
        return f" -f -a {_quoted('(__fish_complete_directories)')}"
    return " -F" if argument.kind == "files" else " -f"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

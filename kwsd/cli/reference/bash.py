"""The completion of bash."""

from __future__ import annotations

from collections.abc import Iterable

from kwsd.cli.reference.tree import Argument, Command

DRIVER = """\
# Completion of kwsd in bash. Made by `python -m kwsd.cli.reference`; do not edit.

# _kwsd_command PATH sets what a command has: its options, those of them that have one value or
# many, its actions, and how many arguments stand before the name of an action.
_kwsd_command() {
    options='' single='' many='' actions='' before=0
    case $1 in
@COMMANDS@
    esac
}

# _kwsd_value PATH NAME sets what a value is: files, folders, or one of some choices. NAME is an
# option, or the number of an argument by position.
_kwsd_value() {
    kind='' choices=''
    case "$1 $2" in
@VALUES@
    esac
}

_kwsd() {
    local options single many actions before kind choices
    local current=${COMP_WORDS[COMP_CWORD]} path=kwsd position=0 waiting='' only='' index word
    COMPREPLY=()
    _kwsd_command "$path"
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        case $word in
        --) [[ $only ]] || { only=yes waiting=''; continue; } ;;
        =) continue ;; # bash cuts --option=value into three
        -?*)
            if [[ ! $only ]]; then
                waiting=''
                [[ " $single $many " != *" $word "* ]] || waiting=$word
                continue
            fi
            ;;
        esac
        if [[ $waiting ]]; then
            [[ " $many " == *" $waiting "* ]] || waiting=''
        elif [[ $actions && $position -ge $before ]]; then
            [[ " $actions " == *" $word "* ]] || return 0
            path+=" $word" position=0
            _kwsd_command "$path"
        else
            position=$((position + 1))
        fi
    done
    [[ $current != = ]] || current=''
    if [[ $current == -* && ! $only ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
        return 0
    fi
    if [[ $waiting ]]; then
        _kwsd_value "$path" "$waiting"
    elif [[ $actions && $position -ge $before ]]; then
        kind=choices choices=$actions
    else
        _kwsd_value "$path" "$position"
        [[ $kind ]] || _kwsd_value "$path" '*'
    fi
    case $kind in
    choices) mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current") ;;
    files) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
    folders) mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
    esac
    [[ $kind != files && $kind != folders ]] || compopt -o filenames 2>/dev/null
    return 0
}

complete -F _kwsd kwsd
"""


def completion(root: Command) -> str:
    """Return the file that bash reads."""
    commands: list[str] = []
    values: list[str] = []
    for command in root.walk():
        commands += _command(command)
        values += _values(command)
    filled = DRIVER.replace("@COMMANDS@", "\n".join(commands))
    return filled.replace("@VALUES@", "\n".join(values))


def _command(command: Command) -> list[str]:
    options = [flag for one in command.options for flag in one.flags]
    valued = [one for one in command.options if one.value]
    lines = [
        f"    '{' '.join(command.path)}')",
        f"        options='{' '.join(options)}'",
    ]
    for name, wanted in (("single", False), ("many", True)):
        flags = [flag for one in valued if one.many == wanted for flag in one.flags]
        if flags:
            lines.append(f"        {name}='{' '.join(flags)}'")
    if command.commands:
        lines.append(f"        actions='{' '.join(one.path[-1] for one in command.commands)}'")
        lines.append(f"        before={len(command.positions)}")
    return [*lines, "        ;;"]


def _values(command: Command) -> list[str]:
    path = " ".join(command.path)
    lines = []
    for one in command.options:
        names = [f"'{path} {flag}'" for flag in one.flags]
        lines += _value(names, one) if one.value else []
    for index, one in enumerate(command.positions):
        lines += _value([f"'{path} {'*' if one.many else index}'"], one)
    return lines


def _value(names: Iterable[str], argument: Argument) -> list[str]:
    if argument.kind == "nothing":
        return []
    choices = f" choices='{' '.join(argument.choices)}'" if argument.choices else ""
    return [f"    {' | '.join(names)}) kind={argument.kind}{choices} ;;"]

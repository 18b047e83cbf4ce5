"""The shell completions and the manual page are those of the parsers, and the shells take them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from kwsd.cli.reference.__main__ import CHECKOUT, files
from kwsd.cli.reference.tree import tree
from kwsd.cli.verbs import VERBS, build_parser

COMPLETIONS = CHECKOUT / "completions"
NAMES = ["completions/kwsd.bash", "completions/kwsd.zsh", "completions/kwsd.fish", "docs/kwsd.1"]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return files()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_the_parsers_say(made: dict[str, str], name: str) -> None:
    text = (CHECKOUT / name).read_text(encoding="utf-8")
    assert text == made[name], "run `python -m kwsd.cli.reference`"


def test_the_tree_has_every_option_of_every_verb() -> None:
    verbs = {command.path[-1]: command for command in tree().commands}
    assert list(verbs) == list(VERBS)
    for verb, command in verbs.items():
        below = [one for one in build_parser(verb)._actions if one.dest == "verb"]
        assert below[0].choices is not None
        (parser,) = (dict(below[0].choices)[verb],)
        flags = {flag for one in command.options for flag in one.flags}
        assert flags == set(parser._option_string_actions)


CASES = [
    # What is typed, some that must be offered, some that must not be.
    ("kwsd ev", {"events"}, {"status", "--help"}),
    ("kwsd word re", {"remove", "rebuild"}, {"add"}),
    ("kwsd word takes banana pl", {"play"}, {"clear"}),
    ("kwsd word takes ", set(), {"play", "list"}),
    ("kwsd word add --r", {"--record", "--room"}, {"--wav"}),
    ("kwsd -v word -v add --js", {"--json"}, set()),
    ("kwsd run --format s", {"s16", "s32"}, {"f32"}),
    ("kwsd run --config x.yaml --re", {"--realtime"}, {"--source"}),
    ("kwsd clips label ", {"right", "wrong", "none"}, {"a.wav"}),
    ("kwsd detect ", {"a.wav", "b.wav"}, {"run"}),
    ("kwsd enroll ann --wav a.wav ", {"a.wav", "b.wav"}, {"run"}),
    ("kwsd enroll --wav a.wav --json ", set(), {"a.wav"}),
    ("kwsd run --state ", {"folder/"}, {"a.wav"}),
    ("kwsd config sh", {"show"}, {"schema"}),
    ("kwsd nonsense ", set(), {"a.wav", "events"}),
]


def offered(command: list[str], folder: Path, **environment: str) -> set[str]:
    """Return the lines that a shell prints, in a folder of two recordings and a folder."""
    for name in ("a.wav", "b.wav"):
        (folder / name).touch()
    (folder / "folder").mkdir(exist_ok=True)
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **environment}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stderr == ""
    return set(done.stdout.splitlines())


def check(found: set[str], wanted: set[str], unwanted: set[str]) -> None:
    assert wanted <= found
    assert not unwanted & found


@pytest.mark.parametrize(("typed", "wanted", "unwanted"), CASES)
def test_bash_offers(typed: str, wanted: set[str], unwanted: set[str], tmp_path: Path) -> None:
    words = shlex.split(typed) + ([""] if typed.endswith(" ") else [])
    script = (
        f"source {shlex.quote(str(COMPLETIONS / 'kwsd.bash'))}\n"
        f"COMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}\n"
        '_kwsd; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    found = offered(["bash", "--norc", "-c", script], tmp_path)
    # bash itself adds the slash, told by `compopt -o filenames`.
    check(found, {one.rstrip("/") for one in wanted}, unwanted)


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish")
@pytest.mark.parametrize(("typed", "wanted", "unwanted"), CASES)
def test_fish_offers(typed: str, wanted: set[str], unwanted: set[str], tmp_path: Path) -> None:
    script = (
        f"source {shlex.quote(str(COMPLETIONS / 'kwsd.fish'))}; complete -C {shlex.quote(typed)}"
    )
    lines = offered(["fish", "--no-config", "-c", script], tmp_path)
    check({line.split("\t")[0] for line in lines}, wanted, unwanted)


ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'source ./inside; print read""y'
zpty -r -m shell seen '*ready*'
zpty -w -n shell "$TYPED"$'\t'
zpty -r shell seen '*<end>*'
print -r -- "$seen" | grep -o 'offered=[^=]*=' | sed 's/^offered=//; s/=$//'
"""
# In the shell with a line editor: what completions add is printed instead.
ZSH_INSIDE = r"""
PROMPT= PROMPT2= RPROMPT=
stty columns 500
fpath=($PWD $fpath)
autoload -Uz compinit && compinit -u -D
bindkey '^I' complete-word
comppostfuncs=(finish)
finish() { print -r -- '<end>' }
compadd() {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
        builtin compadd "$@"
        return
    fi
    local -a hits
    builtin compadd -A hits "$@"
    local hit slash=
    [[ ${@[1,(i)(-|--)]} == *-S\ /* ]] && slash=/
    for hit in $hits; do print -r -- "offered=$hit$slash="; done
    builtin compadd "$@"
}
"""


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh")
@pytest.mark.parametrize(("typed", "wanted", "unwanted"), CASES)
def test_zsh_offers(typed: str, wanted: set[str], unwanted: set[str], tmp_path: Path) -> None:
    shutil.copy(COMPLETIONS / "kwsd.zsh", tmp_path / "_kwsd")
    (tmp_path / "inside").write_text(ZSH_INSIDE)
    found = offered(["zsh", "-f", "-c", ZSH], tmp_path, TYPED=typed)
    # zsh itself adds the slash.
    check(found, {one.rstrip("/") for one in wanted}, unwanted)


@pytest.mark.skipif(not shutil.which("mandoc"), reason="no mandoc")
def test_the_manual_page_is_sound() -> None:
    page = str(CHECKOUT / "docs/kwsd.1")
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, check=False
    )
    # It has no date, which would have to be changed each day.
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []
    shown = subprocess.run(
        ["mandoc", "-T", "utf8", page], capture_output=True, text=True, check=True
    )
    assert "kwsd word add [OPTION ...] WORD" in re.sub(".\x08", "", shown.stdout)

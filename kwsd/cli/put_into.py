"""`python -m kwsd.cli.put_into FOLDER EXTRAS` copies this kwsd and what it needs into a folder.

The copy is a virtual environment, made of the files of the installed distributions, without a
network. `kwsd install-service` runs it as a process of its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from kwsd.cli.output import DATA, UNAVAILABLE, fail

REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?[^;]*(?:;(.*))?")
EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
HOMES = ("/home", "/root")
"""Folders that the machine's service may not read."""
SCRIPT = """\
#!{python}
import sys
from kwsd.cli.main import main
sys.exit(main())
"""


class NotCopied(Exception):
    """What keeps this kwsd from being copied, and what to do."""


def needed(name: str, extras: frozenset[str]) -> dict[str, Distribution]:
    """Return `name` and all that it requires, with its extras. Raises NotCopied.

    What only other systems or other versions of Python need is not installed, and left out.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    wanted: list[tuple[str, frozenset[str], str]] = [(name, extras, "")]
    while wanted:
        name, extras, marker = wanted.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if (key, extras) in seen:
            continue
        seen.add((key, extras))
        try:
            one = distribution(name)
        except PackageNotFoundError:
            if EXTRA.sub("", marker).strip(" ()and"):
                continue
            raise NotCopied(_missing(name, marker)) from None
        found[key] = one
        for requirement in one.requires or ():
            parts = REQUIREMENT.match(requirement)
            assert parts is not None
            theirs = frozenset(re.findall(r"[\w.-]+", parts[2] or ""))
            condition = (parts[3] or "").strip()
            asked = EXTRA.search(condition)
            if asked is None or asked[1] in extras:
                wanted.append((parts[1], theirs, condition))
    return found


def _missing(name: str, marker: str) -> str:
    extra = EXTRA.search(marker)
    if extra is None:
        return f"{name}, which kwsd needs, is not installed beside it: install kwsd again with pip"
    wheel = f"kwsd-VERSION-py3-none-any.whl[{extra[1]}]"
    return (
        f"{name}, which {extra[1]} needs, is not installed beside kwsd: install it with the extra, "
        f"as by {sys.executable} -m pip install './{wheel}'"
    )


def put_into(folder: Path, extras: frozenset[str]) -> None:
    """Make `folder` anew with kwsd in it. Raises NotCopied or OSError."""
    if folder.resolve() == Path(sys.prefix).resolve():
        needed("kwsd", extras)
        return  # it is what runs
    parts = needed("kwsd", extras)
    if not any(str(file) == "kwsd/cli/main.py" for file in parts["kwsd"].files or ()):
        raise NotCopied("this kwsd runs from a checkout: there, ./dev install installs it")
    python = _base_python(folder)
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    command = [str(python), "-I", "-m", "venv", "--without-pip", "--symlinks", str(new)]
    subprocess.run(command, check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = new / "lib" / version / "site-packages"
    for one in parts.values():
        _copy(one, site)
    script = new / "bin" / "kwsd"
    script.write_text(SCRIPT.format(python=folder / "bin" / "python"), encoding="utf-8")
    script.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def _base_python(folder: Path) -> Path:
    """Return the interpreter that the environment is made with. Raises NotCopied."""
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if not folder.is_relative_to("/opt") or not any(python.is_relative_to(home) for home in HOMES):
        return python
    other = shutil.which(
        f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/bin"
    )
    if other is None:
        raise NotCopied(
            f"{python}, the Python of this kwsd, lies in a home, where the service may not read: "
            "make the environment with the system's Python (python3 -m venv), and kwsd in it"
        )
    return Path(other)


def _copy(one: Distribution, site: Path) -> None:
    """Copy the files of a distribution; those outside site-packages keep their distance to it."""
    for file in one.files or ():
        if file.is_absolute() or ("bin" in file.parts[:4] and ".." in file.parts):
            continue  # scripts name the interpreter of the environment that they are in
        origin = Path(str(file.locate()))
        if origin.is_file():
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(origin, target)


def main(argv: list[str]) -> int:
    """Copy into the folder `argv[0]` with the extras `argv[1]` and return the exit status."""
    folder, extras = argv
    try:
        put_into(Path(folder), frozenset(filter(None, extras.split(","))))
    except NotCopied as error:
        return fail(UNAVAILABLE, error)
    except (OSError, subprocess.SubprocessError) as error:
        return fail(DATA, f"kwsd cannot be copied into {folder}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

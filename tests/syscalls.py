"""What a program asked of the kernel, by strace: native code escapes Python's audit hooks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CHANGES = re.compile(
    r"creat|mkdir|mknod|rename|link|symlink|unlink|rmdir|truncate|[fl]?chmod|[fl]?chown|f?utime"
    r"|l?setxattr|l?removexattr"
)
"""Beginning of the names of the calls that change a path; `open` changes it where its flags say
so."""
WRITING = re.compile(r"\bO_(WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)\b")
CALL = re.compile(r"(?:\d+\s+)?(\w+)\((.*)")
PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
FAMILY = re.compile(r"\b(AF_\w+)")
ADDRESS = re.compile(
    r'sin6?_port=htons\((\d+)\)[^}]*?(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"'
)
RESOLVER = ("/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf")
"""The files that a look-up of a name reads first."""
KERNEL = ("/dev/null", "/proc/self/")
"""Beginnings of paths that are no files on a disk."""


NSCD = "/var/run/nscd/socket"
"""Where the C library asks for the names of users and groups, on this machine."""


class Observed(NamedTuple):
    """What a program did that others could find afterwards, or see on the network."""

    written: set[str]
    """Paths that it created, changed, or opened for writing, whether or not that worked."""
    connected: set[str]
    """Paths of the Unix sockets that it bound or connected to."""
    families: set[str]
    """Families of its sockets, such as `AF_UNIX`."""
    reached: set[str]
    """Addresses that it connected or sent to over a network, as `127.0.0.1 port 53`, whether or not
    somebody answered."""
    bound: set[str]
    """Addresses that it bound."""
    looked_up: set[str]
    """Files of the resolver that it read."""

    def outside(self, *folders: Path) -> set[str]:
        """Return the files and Unix sockets that are in none of `folders`."""
        within = tuple(f"{folder}/" for folder in folders)
        touched = self.written | self.connected
        return {path for path in touched if not (path + "/").startswith((*within, *KERNEL))} - {
            NSCD
        }


def command(log: Path) -> list[str]:
    """Return the command that runs what follows it under strace, with the calls in `log`."""
    trace = "trace=%file,socket,socketpair,bind,connect,sendto,sendmsg,sendmmsg"
    return ["strace", "-f", "-y", "-s", "4096", "--seccomp-bpf", "-o", str(log), "-e", trace]


def refusal() -> str | None:
    """Return why programs cannot be traced here; None where they can."""
    try:
        done = subprocess.run([*command(Path("/dev/null")), "true"], capture_output=True, text=True)
    except FileNotFoundError:
        return "strace is not installed"
    return None if done.returncode == 0 else done.stderr.strip() or "strace fails"


def observed(log: Path) -> Observed:
    """Return what the calls in `log` did."""
    found = Observed(set(), set(), set(), set(), set(), set())
    for line in log.read_text(errors="replace").splitlines():
        if call := CALL.match(line):  # the second half of an interrupted call says nothing new
            _add(found, call[1], call[2])
    return found


def _add(found: Observed, name: str, arguments: str) -> None:
    if name in ("socket", "socketpair", "bind", "connect", "sendto", "sendmsg", "sendmmsg"):
        found.families.update(FAMILY.findall(arguments))
        found.connected.update(re.findall(r'sun_path=@?"([^"]*)"', arguments))
        addresses = {f"{host} port {port}" for port, host in ADDRESS.findall(arguments)}
        (found.bound if name == "bind" else found.reached).update(addresses)
        return
    paths = _paths(PATH.findall(arguments))
    found.looked_up.update(path for path in paths if path in RESOLVER)
    if CHANGES.match(name) or (name.startswith("open") and WRITING.search(arguments)):
        found.written.update(paths)


def _paths(matches: Sequence[tuple[str, str]]) -> list[str]:
    return [str(Path(folder or "/") / path) for folder, path in matches]

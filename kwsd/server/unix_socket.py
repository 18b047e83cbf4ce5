"""The Unix socket: who may bind it, and who is at its other end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import os
import pwd
import socket
import stat
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kwsd.config import ConfigError, SocketConfig, user_directory, why_too_long, why_unsafe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peer:
    """The process at the other end of a socket, as the kernel names it."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        """Return the peer of a connected socket (`SO_PEERCRED`)."""
        size = struct.calcsize("3i")
        return cls(
            *struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        )

    def is_own(self) -> bool:
        """Return whether it is root or the daemon's own user."""
        return self.uid in (0, os.geteuid())

    def privileged(self, groups: Iterable[str | None]) -> bool:
        """Return whether it is root, the daemon's own user, or a member of one of the groups."""
        return self.is_own() or any(self._is_in(group) for group in groups if group is not None)

    def _is_in(self, name: str) -> bool:
        try:
            group = grp.getgrnam(name)
            user = pwd.getpwuid(self.uid)
        except KeyError:
            return False
        return group.gr_gid in (self.gid, user.pw_gid) or user.pw_name in group.gr_mem

    def refusal(self, config: SocketConfig, group_key: str | None = None) -> str | None:
        """Return why privileged requests are refused, and the fix; None where they are not.

        The members of the group that `group_key` of `config` names may make them, too.
        """
        key = group_key or "admin_group"
        own: str | None = getattr(config, key)
        given = list(dict.fromkeys(g for g in (own, config.admin_group) if g is not None))
        if self.privileged(given):
            return None
        fix = f"set socket.{key} in the daemon's configuration to a group of yours"
        if not given:
            return f"for root and the daemon's user alone; {fix}, or use sudo"
        those = " and ".join(f"the group {group}" for group in given)
        who = f"for root, the daemon's user and the members of {those}"
        group = given[0]
        add = f"`sudo usermod -aG {group} {user_name(self.uid)}`"
        if no_group := missing_group(group):
            return f"{who}, but {no_group}; then {add}, and log in again"
        if own is None:  # to be an admin is more than it needs
            add = f"{fix}, or {add}"
        return f"{who}; {add}, then log in again"


def missing_group(group: str) -> str | None:
    """Return that a group does not exist, and the command that creates it, or None."""
    try:
        grp.getgrnam(group)
    except KeyError:
        return f"there is no such group: `sudo groupadd --system {group}`"
    return None


def warn_of_groups(config: SocketConfig) -> None:
    """Log which groups with rights do not exist: until they do, nobody is in them."""
    for key in ("admin_group", "stream_group", "identify_group", "pause_group"):
        group: str | None = getattr(config, key)
        if group and (why := missing_group(group)):
            text = "socket.%s: %r: %s; until then it opens nothing to anybody"
            log.warning(text, key, group, why)


@contextmanager
def bound(path: Path, config: SocketConfig) -> Iterator[socket.socket]:
    """Listen at `path`, mode 0660; a stale socket is replaced, a live one never.

    Raises ConfigError, and OSError where the path is in use, or cannot be used for the moment.
    """
    if why := why_too_long(path):
        raise ConfigError(f"socket.path: {why}")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, _locked(path))
        _clear(path)
        kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        mask = os.umask(0o117)
        try:
            sock.bind(str(path))
        except OSError as error:
            text = f"socket.path: {path} cannot be bound ({error.strerror})"
            raise _refusal(error)(text) from error
        finally:
            os.umask(mask)
        stack.callback(path.unlink, missing_ok=True)
        if config.group is not None:
            _give(path, config.group)
        sock.listen(max(64, config.max_clients))
        yield sock


def _refusal(error: OSError) -> type[ConfigError | OSError]:
    """Return the type of error for a path that cannot be used.

    It is OSError where the same path may be usable soon, as on a disk that is full.
    """
    soon = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
    return OSError if error.errno in soon else ConfigError


def _give(path: Path, group: str) -> None:
    """Give a socket to a group. Raises ConfigError."""
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        raise ConfigError(f"socket.group: {group!r}: {missing_group(group)}") from None
    except OSError as error:
        user = user_name(os.geteuid())
        text = f"socket.group: {path} cannot be given to the group {group!r} ({error.strerror})"
        fix = f"`sudo usermod -aG {group} {user}` makes the daemon's user a member"
        raise ConfigError(f"{text}; {fix}") from error


def user_name(uid: int) -> str:
    """Return the name of a user, or the number of one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def users_of(uids: Iterable[int | None]) -> dict[str, int]:
    """Return how often each user is among `uids`, by name; those that are unknown are left out."""
    counts = Counter(uid for uid in uids if uid is not None)
    return {user_name(uid): count for uid, count in sorted(counts.items())}


def _locked(path: Path) -> int:
    """Return the descriptor of a lock file that says the socket is served.

    Raises ConfigError or OSError.
    """
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if path.parent == user_directory() and (why := why_unsafe(path.parent)):
            fix = "remove it, or set XDG_RUNTIME_DIR or socket.path"
            raise ConfigError(f"socket.path: {why}; {fix}")
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        text = f"socket.path: {path.parent} cannot be used ({error.strerror})"
        fix = "set socket.path, or --socket, to a folder of yours"
        raise _refusal(error)(f"{text}; {fix}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        text = f"{path} is already served by a running kwsd"
        raise OSError(f"{text}; stop that one, or choose another --socket") from None
    return lock


def _clear(path: Path) -> None:
    """Remove a socket that nobody serves. Raises ConfigError or OSError for anything else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            text = f"{path} exists and is no socket; remove it, or choose another --socket"
            raise ConfigError(text)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            log.info("removing a stale socket: %s", path)
            path.unlink(missing_ok=True)
        except OSError as error:
            text = f"{path}: cannot tell whether it is served ({error})"
            raise ConfigError(f"{text}; remove it, or choose another --socket") from error
        else:
            text = f"{path} is already served by another program"
            raise OSError(f"{text}; stop that one, or choose another --socket")

"""The daemon's process before it begins: its heap, threads, modules and descriptors."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import resource
import sys

log = logging.getLogger(__name__)
M_TRIM_THRESHOLD = -1
"""Option of mallopt(3)."""
M_ARENA_MAX = -8
"""Option of mallopt(3)."""
SWITCH_INTERVAL_S = 0.001
"""How long a thread waits for another that runs Python: the listener must not wait for clients."""
NEEDED_LATER = ("difflib", "kwsd.validation", "soxr")
"""Modules that are imported when they are first needed: by then, descriptors may have run out."""


def prepare(descriptors: int) -> None:
    """Prepare this process to run a daemon that may need so many descriptors."""
    frugal_heap()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for module in NEEDED_LATER:
        importlib.import_module(module)
    allow_descriptors(descriptors)


def frugal_heap() -> None:
    """Ask glibc for one heap instead of one a thread, and to return free memory at once.

    This saves several MiB of a daemon's 80.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        c = ctypes.CDLL(None)
        for option, value in ((M_ARENA_MAX, 1), (M_TRIM_THRESHOLD, 1 << 16)):
            c.mallopt(option, value)


def return_free_memory() -> None:
    """Return what is free between what is in use as well: loading models leaves some MiB of it."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def allow_descriptors(needed: int) -> None:
    """Raise the process's limit on descriptors to `needed`, or log that it cannot be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    soft = needed if hard == unlimited else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed:
        text = "socket.max_clients may need %d file descriptors, and %d are allowed"
        log.warning(f"{text}; raise LimitNOFILE= or `ulimit -Hn`", needed, soft)


def set_log_level(name: str) -> None:
    """Log what is as important as that, `debug` to `error`, and nothing else."""
    logging.getLogger("kwsd").setLevel(name.upper())

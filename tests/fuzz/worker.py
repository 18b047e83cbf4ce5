"""One process of the fuzzer: checks a run of inputs of one kind, within bounds of its own.

    python -m fuzz.worker MODULE KIND SEED FIRST COUNT FOLDER

It writes a line of JSON for each input to standard output: its number before it is tried, then
what came of it. Its address space may grow by `MAX_ADDED` bytes, and an input may take
`Kind.longest_s`.
"""

from __future__ import annotations

import importlib
import json
import logging
import resource
import shutil
import signal
import sys
import traceback
import warnings
from pathlib import Path
from random import Random
from types import FrameType

from fuzz.kinds import Kind

MAX_ADDED = 64 << 20
"""Bytes of memory that an input may add."""


class Hung(BaseException):
    """An input took too long."""


def hang(number: int, frame: FrameType | None) -> None:
    """Raise Hung."""
    raise Hung("took too long")


def kinds(module: str) -> dict[str, type[Kind]]:
    """Return the kinds of input that a module declares."""
    found: dict[str, type[Kind]] = importlib.import_module(module).KINDS
    return found


def tried(kind: Kind, data: bytes) -> tuple[str, str]:
    """Return what came of an input: `accepted`, `refused` or `uncaught`, and the traceback."""
    signal.setitimer(signal.ITIMER_REAL, kind.longest_s)
    try:
        return ("accepted" if kind.check(data) else "refused"), ""
    except (Exception, Hung):
        return "uncaught", traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def peak_bytes() -> int:
    """Return the most memory that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def random(seed: int, name: str, index: int) -> Random:
    """Return the randomness of one input."""
    return Random(f"{seed}:{name}:{index}")


def main(module: str, name: str, seed: int, first: int, count: int, folder: Path) -> None:
    """Try the inputs `first` to `first + count` of a kind."""
    logging.disable()
    warnings.simplefilter("error")
    signal.signal(signal.SIGALRM, hang)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kind = kinds(module)[name](folder)
    for index in range(kind.warm_up):
        tried(kind, kind.corrupted(random(seed + 1, name, index), index))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MAX_ADDED, resource.RLIM_INFINITY))
    before = peak_bytes()
    for index in range(first, first + count):
        data = kind.corrupted(random(seed, name, index), index)
        print(json.dumps({"begun": index}), flush=True)
        came, trace = tried(kind, data)
        report = {"index": index, "came": came, "added": peak_bytes() - before}
        print(json.dumps({**report, "trace": trace} if trace else report), flush=True)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    module, name, seed, first, count, folder = sys.argv[1:]
    main(module, name, int(seed), int(first), int(count), Path(folder))

"""`./dev fuzz`: corrupted files, lines and requests by the ten thousand, and what came of them.

Ends with counts, and with exit status 1 where anything was uncaught. Each input follows from the
seed, its kind and its number, so that a fault is reproduced by the command that is printed with it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from fuzz import worker

MODULE = "fuzz.registry"
FULL = 20_000
"""Inputs of each kind."""
BATCH = 500
"""Inputs of one process."""
GRACE_S = 20.0
"""Seconds without a word after which a process is killed: native code hears no alarm."""
SHOWN = 5
"""Faults of a kind that are shown."""


@dataclass
class Tally:
    """What came of the inputs of one kind."""

    name: str
    counted: str
    came: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)
    """The number of an input, and its traceback."""
    added: int = 0
    """The most bytes that a process grew by."""
    seconds: float = 0.0

    @property
    def tried(self) -> int:
        """How many inputs were tried."""
        return self.came.total()

    def add(self, index: int, came: str, trace: str = "") -> None:
        """Count an input."""
        self.came[came] += 1
        if came == "uncaught":
            self.faults.append((index, trace))


def run_batch(module: str, tally: Tally, seed: int, first: int, count: int) -> None:
    """Try a run of inputs, in processes of their own: another goes on where one is lost."""
    began = time.monotonic()
    last = first + count
    while first < last:
        first = _run_process(module, tally, seed, first, last - first)
    tally.seconds += time.monotonic() - began


def _run_process(module: str, tally: Tally, seed: int, first: int, count: int) -> int:
    """Try a run of inputs in one process; return the number of the input after the last."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [module, tally.name, str(seed), str(first), str(count), f"{folder}/state"]
        command = [sys.executable, "-m", "fuzz.worker", *arguments]
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        ) as process:
            errors: list[bytes] = []
            with ThreadPoolExecutor(1) as reader:
                assert process.stderr is not None
                reader.submit(lambda: errors.append(process.stderr.read()))  # type: ignore[union-attr]
                begun: int | None = None
                done = first
                for line in _lines(process):
                    report = json.loads(line)
                    if "begun" in report:
                        begun = report["begun"]
                        continue
                    begun = None
                    done = report["index"] + 1
                    tally.add(report["index"], report["came"], report.get("trace", ""))
                    tally.added = max(tally.added, report["added"])
                silent = False
                try:
                    process.wait(2.0)
                except subprocess.TimeoutExpired:
                    silent = True
                    process.kill()
                    process.wait()
    if begun is None and done < first + count:
        text = b"".join(errors).decode(errors="replace")[-2000:]
        raise RuntimeError(f"the fuzzer itself failed on {tally.name}:\n{text}")
    if begun is None:
        return done
    why = f"hung for {GRACE_S:g} s" if silent else f"ended the process ({process.returncode})"
    tally.add(begun, "uncaught", why)
    return begun + 1


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Yield the lines of a process until it ends, or says nothing for GRACE_S."""
    assert process.stdout is not None
    handle = process.stdout.fileno()
    rest = b""
    while select.select([handle], [], [], GRACE_S)[0] and (data := os.read(handle, 1 << 16)):
        *whole, rest = (rest + data).split(b"\n")
        yield from whole


def fuzz(
    module: str, names: Sequence[str], seed: int, first: int, count: int, seconds: float
) -> list[Tally]:
    """Try `count` inputs of each kind, from number `first` on, for at most so many seconds.

    The kind that has had the least time goes on, and none is in two processes at once.
    """
    deadline = time.monotonic() + seconds
    kinds = worker.kinds(module)
    tallies = [Tally(name, kinds[name].counted) for name in names]
    waiting = list(tallies)
    choosing = threading.Lock()

    def work() -> None:
        while time.monotonic() < deadline:
            with choosing:
                if not waiting:
                    return
                tally = min(waiting, key=lambda one: one.seconds)
                waiting.remove(tally)
            size = min(BATCH, count - tally.tried)
            run_batch(module, tally, seed, first + tally.tried, size)
            if tally.tried < count:
                with choosing:
                    waiting.append(tally)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done in [pool.submit(work) for _ in range(os.cpu_count() or 1)]:
            done.result()
    return tallies


def summary(tallies: Sequence[Tally]) -> list[str]:
    """Return what came of all of it, for people."""
    head = f"{'kind':14} {'tried':>8} {'refused':>8} {'accepted':>8} {'uncaught':>8} {'added':>9}"
    rows = [
        f"{t.name:14} {t.tried:8,} {t.came['refused']:8,} {t.came['accepted']:8,} "
        f"{t.came['uncaught']:8,} {t.added / 2**20:5.1f} MiB"
        for t in tallies
    ]
    tried: Counter[str] = Counter()
    for tally in tallies:
        tried[tally.counted] += tally.tried
    counts = ", ".join(f"{count:,} {what}" for what, count in tried.items())
    uncaught = sum(t.came["uncaught"] for t in tallies)
    worst = max((t.added for t in tallies), default=0) / 2**20
    return [head, *rows, f"{counts} tried; {uncaught} uncaught; {worst:.1f} MiB added at worst"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the fuzzer; return 1 where anything was uncaught."""
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="stop after so long (default 300)"
    )
    parser.add_argument("--kind", action="append", help="only this kind; may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, default=FULL, help=f"of each kind (default {FULL:,})")
    parser.add_argument("--module", default=MODULE, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    known = worker.kinds(arguments.module)
    names = arguments.kind or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no kind is called {unknown[0]!r}; there are {', '.join(known)}")
    tallies = fuzz(
        arguments.module,
        names,
        arguments.seed,
        arguments.first,
        arguments.count,
        arguments.seconds,
    )
    for tally in tallies:
        for index, trace in tally.faults[:SHOWN]:
            again = f"--kind {tally.name} --seed {arguments.seed} --first {index} --count 1"
            print(f"{tally.name} {index} was not caught: ./dev fuzz {again}\n{trace}")
        if tally.tried < arguments.count:
            again = f"--kind {tally.name} --seed {arguments.seed}"
            print(
                f"{tally.name}: time is up; ./dev fuzz {again} --first "
                f"{arguments.first + tally.tried} goes on"
            )
    print("\n".join(summary(tallies)))
    return int(any(tally.faults for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())

"""The generators of bad input at a small size, and the runner of `./dev fuzz`: it can fail."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

import pytest
from fuzz import __main__ as runner
from fuzz import worker
from fuzz.kinds import Kind
from fuzz.registry import KINDS as ALL

SMALL = 60
"""Inputs of each kind; `./dev fuzz` tries 20,000."""


@pytest.mark.parametrize("name", ALL)
def test_no_bad_input_is_uncaught(name: str, tmp_path: Path) -> None:
    kind = ALL[name](tmp_path)
    before = signal.signal(signal.SIGALRM, worker.hang)
    try:
        for data in kind.sound():
            assert kind.check(data), "a sound input is refused"
        for index in range(SMALL):
            came, trace = worker.tried(kind, kind.corrupted(Random(f"{name}:{index}"), index))
            assert came in ("accepted", "refused"), f"input {index}:\n{trace}"
    finally:
        signal.signal(signal.SIGALRM, before)


class Faulty(Kind):
    """A kind whose fourth input raises, its fifth hangs, and so on."""

    counted = "files"
    longest_s = 0.3
    warm_up = 0

    def corrupted(self, rng: Random, index: int) -> bytes:
        return bytes([index])

    def check(self, data: bytes) -> bool:
        match data[0]:
            case 3:
                raise ZeroDivisionError
            case 4:
                time.sleep(10)
            case 5:
                return bool(bytearray(2 * worker.MAX_ADDED))
            case 6:
                os.kill(os.getpid(), signal.SIGSEGV)
        return data[0] % 2 == 0


KINDS = {"faulty": Faulty}


def test_the_runner_reports_what_is_uncaught_and_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, _path())))
    assert runner.main(["--module", __name__, "--count", "10"]) == 1
    printed = capsys.readouterr().out
    for text in ("ZeroDivisionError", "Hung", "MemoryError", "ended the process (-11)"):
        assert text in printed
    assert "./dev fuzz --kind faulty --seed 1 --first 3 --count 1" in printed
    assert "faulty               10        3        3        4" in printed
    assert "10 files tried; 4 uncaught" in printed


def test_the_runner_passes_where_all_is_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, _path())))
    arguments = ["--module", __name__, "--seed", "2", "--first", "7", "--count", "3"]
    assert runner.main(arguments) == 0
    assert "3 files tried; 0 uncaught" in capsys.readouterr().out


def test_time_ends_it_and_the_rest_can_be_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["--kind", "line", "--seconds", "0", "--first", "5"]) == 0
    printed = capsys.readouterr().out
    assert "line: time is up; ./dev fuzz --kind line --seed 1 --first 5 goes on" in printed
    assert "0 lines tried; 0 uncaught" in printed
    with pytest.raises(SystemExit):
        runner.main(["--kind", "nothing"])


def _path() -> tuple[Path, Path]:
    tests = Path(__file__).parent
    return tests.parent, tests

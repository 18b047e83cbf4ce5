"""Forked processes are as those that Python starts, as far as tests look at them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import forked
import pytest

PROGRAMS = {
    "arguments": "import sys; print(sys.argv[1:]); sys.stderr.write('é\\n')",
    "message": "import sys; sys.exit('why')",
    "status": "raise SystemExit(65)",
    "silent": "raise SystemExit",
    "threads": "import threading; threading.Thread(target=print, args=['last']).start()",
    "at exit": "import atexit; atexit.register(print, 'last')",
    "environment": "import os; print(os.environ['KEY'], os.getenv('HOME'), os.getcwd())",
    "input": "import sys; print(sys.stdin.read(), sys.stdin.isatty())",
    "descriptors": "import os; print(len(os.listdir('/proc/self/fd')))",
    "interrupt": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "signal": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ends_as_one_that_is_started(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "value")
    monkeypatch.delenv("HOME")
    arguments = ["-c", PROGRAMS[name], "a", "é b"]
    started = subprocess.run(
        [sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    found = forked.run(arguments)
    assert (found.returncode, found.stdout) == (started.returncode, started.stdout)
    assert found.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]


def test_modules_and_scripts_are_run(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys, beside; print(__name__, sys.argv[1:], beside.HERE)")
    (tmp_path / "beside.py").write_text("HERE = 7")
    assert forked.run([str(script), "x"]).stdout == "__main__ ['x'] 7\n"
    assert forked.run(["-m", "kwsd", "--version"]).stdout.startswith("kwsd ")
    assert forked.run(["-m", "kwsd", "dance"]).returncode == 64


def test_a_process_is_waited_for_and_interrupted_at_any_time() -> None:
    for _ in range(10):
        process = forked.Process(["-c", "import time; time.sleep(60)"], stderr=forked.DEVNULL)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == process.poll() == -signal.SIGINT
        process.kill()  # it has ended, and nobody else is hit


def test_nothing_is_there_that_a_device_does_without() -> None:
    heavy = "('torch', 'sounddevice', 'onnx', 'kwsd.training')"
    program = f"import os, sys; print([m for m in {heavy} if m in sys.modules])\n"
    program += "print(os.listdir('/proc/self/task') == [str(os.getpid())])"
    assert forked.run(["-c", program]).stdout == "[]\nTrue\n"


def test_streams(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("é\n")
    out = tmp_path / "out"
    program = "import sys; print(input()); print('err', file=sys.stderr)"
    with file.open() as reading, out.open("w") as writing:
        process = forked.Process(["-c", program], stdin=reading, stdout=writing, stderr=writing)
        assert process.wait(20) == 0
    assert sorted(out.read_text().split()) == ["err", "é"]
    process = forked.Process(
        ["-c", program], stdin=forked.PIPE, stdout=forked.PIPE, stderr=forked.STDOUT, text=True
    )
    assert process.stdin is not None
    process.stdin.write("é\n")
    assert sorted(process.communicate(20)[0].split()) == ["err", "é"]
    assert process.returncode == 0

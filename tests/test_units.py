"""The systemd units are valid, and as closed as SECURITY.md states."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kwsd.cli import main as cli
from kwsd.server import watchdog

UNITS = Path(__file__).parent.parent / "systemd"
BOTH = pytest.mark.parametrize("whose", ["system", "user"])
analyzed = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")


def settings(whose: str) -> dict[str, str]:
    """Return the settings of a unit."""
    lines = (UNITS / whose / "kwsd.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def analyze(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    command = ["systemd-analyze", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@BOTH
def test_only_what_another_start_cannot_mend_prevents_it(whose: str) -> None:
    unit = settings(whose)
    assert unit["Restart"] == "always"
    prevented = {int(status) for status in unit["RestartPreventExitStatus"].split()}
    assert prevented == {cli.USAGE, cli.DATA, cli.CONFIGURATION}
    assert watchdog.FAILURE not in prevented
    assert unit["StartLimitIntervalSec"] == "0"  # `systemctl restart` needs no reset-failed


def test_the_users_state_is_where_every_verb_looks() -> None:
    unit = settings("user")
    assert "StateDirectory" not in unit
    assert "--state" not in unit["ExecStart"]


@analyzed
def test_the_system_unit_is_sound_and_closed() -> None:
    unit = UNITS / "system" / "kwsd.service"
    verified = analyze("verify", unit)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = analyze("security", "--offline=yes", "--no-pager", unit)
    assert rated.returncode == 0
    exposure = re.search(r"Overall exposure level for kwsd.service: ([\d.]+)", rated.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= 2.5


@analyzed
def test_the_user_unit_is_sound(tmp_path: Path) -> None:
    unit = UNITS / "user" / "kwsd.service"
    verified = analyze("--user", "verify", unit, XDG_RUNTIME_DIR=str(tmp_path))
    assert (verified.returncode, verified.stderr) == (0, "")

"""The systemd units are valid, and as closed as SECURITY.md states. Needs systemd-analyze."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "systemd"
pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")


def analyze(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    command = ["systemd-analyze", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_the_system_unit_is_sound_and_closed() -> None:
    unit = UNITS / "system" / "kwsd.service"
    verified = analyze("verify", unit)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = analyze("security", "--offline=yes", "--no-pager", unit)
    assert rated.returncode == 0
    exposure = re.search(r"Overall exposure level for kwsd.service: ([\d.]+)", rated.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= 2.5


def test_the_user_unit_is_sound(tmp_path: Path) -> None:
    unit = UNITS / "user" / "kwsd.service"
    verified = analyze("--user", "verify", unit, XDG_RUNTIME_DIR=str(tmp_path))
    assert (verified.returncode, verified.stderr) == (0, "")

"""The systemd units: sound, and as closed as they are said to be. Needs systemd-analyze, which any systemd machine has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "systemd"
pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")


def test_the_system_unit_is_sound_and_closed() -> None:
    unit = UNITS / "system" / "kwsd.service"
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--no-pager", unit], capture_output=True, text=True, check=True)
    exposure = re.search(r"Overall exposure level for kwsd.service: ([\d.]+)", judged.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= 2.5


def test_the_user_unit_is_sound(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    verified = subprocess.run(
        ["systemd-analyze", "--user", "verify", UNITS / "user" / "kwsd.service"], capture_output=True, text=True, check=False, env=environment
    )
    assert (verified.returncode, verified.stderr) == (0, "")

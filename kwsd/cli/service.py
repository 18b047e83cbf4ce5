"""What the verbs of the service share: they run the functions that `./dev install` runs, too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kwsd.cli.output import UNAVAILABLE, fail

FOLDER = Path(__file__).parent.parent / "service"
"""The units and the functions, in an installed kwsd; a checkout has them in `systemd`."""
RUN = '. "$SERVICE/service.sh"; service "$@"'


def act(command: str, arguments: Sequence[str]) -> int:
    """Run `install` or `uninstall` with its arguments and return its exit status."""
    if not (FOLDER / "service.sh").is_file():
        return fail(UNAVAILABLE, f"this kwsd runs from a checkout: there, it is ./dev {command}")
    kwsd = f"{sys.executable} -m kwsd"
    env = {
        **os.environ,
        "ME": f"kwsd {command}-service",
        "INSTALL": f"{kwsd} install-service",
        "UNINSTALL": f"{kwsd} uninstall-service",
        "SERVICE": str(FOLDER),
        "KWSD_PYTHON": sys.executable,
    }
    return subprocess.run(["sh", "-euc", RUN, "sh", command, *arguments], env=env).returncode

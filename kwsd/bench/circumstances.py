"""The circumstances of a measurement, which every report names: machine, versions and commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import TypedDict

from kwsd.version import __version__

PACKAGES = (
    "numpy",
    "onnxruntime",
    "webrtcvad-wheels",
    "pymicro-wakeword",
    "pyopen-wakeword",
    "pocketsphinx",
    "Resemblyzer",
)
"""The packages whose versions are named, where they are installed."""


class Circumstances(TypedDict):
    """Machine, versions and commit."""

    date: str
    """YYYY-MM-DD."""
    cpu: str
    cores: int | None
    machine: str
    kernel: str
    python: str
    kwsd: str
    commit: str | None
    """`git describe`; None for an installed kwsd."""
    versions: dict[str, str]
    """By the name of the package."""


def circumstances() -> Circumstances:
    """Return the circumstances of this process."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kwsd": __version__,
        "commit": _commit(),
        "versions": versions,
    }


def sentence(found: Circumstances) -> str:
    """Return the circumstances as one line of text."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['date']}, kwsd {found['kwsd']} ({found['commit'] or 'no checkout'}), "
        f"{found['cpu']}, {found['cores']} cores, {found['machine']}, "
        f"Linux {found['kernel']}, Python {found['python']}; {versions}"
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _commit() -> str | None:
    here = str(Path(__file__).parent)
    command = ["git", "-C", here, "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None  # an installed kwsd is in no checkout; its version identifies it
    return done.stdout.strip()

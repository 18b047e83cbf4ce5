"""How the extras of kwsd, which are libraries beside what the daemon needs, are installed."""

from __future__ import annotations

from kwsd.version import __version__


def command(extra: str) -> str:
    """Return the commands that install an extra of `pyproject.toml`, for a message."""
    wheel = f"./kwsd-{__version__}-py3-none-any.whl"
    return f"./dev setup {extra} in a checkout, or from a wheel: pip install '{wheel}[{extra}]'"

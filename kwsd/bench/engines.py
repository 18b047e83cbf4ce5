"""The wake-word engines that are compared, without loading any of them.

`kwsd.bench.peers` makes them. Nothing heavy is imported here, so that the command line can name the
engines in its help.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

KWSD_WORDS = ("alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass")
"""The words that kwsd listens for while its cost is measured."""


@dataclass(frozen=True)
class EngineKind:
    """What is known of an engine without loading it."""

    module: str
    """Name of the Python module that must be installed."""
    words: tuple[str, ...]
    """The words that it is compared on."""
    several: bool
    """Whether one instance detects several words."""


ENGINES: dict[str, EngineKind] = {
    "kwsd": EngineKind("kwsd", KWSD_WORDS, True),
    "pymicro-wakeword": EngineKind("pymicro_wakeword", ("alexa",), True),
    "pyopen-wakeword": EngineKind("pyopen_wakeword", ("alexa",), True),
    "pocketsphinx": EngineKind("pocketsphinx", KWSD_WORDS, False),
}
"""Every engine by its name."""


def installed() -> list[str]:
    """Return the names of the engines that are installed, in the order of `ENGINES`."""
    return [name for name, kind in ENGINES.items() if importlib.util.find_spec(kind.module)]

"""The side of Open Voice OS, run by the Python that has `ovos-plugin-manager`.

It reads steps as JSON from standard input, finds and makes the plugins through the plugin manager,
and writes a JSON line of what came of each step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from ovos_plugin_manager.wakewords import (
    OVOSWakeWordFactory,
    find_wake_word_plugins,
    find_wake_word_verifier_plugins,
    get_ww_configs,
    get_ww_supported_langs,
    load_wake_word_verifier_plugin,
)
from ovos_utils.log import LOG

ENGINES: dict[str, Any] = {}
LOGGED: list[str] = []


def plugins() -> Any:
    """Return what the plugin manager finds of kwsd."""
    return {
        "engines": sorted(find_wake_word_plugins()),
        "verifiers": sorted(find_wake_word_verifier_plugins()),
        "configs": get_ww_configs()["ovos-ww-plugin-kwsd"],
        "languages": get_ww_supported_langs(),
    }


def load(hotwords: dict[str, Any]) -> Any:
    """Make the engine of each hotword; return the error of each that cannot be made."""
    errors = {}
    for name in hotwords:
        try:
            ENGINES[name] = OVOSWakeWordFactory.create_hotword(name, {"hotwords": hotwords})
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
    return errors


def hear(file: str, chunk_bytes: int, reset_at: int | None = None) -> Any:
    """Feed a file of raw samples to all engines, as the listener does; return after which byte each
    has found its word."""
    data = open(file, "rb").read()  # noqa: SIM115
    found: dict[str, list[int]] = {name: [] for name in ENGINES}
    for at in range(0, len(data), chunk_bytes):
        for name, engine in ENGINES.items():
            if reset_at is not None and at <= reset_at < at + chunk_bytes:
                engine.reset()
            engine.update(data[at : at + chunk_bytes])
            if engine.found_wake_word():
                found[name].append(at + chunk_bytes)
                assert not engine.found_wake_word()
    return found


def shared() -> Any:
    """Return whether all engines have the same models."""
    return len({id(engine._runtime) for engine in ENGINES.values()}) == 1


def verify(config: dict[str, Any], files: list[str]) -> Any:
    """Return whether a verifier lets each file pass, or why it cannot be made."""
    kind = load_wake_word_verifier_plugin("ovos-ww-verifier-kwsd")
    try:
        verifier = kind(config)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return [verifier.verify(np.fromfile(file, "<i2").tobytes()) for file in files]


STEPS: dict[str, Callable[..., Any]] = {
    step.__name__: step for step in (plugins, load, hear, shared, verify)
}

if __name__ == "__main__":
    LOG.error = LOG.warning = lambda text, *_: LOGGED.append(str(text))
    results = [STEPS[name](**arguments) for name, arguments in json.load(sys.stdin)]
    with open(sys.argv[1], "w") as out:
        json.dump({"results": results, "logged": LOGGED}, out)

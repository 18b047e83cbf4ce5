"""The configuration in force, as YAML whose comments name the source of each key.

Thresholds are those that the detector uses, and null paths are resolved. What it returns is itself
a configuration; to pin what was calibrated, copy it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from kwsd.config import Config, WordConfig
from kwsd.detect.setup import DetectorSetup
from kwsd.model.bundle import Bundle
from kwsd.names import look_up
from kwsd.protocol.data import ThresholdOrigin
from kwsd.state.words import AddedWord, WordStore

Origins = Mapping[str, str]
"""Where the configuration's own keys were set, by their paths, such as `words.alexa.threshold`."""
PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
AMBIGUOUS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf")


class _Leaf(NamedTuple):
    """A value with its source."""

    value: Any
    source: str


class _Entry(NamedTuple):
    """Entries, or a value, at a path of the configuration."""

    path: str
    key: str
    depth: int
    leaf: _Leaf | None


def describe(
    config: Config, setup: DetectorSetup, bundle: Bundle, origins: Origins
) -> tuple[str, dict[str, str]]:
    """Return the YAML of what is in force, and the source of each key, by its path."""
    tree = _tree(msgspec.to_builtins(config), "", origins)
    defaults = _tree(msgspec.to_builtins(WordConfig()), "", {})
    words = {}
    for name, word in setup.words.items():
        given = tree["words"].get(look_up(name, tree["words"]), defaults)
        maker = "model"
        if isinstance(word.model, AddedWord):
            maker = str(WordStore(config.state_directory(), word.model.encoder_id).path(name))
        threshold = _threshold(word.threshold, word.origin, given["threshold"].source, maker)
        words[name] = {**given, "threshold": threshold, "enabled": _enabled(given, True)}
    for name in setup.disabled:
        given = tree["words"].get(name, defaults)
        words[name] = {**given, "enabled": _enabled(given, False)}
    tree["words"] = words
    size = setup.checker.size if setup.checker else "off"
    given = tree["checker"]
    tree["checker"] = given if given.value == size else _Leaf(size, "model")
    speakers = setup.speakers
    tree["speaker"]["threshold"] = _threshold(
        speakers.threshold, speakers.origin, tree["speaker"]["threshold"].source, "model"
    )
    for section, key, path in (
        (tree, "models", bundle.path),
        (tree, "state", config.state_directory()),
        (tree["socket"], "path", config.socket_path()),
    ):
        section[key] = _Leaf(str(path), section[key].source)
    entries = list(_entries(tree, "", 0))
    lines = []
    for entry in entries:
        key = entry.key if _is_plain(entry.key) else _scalar(entry.key)
        value = f" {_scalar(entry.leaf.value)}  # {entry.leaf.source}" if entry.leaf else ""
        lines.append(f"{'  ' * entry.depth}{key}:{value}\n")
    return "".join(lines), {entry.path: entry.leaf.source for entry in entries if entry.leaf}


def overridden(before: Config, after: Config) -> dict[str, str]:
    """Return the command line as the source of every key in which it changed a configuration."""
    origins = {}
    old = {e.path: e.leaf for e in _entries(_tree(msgspec.to_builtins(before), "", {}), "", 0)}
    for entry in _entries(_tree(msgspec.to_builtins(after), "", {}), "", 0):
        if entry.leaf and entry.leaf != old.get(entry.path):
            origins[entry.path] = "command line"
    return origins


def _tree(value: Any, path: str, origins: Origins) -> Any:
    """Return a configuration's plain data with a source for every value."""
    if isinstance(value, dict):
        return {
            key: _tree(each, f"{path}.{key}" if path else key, origins)
            for key, each in value.items()
        }
    return _Leaf(value, _origin(path, origins))


def _origin(path: str, origins: Origins) -> str:
    """Return where a key was set; `vad: off` sets `vad.enabled`."""
    if path in origins:
        return origins[path]
    section, _, key = path.rpartition(".")
    return origins.get(section, "default") if key == "enabled" else "default"


def _enabled(given: Mapping[str, _Leaf], value: bool) -> _Leaf:
    """Return whether a word is listened for, with who said so."""
    return given["enabled"] if given["enabled"].value == value else _Leaf(value, "kwsd word")


def _threshold(value: float, origin: ThresholdOrigin, configured: str, maker: str) -> _Leaf:
    """Return a threshold with its source.

    That is where it is `configured`, or the `maker` of the word.
    """
    sources: dict[ThresholdOrigin, str] = {
        "configured": configured,
        "calibrated": "calibrated",
        "model": maker,
    }
    return _Leaf(value, sources[origin])


def _entries(tree: Mapping[str, Any], path: str, depth: int) -> Iterator[_Entry]:
    for key, value in tree.items():
        at = f"{path}.{key}" if path else key
        if isinstance(value, _Leaf):
            yield _Entry(at, key, depth, value)
        else:
            yield _Entry(at, key, depth, None)
            yield from _entries(value, at, depth + 1)


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line; JSON is YAML."""
    return msgspec.json.encode(value).decode()


def _is_plain(key: str) -> bool:
    """Return whether YAML reads a key as the text that it is."""
    return bool(PLAIN.fullmatch(key)) and key not in AMBIGUOUS

"""The graphs of the shipped bundle, loaded once in a process and in all that are forked from it.

A session takes as long to load as a second of speech to hear, and remembers nothing: streams hand
their states to it. Every other graph is loaded as ever.
"""

from __future__ import annotations

from pathlib import Path

from kwsd.model import bundle, runtime
from kwsd.ort import onnxruntime

_load = runtime.session
_loaded: dict[tuple[Path, int, int], onnxruntime.InferenceSession] = {}


def _session(path: Path, *, one_window: bool = False) -> onnxruntime.InferenceSession:
    """Return the session of a graph, as `runtime.session` does."""
    if path.parent != bundle.default_path():
        return _load(path, one_window=one_window)
    now = path.stat()
    key = (path, now.st_mtime_ns, now.st_size)
    if key not in _loaded:
        _loaded[key] = _load(path, one_window=one_window)
    return _loaded[key]


def keep() -> None:
    """Keep what is loaded from now on."""
    runtime.session = _session


def load() -> None:
    """Load what a daemon needs, and keep it."""
    keep()
    shipped = bundle.load()
    models = runtime.Runtime(shipped)
    for checker in shipped.checkers.values():
        models.checker(checker)

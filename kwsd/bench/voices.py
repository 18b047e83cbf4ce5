"""The speaker encoders that are compared: kwsd's and, where it is installed, Resemblyzer's; int16 samples to a vector of unit length.

`python -m kwsd.bench.voices NAME` measures one in a process of its own, on one thread, and prints a line of JSON.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

from kwsd.audio.files import RATE, read_all
from kwsd.bench import scenes
from kwsd.bench.peers import peak_memory_mib, tell

UTTERANCE_S = 1.5
Embed = Callable[[np.ndarray], np.ndarray]


def _kwsd() -> Embed:
    from kwsd.detect.embedder import Embedder
    from kwsd.model import bundle

    own = Embedder(bundle.load())

    def embed(samples: np.ndarray) -> np.ndarray:
        vector = own.embed([samples])
        return np.zeros(own.dim, np.float32) if vector is None else vector

    return embed


def _resemblyzer() -> Embed:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports, which are old
        from resemblyzer import VoiceEncoder
        from resemblyzer.audio import normalize_volume

    torch.set_num_threads(1)
    peer = VoiceEncoder("cpu", verbose=False)
    return lambda samples: np.asarray(peer.embed_utterance(normalize_volume(samples / np.float32(32768), -30, increase_only=True)))


_MODULES: dict[str, tuple[str, Callable[[], Embed]]] = {"kwsd": ("kwsd", _kwsd), "Resemblyzer": ("resemblyzer", _resemblyzer)}


def encoders() -> dict[str, Callable[[], Embed]]:
    """Those that are installed, by name; each loads when it is called."""
    return {name: make for name, (module, make) in _MODULES.items() if importlib.util.find_spec(module)}


def measure(name: str, repeats: int = 30) -> dict[str, float]:
    """CPU until it is loaded, the median CPU milliseconds of an utterance, and the peak memory."""
    embed = encoders()[name]()
    startup = time.process_time()
    talk, times = read_all(scenes.HERE / "television.ogg"), []
    length = int(UTTERANCE_S * RATE)
    for n in range(repeats):
        began = time.process_time()
        embed(talk[n * length : (n + 1) * length])
        times.append(time.process_time() - began)
    return {"startup_cpu_s": startup, "ms_per_utterance": 1000 * statistics.median(times), "peak_mib": peak_memory_mib()}


if __name__ == "__main__":
    tell(measure(sys.argv[1]))

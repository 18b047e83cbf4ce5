"""The speaker encoders that are compared: kwsd's, and Resemblyzer's where it is installed.

`python -m kwsd.bench.speaker_encoders NAME` measures one in a process of its own, on one thread,
and writes a line of JSON.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.bench import scenes
from kwsd.bench.peers import peak_memory_mib, write_figures

UTTERANCE_S = 1.5
"""Length of the utterances that the cost is measured on, in seconds."""
Embed = Callable[[np.ndarray], np.ndarray]
"""Turns int16 `[sample]` at 16 kHz into a vector `[dim]` of unit length."""


def _kwsd() -> Embed:
    from kwsd.audio.high_pass import HighPass
    from kwsd.config import Config
    from kwsd.detect.offline import Recordings
    from kwsd.detect.setup import resolve
    from kwsd.model import bundle

    models = bundle.load()
    embedder = Recordings(models, resolve(Config(), models)).embedder()

    def embed(samples: np.ndarray) -> np.ndarray:
        vector = embedder.embed([HighPass().step(samples)])
        return np.zeros(embedder.dim, np.float32) if vector is None else vector

    return embed


def _resemblyzer() -> Embed:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from its imports, which are old
        from resemblyzer import VoiceEncoder
        from resemblyzer.audio import normalize_volume

    torch.set_num_threads(1)
    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(samples: np.ndarray) -> np.ndarray:
        loud = normalize_volume(samples / np.float32(32768), -30, increase_only=True)
        return np.asarray(encoder.embed_utterance(loud))

    return embed


_MODULES: dict[str, tuple[str, Callable[[], Embed]]] = {
    "kwsd": ("kwsd", _kwsd),
    "Resemblyzer": ("resemblyzer", _resemblyzer),
}


def installed() -> dict[str, Callable[[], Embed]]:
    """Return the encoders that are installed, by name; each is loaded when it is called."""
    return {
        name: make for name, (module, make) in _MODULES.items() if importlib.util.find_spec(module)
    }


def measure(name: str, repeats: int = 30) -> dict[str, float]:
    """Return what the encoder `name` costs.

    `startup_cpu_s` is the CPU time until it is loaded, `ms_per_utterance` the median CPU time of an
    utterance of `UTTERANCE_S` in milliseconds, and `peak_mib` the peak memory of the process.
    """
    embed = installed()[name]()
    startup = time.process_time()
    talk = scenes.television()
    times = []
    length = int(UTTERANCE_S * SAMPLE_RATE)
    for n in range(repeats):
        began = time.process_time()
        embed(talk[n * length : (n + 1) * length])
        times.append(time.process_time() - began)
    return {
        "startup_cpu_s": startup,
        "ms_per_utterance": 1000 * statistics.median(times),
        "peak_mib": peak_memory_mib(),
    }


if __name__ == "__main__":
    write_figures(measure(sys.argv[1]))

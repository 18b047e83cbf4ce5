"""The engines that are compared: kwsd and the peers that are installed, behind one interface.

An engine is fed int16 blocks and answers with scores, as its users run it. `python -m kwsd.bench.peers NAME WORDS FILE.wav`
runs one over a recording in a process of its own, and prints two lines of JSON: when it was ready, and what it took.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import resource
import sys
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

BLOCK_SAMPLES = 1280
KWSD_WORDS = ("alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass")


class Engine(Protocol):
    """A fresh one a stream."""

    threshold: float
    """The score from which its users let it fire."""

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """int16 `[sample]` to the scores of the steps that they complete: float32 `[step, word]`."""


@functools.cache
def _models() -> Any:
    """The shipped models, loaded once."""
    from kwsd.model import bundle
    from kwsd.model.runtime import SpeakerEncoder, Student

    loaded = bundle.load()
    return loaded, Student(loaded), SpeakerEncoder(loaded)


class Kwsd:
    """The detector of the daemon with all words, gated."""

    def __init__(self, words: Sequence[str]) -> None:
        from kwsd.config import Config, Word
        from kwsd.detect.detector import Detector, Trace

        self._traces: list[Trace] = []
        bundle, student, speaker = _models()
        self.threshold = bundle.words[words[0]].threshold
        self.detector = Detector(Config(words={w: Word() for w in words}), bundle, student=student, speaker=speaker, on_trace=self._traces.append)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        self._traces.clear()
        self.detector.feed(samples)
        return np.concatenate([np.zeros((0, len(self.detector.triggers)), np.float32), *(t.scores for t in self._traces)])


class MicroWakeWord:
    """pymicro-wakeword (Apache-2.0): one quantised TFLite graph a word, 30 ms steps."""

    def __init__(self, words: Sequence[str]) -> None:
        from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

        self._features = MicroWakeWordFeatures()
        self._models = [MicroWakeWord.from_builtin(Model(word)) for word in words]
        self.threshold = self._models[0].probability_cutoff

    def feed(self, samples: np.ndarray) -> np.ndarray:
        steps = [[m.process_streaming_prob(f) or 0.0 for m in self._models] for f in self._features.process_streaming(samples.tobytes())]
        return np.array(steps, np.float32).reshape(-1, len(self._models))


class OpenWakeWord:
    """pyopen-wakeword (Apache-2.0; its models CC BY-NC-SA): windows recomputed every 80 ms."""

    threshold = 0.5

    def __init__(self, words: Sequence[str]) -> None:
        from pyopen_wakeword import Model, OpenWakeWord, OpenWakeWordFeatures

        self._features = OpenWakeWordFeatures.from_builtin()
        self._models = [OpenWakeWord.from_builtin(Model(word)) for word in words]

    def feed(self, samples: np.ndarray) -> np.ndarray:
        columns: list[list[float]] = [[] for _ in self._models]
        for features in self._features.process_streaming(samples.tobytes()):
            for column, model in zip(columns, self._models, strict=True):
                column += list(model.process_streaming(features))
        return np.array(columns, np.float32).T.reshape(-1, len(self._models))


class PocketSphinx:
    """pocketsphinx (BSD): a phone loop against one key phrase; it fires or does not, so its score is 0 or 1."""

    threshold = 0.5

    def __init__(self, words: Sequence[str]) -> None:
        from pocketsphinx import Decoder

        (word,) = words
        self._decoder = Decoder(keyphrase=word.replace("_", " "), kws_threshold=1e-20, loglevel="FATAL")
        self._decoder.start_utt()

    def feed(self, samples: np.ndarray) -> np.ndarray:
        self._decoder.process_raw(samples.tobytes())
        fired = self._decoder.hyp() is not None
        if fired:
            self._decoder.end_utt()
            self._decoder.start_utt()
        return np.array([[float(fired)]], np.float32)


@dataclass(frozen=True)
class Kind:
    """What is known of an engine without loading it."""

    module: str
    words: tuple[str, ...]
    make: Any
    several: bool
    """Whether one process hears several words."""


ENGINES: dict[str, Kind] = {
    "kwsd": Kind("kwsd", KWSD_WORDS, Kwsd, True),
    "pymicro-wakeword": Kind("pymicro_wakeword", ("alexa",), MicroWakeWord, True),
    "pyopen-wakeword": Kind("pyopen_wakeword", ("alexa",), OpenWakeWord, True),
    "pocketsphinx": Kind("pocketsphinx", KWSD_WORDS, PocketSphinx, False),
}


def installed() -> list[str]:
    return [name for name, kind in ENGINES.items() if importlib.util.find_spec(kind.module)]


def peak_memory_mib() -> float:
    """The most memory this process has held since it was started (not since it was forked)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _blocks(path: Path) -> Any:
    with wave.open(str(path)) as recording:
        while data := recording.readframes(BLOCK_SAMPLES):
            yield np.frombuffer(data, "<i2")


def run(name: str, words: Sequence[str], path: Path) -> None:
    """One engine over a recording; JSON on standard output."""
    if name == "kwsd detect":
        from kwsd.config import Config, Word
        from kwsd.detect.offline import Recordings, total_seconds
        from kwsd.model import bundle

        recordings = Recordings(Config(words={w: Word() for w in words}), bundle.load())
        tell({"cpu_s": time.process_time()})
        fired, samples = sum(wake.reason is None for wake in recordings.detect(path)), round(total_seconds([path]) * 16000)
    else:
        engine = ENGINES[name].make(words)
        tell({"cpu_s": time.process_time()})
        fired, samples, above = 0, 0, False
        for block in _blocks(path):
            scores = engine.feed(block)
            samples += len(block)
            for top in scores.max(axis=1, initial=0.0):
                fired += top >= engine.threshold and not above
                above = bool(top >= engine.threshold)
    tell({"cpu_s": time.process_time(), "peak_mib": peak_memory_mib(), "fired": int(fired), "samples": samples})


def tell(figures: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2].split(","), Path(sys.argv[3]))

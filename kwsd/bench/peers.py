"""Wake-word engines behind one interface: kwsd and the peers that are installed.

An engine is fed int16 blocks and returns scores, the way its users run it.

`python -m kwsd.bench.peers NAME WORDS FILE.wav` runs one engine over a recording in a process of
its own and writes two lines of JSON: one when the engine is ready, one with what the run took.
"""

from __future__ import annotations

import functools
import json
import resource
import sys
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE

if TYPE_CHECKING:
    from kwsd.model.bundle import Bundle
    from kwsd.model.runtime import Runtime


class Engine(Protocol):
    """An engine on one stream; every stream needs an engine of its own."""

    threshold: float
    """The score from which the engine fires for its users."""

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Return the scores of the steps that `samples` complete, float32 `[step, word]`.

        `samples` are int16 `[sample]` at 16 kHz.
        """


@functools.cache
def shipped() -> tuple[Bundle, Runtime]:
    """Return the bundle that came with kwsd and its sessions, loaded once."""
    from kwsd.model import bundle
    from kwsd.model.runtime import Runtime

    loaded = bundle.load()
    return loaded, Runtime(loaded)


class Kwsd:
    """The daemon's high-pass and its detector with the gate, for several words."""

    def __init__(self, words: Sequence[str]) -> None:
        from kwsd.audio.high_pass import HighPass
        from kwsd.config import Config, WordConfig
        from kwsd.detect.detector import Detector
        from kwsd.detect.setup import resolve

        bundle, runtime = shipped()
        config = Config(words={word: WordConfig() for word in words})
        setup = resolve(config, bundle)
        self.threshold = setup.words[words[0]].threshold
        self.high_pass = HighPass()
        self.detector = Detector(bundle, setup, runtime)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 `[chunk, word]`; a chunk has 80 ms."""
        return self.detector.feed(self.high_pass.step(samples)).trace.scores


class MicroWakeWord:
    """pymicro-wakeword (Apache-2.0): one quantized TFLite graph per word, in steps of 30 ms."""

    def __init__(self, words: Sequence[str]) -> None:
        from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

        self._features = MicroWakeWordFeatures()
        self._models = [MicroWakeWord.from_builtin(Model(word)) for word in words]
        self.threshold = self._models[0].probability_cutoff

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 `[step, word]`; 0 where a model gives no probability yet."""
        steps = [
            [model.process_streaming_prob(features) or 0.0 for model in self._models]
            for features in self._features.process_streaming(samples.tobytes())
        ]
        return np.array(steps, np.float32).reshape(-1, len(self._models))


class OpenWakeWord:
    """pyopen-wakeword (Apache-2.0, its models CC BY-NC-SA): a window recomputed every 80 ms."""

    threshold = 0.5

    def __init__(self, words: Sequence[str]) -> None:
        from pyopen_wakeword import Model, OpenWakeWord, OpenWakeWordFeatures

        self._features = OpenWakeWordFeatures.from_builtin()
        self._models = [OpenWakeWord.from_builtin(Model(word)) for word in words]

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 `[step, word]`."""
        columns: list[list[float]] = [[] for _ in self._models]
        for features in self._features.process_streaming(samples.tobytes()):
            for column, model in zip(columns, self._models, strict=True):
                column += list(model.process_streaming(features))
        return np.array(columns, np.float32).T.reshape(-1, len(self._models))


class PocketSphinx:
    """pocketsphinx (BSD): a phone loop against one key phrase.

    It fires or it does not, so its score is 0 or 1.
    """

    threshold = 0.5

    def __init__(self, words: Sequence[str]) -> None:
        from pocketsphinx import Decoder

        (word,) = words
        phrase = word.replace("_", " ")
        self._decoder = Decoder(keyphrase=phrase, kws_threshold=1e-20, loglevel="FATAL")
        self._decoder.start_utt()

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 `[1, 1]`: one step per call."""
        self._decoder.process_raw(samples.tobytes())
        fired = self._decoder.hyp() is not None
        if fired:
            self._decoder.end_utt()
            self._decoder.start_utt()
        return np.array([[float(fired)]], np.float32)


_CLASSES: dict[str, Callable[[Sequence[str]], Engine]] = {
    "kwsd": Kwsd,
    "pymicro-wakeword": MicroWakeWord,
    "pyopen-wakeword": OpenWakeWord,
    "pocketsphinx": PocketSphinx,
}


def make(name: str, words: Sequence[str]) -> Engine:
    """Return the engine `name` of `kwsd.bench.engines.ENGINES`, on a new stream.

    It detects `words`, one alone where its kind does not take several. Raises ModuleNotFoundError
    where it is not installed.
    """
    return _CLASSES[name](words)


def peak_memory_mib() -> float:
    """Return the most resident memory of this process since it was started (not forked), in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_figures(figures: dict[str, float]) -> None:
    """Write a line of JSON to standard output, at once."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def run(name: str, words: Sequence[str], path: Path) -> None:
    """Run one engine over a WAV at 16 kHz and write its figures.

    The first line is `cpu_s` when the engine is ready; the second is `cpu_s`, `peak_mib`, `fired`
    (how often it fired) and `samples` after the recording. `kwsd detect` is the verb of that name.
    """
    fired, samples = _run_detect(words, path) if name == "kwsd detect" else _run(name, words, path)
    write_figures(
        {
            "cpu_s": time.process_time(),
            "peak_mib": peak_memory_mib(),
            "fired": fired,
            "samples": samples,
        }
    )


def _run(name: str, words: Sequence[str], path: Path) -> tuple[int, int]:
    """Feed an engine in blocks of 80 ms; return how often it fired, and the samples it heard."""
    engine = make(name, words)
    write_figures({"cpu_s": time.process_time()})
    fired = 0
    samples = 0
    above = False
    for block in _wav_blocks(path):
        scores = engine.feed(block)
        samples += len(block)
        for highest in scores.max(axis=1, initial=0.0):
            fires = bool(highest >= engine.threshold)
            fired += fires and not above
            above = fires
    return fired, samples


def _run_detect(words: Sequence[str], path: Path) -> tuple[int, int]:
    """Do what `kwsd detect` does; return how many wakes there were, and how many samples."""
    from kwsd.audio.files import total_seconds
    from kwsd.config import Config, WordConfig
    from kwsd.detect.offline import Recordings
    from kwsd.detect.setup import resolve
    from kwsd.events import Wake
    from kwsd.model import bundle

    models = bundle.load()
    config = Config(words={word: WordConfig() for word in words})
    recordings = Recordings(models, resolve(config, models))
    write_figures({"cpu_s": time.process_time()})
    steps = recordings.detect(path)
    fired = sum(isinstance(event, Wake) for step in steps for event in step.wakes)
    return fired, round(total_seconds(path) * SAMPLE_RATE)


def _wav_blocks(path: Path) -> Iterator[np.ndarray]:
    with wave.open(str(path)) as recording:
        while data := recording.readframes(CHUNK_SAMPLES):
            yield np.frombuffer(data, "<i2")


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2].split(","), Path(sys.argv[3]))

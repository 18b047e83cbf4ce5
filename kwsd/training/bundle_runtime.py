"""An exported bundle as the device runs it: the same detector, embedder and speaker scores.

All that training needs of `kwsd.detect`, `kwsd.model.runtime` and `kwsd.state` is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES
from kwsd.audio.high_pass import HighPass
from kwsd.config import Config, VadConfig, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.embedder import Embedder, voiced
from kwsd.detect.setup import resolve
from kwsd.detect.speaker_id import read_cohort
from kwsd.metrics import NEAREST, Scorer, as_norm
from kwsd.model import bundle as bundles
from kwsd.model.bundle import COHORT, read_front_end
from kwsd.model.runtime import Runtime
from kwsd.protocol.data import CheckerSize
from kwsd.training.features import mel_of


class BundleRuntime:
    """A bundle with its models loaded once; nothing is remembered between two calls."""

    def __init__(
        self,
        folder: Path,
        *,
        gated: bool = True,
        checker: CheckerSize | Literal["off"] = "off",
        join_voices: bool = False,
    ) -> None:
        """`gated`: with the voice-activity gate; `checker` as in the configuration; `join_voices`:
        embeddings joined with the checker's even where the bundle has no cohort of such yet.

        Raises BundleError, and ConfigError for a checker that the bundle lacks."""
        self.bundle = bundles.load(folder)
        self.gated = gated
        self.words = list(self.bundle.words)
        self.checks = 0
        """Windows that the checker has heard."""
        self._runtime = Runtime(self.bundle)
        config = Config(
            words={word: WordConfig() for word in self.words},
            vad=VadConfig(enabled=gated),
            checker=checker,
        )
        self._setup = resolve(config, self.bundle)
        self.checker = self._setup.checker
        """The checker in force; None for none."""
        self.checker_graph = graph = self._runtime.checker(self.checker)
        """Its graph."""
        joins = self.checker is not None and (join_voices or self.checker.voices is not None)
        self._embedder = Embedder(self.bundle, self._runtime, graph if joins else None)
        self.joins_voices = bool(self._embedder.checker_id)
        """Whether embeddings are joined with the checker's."""

    def scores(self, samples: np.ndarray) -> np.ndarray:
        """Return the scores `[chunk, word]` of int16 `samples`, from the start of a stream."""
        detector = Detector(self.bundle, self._setup, self._runtime)
        scores = detector.feed(HighPass().step(samples)).trace.scores
        if detector.checker is not None:
            self.checks += detector.checker.checks
        return scores

    def embed(self, samples: np.ndarray) -> np.ndarray | None:
        """Return the speaker embedding `[dim]` of int16 `samples`; None where nobody speaks."""
        heard = self.voice(samples)
        return None if heard is None else heard[0]

    def voice(self, samples: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Return the same, and the seconds of speech."""
        voice = self._embedder.voice([HighPass().step(samples)])
        return None if voice is None else (self._embedder.joined(voice), voice.speech_s)

    def checker_filters(self) -> np.ndarray | None:
        """Return the filters of the mel that the checker takes, float32 `[bin, band]`; None for a
        waveform, or without a checker."""
        if self.checker is None or self.checker.front_end is None:
            return None
        return np.array(read_front_end(self.bundle.file(self.checker.front_end)).filters)

    @property
    def speaker_dim(self) -> int:
        """Numbers of the speaker head's embedding, with which a joined one begins."""
        return self._runtime.speaker.dim

    @property
    def embedding_dim(self) -> int:
        """Numbers of an embedding of the encoder."""
        return self._runtime.encoder.embedding_dim

    def embeddings(self, samples: np.ndarray) -> np.ndarray:
        """Return the encoder's embeddings `[chunk, dim]` of `samples` in whole chunks, int16 scale,
        from the start of a stream."""
        mel = mel_of(self.bundle.front_end, HighPass().step(samples))
        encoder = self._runtime.encoder
        frames, _ = encoder.step(mel, encoder.zero_state())
        return frames.embedding

    def speaker_scorer(self) -> Scorer:
        """Return how the device scores takes of a word's length against references: cosines
        normalized by the `NEAREST` of the bundle's cohort (AS-norm). Raises BundleError where the
        bundle has no cohort."""
        voices = self.checker and self.checker.voices
        cohort = read_cohort(self.bundle, "cohort", voices.cohort if voices else COHORT)
        return lambda takes, references: as_norm(takes, references, cohort, NEAREST)


def spoken_part(samples: np.ndarray) -> np.ndarray:
    """Return the chunks of int16 `samples` in which somebody speaks, joined `[sample]`: what the
    checker embeds of a recording."""
    whole = len(samples) // CHUNK_SAMPLES * CHUNK_SAMPLES
    chunks = samples[:whole].reshape(-1, CHUNK_SAMPLES)
    return np.asarray(chunks[voiced(chunks)].ravel())

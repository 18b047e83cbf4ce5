"""What `manifest.json` of a model bundle says, as structs that are its validation."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta, Struct

from kwsd.protocol.data import CheckerSize, OperatingPoint, Threshold

CHECKED_FLOOR = 0.01
"""Scores of candidates that a checker has heard lie above it; all other scores of the words that it
checks lie below."""
STREAM_CLIP = 1e-4
"""How near 0 and 1 a streaming score may come where its logit is taken."""
FileName = Annotated[str, Meta(pattern=r"^\w[\w.-]*$")]
CheckedThreshold = Annotated[float, Meta(gt=CHECKED_FLOOR, le=1)]


class Kind(Struct, frozen=True):
    """What every format of the manifest has."""

    kind: str = ""
    format: int = 0


class File(Struct, frozen=True):
    """A file of the bundle."""

    sha256: str


class Word(Struct, frozen=True):
    """What was measured of a word."""

    threshold: Threshold
    operating_points: tuple[OperatingPoint, ...]
    scores: tuple[float, ...] = ()
    scores_10db: tuple[float, ...] = ()


class CheckedWord(Word, frozen=True):
    """What was measured of a word, with a checker."""

    threshold: CheckedThreshold


class Speaker(Struct, frozen=True):
    """How the scores of voices are calibrated."""

    threshold: float
    slope: float
    offset: float
    nearest: Annotated[int, Meta(ge=1)] = 200
    """Voices of the cohort that a score is normalized by."""
    length: float = 0.0
    """How much a normalized score rises with the logarithm of the seconds of speech."""


class Fusion(Struct, frozen=True):
    """The calibrated score of both stages: a logistic regression on their logits."""

    checker: float
    """Weight of the checker's logit."""
    stream: float
    """Weight of the logit of the streaming score."""
    offset: float

    def __call__(self, logit: float, streaming: float) -> float:
        """Return the score of a candidate, from `CHECKED_FLOOR` to 1.

        `logit` is the checker's, `streaming` the streaming score there. A sum that is not finite
        gives the least.
        """
        clipped = min(max(streaming, STREAM_CLIP), 1 - STREAM_CLIP)
        stream_logit = math.log(clipped / (1 - clipped))
        total = self.checker * logit + self.stream * stream_logit + self.offset
        if not math.isfinite(total):
            return CHECKED_FLOOR
        return CHECKED_FLOOR + (1 - CHECKED_FLOOR) * sigmoid(total)


def sigmoid(logit: float) -> float:
    """Return the probability of a logit, however large."""
    small = math.exp(-abs(logit))
    return 1 / (1 + small) if logit >= 0 else small / (1 + small)


class VoiceNetwork(Struct, frozen=True):
    """A network that knows voices, of a graph of its own, so that it runs for voices alone."""

    file: FileName
    share: Annotated[float, Meta(gt=0, lt=1)]
    """Weight of its vectors beside the checker's own embedding."""


class Checker(Struct, frozen=True):
    """A checker, and what was measured with it."""

    file: FileName
    input: Literal["mel", "waveform"]
    samples: Annotated[int, Meta(ge=1600, le=160_000)]
    """Length of a window."""
    peak: Annotated[float, Meta(gt=0, le=1)]
    """Share of full scale that the peak of a window is brought to."""
    candidate: dict[str, Annotated[float, Meta(gt=0, lt=1)]]
    """Streaming score from which a candidate of a word begins."""
    calibration: Fusion
    words: dict[str, CheckedWord]
    front_end: FileName | None = None
    """The file of the front end; None for `waveform`."""
    voices: VoiceNetwork | None = None
    """A network whose vectors are joined to its voice embedding, if there is one."""
    voice_weight: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    """Weight of the checker's voice embedding beside the speaker head's."""
    cohort: FileName | None = None
    """The file of voices, joined of both, that such voices are scored against."""
    speaker: Speaker | None = None
    """How scores of such voices are calibrated; there where `cohort` is."""
    word_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    """Identifies everything that decides its embedding of words, to which added words are bound;
    None for a checker that does not check them."""
    negatives: FileName | None = None
    """The file of such embeddings of what is no added word."""


class Manifest(Struct, frozen=True):
    """The whole manifest."""

    encoder_id: str
    words: dict[str, Word]
    chunk_samples: Annotated[int, Meta(ge=160, le=16000)]
    receptive_chunks: Annotated[int, Meta(ge=1, le=1000)]
    smoothing_chunks: Annotated[int, Meta(ge=1, le=100)]
    speaker: Speaker
    files: dict[str, File]
    checkers: dict[CheckerSize, Checker] = {}

"""`kwsd bench words`: how good words are that are added from a few takes, on a folder of recordings, a folder a word.

For every word, number of shots and seed: takes of as many different speakers make the word, as `kwsd word add` does; it is
tried on the recordings of the speakers that are left, and on all recordings of the other words. Hits are those over the score
that 1 % of the others reach; 0 shots are synthetic voices alone. How it does at its own threshold is told as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.audio.files import AudioFileError, read_all
from kwsd.bench.accuracy import between_silence
from kwsd.bench.corpus import Recording, labelled
from kwsd.learn.few_shot import WordTake, WordTrainer
from kwsd.learn.takes import TakeRejected
from kwsd.model import bundle as bundles
from kwsd.state.words import UserWord

log = logging.getLogger(__name__)
FALSE_ACCEPTS = 0.01
"""Share of the other words' recordings at which hits are read."""


def words(folder: Path, shots: Sequence[int], seeds: int, only: Sequence[str] | None, most: int) -> dict[str, Any]:
    """Everything, as a dict that `json` takes. Raises AudioFileError."""
    found: dict[str, list[Recording]] = {}
    for recording in labelled(folder):
        found.setdefault(recording.word, []).append(recording)
    wanted = list(only or found)
    for word in wanted:
        if word not in found:
            raise AudioFileError(f"{folder}: holds no recording of {word!r}; it has {', '.join(sorted(found))}")
    rng = np.random.default_rng(0)
    chosen = [r for word in sorted(found) for r in [found[word][i] for i in rng.permutation(len(found[word]))[:most]]]
    trainer = WordTrainer(bundles.load())
    streams = [trainer.frames(between_silence(read_all(r.path)).astype(np.float32)) for r in chosen]
    label = np.array([r.word for r in chosen])
    speaker = np.array([r.speaker or str(r.path) for r in chosen])
    takes: dict[int, WordTake | None] = {}

    def take(n: int) -> WordTake | None:
        if n not in takes:
            try:
                takes[n] = trainer.take(read_all(chosen[n].path))
            except TakeRejected:
                takes[n] = None
        return takes[n]

    rows = []
    for word in wanted:
        for count in shots:
            for seed in range(seeds if count else 1):  # synthetic voices are always the same
                shot, voices = (
                    (trainer.spoken(word.replace("_", " ")), set()) if count == 0 else _shots(np.flatnonzero(label == word), speaker, count, seed, take)
                )
                if len(shot) < count:
                    raise AudioFileError(f"{folder}: {word} has usable takes of {len(shot)} speakers; {count} shots need as many")
                made, quality = trainer.make(word, shot)
                scores = np.array([_highest(trainer, made, s) for s in streams])
                own, other = scores[(label == word) & ~np.isin(speaker, list(voices))], scores[label != word]
                threshold = float(np.quantile(other, 1 - FALSE_ACCEPTS))
                rows.append({"word": word, "shots": count, "seed": seed, "tried": len(own), "others": len(other),
                             "hits": float((own > threshold).mean()), "threshold": made.threshold, "hits_at_threshold": float((own >= made.threshold).mean()),
                             "false_accepts_at_threshold": float((other >= made.threshold).mean()),
                             "left_out_misses": quality.missed / quality.takes})  # fmt: skip
            same = [r for r in rows if r["word"] == word and r["shots"] == count]
            log.info("%s, %d shots: %.1f %% hits at 1 %% false accepts", word, count, 100 * np.mean([r["hits"] for r in same]))
    return {"folder": str(folder), "recordings": len(chosen), "shots": list(shots), "seeds": seeds, "runs": rows}


def _shots(of_word: np.ndarray, speaker: np.ndarray, count: int, seed: int, take: Any) -> tuple[list[WordTake], set[str]]:
    """`count` usable takes of different speakers, drawn by `seed`, and who they are of."""
    rng = np.random.default_rng([seed, count])
    shot: list[WordTake] = []
    voices: set[str] = set()
    for n in rng.permutation(of_word):
        if len(shot) < count and speaker[n] not in voices and (heard := take(int(n))):
            shot.append(heard)
            voices.add(str(speaker[n]))
    return shot, voices


def _highest(trainer: WordTrainer, word: UserWord, high: np.ndarray) -> float:
    """The highest score of a recording, from its frames."""
    return float(trainer.smoothed(trainer.logits(word, high)).max())

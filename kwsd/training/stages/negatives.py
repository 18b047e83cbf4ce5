"""Frames of what is no word of the user's: speech, words alike and unlike, noise. They ship with the bundle, one byte a number.

A segment that holds known words names them, so that a word which is added is not held against itself.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Student
from kwsd.training.data import augment
from kwsd.training.data.corpora import Corpora
from kwsd.training.data.scenes import CHUNK, Scenes, mel_of
from kwsd.training.data.transcripts import Spoken

log = logging.getLogger(__name__)
SECONDS = {"libri": 700, "speechocean": 700, "gsc": 200, "arabic": 150, "dsp20": 120, "fsdd": 40, "precise": 80, "synthetic": 300,
           "noise_esc10": 150, "noise_moodist": 80, "noise_gsc": 60, "music_librosa": 60}  # fmt: skip
"""How much of each corpus."""
SEGMENT_S, LEAD_CHUNKS = 10, 16
DEGRADED = 0.5
"""Share of the segments that are heard through a room, noise and a microphone."""


def gather(corpora: Corpora, spoken: Spoken, rooms: Path, bundle: Bundle, out: Path, seed: int = 6) -> None:
    """Write the bank `out` from the training split, through the exported student of `bundle`."""
    student = Student(bundle)
    scenes = Scenes(corpora, rooms, seed=seed)
    rng = scenes.rng
    high: list[np.ndarray] = []
    texts: list[str] = []
    for corpus, seconds in SECONDS.items():
        clips = [c for c in corpora.clips if c.corpus == corpus and not c.development and c.word < 0]
        have, at = 0.0, 0
        order = rng.permutation(len(clips))
        while have < seconds and at < len(order):
            parts, said = [], set()
            length = 0
            while at < len(order) and length < SEGMENT_S * 16000:
                clip = clips[order[at]]
                at += 1
                samples = corpora.read(clip)[: 2 * SEGMENT_S * 16000]
                parts.append(augment.gain_to(samples, float(rng.normal(-26, 4))))
                length += len(samples)
                said |= spoken.words(clip)
            x = np.concatenate(parts)
            x = scenes.degrade(x) if rng.random() < DEGRADED else augment.to_int16(x)
            mel = mel_of(bundle.front_end, x[: len(x) // CHUNK * CHUNK])
            embedding = student.step(mel, student.zero_state())[0].embedding[LEAD_CHUNKS:]
            if len(embedding):
                high.append(embedding)
                texts.append(" ".join(sorted(said)))
                have += length / 16000
    frames = np.concatenate(high)
    scale = (np.quantile(np.abs(frames), 0.9995, axis=0) / 127).astype(np.float32)
    starts = np.cumsum([0, *map(len, high[:-1])]).astype(np.int64)
    np.savez(out, high=np.clip(np.round(frames / scale), -127, 127).astype(np.int8), scale=scale, starts=starts, texts=np.array(texts, np.str_))
    log.info("%.0f min of negatives, %.1f MB", len(frames) * 0.08 / 60, out.stat().st_size / 1e6)

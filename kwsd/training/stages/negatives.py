"""`kwsd train negatives`: embeddings of audio that holds no word of the user's: speech, similar and
other words, noise. They ship with the bundle, one byte per number.

A segment names the known words in it, and words that sound the same ("no" where "know" is said), so
that an added word is not compared with itself. From the same audio comes the probe that tells when
somebody speaks.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.learn.regression import logistic_regression
from kwsd.learn.speech import LATER_FRAMES
from kwsd.learn.word_vectors import write_checker_negatives
from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.data import augment
from kwsd.training.data.bank import MOST_SAMPLES, segments, take
from kwsd.training.data.corpora import Utterance
from kwsd.training.data.phones import sounding_alike
from kwsd.training.data.scenes import Scenes
from kwsd.training.data.training_data import TrainingData
from kwsd.training.settings.catalog import CONTINUOUS
from kwsd.training.stages.checker.kept import Kept
from kwsd.training.stages.checker.said import SYNTHETIC

log = logging.getLogger(__name__)
SKIPPED_CHUNKS = 16
"""Embeddings at the beginning of a segment that are left out: the encoder warms up."""
SILENT, SPOKEN, UNCLEAR = 0, 1, 2
"""What a chunk is for the probe."""
SPOKEN_DB = 22.0
"""How far below the loud chunks of its utterance a chunk of speech lies at most."""
SILENT_DB = 32.0
"""How far below them one of silence lies at least."""
LATER = range(1 + LATER_FRAMES)
MOST_WORDS = 4000
"""Single words in the bank; twice as many are not better."""


def gather(
    data: TrainingData,
    models: BundleRuntime,
    out: Path,
    checked: Path,
    spoken: Path,
    seed: int = 6,
) -> bool:
    """Write the bank `out` from the training split, through the exported encoder of `models`, and
    what their checker hears in it, and in windows of the folder `spoken`, to `checked`. Return
    whether it hears words.

    `negatives_s` of `corpora.yaml` says how much of each corpus. Where `align` has found words, a
    sentence of which none is known is left out: a word that is added may be said in it. Raises
    SynthesisError where espeak-ng is not installed."""
    scenes = data.scenes(seed=seed)
    transcripts = data.transcripts()
    embeddings: list[np.ndarray] = []
    said: list[set[str]] = []
    speech: list[bool] = []
    heard: list[np.ndarray] = []
    for segment in segments(scenes.corpora, transcripts, data.roles.negatives_s, seed):
        x = segment.hear(scenes)
        x = x[: len(x) // CHUNK_SAMPLES * CHUNK_SAMPLES]
        embedding = models.embeddings(x)[SKIPPED_CHUNKS:]
        if len(embedding):
            embeddings.append(embedding)
            heard.append(HighPass().step(x))
            said.append(set[str]().union(*map(transcripts.words, segment.utterances)))
            is_english = data.roles.source(segment.corpus) == CONTINUOUS
            speech.append(is_english and segment.corpus != data.roles.synthetic)
    if not embeddings:
        raise ValueError(
            "none of the corpora under negatives_s in corpora.yaml is in the stores; "
            "write a corpora.yaml in the working folder that names yours"
        )
    alike = sounding_alike(transcripts.texts.union(*said))
    texts = [" ".join(sorted(set[str]().union(*map(alike.__getitem__, words)))) for words in said]
    _write(out, embeddings, texts, speech)
    graph = models.checker_graph
    if graph is None or graph.model.word_id is None:
        return False
    write_checker_negatives(checked, graph, heard, SKIPPED_CHUNKS, single_words(spoken))
    return True


def single_words(spoken: Path, seed: int = 6) -> list[np.ndarray]:
    """Return windows that end with single words, int16 `[sample]` behind the high-pass, from the
    folder `spoken`: `MOST_WORDS` words or fewer, one window of each, a recorded one where there is
    one. None where the folder is empty.

    One window of a word is little beside all others: what a user adds may be among them.
    """
    if not any(spoken.glob("*.npz")):
        log.warning(
            "%s: is empty, so the bank has no single words, and added words will be told apart "
            "worse; `kwsd train checker --only spoken` makes them",
            spoken,
        )
        return []
    found = Kept.load(spoken, "checker --only spoken")
    kind, who = found.known["kind"], found.known["who"]
    order = np.random.default_rng(seed).permutation(len(kind))
    is_said = np.char.startswith(who[order], f"{SYNTHETIC}/")
    order = order[np.argsort(is_said, kind="stable")]
    _, first = np.unique(kind[order], return_index=True)
    return list(found.rows(order[np.sort(first)][:MOST_WORDS]))


def fit_probe(data: TrainingData, models: BundleRuntime, out: Path, seed: int = 7) -> None:
    """Write the probe `out` (`kwsd.learn.speech`), fitted to the frames of degraded audio.

    Where somebody speaks is read off the clean audio: what is between loud and silent is left out.
    """
    scenes = data.scenes(seed=seed)
    frames: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for corpus, seconds in data.roles.negatives_s.items():
        utterances = [
            utterance
            for utterance in scenes.corpora.utterances
            if utterance.corpus == corpus and not utterance.development
        ]
        order = [utterances[n] for n in scenes.rng.permutation(len(utterances))]
        collected = 0.0
        while collected < seconds and order:
            clean, spoken = _with_pauses(take(order), scenes)
            heard = models.embeddings(scenes.degrade(clean))
            followed = np.stack([heard[n : len(heard) - LATER_FRAMES + n] for n in LATER], axis=1)
            frames.append(followed[SKIPPED_CHUNKS:])
            labels.append(spoken[SKIPPED_CHUNKS : len(followed)])
            collected += len(clean) / SAMPLE_RATE
    x = np.concatenate(frames)
    y = np.concatenate(labels)
    flat = x.reshape(len(x), -1)
    mean, spread = flat.mean(axis=0), flat.std(axis=0) + 1e-6
    scaled = (flat - mean) / spread
    fit = logistic_regression(scaled[y == SPOKEN], scaled[y == SILENT])
    weights, bias = fit.weights, fit.bias
    found = (scaled @ weights + bias > 0) == (y == SPOKEN)
    log.info("%.1f %% of the chunks told apart", 100 * found[y != UNCLEAR].mean())
    np.savez(
        out,
        weights=(weights / spread).reshape(x.shape[1:]).astype(np.float32),
        bias=np.array([bias - (weights / spread) @ mean], np.float32),
    )


def _with_pauses(segment: list[Utterance], scenes: Scenes) -> tuple[np.ndarray, np.ndarray]:
    """Return utterances with pauses between them, `[sample]`, and what each chunk is, `[chunk]`."""
    parts: list[np.ndarray] = []
    spoken: list[np.ndarray] = []
    for utterance in segment:
        samples = scenes.corpora.read(utterance)[:MOST_SAMPLES]
        chunks = len(samples) // CHUNK_SAMPLES
        x = augment.gain_to(samples[: chunks * CHUNK_SAMPLES], float(scenes.rng.normal(-26, 4)))
        power = np.mean(x.reshape(chunks, CHUNK_SAMPLES).astype(np.float64) ** 2, axis=1)
        level = 10 * np.log10(power + 1e-9)
        loud = np.percentile(level, 95) if chunks else 0.0
        kinds = np.full(chunks, UNCLEAR)
        kinds[level > loud - SPOKEN_DB] = SPOKEN
        kinds[level < loud - SILENT_DB] = SILENT
        pause = int(scenes.rng.integers(4, 20))
        parts += [x, np.zeros(pause * CHUNK_SAMPLES, x.dtype)]
        spoken += [np.full(chunks, SILENT) if utterance.noise else kinds, np.full(pause, SILENT)]
    return np.concatenate(parts), np.concatenate(spoken)


def _write(out: Path, embeddings: list[np.ndarray], texts: list[str], speech: list[bool]) -> None:
    """Write the bank: a byte per number, `scale` per column, where each segment starts, its words,
    and whether it is continuous speech."""
    frames = np.concatenate(embeddings)
    scale = (np.quantile(np.abs(frames), 0.9995, axis=0) / 127).astype(np.float32)
    starts = np.cumsum([0, *map(len, embeddings[:-1])]).astype(np.int64)
    np.savez(
        out,
        high=np.clip(np.round(frames / scale), -127, 127).astype(np.int8),
        scale=scale,
        starts=starts,
        texts=np.array(texts, np.str_),
        speech=np.array(speech, np.int8),
    )
    minutes = len(frames) * 0.08 / 60
    log.info("%.0f min of negatives, %.1f MB", minutes, out.stat().st_size / 1e6)

"""`kwsd train compare`: measures a checkpoint of `finetune` on the development split.

The figures are the same for students and teachers: the accuracy of classifying words, misses at
given false accepts per hour, and equal error rates; clean, at 10 dB and in a room; with bootstrap
intervals over speakers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.speech_span import speech_span
from kwsd.metrics import bootstrap_interval, equal_error_rate, threshold_at, verification_trials
from kwsd.state.store import write_atomically
from kwsd.training.data import augment
from kwsd.training.data.corpora import Corpora, Utterance
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.transcripts import Transcripts
from kwsd.training.data.word_scenes import SILENCE
from kwsd.training.development import DRAWS, NO_RECORDING, RATES, SWEEP, Development, Report, Scores
from kwsd.training.models.backend import fit_to_people
from kwsd.training.stages.trained_model import TrainedModel

log = logging.getLogger(__name__)
OTHER = "other"
"""The class of words that have no name of their own."""
OTHERS = 10
"""One in this many of the words to classify is another word, and one is silence."""
MIN_TAKES = 6
"""Takes that a person needs: five enroll, one is tried."""


def compare(checkpoint: Path, data: TrainingData, out: Path) -> Report:
    """Measure a checkpoint of `finetune`, and write the figures to `out` as JSON; return them.

    An interrupted run resumes with the figures that are missing. Raises ValueError where the
    development split has no recording of a word, or fewer than two people."""
    model = TrainedModel.load(checkpoint)
    transcripts = data.transcripts()

    def speakers() -> Report:
        model.backend = fit_to_people(data.corpora(), model.raw_voice, per_person=4)
        return equal_errors(model, Development(data))

    partial = out.with_suffix(".partial.json")
    resumed = partial.exists() and partial.stat().st_mtime > checkpoint.stat().st_mtime
    figures: Report = model.sizes()
    if resumed:
        figures = json.loads(partial.read_text(encoding="utf-8"))
    measures: dict[str, Callable[[], Report]] = {
        "words": lambda: word_accuracy(model, Development(data), transcripts),
        "speakers": speakers,
        "misses": lambda: misses(model.scores, Development(data)),
    }
    for name, measure in measures.items():
        if name in figures:
            continue
        figures[name] = measure()
        write_atomically(partial, json.dumps(figures, indent=1).encode())
        log.info("%s: %s measured", checkpoint.stem, name)
    partial.rename(out)
    log.info("\n%s\n%s", HEAD, row(checkpoint.stem, [figures]))
    return figures


def labeled_words(
    development: Development, transcripts: Transcripts, named: Collection[str]
) -> Iterator[tuple[np.ndarray, str, str]]:
    """Yield (samples, word, speaker) of the words to classify: those of the corpora of single words
    that are `named`, and among them others (`OTHER`) and silence.

    Words that a model has no name for cannot be classified right, and are not asked."""
    rng = development.rng
    corpora = development.corpora
    single, others = classified(corpora, transcripts, named, development=True)
    for utterance in single:
        yield corpora.read(utterance)[: 2 * SAMPLE_RATE], utterance.text, utterance.person
    for n in rng.permutation(len(others))[: len(single) // OTHERS]:
        utterance, start, end = others[n]
        speaker = f"{utterance.corpus}/{utterance.speaker}"
        yield corpora.read(utterance)[start:end], OTHER, speaker
    scenes = development.scenes
    for n in range(len(single) // OTHERS):
        x = scenes.fill(lambda: scenes.pick(scenes.noise), SAMPLE_RATE)
        yield augment.gain_to(x, float(rng.uniform(-60, -30))), SILENCE, f"noise/{n}"


def classified(
    corpora: Corpora, transcripts: Transcripts, named: Collection[str], *, development: bool
) -> tuple[list[Utterance], list[tuple[Utterance, int, int]]]:
    """Return the recordings of one split of single words that are `named`, and (utterance, start,
    end) of the other words in it."""
    utterances = [u for u in corpora.utterances if u.development == development]
    labeled = [u for u in utterances if corpora.roles.has_single_words(u.corpus)]
    names = {u.text for u in labeled}
    single = [u for u in labeled if u.text in named]
    others = [(u, 0, u.samples) for u in utterances if u.word >= 0 and not u.synthetic]
    others += [
        (u, word.start, word.end)
        for u in utterances
        if u.person and not u.label
        for word in transcripts.within(u, 0, u.samples)
        if word.text not in names
    ]
    return single, others


def word_accuracy(
    model: TrainedModel, development: Development, transcripts: Transcripts
) -> Report:
    """Return the share of words that are classified right, and its interval over speakers, in each
    condition."""
    conditions = {name: development.conditions()[name] for name in DRAWS}
    right: dict[str, list[bool]] = {name: [] for name in conditions}
    speakers: list[str] = []
    items = list(labeled_words(development, transcripts, model.words))
    classes = [*sorted({word for _, word, _ in items} - {OTHER})]
    for x, word, speaker in items:
        speakers.append(speaker)
        known = word not in (OTHER, SILENCE)
        end = SAMPLE_RATE + (speech_span(x)[1] if known else len(x))
        hiss = development.rng.normal(0, 3, 2 * SAMPLE_RATE).astype(np.float32)
        length = -(-(end + 4 * CHUNK_SAMPLES) // CHUNK_SAMPLES) * CHUNK_SAMPLES
        padded = np.concatenate([hiss[:SAMPLE_RATE], x, hiss[SAMPLE_RATE:]])[:length]
        for name, degrade in conditions.items():
            right[name].append(model.word(degrade(padded), end, classes) == word)
    shares = {name: _share(np.array(hits), speakers) for name, hits in right.items()}
    return {"classes": len(classes) + 1, "clips": len(items), **shares}


def _share(hits: np.ndarray, speakers: list[str]) -> dict[str, float]:
    low, high = bootstrap_interval(hits, speakers)
    return {"value": float(hits.mean()), "low": low, "high": high}


def misses(scores_of: Scores, development: Development) -> Report:
    """Return the mean of the words' miss rates at each rate of false accepts, and averaged over
    `SWEEP`; in each condition, with its interval over speakers."""
    words = development.corpora.words.names
    found = development.false_accepts(scores_of, len(words))
    peaks = found.peaks()
    hours = found.total_hours()
    out: Report = {"hours": round(hours, 2)}
    rng = np.random.default_rng(0)
    for condition in DRAWS:
        tables = []
        for n, word in enumerate(words):
            utterances = development.scenes.words[n][False]
            if not utterances:
                raise ValueError(NO_RECORDING.format(word))
            best = development.hits(scores_of, utterances, condition)[..., None]
            at, swept = (
                best < np.array([threshold_at(peaks[n], hours, rate) for rate in rates])
                for rates in (RATES, SWEEP)
            )
            missed = np.concatenate([at.mean(0), swept.mean((0, 2))[:, None]], axis=1)
            speakers = np.unique([u.speaker for u in utterances], return_inverse=True)[1]
            tables.append((missed, speakers))
        draws = np.stack(
            [
                np.mean([_redraw(missed, owner, rng) for missed, owner in tables], axis=0)
                for _ in range(1000)
            ]
        )
        means = np.mean([missed.mean(axis=0) for missed, _ in tables], axis=0)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        out[condition] = {
            name: {"value": float(means[k]), "low": float(low[k]), "high": float(high[k])}
            for k, name in enumerate([*map(str, RATES), "sweep"])
        }
    return out


def _redraw(missed: np.ndarray, owner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the miss rates `[rate]` of as many speakers, drawn with replacement, from
    `missed [utterance, rate]`."""
    drawn = rng.integers(owner.max() + 1, size=owner.max() + 1)
    chosen = np.concatenate([np.flatnonzero(owner == n) for n in drawn])
    return np.asarray(missed[chosen].mean(axis=0))


def equal_errors(
    model: TrainedModel,
    development: Development,
    corpora: Sequence[str] | None = None,
    draws: int = 100,
) -> Report:
    """Return the equal error rates of one take against one and of five enrolled against one, all in
    one condition, and their intervals over people.

    `corpora` are those of single words by default. Raises ValueError with fewer than two people."""
    corpora = development.roles.word_accuracy if corpora is None else corpora
    out: Report = {}
    rng = np.random.default_rng(0)
    everyone = [takes for takes in development.takes(corpora) if len(takes) >= MIN_TAKES]
    if len(everyone) < 2:
        raise ValueError(
            f"the development split holds {len(everyone)} people of {', '.join(corpora)} "
            "with six takes; the equal error rate needs two"
        )
    conditions = development.conditions()
    for name in DRAWS:
        degrade = conditions[name]
        people = [np.stack([model.voice(degrade(x)) for x in takes]) for takes in everyone]
        # A person who is drawn twice would be compared with himself. Half of the people, each drawn
        # once, give the same spread (Politis et al. 1999).
        half = max(len(people) // 2, 2)
        halves = [[people[i] for i in rng.permutation(len(people))[:half]] for _ in range(draws)]
        rates = np.array([_equal_errors_of(chosen) for chosen in halves])
        low, high = np.quantile(rates, [0.025, 0.975], axis=0)
        values = _equal_errors_of(people)
        out[name] = {
            kind: {"value": values[n], "low": float(low[n]), "high": float(high[n])}
            for n, kind in enumerate(("one", "five"))
        }
    return {"people": len(everyone), **out}


def _equal_errors_of(people: list[np.ndarray]) -> tuple[float, float]:
    """Return the equal error rates one against one, and five against one."""
    one, five = verification_trials(people)
    return equal_error_rate(*one)[0], equal_error_rate(*five)[0]


HEAD = (
    "| | parameters | MMAC/s | word accuracy | missed at 0.1 FA/h | at 0.5 FA/h "
    f"| mean of {SWEEP[0]:g}–{SWEEP[-1]:g} FA/h | EER one vs. one | five vs. one |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
"""The head of the table of `row`."""


def row(name: str, runs: Sequence[Report]) -> str:
    """Return a row of the table under `HEAD`: clean / 10 dB / room, each in % and the mean of
    `runs` from several seeds.

    The interval over speakers of the clean figure is in brackets; ± gives the distance of the
    farthest seed from the mean."""

    def cell(part: str, *path: str) -> str:
        figures = [[reduce(dict.__getitem__, path, run[part][c]) for c in DRAWS] for run in runs]
        values, low, high = (
            100 * np.array([[figure[kind] for figure in run] for run in figures])
            for kind in ("value", "low", "high")
        )
        spread = ""
        if len(runs) > 1:
            spread = f" ±{abs(values[:, 0] - values[:, 0].mean()).max():.1f}"
        means = " / ".join(f"{v:.1f}" for v in values.mean(0))
        return f"{means} ({low[:, 0].mean():.1f}…{high[:, 0].mean():.1f}){spread}"

    cells = [
        name,
        f"{runs[0]['parameters'] / 1e6:.2f} M",
        f"{runs[0]['macs_per_second'] / 1e6:.0f}",
        cell("words"),
        cell("misses", "0.1"),
        cell("misses", "0.5"),
        cell("misses", "sweep"),
        cell("speakers", "one"),
        cell("speakers", "five"),
    ]
    return "| " + " | ".join(cells) + " |"

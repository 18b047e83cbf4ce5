"""`kwsd train compare`: what `finetune` made of a student or of a teacher, by the same figures on the development split.

In torch, without the detector's gate, so that teachers which no device could run stand beside students: words named right among all the
words there are, misses at given false accepts an hour, equal error rates; clean, at 10 dB, in a room; with bootstrap intervals over speakers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.audio.speech_span import speech_span
from kwsd.metrics import bootstrap_interval, equal_error_rate, threshold_at, verification_trials
from kwsd.state.store import write_atomically
from kwsd.training.data import augment
from kwsd.training.data.corpora import RATE, Corpora
from kwsd.training.data.scenes import CHUNK
from kwsd.training.data.transcripts import Spoken, labelled
from kwsd.training.models.backbone import TransformerTrunk, Trunk, features_of
from kwsd.training.models.backend import Backend, fit_to
from kwsd.training.models.checkpoint import load, load_encoder
from kwsd.training.models.network import SMOOTHING_CHUNKS, WORDS, SpeakerHead, WakeHead
from kwsd.training.stages.evaluate import DRAWS, RATES, SWEEP, Development, takes
from kwsd.training.stages.finetune import SILENCE, WordSpace, windows
from kwsd.training.stages.speaker import by_speaker, voice_of

log = logging.getLogger(__name__)
WINDOW_CHUNKS, WINDOW_LEAD = 100, 38
"""Long audio is heard in windows of 8 s, of which the first three serve to warm up."""
OTHERS = 10
"""One in so many words that are told apart is another word, and one is silence."""


@dataclass
class Trained:
    """A checkpoint of `finetune`."""

    trunk: Trunk
    wake: WakeHead
    speaker: SpeakerHead
    space: WordSpace
    types: Tensor
    """`[word, dim]` of unit length."""
    words: list[str]
    backend: Backend = field(default_factory=Backend)
    """Fitted by `compare`, as `export` does for what ships."""

    @classmethod
    def load(cls, path: Path) -> Trained:
        saved = torch.load(path, weights_only=True, mmap=True)
        trunk: Trunk = load(path, "encoder", TransformerTrunk) if "where" in saved["shapes"].get("encoder", {}) else load_encoder(path)
        heads = load(path, "head", WakeHead), load(path, "speaker", SpeakerHead), load(path, "space", WordSpace)
        return cls(trunk, *heads, F.normalize(saved["types"]["weight"], dim=1), saved["words"])

    @torch.inference_mode()
    def frames(self, x: np.ndarray) -> tuple[Tensor, Tensor]:
        """Embedding and tap of `x [batch, sample]`, int16 scale, whole chunks."""
        features = features_of(self.trunk)(torch.from_numpy(augment.to_int16(x)))
        with torch.autocast("cpu", torch.bfloat16):
            embedding, tap, _ = self.trunk(features, self.trunk.zero_state(len(x)))
        return embedding.float(), tap.float()

    @torch.inference_mode()
    def scores(self, x: np.ndarray, batch: int = 12) -> np.ndarray:
        """Smoothed posteriors `[chunk, word]` of `x [sample]`, as the trigger sees them."""
        hop, chunks = WINDOW_CHUNKS - WINDOW_LEAD, len(x) // CHUNK
        count = max(-(-chunks // hop), 1)
        padded = np.pad(x, (WINDOW_LEAD * CHUNK, count * hop * CHUNK - len(x) + CHUNK)).astype(np.float32)
        pieces = np.stack([padded[n * hop * CHUNK :][: WINDOW_CHUNKS * CHUNK] for n in range(count)])
        parts = []
        for at in range(0, count, batch):
            embedding, _ = self.frames(pieces[at : at + batch])
            logits, _, _ = self.wake(embedding, self.wake.zero_state(len(embedding)))
            parts.append(logits[:, WINDOW_LEAD:].flatten(0, 1))
        posterior = torch.sigmoid(torch.cat(parts)[:chunks]).numpy()
        summed = np.cumsum(np.pad(posterior, ((SMOOTHING_CHUNKS, 0), (0, 0)), mode="edge"), axis=0)
        return np.asarray((summed[SMOOTHING_CHUNKS:] - summed[:-SMOOTHING_CHUNKS]) / SMOOTHING_CHUNKS)

    @torch.inference_mode()
    def voice(self, x: np.ndarray) -> np.ndarray:
        """Speaker embedding `[dim]` of the speech in `x [sample]`."""
        return np.asarray(self.backend(torch.from_numpy(self.raw_voice(x))[None])[0].numpy())

    def raw_voice(self, x: np.ndarray) -> np.ndarray:
        """As `voice`, before the backend."""
        return voice_of(self.trunk, features_of(self.trunk), self.speaker, x)

    @torch.inference_mode()
    def word(self, x: np.ndarray, end: int, classes: Sequence[str]) -> str:
        """Which of `classes` has been said when sample `end` of `x` is reached; another word is "other"."""
        chunks = len(x) // CHUNK
        embedding, _ = self.frames(x[None, : chunks * CHUNK])
        first = min(-(-end // CHUNK) - 1, chunks - 1)
        at = torch.arange(first, min(first + 3, chunks))
        cosine = (self.space(windows(embedding, torch.zeros_like(at), at)) @ self.types.T).mean(0).numpy()
        best = self.words[int(cosine.argmax())]
        return best if best in classes else "other"


def macs_per_second(trunk: Trunk) -> int:
    """Multiply-accumulates a second of audio of all convolutions and matrix products with weights (attention's own products left out)."""
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        total += output.numel() * (weight[0].numel())

    layers = [m for m in trunk.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    seconds = 4
    with torch.inference_mode():
        trunk(features_of(trunk)(torch.zeros(1, seconds * RATE)), trunk.zero_state())
    for hook in hooks:
        hook.remove()
    return total // seconds


def sizes(trained: Trained) -> dict[str, Any]:
    """Parameters of the trunk and of the heads, multiply-accumulates a second."""
    return {
        "parameters": sum(p.numel() for p in trained.trunk.parameters()),
        "head_parameters": sum(p.numel() for head in (trained.wake, trained.speaker) for p in head.parameters()),
        "macs_per_second": macs_per_second(trained.trunk),
    }


def spoken_words(development: Development, spoken: Spoken) -> Iterator[tuple[np.ndarray, str, str]]:
    """(samples, word, who) of the words that are told apart: those of Speech Commands, and among them others ("other") and silence."""
    rng, corpora = development.rng, development.corpora
    clips = [c for c in corpora.clips if c.development]
    own = [c for c in clips if c.corpus == "gsc"]
    named = {labelled(c) for c in own}
    others = [(c, labelled(c), 0, c.samples) for c in clips if c.word >= 0 and not c.synthetic]
    others += [(c, *said) for c in clips if c.person and not c.label for said in spoken.within(c, 0, c.samples) if said.text not in named]
    for clip in own:
        yield corpora.read(clip)[: 2 * RATE], labelled(clip), clip.person
    for n in rng.permutation(len(others))[: len(own) // OTHERS]:
        clip, _, start, end = others[n]
        yield corpora.read(clip)[start:end], "other", f"{clip.corpus}/{clip.speaker}"
    for n in range(len(own) // OTHERS):
        x = development.scenes.fill(lambda: development.scenes.pick(development.scenes.noise), RATE)
        yield augment.gain_to(x, float(rng.uniform(-60, -30))), SILENCE, f"noise/{n}"


def words_right(trained: Trained, development: Development, spoken: Spoken) -> dict[str, Any]:
    """Share of words named right, and its interval over speakers, in each condition."""
    ways = development.conditions()
    right: dict[str, list[bool]] = {name: [] for name in ways}
    who: list[str] = []
    items = list(spoken_words(development, spoken))
    classes = [*sorted({word for _, word, _ in items} - {"other"})]
    for x, word, speaker in items:
        who.append(speaker)
        end = RATE + (speech_span(x)[1] if word not in ("other", SILENCE) else len(x))
        hiss = development.rng.normal(0, 3, 2 * RATE).astype(np.float32)
        padded = np.concatenate([hiss[:RATE], x, hiss[RATE:]])[: -(-(end + 4 * CHUNK) // CHUNK) * CHUNK]
        for name, way in ways.items():
            right[name].append(trained.word(way(padded), end, classes) == word)
    return {"classes": len(classes) + 1, "clips": len(items), **{name: _share(np.array(one), who) for name, one in right.items()}}


def _share(hits: np.ndarray, who: list[str]) -> dict[str, float]:
    low, high = bootstrap_interval(hits, who)
    return {"value": float(hits.mean()), "low": low, "high": high}


def misses(trained: Trained, development: Development) -> dict[str, Any]:
    """Mean of the words' miss rates at each rate of false accepts, and averaged over `SWEEP`; in each condition, with its interval over speakers."""
    peaks, by_source = development.false_accepts(trained.scores, len(WORDS))
    hours = sum(by_source.values())
    out: dict[str, Any] = {"hours": round(hours, 2)}
    rng = np.random.default_rng(0)
    for condition in DRAWS:
        tables = []
        for w in range(len(WORDS)):
            clips = development.scenes.words[w][False]
            if not clips:
                raise ValueError(f"the development split holds no recording of {WORDS[w]}")
            best = development.hits(trained.scores, clips, condition)[..., None]
            at, swept = (best < np.array([threshold_at(peaks[w], hours, rate) for rate in rates]) for rates in (RATES, SWEEP))
            missed = np.concatenate([at.mean(0), swept.mean((0, 2))[:, None]], axis=1)
            tables.append((missed, np.unique([c.speaker for c in clips], return_inverse=True)[1]))
        draws = np.stack([np.mean([_redrawn(missed, owner, rng) for missed, owner in tables], axis=0) for _ in range(1000)])
        means = np.mean([missed.mean(axis=0) for missed, _ in tables], axis=0)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        named = [*map(str, RATES), "sweep"]
        out[condition] = {name: {"value": float(means[n]), "low": float(low[n]), "high": float(high[n])} for n, name in enumerate(named)}
    return out


def _redrawn(missed: np.ndarray, owner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Miss rates `[rate]` of as many speakers, drawn with replacement, from `missed [clip, rate]`."""
    drawn = rng.integers(owner.max() + 1, size=owner.max() + 1)
    return np.asarray(missed[np.concatenate([np.flatnonzero(owner == n) for n in drawn])].mean(axis=0))


def equal_errors(trained: Trained, development: Development, corpora: tuple[str, ...] = ("gsc",), draws: int = 100) -> dict[str, Any]:
    """Equal error rates of one take against one and of five enrolled against one, all in one condition, and their intervals over people."""
    out: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    everyone = [own for own in takes(development, corpora) if len(own) >= 6]
    if len(everyone) < 2:
        raise ValueError(f"the development split holds {len(everyone)} people of {', '.join(corpora)} with six takes; two can be told apart")
    for name, way in development.conditions().items():
        people = [np.stack([trained.voice(way(x)) for x in own]) for own in everyone]

        def rates(chosen: list[np.ndarray]) -> tuple[float, float]:
            one, five = verification_trials(chosen)
            return equal_error_rate(*one)[0], equal_error_rate(*five)[0]

        # Drawn twice, a person would be held against himself; half of the people, each once, spread as much (Politis et al. 1999).
        half = [rates([people[i] for i in rng.permutation(len(people))[: max(len(people) // 2, 2)]]) for _ in range(draws)]
        low, high = np.quantile(np.array(half), [0.025, 0.975], axis=0)
        out[name] = {
            kind: {"value": value, "low": float(low[n]), "high": float(high[n])} for n, (kind, value) in enumerate(zip(("one", "five"), rates(people)))
        }
    return {"people": len(everyone), **out}


def compare(checkpoint: Path, stores: list[Path], rooms: Path, spoken: Spoken, out: Path) -> dict[str, Any]:
    """All figures of a checkpoint of `finetune`; kept in `out` as JSON. Goes on with those that are still to be taken where it was cut off."""
    trained, corpora = Trained.load(checkpoint), Corpora(*stores)

    def speakers() -> dict[str, Any]:
        trained.backend = fit_to(by_speaker(corpora, development=False), corpora, trained.raw_voice, takes=4)
        return equal_errors(trained, Development(stores, rooms))

    partial = out.with_suffix(".partial.json")
    resumed = partial.exists() and partial.stat().st_mtime > checkpoint.stat().st_mtime
    figures: dict[str, Any] = json.loads(partial.read_text(encoding="utf-8")) if resumed else sizes(trained)
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "words": lambda: words_right(trained, Development(stores, rooms), spoken),
        "speakers": speakers,
        "misses": lambda: misses(trained, Development(stores, rooms)),
    }
    for name, measure in measures.items():
        if name in figures:
            continue
        figures[name] = measure()
        write_atomically(partial, json.dumps(figures, indent=1).encode())
        log.info("%s: %s taken", checkpoint.stem, name)
    partial.rename(out)
    log.info("\n%s\n%s", HEAD, row(checkpoint.stem, [figures]))
    return figures


HEAD = f"""| | parameters | MMAC/s | words right | missed at 0.1 FA/h | at 0.5 FA/h | mean of {SWEEP[0]:g}–{SWEEP[-1]:g} FA/h | EER one v one | five v one |
|---|---|---|---|---|---|---|---|---|"""


def row(name: str, runs: Sequence[dict[str, Any]]) -> str:
    """A row of the table under `HEAD`: clean / 10 dB / room, each in % and the mean of `runs` from several seeds; of the clean one the interval
    over speakers in brackets, and how far a seed lies from the mean."""

    def cell(part: str, *which: str) -> str:
        of = [[reduce(dict.__getitem__, which, figures[part][c]) for c in DRAWS] for figures in runs]
        values, low, high = (100 * np.array([[each[kind] for each in one] for one in of]) for kind in ("value", "low", "high"))
        apart = f" ±{abs(values[:, 0] - values[:, 0].mean()).max():.1f}" if len(runs) > 1 else ""
        return " / ".join(f"{v:.1f}" for v in values.mean(0)) + f" ({low[:, 0].mean():.1f}…{high[:, 0].mean():.1f}){apart}"

    cells = [
        name, f"{runs[0]['parameters'] / 1e6:.2f} M", f"{runs[0]['macs_per_second'] / 1e6:.0f}",
        cell("words"), cell("misses", "0.1"), cell("misses", "0.5"), cell("misses", "sweep"), cell("speakers", "one"), cell("speakers", "five"),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"

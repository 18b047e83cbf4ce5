"""What was said, as a vector of unit length: a head on the tuned checker's frozen encoder, trained
to tell many words apart, so that words which it never heard lie apart as well.

First `gather` hears every take in another room and noise, through the 8-bit encoder as devices have
it, and keeps the last steps of a few layers; then `train` needs no encoder. Words of sentences and
of single-word corpora are learned, and those that espeak-ng speaks: the rarer ones of the
sentences, and all of WORK/vocabulary.tsv, where it exists.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from msgspec import field
from torch import Tensor
from torch.utils.data import IterableDataset

from kwsd.audio.high_pass import HighPass
from kwsd.audio.synthesis import SynthesisError, espeak, espeak_variants
from kwsd.config import ConfigError
from kwsd.training.data import spoken
from kwsd.training.data.loading import load, worker_seed
from kwsd.training.data.scenes import Scenes
from kwsd.training.data.spoken import ENGLISH, HeldOut, SpokenTake, Vocabulary
from kwsd.training.data.training_data import TrainingData
from kwsd.training.loop import Group, Loop, LoopSettings, devices
from kwsd.training.losses import MarginSoftmax, pair_contrast, rising_margin
from kwsd.training.models.checker import SpokenHead
from kwsd.training.settings import Settings
from kwsd.training.stages.checker.export import FrameGraph, encoder_id, load_checker

log = logging.getLogger(__name__)
SHARD = 500
"""Windows of a file."""
SPOKEN = "espeak-ng"
"""Who speaks what is synthetic, before the name of the voice."""
ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-029")


class WordsSettings(Settings, frozen=True):
    """The settings `words` of `checker.yaml`."""

    steps: int
    layers: list[int]
    """The layers that the head mixes."""
    held_out: list[str]
    """Words that are in no class, so that they can be measured as added words."""
    vocabulary: int
    """Words of the sentences that espeak-ng speaks, those with the fewest takes first."""
    takes: int = 300
    """Takes of a word at most."""
    least: int = 4
    """Takes of a word at least, recorded or spoken."""
    heard: int = 12
    """Windows of a word at least: rare takes are heard in several rooms."""
    synthetic: int = 6
    """Voices of a word that is spoken."""
    last_steps: int = 16
    """Steps of 80 ms before the end of a window that the head sees."""
    width: int = 160
    dropout: float = 0.2
    words: int = 96
    """Words of a batch, two windows of each."""
    margin: float = 0.15
    scale: float = 22.0
    contrast: float = 0.5
    """Weight of the contrastive loss over the pairs."""
    rate: float = 1.5e-3
    ramp: float = 0.1
    weight_decay: float = 2e-2
    left_out: list[str] = field(default_factory=list)
    """Words that are heard but not trained on, to choose settings by."""
    seed: int = 3
    checkpoint_every: int = 200
    log_every: int = 50


class _Said(NamedTuple):
    """A take that a synthesizer speaks when its turn comes."""

    kind: str
    text: str
    voice: str
    speed: int
    pitch: int

    @property
    def who(self) -> str:
        return f"{SPOKEN}/{self.voice}"


@dataclass(frozen=True)
class WordFrames:
    """What `gather` keeps of each window."""

    frames: np.ndarray
    """float16 `[window, layer, step, dim]`."""
    kind: np.ndarray
    """str `[window]`: what was said."""
    who: np.ndarray
    """str `[window]`: by whom, as far as that is known."""
    encoder_id: str
    """Of the encoder."""
    layers: list[int]

    @classmethod
    def load(cls, folder: Path) -> WordFrames:
        """Return all that is in `folder`. Raises FileNotFoundError where there is nothing."""
        shards = sorted(folder.glob("*.npz"))
        if not shards:
            raise FileNotFoundError(
                f"{folder}: holds no words; run `kwsd train checker --only words`"
            )
        parts = [np.load(shard) for shard in shards]
        kind, who = (np.concatenate([part[name] for part in parts]) for name in ("kind", "who"))
        first = parts[0]["frames"]
        frames = np.empty((len(kind), *first.shape[1:]), first.dtype)  # it may fill the memory
        at = 0
        for part in parts:
            frames[at : at + len(part["kind"])] = part["frames"]
            at += len(part["kind"])
        return cls(frames, kind, who, str(parts[0]["encoder_id"]), parts[0]["layers"].tolist())


def gather(data: TrainingData, tuned: Path, out: Path, settings: WordsSettings) -> None:
    """Write the frames of windows of the training split's words into the folder `out`, through the
    encoder of the checkpoint `tuned`, a file for each `SHARD`; what is there is not made again.

    Raises ConfigError where it is of another encoder, SynthesisError where espeak-ng is missing."""
    out.mkdir(parents=True, exist_ok=True)
    scenes = data.scenes(seed=settings.seed)
    planned = _plan(data, scenes, settings)
    checker = load_checker(tuned)
    checker.spoken = SpokenHead(checker.encoder.dim, settings.layers, settings.last_steps)
    graph = FrameGraph(checker, out / "encoder.onnx")
    heard_by = encoder_id(checker.encoder)
    for n, at in enumerate(range(0, len(planned), SHARD)):
        path = out / f"{n:03}.npz"
        if path.exists():
            before = np.load(path)
            if str(before["encoder_id"]) != heard_by or list(before["layers"]) != settings.layers:
                raise ConfigError(
                    f"{path} is of another encoder, or of other layers; remove {out} to hear all "
                    "words again"
                )
            continue
        scenes.reseed([settings.seed, n])
        found = list(_hear(scenes, planned[at : at + SHARD], graph))
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                frames=np.stack([frames for frames, _ in found]),
                kind=np.array([take.kind for _, take in found]),
                who=np.array([take.who for _, take in found]),
                encoder_id=heard_by,
                layers=np.array(settings.layers),
            )
        partial.rename(path)
        log.info("%s: %d of %d windows", path.name, at + len(found), len(planned))


def _plan(data: TrainingData, scenes: Scenes, settings: WordsSettings) -> list[SpokenTake | _Said]:
    """Return every window that is to be heard, in an order by chance."""
    held_out = HeldOut.of(settings.held_out)
    transcripts = data.transcripts()
    corpora = scenes.corpora
    found: dict[str, list[SpokenTake | _Said]] = {
        kind: list(takes)
        for kind, takes in spoken.takes(corpora, transcripts, held_out, settings.takes).items()
    }
    recorded = sum(map(len, found.values()))
    sentences = [u for u in corpora.utterances if not u.label and not u.development]
    said = transcripts.types(sentences, least=1)
    rarest = sorted(said, key=lambda text: (transcripts.count(text), text))
    words = [Vocabulary(ENGLISH, text) for text in rarest[: settings.vocabulary]]
    listed = data.aligned.with_name("vocabulary.tsv")
    if listed.exists():
        words += spoken.read_vocabulary(listed)
    for take in _spoken(words, held_out, settings, scenes.rng):
        found.setdefault(take.kind, []).append(take)
    found = {kind: takes for kind, takes in found.items() if len(takes) >= settings.least}
    log.info("%d words; %d takes are recorded, rare ones counted", len(found), recorded)
    planned = [
        takes[n % len(takes)]
        for takes in found.values()
        for n in range(max(len(takes), settings.heard))
    ]
    order = np.random.default_rng(settings.seed).permutation(len(planned))
    return [planned[n] for n in order]


def _spoken(
    words: Sequence[Vocabulary],
    held_out: HeldOut,
    settings: WordsSettings,
    rng: np.random.Generator,
) -> Iterator[_Said]:
    """Yield what espeak-ng says: each word in several voices."""
    if not words:
        return
    variants = espeak_variants()
    english = spoken.kinds_of({word.text for word in words if word.language == ENGLISH}, held_out)
    for language, text in dict.fromkeys(words):
        if language == ENGLISH:
            kind = english.get(text)
        else:
            kind = None if held_out.holds(text) else f"{language}/{text}"
        if kind is None:
            continue
        for variant in rng.choice(variants, settings.synthetic, replace=False):
            accent = rng.choice(ACCENTS) if language == ENGLISH else language
            speed, pitch = int(rng.integers(110, 210)), int(rng.integers(20, 85))
            yield _Said(kind, text, f"{accent}+{variant}", speed, pitch)


def _hear(
    scenes: Scenes, planned: Sequence[SpokenTake | _Said], graph: FrameGraph
) -> Iterator[tuple[np.ndarray, SpokenTake | _Said]]:
    """Yield the frames of each window, and what it is; a word that cannot be spoken is left out."""
    with ThreadPoolExecutor(2) as pool:
        for take, samples in zip(planned, pool.map(_say, planned), strict=True):
            if isinstance(take, SpokenTake):
                samples = scenes.corpora.read(take.utterance)
                place = take.start, take.end
            else:
                place = 0, 0
            if samples is None or not samples.any():
                continue
            clean, degradation = spoken.window(scenes, samples, *place)
            heard = scenes.hear(clean[None], [degradation])[0].astype(np.int16)
            yield graph(HighPass().step(heard)), take


def _say(take: SpokenTake | _Said) -> np.ndarray | None:
    """Return what espeak-ng says, float32 `[sample]`; None of what is recorded, or not spoken."""
    if isinstance(take, SpokenTake):
        return None
    try:
        return espeak(take.text, take.voice, take.speed, take.pitch).astype(np.float32)
    except (SynthesisError, EOFError):
        log.warning("%s cannot say %r", take.voice, take.text)
        return None


class PairBatch(NamedTuple):
    """Two windows of each of some words, side by side."""

    frames: Tensor
    """float16 `[2 word, layer, step, dim]`."""
    kind: Tensor
    """int64 `[2 word]`."""

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on `device`."""
        return PairBatch(self.frames.to(device), self.kind.to(device))


class WordPairs(IterableDataset[PairBatch]):
    """Endless batches of pairs: words by the root of their windows, by two people where there are
    two."""

    def __init__(self, found: WordFrames, settings: WordsSettings, seed: int) -> None:
        """Raises ValueError where there are not two words with two windows each."""
        self.found = found
        self.seed = seed
        left_out = spoken.kinds_of(settings.left_out, HeldOut.of(()))
        kinds, of, counts = np.unique(found.kind, return_inverse=True, return_counts=True)
        enough = (counts >= 2) & ~np.isin(kinds, list(left_out.values()))
        self.kinds = kinds[enough].tolist()
        if len(self.kinds) < 2:
            raise ValueError(
                "there are not two words with two windows each; import single words, or run "
                "`kwsd train align` first"
            )
        order = np.argsort(of, kind="stable")
        rows = np.split(order, np.cumsum(counts)[:-1])
        self.rows = [rows[n] for n in np.flatnonzero(enough)]
        self.count = min(settings.words, len(self.kinds))
        weight = np.sqrt(counts[enough])
        self.share = weight / weight.sum()

    def prepare(self, batch: PairBatch) -> PairBatch:
        """Return the batch in single precision."""
        return PairBatch(batch.frames.float(), batch.kind)

    def __iter__(self) -> Iterator[PairBatch]:
        rng = np.random.default_rng(worker_seed(self.seed))
        who = self.found.who
        while True:
            drawn = rng.choice(len(self.kinds), self.count, replace=False, p=self.share)
            rows = []
            for kind in drawn:
                first = rng.choice(self.rows[kind])
                others = self.rows[kind][self.rows[kind] != first]
                different = others[who[others] != who[first]]
                rows += [first, rng.choice(different if len(different) else others)]
            frames = torch.from_numpy(self.found.frames[rows])
            yield PairBatch(frames, torch.from_numpy(np.repeat(drawn, 2)))


def train(frames: Path, out: Path, settings: WordsSettings) -> None:
    """Train the head on what is in the folder `frames`, through the checkpoint `out`."""
    found = WordFrames.load(frames)
    with devices() as here:
        torch.manual_seed(settings.seed)
        _, _, steps, dim = found.frames.shape
        pairs = WordPairs(found, settings, settings.seed)
        head = SpokenHead(dim, found.layers, steps, settings.width, dropout=settings.dropout).to(
            here.device
        )
        softmax = MarginSoftmax(head.dim, len(pairs.kinds), settings.scale).to(here.device)
        log.info("%d words, %d windows", len(pairs.kinds), len(found.kind))
        loop = Loop(
            out,
            {"spoken": head, "softmax": softmax},
            [Group([*head.parameters(), *softmax.parameters()], settings.rate)],
            LoopSettings(
                settings.steps,
                settings.ramp,
                weight_decay=settings.weight_decay,
                log_every=settings.log_every,
                checkpoint_every=settings.checkpoint_every,
            ),
            here,
            run=settings,
            notes={"encoder_id": found.encoder_id, "kinds": pairs.kinds},
        )
        pairs.seed = here.seed(settings.seed, loop.first)
        batches = load(pairs, pairs.prepare, here.device)
        model = here.share(head)

        def step(n: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            batch = next(batches)
            vectors = model(batch.frames)
            margin = rising_margin(settings.margin, n, settings.steps)
            identity = softmax(vectors, batch.kind, margin)
            contrast, right = pair_contrast(vectors, settings.scale)
            figures: dict[str, Any] = {"words": identity.detach(), "pairs": right}
            figures["right"] = softmax.accuracy(vectors, batch.kind)
            yield identity + settings.contrast * contrast, figures

        loop.run(step)

"""The checker's heads: on the frozen encoder, then jointly with it (paper A, Kerpicci et al. 2022,
arXiv 2210.16611).

Every joint step takes a batch of candidates, one of voices and one of any words, and updates the
encoder after each. A distillation term, on windows of anything, keeps it near its teacher. `frozen`
leaves the encoder as it is. The head of any words comes trained: so few steps would not teach it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from kwsd.audio.format import SAMPLE_RATE
from kwsd.config import ConfigError
from kwsd.training.data import augment
from kwsd.training.data.loading import load, worker_seed
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.voice_rooms import VoiceRooms, VoiceSettings
from kwsd.training.data.windows import WINDOW_SAMPLES, Windows, at_peak
from kwsd.training.loop import Devices, Group, Loop, LoopSettings, devices
from kwsd.training.losses import MarginSoftmax, pair_contrast, rising_margin
from kwsd.training.models import checkpoint
from kwsd.training.models.checker import STEP_FRAMES, CheckerHead, SpokenHead, VoiceHead
from kwsd.training.models.pretrained import load_pretrained
from kwsd.training.models.transformer import Transformer
from kwsd.training.settings import Settings
from kwsd.training.stages.checker.candidates import MARGIN_SAMPLES, Candidates
from kwsd.training.stages.checker.kept import Kept
from kwsd.training.stages.checker.objectives import Standardized
from kwsd.training.stages.checker.spoken import WordPairs
from kwsd.training.stages.checker.words import trained_head

log = logging.getLogger(__name__)


HELD_BACK_BATCH = 64


class TuneSettings(Settings, frozen=True):
    """The settings `tune` of `checker.yaml`."""

    head_steps: int
    """Steps of the word head and the voice head on the frozen encoder, first."""
    steps: int
    """Joint steps; 0: frozen."""
    layers: list[int]
    """The layers that the word head mixes."""
    voice_layers: list[int]
    candidates: int = 48
    """Candidates of a batch, half of them with their word in them."""
    windows: int = 16
    """Windows of anything in a batch, for distillation."""
    voices: VoiceSettings = VoiceSettings()
    rate: float = 2e-4
    head_rate: float = 1.5e-3
    ramp: float = 0.1
    other_words: float = 0.3
    """Weight of the other words' logits; the candidate's own word has 1."""
    distillation: float = 0.3
    """Weight of the distance to the teacher's layers, on windows of anything; 0: no teacher is
    heard."""
    harsh: float = 0.6
    """How often the student hears a room, noise and a microphone in these windows."""
    voice: float = 0.2
    """Weight of the voices; 0: no batch of voices is drawn."""
    spoken: float = 0.0
    """Weight of any words, told apart as `words` does, in the joint steps; 0: no batch of them is
    drawn."""
    spoken_words: int = 48
    """Words of a batch, two windows of each."""
    spoken_margin: float = 0.15
    spoken_scale: float = 22.0
    frozen_blocks: int = 0
    """Blocks that the joint steps leave as they are, the first ones, with all before them."""
    margin: float = 0.2
    scale: float = 24.0
    noisy: float = 0.5
    """Share of the candidates to which more noise is added, at 3 to 25 dB."""
    shift_s: float = 0.2
    mixed_precision: bool = True
    """Multiply in bfloat16 where the device computes in it."""
    seed: int = 3
    checkpoint_every: int = 100
    log_every: int = 50


@dataclass(frozen=True)
class CandidateBatch:
    """Windows around candidates of the first stage."""

    heard: Tensor
    """float32 `[batch, sample]`, at the checker's level."""
    word: Tensor
    """int64 `[batch]`: the word whose streaming score peaked."""
    spoken: Tensor
    """int64 `[batch]`: the word in it, -1 for none."""

    def to(self, device: torch.device) -> CandidateBatch:
        """Return the batch on `device`."""
        return CandidateBatch(*(part.to(device) for part in vars(self).values()))


class CandidateWindows(IterableDataset[CandidateBatch]):
    """Endless batches of candidates: half of them with their word, all words alike."""

    def __init__(
        self, data: TrainingData, found: Candidates, settings: TuneSettings, seed: int
    ) -> None:
        """Raises ValueError where none of `found` has its word in it, or all have."""
        self.data = data
        self.found = found
        self.settings = settings
        self.seed = seed
        own = found.word == found.spoken
        words = [np.flatnonzero(own & (found.word == n)) for n in range(len(data.words))]
        self.words = [rows for rows in words if len(rows)]
        self.others = np.flatnonzero(~own)
        if not self.words or not len(self.others):
            raise ValueError(
                f"of {len(own)} candidates {own.sum()} hold their word; training needs both kinds: "
                "raise candidates.word_scenes or candidates.passes, remove the folder of the "
                "candidates, and make them again"
            )

    def prepare(self, batch: CandidateBatch) -> CandidateBatch:
        """Return the batch at the checker's level."""
        return CandidateBatch(at_peak(batch.heard), batch.word, batch.spoken)

    def __iter__(self) -> Iterator[CandidateBatch]:
        scenes = self.data.scenes(seed=worker_seed(self.seed))
        rng = scenes.rng
        half = self.settings.candidates // 2
        while True:
            positive = [rng.choice(self.words[n]) for n in rng.integers(len(self.words), size=half)]
            rows = np.concatenate([positive, rng.choice(self.others, half)]).astype(np.int64)
            windows = [self._window(rng, self.found.windows[row]) for row in rows]
            heard = torch.from_numpy(np.stack(windows).astype(np.float32))
            noisy = rng.random(len(rows)) < self.settings.noisy
            noise = [
                scenes.draw_noise(WINDOW_SAMPLES) if one else np.zeros(WINDOW_SAMPLES)
                for one in noisy
            ]
            snr_db = torch.from_numpy(rng.uniform(3, 25, len(rows)).astype(np.float32))
            heard = augment.mix(heard, torch.from_numpy(np.stack(noise).astype(np.float32)), snr_db)
            yield CandidateBatch(
                heard,
                torch.from_numpy(self.found.word[rows]),
                torch.from_numpy(self.found.spoken[rows]),
            )

    def _window(self, rng: np.random.Generator, wide: np.ndarray) -> np.ndarray:
        shift = int(rng.uniform(-1, 1) * self.settings.shift_s * SAMPLE_RATE)
        return wide[MARGIN_SAMPLES + shift : MARGIN_SAMPLES + shift + WINDOW_SAMPLES]


def in_batches(found: Candidates) -> Iterator[CandidateBatch]:
    """Yield all candidates as the checker hears them."""
    for at in range(0, len(found.word), HELD_BACK_BATCH):
        rows = slice(at, at + HELD_BACK_BATCH)
        heard = at_peak(torch.from_numpy(found.heard[rows].astype(np.float32)))
        word, spoken = (torch.from_numpy(known[rows]) for known in (found.word, found.spoken))
        yield CandidateBatch(heard, word, spoken)


def word_loss(logits: Tensor, word: Tensor, spoken: Tensor, other_words: float) -> Tensor:
    """Return the cross-entropy of `logits [batch, word]`: that of each candidate's own word at full
    weight, those of the others at `other_words`."""
    classes = logits.shape[1]
    target = F.one_hot(spoken.clamp(min=0), classes).float() * (spoken >= 0)[:, None]
    own = F.one_hot(word, classes).bool()
    weight = torch.where(own, 1.0, other_words)
    cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (cost * weight).sum(1).mean()


class Heard(NamedTuple):
    """What the earlier steps left, a folder each."""

    candidates: Path
    validation: Path | None
    """Candidates that stop the run."""
    spoken: Path
    """Windows of words; needed where `TuneSettings.spoken` is not 0."""
    spoken_head: Path
    """The checkpoint of `words` on the encoder that is tuned; needed there as well."""


class Tuned(nn.Module):
    """The encoder with its heads, as they are trained together."""

    def __init__(
        self,
        encoder: Transformer,
        words: CheckerHead,
        voice: VoiceHead,
        people: MarginSoftmax,
        spoken: SpokenHead | None,
        kinds: MarginSoftmax | None,
        settings: TuneSettings,
        here: Devices,
    ) -> None:
        """`spoken` and `kinds` are None where no other words are told apart."""
        super().__init__()
        self.encoder = encoder
        self.words = words
        self.voice = voice
        self.people = people
        self.spoken = spoken
        self.kinds = kinds
        self.settings = settings
        self.here = here

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What a checkpoint holds."""
        return dict(self.named_children())

    def forward(
        self, task: str, inputs: Tensor, *known: Tensor, margin: float = 0.0, frozen: bool = False
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Return the loss of `task`, the encoder's layers, and what share was right.

        `known` are word and spoken word of candidates, which come first in the batch, the people,
        or the kinds of words, two windows each."""
        learns = torch.is_grad_enabled() and not frozen
        with torch.set_grad_enabled(learns), self.here.autocast(self.settings.mixed_precision):
            hidden = [layer.float() for layer in self.encoder(inputs)]
        if task == "words":
            word, spoken = known
            logits = self.words([layer[: len(word)] for layer in hidden])
            fired = logits.gather(1, word[:, None])[:, 0] > 0
            right = (fired == (word == spoken)).float().mean()
            return word_loss(logits, word, spoken, self.settings.other_words), hidden, right
        if task == "spoken":
            assert self.spoken is not None
            assert self.kinds is not None
            (kind,) = known
            vectors = self.spoken(self.spoken.last_steps(hidden))
            contrast, right = pair_contrast(vectors, self.settings.spoken_scale)
            return self.kinds(vectors, kind, margin) + 0.5 * contrast, hidden, right
        (person,) = known
        vectors = self.voice(hidden, self.encoder.sounds(inputs))
        loss = self.people(vectors, person, margin)
        contrast, right = pair_contrast(vectors, self.settings.scale)
        return loss + 0.5 * contrast, hidden, right


def train(
    data: TrainingData,
    teacher: str,
    distilled: Path,
    known: Heard,
    out: Path,
    settings: TuneSettings,
) -> None:
    """Tune the encoder of the checkpoint `distilled` with its heads, through the checkpoint
    `out`."""
    with devices() as here:
        torch.manual_seed(settings.seed)
        whole = None
        if settings.distillation:
            whole = load_pretrained(teacher).network.to(here.device)
        encoder = checkpoint.load(distilled, "encoder", Transformer).to(here.device)
        encoder.train().requires_grad_(True)
        compare = None if whole is None else _compared(distilled, whole, encoder).to(here.device)
        people = data.corpora().people(development=False)
        frames = encoder.frames(WINDOW_SAMPLES)
        pairs = spoken = kinds = None
        if settings.spoken:
            windows_of_words = Kept.load(known.spoken, "checker --only spoken")
            pairs = WordPairs(windows_of_words, settings.spoken_words, settings.seed)
            scale = settings.spoken_scale
            spoken, kinds = trained_head(known.spoken_head, encoder, pairs.kinds, scale)
        tuned = Tuned(
            encoder,
            CheckerHead(len(data.words), encoder.dim, settings.layers, frames // STEP_FRAMES),
            VoiceHead(encoder.dim, settings.voice_layers),
            MarginSoftmax(VoiceHead.dim, len(people), settings.scale),
            spoken,
            kinds,
            settings,
            here,
        ).to(here.device)
        heads = [part for name, part in tuned.parts.items() if name != "encoder"]
        encoder.freeze(settings.frozen_blocks)
        total = settings.head_steps + settings.steps
        updates = total * (1 + bool(settings.voice)) + settings.steps * bool(settings.spoken)
        loop_settings = LoopSettings(
            total,
            settings.ramp,
            weight_decay=2e-2,
            updates_per_step=updates / max(total, 1),
            log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every,
        )
        groups = [
            Group(encoder.parameters(), settings.rate),
            Group([p for head in heads for p in head.parameters()], settings.head_rate),
        ]
        loop = Loop(out, tuned.parts, groups, loop_settings, here, run=settings)
        seed = here.seed(settings.seed, loop.first)
        model = here.share(tuned)
        drawn = CandidateWindows(data, Candidates.load(known.candidates), settings, seed)
        word_batches = load(drawn, drawn.prepare, here.device)
        anything = Windows(
            data,
            settings.windows,
            settings.seed,
            first=loop.first,
            rank=here.rank,
            harsh=settings.harsh,
        )
        windows = load(anything, anything.prepare, here.device)
        rooms = VoiceRooms(data, settings.voices, seed + 2)
        voices = load(rooms, rooms.prepare, here.device)
        if pairs is not None:
            pairs.seed = seed + 3
            spoken_batches = load(pairs, pairs.prepare, here.device)

        def step(n: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            frozen = n < settings.head_steps
            batch = next(word_batches)
            heard = batch.heard
            pair = None if frozen or compare is None else next(windows)
            if pair is not None:
                heard = torch.cat([heard, pair.heard])
            loss, hidden, right = model(
                "words", encoder.inputs(heard), batch.word, batch.spoken, frozen=frozen
            )
            figures = {"words": loss.detach(), "right": right}
            if pair is not None and whole is not None and compare is not None:
                with torch.no_grad(), here.autocast(settings.mixed_precision):
                    target = compare.targets(whole(whole.inputs(pair.clean)))
                own = [layer[len(batch.word) :] for layer in hidden]
                distance, cosines = compare(own, target)
                loss = loss + settings.distillation * distance
                figures["cosine"] = torch.stack(cosines).mean()
            yield loss, figures
            if settings.voice:
                heard, person = next(voices)
                margin = rising_margin(settings.margin, n, total)
                loss, _, right = model(
                    "voices", encoder.inputs(heard), person, margin=margin, frozen=frozen
                )
                yield settings.voice * loss, {"voices": loss.detach(), "same": right}
            if settings.spoken and not frozen:
                heard, kind = next(spoken_batches)
                inputs = encoder.inputs(at_peak(heard))
                loss, _, right = model("spoken", inputs, kind, margin=settings.spoken_margin)
                yield settings.spoken * loss, {"spoken": loss.detach(), "pairs": right}

        validate = None
        if known.validation is not None:
            validate = _validation(Candidates.load(known.validation), tuned, here.device)
        loop.run(step, validate)


def _compared(distilled: Path, whole: Transformer, encoder: Transformer) -> Standardized:
    """Return the distance of `encoder` to its teacher `whole`, as `distilled` has it.

    Raises ConfigError where that was to learn how the student is projected, and did not."""
    saved = torch.load(distilled, weights_only=True)
    settings = saved["settings"]
    compare = Standardized.between(list(settings["layers"]), whole, encoder)
    if compare.projections is not None and not (settings["steps"] and settings["l1_cosine"]):
        raise ConfigError(
            f"{distilled} was not distilled by l1_cosine, so that nothing says how its layers of "
            f"width {encoder.dim} are compared with the teacher's; set tune.distillation to 0"
        )
    compare.load_state_dict(saved["compare"])
    return compare.requires_grad_(False)


def _validation(found: Candidates, tuned: Tuned, device: torch.device) -> Callable[[], float]:
    """Return what measures the word loss on candidates for validation."""

    @torch.no_grad()
    def validate() -> float:
        tuned.eval()
        total = 0.0
        for batch in in_batches(found):
            heard, word, spoken = vars(batch.to(device)).values()
            loss, _, _ = tuned("words", tuned.encoder.inputs(heard), word, spoken)
            total += float(loss) * len(word)
        tuned.train()
        return total / max(len(found.word), 1)

    return validate

"""`kwsd train heads --only wake`: the wake head on the frozen encoder, with hard negatives mined
again and again.

It starts from the provisional head of the checkpoint. On the encoder of a bundle, in 8 bit and on
the frames that the device will have, it starts from nothing.

All training audio is embedded several times, clean and degraded, once for all. Then the head sees
windows of 16 embeddings: those where a word has just ended, and negatives, a good part of them from
the windows that it scores highest at present.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.data.training_data import TrainingData
from kwsd.training.loop import Devices, Group, Loop, LoopSettings
from kwsd.training.models.backbone import channels_last
from kwsd.training.models.checkpoint import load, load_encoder, save
from kwsd.training.models.heads import WakeHead
from kwsd.training.settings import Settings
from kwsd.training.stages.embedding_bank import Embed, EmbeddingBank, embedding, gather

log = logging.getLogger(__name__)


class WakeSettings(Settings, frozen=True):
    """The settings `wake` of `heads.yaml`."""

    steps: int
    passes: int = 3
    """How often each negative is embedded: the first time clean, then each time degraded."""
    word_takes: int = 16
    """How often each recorded word is embedded, on average; synthetic ones besides."""
    positives: int = 384
    """Windows per batch in which a word has just ended."""
    negatives: int = 1280
    """Windows per batch without a word."""
    hard: int = 384
    """How many of the negatives are mined ones."""
    hard_pool: int = 20000
    """Negatives of the highest scores that are mined each time."""
    mine_every: int = 500
    """Steps from one mining, and one checkpoint, to the next."""
    rate: float = 5e-4
    averaged: float = 0.04
    """Share of the steps over whose weights the result is a running average: a single step's
    weights vary by several utterances."""
    heads: int = 2
    """Heads trained from the same start on other draws; the mean of their weights is the result
    (Wortsman et al. 2022, arXiv 2203.05482)."""
    seed: int = 2
    log_every: int = 250


def train(data: TrainingData, encoder_path: Path, out: Path, settings: WakeSettings) -> None:
    """Train the head on the encoder of the checkpoint or the bundle `encoder_path` into `out`.

    The bank beside `out` is made once; each head resumes at its last mining."""
    folder = out.with_suffix(".bank")
    if folder.exists():
        bank = EmbeddingBank.load(folder)
    else:
        scenes = data.scenes(seed=settings.seed, transcripts=data.transcripts())
        embed, dim = _embedding(encoder_path)
        bank = gather(embed, dim, scenes, settings.word_takes, settings.passes, folder)
    heads = [
        train_head(
            bank,
            _start(encoder_path, bank, settings.seed + n),
            out.with_suffix(f".{n}.pt"),
            settings,
            settings.seed + n,
        )
        for n in range(settings.heads)
    ]
    first, *_ = heads
    weights = [head.state_dict() for head in heads]
    mean = {
        name: torch.stack([w[name].double() for w in weights]).mean(0).to(value.dtype)
        for name, value in first.state_dict().items()
    }
    averaged = WakeHead(**first.shape)
    averaged.load_state_dict(mean)
    save(out, head=averaged, step=settings.steps)


def _embedding(path: Path) -> tuple[Embed, int]:
    """Return what embeds by the encoder of a checkpoint or a bundle, and the numbers of an
    embedding."""
    if not path.is_dir():
        encoder = channels_last(load_encoder(path))
        return embedding(encoder), encoder.embedding_dim
    models = BundleRuntime(path)

    def embed(heard: np.ndarray) -> np.ndarray:
        clipped = np.clip(heard, -32768, 32767).astype(np.int16)
        return np.stack([models.embeddings(x) for x in clipped])

    return embed, models.embedding_dim


def _start(path: Path, bank: EmbeddingBank, seed: int) -> WakeHead:
    """Return the head to start from: that of a checkpoint, or a fresh one."""
    if not path.is_dir():
        return load(path, "head", WakeHead)
    torch.manual_seed(seed)
    return WakeHead(bank.label.shape[1], inputs=bank.embedding.shape[1])


def train_head(
    bank: EmbeddingBank, start: WakeHead, out: Path, settings: WakeSettings, seed: int
) -> WakeHead:
    """Train one head from `start` through the checkpoint `out`; return the average of its
    weights."""
    torch.manual_seed(seed)
    head = start.train().requires_grad_(True)
    decay = get_ema_multi_avg_fn(_decay(settings))  # type: ignore[no-untyped-call]
    average = AveragedModel(head, multi_avg_fn=decay, use_buffers=True)
    averaged = average.module
    assert isinstance(averaged, WakeHead)
    loop = Loop(
        out,
        {"head": averaged, "current": head},
        [Group(head.parameters(), settings.rate)],
        LoopSettings(
            settings.steps,
            ramp=0.1,
            weight_decay=1e-2,
            clip=None,
            log_every=settings.log_every,
            checkpoint_every=settings.mine_every,
        ),
        Devices(torch.device("cpu")),
        run=settings,
    )
    if loop.first:
        average.n_averaged.fill_(1)
    draws = _Draws(bank, settings, np.random.default_rng(seed))

    def step(n: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
        if n and n % settings.mine_every == 0:
            draws.mine(averaged)
        words, timing = _losses(head, bank, draws.draw(), settings.positives)
        yield words + timing, {"words": words, "timing": timing}
        average.update_parameters(head)

    loop.run(step)
    return averaged


def _decay(settings: WakeSettings) -> float:
    """Return the decay of an average whose weights are a mean number of steps old."""
    return 1 - 1 / max(settings.averaged * settings.steps, 1.0)


class _Draws:
    """Draws the frames of a batch, and mines the hard negatives."""

    def __init__(
        self, bank: EmbeddingBank, settings: WakeSettings, rng: np.random.Generator
    ) -> None:
        """Raises ValueError where the bank has no frame of some word."""
        self.bank = bank
        self.settings = settings
        self.rng = rng
        self._has_context = np.arange(len(bank.label)) >= WakeHead.context
        words = bank.label.shape[1]
        self.positive = [
            np.flatnonzero((bank.label[:, word] == 1) & self._has_context) for word in range(words)
        ]
        counts = [len(frames) for frames in self.positive]
        hours = len(bank.label) * 0.08 / 3600
        log.info("%.1f h, frames where a word has ended: %s", hours, counts)
        if not all(counts):
            raise ValueError(f"word {counts.index(0)} has no utterance in the training split")
        self.silent = np.flatnonzero((bank.label == 0).all(axis=1) & self._has_context)
        self.hard = self.silent

    def draw(self) -> np.ndarray:
        """Return the frames of a batch."""
        settings = self.settings
        each = settings.positives // len(self.positive)
        positive = [self.rng.choice(frames, each) for frames in self.positive]
        hard = self.rng.choice(self.hard, settings.hard)
        others = self.rng.choice(self.silent, settings.negatives - settings.hard)
        return np.concatenate([*positive, hard, others])

    def mine(self, head: WakeHead) -> None:
        """Make the negatives that `head` scores highest the hard ones."""
        logits = score_all(head, self.bank)
        worst = np.where(self.bank.label == 0, logits, -30).max(axis=1)
        worst[~self._has_context | self.bank.near] = -30
        pool = min(self.settings.hard_pool, len(worst))
        self.hard = np.argpartition(worst, -pool)[-pool:]
        fires = [
            float((logits[frames, word] > 0).mean()) for word, frames in enumerate(self.positive)
        ]
        log.info(
            "mined: hardest logits %.2f … %.2f, positives above 0: %s",
            worst[self.hard].min(),
            worst[self.hard].max(),
            np.round(fires, 3),
        )


def _losses(
    head: WakeHead, bank: EmbeddingBank, at: np.ndarray, positives: int
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of the words and the error of the timing at the frames `at`."""
    x = bank.windows(at)
    logits, timing, _ = head(x[:, -1:], x[:, :-1])
    label = torch.from_numpy(bank.label[at])
    seconds = torch.from_numpy(bank.timing[at].astype(np.float32))
    target = (label == 1).float()
    cost = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
    words = (cost * (label >= 0)).sum() / positives
    fired = (label == 1).any(dim=1)
    clock = F.smooth_l1_loss(timing[fired, 0], seconds[fired], beta=0.05)
    return words, clock


@torch.no_grad()
def score_all(head: WakeHead, bank: EmbeddingBank, block: int = 20000) -> np.ndarray:
    """Return the logits of every frame of `bank`, float32 `[frame, word]`."""
    head.eval()
    out = []
    state = head.zero_state()
    for at in range(0, len(bank.embedding), block):
        embedding = torch.from_numpy(bank.embedding[at : at + block].astype(np.float32))[None]
        logits, _, state = head(embedding, state)
        out.append(logits[0].numpy())
    head.train()
    return np.concatenate(out)

"""Stage 2: the wake head on the frozen encoder, from the provisional head on, with hard negatives mined again and again.

All training audio is embedded several times over, clean and degraded, once; then the head sees windows of 16 embeddings:
those where a word has just ended, and negatives, a good part of them from the windows that it scores highest at present.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kwsd.training.data.corpora import Corpora
from kwsd.training.data.scenes import CHUNK, Scenes, mel_of
from kwsd.training.data.transcripts import Spoken
from kwsd.training.models.checkpoint import load, load_encoder, save
from kwsd.training.models.network import WORDS, Encoder, WakeHead
from kwsd.training.models.speech_embedding import front_end

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    steps: int
    passes: int = 3
    """How often each negative is embedded, the first time clean, then degraded anew."""
    word_takes: int = 16
    """How often each recorded word is embedded, on average; synthetic ones beside them."""
    positives: int = 384
    negatives: int = 1280
    hard: int = 384
    hardest: int = 20000
    mine_every: int = 500
    rate: float = 5e-4
    average: float = 0.998
    """Decay of the running average of the weights, which is what is kept: a single step's weights vary by several clips."""
    heads: int = 2
    """Heads trained from the same start on other draws; the mean of their weights is kept (Wortsman et al. 2022, arXiv 2203.05482)."""
    seed: int = 2


@dataclass
class Bank:
    """Embedded audio: a long row of embeddings, and what each frame is for each word (1 fire, 0 do not, -1 do not care)."""

    embedding: np.ndarray
    """float16 `[frame, 96]`."""
    label: np.ndarray
    """int8 `[frame, word]`."""
    timing: np.ndarray
    """float16 `[frame, 2]`: seconds since the word's beginning and end, where a label is 1."""
    near: np.ndarray
    """bool `[frame]`: synthetic words near a wake word. They are learnt from, but not mined: real accents come as close as they do."""


@torch.no_grad()
def embed(encoder: Encoder, heard: np.ndarray) -> np.ndarray:
    """Embeddings `[batch, chunk, 96]` of `heard [batch, sample]` from the zero state, float32."""
    mel = torch.from_numpy(mel_of(front_end(), heard))
    with torch.autocast("cpu", torch.bfloat16):
        return encoder(mel, encoder.zero_state(len(heard)))[0].float().numpy()


def gather(encoder: Encoder, scenes: Scenes, settings: Settings) -> Bank:
    """Embed the split: every word clip amid others `word_takes` times, every other clip `passes` times."""
    rng, corpora, samples = scenes.rng, scenes.corpora, 8 * 16000 // CHUNK * CHUNK
    embeddings, labels, timings, nears = [], [], [], []
    jobs: list[tuple[str, object]] = []
    recorded = sum(len(pool[False]) for pool in scenes.words)
    jobs += [("words", None)] * (recorded * settings.word_takes * 2 // 5)
    pools = {"speech": [c for pool in scenes.speech.values() for c in pool], "near": scenes.near, "noise": scenes.noise}
    for n in range(settings.passes):
        for kind, clips in pools.items():
            if clips:
                total = np.concatenate([corpora.read(clips[i]) for i in rng.permutation(len(clips))])
                name = "clean" if kind == "speech" and n == 0 else kind
                jobs += [(name, total[i : i + samples]) for i in range(int(rng.integers(samples)), len(total) - samples, samples)]
    log.info("embedding %.1f h in %d scenes", len(jobs) * samples / 16000 / 3600, len(jobs))
    order = rng.permutation(len(jobs))
    for at in range(0, len(order), 16):
        heard, marks = [], []
        for i in order[at : at + 16]:
            kind, payload = jobs[i]
            if kind == "words":
                scene = scenes.draw(samples, word_share=0.65)
                heard.append(scenes.hear(scene.clean[None], [scene.degradation])[0])
                marks.append(scene.words)
            else:
                assert isinstance(payload, np.ndarray)
                x = payload * np.float32(10 ** (rng.uniform(-12, 6) / 20))
                heard.append(scenes.degrade(x, harsh={"clean": 0.0, "speech": 1.0, "near": 1.0, "noise": 0.3}[kind]))
                marks.append([])
        out = embed(encoder, np.stack(heard))
        for i, embedding, words in zip(order[at : at + 16], out, marks, strict=True):
            chunks = len(embedding)
            label, timing = scenes.labels(words, chunks), np.zeros((chunks, 2), np.float16)
            ends = (np.arange(chunks) + 1) * CHUNK
            for word, start, end in words:
                inside = (label[:, word] == 1) & (np.abs(ends - end) < 8000)
                timing[inside, 0], timing[inside, 1] = (ends[inside] - start) / 16000, (ends[inside] - end) / 16000
            embeddings.append(embedding.astype(np.float16))
            labels.append(label)
            timings.append(timing)
            nears.append(np.full(chunks, jobs[i][0] == "near"))
        if at // 16 % 200 == 199:
            log.info("embedded %d of %d scenes", at + 16, len(jobs))
    return Bank(*map(np.concatenate, (embeddings, labels, timings, nears)))


def windows(bank: Bank, at: np.ndarray) -> Tensor:
    """The 16 embeddings that end at frames `at [n]`: float32 `[n, 16, 96]`."""
    return torch.from_numpy(bank.embedding[at[:, None] + np.arange(1 - WakeHead.context, 1)].astype(np.float32))


@torch.no_grad()
def score_all(head: WakeHead, bank: Bank, block: int = 20000) -> np.ndarray:
    """Logits of every frame of the bank, float32 `[frame, word]`."""
    head.eval()
    out, state = [], head.zero_state()
    for at in range(0, len(bank.embedding), block):
        logits, _, state = head(torch.from_numpy(bank.embedding[at : at + block].astype(np.float32))[None], state)
        out.append(logits[0].numpy())
    head.train()
    return np.concatenate(out)


def train(stores: list[Path], rooms: Path, spoken: Spoken, encoder_path: Path, out: Path, settings: Settings) -> None:
    """Train the head into `out`. The bank beside it is made once; each head resumes at its last mining."""
    cache = out.with_suffix(".bank.npz")
    if cache.exists():
        parts = np.load(cache)
        bank = Bank(parts["embedding"], parts["label"], parts["timing"], parts["near"])
    else:
        scenes = Scenes(Corpora(*stores), rooms, seed=settings.seed, spoken=spoken)
        bank = gather(load_encoder(encoder_path).to(memory_format=torch.channels_last), scenes, settings)  # type: ignore[call-overload]
        np.savez(cache, embedding=bank.embedding, label=bank.label, timing=bank.timing, near=bank.near)
    heads = [train_head(bank, encoder_path, out.with_suffix(f".{n}.pt"), settings, settings.seed + n).state_dict() for n in range(settings.heads)]
    mean = {k: torch.stack([h[k].double() for h in heads]).mean(0).to(first.dtype) for k, first in heads[0].items()}
    save(out, head=mean, step=settings.steps)


def train_head(bank: Bank, encoder_path: Path, out: Path, settings: Settings, seed: int) -> WakeHead:
    """One head, through the checkpoint `out`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    inside = np.arange(len(bank.label)) >= WakeHead.context
    positive = [np.flatnonzero((bank.label[:, w] == 1) & inside) for w in range(len(WORDS))]
    log.info("%.1f h, frames where a word has ended: %s", len(bank.label) * 0.08 / 3600, [len(p) for p in positive])
    silent = np.flatnonzero((bank.label == 0).all(axis=1) & inside)
    head = load(encoder_path, "head", WakeHead).train().requires_grad_(True)
    optimiser = torch.optim.AdamW(head.parameters(), lr=settings.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=settings.steps + 1, pct_start=0.1)
    average = AveragedModel(head, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=True)  # type: ignore[no-untyped-call]
    kept = average.module
    assert isinstance(kept, WakeHead)
    first, hard = 0, silent
    if out.exists():
        saved = torch.load(out, weights_only=True)
        head.load_state_dict(saved["current"])
        kept.load_state_dict(saved["head"])
        average.n_averaged.fill_(1)
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        first = saved["step"]
    sums = np.zeros(3)
    for step in range(first, settings.steps):
        if step and step % settings.mine_every == 0:
            save(out, head=kept, current=head, optimiser=optimiser, schedule=schedule, step=step)
            logits = score_all(kept, bank)
            worst = np.where(bank.label == 0, logits, -30).max(axis=1)
            worst[~inside | bank.near] = -30
            hard = np.argpartition(worst, -settings.hardest)[-settings.hardest :]
            fires = [float((logits[p, w] > 0).mean()) for w, p in enumerate(positive)]
            log.info("mined: hardest logits %.2f … %.2f, positives over 0: %s", worst[hard].min(), worst[hard].max(), np.round(fires, 3))
        drawn = [rng.choice(p, settings.positives // len(WORDS)) for p in positive]
        at = np.concatenate([*drawn, rng.choice(hard, settings.hard), rng.choice(silent, settings.negatives - settings.hard)])
        x = windows(bank, at)
        logits, timing, _ = head(x[:, -1:], x[:, :-1])
        label, seconds = torch.from_numpy(bank.label[at]), torch.from_numpy(bank.timing[at].astype(np.float32))
        cost = F.binary_cross_entropy_with_logits(logits[:, 0], (label == 1).float(), reduction="none")
        words = (cost * (label >= 0)).sum() / settings.positives
        fired = (label == 1).any(dim=1)
        clock = F.smooth_l1_loss(timing[fired, 0], seconds[fired], beta=0.05)
        optimiser.zero_grad(set_to_none=True)
        (words + clock).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        average.update_parameters(head)
        schedule.step()
        sums += words.item(), clock.item(), 1
        if (step + 1) % 250 == 0:
            log.info("step %d/%d  words %.4f  timing %.4f", step + 1, settings.steps, *(sums[:2] / sums[2]))
            sums[:] = 0
    save(out, head=kept, current=head, optimiser=optimiser, schedule=schedule, step=settings.steps)
    return kept

"""The heads on the encoder's frames: wake words, voices, and, in training alone, all words."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training.features import INTERMEDIATE_FRAMES, WAKE_CONTEXT
from kwsd.training.models.encoder import Encoder


class WakeHead(nn.Module):
    """Per-word frame logits over the last 16 embeddings (1.28 s), and how long ago the word began
    and ended.

    `embedding [batch, frame, 96]` to `logits [batch, frame, word]` and `timing [batch, frame, 2]`
    (seconds since the beginning and since the end of the word, meaningful where a logit is high).
    State: the last 15 embeddings.
    """

    context = WAKE_CONTEXT

    def __init__(
        self, words: int, width: int = 112, hidden: int = 64, inputs: int = Encoder.embedding_dim
    ) -> None:
        """`words` outputs, from embeddings of `inputs` numbers."""
        super().__init__()
        self.shape = {"words": words, "width": width, "hidden": hidden, "inputs": inputs}
        self.words = words
        self.inputs = inputs
        self.norm = nn.BatchNorm1d(inputs)
        self.mix = nn.Conv1d(inputs, width, self.context)
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, words + 2)
        self.drop = nn.Dropout(0.2)

    def zero_state(self, batch: int = 1) -> Tensor:
        """Return the state at the start of a stream, `[batch, 15, inputs]`."""
        device = self.out.weight.device
        return torch.zeros(batch, self.context - 1, self.inputs, device=device)

    def forward(self, embedding: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, timing and the state after `embedding`."""
        x = torch.cat([state, embedding], dim=1)
        after = x[:, 1 - self.context :]
        y = self.mix(self.norm(x.transpose(1, 2))).transpose(1, 2)
        y = self.out(F.relu(self.hidden(self.drop(F.relu(y)))))
        return y[..., : self.words], y[..., self.words :], after


def _over_bands(inputs: int, outputs: int, stride: tuple[int, int]) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class SpeakerHead(nn.Module):
    """Speaker embedding of a span of encoder frames, and of fine bands where it takes any.

    `intermediate [batch, 4 k, 384]`, `embedding [batch, k, 96]` and `fine [batch, 8 k, fine]` to
    `[batch, 192]` of unit length. The fine bands pass convolutions over time and frequency (as in
    ECAPA CNN-TDNN, Thienpondt et al. 2021, arXiv 2104.02370). Then dilated residual blocks whose
    outputs are concatenated (as in ECAPA-TDNN, Desplanques et al. 2020, arXiv 2005.07143), and
    attentive statistics pooling (Okabe et al. 2018, arXiv 1803.10963). The head runs once per wake,
    so it may look both ways within its span.
    """

    dim = 192

    def __init__(
        self,
        intermediate: int = 24 * 16,
        embedding: int = Encoder.embedding_dim,
        fine: int = 0,
        width: int = 144,
        blocks: int = 4,
        pooled: int = 224,
        attention: int = 48,
    ) -> None:
        """`intermediate`, `embedding` and `fine` are the inputs' numbers per frame."""
        super().__init__()
        self.shape = {
            "intermediate": intermediate,
            "embedding": embedding,
            "fine": fine,
            "width": width,
            "blocks": blocks,
            "pooled": pooled,
            "attention": attention,
        }
        # inputs, outputs, strides over time and bands
        plan = [(1, 16, (1, 1)), (16, 16, (1, 2)), (16, 24, (2, 2)), (24, 24, (1, 2))]
        self.fine: nn.Module = nn.Identity()
        if fine:
            self.fine = nn.Sequential(nn.BatchNorm2d(1), *(_over_bands(*layer) for layer in plan))
        inputs = intermediate + embedding + 24 * fine // 8
        self.enter = nn.Sequential(
            nn.BatchNorm1d(inputs), nn.Conv1d(inputs, width, 1), nn.ReLU(), nn.BatchNorm1d(width)
        )
        self.blocks = nn.ModuleList(_residual(width, 1 + n) for n in range(blocks))
        self.gather = nn.Sequential(
            nn.Conv1d(width * blocks, pooled, 1), nn.ReLU(), nn.BatchNorm1d(pooled)
        )
        self.attention = nn.Sequential(
            nn.Conv1d(pooled, attention, 1), nn.Tanh(), nn.Conv1d(attention, pooled, 1)
        )
        self.out = nn.Sequential(
            nn.BatchNorm1d(2 * pooled), nn.Linear(2 * pooled, self.dim), nn.BatchNorm1d(self.dim)
        )

    def forward(
        self, intermediate: Tensor, embedding: Tensor, fine: Tensor | None = None
    ) -> Tensor:
        """Return the speaker embedding `[batch, 192]`."""
        embeddings = embedding.transpose(1, 2).repeat_interleave(INTERMEDIATE_FRAMES, dim=2)
        parts = [intermediate.transpose(1, 2), embeddings]
        if fine is not None:
            parts.append(self.fine(fine.unsqueeze(1)).transpose(2, 3).flatten(1, 2))
        x = self.enter(torch.cat(parts, dim=1))
        outs = []
        for block in self.blocks:
            x = x + block(x)
            outs.append(x)
        x = self.gather(torch.cat(outs, dim=1)).float()
        weight = torch.softmax(self.attention(x).float(), dim=2)
        mean = (weight * x).sum(2)
        deviation = ((weight * x * x).sum(2) - mean * mean).clamp(min=1e-4).sqrt()
        return F.normalize(self.out(torch.cat([mean, deviation], dim=1)), dim=1)


def _residual(width: int, dilation: int) -> nn.Sequential:
    padding = 2 * dilation
    return nn.Sequential(
        nn.Conv1d(width, width, 1),
        nn.ReLU(),
        nn.BatchNorm1d(width),
        nn.Conv1d(width, width, 5, padding=padding, dilation=dilation, groups=width),
        nn.ReLU(),
        nn.BatchNorm1d(width),
        nn.Conv1d(width, width, 1),
        nn.ReLU(),
        nn.BatchNorm1d(width),
    )


class SpeakerHeads(nn.Module):
    """Speaker heads of one shape, trained from different seeds, side by side: they err differently.

    The output is `[batch, 192 heads]` of unit length."""

    def __init__(self, heads: int = 1, **shape: int) -> None:
        """`shape` holds the arguments of each `SpeakerHead`."""
        super().__init__()
        first, *others = (SpeakerHead(**shape) for _ in range(heads))
        self.heads = nn.ModuleList([first, *others])
        self.shape = {"heads": heads, **first.shape}

    def forward(
        self, intermediate: Tensor, embedding: Tensor, fine: Tensor | None = None
    ) -> Tensor:
        """Return the joined speaker embeddings; arguments are those of `SpeakerHead`."""
        outs = [head(intermediate, embedding, fine) for head in self.heads]
        return F.normalize(torch.cat(outs, dim=1), dim=1)


class WordSpace(nn.Module):
    """A vector of unit length for the word that has just ended; used in training alone.

    `window [n, 16, inputs]` of embeddings to `[n, 128]`."""

    dim = 128

    def __init__(self, inputs: int = Encoder.embedding_dim) -> None:
        """`inputs` is the size of an embedding."""
        super().__init__()
        self.shape = {"inputs": inputs}
        self.norm = nn.BatchNorm1d(inputs)
        self.mix = nn.Conv1d(inputs, 192, WakeHead.context)
        self.out = nn.Linear(192, self.dim)

    def forward(self, window: Tensor) -> Tensor:
        """Return the vectors of the words, `[n, 128]`."""
        mixed = self.mix(self.norm(window.transpose(1, 2))).squeeze(2)
        return F.normalize(self.out(F.relu(mixed)), dim=1)


def embedding_windows(embedding: Tensor, row: Tensor, chunk: Tensor) -> Tensor:
    """Return the 16 embeddings that end at `chunk [n]` of `row [n]`: `[n, 16, dim]`.

    `embedding` is `[batch, chunk, dim]`; before the first chunk there are zeros."""
    context = WakeHead.context
    padded = F.pad(embedding, (0, 0, context - 1, 0))
    return padded[row[:, None], chunk[:, None] + torch.arange(context, device=chunk.device)]

"""What a student is asked for, beside its labels. Each returns a scalar to minimise; `teacher` never gets a gradient.

A: Kerpicci et al. 2022 (arXiv 2210.16611), after DistilHuBERT (Chang et al. 2022, arXiv 2110.01900).
B: Yang, Gu et al. 2023 (arXiv 2307.02720): dual-view cross-correlation and the teacher's codebook.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6


def l1_cosine(student: Tensor, teacher: Tensor, weight: Tensor | None = None, cosine: float = 1.0) -> Tensor:
    """Paper A, one layer: `|f - f'|_1 / K - log sigmoid(cos(f, f'))`, averaged over frames instead of summed, so that lengths may differ.

    Both `[batch, frame, K]`; `weight [batch, frame]` counts frames (0 leaves padding out)."""
    distance = (student - teacher.detach()).abs().mean(-1)
    likeness = F.logsigmoid(F.cosine_similarity(student, teacher.detach(), dim=-1))
    each = distance - cosine * likeness
    return each.mean() if weight is None else (each * weight).sum() / weight.sum().clamp(min=EPSILON)


class DualView(NamedTuple):
    """Paper B's utterance-level loss, and what it is made of; `loss` itself is always 2 in value, so log the raw ones."""

    loss: Tensor
    feature: Tensor
    """L_C: over pairs of features, raw."""
    batch: Tensor
    """L_G: over pairs of utterances, raw."""


def dual_view(student: Tensor, teacher: Tensor, alpha: float = 5e-3, beta: float = 5e-3, *, centred: bool = True) -> DualView:
    """Paper B: `L_C / sg(L_C) + L_G / sg(L_G)` of pooled `[batch, dim]`, as many features on either side.

    Features of one utterance share a large mean, which would make all correlations alike: `centred` takes the batch's mean off first
    (the paper's formula does not). `batch >= dim` makes the feature view full rank: project the teacher by PCA."""
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must be of one shape; project the teacher first")
    teacher = teacher.detach()
    if centred:
        student, teacher = student - student.mean(0), teacher - teacher.mean(0)
    feature = _decorrelation(cross_correlation(student.T, teacher.T), alpha)
    batch = _decorrelation(cross_correlation(student, teacher), beta)
    return DualView(feature / (feature.detach() + EPSILON) + batch / (batch.detach() + EPSILON), feature, batch)


def cross_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Cosines of every row of `student [n, k]` with every row of `teacher [m, k]`: `[n, m]`. Paper B's C of columns, its G of rows."""
    return F.normalize(student, dim=1, eps=EPSILON) @ F.normalize(teacher, dim=1, eps=EPSILON).T


def _decorrelation(matrix: Tensor, off_diagonal: float) -> Tensor:
    """`sum_i (M_ii - 1)^2 + off_diagonal * sum_{i != j} M_ij^2`."""
    diagonal = matrix.diagonal()
    return ((diagonal - 1) ** 2).sum() + off_diagonal * ((matrix**2).sum() - (diagonal**2).sum())


def codebook_contrast(predicted: Tensor, codes: Tensor, codebook: Tensor, temperature: float = 0.1, negatives: int | None = None) -> Tensor:
    """Paper B: the teacher's quantised vector of each (masked) frame, found among the others by cosine (InfoNCE, van den Oord et al. 2018).

    `predicted [frame, dim]`, `codes` int64 `[frame]`, `codebook [code, dim]`. All other codes are negatives, or `negatives` of them drawn
    anew for each frame."""
    logits = cross_correlation(predicted, codebook.detach()) / temperature
    if negatives is not None and negatives < len(codebook) - 1:
        own = F.one_hot(codes, len(codebook)).bool()
        drawn = torch.rand_like(logits).masked_fill(own, 2.0).topk(negatives + 1, dim=1).indices  # the right one and some of the others
        keep = torch.zeros_like(own).scatter(1, drawn, True)
        logits = logits.masked_fill(~keep, float("-inf"))
    return F.cross_entropy(logits, codes)


def span_mask(batch: int, frames: int, share: float, length: int, generator: torch.Generator | None = None) -> Tensor:
    """Bool `[batch, frame]`: spans of `length` frames that cover about `share` of each row (wav2vec 2.0, Baevski et al. 2020; SpecAugment's time masks)."""
    starts = torch.rand(batch, frames, generator=generator) < share / length
    kernel = torch.ones(1, 1, length)
    return F.conv1d(F.pad(starts.float().unsqueeze(1), (length - 1, 0)), kernel).squeeze(1) > 0

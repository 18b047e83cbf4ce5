"""The losses: what a student learns from its teachers, from wake words and from voices.

Each returns a scalar to minimize; a `teacher` argument gets no gradient but in the dual view, where
it may be a learned mixture of layers.

A: Kerpicci et al. 2022 (arXiv 2210.16611), after DistilHuBERT (Chang et al. 2022, arXiv
2110.01900). B: Yang, Gu et al. 2023 (arXiv 2307.02720): dual-view cross-correlation and the
teacher's codebook."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6


def l1_cosine(
    student: Tensor, teacher: Tensor, weight: Tensor | None = None, cosine: float = 1.0
) -> Tensor:
    """Return paper A's loss of one layer: `|f - f'|_1 / K - log sigmoid(cos(f, f'))`.

    It is averaged over frames instead of summed, so that lengths may differ. `student` and
    `teacher` are `[batch, frame, K]`; `weight [batch, frame]` weighs frames (0 leaves padding out).
    """
    distance = (student - teacher.detach()).abs().mean(-1)
    similarity = F.logsigmoid(F.cosine_similarity(student, teacher.detach(), dim=-1))
    loss = distance - cosine * similarity
    if weight is None:
        return loss.mean()
    return (loss * weight).sum() / weight.sum().clamp(min=EPSILON)


class DualView(NamedTuple):
    """Paper B's utterance-level loss and its parts.

    `loss` itself is always 2 in value, so log the raw parts."""

    loss: Tensor
    feature: Tensor
    """L_C: over pairs of features, raw."""
    batch: Tensor
    """L_G: over pairs of utterances, raw."""


def dual_view(
    student: Tensor,
    teacher: Tensor,
    alpha: float = 5e-3,
    beta: float = 5e-3,
    *,
    centered: bool = True,
) -> DualView:
    """Return paper B's `L_C / sg(L_C) + L_G / sg(L_G)` of pooled vectors `[batch, dim]`.

    Features of one utterance share a large mean, which would make all correlations similar:
    `centered` first removes the batch's mean (the paper's formula does not). With fewer utterances
    than features C cannot become the identity, so project the teacher first. Raises ValueError
    where the shapes differ, or `batch < dim`."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} "
            "must be of one shape; project the teacher first"
        )
    if len(student) < student.shape[1]:
        raise ValueError(
            f"{len(student)} utterances cannot decorrelate {student.shape[1]} features; "
            "project them to fewer"
        )
    if centered:
        student = student - student.mean(0)
        teacher = teacher - teacher.mean(0)
    feature = _decorrelation(cross_correlation(student.T, teacher.T), alpha)
    batch = _decorrelation(cross_correlation(student, teacher), beta)
    loss = feature / (feature.detach() + EPSILON) + batch / (batch.detach() + EPSILON)
    return DualView(loss, feature, batch)


def cross_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the cosines `[n, m]` of the rows of `student [n, k]` with those of `teacher [m, k]`.

    Paper B's C is that of columns, its G that of rows."""
    rows = F.normalize(student, dim=1, eps=EPSILON)
    return rows @ F.normalize(teacher, dim=1, eps=EPSILON).T


def _decorrelation(matrix: Tensor, off_diagonal: float) -> Tensor:
    """Return `sum_i (M_ii - 1)^2 + off_diagonal * sum_{i != j} M_ij^2`."""
    diagonal = matrix.diagonal()
    others = (matrix**2).sum() - (diagonal**2).sum()
    return ((diagonal - 1) ** 2).sum() + off_diagonal * others


def codebook_contrast(
    predicted: Tensor,
    codes: Tensor,
    codebook: Tensor,
    temperature: float = 0.1,
    negatives: int | None = None,
) -> Tensor:
    """Return paper B's contrastive loss: the teacher's quantized vector of each (masked) frame is
    to be found among the others by cosine (InfoNCE, van den Oord et al. 2018).

    `predicted [frame, dim]`, `codes` int64 `[frame]`, `codebook [code, dim]`. All other codes are
    negatives, or `negatives` of them, drawn for each frame."""
    logits = cross_correlation(predicted, codebook.detach()) / temperature
    if negatives is not None and negatives < len(codebook) - 1:
        target = F.one_hot(codes, len(codebook)).bool()
        # The right code and some of the others.
        order = torch.rand_like(logits).masked_fill(target, 2.0)
        drawn = order.topk(negatives + 1, dim=1).indices
        keep = torch.zeros_like(target).scatter(1, drawn, True)
        logits = logits.masked_fill(~keep, float("-inf"))
    return F.cross_entropy(logits, codes)


def wake_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the max-pool loss of the wake words: each word's best frame where it has just ended
    must fire, its four best frames elsewhere must not.

    `logits`, `labels` `[batch, frame, word]`; labels are 1 just after the word, 0 elsewhere, and -1
    where a frame is ignored."""
    hit = logits.masked_fill(labels != 1, -torch.inf).amax(dim=1)
    present = (labels == 1).any(dim=1)
    positive = F.softplus(-hit[present]).sum()
    worst = logits.masked_fill(labels != 0, -30.0).topk(4, dim=1).values
    return (positive + F.softplus(worst).sum() * 0.25) / len(logits)


class MarginSoftmax(nn.Module):
    """Additive angular margin softmax (Deng et al. 2019, arXiv 1801.07698).

    `embedding [batch, dim]` of unit length and `target [batch]` to the mean cross-entropy."""

    def __init__(self, dim: int, classes: int, scale: float) -> None:
        """`scale` multiplies the cosines."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim) * 0.05)
        self.scale = scale

    def forward(self, embedding: Tensor, target: Tensor, margin: float) -> Tensor:
        """Return the mean cross-entropy, the target's angle enlarged by `margin`."""
        cosine = (embedding @ F.normalize(self.weight, dim=1).T).clamp(-1 + 1e-6, 1 - 1e-6)
        shifted = torch.cos(torch.acos(cosine) + margin)
        # Past pi the shifted cosine would rise again; there it falls on in a straight line.
        line = cosine - margin * math.sin(margin)
        shifted = torch.where(cosine > math.cos(math.pi - margin), shifted, line)
        is_target = F.one_hot(target, len(self.weight)).bool()
        return F.cross_entropy(self.scale * torch.where(is_target, shifted, cosine), target)

    @torch.no_grad()
    def accuracy(self, embedding: Tensor, target: Tensor) -> Tensor:
        """Return the share of `embedding` whose nearest class is their `target`."""
        nearest = (embedding @ F.normalize(self.weight, dim=1).T).argmax(1)
        return (nearest == target).float().mean()


def pair_contrast(vectors: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return InfoNCE over pairs, and what share was right: of `vectors [2 pair, dim]`, of unit
    length, each is to be nearest to the one beside it (van den Oord et al. 2018)."""
    first, second = vectors[::2], vectors[1::2]
    likeness = scale * first @ second.T
    same = torch.arange(len(first), device=likeness.device)
    contrast = F.cross_entropy(likeness, same) + F.cross_entropy(likeness.T, same)
    return contrast / 2, (likeness.argmax(1) == same).float().mean()


def rising_margin(margin: float, step: int, steps: int) -> float:
    """Return the margin at `step`: 0 for the first quarter of `steps`, `margin` from three
    quarters."""
    return margin * min(max(2 * step / steps - 0.5, 0.0), 1.0)

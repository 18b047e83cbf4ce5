"""A student of a pretrained transformer: thinned from it, fresh, or the one that ships, then
distilled on all audio at hand.

The teacher hears the clean window, the student what a microphone in a room hears of it (as in
RobustDistiller, Guimarães et al. 2023, arXiv 2302.09437). What is learned is in
`kwsd.training.stages.checker.objectives`: by default paper A's loss, L1 and log-sigmoid of the
cosine on the output of several blocks (Kerpicci et al. 2022, arXiv 2210.16611); paper B's dual view
and codebook (Yang, Gu et al. 2023, arXiv 2307.02720) may be added, or replace it. Meanwhile the
student may learn to tell any words apart (`spoken`), which added words need most of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kwsd.config import ConfigError
from kwsd.training.data.loading import load
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.windows import (
    REMEMBERED,
    WINDOW_SAMPLES,
    Draw,
    WindowPair,
    Windows,
    at_peak,
)
from kwsd.training.loop import Group, Loop, LoopSettings, devices
from kwsd.training.losses import rising_margin
from kwsd.training.models import checkpoint
from kwsd.training.models.pretrained import load_pretrained
from kwsd.training.models.restored import restored, shipped_checker
from kwsd.training.models.thinning import thin
from kwsd.training.models.transformer import MelStem, Transformer
from kwsd.training.models.voice_network import mel_filters
from kwsd.training.stages.checker import words
from kwsd.training.stages.checker.distiller import Answer, DistillCheckerSettings, Distiller
from kwsd.training.stages.checker.kept import Kept
from kwsd.training.stages.checker.objectives import (
    BANDS,
    HOP_SAMPLES,
    Standardized,
    masked_inputs,
)
from kwsd.training.stages.checker.spoken import WordPairs
from kwsd.training.stages.checker.words import WordsSettings

log = logging.getLogger(__name__)
FITTED = 128
"""Windows to which statistics, axes and codes are fitted."""


class SpokenWords(NamedTuple):
    """Words that a student learns to tell apart."""

    windows: Path
    """The folder of their windows."""
    head: Path
    """The checkpoint of `words` on the student as it begins."""


def make(
    data: TrainingData,
    teacher: str,
    out: Path,
    settings: DistillCheckerSettings,
    bundle: Path,
    windows: Path,
    head: WordsSettings,
) -> None:
    """Make and distill a student as `train` does; where it learns the words in the folder
    `windows`, their head is first trained on the student as it begins."""
    spoken = None
    if settings.spoken:
        start = beginning(data, teacher, out, settings, bundle)
        spoken = SpokenWords(windows, start.with_name(f"{start.stem}-words.pt"))
        words.make(windows, start, spoken.head, head)
    train(data, teacher, out, settings, bundle, spoken)


def train(
    data: TrainingData,
    teacher: str,
    out: Path,
    settings: DistillCheckerSettings,
    bundle: Path | None = None,
    spoken: SpokenWords | None = None,
) -> None:
    """Make a student of the transformer `teacher` into `out` beside `.thin.pt` (`.fresh.pt`, or
    that of the `bundle` into `.bundle.pt`), and distill it through the checkpoint `out`, which
    holds the student `encoder`; it learns the words `spoken` as well.

    Raises TeacherError, BundleError, ConfigError where there is no such student in the bundle, and
    FileNotFoundError where there are no windows."""
    with devices() as here:
        start = beginning(data, teacher, out, settings, bundle)
        torch.manual_seed(settings.seed)
        known = load_pretrained(teacher)
        whole = known.network
        for part in (whole, known.quantizer):
            if part is not None:
                part.to(here.device)
        student = checkpoint.load(start, "encoder", Transformer).to(here.device)
        student.train().requires_grad_(True)
        student.freeze(settings.frozen_blocks)
        pairs = head = None
        if settings.spoken:
            if spoken is None:
                raise ConfigError("distill.spoken: this stage has no windows of words; set it to 0")
            found = Kept.load(spoken.windows, "checker --only spoken")
            pairs = WordPairs(found, settings.spoken_words, settings.seed)
            head = words.trained_head(spoken.head, student, pairs.kinds, settings.spoken_scale)
        compare = Standardized.between(settings.layers, whole, student).to(here.device)
        compare.load_state_dict(torch.load(start, weights_only=True)["compare"])
        distiller = Distiller(known, student, compare, head, settings, here).to(here.device)
        loop_settings = LoopSettings(
            settings.steps,
            settings.ramp,
            weight_decay=1e-2,
            accumulate=settings.accumulate,
            log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every,
        )
        groups = [Group(student.parameters(), settings.rate)]
        if distiller.projections:
            groups.append(Group(distiller.projections, settings.projection_rate))
        loop = Loop(out, distiller.parts, groups, loop_settings, here, run=settings)
        if loop.first == 0 and settings.steps and (settings.dual_view or settings.codebook):
            distiller.fit(known, _clean(data, settings)[:FITTED].to(here.device))
        model = here.share(distiller)
        windows = Windows(
            data,
            settings.batch,
            settings.seed,
            settings.views,
            first=loop.first,
            rank=here.rank,
            parts=settings.accumulate,
            harsh=settings.harsh,
        )
        batches = load(windows, windows.prepare, here.device)
        if pairs is not None:
            pairs.seed = here.seed(settings.seed, loop.first)
        said = None if pairs is None else load(pairs, pairs.prepare, here.device)
        answered: dict[Draw, Answer] = {}

        def step(at: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            for _ in range(settings.accumulate):
                yield part(at)

        def part(at: int) -> tuple[Tensor, Mapping[str, Tensor]]:
            pair: WindowPair = next(batches)
            inputs, masked = masked_inputs(student, pair, bool(settings.codebook))
            new = [k for k, draw in enumerate(pair.draws) if draw not in answered]
            with here.autocast(settings.mixed_precision):
                for k, answer in zip(new, distiller.asked(known, pair.clean[new]), strict=True):
                    answered[pair.draws[k]] = answer
            answers = zip(*(answered[draw] for draw in pair.draws), strict=True)
            layers, codes = (torch.stack(known_part) for known_part in answers)
            for draw in [draw for draw in answered if draw[0] < at - REMEMBERED]:
                del answered[draw]
            if said is None:
                return model(inputs, layers, codes, masked)
            heard, kind = next(said)
            inputs = torch.cat([inputs, student.inputs(at_peak(heard))])
            margin = rising_margin(settings.spoken_margin, at, settings.steps)
            return model(inputs, layers, codes, masked, kind, margin)

        held_back = data.validation()
        validate = None
        if held_back is not None and settings.l1_cosine:
            validate = _validation(held_back, whole, student, compare, settings)
        loop.run(step, validate)


def _validation(
    data: TrainingData,
    whole: Transformer,
    student: Transformer,
    compare: Standardized,
    settings: DistillCheckerSettings,
) -> Callable[[], float]:
    """Return what measures the loss on windows for validation, always the same."""
    windows = Windows(
        data, settings.validation_windows, settings.seed, harsh=settings.harsh, development=True
    )
    pair = windows.prepare(next(iter(windows)))
    device = compare.mean.device
    with torch.no_grad():
        targets = compare.targets(whole(whole.inputs(pair.clean.to(device))))
        heard = student.inputs(pair.heard.to(device))

    @torch.no_grad()
    def validate() -> float:
        return float(compare(student(heard), targets)[0])

    return validate


def _clean(data: TrainingData, settings: DistillCheckerSettings) -> Tensor:
    """Return the windows that a student and its statistics are fitted to, `[window, sample]`."""
    windows = Windows(data, settings.thin_windows, settings.seed)
    return windows.prepare(next(iter(windows))).clean


def beginning(
    data: TrainingData,
    teacher: str,
    out: Path,
    settings: DistillCheckerSettings,
    bundle: Path | None = None,
) -> Path:
    """Return the checkpoint of the student as it begins, beside `out`; it is made where there is
    none. Raises as `train` does."""
    start = out.with_suffix(f".{settings.start}.pt")
    if not start.exists():
        whole = load_pretrained(teacher).network
        torch.manual_seed(settings.seed)
        _begin(whole, data, start, settings, bundle)
    return start


def _begin(
    whole: Transformer,
    data: TrainingData,
    out: Path,
    settings: DistillCheckerSettings,
    bundle: Path | None,
) -> None:
    """Write the student as it begins, and the statistics of the layers that are compared."""
    inputs = whole.inputs(_clean(data, settings))
    if settings.start == "thin":
        student = thin(whole, inputs, settings.heads, settings.hidden)
    elif settings.start == "bundle":
        if bundle is None:
            raise ConfigError("distill.start=bundle: this stage has no bundle to begin with")
        student = restored(shipped_checker(bundle, "distill.start=bundle"), whole)
    else:
        student = _fresh(whole, settings)
    compare = Standardized.between(settings.layers, whole, student)
    with torch.inference_mode():
        compare.fit(whole(inputs[:FITTED]))
    frames = whole.frames(WINDOW_SAMPLES)
    own = student.parameters_used(frames)
    share = own / whole.parameters_used(frames)
    log.info("the student has %.2f M parameters, %.1f %% of its teacher's", own / 1e6, 100 * share)
    checkpoint.save(out, encoder=student, compare=compare)


def _fresh(whole: Transformer, settings: DistillCheckerSettings) -> Transformer:
    """Return a random transformer over log-mel: of the bands of `whole`, or, where that takes the
    waveform, of `BANDS`."""
    stem = whole.stem
    filters = stem.filters if isinstance(stem, MelStem) else torch.from_numpy(mel_filters(BANDS))
    student = Transformer(
        settings.dim,
        settings.dim // settings.heads,
        [list(range(settings.heads))] * settings.blocks,
        [settings.hidden] * settings.blocks,
        norm_first=True,
        mel={"bands": filters.shape[1], "positions": WINDOW_SAMPLES // (2 * HOP_SAMPLES)},
    )
    assert isinstance(student.stem, MelStem)
    student.stem.filters.copy_(filters)
    nn.init.normal_(student.stem.positions, std=0.02)
    return student

"""`kwsd train ablate --teacher`: measures what each part of the second stage's training is worth.

Each row of `ablate_checker.yaml` is distilled and tuned alike, seed by seed, and asked about the
candidates that nothing was trained on, as they are and while the device itself plays. As in paper B
(Yang, Gu et al. 2023, arXiv 2307.02720), rows are compared by their false accepts where they miss
as much as the first one.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from msgspec import field

from kwsd.config import ConfigError
from kwsd.state.store import write_atomically
from kwsd.training import settings
from kwsd.training.data import augment
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.windows import WINDOW_SAMPLES
from kwsd.training.development import Development, Report
from kwsd.training.models import checkpoint
from kwsd.training.models.checker import CheckerHead
from kwsd.training.models.transformer import Transformer
from kwsd.training.settings import Settings
from kwsd.training.stages.ablate import FIGURES, figures_of, runs
from kwsd.training.stages.checker import candidates, distill, tune
from kwsd.training.stages.checker.candidates import Candidates
from kwsd.training.stages.checker.settings import CheckerSettings

log = logging.getLogger(__name__)
SPLITS = {"development": candidates.DEVELOPMENT, "val": candidates.VALIDATION}
"""The folder of each split's candidates; those of the recordings for validation may be missing."""
PLAYBACK = " in playback"
"""What follows the name of a split whose windows are heard while the device plays speech or music,
as loud as they are."""
MEASURED = [split + ending for split in SPLITS for ending in ("", PLAYBACK)]


class CheckerAblation(Settings, frozen=True):
    """One row: `KEY.KEY=VALUE` changes of `distill` and `tune` in `checker.yaml`."""

    distill: list[str] = field(default_factory=list)
    tune: list[str] = field(default_factory=list)
    seeds: int = 1
    """From how many seeds it is trained."""


class AblateCheckerSettings(Settings, frozen=True):
    """The settings of `ablate_checker.yaml`."""

    distill: list[str]
    """Changes that all rows share."""
    tune: list[str]
    """Changes that all rows share."""
    false_accepts: int
    """Candidates of a split that may fire wrongly where misses are counted."""
    rows: dict[str, CheckerAblation]


class Figure(NamedTuple):
    """A figure of a run, as the CSV file has it."""

    row: str
    seed: int
    split: str
    figure: str
    value: float


def settings_of(ablations: AblateCheckerSettings, name: str) -> CheckerSettings:
    """Return how the row `name` is distilled and tuned. Raises ConfigError."""
    row = ablations.rows[name]
    changes = [f"distill.{change}" for change in (*ablations.distill, *row.distill)]
    changes += [f"tune.{change}" for change in (*ablations.tune, *row.tune)]
    return settings.read("checker", CheckerSettings, changes)


def ablate(
    work: Path,
    data: TrainingData,
    teacher: str,
    ablations: AblateCheckerSettings,
    chosen: Sequence[str],
) -> None:
    """Run the `chosen` rows in `work/ablations/checker-ROW/SEED`, write `checker.csv` there and log
    the table of all that are done.

    Interrupted rows resume. Raises ConfigError, TeacherError, and FileNotFoundError without
    candidates."""
    folder = work / "checker"
    held_back = {
        split: Candidates.load(folder / name)
        for split, name in SPLITS.items()
        if split == "development" or (folder / name).exists()
    }
    splits = {"development": data, "val": data.validation()}
    played = {
        split: in_playback(found, Development(of))
        for split, found in held_back.items()
        if (of := splits[split]) is not None
    }
    held_back |= {split + PLAYBACK: found for split, found in played.items()}
    # The rows are compared on the candidates for validation, so these do not stop them as well.
    spoken, head = folder / "spoken", folder / "distilled-words.pt"
    heard = tune.Heard(folder / candidates.TRAINING, None, spoken, head)
    # All are read first, so that a slip in the last row is reported before the first one runs.
    stages = {name: settings_of(ablations, name) for name in chosen}
    begun: dict[tuple[object, ...], Path] = {}
    for name, seed in runs({name: ablations.rows[name].seeds for name in chosen}):
        distilled = msgspec.structs.replace(stages[name].distill, seed=seed)
        tuned = msgspec.structs.replace(stages[name].tune, seed=seed)
        out = work / "ablations" / f"checker-{name}" / str(seed)
        beginning = out / f"distilled.{distilled.start}.pt"
        like = begun.setdefault(distilled.beginning, beginning)
        if (out / FIGURES).exists():
            continue
        out.mkdir(parents=True, exist_ok=True)
        log.info("%s, seed %d", name, seed)
        if like.exists() and not beginning.exists():
            beginning.hardlink_to(like)  # thinning takes as long as much of the training
        start = out / "distilled.pt"
        distill.train(data, teacher, start, distilled)
        tune.train(data, teacher, start, heard, out / "tuned.pt", tuned)
        report = measure(out / "tuned.pt", held_back, tuned.other_words)
        write_atomically(out / FIGURES, json.dumps(report).encode())
    found = list(figures(work, ablations))
    with (work / "ablations" / "checker.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Figure._fields)
        writer.writerows(found)
    log.info("\n%s", table(found, ablations.false_accepts))


def in_playback(found: Candidates, development: Development) -> Candidates:
    """Return the candidates `found` while the device plays what `development` has for that."""
    windows = [
        augment.quantize_int16(development.playing(window.astype(np.float32), 0.0))
        for window in found.windows
    ]
    return replace(found, windows=np.array(windows, np.int16).reshape(found.windows.shape))


@torch.no_grad()
def measure(tuned: Path, held_back: Mapping[str, Candidates], other_words: float) -> Report:
    """Return, for the checkpoint `tuned`, the `parameters` of the encoder that a window uses, and
    for each split the word `loss` and the logits of each candidate's own word, sorted: `own` where
    it was said, `others` where it was not."""
    encoder = checkpoint.load(tuned, "encoder", Transformer)
    head = checkpoint.load(tuned, "words", CheckerHead)
    report: Report = {"parameters": encoder.parameters_used(encoder.frames(WINDOW_SAMPLES))}
    for split, found in held_back.items():
        logits = torch.cat(
            [head(encoder(encoder.inputs(batch.heard))) for batch in tune.in_batches(found)]
        )
        word, spoken = torch.from_numpy(found.word), torch.from_numpy(found.spoken)
        asked = logits.gather(1, word[:, None])[:, 0]
        report[split] = {
            "loss": tune.word_loss(logits, word, spoken, other_words).item(),
            "own": asked[word == spoken].sort().values.tolist(),
            "others": asked[word != spoken].sort().values.tolist(),
        }
    return report


def misses_at(own: Sequence[float], others: Sequence[float], false_accepts: int) -> int:
    """Return how many of `own` do not fire at the lowest threshold at which `false_accepts` of
    `others` do, or fewer where some are equal; both are sorted."""
    if len(others) <= false_accepts:
        return 0
    return int(np.searchsorted(own, others[-1 - false_accepts], "right"))


def false_accepts_at(own: Sequence[float], others: Sequence[float], misses: int) -> int:
    """Return how many of `others` fire at the highest threshold at which `misses` of `own` do not;
    both are sorted."""
    if len(own) <= misses:
        return 0
    return len(others) - int(np.searchsorted(others, own[misses], "left"))


def figures(work: Path, ablations: AblateCheckerSettings) -> Iterator[Figure]:
    """Yield the figures of all rows that are done, by split: `loss`, `missed` (the share), and
    `false accepts` relative to those of the first row at its misses, where it has any.

    Raises ConfigError where none is done."""
    done = {name: figures_of(work, f"checker-{name}") for name in ablations.rows}
    done = {name: reports for name, reports in done.items() if reports}
    if not done:
        raise ConfigError(
            f"{work / 'ablations'}: no row is done; "
            "`kwsd train ablate --teacher FOLDER --only ROW` runs one"
        )
    for name, reports in done.items():
        for seed, report in enumerate(reports, 1):
            yield Figure(name, seed, "", "parameters", report["parameters"])
    allowed = ablations.false_accepts
    first = next(iter(done.values()))
    for split in MEASURED:
        base = [report[split] for report in first if split in report]
        if not base:
            continue
        misses = round(np.mean([misses_at(r["own"], r["others"], allowed) for r in base]))
        usual = np.mean([false_accepts_at(r["own"], r["others"], misses) for r in base])
        for name, reports in done.items():
            for seed, report in enumerate(reports, 1):
                own, others = report[split]["own"], report[split]["others"]
                yield Figure(name, seed, split, "loss", report[split]["loss"])
                missed = misses_at(own, others, allowed) / max(len(own), 1)
                yield Figure(name, seed, split, "missed", missed)
                if usual:
                    relative = false_accepts_at(own, others, misses) / usual
                    yield Figure(name, seed, split, "false accepts", float(relative))


def table(found: Sequence[Figure], false_accepts: int) -> str:
    """Return Markdown: a line for each row of `found`, the means over its seeds; ± gives the
    distance of the farthest seed from the mean."""
    splits = [split for split in MEASURED if any(figure.split == split for figure in found)]
    head = ["", "parameters"]
    for split in splits:
        head += [
            f"{split}: word loss",
            "relative false accepts",
            f"missed at {false_accepts} false accepts",
        ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]

    def cell(row: str, split: str, figure: str, form: str) -> str:
        wanted = (row, split, figure)
        values = np.array([f.value for f in found if (f.row, f.split, f.figure) == wanted])
        if not len(values):
            return "–"
        spread = f" ±{abs(values - values.mean()).max():{form}}" if len(values) > 1 else ""
        return f"{values.mean():{form}}{spread}"

    for row in dict.fromkeys(figure.row for figure in found):
        parameters = next(f.value for f in found if (f.row, f.figure) == (row, "parameters"))
        cells = [row, f"{parameters / 1e6:.2f} M"]
        for split in splits:
            cells += [
                cell(row, split, "loss", ".3f"),
                cell(row, split, "false accepts", ".2f"),
                cell(row, split, "missed", ".1%"),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

"""`kwsd train ablate`: measures what each part is worth.

Each row of `ablate.yaml` is distilled, fine-tuned and compared alike, seed by seed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import field

from kwsd.config import ConfigError
from kwsd.training import settings
from kwsd.training.data.targets import Voices
from kwsd.training.data.training_data import TrainingData
from kwsd.training.development import Report
from kwsd.training.settings import Settings
from kwsd.training.stages import compare, distill, finetune
from kwsd.training.stages.distill import DistillSettings
from kwsd.training.stages.finetune import FinetuneSettings

log = logging.getLogger(__name__)
FIGURES = "figures.json"
"""What a run was measured to be, in its folder: it is done."""


class Ablation(Settings, frozen=True):
    """One row: `KEY.KEY=VALUE` changes of the stages' own settings, as `--set` takes them."""

    finetune: list[str] = field(default_factory=list)
    distill: list[str] | None = None
    """None: the row is not distilled."""
    seeds: int = 1
    """From how many seeds it is trained."""


class AblateSettings(Settings, frozen=True):
    """The settings of `ablate.yaml`."""

    distill: list[str]
    """Changes that all rows share."""
    finetune: list[str]
    """Changes that all rows share."""
    rows: dict[str, Ablation]


def settings_of(
    ablations: AblateSettings, name: str
) -> tuple[DistillSettings | None, FinetuneSettings]:
    """Return how the row `name` is distilled, if it is, and fine-tuned. Raises ConfigError."""
    row = ablations.rows[name]
    distilled = None
    if row.distill is not None:
        changes = [*ablations.distill, *row.distill]
        distilled = settings.read("distill", DistillSettings, changes)
    changes = [*ablations.finetune, *row.finetune]
    return distilled, settings.read("finetune", FinetuneSettings, changes)


def ablate(
    work: Path, data: TrainingData, ablations: AblateSettings, chosen: Sequence[str]
) -> None:
    """Run the `chosen` rows in `work/ablations/ROW/SEED`, and log the table of all that are done.

    Interrupted rows resume. Raises ConfigError, TeacherError."""
    voices = Voices(work / "targets" / "voice")
    # All are read first, so that a slip in the last row is reported before the first one runs.
    stages = {name: settings_of(ablations, name) for name in chosen}
    for name, seed in runs({name: ablations.rows[name].seeds for name in chosen}):
        distilled, tuned = stages[name]
        folder = work / "ablations" / name / str(seed)
        if (folder / FIGURES).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        log.info("%s, seed %d", name, seed)
        start = None
        if distilled is not None:
            start = folder / "distilled.pt"
            distill.train(
                data, work / "targets", start, msgspec.structs.replace(distilled, seed=seed)
            )
        out = folder / "finetuned.pt"
        finetune.train(data, voices, start, out, msgspec.structs.replace(tuned, seed=seed))
        compare.compare(out, data, folder / FIGURES)
    log.info("\n%s", table(work, ablations))


def runs(seeds: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield each row and seed, of all rows the first seed first; `seeds` are how many each has."""
    for seed in range(1, max(seeds.values()) + 1):
        for name, count in seeds.items():
            if seed <= count:
                yield name, seed


def figures_of(work: Path, name: str) -> list[Report]:
    """Return the figures of the row `name`, for each seed that is done."""
    paths = sorted((work / "ablations" / name).glob(f"*/{FIGURES}"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def table(work: Path, ablations: AblateSettings) -> str:
    """Return Markdown: a line for each row that is done, over its seeds.

    Raises ConfigError where none is done."""
    lines = [compare.HEAD]
    for name in ablations.rows:
        found = figures_of(work, name)
        lines += [compare.row(name, found)] if found else []
    if len(lines) == 1:
        raise ConfigError(
            f"{work / 'ablations'}: no row is done; `kwsd train ablate --only ROW` runs one"
        )
    return "\n".join(lines)

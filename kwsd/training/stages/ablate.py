"""`kwsd train ablate`: what each part is worth. The rows of `ablate.yaml` are distilled, fine-tuned and compared alike, seed by seed."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kwsd.config import ConfigError
from kwsd.training import settings
from kwsd.training.data.transcripts import Spoken
from kwsd.training.stages import compare, distill, finetune
from kwsd.training.stages.cache import Voices

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """What sets a row apart: `KEY.KEY=VALUE` changes of the stages' own settings, as `--set` takes them."""

    finetune: list[str] = field(default_factory=list)
    distill: list[str] | None = None
    """None: it is not distilled."""
    seeds: int = 1


@dataclass(frozen=True)
class Settings:
    distill: list[str]
    """Changes that all rows share."""
    finetune: list[str]
    rows: dict[str, Row]


def lessons_of(wanted: Settings, name: str) -> tuple[distill.Settings | None, finetune.Settings]:
    """How the row `name` is distilled, if it is, and fine-tuned. Raises ConfigError."""
    row = wanted.rows[name]
    lessons = None if row.distill is None else settings.read("distill", distill.Settings, [*wanted.distill, *row.distill])
    return lessons, settings.read("finetune", finetune.Settings, [*wanted.finetune, *row.finetune])


def ablate(work: Path, stores: list[Path], rooms: Path, spoken: Spoken, wanted: Settings, chosen: Sequence[str]) -> None:
    """Run the `chosen` rows in `work/ablations/ROW/SEED`, going on where they were cut off, and log the table of all that are done.

    Raises ConfigError, TeacherError."""
    known = Voices(work / "targets" / "voice")
    asked = {name: lessons_of(wanted, name) for name in chosen}  # so that a slip in the last row is told before the first one is run
    for seed in range(1, max(row.seeds for row in wanted.rows.values()) + 1):
        for name in chosen:
            (lessons, tuned), folder = asked[name], work / "ablations" / name / str(seed)
            if seed > wanted.rows[name].seeds or (folder / "figures.json").exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            log.info("%s, seed %d", name, seed)
            begin = None
            if lessons is not None:
                begin = folder / "distilled.pt"
                distill.train(stores, rooms, work / "targets", begin, replace(lessons, seed=seed))
            finetune.train(stores, rooms, spoken, known, begin, folder / "finetuned.pt", replace(tuned, seed=seed))
            compare.compare(folder / "finetuned.pt", stores, rooms, spoken, folder / "figures.json")
    log.info("\n%s", table(work, wanted))


def table(work: Path, wanted: Settings) -> str:
    """Markdown: a line for each row that is done, over its seeds. Raises ConfigError where none is."""
    lines = [compare.HEAD]
    for name in wanted.rows:
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / "ablations" / name).glob("*/figures.json"))]
        lines += [compare.row(name, runs)] if runs else []
    if len(lines) == 1:
        raise ConfigError(f"{work / 'ablations'}: no row is done; `kwsd train ablate --only ROW` runs one")
    return "\n".join(lines)

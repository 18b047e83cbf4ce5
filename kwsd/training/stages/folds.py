"""`kwsd train folds`: how many clips, speakers and hours of what each fold of the speakers holds,
duplicates left out."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from kwsd.audio.format import SAMPLE_RATE
from kwsd.state.store import write_atomically
from kwsd.training.data.corpora import FOLDS, Corpora, Utterance
from kwsd.training.data.training_data import TrainingData

log = logging.getLogger(__name__)
VALIDATION_COLUMN = "val"
"""The column of the store for validation."""
HEAD = ("what", *map(str, range(FOLDS)), VALIDATION_COLUMN)
"""The columns: a fold each."""


def folds(data: TrainingData, out: Path) -> None:
    """Write a table to `out` and into the log: a row for each wake word, recorded and synthetic,
    and each kind of negatives; in a fold's column, clips / speakers / hours."""
    corpora = [data.corpora()]
    if (validation := data.validation()) is not None:
        corpora.append(validation.corpora())
    cells: dict[str, dict[int, list[Utterance]]] = {}
    for opened in corpora:
        for utterance in opened.utterances:
            row = cells.setdefault(_kind(opened, utterance), {})
            row.setdefault(utterance.fold, []).append(utterance)
    rows = [
        [kind, *(_cell(row.get(fold, ())) for fold in (*range(FOLDS), -1))]
        for kind, row in sorted(cells.items(), key=lambda item: _order(data, item[0]))
    ]
    lines = ["\t".join(row) for row in (HEAD, *rows)]
    write_atomically(out, ("\n".join(lines) + "\n").encode())
    log.info("clips / speakers / hours by fold, %d duplicates left out:", len(data.duplicates))
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    for line in (HEAD, *rows):
        log.info("%s", "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def _kind(corpora: Corpora, utterance: Utterance) -> str:
    """Return the row of `utterance`."""
    made = ", synthetic" if utterance.synthetic else ""
    if utterance.word >= 0:
        return corpora.words.names[utterance.word] + made
    return corpora.roles.source(utterance.corpus) + made


def _order(data: TrainingData, kind: str) -> tuple[int, str]:
    """Return where a row stands: words in their order, then the rest."""
    names = data.words.names
    return (names.index(kind) if kind in names else len(names), kind)


def _cell(utterances: Iterable[Utterance]) -> str:
    held = list(utterances)
    speakers = {f"{u.corpus}/{u.speaker}" for u in held if u.speaker}
    hours = sum(u.samples for u in held) / SAMPLE_RATE / 3600
    return f"{len(held)} / {len(speakers)} / {hours:.2f}"

"""The figures of a run, as they are logged: a CSV file beside the checkpoint, and TensorBoard where
it is installed."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIELDS = ("step", "figure", "value")


class Figures:
    """Writes figures to `RUN.csv`, a row each, and, for TensorBoard, into the folder `RUN.events`,
    `RUN.pt` being the checkpoint."""

    def __init__(self, checkpoint: Path, first: int) -> None:
        """The run resumes at step `first`: what was written of later steps is dropped."""
        self._path = checkpoint.with_suffix(".csv")
        kept = [row for row in read(self._path) if int(row["step"]) <= first]
        with self._path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(kept)
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            folder = checkpoint.with_suffix(".events")
            self._board = SummaryWriter(str(folder), purge_step=first + 1)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the `figures` of a step."""
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((step, name, value) for name, value in figures.items())
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name.replace(" ", "_"), value, step)
            self._board.flush()


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file of figures; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))

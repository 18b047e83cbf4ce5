"""`kwsd train unpack` and `kwsd train import`: decode recordings into the stores of the working
folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from kwsd.audio.format import SAMPLE_RATE
from kwsd.config import ConfigError
from kwsd.training.data import importers, shards
from kwsd.training.data.corpora import VALIDATION, Recording, write_store
from kwsd.training.data.manifests import decode, read_manifest, write_rooms
from kwsd.training.data.training_data import ROOMS

log = logging.getLogger(__name__)
SHARDS = "webdataset"
"""The layout of WebDataset shards, which are no files of a manifest."""
LAYOUTS = (*importers.LAYOUTS, SHARDS)
"""The layouts that `import` reads."""
RESERVED = ("targets", "ablations", "checker", "headline")
"""Folders of the working folder that other stages write."""


def unpack(data: Path, dest: Path) -> None:
    """Decode the recordings that `data/manifest.tsv` names into the store `dest`."""
    _write(dest, decode(read_manifest(data / "manifest.tsv")))


def import_corpus(work: Path, data: Path, layout: str, name: str) -> None:
    """Decode the corpus in the folder `data`, which has the published `layout`, into WORK/NAME;
    room responses of the layout `collected` into the file `rirs.npz` there.

    Raises ConfigError for a name that is no folder's, or that of the store for validation."""
    if name in (VALIDATION, *RESERVED) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(
            f"--name {name}: {', '.join((VALIDATION, *RESERVED))} and paths are no names for a "
            "corpus; write another"
        )
    if layout == SHARDS:
        _write(work / name, shards.recordings(data, name))
    else:
        _write(work / name, decode(importers.rows(layout, data)))
    if layout == "collected":
        write_rooms(work / name / ROOMS, importers.room_responses(data))


def _write(dest: Path, recordings: Iterable[Recording]) -> None:
    """Write the store `dest`, and log how far it is."""

    def logged() -> Iterator[Recording]:
        seconds = 0.0
        for n, recording in enumerate(recordings, 1):
            yield recording
            seconds += len(recording.samples) / SAMPLE_RATE
            if n % 5000 == 0:
                log.info("%s: %d utterances, %.1f h", dest.name, n, seconds / 3600)

    log.info("%s: %d utterances in all", dest.name, write_store(dest, logged()))

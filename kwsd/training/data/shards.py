"""Corpora as WebDataset shards: tar files, in which the files of one recording have one name.

Each recording is a sound file, with or without a `.json` beside it that names `speaker`, `label`
and `corpus`.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import soundfile

from kwsd.training.data.corpora import Recording
from kwsd.training.data.importers import SOUND
from kwsd.training.data.manifests import read_sound

log = logging.getLogger(__name__)


def recordings(root: Path, corpus: str) -> Iterator[Recording]:
    """Yield the recordings in the shards `*.tar` of the folder `root`, at 16 kHz.

    They belong to `corpus` where they do not name another. A shard that is damaged is named in the
    log, and what is left of it is skipped; so is a recording that cannot be decoded. Raises
    ValueError where there is no recording at all.
    """
    count = 0
    for shard in sorted(root.glob("*.tar")):
        read = 0
        try:
            for sample in _samples(shard):
                recording = _recording(shard, sample, corpus)
                if recording is not None:
                    yield recording
                    read += 1
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            log.warning("%s: damaged (%s); skipped after %d recordings", shard, error, read)
        count += read
    if not count:
        raise ValueError(f"{root}: holds no WebDataset shards (*.tar) with recordings")


def _samples(shard: Path) -> Iterator[dict[str, Any]]:
    """Yield the files of each recording, bytes by suffix, and its name as `__key__`."""
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    with shard.open("rb") as file:
        yield from group_by_keys({"__url__": "", **found} for found in tar_file_iterator(file))


def _recording(shard: Path, sample: Mapping[str, Any], corpus: str) -> Recording | None:
    """Return one recording of a shard; None where it is none that can be used."""
    name = f"{shard}: {sample['__key__']}"
    sounds = [key for key in sample if f".{key.rpartition('.')[2]}" in SOUND]
    if not sounds:
        log.warning("%s holds no sound (%s)", name, ", ".join(SOUND))
        return None
    try:
        known = json.loads(sample.get("json", b"{}"))
        if not isinstance(known, dict):
            raise ValueError("its .json is no object")
        samples = read_sound(io.BytesIO(sample[sounds[0]]))
    except (ValueError, soundfile.LibsndfileError) as error:
        log.warning("%s is skipped: %s", name, error)
        return None
    fields = [str(known.get(field, "")) for field in ("speaker", "label")]
    return Recording(samples, str(known.get("corpus", corpus)), *fields)

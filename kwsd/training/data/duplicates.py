"""Recordings that a collection holds more than once.

Crowd-sourced words are full of them: played back, cut again, sent in twice. Such takes must not
count twice, and must not lie on both sides of a split. They are equal where their normalized
cross-correlation, at any lag, is over `SAME`; takes of one word alone are compared so, and
everything else by checksum. A recording under two labels stays under both.
"""

from __future__ import annotations

import csv
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.state.store import write_atomically
from kwsd.training.data.augment import transform_length
from kwsd.training.data.corpora import VALIDATION, Clip, Place, read_clips

log = logging.getLogger(__name__)
SAME = 0.9
"""Cross-correlation over which two takes of a word are one recording."""
LOWEST_HZ = 80
"""Hum and offsets below count for nothing."""
BANDS = 2048
"""Bands of a fingerprint."""
LONGEST_SAMPLES = 8 * SAMPLE_RATE
"""Longer takes are compared by checksum alone."""
ROWS = 512
"""Fingerprints that are compared with all others at once."""
FIELDS = ("store", "start", "kept_store", "kept_start")


Duplicates = dict[Place, Place]
"""The clips to leave out, and which clip is kept in the place of each."""


def find(stores: Sequence[Path], synthetic: str = "") -> Duplicates:
    """Return the duplicates in `stores`.

    Of equal recordings the one with the smallest checksum is kept, wherever it lies; but where one
    of them is in the store for validation, none of the other stores' is. `synthetic` names the
    corpus of made takes, which are compared by checksum alone."""
    audio = {store.name: np.load(store / "audio.npy", mmap_mode="r") for store in stores}
    clips = {Place(store.name, clip.start): clip for store in stores for clip in read_clips(store)}
    checksums = {place: clip.checksum(audio[place.store]) for place, clip in clips.items()}
    groups = _Groups()
    first: dict[tuple[int, int, str], Place] = {}
    by_label: dict[str, list[Place]] = {}
    for place, clip in clips.items():
        label = clip.label.lower().replace("_", " ")
        groups.join(place, first.setdefault((clip.samples, checksums[place], label), place))
        if label and clip.corpus != synthetic and clip.samples <= LONGEST_SAMPLES:
            by_label.setdefault(label, []).append(place)
    for places in by_label.values():
        takes = _Takes([_samples(audio[place.store], clips[place]) for place in places])
        for one, other in takes.equal():
            groups.join(places[one], places[other])
    found: Duplicates = {}
    for group in groups.all():
        held_back = [place for place in group if place.store == VALIDATION]
        kept = min(held_back or group, key=lambda place: (checksums[place], place))
        found |= {place: kept for place in group if place != kept}
    # What validates is left out under any label.
    validating = {
        (clip.samples, checksums[place]): place
        for place, clip in clips.items()
        if place.store == VALIDATION
    }
    for place, clip in clips.items():
        kept_there = validating.get((clip.samples, checksums[place]))
        if kept_there and place.store != VALIDATION:
            found[place] = kept_there
    return found


def find_once(path: Path, stores: Sequence[Path], synthetic: str = "") -> Duplicates:
    """Return the duplicates in `stores` as the file `path` has them.

    They are found anew, and written there, where it is missing or of other stores."""
    key = json.dumps({store.name: _identity(store) for store in sorted(stores)}, sort_keys=True)
    if path.exists():
        head, _, body = path.read_text(encoding="utf-8").partition("\n")
        if head == f"# {key}":
            return {
                Place(row["store"], int(row["start"])): Place(
                    row["kept_store"], int(row["kept_start"])
                )
                for row in csv.DictReader(body.splitlines(), delimiter="\t")
            }
    log.info("looking for duplicates in %s", ", ".join(store.name for store in stores))
    found = find(stores, synthetic)
    rows = ["\t".join(map(str, (*place, *kept))) for place, kept in sorted(found.items())]
    write_atomically(path, "\n".join([f"# {key}", "\t".join(FIELDS), *rows, ""]).encode())
    log.info("%d duplicates are left out; %s names them", len(found), path)
    return found


def _identity(store: Path) -> list[int]:
    """Return numbers that change when the store does."""
    size = (store / "audio.npy").stat().st_size
    return [size, zlib.crc32((store / "manifest.tsv").read_bytes())]


def _samples(audio: np.ndarray, clip: Clip) -> np.ndarray:
    return np.asarray(audio[clip.start : clip.start + clip.samples])


class _Takes:
    """Takes of one word, to be compared with one another."""

    def __init__(self, takes: Sequence[np.ndarray]) -> None:
        """`takes`: int16 `[sample]` each."""
        self.takes = takes
        # Twice the longest: no two takes wrap around onto each other.
        self._length = transform_length(max(2 * max(map(len, takes)), 16 * BANDS))
        self._lowest = LOWEST_HZ * self._length // SAMPLE_RATE

    def equal(self) -> Iterator[tuple[int, int]]:
        """Yield the pairs that are one recording.

        No cross-correlation exceeds the product of the magnitudes of both spectra, summed over all
        frequencies, nor, by the inequality of Cauchy and Schwarz, of the magnitudes of bands: what
        the product of two fingerprints rules out need not be correlated."""
        prints = np.stack([self._fingerprint(take) for take in self.takes])
        for at in range(0, len(prints), ROWS):
            block = prints[at : at + ROWS]
            likely = np.argwhere(np.triu(block @ prints.T > SAME - 1e-3, at + 1))
            spectrum, latest = np.zeros(0), -1
            for row, other in likely.tolist():
                if row != latest:
                    spectrum, latest = self._spectrum(self.takes[at + row]), row
                if self._correlation(spectrum, self._spectrum(self.takes[other])) > SAME:
                    yield at + row, other

    def _spectrum(self, take: np.ndarray) -> np.ndarray:
        """Return the spectrum of `take`, complex64 `[frequency]`, of unit power; 0 of silence."""
        spectrum = np.fft.rfft(take.astype(np.float32), self._length)[:-1]
        spectrum[: self._lowest] = 0
        power = float(np.vdot(spectrum, spectrum).real)
        return np.asarray(spectrum / max(power, 1.0) ** 0.5)

    def _fingerprint(self, take: np.ndarray) -> np.ndarray:
        """Return the magnitudes of `BANDS` bands, float32 `[band]` of unit length."""
        power = np.square(np.abs(self._spectrum(take)))
        return np.sqrt(power.reshape(BANDS, -1).sum(axis=1)).astype(np.float32)

    def _correlation(self, one: np.ndarray, other: np.ndarray) -> float:
        """Return the greatest magnitude of the cross-correlation of two takes, by their spectra."""
        product = np.append(one * other.conj(), 0)
        # Both halves of the spectrum are of unit power together.
        return float(np.abs(np.fft.irfft(product, self._length)).max() * self._length / 2)


class _Groups:
    """Disjoint sets of clips."""

    def __init__(self) -> None:
        self._parent: dict[Place, Place] = {}

    def join(self, one: Place, other: Place) -> None:
        """Put the sets of both into one."""
        self._parent[self._root(one)] = self._root(other)

    def _root(self, place: Place) -> Place:
        self._parent.setdefault(place, place)
        while (above := self._parent[place]) != place:
            self._parent[place] = self._parent[above]
            place = above
        return place

    def all(self) -> list[list[Place]]:
        """Return the sets."""
        sets: dict[Place, list[Place]] = {}
        for place in self._parent:
            sets.setdefault(self._root(place), []).append(place)
        return list(sets.values())

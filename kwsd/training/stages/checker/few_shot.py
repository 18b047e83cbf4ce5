"""Words that the head of added words was not trained on, tried as added words: what its settings
are chosen by.

The vectors are judged alone, over windows of single words, without the streaming stage. `kwsd bench
words` measures whole words.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch

from kwsd.learn.regression import Moments
from kwsd.learn.second_stage import parting
from kwsd.state.store import write_atomically
from kwsd.training.data.spoken import HeldOut, kinds_of
from kwsd.training.models import checkpoint
from kwsd.training.models.checker import SpokenHead
from kwsd.training.stages.checker.kept import Kept
from kwsd.training.stages.checker.said import SYNTHETIC

log = logging.getLogger(__name__)
SHOTS = (10, 3)
"""Takes that a word is made of."""
DRAWS = 8
"""Draws of the takes of a word."""
FALSE_ACCEPTS = 0.01
"""Share of the other words' takes that are over the threshold."""
BANK = 8000
"""Windows of the words of the training that the takes are parted from."""
NONE = np.zeros((0, 1, 1))

Hits = dict[str, dict[str, float]]
"""By the number of takes, of each word: the share of the other takes that are hits."""


def measure(frames: Path, trained: Path, left_out: Collection[str]) -> Hits:
    """Return the hits of the words `left_out` by the head of the checkpoint `trained`, on what is
    in the folder `frames`; written beside `trained` as JSON.

    Raises ValueError where there are not two words with recorded takes enough."""
    found = Kept.load(frames, "checker --only words")
    head = checkpoint.load(trained, "spoken", SpokenHead)
    with torch.no_grad():
        parts = [head(torch.from_numpy(np.asarray(x, np.float32))) for x in found.windows]
    vectors = torch.cat(parts).numpy()
    kinds = kinds_of(left_out, HeldOut.of(()))
    kind, who = found.known["kind"], found.known["who"]
    is_recorded = ~np.char.startswith(who, f"{SYNTHETIC}/")
    rows = {text: np.flatnonzero((kind == of) & is_recorded) for text, of in kinds.items()}
    rows = {text: at for text, at in rows.items() if len(set(who[at])) > max(SHOTS)}
    if len(rows) < 2:
        raise ValueError(
            f"words.left_out needs two words with recorded takes of {max(SHOTS) + 1} people each: "
            f"of {', '.join(sorted(left_out))} there are {', '.join(rows) or 'none'}"
        )
    bank = np.flatnonzero(~np.isin(kind, list(kinds.values())))
    drawn = np.random.default_rng(0).permutation(bank)[:BANK]
    hits = _hits(vectors, who, rows, Moments.of(vectors[drawn]))
    for shots, by_word in hits.items():
        each = ", ".join(f"{word} {share:.0%}" for word, share in by_word.items())
        mean = 100 * np.mean(list(by_word.values()))
        log.info(
            "%s takes, %.1f %% hits at %.0f %% false accepts: %s",
            shots,
            mean,
            100 * FALSE_ACCEPTS,
            each,
        )
    write_atomically(trained.with_suffix(".json"), json.dumps(hits, indent=1).encode())
    return hits


def _hits(
    vectors: np.ndarray, who: np.ndarray, rows: Mapping[str, np.ndarray], bank: Moments
) -> Hits:
    found: Hits = {}
    for shots in SHOTS:
        by_word = found[str(shots)] = {}
        for text, at in rows.items():
            others = np.concatenate([rows[other] for other in rows if other != text])
            draws = []
            for draw in range(DRAWS):
                drawn = np.random.default_rng(draw).permutation(at)
                _, first = np.unique(who[drawn], return_index=True)
                takes = drawn[np.sort(first)[:shots]]
                asked = drawn[~np.isin(who[drawn], who[takes])]
                weights, _ = parting(vectors[takes][:, None, None], NONE, NONE, bank)
                threshold = np.quantile(vectors[others] @ weights, 1 - FALSE_ACCEPTS)
                draws.append(float((vectors[asked] @ weights > threshold).mean()))
            by_word[text] = float(np.mean(draws))
    return found

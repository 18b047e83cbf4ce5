"""Several rooms hear one utterance: the one that hears it best answers.

Each room announces its wake as a candidate, waits, and answers unless another has answered or has
the better signal. Times are those at which messages arrive, by the room's own monotonic clock, so
that nobody's clock must be right.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from kwsd.names import folded

SAME_S = 1.0
"""Wakes of one word that arrive within this many seconds are of one utterance, at most."""
GRACE_S = 0.1
"""A room whose time was up so long ago has answered, or will not."""
MAX_CLAIMS = 256
"""Candidates of other rooms that are known."""


class Rank(NamedTuple):
    """How well a room has heard an utterance; the greatest answers."""

    snr_db: float
    level_dbfs: float
    room: str
    """Decides between equals, the same way everywhere."""


def rank(snr_db: float | None, level_dbfs: float | None, room: str) -> Rank:
    """Return a rank; what is not known counts as nothing."""
    least = -math.inf
    snr = least if snr_db is None else snr_db
    return Rank(snr, least if level_dbfs is None else level_dbfs, room)


class Claim(NamedTuple):
    """A room that may answer, or has."""

    rank: Rank
    at: float
    answered: bool


class Arbiter:
    """What is known of the other rooms."""

    def __init__(self, window_s: float) -> None:
        """Each room waits for `window_s` seconds before it answers."""
        self._window_s = window_s
        self._claims: dict[tuple[str, str], Claim] = {}

    def candidate(self, word: str, rank: Rank, now: float) -> None:
        """Another room has heard a word at `now`, and waits."""
        self._add(word, Claim(rank, now, answered=False))

    def answer(self, word: str, rank: Rank, now: float) -> None:
        """Another room answers to a word at `now`."""
        known = self._claims.get((rank.room, folded(word)))
        is_known = known is not None and now - known.at <= SAME_S + self._window_s
        self._add(word, Claim(rank, known.at if known and is_known else now, answered=True))

    def _add(self, word: str, claim: Claim) -> None:
        key = (claim.rank.room, folded(word))
        self._claims.pop(key, None)
        while len(self._claims) >= MAX_CLAIMS:
            self._claims.pop(next(iter(self._claims)))
        self._claims[key] = claim

    def winner(self, word: str, mine: Rank, at: float) -> str:
        """Return the room that answers to a word that was heard here at `at`, now that the time is
        up; `mine.room` if nobody else does."""
        rivals = [
            claim
            for (_, known), claim in self._claims.items()
            if known == folded(word) and abs(claim.at - at) <= max(SAME_S, self._window_s)
        ]
        answered = [claim.rank for claim in rivals if claim.answered]
        if answered:
            return max(answered).room
        waiting = [claim.rank for claim in rivals if claim.at >= at - GRACE_S]
        return max([mine, *waiting]).room

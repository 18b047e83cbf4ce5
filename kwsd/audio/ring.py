"""The look-back: the last rows of a stream, addressed by absolute index.

Not thread-safe: one owner reads and writes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Ring:
    """The last `capacity` rows of a stream, each of shape `row`. Indices are absolute: row 0 is the
    stream's first."""

    def __init__(self, capacity: int, dtype: DTypeLike, row: tuple[int, ...] = ()) -> None:
        if capacity < 1:
            raise ValueError(f"a ring of {capacity} rows cannot hold anything")
        self._rows = np.zeros((capacity, *row), dtype)
        self.end = 0
        """Index after the newest row."""
        self._begin = 0

    @property
    def begin(self) -> int:
        """Index of the oldest row that is kept."""
        return max(self._begin, self.end - len(self._rows))

    def append(self, rows: NDArray[np.generic]) -> None:
        """Add `rows [n, *row]`; the oldest are dropped."""
        capacity = len(self._rows)
        self.end += len(rows)
        rows = rows[-capacity:]
        at = (self.end - len(rows)) % capacity
        first = min(len(rows), capacity - at)
        self._rows[at : at + first] = rows[:first]
        self._rows[: len(rows) - first] = rows[first:]

    def read(self, begin: int, end: int) -> NDArray[np.generic]:
        """Return a copy of rows `[begin, end)`.

        Raises LookupError where some are gone or still to come.
        """
        if not self.begin <= begin <= end <= self.end:
            raise LookupError(
                f"rows {begin} to {end} were asked for; {self.begin} to {self.end} are kept"
            )
        capacity = len(self._rows)
        at = begin % capacity
        first = min(end - begin, capacity - at)
        return np.concatenate([self._rows[at : at + first], self._rows[: end - begin - first]])

    def restart(self, at: int) -> None:
        """Forget everything; the next row has index `at`."""
        self.end = at
        self._begin = at

"""How often a word wakes by mistake at a threshold, as its operating points tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kwsd.metrics import rate_between
from kwsd.protocol.data import OperatingPoint, RateInfo


def rate_at(
    points: Sequence[OperatingPoint], threshold: float, asked: float | None = None
) -> RateInfo | None:
    """Return how often a word with these operating points wakes by mistake at `threshold`.

    Where nobody says which rate was `asked` for, it is that of the point which has this threshold.
    None where they do not tell.
    """

    def between(rates: Iterable[float | None]) -> float | None:
        measured = [
            (point.threshold, rate) for point, rate in zip(points, rates, strict=True) if rate
        ]
        found = rate_between(measured, threshold)
        return None if found is None else round(found, 6)

    held = between(point.false_accepts_per_hour for point in points)
    if held is None:
        return None
    if asked is None:
        of_points = {point.threshold: point.false_accepts_per_hour for point in points}
        asked = of_points.get(threshold)
    low, high = between(one.low for one in points), between(one.high for one in points)
    return RateInfo(asked, held, low, high)

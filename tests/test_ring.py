"""The ring: indexing of the look-back, for any way of filling it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsd.audio.ring import Ring


@given(capacity=st.integers(1, 40), sizes=st.lists(st.integers(0, 60), max_size=20), data=st.data())
def test_keeps_the_last_rows_under_their_absolute_indices(
    capacity: int, sizes: list[int], data: st.DataObject
) -> None:
    ring = Ring(capacity, np.int64)
    stream = np.arange(sum(sizes))
    at = 0
    for size in sizes:
        ring.append(stream[at : at + size])
        at += size
        assert (ring.begin, ring.end) == (max(at - capacity, 0), at)
        begin = data.draw(st.integers(ring.begin, ring.end))
        end = data.draw(st.integers(begin, ring.end))
        assert np.array_equal(ring.read(begin, end), stream[begin:end])


@pytest.mark.parametrize(("begin", "end"), [(0, 3), (5, 11), (8, 7), (-1, 4)])
def test_says_what_is_kept_when_asked_for_more(begin: int, end: int) -> None:
    ring = Ring(8, np.int16)
    ring.append(np.zeros(10, np.int16))
    with pytest.raises(LookupError, match="2 to 10 are kept"):
        ring.read(begin, end)


def test_a_restart_moves_the_index_and_forgets() -> None:
    ring = Ring(8, np.int16, (2,))
    ring.append(np.ones((5, 2), np.int16))
    ring.restart(100)
    ring.append(np.full((3, 2), 7, np.int16))
    assert (ring.begin, ring.end) == (100, 103)
    assert (ring.read(100, 103) == 7).all()

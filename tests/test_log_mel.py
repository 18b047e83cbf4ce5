"""The front end against the speech embedding's own graph (golden), and its promises."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsd.model.bundle import Bundle

GOLDEN = Path(__file__).parent / "golden" / "front_end.npz"


def golden_signal() -> np.ndarray:
    """Return two seconds: a sweep, hiss, and silence, int16."""
    t = np.arange(32000) / 16000
    x = 8000 * np.sin(2 * np.pi * (100 * t + 900 * t**2)) + np.random.default_rng(1).normal(
        0, 50, 32000
    )
    x[24000:28000] = 0
    return x.astype(np.int16)


def test_equals_the_original_graph_above_its_floor(bundle: Bundle) -> None:
    # Golden: melspectrogram.tflite on this signal, in decibels, without the share of its floor;
    # `kwsd.training.tflite.run` made it.
    expected = np.load(GOLDEN)["decibel"]
    front = bundle.front_end
    samples = golden_signal()[56 : 56 + front.history_samples + 160 * len(expected)]
    got = (front(samples) - front.offset) / front.scale
    above = expected > max(expected.max() - 79, front.floor_db + 0.1)
    assert above.mean() > 0.5
    assert np.abs(got - expected)[above].max() < 1e-3
    assert got.min() == pytest.approx(front.floor_db, abs=1e-3)


@given(cut=st.integers(1, 60))
def test_frames_do_not_depend_on_the_chunking(bundle: Bundle, cut: int) -> None:
    front = bundle.front_end
    x = golden_signal()[: 240 + 160 * 61]
    whole = front(x)
    two = np.concatenate([front(x[: 240 + 160 * cut]), front(x[160 * cut :])])
    assert np.abs(whole - two).max() < 1e-4


def test_refuses_a_length_that_is_not_whole_hops(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="whole hops of 160"):
        bundle.front_end(np.zeros(401))

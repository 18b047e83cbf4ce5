"""A calibration is stored, changed and undone; a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kwsd.protocol.data import SpeakerThreshold, WordThreshold
from kwsd.protocol.parsing import InvalidRequest, parse_request
from kwsd.state.calibration import Calibration, CalibrationError, CalibrationStore


def test_stored_changed_and_undone(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path, "e")
    one = WordThreshold(0.7, "m", 0.1, 3.0, 1)
    first = store.current().changed({"w": one}, None)
    store.save(first)
    store.save(store.current().changed({"v": one}, SpeakerThreshold(0.4, 0.01, 2)))
    stored = store.current()
    assert stored.threshold("w", "m") == 0.7
    assert stored.threshold("w", "another") is None
    assert stored.threshold("x", "m") is None
    assert stored.speaker == SpeakerThreshold(0.4, 0.01, 2)
    assert stored.undone() == first
    assert stored.undone().undone() == Calibration("e")
    with pytest.raises(CalibrationError, match="no calibration to undo"):
        Calibration("e").undone()
    with pytest.raises(CalibrationError, match="run `kwsd calibrate` again"):
        CalibrationStore(tmp_path, "another").current()
    (tmp_path / "room.calibration").write_text("{")
    with pytest.raises(CalibrationError, match="damaged"):
        store.current()


ONE = {"threshold": 0.7, "model": "m", "rate": 0.1, "hours": 3.0, "time": 1}


@pytest.mark.parametrize(
    "words", [{"w": {"threshold": 0.5}}, {"w": {**ONE, "threshold": 0.0}}, {"w": 1}]
)
def test_thresholds_that_are_none_are_refused(tmp_path: Path, words: dict[str, object]) -> None:
    request = {"type": "calibration.put", "words": words}
    answer = parse_request(msgspec.json.encode(request))
    assert isinstance(answer, InvalidRequest)
    assert answer.code == "bad_request"
    file = {"format": 1, "encoder_id": "e", "words": words, "speaker": None, "earlier": []}
    (tmp_path / "room.calibration").write_bytes(msgspec.json.encode(file))
    with pytest.raises(CalibrationError, match="damaged"):
        CalibrationStore(tmp_path, "e").current()

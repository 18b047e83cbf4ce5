"""The peak log is written line by line, and read back whatever was cut off."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from kwsd.protocol.data import Peak, WordPeaks
from kwsd.state import peak_log
from kwsd.state.peak_log import PeakLog, highest


def test_stored_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = PeakLog(tmp_path / "state")
    assert log.read() == {}
    peaks = [Peak(1000.0, 0.5, True, 0.3125), Peak(1001.5, 0.1, False)]
    first = {"a": WordPeaks("m1", 600.0, peaks)}
    monkeypatch.setattr("kwsd.state.peak_log.time.time", lambda: 5000.0)
    log.append(first)
    with log.path.open("ab") as cut_off:
        cut_off.write(b'{"written": 5100, "wor')
    monkeypatch.setattr("kwsd.state.peak_log.time.time", lambda: 5600.0)
    log.append({"a": WordPeaks("m2", 300.0, [])})
    assert log.read() == {"a": [*first.values(), WordPeaks("m2", 300.0, [])]}
    assert log.read(since=5000.0) == {"a": [WordPeaks("m2", 300.0, [])]}
    assert log.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "words",
    [
        '{"a": ["m", 1e-320, []]}',
        '{"a": ["m", -1, []]}',
        '{"a": ["m", 1e300, []]}',
        '{"a": ["m", "nan", []]}',
        '{"a": ["m", 60, [[1, "nan", true]]]}',
        '{"a": ["m", 60, [[1, 2, true]]]}',
        '{"a": ["m", 60, [["inf", 0.5, true]]]}',
    ],
)
def test_a_line_with_numbers_that_cannot_be_is_skipped_and_named(
    tmp_path: Path, words: str
) -> None:
    log = PeakLog(tmp_path)
    log.append({"a": WordPeaks("m", 60.0, [])})
    with log.path.open("a") as out:
        out.write(f'{{"written": 5100, "words": {words}}}\n')
    found, faults = log.read_all()
    (((ended, stretch),),) = found.values()
    assert ended == pytest.approx(time.time(), abs=60)
    assert stretch == WordPeaks("m", 60.0, [])
    (fault,) = faults
    assert str(fault).startswith(f"{log.path}: 1 of its lines are damaged, and are left out")


def test_it_forgets_its_older_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_log, "MAX_BYTES", 4000)
    log = PeakLog(tmp_path)
    for n in range(300):
        log.append({"a": WordPeaks(str(n), 600.0, [])})
    kept = [int(one.model) for one in log.read()["a"]]
    assert kept == list(range(kept[0], 300))
    assert log.path.stat().st_size < 5000


def test_messages_carry_the_highest() -> None:
    stretches = [
        WordPeaks("m", 10.0, [Peak(1.0, 0.2, False), Peak(2.0, 0.9, True)]),
        WordPeaks("m", 20.0, [Peak(3.0, 0.5, False)]),
    ]
    line = msgspec.json.encode(highest(stretches, 10))
    assert msgspec.json.decode(line, type=list[WordPeaks]) == stretches
    shorter = [WordPeaks("m", 10.0, [Peak(2.0, 0.9, True)]), stretches[1]]
    line = msgspec.json.encode(highest(stretches, 2))
    assert msgspec.json.decode(line, type=list[WordPeaks]) == shorter

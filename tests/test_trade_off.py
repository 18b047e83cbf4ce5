"""What thresholds would do to a word, by a log and clips of a state directory made by the test."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import hiss

from kwsd.config import ClipsConfig, Config, WordConfig
from kwsd.learn.thresholds import choose, evidence
from kwsd.model.bundle import Bundle
from kwsd.protocol.calibration import TradeOffReply
from kwsd.protocol.commands import (
    CalibrationPut,
    CalibrationTradeOff,
    CalibrationUndo,
    GetCalibration,
    Peaks,
)
from kwsd.protocol.data import Clip, ClipLabel, JudgedPeak, Peak, WordPeaks, WordThreshold
from kwsd.protocol.errors import RequestError
from kwsd.server import calibration_handlers
from kwsd.server.state_handlers import StateHandlers
from kwsd.state.clips import ClipStore
from kwsd.state.words import AddedWord, to_bytes

DAY = 86_400
MONDAY = 1_780_000_000
"""When the first day begins."""
WORD = "computer"


@pytest.fixture
def handlers(tmp_path: Path, bundle: Bundle) -> StateHandlers:
    return StateHandlers(tmp_path, bundle, lambda: Config(words={WORD: WordConfig()}))


def logged(handlers: StateHandlers, ended: float, stretch: WordPeaks, word: str = WORD) -> None:
    """Add a stretch that ended at a time to the log."""
    line = {"written": ended, "words": {word: msgspec.to_builtins(stretch)}}
    path = handlers.calibration.log.path
    with path.open("a") as out:
        out.write(json.dumps(line) + "\n")


def clip(handlers: StateHandlers, model: str, at: float, peak: float, label: ClipLabel) -> None:
    """Keep a labeled clip whose word ends at a time."""
    one = Clip(
        id="",
        word=WORD,
        model=model,
        kind="wake",
        time=at,
        score=0.5,
        peak=peak,
        threshold=0.5,
        start=0,
        end=8000,
        label=label,
    )
    unlimited = ClipsConfig(max_age_days=3650)
    ClipStore(handlers.folder, lambda: unlimited).add(one, hiss(0.5))


def asked(handlers: StateHandlers, **fields: object) -> TradeOffReply:
    """Return the trade-off of the word."""
    return handlers.request(CalibrationTradeOff(word=WORD, **fields))  # type: ignore[arg-type]


def test_a_log_with_labels_by_day(handlers: StateHandlers, bundle: Bundle) -> None:
    model = bundle.words[WORD].id
    noon = MONDAY + DAY // 2
    monday = [
        Peak(noon, 0.9, True, 0.8),
        Peak(noon + 100, 0.6, True, 0.6),
        Peak(noon + 200, 0.3, False),
        Peak(noon + 300, 0.04, False),
    ]
    logged(handlers, noon + 600, WordPeaks(model, 600.0, monday))
    over_midnight = [Peak(MONDAY + DAY - 10, 0.7, False), Peak(MONDAY + DAY + 10, 0.2, True, 0.2)]
    logged(handlers, MONDAY + DAY + 150, WordPeaks(model, 600.0, over_midnight))
    logged(handlers, MONDAY + DAY + 900, WordPeaks("another", 1800.0, [Peak(noon, 0.99, True)]))
    logged(handlers, MONDAY + DAY + 900, WordPeaks(model, 600.0, []), "jarvis")
    clip(handlers, model, noon + 0.5, 0.9, "right")
    clip(handlers, model, noon + 199.5, 0.3, "wrong")
    clip(handlers, "another", noon + 5000, 0.8, "right")
    found = asked(handlers, days=[MONDAY, MONDAY + DAY, MONDAY + 2 * DAY], rates=[1 / 24])
    assert (found.word, found.in_force.model, found.logs) == (WORD, model, True)
    assert found.hours == pytest.approx(1200 / 3600)
    assert found.other_hours == pytest.approx(0.5)
    assert found.assumed_right == 2, "of the three wakes one is labeled right"
    assert (found.right, found.wrong) == ([0.9], [0.3])
    first, second, third = found.days
    assert [day.start for day in found.days] == [MONDAY, MONDAY + DAY, MONDAY + 2 * DAY]
    assert first.hours == pytest.approx((600 + 450) / 3600)
    assert [second.hours, third.hours] == pytest.approx([150 / 3600, 0.0])
    assert (first.woke, second.woke, third.woke) == (2, 1, 0)
    assert first.peaks == [
        JudgedPeak(0.9, True, True),
        JudgedPeak(0.6, True, None),
        JudgedPeak(0.3, False, False),
        JudgedPeak(0.7, False, None),
    ]
    assert (second.peaks, third.peaks) == ([JudgedPeak(0.2, True, None)], [])
    seen = {row.threshold: row.seen for row in found.trade_off}
    assert list(seen) == sorted(seen)
    assert seen[0.05] == 2, "labeled wrong, or without a label and no wake"
    assert next(count for at, count in seen.items() if at > 0.3) == 1
    assert next(count for at, count in seen.items() if at > 0.7) == 0
    (choice,) = found.choices
    present = found.in_force.threshold
    assert {present, choice.threshold, 0.999} <= set(seen)
    peaks = handlers.request(Peaks())
    current = [one for one in peaks.words[WORD] if one.model == model]
    same = evidence(current, peaks.labels, nobody_spoke=False)
    assert choice == choose(same, 1 / 24, present), "as `kwsd calibrate --log` chooses"
    assert found.takes is None
    assert found.operating_points == list(bundle.words[WORD].operating_points)
    row = next(row for row in found.trade_off if row.threshold == present)
    assert row.missed == bundle.words[WORD].missed(present)
    assert row.rate is not None
    assert found.in_force.rate is not None
    assert row.rate.held == found.in_force.rate.held
    later = asked(handlers, since=noon + 3600)
    assert later.hours == pytest.approx(600 / 3600)
    assert later.days == []


def test_without_a_log_the_model_tells(handlers: StateHandlers) -> None:
    found = asked(handlers, rates=[1 / 24], days=[MONDAY])
    assert (found.hours, found.choices, found.right) == (0.0, [], [])
    assert [(day.hours, day.woke, day.peaks) for day in found.days] == [(0.0, 0, [])]
    assert {row.bounds for row in found.trade_off} == {(0.0, 3600.0)}
    held = [row.rate.held for row in found.trade_off if row.rate]
    assert len(held) == len(found.trade_off)
    assert held == sorted(held, reverse=True)
    missed = [row.missed for row in found.trade_off if row.missed]
    assert missed == sorted(missed)


def test_an_added_word_counts_its_takes(
    tmp_path: Path, bundle: Bundle, deaf_banana: AddedWord
) -> None:
    scores = np.array([[0.9, 0.8], [0.7, 0.2], [0.4, 0.1]], np.float32)
    (tmp_path / "hey_banana.word").write_bytes(to_bytes(replace(deaf_banana, scores=scores)))
    handlers = StateHandlers(tmp_path, bundle, Config)
    found = handlers.request(CalibrationTradeOff(word="hey banana"))
    assert (found.word, found.takes) == ("hey_banana", 3)
    row = next(row for row in found.trade_off if row.threshold == 0.5)
    assert row.missed == pytest.approx((1 / 3, 2 / 3))
    assert (row.rate, found.operating_points) == (None, [])


def test_too_many_peaks_leave_days_out(
    handlers: StateHandlers, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_handlers, "MAX_OF_DAYS", 5)
    model = bundle.words[WORD].id
    starts = [MONDAY + n * DAY for n in range(4)]
    for start in starts:
        peaks = [Peak(start + n, 0.5, False) for n in range(2)]
        logged(handlers, start + 600, WordPeaks(model, 600.0, peaks))
    assert [day.start for day in asked(handlers, days=starts).days] == starts[2:]
    peaks = [Peak(starts[3] + n, 0.5, False) for n in range(9)]
    logged(handlers, starts[3] + 1200, WordPeaks(model, 600.0, peaks))
    (last,) = asked(handlers, days=starts).days
    assert len(last.peaks) == 11, "the last day is whole"


def test_what_cannot_be_asked(handlers: StateHandlers) -> None:
    for fields, code, why in (
        ({"word": "jarvis"}, "unknown_word", "'jarvis' is not listened for; the words are comp"),
        ({"word": WORD, "days": [2.0, 1.0]}, "bad_request", "days must rise"),
    ):
        with pytest.raises(RequestError, match=why) as refused:
            handlers.request(CalibrationTradeOff(**fields))
        assert refused.value.code == code
    handlers.calibration.log.path.mkdir(parents=True)
    with pytest.raises(RequestError, match="remove it") as refused:
        asked(handlers)
    assert refused.value.code == "bad_log"


def test_a_threshold_that_a_person_sets_has_no_wanted_rate(handlers: StateHandlers) -> None:
    before = handlers.request(GetCalibration()).words[WORD]
    own = WordThreshold(0.7777, before.model, None, 3.0, MONDAY)
    handlers.request(CalibrationPut(words={WORD: own}))
    now = handlers.request(GetCalibration())
    assert (now.words[WORD].threshold, now.words[WORD].origin) == (0.7777, "calibrated")
    rate = now.words[WORD].rate
    assert rate is not None
    assert rate.asked is None
    assert now.earlier == 1
    handlers.request(CalibrationUndo())
    assert handlers.request(GetCalibration()).words[WORD] == before

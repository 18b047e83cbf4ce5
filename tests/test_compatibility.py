"""A state directory of kwsd 0.1.0 is still read: `golden/state-0.1.0` and what 0.1.0 found in it.
But for its added word, which has nothing for the second stage, and is refused with what to do.

The takes of the word and the audio of the clips are cut short; all else is as 0.1.0 wrote it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kwsd.config import ClipsConfig, Config
from kwsd.model.bundle import Bundle
from kwsd.protocol.commands import Clips, Peaks, Speakers, Words
from kwsd.server.state_handlers import StateHandlers
from kwsd.state.calibration import CalibrationStore
from kwsd.state.clips import ClipStore
from kwsd.state.library import Library
from kwsd.state.peak_log import PeakLog
from kwsd.state.voiceprints import VoiceprintError, VoiceprintStore
from kwsd.state.words import WordError, WordStore

FOLDER = Path(__file__).parent / "golden" / "state-0.1.0"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
ENCODER: str = EXPECTED["encoder_id"]


def plain(value: object) -> Any:
    """Return structs as JSON has them."""
    return json.loads(msgspec.json.encode(value))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A copy of the state directory."""
    return Path(shutil.copytree(FOLDER, tmp_path / "state"))


def test_everything_else_is_loaded(state: Path) -> None:
    library, faults = Library.load(state, ENCODER)
    assert [str(state / "hey_banana.word") in str(fault) for fault in faults] == [True]
    assert list(library.voiceprints) == ["ann"]
    assert list(library.words) == []
    assert library.why_unusable("hey_banana") is faults[0]
    assert library.calibration is not None
    assert set(library.calibration.words) == {"computer", "hey_banana"}


def test_the_voiceprint(state: Path) -> None:
    expected = EXPECTED["voiceprint"]
    found = VoiceprintStore(state, ENCODER).load("ann")
    assert (found.name, found.encoder_id) == (expected["name"], ENCODER)
    assert found.created == expected["created"]
    assert list(found.takes.shape) == expected["takes"]
    assert found.takes[0, :3].tolist() == expected["first"]
    assert found.mean[:3] == pytest.approx(expected["mean"])


def test_the_word_is_refused_with_what_makes_it_again(state: Path) -> None:
    with pytest.raises(WordError) as caught:
        WordStore(state, ENCODER).load("hey_banana")
    assert "word format 2, this kwsd reads 3; make it again from recordings" in str(caught.value)
    assert "`kwsd word add 'hey banana' …`" in str(caught.value)
    assert "`kwsd word rebuild 'hey banana'`" in str(caught.value)
    assert "`kwsd word add 'hey banana' --from-clips`" in str(caught.value)


def test_the_calibration_and_its_history(state: Path) -> None:
    raw = json.loads((state / "room.calibration").read_text())
    found = CalibrationStore(state, ENCODER).current()
    assert plain(found.words) == raw["words"]
    assert plain(found.speaker) == raw["speaker"]
    assert plain(found.earlier) == raw["earlier"]
    assert found.undone().undone().thresholds() == found.earlier[0]
    assert found.undone().speaker is None
    assert found.undone().undone().words == {}


def test_the_clips_with_their_audio_and_labels(state: Path) -> None:
    store = ClipStore(state, ClipsConfig)
    found = store.listed()
    files = sorted((state / "clips").glob("*.json"))
    raw = [json.loads(file.read_text()) for file in files]
    assert raw[1]["speaker"]["verified"] is False
    raw[1]["speaker"]["name"] = None  # 0.1.0 gave strangers the name of the nearest
    assert [plain(one) for one in found] == [{**one, "peak": None} for one in raw]
    assert found[0].speaker is not None
    assert found[0].speaker.name == "ann"
    samples = store.samples(found[0])
    assert samples[:3].tolist() == EXPECTED["samples"]
    assert [msgspec.structs.asdict(label) for label in store.labels()] == EXPECTED["labels"]


def test_the_log_of_peaks(state: Path) -> None:
    raw = json.loads((state / "peaks.jsonl").read_text())
    found = PeakLog(state).read()
    assert set(found) == set(raw["words"])
    for name, (model, seconds, peaks) in raw["words"].items():
        (stretch,) = found[name]
        assert (stretch.model, stretch.seconds) == (model, seconds)
        assert [(p.time, p.peak, p.woke, p.score) for p in stretch.peaks] == [
            (time, peak, bool(woke), None) for time, peak, woke in peaks
        ]
        assert all(isinstance(peak.woke, bool) for peak in stretch.peaks)


def test_all_of_it_is_answered_as_before(state: Path, bundle: Bundle) -> None:
    if bundle.encoder_id != ENCODER:
        pytest.skip("the bundle has another encoder than the golden files")
    handlers = StateHandlers(state, bundle, Config)
    assert [one.name for one in handlers.request(Speakers()).speakers] == ["ann"]
    words = handlers.request(Words())
    assert words.words == []
    assert ["word format 2" in why for why in words.unusable] == [True]
    assert len(handlers.request(Clips()).clips) == 3
    assert set(handlers.request(Peaks()).words) == {"computer", "hey_banana"}


def test_files_of_another_encoder_are_refused_with_what_to_do(state: Path) -> None:
    with pytest.raises(VoiceprintError, match=r"this model is other; run `kwsd enroll ann` again"):
        VoiceprintStore(state, "other").load("ann")

"""Words that users add: made of takes, heard by the very detector, kept in one small file, refused by name where they do not fit."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import PHRASE, RATE, VOICES, Start, hiss, say

from kwsd.cli import main as cli
from kwsd.client import words as wording
from kwsd.config import Config, ConfigError, Vad, Word
from kwsd.detect.detector import Detector, Trace
from kwsd.learn.few_shot import LATE, Negatives, WordTrainer
from kwsd.learn.takes import TakeRejected
from kwsd.metrics import tail_threshold
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import SpeakerEncoder, Student
from kwsd.state.words import REACH, UserWord, WordError, WordStore, about, check_name, from_bytes, to_bytes

UNHEARD = ("en-us+m4", "en-gb+f4", "en-us+f1", "en-gb-x-rp+m2")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("takes")
    for n, voice in enumerate(VOICES):
        soundfile.write(folder / f"{n}.wav", np.concatenate([hiss(0.4), say(PHRASE, voice), hiss(0.4)]), RATE)
    return sorted(map(str, folder.iterdir()))


def hear(word: UserWord, samples: np.ndarray, bundle: Bundle, student: Student, speaker: SpeakerEncoder, cuts: list[int], gated: bool = True) -> np.ndarray:
    """Scores `[chunk]` of `word`, the samples fed in pieces."""
    traces: list[Trace] = []
    config = Config(words={"computer": Word(), word.name: Word()}, vad=Vad(enabled=gated))
    detector = Detector(config, bundle, words={word.name: word}, student=student, speaker=speaker, on_trace=traces.append)
    for part in np.split(samples, cuts):
        detector.feed(part)
    return np.concatenate([t.scores for t in traces])[:, 1]


def test_it_hears_unheard_voices_and_no_other_words(banana: UserWord, bundle: Bundle, student: Student, speaker: SpeakerEncoder) -> None:
    detector = Detector(Config(), bundle, words={banana.name: banana}, student=student, speaker=speaker)
    wakes = []
    for voice in UNHEARD:
        for text in (PHRASE, "computer", "the weather is fine today", "thank you very much"):
            wakes += [(voice, text, w.word) for w in detector.feed(np.concatenate([hiss(1.5), say(text, voice), hiss(1.5)])) if w.reason is None]
    heard = [voice for voice, text, word in wakes if (text, word) == (PHRASE, "hey_banana")]
    assert len(heard) >= 3
    assert not [w for w in wakes if w[2] == "hey_banana" and w[1] != PHRASE]
    assert len([w for w in wakes if w[1:] == ("computer", "computer")]) >= 3  # which goes on as before


def test_online_equals_offline_and_gated_equals_ungated(banana: UserWord, bundle: Bundle, student: Student, speaker: SpeakerEncoder) -> None:
    samples = np.concatenate([say(PHRASE), hiss(6.0), say(PHRASE, "en-us+f3"), hiss(0.3), say("good evening to you"), hiss(5.0), say(PHRASE), hiss(1.0)])
    whole = hear(banana, samples, bundle, student, speaker, [], gated=False)
    rng = np.random.default_rng(3)
    for _ in range(3):
        cuts = sorted(rng.integers(0, len(samples), 60).tolist())
        assert np.abs(hear(banana, samples, bundle, student, speaker, cuts, gated=False) - whole).max() < 1e-4
    gated = hear(banana, samples, bundle, student, speaker, [])
    assert (gated == 0).mean() > 0.1
    open_ = gated > 0
    assert np.abs(gated[open_] - whole[open_]).max() < 1e-4
    assert gated.max() == pytest.approx(whole.max(), abs=1e-4)


def test_logits_by_hand() -> None:
    weights = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    word = UserWord("w", "e", (0, 3), weights, 0.5, 0.5, 0.6, (), np.zeros((0, 2)), {})
    high = np.arange(2 * (REACH + 3), dtype=np.float32).reshape(-1, 2)
    # The present frame's first number, twice the second number of the frame three before, and the bias.
    assert word.logits(high).tolist() == [high[k, 0] + 2 * high[k - 3, 1] + 0.5 for k in range(REACH, REACH + 3)]


def test_regression_by_hand(trainer: WordTrainer) -> None:
    """One feature, positives at 1 and negatives at -1: the gradient of the penalised loss vanishes at the answer."""
    weights, bias = trainer._regress(np.ones((40, 1)), -np.ones((40, 1)))
    p = 1 / (1 + np.exp(-(weights[0] + bias)))
    assert 2 * 40 * (1 - p) == pytest.approx(20 * weights[0], rel=1e-3)
    assert bias == pytest.approx(0, abs=1e-3)


def test_the_tail_continues_an_exponential() -> None:
    """Logits of exponential excesses over 0 with mean 0.5: 30 an hour over 0 are e^2 times fewer over 1."""
    logits = -0.5 * np.log((np.arange(30) + 0.5) / 30)
    peaks = 1 / (1 + np.exp(-np.sort(logits)[::-1]))
    threshold = tail_threshold(peaks, 1.0, 30 / np.e**2)
    assert np.log(threshold / (1 - threshold)) == pytest.approx(1.0, abs=0.1)
    assert tail_threshold(peaks, 1.0, 0.1) > tail_threshold(peaks, 1.0, 1.0)


def test_what_holds_the_word_is_not_held_against_it() -> None:
    bank = Negatives(np.zeros((60, 2), np.float32), np.array([0, 20, 40]), ("yellow banana", "", "apple"))
    assert np.flatnonzero(bank.usable("hey_banana")).tolist() == [*range(20 + REACH, 40), *range(40 + REACH, 60)]
    assert np.flatnonzero(bank.usable("pear")).tolist() == [*range(REACH, 20), *range(20 + REACH, 40), *range(40 + REACH, 60)]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (hiss(1.0), "silent"),
        (np.zeros(0, np.int16), "holds no samples"),
        (say("hey banana what will the weather be like in the afternoon"), "say it alone"),
        (np.clip(say(PHRASE).astype(int) * 60, -32768, 32767).astype(np.int16), "clipped"),
        (hiss(7.0, 300), "at most 6 s"),
    ],
)
def test_takes_that_cannot_be_used(trainer: WordTrainer, samples: np.ndarray, message: str) -> None:
    with pytest.raises(TakeRejected, match=message):
        trainer.take(samples)


def test_another_word_among_the_takes_is_told(trainer: WordTrainer) -> None:
    takes = [trainer.take(say(PHRASE, voice)) for voice in VOICES[:5]]
    assert takes[0].frames.shape[1] == REACH + LATE
    _, quality = trainer.make(PHRASE, [*takes, trainer.take(say("smart mirror"))])
    assert 5 in quality.odd
    assert any("take 6 hardly resembles" in w for w in quality.warnings)
    assert not quality.voices
    _, quality = trainer.make(PHRASE, [replace(take, voice=np.eye(5)[n]) for n, take in enumerate(takes)])
    assert any("sound like several people" in w for w in quality.warnings)
    _, quality = trainer.make("dear computer", [trainer.take(say("computer", voice)) for voice in VOICES[:3]])
    assert "computer" in quality.alike
    with pytest.raises(WordError, match=r"2 take\(s\) can be used; at least 3"):
        trainer.make(PHRASE, takes[:2])


def test_kept_and_read_again(tmp_path: Path, banana: UserWord) -> None:
    store = WordStore(tmp_path, banana.encoder_id)
    store.save(banana)
    again = store.load("hey_banana")
    assert about(again) == about(banana)
    assert (again.weights == banana.weights).all()
    assert (tmp_path / "hey_banana.word").stat().st_mode & 0o777 == 0o600
    (tmp_path / "bad.word").write_bytes(b"no word")
    good, bad = store.load_all()
    assert list(good) == ["hey_banana"]
    assert "bad.word: damaged" in str(bad[0])
    with pytest.raises(WordError, match=r"made for the encoder .*add 'hey_banana' again"):
        WordStore(tmp_path, "another").load("hey_banana")
    with pytest.raises(WordError, match="do not fit together"):
        from_bytes(to_bytes(replace(banana, offsets=(0, 99))), banana.encoder_id, "it")
    for name in ("a/b", "..", "", ".x"):
        with pytest.raises(WordError, match="cannot be a word's name"):
            check_name(name)


def test_a_word_in_the_configuration_must_be_there(banana: UserWord, bundle: Bundle, student: Student, speaker: SpeakerEncoder) -> None:
    config = Config(words={"hey_banana": Word(threshold=0.9)})
    with pytest.raises(ConfigError, match="no model of 'hey_banana'"):
        Detector(config, bundle, student=student, speaker=speaker)
    assert Detector(config, bundle, words={"hey_banana": banana}, student=student, speaker=speaker).triggers["hey_banana"].threshold == 0.9
    without = Detector(Config(added_words=False), bundle, words={"hey_banana": banana}, student=student, speaker=speaker)
    assert list(without.triggers) == ["computer"]


def test_the_verbs_on_a_state_directory(tmp_path: Path, recordings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", str(tmp_path / "state")]
    assert cli.main(["word", "add", PHRASE, *state, "--wav", *recordings]) == cli.DATA
    assert "--yes says so" in capsys.readouterr().err
    assert cli.main(["word", "add", PHRASE, *state, "--yes", "--wav", *recordings, str(tmp_path / "nothing.wav")]) == 0
    said = capsys.readouterr()
    assert "nothing.wav: no such file" in said.err
    assert "6 takes" in said.err
    assert cli.main(["word", "add", PHRASE, *state, "--yes", "--wav", *recordings]) == cli.DATA
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["word", "add", "computer", *state, "--yes", "--wav", *recordings]) == cli.DATA
    assert "comes with kwsd" in capsys.readouterr().err
    assert cli.main(["word", "list", *state, "--json"]) == 0
    assert [w["name"] for w in json.loads(capsys.readouterr().out)["words"]] == ["hey_banana"]
    assert cli.main(["word", "test", PHRASE, *state, "--json", recordings[0]]) == 0
    assert json.loads(capsys.readouterr().out)["wakes"]
    assert cli.main(["detect", *state, "--words", "hey banana", recordings[0]]) == 0
    assert '"word": "hey_banana"' in capsys.readouterr().out
    assert cli.main(["word", "export", PHRASE, *state, str(tmp_path / "out.word")]) == 0
    assert cli.main(["word", "remove", PHRASE, *state]) == 0
    assert cli.main(["word", "remove", PHRASE, *state]) == cli.DATA
    assert "no word is called" in capsys.readouterr().err
    assert cli.main(["word", "import", *state, str(tmp_path / "out.word")]) == 0
    assert cli.main(["word", "import", *state, recordings[0]]) == cli.DATA
    assert "no word of kwsd" in capsys.readouterr().err


def test_of_text_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    state = ["--state", str(tmp_path / "state")]
    assert cli.main(["word", "add", PHRASE, *state, "--text-only", "--yes"]) == 0
    assert "made of synthetic voices alone" in capsys.readouterr().err
    soundfile.write(tmp_path / "take.wav", np.concatenate([say(PHRASE, "en-gb+f4"), hiss(0.5)]), RATE)
    assert cli.main(["word", "test", PHRASE, *state, "--json", str(tmp_path / "take.wav")]) == 0
    assert json.loads(capsys.readouterr().out)["wakes"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["word", "add", "other words", *state, "--text-only", "--yes"]) == cli.UNAVAILABLE
    assert "apt install espeak-ng" in capsys.readouterr().err


def test_the_running_daemon_takes_it_up(start: Start, tmp_path: Path, banana: UserWord, endless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hey_banana.word").write_bytes(to_bytes(banana))
    config = tmp_path / "kwsd.yaml"
    config.write_text("words: {computer: }")
    daemon = start("--source", str(endless), "--realtime", "--config", str(config))
    socket = ["--socket", str(daemon.socket)]
    with daemon.connect() as client:
        before = client.request("status")
        config.write_text("wrods: {computer: }")  # a word is taken up all the same
        assert cli.main(["word", "import", *socket, str(tmp_path / "hey_banana.word")]) == 0
        after = client.request("status")
        assert set(after["words"]) == {*before["words"], "hey_banana"}
        assert after["audio_s"] >= before["audio_s"]
        client.request("subscribe", words=["hey_banana"])
    shutil.copy(tmp_path / "hey_banana.word", tmp_path / "copy.word")
    assert cli.main(["word", "export", PHRASE, *socket, str(tmp_path / "copy.word")]) == 0
    assert about(from_bytes((tmp_path / "copy.word").read_bytes(), banana.encoder_id, "copy")) == about(banana)
    assert cli.main(["word", "import", *socket, str(tmp_path / "copy.word")]) == cli.DATA
    assert cli.main(["word", "remove", PHRASE, *socket]) == 0
    capsys.readouterr()
    assert cli.main(["word", "list", *socket]) == 0
    assert capsys.readouterr().out == ""
    with daemon.connect() as client:
        assert "hey_banana" not in client.request("status")["words"]


def test_the_rooms_own_audio_is_held_against_it(start: Start, tmp_path: Path, recordings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "room.wav", np.concatenate([hiss(1.0), *[say("good evening to all of you", v) for v in VOICES], hiss(1.0)] * 6), RATE)
    daemon = start("--source", str(tmp_path / "room.wav"), "--realtime")
    with daemon.connect() as client:
        while client.request("status")["audio_s"] < 6:
            time.sleep(0.2)
        span = client.request("status")["look_back"]
        heard = wording.look_back(client)
        assert 4 * RATE < len(heard) <= span["end"] - span["start"] + RATE
        room, _ = soundfile.read(tmp_path / "room.wav", dtype="int16")
        assert any((heard[:RATE] == room[at : at + RATE]).all() for at in range(span["start"], span["start"] + 2 * RATE))
    assert cli.main(["word", "add", PHRASE, "--socket", str(daemon.socket), "--room", "--yes", "--wav", *recordings]) == 0
    said = capsys.readouterr().err
    assert f"{PHRASE.replace(' ', '_')}: 6 takes" in said


def test_recorded_through_the_daemon(start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoken = [part for voice in VOICES[:3] for part in (say(PHRASE, voice), hiss(1.2))]
    soundfile.write(tmp_path / "room.wav", np.concatenate([hiss(1.0), *spoken * 20]), RATE)
    daemon = start("--source", str(tmp_path / "room.wav"), "--realtime")
    daemon.connect().close()
    assert cli.main(["word", "add", PHRASE, "--socket", str(daemon.socket), "--record", "3", "--yes"]) == 0
    said = capsys.readouterr()
    assert "[3/3] Please say “hey banana”." in said.out
    assert said.out.count("good:") == 3
    assert "hey_banana: 3 takes of" in said.err
    with daemon.connect() as client:
        assert "hey_banana" in client.request("status")["words"]
        client.request("subscribe", types=["wake"], words=["hey_banana"])
        assert next(iter(client))["word"] == "hey_banana"
    assert cli.main(["word", "add", "other", "--state", str(tmp_path), "--record", "3"]) == cli.USAGE
    assert "--record and --room need the daemon" in capsys.readouterr().err

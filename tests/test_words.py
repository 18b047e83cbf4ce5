"""`kwsd word`: on a state directory, and through the running daemon."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import soundfile
from conftest import PHRASE, RATE, VOICES, Start, hiss, say

from kwsd.audio import pcm
from kwsd.audio.high_pass import HighPass
from kwsd.cli import main as cli
from kwsd.client import words
from kwsd.client.client import Client
from kwsd.events import Wake
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.takes import TakeRejected
from kwsd.protocol.commands import Status, Subscribe, Takes
from kwsd.protocol.replies import TakeReply
from kwsd.state.words import AddedWord, WordStore, from_bytes, to_bytes


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("takes")
    for n, voice in enumerate(VOICES):
        take = np.concatenate([hiss(0.4), say(PHRASE, voice), hiss(0.4)])
        soundfile.write(folder / f"{n}.wav", take, RATE)
    return sorted(map(str, folder.iterdir()))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_the_verbs_on_a_state_directory(
    tmp_path: Path, recordings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", str(tmp_path / "state")]
    takes = ["--wav", *recordings]
    assert cli.main(["word", "add", PHRASE, *state, *takes]) == cli.DATA
    assert "--yes keeps it without asking" in capsys.readouterr().err
    missing = str(tmp_path / "nothing.wav")
    assert cli.main(["word", "add", PHRASE, *state, "--yes", *takes, missing]) == 0
    captured = capsys.readouterr()
    assert "nothing.wav: no such file" in captured.err
    assert "6 takes" in captured.err
    assert cli.main(["word", "add", PHRASE, *state, "--yes", *takes]) == cli.DATA
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["word", "add", "computer", *state, "--yes", *takes]) == cli.DATA
    assert "comes with kwsd" in capsys.readouterr().err
    assert cli.main(["word", "list", *state, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["words"]
    assert [word["name"] for word in listed] == ["hey_banana"]
    assert cli.main(["word", "test", PHRASE, *state, "--json", recordings[0]]) == 0
    assert json.loads(capsys.readouterr().out)["wakes"]
    assert cli.main(["detect", *state, "--words", "hey banana", recordings[0]]) == 0
    event = json.loads(capsys.readouterr().out.splitlines()[0])
    assert event["word"] == "hey_banana"
    exported = str(tmp_path / "out.word")
    assert cli.main(["word", "export", PHRASE, *state, exported]) == 0
    assert capsys.readouterr().out == f"{PHRASE} is written to {exported}.\n"
    assert cli.main(["word", "remove", "hey_banana", *state]) == 0
    assert capsys.readouterr().out == f"{PHRASE} is removed.\n"
    assert cli.main(["word", "remove", PHRASE, *state]) == cli.DATA
    assert "no word is called" in capsys.readouterr().err
    assert cli.main(["word", "import", *state, exported]) == 0
    assert cli.main(["word", "import", *state, recordings[0]]) == cli.DATA
    assert "not a kwsd word file" in capsys.readouterr().err


class SilentGuide:
    """A person at the microphone; `rejections` are why takes were not accepted."""

    def __init__(self) -> None:
        self.rejections: list[str] = []

    def ask(self, text: str, take: int, takes: int) -> None: ...
    def level(self, dbfs: float) -> None: ...
    def accepted(self, speech_dbfs: float, speech_s: float) -> None: ...
    def rejected(self, why: str) -> None:
        self.rejections.append(why)


class Recorder:
    """A client whose microphone gives these takes, one after the other, and then the last."""

    def __init__(self, *takes: np.ndarray) -> None:
        self._takes = list(takes)

    def request(self, command: object, on_level: object) -> TakeReply:
        take = self._takes.pop(0) if len(self._takes) > 1 else self._takes[0]
        return TakeReply(sample_rate=RATE, pcm=pcm.to_bytes(take))


def test_a_take_is_asked_for_again_and_in_the_end_two_must_do(trainer: WordTrainer) -> None:
    good = [say(PHRASE, voice) for voice in VOICES[:3]]
    guide = SilentGuide()
    client = cast(Client, Recorder(good[0], good[0], hiss(1.0), good[1], good[2]))
    takes = words.from_microphone(trainer, client, PHRASE, 3, guide)
    assert (len(takes.usable), takes.refused) == (3, [])
    assert ["given already" in why for why in guide.rejections] == [True, False]
    client = cast(Client, Recorder(good[0], good[1], hiss(1.0)))
    takes = words.from_microphone(trainer, client, PHRASE, 3, guide)
    assert len(takes.usable) == 2
    assert takes.refused[0].startswith("take 3 and later: the take is silent")
    with pytest.raises(TakeRejected, match="silent"):
        words.from_microphone(trainer, cast(Client, Recorder(good[0], hiss(1.0))), PHRASE, 3, guide)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_from_text_alone(
    trainer: WordTrainer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = ["--state", str(tmp_path / "state")]
    assert cli.main(["word", "add", PHRASE, *state, "--text-only", "--yes"]) == 0
    assert "made from synthetic voices alone" in capsys.readouterr().err
    (file,) = (tmp_path / "state").glob("*.word")
    assert (
        WordStore(file.parent, trainer.bundle.encoder_id).load("hey_banana").made.language == "en"
    )
    take = np.concatenate([say(PHRASE, "en-gb+f4"), hiss(0.5)])
    soundfile.write(tmp_path / "take.wav", take, RATE)
    assert cli.main(["word", "test", PHRASE, *state, "--json", str(tmp_path / "take.wav")]) == 0
    assert json.loads(capsys.readouterr().out)["wakes"]
    monkeypatch.setenv("PATH", str(tmp_path))
    other = ["word", "add", "other words", *state, "--text-only", "--yes"]
    assert cli.main(other) == cli.UNAVAILABLE
    assert "apt install espeak-ng" in capsys.readouterr().err


def test_the_running_daemon_applies_it(
    start: Start,
    tmp_path: Path,
    deaf_banana: AddedWord,
    endless: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "hey_banana.word"
    copy = tmp_path / "copy.word"
    file.write_bytes(to_bytes(deaf_banana))
    config = tmp_path / "kwsd.yaml"
    config.write_text("words: {computer: }")
    daemon = start("--source", str(endless), "--realtime", "--config", str(config))
    socket = ["--socket", str(daemon.socket)]
    with daemon.connect() as client:
        before = client.request(Status())
        config.write_text("wrods: {computer: }")  # a word is added all the same
        assert cli.main(["word", "import", *socket, str(file)]) == 0
        after = client.request(Status())
        assert set(after.words) == {*before.words, "hey_banana"}
        assert after.audio_s >= before.audio_s
        client.request(Subscribe(words=["hey_banana"]))
    shutil.copy(file, copy)
    assert cli.main(["word", "export", PHRASE, *socket, str(copy)]) == 0
    exported = from_bytes(copy.read_bytes(), deaf_banana.encoder_id, "copy")
    assert exported.info() == deaf_banana.info()
    assert cli.main(["word", "import", *socket, str(copy)]) == cli.DATA
    assert cli.main(["word", "remove", PHRASE, *socket]) == 0
    capsys.readouterr()
    assert cli.main(["word", "list", *socket]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "alexa: comes with kwsd, not listened for" in lines
    assert any(line.startswith("computer: comes with kwsd, listened for, thr") for line in lines)
    assert lines[-1] == "no words were added; `kwsd word add` makes one"
    with daemon.connect() as client:
        assert "hey_banana" not in client.request(Status()).words


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_what_the_room_sounds_like_counts_against_it(
    start: Start, tmp_path: Path, recordings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    talk = [say("good evening to all of you", voice) for voice in VOICES]
    room = np.concatenate([hiss(1.0), *talk, hiss(1.0)] * 6)
    soundfile.write(tmp_path / "room.wav", room, RATE)
    daemon = start("--source", str(tmp_path / "room.wav"), "--realtime")
    with daemon.connect() as client:
        while client.request(Status()).audio_s < 6:
            time.sleep(0.2)
        span = client.request(Status()).look_back
        heard = words.look_back(client)
        assert 4 * RATE < len(heard) <= span.end - span.start + RATE
        starts = range(span.start, span.start + 2 * RATE)
        filtered = HighPass().step(room)
        assert any((heard[:RATE] == filtered[at : at + RATE]).all() for at in starts)
    options = ["--socket", str(daemon.socket), "--room", "--yes", "--wav", *recordings]
    assert cli.main(["word", "add", PHRASE, *options]) == 0
    captured = capsys.readouterr().err
    assert f"{PHRASE.replace(' ', '_')}: 6 takes" in captured


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_recorded_through_the_daemon(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    takes = []
    for voice in VOICES[:3]:
        takes += [say(PHRASE, voice), hiss(1.2)]
    soundfile.write(tmp_path / "room.wav", np.concatenate([hiss(1.0), *takes * 20]), RATE)
    daemon = start("--source", str(tmp_path / "room.wav"), "--realtime")
    daemon.connect().close()
    socket = ["--socket", str(daemon.socket)]
    assert cli.main(["word", "add", PHRASE, *socket, "--record", "3", "--yes"]) == 0
    captured = capsys.readouterr()
    assert "[3/3] Please say “hey banana”." in captured.out
    assert captured.out.count("good:") == 3
    assert "hey_banana: 3 takes of" in captured.err
    with daemon.connect() as client:
        assert "hey_banana" in client.request(Status()).words
        kept = client.request(Takes(word=PHRASE)).takes
        assert [take.origin for take in kept] == ["take 1", "take 2", "take 3"]
        event = next(client.events(types=["wake"], words=["hey_banana"]))
        assert isinstance(event, Wake)
        assert event.word == "hey_banana"
    other = ["word", "add", "other", "--state", str(tmp_path), "--record", "3"]
    assert cli.main(other) == cli.USAGE
    assert "--record and --room need the daemon" in capsys.readouterr().err

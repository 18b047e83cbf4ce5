"""Words and voices that a program guides step by step: each step is answered, nothing else kept."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import soundfile
from conftest import PHRASE, RATE, VOICES, Daemon, Start, hiss, say

from kwsd.cli import steps
from kwsd.client.draft import AddTake, Draft, DropTake, GetAudio, KeepWord, MakeWord, TrimTake
from kwsd.config import Config
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.takes import TakeRejected
from kwsd.model.bundle import Bundle
from kwsd.protocol.commands import Speakers, SpeakersHear, Takes, Words
from kwsd.protocol.errors import RequestError
from kwsd.server.state_handlers import StateHandlers
from kwsd.state.words import WordError

NAME = "hey_banana"


def take(voice: str, text: str = PHRASE) -> np.ndarray:
    """Return what the daemon's `take` returns of somebody who says a word."""
    return np.concatenate([hiss(0.3), say(text, voice), hiss(0.4)])


def wav(path: Path, samples: np.ndarray) -> str:
    soundfile.write(path, samples, RATE)
    return str(path)


@pytest.fixture
def state(tmp_path: Path, bundle: Bundle) -> StateHandlers:
    (tmp_path / "state").mkdir()
    return StateHandlers(tmp_path / "state", bundle, Config)


def draft_of(state: StateHandlers, trainer: WordTrainer, name: str, *, is_new: bool) -> Draft:
    return Draft(lambda: contextlib.nullcontext(state), trainer, name, is_new=is_new, channel=0)


def heard(draft: Draft) -> list[str]:
    return [one.name for one in draft.state().takes]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_a_word_is_made_take_by_take_and_changed_later(
    state: StateHandlers, trainer: WordTrainer, tmp_path: Path
) -> None:
    draft = draft_of(state, trainer, "hey banana", is_new=True)
    for voice in VOICES[:2]:
        draft.step(AddTake(audio=take(voice).astype("<i2").tobytes()))
    file = wav(tmp_path / "b.wav", take(VOICES[2]))
    draft.step(AddTake(path=file, name="third.wav"))
    assert heard(draft) == ["take 1", "take 2", "third.wav"]
    first = draft.state().takes[0]
    assert 0.2 < first.start_s < 0.5 < first.end_s < first.length_s
    assert -35 < first.level_dbfs < -10
    found = draft.step(GetAudio(take=first.id))
    assert isinstance(found, dict)
    assert found["audio"] == take(VOICES[0]).astype("<i2").tobytes()

    with pytest.raises(RequestError, match="no take with the id 'none'"):
        draft.step(GetAudio(take="none"))

    before = draft.state()
    for bad, reason in (
        (AddTake(audio=hiss(1.0).tobytes()), "silent"),
        (AddTake(path=file), "repeated"),
        (AddTake(path=file, instead_of=1), "repeated"),
        (AddTake(audio=np.tile(take("en-us"), 9).tobytes()), "take_too_long"),
    ):
        with pytest.raises(TakeRejected) as refused:
            draft.step(bad)
        assert refused.value.reason == reason
    for unknown in (DropTake(number=4), AddTake(path=file, instead_of=4), TrimTake(number=4)):
        with pytest.raises(WordError, match="no take 4; there are 1 to 3"):
            draft.step(unknown)
    with pytest.raises(WordError, match="not made yet"):
        draft.step(KeepWord())
    with pytest.raises(ValueError, match="is not a rate"):
        draft.step(MakeWord(rate="often"))
    assert draft.state() == before

    draft.step(TrimTake(number=2, span=(0.4, 1.0)))
    assert (draft.state().takes[1].start_s, draft.state().takes[1].span) == (0.4, "trimmed")
    draft.step(TrimTake(number=2))
    assert draft.state() == before
    draft.step(AddTake(audio=take(VOICES[3]).astype("<i2").tobytes(), instead_of=2))
    report = draft.step(MakeWord(rate="1/day")).report  # type: ignore[attr-defined]
    assert (report["word"], report["added"], report["quality"]["takes"]) == (NAME, False, 3)
    assert report["quality"]["asked"] == pytest.approx(1 / 24)
    assert state.request(Words()).words == []
    draft.step(DropTake(number=1))
    assert draft.state().report is None, "it was of other takes"
    draft.step(MakeWord())
    assert not draft.is_over
    draft.step(KeepWord())
    assert draft.is_over
    assert [one.origin for one in state.request(Takes(word=NAME)).takes] == ["take 2", "third.wav"]

    with pytest.raises(WordError, match="exists already"):
        draft_of(state, trainer, PHRASE, is_new=True)
    again = draft_of(state, trainer, PHRASE, is_new=False)
    assert heard(again) == ["take 2", "third.wav"]
    again.step(AddTake(audio=take(VOICES[4]).astype("<i2").tobytes()))
    again.step(MakeWord())
    again.step(KeepWord())
    (made,) = state.request(Words()).words
    assert made.made.takes == 3
    with pytest.raises(RequestError, match="no word is called"):
        draft_of(state, trainer, "nothing", is_new=False)


class Counter:
    """Something that counts steps."""

    steps: Any = AddTake | DropTake

    def __init__(self) -> None:
        self.names: list[str] = []

    @property
    def is_over(self) -> bool:
        return len(self.names) == 2

    def state(self) -> list[str]:
        return self.names

    def step(self, step: AddTake | DropTake) -> list[str]:
        if isinstance(step, DropTake):
            raise TakeRejected("silent", "it is silent")
        self.names.append(step.name)
        return self.names


def test_steps_are_lines_of_json_and_each_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "MAX_LINE", 100)
    lines = [
        b'{"do":"take","name":"a"}',
        b'{"do":"drop","number":1}',
        b'{"do":"fly"}',
        b'{"do":"drop","number":0}',
        b"\xff",
        b'{"do":"take","name":"' + b"b" * 99 + b'"}',
        b'{"do":"take","name":"b"}',
        b'{"do":"take","name":"c"}',
    ]
    stdin = io.TextIOWrapper(io.BytesIO(b"\n".join(lines) + b"\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert steps.follow(Counter()) == 0
    first, *answers = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == []
    codes = [one if isinstance(one, list) else one["error"]["code"] for one in answers]
    bad = "bad_request"
    assert codes == [["a"], "silent", bad, bad, bad, "refused", bad, ["a", "b"]]


@pytest.fixture
def daemon(start: Start) -> Daemon:
    daemon = start("--source", "-", stdin=subprocess.PIPE)
    daemon.connect().close()
    return daemon


class Program:
    """A verb that a program guides."""

    def __init__(self, daemon: Daemon, *arguments: str) -> None:
        where = ["--socket", str(daemon.socket)]
        config = str(daemon.state.parent / "kwsd" / "kwsd.yaml")
        self.process = forked.Process(
            ["-m", "kwsd", *arguments, *where, "--config", config],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert self.process.stderr is not None
        assert line, self.process.stderr.read()
        return json.loads(line)

    def ask(self, step: dict[str, object]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(step).encode() + b"\n")
        self.process.stdin.flush()

    def step(self, **step: object) -> Any:
        self.ask(step)
        return self.answer()

    def end(self) -> int:
        self.process.communicate(60)
        assert self.process.returncode is not None
        return self.process.returncode


@contextlib.contextmanager
def speaking(daemon: Daemon, spoken: np.ndarray) -> Iterator[None]:
    """Say something again and again."""
    enough = threading.Event()

    def speak() -> None:
        while not enough.wait(0.3):
            daemon.hear(np.concatenate([hiss(0.5), spoken, hiss(2.0)]))

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def test_a_program_that_goes_away_leaves_nothing(daemon: Daemon) -> None:
    program = Program(daemon, "word", "add", "hey banana", "--steps")
    assert program.answer()["word"] == NAME
    audio = base64.b64encode(take("en-us").astype("<i2").tobytes()).decode()
    assert len(program.step(do="take", audio=audio)["takes"]) == 1
    assert program.end() == 0
    with daemon.connect() as client:
        assert client.request(Words()).words == []
    program = Program(daemon, "word", "add", "b", "--steps", "--rate", "1/day")
    _, error = program.process.communicate(60)
    assert (program.process.returncode, b"the step `make` has the rate" in error) == (64, True)


def test_a_voice_is_enrolled_step_by_step_and_recognized(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.connect() as client, pytest.raises(RequestError, match="nobody is enrolled"):
        client.request(SpeakersHear())
    program = Program(daemon, "enroll", "ann", "--steps")
    begun = program.answer()
    assert (begun["replaces"], begun["ask"]["number"], begun["done"]) == (False, 1, None)
    assert begun["ask"]["text"] == "say “computer”"
    program.ask({"do": "record"})
    with speaking(daemon, say("computer", "en-us+f3")):
        answer = program.answer()
    assert answer["ask"]["number"] == 2
    assert answer["takes"][0]["name"] == "phrase 1"
    junk = tmp_path / "junk.wav"
    junk.write_bytes(b"no sound")
    refused = program.step(do="take", path=str(junk))["error"]
    assert (refused["code"], "not a recording that can be read" in refused["message"]) == (
        "refused",
        True,
    )
    long = wav(tmp_path / "long.wav", np.tile(say("computer"), 60))
    assert "at most 20 s are of use" in program.step(do="take", path=long)["error"]["message"]
    for n, text in enumerate(("the weather is nice today", "please turn on the kitchen light")):
        file = wav(tmp_path / f"{n}.wav", say(text, "en-us+f3"))
        assert len(program.step(do="take", path=file, name=f"file {n}")["takes"]) == n + 2
    done = program.step(do="commit")["done"]
    assert (done["takes"], done["refused"], done["kept"]) == (3, [], True)
    assert program.end() == 0
    with daemon.connect() as client:
        assert [one.name for one in client.request(Speakers()).speakers] == ["ann"]
    again = Program(daemon, "enroll", "ann", "--steps")
    assert again.answer()["replaces"]
    assert again.end() == 0
    for voice, name in (("en-us+f3", "ann"), ("en-gb+m3", None)):
        verb = Program(daemon, "speakers", "test", "--json")
        with speaking(daemon, say("what time is it now", voice)):
            assert verb.answer()["speaker"]["name"] == name
        assert verb.end() == 0

"""One condition, one exit code, whatever the verb, and with a daemon or without; one word, two
spellings."""

from __future__ import annotations

import json
import os
import pty
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import forked
import pytest
import soundfile
from conftest import RATE, Daemon, hiss, say

from kwsd.cli import main as cli
from kwsd.state.words import AddedWord, to_bytes

Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY", "STATE_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path / "own"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a verb; return the exit code, and what it prints on both outputs."""
    names = {"SPEECH": tmp_path / "speech.wav", "OUT": tmp_path / "no" / "out", "DIR": tmp_path}
    soundfile.write(names["SPEECH"], say("it is nice today"), RATE)
    (tmp_path / "junk.word").write_text("junk")
    names["JUNK"] = tmp_path / "junk.word"
    names["MISSING"] = tmp_path / "missing.wav"

    def run(line: str, *more: object) -> tuple[int, str]:
        argv = [str(names.get(word, word)).replace("~", " ") for word in line.split()]
        try:
            status = cli.main([*argv, *map(str, more)])
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, deaf_banana: AddedWord) -> Iterator[Daemon]:
    """A daemon that has the word hey_banana and nobody enrolled."""
    folder = tmp_path_factory.mktemp("daemon")
    soundfile.write(folder / "room.wav", hiss(600), RATE)
    (folder / "state").mkdir()
    (folder / "state" / "hey_banana.word").write_bytes(to_bytes(deaf_banana))
    daemon = Daemon(folder, "--source", str(folder / "room.wav"), "--realtime")
    daemon.connect().close()
    yield daemon
    daemon.kill()


CASES = [
    # A word that nobody knows.
    ("detect --words nope SPEECH", cli.DATA, "'nope'", "state"),
    ("run --words nope --source SPEECH", cli.DATA, "'nope'", "state"),
    ("events --words nope", cli.DATA, "'nope'", "daemon"),
    ("calibrate --words nope --yes --wav SPEECH", cli.DATA, "'nope'", "both"),
    ("enroll ann --word nope", cli.DATA, "'nope'", "daemon"),
    ("word test nope SPEECH", cli.DATA, "'nope'", "both"),
    ("word export nope JUNK", cli.DATA, "'nope'", "both"),
    ("word remove nope", cli.DATA, "'nope'", "both"),
    ("word improve nope --yes", cli.DATA, "'nope'", "both"),
    ("speakers --delete nope", cli.DATA, "'nope'", "both"),
    ("clips play nope", cli.DATA, "'nope'", "both"),
    ("clips label right nope", cli.DATA, "'nope'", "both"),
    ("clips clear nope --yes", cli.DATA, "'nope'", "both"),
    # A name that cannot be one.
    ("enroll ../ann --wav SPEECH", cli.DATA, "cannot be a speaker's name", "both"),
    ("word add ../ann --yes --wav SPEECH", cli.DATA, "cannot be a word's name", "both"),
    ("speakers --delete ../ann", cli.DATA, "cannot be a speaker's name", "both"),
    # Too few takes, and what is no take.
    ("enroll ann --wav SPEECH SPEECH MISSING", cli.DATA, "at least 2 are needed", "both"),
    ("word add new --yes --wav SPEECH SPEECH MISSING", cli.DATA, "at least 2 are needed", "both"),
    # A file that is missing, or another kind of file.
    ("detect MISSING", cli.NO_INPUT, "no such file; check its name and folder", "state"),
    ("run --source MISSING", cli.NO_INPUT, "no such file", "state"),
    ("calibrate --yes --wav MISSING", cli.NO_INPUT, "no such file", "both"),
    ("word test hey_banana MISSING", cli.NO_INPUT, "no such file", "daemon"),
    ("word import MISSING", cli.NO_INPUT, "no such file; check the name; `kwsd word exp", "both"),
    ("word import DIR", cli.DATA, "not a kwsd word file (it is a folder", "both"),
    ("word import JUNK", cli.DATA, "not a kwsd word file", "both"),
    ("word import SPEECH", cli.DATA, "not a kwsd word file", "both"),
    # Results that cannot be written.
    ("word export hey_banana OUT", cli.CANNOT_CREATE, "cannot be written", "daemon"),
    ("embed SPEECH --out OUT", cli.CANNOT_CREATE, "cannot be written", ""),
    ("detect SPEECH --trace OUT", cli.CANNOT_CREATE, "cannot be written", "state"),
    # Nobody to answer.
    ("word add new --wav SPEECH", cli.DATA, "--yes keeps it without asking", "both"),
    ("calibrate --wav SPEECH", cli.DATA, "--yes keeps it without asking", "both"),
    # Arguments.
    ("word add new --record 2", cli.USAGE, "a word needs three takes", "both"),
    ("run --source SPEECH --rate 8000", cli.USAGE, "the file carries its own", "state"),
    ("run --source JUNK --format f32", cli.USAGE, "--format: for raw PCM (--source -)", "state"),
    ("run --source SPEECH --channels 2 --rate 16000", cli.USAGE, "--rate, --channels", "state"),
    ("run --rate 16000", cli.USAGE, "the device carries its own", "state"),
    ("calibrate --undo --plot x.png", cli.USAGE, "--plot draws the trade-off of words", "both"),
    ("calibrate --plot x.jpg --wav SPEECH", cli.DATA, "must end in .png or .svg", "both"),
]


@pytest.mark.parametrize(("line", "status", "message", "where"), CASES, ids=[c[0] for c in CASES])
def test_with_a_daemon_and_without(
    run: Run, daemon: Daemon, tmp_path: Path, line: str, status: int, message: str, where: str
) -> None:
    (tmp_path / "state").mkdir()
    at: dict[str, list[object]] = {
        "daemon": ["--socket", daemon.socket],
        "state": ["--state", tmp_path / "state"],
        "": [],
    }
    for place in [at["daemon"], at["state"]] if where == "both" else [at[where]]:
        got, printed = run(line, *place)
        assert (got, place) == (status, place), printed
        assert message in printed
        assert "Traceback" not in printed


READING = [
    "speakers", "speakers --delete x", "word list", "word remove x", "word export x OUT",
    "word test x SPEECH", "word improve x --yes", "clips list", "clips play x",
    "clips clear --all", "config show", "detect SPEECH",
]  # fmt: skip


@pytest.mark.parametrize("line", READING)
def test_what_only_reads_needs_the_state_directory_that_is_named(
    run: Run, tmp_path: Path, line: str
) -> None:
    missing = tmp_path / "none"
    got, printed = run(line, "--state", missing)
    assert (got, printed.count("\n")) == (cli.NO_INPUT, 1)
    assert printed.startswith(f"kwsd: --state {missing}: no such folder; check the name")
    assert not missing.exists()
    got, printed = run(line, "--state", tmp_path / "junk.word")
    assert (got, "junk.word: not a folder" in printed) == (cli.NO_INPUT, True)


ASKING = [
    "events", "status", "reload", "speakers", "config show", "clips list", "word list",
    "word remove x", "enroll ann", "calibrate --undo", "calibrate --listen 8h",
]  # fmt: skip


@pytest.mark.parametrize("line", ASKING)
def test_no_daemon_and_no_configuration(run: Run, tmp_path: Path, line: str) -> None:
    got, printed = run(line, "--socket", tmp_path / "k.sock")
    assert (got, "no daemon runs there" in printed) == (cli.UNAVAILABLE, True)


@pytest.mark.parametrize("line", ["speakers", "clips list", "config show"])
@pytest.mark.parametrize("option", ["--state", "--config", "--socket"])
def test_a_path_that_is_blank_is_no_default(run: Run, line: str, option: str) -> None:
    got, printed = run(line, option, "")
    assert (got, f"argument {option}: the path is blank" in printed) == (cli.USAGE, True)


@pytest.mark.parametrize(
    "line",
    ["run", "detect SPEECH", "embed SPEECH --out x.npz", "config show", "word list --state DIR"],
)
def test_a_configuration_that_is_missing_or_wrong(run: Run, tmp_path: Path, line: str) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("wrods: 1")
    for path in (wrong, tmp_path / "none.yaml"):
        got, printed = run(line, "--config", path)
        assert got == cli.CONFIGURATION, printed
        assert str(path) in printed


def test_a_word_is_one_word_in_both_spellings(
    run: Run, daemon: Daemon, tmp_path: Path, deaf_banana: AddedWord
) -> None:
    at = ["--socket", daemon.socket]
    state = tmp_path / "state"
    state.mkdir()
    (state / "hey_banana.word").write_bytes(to_bytes(deaf_banana))
    exported = tmp_path / "out.word"
    for spelling in ("hey~banana", "hey_banana", "~hey~~banana~"):
        for line in (
            f"word test {spelling} SPEECH",
            f"word export {spelling} {exported}",
            f"calibrate --wav SPEECH --yes --words {spelling}",
        ):
            assert run(line, *at)[0] == 0, line
            assert run(line, "--state", state)[0] == 0, line
        assert run(f"detect --words {spelling} SPEECH", "--state", state) == (0, "")
        assert "hey banana is removed" in run(f"word remove {spelling}", "--state", state)[1]
        assert run(f"word import {exported}", "--state", state)[0] == 0
        got, printed = run(f"word add {spelling} --yes --wav SPEECH", "--state", state)
        assert (got, "'hey_banana' exists already" in printed) == (cli.DATA, True)
        config = tmp_path / "c.yaml"
        name = spelling.replace("~", " ")
        config.write_text(f'words: {{"{name}": {{threshold: 0.7}}}}')
        got, printed = run("config show --json", "--config", config, "--state", state)
        assert json.loads(printed)["words"]["hey_banana"]["threshold"] == 0.7
        with daemon.connect() as client:
            assert client.events(words=[name]) is not None
    config.write_text('words: {"hey banana": , hey_banana: }')
    got, printed = run("config show", "--config", config, "--state", state)
    assert (got, "'hey_banana' appears twice" in printed) == (cli.CONFIGURATION, True)


def answered(answer: str, *argv: object) -> tuple[int, str]:
    """Run a verb at a terminal where a person answers; return the exit code and all output."""
    ours, theirs = pty.openpty()
    process = forked.Process(
        ["-m", "kwsd", *map(str, argv)],
        stdin=theirs,
        stdout=forked.PIPE,
        stderr=forked.STDOUT,
        text=True,
    )
    os.close(theirs)
    writer = threading.Thread(target=os.write, args=(ours, f"{answer}\n".encode()))
    writer.start()
    output, _ = process.communicate(timeout=60)
    writer.join()
    os.close(ours)
    return process.wait(), output


def test_a_speaker_is_replaced_only_when_somebody_says_so(run: Run, tmp_path: Path) -> None:
    state = ["--state", tmp_path / "state"]
    takes = []
    for n, text in enumerate(("computer", "the weather is nice today", "turn on the light please")):
        takes.append(tmp_path / f"{n}.wav")
        soundfile.write(takes[-1], say(text), RATE)
    assert run("enroll ann", *state, "--wav", *takes)[0] == 0
    stored = tmp_path / "state" / "ann-49915e.voiceprint"
    before = stored.read_bytes()
    got, printed = run("enroll ann", *state, "--wav", *takes)
    assert (got, "--yes goes on without asking" in printed) == (cli.DATA, True)
    for answer in ("", "n", "\x04"):
        got, printed = answered(answer, "enroll", "ann", *state, "--wav", *takes)
        assert (got, "Nothing has changed." in printed) == (0, True), printed
        assert stored.read_bytes() == before
    assert answered("y", "enroll", "ann", *state, "--wav", *takes)[0] == 0
    assert stored.read_bytes() != before
    assert run("enroll ann --yes", *state, "--wav", *takes)[0] == 0
    got, printed = run("enroll bob", *state, "--wav", *takes)
    assert (got, "this voice is already enrolled as ann" in printed) == (0, True)


def test_one_recording_is_one_take_of_a_word_too(run: Run, tmp_path: Path) -> None:
    take = say("tomato soup")
    soundfile.write(tmp_path / "a.wav", take, RATE)
    soundfile.write(tmp_path / "b.wav", take // 2, RATE)
    soundfile.write(tmp_path / "c.flac", take[500:], RATE)
    files = [tmp_path / name for name in ("a.wav", "b.wav", "c.flac")]
    got, printed = run("word add tomato --yes", "--state", tmp_path / "s", "--wav", *files)
    assert got == cli.DATA
    assert f"{files[2]}: the same recording as {files[0]}; it is one take" in printed
    assert "1 take(s) can be used" in printed

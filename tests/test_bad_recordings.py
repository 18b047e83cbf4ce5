"""A recording that cannot be used ends every verb in one line with its name, and never the daemon
in a traceback."""

from __future__ import annotations

import os
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, Start, say

from kwsd.cli import main as cli
from kwsd.protocol.errors import DaemonError
from kwsd.state.words import AddedWord, to_bytes

GOLDEN = Path(__file__).parent / "golden" / "state-0.1.0"
NAMES = ("nan.wav", "cut.flac", "empty.wav", "text.wav", "folder.wav", "pipe.wav", "nothing.wav")
VERBS = {
    "detect": (["detect", "--json"], cli.NO_INPUT),
    "embed": (["embed", "--out", "out.npz"], cli.NO_INPUT),
    "enroll": (["enroll", "bob", "--wav"], cli.DATA),
    "word add": (["word", "add", "tea time", "--yes", "--wav"], cli.DATA),
    "word test": (["word", "test", "--json", "hey_banana"], cli.NO_INPUT),
    "calibrate": (["calibrate", "--yes", "--wav"], cli.NO_INPUT),
    "run": (["run", "--socket", "k.sock", "--source"], cli.NO_INPUT),
}
"""A verb that is given a recording, and its exit status for a bad one."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings that cannot be used, by `NAMES`; the first two have a word in them."""
    folder = tmp_path_factory.mktemp("bad")
    word = np.concatenate([say("computer"), np.zeros(3 * RATE, np.int16)] * 3) / 32768
    word[-100] = np.nan
    soundfile.write(folder / "nan.wav", word, RATE, subtype="FLOAT")
    noise = np.random.default_rng(0).normal(0, 0.01, 20 * RATE)
    soundfile.write(folder / "cut.flac", np.concatenate([word[:-101], noise]), RATE)
    data = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(data[: 2 * len(data) // 3])
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no recording\n" * 100)
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    return folder


@pytest.mark.parametrize(
    ("verb", "name"), [*product(VERBS, NAMES[:2]), *product(["detect", "run"], NAMES[2:])]
)
def test_it_ends_in_one_line_with_its_name(
    recordings: Path,
    tmp_path: Path,
    verb: str,
    name: str,
    deaf_banana: AddedWord,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    state = Path(shutil.copytree(GOLDEN, tmp_path / "state"))
    (state / "hey_banana.word").write_bytes(to_bytes(deaf_banana))
    arguments, status = VERBS[verb]
    path = recordings / name
    if verb != "embed":
        arguments = [*arguments[:-1], "--state", str(state), *arguments[-1:]]
    assert cli.main([*arguments, str(path)]) == status
    said = capsys.readouterr().err + caplog.text
    assert "Traceback" not in said
    warned = [line for line in said.splitlines() if not line.startswith("INFO")]
    lines = [line for line in warned if str(path) in line]
    assert len(lines) == 1, said


def test_the_daemon_gives_what_is_there_and_ends_with_the_name(
    start: Start, recordings: Path
) -> None:
    daemon = start("--source", str(recordings / "nan.wav"), "--wait-for-client")
    with daemon.connect() as client:
        events = client.events(types=["wake"])
        assert len([next(events) for _ in range(3)]) == 3
        with pytest.raises(DaemonError, match="closed the connection"):
            next(events)
    assert daemon.wait() == cli.NO_INPUT
    last = daemon.log.read_text().splitlines()[-1]
    assert f"{recordings / 'nan.wav'}: contains samples that are not numbers" in last
    assert "died" not in daemon.log.read_text()

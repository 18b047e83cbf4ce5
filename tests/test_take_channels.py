"""Takes come from the channel that the configuration names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import PHRASE, RATE, VOICES, Start, say
from test_cli import own_folders, run

from kwsd.cli import main as cli

__all__ = ["own_folders"]  # a fixture that every test here uses


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_takes_come_from_the_configured_channel(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, start: Start, endless: Path
) -> None:
    def recorded(name: str, samples: np.ndarray) -> list[Path]:
        """Return two recordings: in the right of two channels, and in one channel alone."""
        paths = [tmp_path / f"{name}-right.wav", tmp_path / f"{name}-mono.wav"]
        silence = np.zeros_like(samples)
        soundfile.write(paths[0], np.stack([silence, samples], axis=1), RATE)
        soundfile.write(paths[1], samples, RATE)
        return paths

    takes = [recorded(voice, say(PHRASE, voice)) for voice in VOICES[:3]]
    sentences = ("computer", "the weather is nice today", "turn on the light please")
    voices = [recorded(text, say(text)) for text in sentences]
    config = tmp_path / "c.yaml"
    config.write_text("microphone: {channel: 1}\n")
    second = ["--config", config]
    state = ["--state", tmp_path / "s"]
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()
    dead = "channel 0 is silent, channel 1 is not; set microphone.channel to 1, or to mix"
    for verb, files, refused in (
        (["word", "add", PHRASE, "--yes", *state], takes, cli.DATA),
        (["enroll", "ann", *state], voices, cli.DATA),
        (["enroll", "ann", "--socket", daemon.socket], voices, cli.DATA),
    ):
        right = [pair[0] for pair in files]
        status, _, err = run(capsys, *verb, "--wav", *right)
        assert (status, err.count(dead)) == (refused, 3)
        assert run(capsys, *verb, *second, "--wav", *right[:2], files[2][1])[0] == 0
    stereo, mono = takes[0]
    tried = ([stereo], [*second, stereo], [*second, mono], [mono])
    tests = [run(capsys, "word", "test", PHRASE, *state, "--json", *one)[1] for one in tried]
    scores = [json.loads(line)["score"] for line in tests]
    assert scores[0] < 0.01 < scores[1] == scores[2] == scores[3]

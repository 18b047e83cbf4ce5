"""The configuration: what is right is read, what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kwsd import config
from kwsd.config import Config, ConfigError, Vad, Word


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour: red", r"kwsd.yaml, line 1: unknown key 'colour'"),
        ("words:\n  computer:\n    treshold: 0.5", r"line 3: unknown key 'words.computer.treshold'; here stand threshold, refractory_s"),
        ("words:\n  computer:\n    threshold: 1.5", r"line 3: words.computer.threshold: 1.5 is not above 0 and at most 1"),
        (
            "words:\n  computer:\n    threshold: high",
            r"line 3: words.computer.threshold: 'high' is not a number or 'strict' or 'balanced' or 'lenient' or null",
        ),
        ("words: {}", r"line 1: words: \{\} is not at least one wake word"),
        ("words: [computer]", r"line 1: words must be a mapping"),
        ("words:\n  a:\n  a:", r"line 3: words: 'a' stands twice"),
        ("vad:\n  mode: 4", r"line 2: vad.mode: 4 is not 0, 1, 2 or 3"),
        ("vad: 3", r"line 1: vad must be a mapping"),
        ("microphone:\n  channel: left", r"line 2: microphone.channel: 'left' is not a whole number or 'mix'"),
        ("microphone:\n  channel: -1", r"line 2: microphone.channel: -1 is not a channel number"),
        ("speaker:\n  require: []", r"line 2: speaker.require: \[\] is not"),
        ("near_miss: true", r"line 1: near_miss: True is not a number"),
        ("lookback_s: .nan", r"line 1: lookback_s: nan is not between"),
        ("- a", r"line 1: the file must be a mapping"),
        ("a: [", r"not YAML"),
    ],
)
def test_errors_name_file_line_key_and_mend(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.parse(text, "kwsd.yaml")


def test_defaults_and_the_round_trip() -> None:
    assert config.parse("") == Config()
    assert list(Config().words) == ["computer"]
    full = config.parse("words:\n  alexa:\n  jarvis: {threshold: 0.3}\nvad: off\nspeaker: {require: [ann]}\nmicrophone: {channel: mix, device: 3}\n")
    assert full.words == {"alexa": Word(), "jarvis": Word(threshold=0.3)}
    assert full.vad == Vad(enabled=False)
    assert (full.microphone.channel, full.microphone.device, full.speaker.require) == ("mix", 3, ["ann"])
    assert config.parse(config.dump(full)) == full


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*nope.yaml"):
        config.load(tmp_path / "nope.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"b.yaml"):
        config.load(tmp_path / "b.yaml")


def test_where_things_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    assert Config().socket_path() == tmp_path / "run" / "kwsd.sock"
    assert Config().state_directory() == tmp_path / "state"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "kwsd").mkdir()
    (tmp_path / "kwsd" / "kwsd.yaml").write_text("near_miss: 0.9")
    assert config.load().near_miss == 0.9

"""Words that are disabled and enabled while the daemon runs, and from the start."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import Daemon, Start
from test_cli_help import run
from test_listener import wait_for

from kwsd import config_file
from kwsd.client.client import Client
from kwsd.config import Config, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.setup import DetectorSetup, resolve
from kwsd.events import Wake
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.protocol.commands import (
    GetConfig,
    Reload,
    Status,
    Subscribe,
    WordsDelete,
    WordsDisable,
    WordsEnable,
    WordsPut,
)
from kwsd.protocol.errors import DaemonError
from kwsd.state.words import AddedWord, to_bytes

TWO = Config(words={"computer": WordConfig(), "alexa": WordConfig(enabled=False)})


def test_a_word_may_be_disabled_from_the_start_and_a_client_overrides_that(bundle: Bundle) -> None:
    setup = resolve(TWO, bundle)
    assert (list(setup.words), setup.disabled) == (["computer"], ("alexa",))
    other = resolve(TWO, bundle, enabled={"alexa": True, "computer": False, "gone": False})
    assert (list(other.words), other.disabled) == (["alexa"], ("computer",))
    assert not other.warnings


def test_nothing_may_be_listened_for_and_that_is_said(bundle: Bundle) -> None:
    setup = resolve(TWO, bundle, enabled={"computer": False})
    assert not setup.words
    (warning,) = setup.warnings
    assert "nothing wakes it; run `kwsd word enable computer`" in warning


def wakes(detector: Detector, samples: np.ndarray, setups: dict[int, DetectorSetup]) -> list[int]:
    """Return where wakes end; at these chunks, another setup is put in force."""
    found = []
    for chunk, at in enumerate(range(0, len(samples), 1280)):
        if chunk in setups:
            detector.configure(setups[chunk])
        step = detector.feed(samples[at : at + 1280])
        found += [wake.end for wake in step.wakes if isinstance(wake, Wake)]
    return found


@pytest.mark.parametrize("gate", [True, False])
def test_a_word_that_is_enabled_in_time_wakes_as_if_it_always_had_been(
    bundle: Bundle, runtime: Runtime, scene: np.ndarray, gate: bool
) -> None:
    config = config_file.parse(f"vad: {'on' if gate else 'off'}\n", "a")
    listens = resolve(config, bundle)
    deaf = resolve(config, bundle, enabled={"computer": False})
    first, second = wakes(Detector(bundle, listens, runtime), scene, {})
    between = (first // 1280 + second // 1280) // 2
    detector = Detector(bundle, deaf, runtime)
    assert wakes(detector, scene[: between * 1280], {}) == []
    assert detector.encoded_chunks == 0
    assert wakes(Detector(bundle, deaf, runtime), scene, {between: listens}) == [second]
    assert wakes(Detector(bundle, listens, runtime), scene, {between: deaf}) == [first]


@pytest.fixture
def two(start: Start, tmp_path: Path, endless: Path) -> Daemon:
    """A daemon with a word that is enabled, and one that is not."""
    config = tmp_path / "kwsd" / "kwsd.yaml"
    config.parent.mkdir()
    config.write_text("checker: off\nwords: {computer: , alexa: {enabled: false}}\n")
    return start("--source", str(endless), "--realtime")


def words(client: Client) -> tuple[list[str], list[str]]:
    """Return the words that are listened for, and those that are disabled."""
    status = client.request(Status())
    return list(status.words), status.disabled


def test_enable_and_disable_while_it_runs(two: Daemon) -> None:
    with two.connect() as client, two.connect() as other:
        assert words(client) == (["computer"], ["alexa"])
        other.request(Subscribe(words=["alexa"]))  # which may come later
        with pytest.raises(DaemonError, match="'hal' is not listened for"):
            other.request(Subscribe(words=["hal"]))
        done = client.request(WordsEnable(name="alexa"))
        assert (done.words, done.disabled) == (["computer", "alexa"], [])
        assert words(client) == (["computer", "alexa"], [])
        done = client.request(WordsDisable(name="computer"))
        assert (done.words, done.disabled) == (["alexa"], ["computer"])
        client.request(WordsDisable(name="computer"))  # again, which changes nothing
        assert words(client) == (["alexa"], ["computer"])
        with pytest.raises(DaemonError, match="'hal' is neither in the configuration nor added; "):
            client.request(WordsDisable(name="hal"))
        client.request(WordsDisable(name="alexa"))
        assert words(client) == ([], ["computer", "alexa"])
        (warning,) = client.request(Status()).warnings
        assert "every word is disabled" in warning
        with two.connect() as late:
            assert late.greeting.words == []
        client.request(WordsEnable(name="computer"))
        wake = next(client.events(types=["wake"]))
        assert isinstance(wake, Wake)
        assert wake.word == "computer"


def test_the_configuration_in_force_says_who_has_disabled_a_word(two: Daemon) -> None:
    with two.connect() as client:
        client.request(WordsDisable(name="computer"))
        client.request(WordsEnable(name="alexa"))
        in_force = client.request(GetConfig())
        assert in_force.sources["words.computer.enabled"] == "kwsd word"
        parsed = config_file.parse(in_force.text, "it")
        found = {name: word.enabled for name, word in parsed.words.items()}
        assert found == {"computer": False, "alexa": True}


def test_a_reload_keeps_it_a_word_that_is_gone_is_unknown_and_a_restart_forgets(
    two: Daemon, start: Start, tmp_path: Path, endless: Path
) -> None:
    config = tmp_path / "kwsd" / "kwsd.yaml"
    with two.connect() as client:
        client.request(WordsEnable(name="alexa"))
        client.request(Reload())
        assert words(client) == (["computer", "alexa"], [])
        config.write_text("checker: off\nwords: {computer: {enabled: false}}\n")
        client.request(Reload())
        assert words(client) == ([], ["computer"])
        with pytest.raises(DaemonError, match=r"'alexa' is neither in .*; the words are computer"):
            client.request(WordsEnable(name="alexa"))
        client.request(WordsEnable(name="computer"))
        assert words(client) == (["computer"], [])
    two.process.send_signal(signal.SIGTERM)
    assert two.wait() == 0
    with start("--source", str(endless), "--realtime").connect() as client:
        assert words(client) == ([], ["computer"])


def test_an_added_word_that_is_deleted_is_not_disabled_when_it_is_added_again(
    two: Daemon, deaf_banana: AddedWord
) -> None:
    with two.connect() as client:
        client.request(WordsPut(file=to_bytes(deaf_banana)))
        client.request(WordsDisable(name="hey banana"))
        assert words(client) == (["computer"], ["alexa", "hey_banana"])
        client.request(WordsPut(file=to_bytes(deaf_banana)))  # improved
        assert words(client)[1] == ["alexa", "hey_banana"]
        client.request(WordsDelete(name="hey_banana"))
        client.request(WordsPut(file=to_bytes(deaf_banana)))
        assert words(client) == (["computer", "hey_banana"], ["alexa"])


def test_the_verbs(two: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    two.connect().close()
    at = ["--socket", str(two.socket)]
    said = "alexa is enabled; kwsd listens for computer, alexa.\n"
    assert run(capsys, "word", "enable", "alexa", *at) == (0, said, "")
    assert run(capsys, "word", "disable", "alexa", *at)[0] == 0
    code, line, _ = run(capsys, "word", "disable", "computer", "--json", *at)
    assert (code, json.loads(line)) == (0, {"words": [], "disabled": ["computer", "alexa"]})
    shown = run(capsys, "status", *at)[1]
    assert "listens for no word; disabled: computer, alexa" in shown
    assert "warning: words: every word is disabled" in shown
    code, found, _ = run(capsys, "doctor", *at)
    assert code == 69
    assert "BAD words: words: every word is disabled" in found
    assert "fix: kwsd word enable WORD" in found
    assert run(capsys, "word", "enable", "computr", *at)[0] == 65
    listed = run(capsys, "word", "list", *at)[1]
    assert "computer: comes with kwsd, not listened for" in listed


def test_a_word_on_the_command_line_is_listened_for(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "kwsd" / "kwsd.yaml"
    config.parent.mkdir()
    config.write_text("checker: off\nwords: {computer: , alexa: {enabled: false}}\n")
    program = [str(Path(__file__).with_name("hung_microphone.py")), str(tmp_path / "hang")]
    with start("--words", "alexa", program=program).connect() as client:
        wait_for(lambda: words(client) == (["alexa"], []))

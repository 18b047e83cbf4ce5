"""Clips: stored only when asked for, whole, and within their bounds; labeled, learned, deleted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import PHRASE, RATE, VOICES, Start, hiss, say
from msgspec.structs import replace

from kwsd.audio.high_pass import HighPass
from kwsd.cli import main as cli
from kwsd.config import ClipsConfig, Config, SocketConfig
from kwsd.model.bundle import Bundle
from kwsd.protocol.commands import Clips, ClipsKeep, GetConfig, Status
from kwsd.protocol.data import Clip
from kwsd.server.daemon import Daemon, RunOptions
from kwsd.state.clip_ages import Moment
from kwsd.state.clip_switch import ClipSwitch
from kwsd.state.clips import ClipError, ClipStore
from kwsd.state.words import AddedWord, WordStore, to_bytes

NOW = 1_800_000_000.0
LIMITS = ClipsConfig(enabled=True, max_count=3, max_age_days=10, max_mib=1)


def clip(time: float) -> Clip:
    """Return a clip of a wake at `time`, which is not stored yet."""
    return Clip(
        id="",
        word="computer",
        model="m",
        kind="wake",
        time=time,
        score=0.9,
        threshold=0.5,
        start=8000,
        end=16000,
        scores=[(1280, 0.1), (2560, 0.9)],
    )


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let all clocks of the machine stand `seconds` after NOW."""
    moment = Moment("boot", 1000.0 + seconds, NOW + seconds)
    monkeypatch.setattr("kwsd.state.clip_ages.present", lambda: moment)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClipStore:
    pass_time(monkeypatch, 0)
    return ClipStore(tmp_path, lambda: LIMITS)


def test_stored_listed_labeled_cleared(store: ClipStore) -> None:
    samples = np.arange(-500, 500, dtype=np.int16)
    first = store.add(clip(NOW - 60), samples)
    twin = store.add(clip(NOW - 60), samples[::-1])
    assert first.id == "20270115-075900-computer-aa9730"
    assert twin.id == "20270115-075900-computer-aa9730-2"
    assert store.listed() == [first, twin]
    assert (store.samples(first) == samples).all()
    assert {p.stat().st_mode & 0o777 for p in store.folder.iterdir()} == {0o600}
    store.label([first.id], "right")
    labels = [(label.word, label.time, label.right) for label in store.labels()]
    assert labels == [("computer", NOW - 60, True)]
    with pytest.raises(ClipError, match="there is no clip 'x'"):
        store.label([twin.id, "x"], "wrong")
    assert [one.label for one in store.listed()] == ["right", None]
    (store.folder / "damaged.json").write_text("{")
    assert len(store.listed()) == 2
    assert store.clear([twin.id]) == 1
    assert store.clear() == 1
    assert list(store.folder.iterdir()) == []
    with pytest.raises(ClipError, match=r"there is no clip '\.\./x'"):
        store.find(["../x"])


def test_the_oldest_without_a_label_goes_first(store: ClipStore) -> None:
    silence = np.zeros(10, np.int16)
    ids = [store.add(clip(NOW - 100 + n), silence).id for n in range(3)]
    store.label([ids[0]], "wrong")
    last = store.add(clip(NOW - 1), silence).id
    assert [one.id for one in store.listed()] == [ids[0], ids[2], last]
    store.add(clip(NOW - 11 * 86400), silence)
    assert len(store.listed()) == 3  # that one is too old to stay
    store.add(clip(NOW), np.zeros(450_000, np.int16))
    assert len(store.listed()) == 3
    store.add(clip(NOW + 1), np.zeros(450_000, np.int16))
    assert sum(p.stat().st_size for p in store.folder.iterdir()) < 2**20


def test_a_full_disk_leaves_nothing_half_written(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kwsd.state.store.os.fsync", full)
    with pytest.raises(ClipError, match="No space left on device"):
        store.add(clip(NOW), np.zeros(10, np.int16))
    assert list(store.folder.iterdir()) == []


def daemon_over(start: Start, tmp_path: Path, samples: np.ndarray, config: str) -> Path:
    """Return the state directory of a daemon that has gone through a recording."""
    soundfile.write(tmp_path / "room.wav", samples, RATE)
    (tmp_path / "kwsd.yaml").write_text(config)
    options = ["--config", str(tmp_path / "kwsd.yaml"), "--source", str(tmp_path / "room.wav")]
    daemon = start(*options)
    assert daemon.wait() == 0
    return daemon.state


def test_what_is_too_old_goes_though_nothing_new_comes(
    store: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene_wav: Path
) -> None:
    silence = np.zeros(10, np.int16)
    store.add(clip(NOW - 86400), silence)
    store.make_room()
    assert len(store.listed()) == 1
    pass_time(monkeypatch, 10 * 86400)
    socket = SocketConfig(path=str(tmp_path / "k.sock"))
    config = Config(state=str(tmp_path), socket=socket, clips=ClipsConfig(max_age_days=10))

    async def start_and_stop() -> None:
        daemon = Daemon(RunOptions(config, source=str(scene_wav), wait_for_client=True))
        daemon.stop()
        assert await daemon.start() == 0

    asyncio.run(start_and_stop())
    assert list(store.folder.iterdir()) == []
    config = replace(config, log_peaks=False, clips=ClipsConfig(max_age_days=1))

    async def ten_minutes() -> None:
        daemon = Daemon(RunOptions(config, source=str(scene_wav)))
        with daemon._disk:
            store.add(clip(NOW + 5 * 86400), silence)
            assert len(store.listed()) == 1
            daemon._keep_peaks({})

    asyncio.run(ten_minutes())
    assert list(store.folder.iterdir()) == []
    assert not (tmp_path / "peaks.jsonl").exists()


def test_off_by_default_and_on_when_asked(
    start: Start, tmp_path: Path, scene: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    state = daemon_over(start, tmp_path, scene, "words: {computer: }")
    assert not (state / "clips").exists()
    at_state = ["--state", str(state)]
    assert cli.main(["clips", "list", *at_state]) == 0
    assert "none will be kept" in capsys.readouterr().out
    (state / "peaks.jsonl").unlink()
    state = daemon_over(start, tmp_path, scene, "words: {computer: }\nclips: on\n")
    assert cli.main(["clips", "list", *at_state, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["clips"]
    assert (first["word"], first["kind"], first["label"]) == ("computer", "wake", None)
    assert 3.0 < second["time"] - first["time"] < 7.0
    out = tmp_path / "out.wav"
    assert cli.main(["clips", "play", first["id"], *at_state, "--out", str(out)]) == 0
    heard, rate = soundfile.read(out, dtype="int16")
    assert rate == RATE
    filtered = HighPass().step(scene)
    begins = np.flatnonzero(filtered == heard[0])
    at = next(n for n in begins if (filtered[n : n + 400] == heard[:400]).all())
    assert (filtered[at : at + len(heard)] == heard).all()
    stored = json.loads((state / "clips" / f"{first['id']}.json").read_text())
    highest = max(score for _, score in stored["scores"])
    assert stored["peak"] == first["peak"] == highest
    assert first["threshold"] <= first["score"] < highest  # it decided before the peak
    ((_, _, peaks),) = json.loads((state / "peaks.jsonl").read_text())["words"].values()
    decided = [(round(peak, 2), woke, round(score, 4)) for _, peak, woke, score in peaks if woke]
    expected = [(round(c["peak"], 2), True, round(c["score"], 4)) for c in (first, second)]
    assert decided == expected
    assert all(0 < end <= len(heard) for end, _ in stored["scores"])
    assert cli.main(["clips", "label", "wrong", first["id"], *at_state]) == 0
    assert cli.main(["clips", "label", "wrong", "nothing", *at_state]) == cli.DATA
    capsys.readouterr()
    # One wake was wrong; the other has no label and counts as right. Only the first is evidence.
    options = ["--log", *at_state, "--json", "--yes", "--rate", "1/day"]
    assert cli.main(["calibrate", *options]) == 0
    (result,) = json.loads(capsys.readouterr().out)["words"]
    assert result["assumed_right"] == 1
    assert result["before"]["seen"] == 1
    clear = ["clips", "clear", *at_state]
    assert cli.main([*clear, "--all"]) == cli.DATA
    assert cli.main([*clear, first["id"]]) == cli.DATA
    assert "1 labeled clip(s)" in capsys.readouterr().err
    assert len(list((state / "clips").glob("*.wav"))) == 2
    assert cli.main([*clear, "--all", "--yes"]) == 0
    assert "2 clip(s) deleted" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_labeled_clips_make_a_word_better(
    start: Start,
    tmp_path: Path,
    bundle: Bundle,
    banana: AddedWord,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "hey_banana.word").write_bytes(to_bytes(banana))
    voices = ("en-us+m4", "en-gb+f4", "en-us+f1", "en-gb-x-rp+m2", "en-us+m6")
    said = [hiss(2.0)]
    for n, voice in enumerate(voices):
        said += [say(PHRASE, voice), hiss(2.0, seed=n)]
    config = "words: {computer: }\nclips: on\n"
    state = daemon_over(start, tmp_path, np.concatenate(said), config)
    options = ["--state", str(state), "--config", str(tmp_path / "kwsd.yaml")]
    assert cli.main(["word", "improve", PHRASE, *options, "--yes"]) == cli.DATA
    assert "has no labeled clips" in capsys.readouterr().err
    assert cli.main(["clips", "list", *options, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["clips"]
    ids = [one["id"] for one in listed if one["word"] == "hey_banana"]
    assert len(ids) >= 3
    assert cli.main(["clips", "label", "right", *ids[:-1], *options]) == 0
    assert cli.main(["clips", "label", "wrong", ids[-1], *options]) == 0
    capsys.readouterr()
    assert cli.main(["word", "improve", PHRASE, *options, "--yes", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["right"], result["wrong"]) == (len(ids) - 1, 1)
    assert result["takes"] == len(VOICES)
    assert result["missed"][1] <= result["right"]
    better = WordStore(state, bundle.encoder_id).load("hey_banana")
    assert better.id != banana.id
    assert len(better.takes) == len(VOICES) + len(ids) - 1
    assert len(better.wrong) == 1
    assert better.made.takes == len(VOICES)
    assert better.made.clips == sorted(ids)
    assert cli.main(["word", "improve", PHRASE, *options, "--yes"]) == cli.DATA
    assert "that it has not learned from" in capsys.readouterr().err
    assert cli.main(["word", "improve", "computer", *options, "--yes"]) == cli.DATA
    assert "cannot be made again on the device" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_labeled_clips_make_a_refused_word_again(
    store: ClipStore,
    tmp_path: Path,
    deaf_banana: AddedWord,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "kwsd.yaml").write_text("words: {computer: }\n")
    options = ["--state", str(tmp_path), "--config", str(tmp_path / "kwsd.yaml"), "--yes"]
    add = ["word", "add", "Hey Banana", *options, "--from-clips"]
    assert cli.main(add) == cli.DATA
    assert "has no clips that are labeled right; `clips: on` keeps" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr("kwsd.state.words.FORMAT", 2)
        words = WordStore(tmp_path, bundle.encoder_id)
        words.path("hey_banana").write_bytes(to_bytes(deaf_banana))
    monkeypatch.setattr(store, "_limits", lambda: ClipsConfig(enabled=True), raising=False)
    ids = []
    for n, text in enumerate((PHRASE, PHRASE, PHRASE, "good evening")):
        said = say(text, VOICES[n])
        samples = np.concatenate([hiss(1.0), said, hiss(0.5)])
        odd = replace(clip(NOW - n), word="hey_banana", start=RATE, end=RATE + len(said))
        ids.append(store.add(odd, samples).id)
    store.label(ids[:3], "right")
    store.label(ids[3:], "wrong")
    assert cli.main([*add, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added"]
    word = words.load("Hey_Banana")
    assert (len(word.takes), len(word.wrong)) == (3, 1)
    assert word.made.clips == sorted(ids)


def test_a_client_switches_clips_on_and_off(
    start: Start, scene: np.ndarray, tmp_path: Path
) -> None:
    """It stands above the configuration, survives a restart, and can be taken back."""
    switch = tmp_path / "state" / "clips.switch"
    daemon = start("--source", "-", stdin=subprocess.PIPE)
    with daemon.connect() as client:
        assert not client.request(Clips()).enabled
        assert client.request(GetConfig()).sources["clips.enabled"] == "default"
        assert client.request(ClipsKeep(enabled=True)).enabled
        assert client.request(GetConfig()).sources["clips.enabled"] == str(switch)
        daemon.hear(np.concatenate([scene, hiss(1.0)]))
        deadline = time.monotonic() + 60
        while len(client.request(Clips()).clips) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    daemon.kill()
    daemon = start("--source", "-", stdin=subprocess.PIPE)
    with daemon.connect() as client:
        found = client.request(Clips())
        assert (found.enabled, len(found.clips)) == (True, 2)
        assert 2 * 2 * RATE < found.bytes < found.max_bytes == ClipsConfig().max_mib * 2**20
        assert not client.request(ClipsKeep()).enabled, "the configuration decides again"
        assert not switch.exists()
        daemon.hear(np.concatenate([scene, hiss(1.0)]))
        deadline = time.monotonic() + 60
        while client.request(Status()).audio_s < len(scene) / RATE + 0.7:  # after both words
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert len(client.request(Clips()).clips) == 2


def test_a_switch_that_is_damaged_leaves_it_to_the_configuration(tmp_path: Path) -> None:
    switch = ClipSwitch(tmp_path)
    assert (switch.load(), switch.enabled) == ([], None)
    switch.set(True)
    assert switch.path.stat().st_mode & 0o777 == 0o600
    again = ClipSwitch(tmp_path)
    assert (again.load(), again.enabled) == ([], True)
    for data in (b"", b"[" * 999, b'{"enabled": 1}', b" " * 5000, b"{}"):
        switch.path.write_bytes(data)
        (fault,) = again.load()
        assert again.enabled is None
        assert "clips.switch: damaged (" in str(fault)
        assert "kwsd clips keep" in str(fault)
    again.set(None)
    again.set(None)
    assert not switch.path.exists()

"""What a satellite plays: in its order, as it comes, and for no longer than it may take."""

from __future__ import annotations

import asyncio
import logging
import wave
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kwsd.bridges import programs
from kwsd.bridges.programs import Commands
from kwsd.bridges.wyoming import sounds
from kwsd.bridges.wyoming.frames import AudioFormat
from kwsd.bridges.wyoming.sounds import ENDLESS, MAX_SOUNDS, Speaker, read_wav, wav_head
from kwsd.config import ConfigError

FORMAT = AudioFormat(16000, 2, 1)
SECOND = bytes(32000)


def playing(command: str | None, steps: Callable[[Speaker, list[str]], Awaitable[None]]) -> None:
    """Run steps beside a speaker, and the list of what has been played."""

    async def run() -> None:
        said: list[str] = []

        async def played() -> None:
            said.append("played")

        speaker = Speaker(command, played)
        task = asyncio.create_task(speaker.run())
        async with asyncio.timeout(30):
            await steps(speaker, said)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    while not condition():
        await asyncio.sleep(0.01)


def test_sounds_are_played_one_after_the_other(tmp_path: Path) -> None:
    async def steps(speaker: Speaker, said: list[str]) -> None:
        speaker.chime(b"chime")
        speaker.begin(FORMAT)
        speaker.add(b"1234")
        assert speaker.speaks
        await asyncio.sleep(0.1)
        speaker.add(b"5678")
        speaker.begin(FORMAT)  # ends the one before
        speaker.end()  # and has nothing in it
        speaker.add(b"nothing is open")
        speaker.chime(None)
        await until(lambda: said == ["played"] * 2)
        assert not speaker.speaks

    playing(f"cat >>{tmp_path}/out; echo . >>{tmp_path}/out", steps)
    assert (tmp_path / "out").read_bytes() == b"chime.\n" + wav_head(FORMAT) + b"12345678.\n"


def test_a_head_is_that_of_a_wav_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_head(AudioFormat(22050, 3, 2)) + bytes(60))
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (22050, 3, 2)
        assert file.getnframes() == ENDLESS // 6


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("exit 3", "it failed with exit status 3"),
        ("kill -9 $$", "it was ended by SIGKILL"),
        ("exec 0<&-; sleep 60", None),  # it reads nothing, and does not end
        ("cat >/dev/null; sleep 60", "it plays nothing"),
        (None, None),
    ],
)
def test_whatever_the_command_does_the_server_hears_that_it_was_played(
    command: str | None,
    why: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sounds, "STALL_S", 0.2)

    async def steps(speaker: Speaker, said: list[str]) -> None:
        speaker.begin(FORMAT)
        for _ in range(3):
            speaker.add(SECOND[:3200])
            await asyncio.sleep(0.01)
        speaker.end()
        await until(lambda: said == ["played"])

    playing(command, steps)
    assert (why or "") in caplog.text


def test_a_sound_that_is_stopped_is_over(tmp_path: Path) -> None:
    async def steps(speaker: Speaker, said: list[str]) -> None:
        for _ in range(2):
            speaker.begin(FORMAT)
            speaker.add(SECOND)
        await until((tmp_path / "plays").exists)
        speaker.stop()
        speaker.add(SECOND)  # the server still sends
        await until(lambda: said == ["played"] * 2)
        assert not speaker.speaks
        speaker.begin(FORMAT)
        speaker.end()
        await until(lambda: len(said) == 3)

    playing(f"touch {tmp_path}/plays; cat; sleep 60", steps)


def test_what_waits_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sounds, "MAX_QUEUED", 3 * len(SECOND))
    monkeypatch.setattr(sounds, "IDLE_S", 0.1)

    async def steps(speaker: Speaker, said: list[str]) -> None:
        for _ in range(MAX_SOUNDS + 5):
            speaker.begin(FORMAT)
            speaker.add(SECOND)
        assert "an answer is too long; 32000 bytes of it are not played" in caplog.text
        # The last one is open, and nothing comes of it any more.
        await until(lambda: len(said) == MAX_SOUNDS)

    playing("cat >/dev/null", steps)


def test_a_file_that_is_no_sound_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    assert read_wav("key", None) is None
    for data, why in ((None, "a.wav cannot be read"), (b"ID3", "a.wav is no WAV file")):
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ConfigError, match=f"^wyoming.satellite.done_sound: .*{why}"):
            read_wav("wyoming.satellite.done_sound", str(path))
    path.write_bytes(wav_head(FORMAT))
    assert read_wav("key", str(path)) == wav_head(FORMAT)


def test_a_command_runs_a_few_times_at_once_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(programs, "MAX_RUNNING", 2)

    async def steps() -> None:
        commands = Commands("timer", f"cat >>{tmp_path}/out; sleep 60", 0.3)
        commands.start(b"one\n", rings=True)
        assert commands.rings
        commands.start(b"two\n")
        commands.start(b"three\n")
        assert "timer: not started, since 2 still run" in caplog.text
        await until(lambda: (tmp_path / "out").exists())
        commands.stop()
        await until(lambda: not commands.rings)
        fails = Commands("timer", "exit 4", 5)
        fails.start(b"")
        await until(lambda: "exit status 4" in caplog.text)
        slow = Commands("slow", "sleep 60", 0.1)
        slow.start(b"x")
        await until(lambda: "slow: ended, since it has run for 0.1 s" in caplog.text)
        Commands("none", None, 5).start(b"")
        commands.stop(all=True)
        await asyncio.sleep(0.2)

    asyncio.run(asyncio.wait_for(steps(), 30))
    assert "three" not in (tmp_path / "out").read_text()

"""`kwsd wyoming --satellite` beside a daemon, and the library's client as its server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import forked
import numpy as np
import pytest
import soundfile
from conftest import FIRST_STAGE_ALONE, RATE, VOICES, Daemon, Start, hiss, say
from test_wyoming_frames import hostile
from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Eventable
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.pipeline import PipelineStage, RunPipeline
from wyoming.satellite import PauseSatellite, RunSatellite
from wyoming.snd import Played
from wyoming.timer import TimerFinished, TimerStarted
from wyoming.vad import VoiceStopped
from wyoming.wake import Detection
from wyoming_service import Service, read, run, throw

from kwsd.bridges.wyoming.frames import MAX_LINE, MAX_PAYLOAD
from kwsd.protocol.commands import Audio

ALLOWED = ("--satellite", "--allow", "127.0.0.1")
WORD = np.concatenate([hiss(1.0), say("computer"), hiss(1.0)])
STOP = np.concatenate([hiss(1.0), say("alexa"), hiss(1.0)])
ANSWER = say("it is seven", "en-gb")
"""What the server says, at 16 kHz."""

Serve = Callable[..., Service]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start satellites, and stop those that still run."""
    services: list[Service] = []

    def start(*arguments: str, config: str = "", allowed: tuple[str, ...] = ALLOWED) -> Service:
        services.append(Service(tmp_path, config, *allowed, *arguments))
        return services[-1]

    yield start
    for service in services:
        service.close()
        assert "never retrieved" not in service.log.read_text()


@pytest.fixture
def daemon(start: Start, tmp_path: Path) -> Daemon:
    """A daemon that hears what the test writes."""
    config = tmp_path / "kwsd" / "kwsd.yaml"
    config.parent.mkdir()
    config.write_text(f"{FIRST_STAGE_ALONE}words: {{computer: , alexa: }}\nlookback_s: 30\n")
    daemon = start("--source", "-", stdin=forked.PIPE)
    daemon.connect().close()
    return daemon


async def send(client: AsyncTcpClient, event: Eventable) -> None:
    """Send an event."""
    await client.write_event(event.event())


async def none_comes(client: AsyncTcpClient) -> None:
    """Expect the answer to a ping, and nothing before it."""
    await send(client, Ping("sync"))
    assert (await read(client)).data == {"text": "sync"}


@contextlib.asynccontextmanager
async def server(service: Service) -> AsyncIterator[AsyncTcpClient]:
    """Connect as the server, once the satellite has found its daemon."""
    service.said("woken by")
    async with service.client() as client:
        await send(client, RunSatellite())
        await none_comes(client)
        yield client


async def woken(client: AsyncTcpClient) -> Detection:
    """Read the detection of a wake and what begins its pipeline."""
    detection = Detection.from_event(await read(client))
    pipeline = RunPipeline.from_event(await read(client))
    assert pipeline.start_stage == PipelineStage.ASR
    start = AudioStart.from_event(await read(client))
    assert (start.rate, start.width, start.channels) == (RATE, 2, 1)
    assert start.timestamp == detection.timestamp
    return detection


async def rest_of_audio(client: AsyncTcpClient) -> bytes:
    """Read chunks until they stop, and return them; each follows the one before."""
    pcm = b""
    begin_ms: int | None = None
    while AudioChunk.is_type((event := await read(client)).type):
        chunk = AudioChunk.from_event(event)
        assert (chunk.rate, chunk.width, chunk.channels) == (RATE, 2, 1)
        begin_ms = chunk.timestamp if begin_ms is None else begin_ms
        assert begin_ms is not None
        assert chunk.timestamp == round(begin_ms + len(pcm) / 32)
        pcm += chunk.audio
    assert AudioStop.is_type(event.type)
    return pcm


async def answer(client: AsyncTcpClient, samples: np.ndarray = ANSWER) -> None:
    """Send an answer, as fast as it can be sent."""
    await send(client, AudioStart(RATE, 2, 1, 0))
    for at in range(0, len(samples), 1024):
        part = samples[at : at + 1024].astype("<i2").tobytes()
        await send(client, AudioChunk(RATE, 2, 1, part, at // 16))
    await send(client, AudioStop())


def samples_of(path: Path) -> np.ndarray:
    """Return what a player was given: a WAV file whose head does not know its length."""
    data = path.read_bytes()
    assert (data[:4], data[8:16], data[36:40]) == (b"RIFF", b"WAVEfmt ", b"data")
    return np.frombuffer(data[44:], "<i2")


def test_a_command_from_the_wake_to_the_spoken_answer(
    serve: Serve, daemon: Daemon, tmp_path: Path
) -> None:
    for name, seconds in (("awake", 0.1), ("done", 0.2)):
        soundfile.write(tmp_path / f"{name}.wav", hiss(seconds, 500), RATE)
    play = f"n=$(ls {tmp_path} | grep -c played); cat >{tmp_path}/played$n"
    sounds = [f"--{name}-sound={tmp_path}/{name}.wav" for name in ("awake", "done")]
    service = serve("--play", play, *sounds, "--name", "den", "--area", "Den")

    async def steps() -> None:
        async with server(service) as client:
            before = time.monotonic()
            await send(client, Describe())
            info = Info.from_event(await read(client))
            assert time.monotonic() - before < 1
            assert info.satellite is not None
            assert (info.satellite.name, info.satellite.area) == ("den", "Den")
            (program,) = info.wake
            phrases = {model.name: model.phrase for model in program.models}
            assert phrases == {"computer": "computer", "alexa": "alexa"}
            daemon.hear(WORD)
            detection = await woken(client)
            assert (detection.name, detection.speaker) == ("computer", None)
            command = say("turn on the light", "en-gb")
            daemon.hear(np.concatenate([command, hiss(1.0)]))
            chunk = AudioChunk.from_event(await read(client))
            await asyncio.sleep(0.5)  # what follows is there
            await send(client, VoiceStopped())
            pcm = chunk.audio + await rest_of_audio(client)
            assert detection.timestamp is not None
            begin = round(detection.timestamp * 16) - 8  # it is rounded
            with daemon.connect() as other:
                end = begin + len(pcm) // 2 + 16
                heard = other.request(Audio(start=begin, end=end)).pcm
            assert len(pcm) > 2 * len(command)
            assert heard is not None
            assert pcm in heard, "from the end of the word on, without a gap"
            await send(client, Transcript(text="turn on the light"))
            await answer(client)
            assert Played.is_type((await read(client)).type)
            await none_comes(client)

    run(steps())
    assert (tmp_path / "played0").read_bytes() == (tmp_path / "awake.wav").read_bytes()
    assert (tmp_path / "played1").read_bytes() == (tmp_path / "done.wav").read_bytes()
    assert np.array_equal(samples_of(tmp_path / "played2"), ANSWER)
    assert service.stop() == 0


def test_the_server_says_when_it_has_heard_enough(serve: Serve, daemon: Daemon) -> None:
    service = serve()

    async def steps() -> None:
        async with server(service) as client:
            for enough in (
                Transcript(text="x"),
                VoiceStopped(),
                Error(text="no", code="stt-no-text-recognized"),
                PauseSatellite(),
            ):
                daemon.hear(WORD)
                await woken(client)
                await read(client)
                await send(client, enough)
                await rest_of_audio(client)
                await none_comes(client)
                daemon.hear(hiss(2.5))  # refractory
            daemon.hear(np.concatenate([WORD, hiss(2.5)]))
            await asyncio.sleep(0.5)
            await none_comes(client)  # it is paused
            await send(client, RunSatellite())
            daemon.hear(WORD)
            await woken(client)

    run(steps())


def test_nothing_stops_it_but_the_longest_time(serve: Serve, daemon: Daemon) -> None:
    service = serve()

    async def steps() -> None:
        async with server(service) as client:
            daemon.hear(np.concatenate([WORD, hiss(3.0), say("computer"), hiss(30.0)]))
            await woken(client)
            pcm = await rest_of_audio(client)
            assert len(pcm) == 30 * RATE * 2, "no second command within the first"
            await none_comes(client)

    run(steps())


def test_who_speaks_is_named_if_verified(serve: Serve, daemon: Daemon, tmp_path: Path) -> None:
    takes = []
    for n, text in enumerate(("computer", "computer, turn on the light", "it is nice today")):
        takes.append(str(tmp_path / f"{n}.wav"))
        soundfile.write(takes[-1], say(text, VOICES[0]), RATE)
    where = ["--socket", str(daemon.socket)]
    done = forked.run(["-m", "kwsd", "enroll", "ann", *where, "--wav", *takes])
    assert done.returncode == 0, done.stderr
    service = serve()

    async def steps() -> None:
        async with server(service) as client:
            for voice, who in ((VOICES[0], "ann"), (VOICES[1], None)):
                daemon.hear(np.concatenate([hiss(3.0), say("computer", voice), hiss(1.0)]))
                assert (await woken(client)).speaker == who
                await send(client, VoiceStopped())
                await rest_of_audio(client)

    run(steps())


def test_while_it_speaks_only_a_stop_word_counts(
    serve: Serve, daemon: Daemon, tmp_path: Path
) -> None:
    play = f"cat >{tmp_path}/played; touch {tmp_path}/there; sleep 60"
    service = serve(
        "--play", play, "--stop-word", "Alexa", "--timer", f"cat >{tmp_path}/t; sleep 50"
    )

    async def speaking(client: AsyncTcpClient) -> None:
        await answer(client)
        while not (tmp_path / "there").exists():  # a file of another process
            await asyncio.sleep(0.05)

    async def steps() -> None:
        async with server(service) as client:
            await send(client, Describe())
            (program,) = Info.from_event(await read(client)).wake
            assert [model.name for model in program.models] == ["computer"]
            daemon.hear(np.concatenate([STOP, hiss(2.0)]))
            await asyncio.sleep(0.5)
            await none_comes(client)  # it wakes nothing
            await speaking(client)
            daemon.hear(np.concatenate([WORD, hiss(2.0)]))
            await asyncio.sleep(0.5)
            await none_comes(client)
            daemon.hear(STOP)
            assert Played.is_type((await read(client)).type)
            daemon.hear(np.concatenate([hiss(2.0), WORD]))
            await woken(client)
            await send(client, VoiceStopped())
            await rest_of_audio(client)
            # It stops the ringing of a timer as well.
            await send(client, TimerFinished(id="7"))
            await asyncio.sleep(0.5)
            assert json.loads((tmp_path / "t").read_text()) == {"type": "timer-finished", "id": "7"}
            assert [line for line in children(service) if "sleep 50" in line]
            daemon.hear(np.concatenate([hiss(2.0), STOP]))
            deadline = time.monotonic() + 20
            while children(service):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)

    run(steps())


def children(service: Service) -> list[str]:
    """Return the command lines of the programs that it has started."""
    found = []
    for thread in Path(f"/proc/{service.process.pid}/task").iterdir():
        for pid in (thread / "children").read_text().split():
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    return [line for line in found if line]


def test_timers_go_to_a_command(serve: Serve, tmp_path: Path) -> None:
    service = serve("--timer", f"cat >>{tmp_path}/timers")

    async def steps() -> None:
        async with service.client() as client:
            started = TimerStarted(id="1", total_seconds=300, name="tea")
            await send(client, started)  # nobody is the server yet
            await send(client, RunSatellite())
            await send(client, started)
            deadline = time.monotonic() + 20
            while not (tmp_path / "timers").exists() or not (tmp_path / "timers").read_text():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)

    run(steps())
    event = {"type": "timer-started", "id": "1", "total_seconds": 300, "name": "tea"}
    assert json.loads((tmp_path / "timers").read_text()) == event


def test_it_has_one_server(serve: Serve, daemon: Daemon) -> None:
    service = serve()

    async def steps() -> None:
        async with server(service) as first:
            async with service.client() as second:
                await send(second, Describe())
                assert Info.from_event(await read(second)).satellite is not None
                await answer(second)  # which plays nothing
                await send(second, RunSatellite())
                error = Error.from_event(await read(second))
                assert (error.code, "server already" in error.text) == ("busy", True)
                assert await second.read_event() is None, "the connection ends"
            daemon.hear(WORD)
            await woken(first)
        async with server(service) as third:
            daemon.hear(np.concatenate([hiss(2.0), WORD]))
            await woken(third)

    run(steps())


def test_a_daemon_that_comes_goes_and_comes_back(
    serve: Serve, start: Start, tmp_path: Path
) -> None:
    service = serve()

    async def steps() -> None:
        async with service.client() as client:
            await send(client, RunSatellite())
            await send(client, Describe())
            info = Info.from_event(await read(client))
            assert info.satellite is not None
            assert [model for program in info.wake for model in program.models] == []
            for times in (1, 2):
                daemon = start("--source", "-", stdin=forked.PIPE)
                daemon.connect().close()
                deadline = time.monotonic() + 30
                while service.log.read_text().count("woken by") < times:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
                daemon.hear(WORD)
                await woken(client)
                daemon.kill()
                await rest_of_audio(client)  # it ends with the daemon
                await none_comes(client)
                (tmp_path / "k.sock").unlink(missing_ok=True)

    run(steps())


def test_a_stranger_is_turned_away_and_nobody_is_a_default(serve: Serve, tmp_path: Path) -> None:
    service = serve(allowed=("--satellite", "--allow", "192.0.2.1"))

    async def steps() -> None:
        async with service.client() as client:
            with contextlib.suppress(ConnectionError):
                assert await client.read_event() is None

    run(steps())
    service.said("127.0.0.1 may not connect; wyoming.satellite.allow says who may")
    config = tmp_path / "own.yaml"
    for text, options, why in (
        ("", [], "wyoming.satellite.allow: says nobody may connect; name the server"),
        ("wyoming: {allow: [10.0.0.1]}", [], "says nobody may connect"),
        ("", ["--allow", "10.0.0.0/99"], "allow: '10.0.0.0/99' is no address"),
        ("", ["--allow", "::1", "--done-sound", "x"], "done_sound: nothing plays it; set play"),
        (
            "wyoming: {satellite: {allow: [], uri: tcp://0.0.0.0:1}}",
            [],
            "own.yaml, line 1: wyoming.satellite.allow: [] is not a list of at least 1",
        ),
        (
            f"wyoming: {{satellite: {{play: cat, awake_sound: {tmp_path}/no.wav}}}}",
            ["--allow", "::1"],
            "no.wav cannot be read",
        ),
        (
            f"wyoming: {{satellite: {{play: cat, awake_sound: {config}}}}}",
            ["--allow", "::1"],
            "own.yaml is no WAV file",
        ),
    ):
        config.write_text(text)
        command = ["-m", "kwsd", "wyoming", "--satellite", "--config", str(config), *options]
        done = forked.run(command)
        assert (done.returncode, why in done.stderr) == (78, True), done.stderr
    for options, odd in (
        (["--satellite", "--max-clients", "3"], "--max-clients is no option of a satellite"),
        (["--stop-word", "x"], "--stop-word is no option of the wake service"),
    ):
        done = forked.run(["-m", "kwsd", "wyoming", "--config", str(config), *options])
        assert (done.returncode, odd in done.stderr) == (64, True), done.stderr


def test_hostile_bytes_cost_the_server_nothing(serve: Serve, daemon: Daemon) -> None:
    """100,000 lines, corrupted streams, payloads without end, frames that never end."""
    service = serve("--play", "cat >/dev/null")
    generator = random.Random(11)

    async def steps() -> None:
        ping = b'{"type":"ping"}\n'
        unknown = b'{"type":"nonsense","data":{"a":[1,2,3]},"payload_length":3}\nabc'
        sound = b'{"type":"audio-start","data":{"rate":768000,"width":4,"channels":64}}\n'
        chunk = b'{"type":"audio-chunk","payload_length":%d}\n' % MAX_PAYLOAD + bytes(MAX_PAYLOAD)
        bad = [
            b"x" * (4 * MAX_LINE),
            b'{"type":"x","payload_length":99999999}\n' + bytes(1 << 22),
            b'{"type":"run-satellite"}\n' * 1000,
            sound + 40 * chunk,
            b'{"type":"timer-finished","data":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}\n",
        ]
        async with server(service) as client:
            loads = [asyncio.create_task(throw(service.port, data)) for data in bad]
            await throw(service.port, ping * 50_000 + unknown * 50_000)
            await asyncio.gather(*loads)
            slow = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(4)]
            for _, writer in slow:
                writer.write(b'{"type":')
            for stream in hostile(generator, 500):
                await throw(service.port, stream)
            # The server itself is hostile: sound without end, and starts without sound.
            for _ in range(5):
                client._writer.write(sound + 40 * chunk)  # type: ignore[union-attr]
                await client._writer.drain()  # type: ignore[union-attr]
                await none_comes_but_played(client)
            await send(client, AudioStop())
            for reader, writer in slow:  # after 10 s
                answered = await asyncio.wait_for(reader.read(), 30)
                assert b"no whole frame within 10 s" in answered
                writer.transport.abort()
            daemon.hear(np.concatenate([hiss(2.0), WORD]))
            while not Detection.is_type((await read(client)).type):
                pass

    before = service.memory_mib()
    asyncio.run(asyncio.wait_for(steps(), 240))
    assert service.memory_mib() < before + 96
    assert service.stop() == 0


async def none_comes_but_played(client: AsyncTcpClient) -> None:
    """Expect the answer to a ping, and nothing before it but that sounds have been played."""
    await send(client, Ping("sync"))
    while not Pong.is_type((event := await read(client)).type):
        assert Played.is_type(event.type)

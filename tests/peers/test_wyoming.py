"""`kwsd wyoming` as a process, and the library's own client as its peer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import forked
import numpy as np
import pytest
import satellites
from conftest import PHRASE, RATE, VOICES, Start, hiss, say
from test_wyoming_frames import hostile
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info, WakeModel
from wyoming.ping import Ping, Pong
from wyoming.wake import Detect, Detection, NotDetected
from wyoming_service import Service, read, run, throw

from kwsd.bridges.wyoming.frames import MAX_LINE, MAX_PAYLOAD
from kwsd.model.bundle import Bundle
from kwsd.protocol.commands import Reload
from kwsd.state.words import AddedWord, WordStore

SAMPLES = 1024
"""Samples of a chunk, as satellites send them."""


Serve = Callable[..., Service]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start services, and stop those that still run."""
    services: list[Service] = []

    def start(config: str = "", *arguments: str) -> Service:
        services.append(Service(tmp_path, config, *arguments))
        return services[-1]

    yield start
    for service in services:
        service.close()


async def send(client: AsyncTcpClient, samples: np.ndarray, time_ms: int | None = None) -> None:
    """Send int16 samples at 16 kHz in chunks."""
    for at in range(0, len(samples), SAMPLES):
        stamp = None if time_ms is None else time_ms + at // 16
        audio = samples[at : at + SAMPLES].astype("<i2").tobytes()
        await client.write_event(AudioChunk(RATE, 2, 1, audio, stamp).event())


async def begins(client: AsyncTcpClient, time_ms: int | None = None) -> None:
    """Send the start of a stream."""
    await client.write_event(AudioStart(RATE, 2, 1, time_ms).event())


async def models(client: AsyncTcpClient) -> dict[str, WakeModel]:
    """Return what the service says of its words."""
    await client.write_event(Describe().event())
    (program,) = Info.from_event(await read(client)).wake
    assert (program.name, program.installed) == ("kwsd", True)
    return {model.name: model for model in program.models}


def spoken(*words: str) -> np.ndarray:
    """Return words with pauses around them."""
    parts = [part for word in words for part in (hiss(1.0), say(word), hiss(1.0))]
    return np.concatenate(parts)


async def sync(client: AsyncTcpClient) -> Event:
    """Return what comes before the reply to a ping, which must be one event, or the reply."""
    await client.write_event(Ping("sync").event())
    return await read(client)


def test_a_short_run_as_home_assistant_makes_it(serve: Serve, bundle: Bundle) -> None:
    service = serve()

    async def steps() -> None:
        async with service.client() as client:
            found = await models(client)
            assert list(found) == list(bundle.words)
            mirror = found["smart_mirror"]
            assert (mirror.phrase, mirror.languages) == ("smart mirror", ["en"])
            assert "Picovoice" in mirror.attribution.name
            assert "Mycroft Precise" in found["computer"].attribution.name
        async with service.client() as client:
            await client.write_event(Detect(names=["computer"], context={"a": [1]}).event())
            await begins(client, 5000)
            await send(client, spoken("alexa", "computer"), 5000)
            detection = Detection.from_event(await read(client))
            assert (detection.name, detection.speaker) == ("computer", None)
            assert detection.context == {"a": [1]}
            assert detection.timestamp is not None
            end_ms = 5000 + (len(spoken("alexa")) + RATE + len(say("computer"))) / 16
            assert abs(detection.timestamp - end_ms) < 400
            await client.write_event(AudioStop().event())
            assert Pong.from_event(await sync(client)).text == "sync"

    run(steps())
    assert service.stop() == 0


def test_a_connection_that_lasts(serve: Serve) -> None:
    service = serve()

    async def steps() -> list[str]:
        events: list[str] = []
        async with service.client() as client:
            await client.write_event(Event("select-program", {"name": "kwsd"}))
            await client.write_event(Event("run-satellite", {}, b"a payload"))
            await begins(client)
            await send(client, spoken("computer", "alexa"))
            events += [str(Detection.from_event(await read(client)).name) for _ in range(2)]
            await client.write_event(AudioStop().event())  # it has detected something
            await begins(client)
            await send(client, spoken("good evening"))
            await client.write_event(AudioStop().event())
            events.append((await read(client)).type)
            # A start within a stream begins anew: half a word before it, half a word after.
            word = spoken("computer")
            middle = len(word) // 2
            await begins(client)
            await send(client, word[:middle])
            await begins(client)
            await send(client, word[middle:])
            await client.write_event(AudioStop().event())
            events.append((await read(client)).type)
            await client.write_event(Detect(names=["alexa"], context={"n": 2}).event())
            await begins(client)
            await send(client, spoken("computer"))
            await client.write_event(AudioStop().event())
            silent = await read(client)
            events += [silent.type, str(NotDetected.from_event(silent).context)]
            await client.write_event(Detect().event())  # all words, and no audio-start
            await send(client, spoken("computer"))
            events.append(str(Detection.from_event(await read(client)).name))
            assert Pong.from_event(await sync(client)).text == "sync"
        return events

    nothing = NotDetected().event().type
    expected = ["computer", "alexa", nothing, nothing, nothing, "{'n': 2}", "computer"]
    assert run(steps()) == expected


def test_other_formats(serve: Serve) -> None:
    service = serve()

    async def steps() -> None:
        import soxr

        wide = soxr.resample(spoken("computer").astype(np.float32) / 32768, RATE, 44100)
        audio = np.repeat((wide[:, None] * 2**31).astype("<i4"), 2, axis=1).tobytes()
        async with service.client() as client:
            await client.write_event(AudioStart(44100, 4, 2).event())
            for at in range(0, len(audio), 16384):
                chunk = AudioChunk(44100, 4, 2, audio[at : at + 16384])
                await client.write_event(chunk.event())
            assert Detection.from_event(await read(client)).name == "computer"
        for wrong, why in (
            ({"rate": 16000, "width": 5, "channels": 1}, "audio-chunk: width is not 1, 2, 3 or 4"),
            ({"rate": 16000, "width": 2}, "audio-chunk: channels is missing"),
            ({"rate": 1, "width": 2, "channels": 1}, "rate is not a whole number between 1000"),
            ({"rate": 16000, "width": 2, "channels": 1}, "3 bytes are not whole samples"),
        ):
            async with service.client() as client:
                await client.write_event(Event("audio-chunk", wrong, b"abc"))
                assert why in Error.from_event(await read(client)).text
                assert await client.read_event() is None, "the connection ends"

    run(steps())


def test_a_word_that_nobody_has_is_named(serve: Serve) -> None:
    service = serve()

    async def steps() -> None:
        async with service.client() as client:
            await client.write_event(Detect(names=["hey_nobody"]).event())
            error = Error.from_event(await read(client))
            assert "no word is called 'hey_nobody'; there are alexa, computer" in error.text
            await begins(client)
            await send(client, spoken("computer"))
            await client.write_event(AudioStop().event())
            assert NotDetected.is_type((await read(client)).type)

    run(steps())


def enroll(service_folder: Path, name: str, voice: str) -> None:
    """Enroll a voice with the daemon."""
    import soundfile

    takes = []
    for n, text in enumerate(("computer", "computer, turn on the light", "it is nice today")):
        takes.append(str(service_folder / f"{name}{n}.wav"))
        soundfile.write(takes[-1], say(text, voice), RATE)
    socket_path = str(service_folder / "k.sock")
    done = forked.run(["-m", "kwsd", "enroll", name, "--socket", socket_path, "--wav", *takes])
    assert done.returncode == 0, done.stderr


def test_the_daemons_words_and_voices_come_and_go_with_it(
    serve: Serve, start: Start, endless: Path, tmp_path: Path, bundle: Bundle, banana: AddedWord
) -> None:
    WordStore(tmp_path / "state", bundle.encoder_id).save(banana)
    service = serve()

    async def asked(speaker: str | None) -> None:
        async with service.client() as client:
            assert banana.name in await models(client)
            await client.write_event(Detect(names=[PHRASE]).event())
            await begins(client)
            await send(client, spoken(PHRASE))
            assert Detection.from_event(await read(client)).name == banana.name
            await client.write_event(Detect(names=["computer"]).event())
            for voice, who in ((VOICES[0], speaker), (VOICES[1], None)):
                await begins(client)
                await send(client, np.concatenate([hiss(1.0), say("computer", voice), hiss(1.0)]))
                detection = Detection.from_event(await read(client))
                assert (detection.name, detection.speaker) == ("computer", who)
                await client.write_event(AudioStop().event())

    async def without() -> None:
        async with service.client() as client:
            assert banana.name not in await models(client)

    run(without())
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()
    enroll(tmp_path, "ann", VOICES[0])
    service.said(f"words: {', '.join([*bundle.words, banana.name])}")
    deadline = time.monotonic() + 30
    while True:  # until it has looked at the daemon again
        try:
            run(asked("ann"))
            break
        except AssertionError:
            assert time.monotonic() < deadline
            time.sleep(1)
    # The daemon goes: its words stay, nobody is named. It comes back without the word.
    daemon.kill()
    service.said("trying again until it is there")
    run(asked(None))
    WordStore(tmp_path / "state", bundle.encoder_id).delete(banana.name)
    again = start("--source", str(endless), "--realtime")
    with again.connect() as client:
        client.request(Reload())
    service.said(f"words: {', '.join(bundle.words)}\n")
    run(without())
    assert service.stop() == 0


def test_only_an_enrolled_voice_where_the_configuration_asks_for_one(
    serve: Serve, start: Start, endless: Path, tmp_path: Path
) -> None:
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()
    enroll(tmp_path, "ann", VOICES[0])
    service = serve("speaker: {require: enrolled}\n")
    service.said("connected to kwsd")

    async def steps() -> list[str]:
        found = []
        async with service.client() as client:
            for voice in VOICES[:2]:
                await begins(client)
                await send(client, np.concatenate([hiss(1.0), say("computer", voice), hiss(1.0)]))
                await client.write_event(AudioStop().event())
                found.append((await read(client)).type)
                if Detection.is_type(found[-1]):
                    await sync(client)
        return found

    assert run(steps()) == [Detection().event().type, NotDetected().event().type]


def test_places_are_few_and_the_silent_make_room(serve: Serve) -> None:
    service = serve("wyoming: {max_clients: 2}\n")

    async def steps() -> None:
        async with service.client() as one, service.client() as two:
            await sync(one)
            await sync(two)
            async with service.client() as three:
                error = Error.from_event(await read(three))
                assert error.code == "busy"
                assert "2 clients are connected (wyoming.max_clients)" in error.text
        async with service.client() as four:
            assert Pong.is_type((await sync(four)).type)

    run(steps())


def test_a_stranger_to_the_network_is_turned_away(serve: Serve) -> None:
    service = serve("", "--allow", "192.0.2.0/24")

    async def steps() -> None:
        async with service.client() as client:
            with contextlib.suppress(ConnectionError):
                assert await client.read_event() is None

    run(steps())
    service.said("127.0.0.1 may not connect; wyoming.allow says who may")


def test_the_life_of_the_process(serve: Serve, tmp_path: Path) -> None:
    service = serve()
    beats = [service.ready.recv(4096) for _ in range(3)]
    assert beats == [b"WATCHDOG=1"] * 3, "as long as it moves"
    service.process.send_signal(signal.SIGSTOP)
    service.ready.settimeout(1.5)
    with pytest.raises(TimeoutError):
        [service.ready.recv(4096) for _ in range(3)]
    service.process.send_signal(signal.SIGCONT)
    # A port that is taken is named.
    where = ["--config", str(service.config), "--uri", f"tcp://127.0.0.1:{service.port}"]
    done = forked.run(["-m", "kwsd", "wyoming", *where])
    assert done.returncode == 69
    assert f"tcp://127.0.0.1:{service.port} cannot be had" in done.stderr
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(30) == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--uri", "http://x"], "uri: 'http://x' is not tcp://ADDRESS:PORT"),
        (["--uri", "tcp://x:0"], "uri: 'tcp://x:0' is not tcp://ADDRESS:PORT"),
        (["--allow", "10.0.0.0/99"], "allow: '10.0.0.0/99' is no address or network"),
        (["--max-clients", "5000"], "max_clients"),
    ],
)
def test_options_that_cannot_be(options: list[str], why: str, tmp_path: Path) -> None:
    config = tmp_path / "kwsd.yaml"
    config.touch()
    done = forked.run(["-m", "kwsd", "wyoming", "--config", str(config), *options])
    assert done.returncode == 78
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1
    config.write_text(json.dumps({"wyoming": {"uri": "nonsense", "max_clients": 5}}))
    done = forked.run(["-m", "kwsd", "wyoming", "--config", str(config)])
    assert done.returncode == 78
    assert f"{config}, line 1: wyoming: uri: 'nonsense' is not tcp" in done.stderr


def test_hostile_bytes_cost_nobody_else(serve: Serve) -> None:
    """100,000 lines, corrupted streams, payloads and data without end, frames that never end."""
    service = serve("wyoming: {max_clients: 64}\n")
    generator = random.Random(7)

    async def detects() -> None:
        async with service.client() as client:
            await begins(client)
            await send(client, spoken("computer"))
            assert Detection.from_event(await read(client)).name == "computer"

    async def steps() -> None:
        ping = b'{"type":"ping"}\n'
        unknown = b'{"type":"nonsense","data":{"a":[1,2,3]},"payload_length":3}\nabc'
        lines = ping * 50_000 + unknown * 50_000
        chunk = b'{"type":"audio-chunk","data":{"rate":1000,"width":1,"channels":1}'
        flood = chunk + b',"payload_length":%d}\n' % MAX_PAYLOAD + bytes(MAX_PAYLOAD)
        bad = [
            b"x" * (4 * MAX_LINE),
            b'{"type":"x","payload_length":99999999}\n' + bytes(1 << 22),
            b'{"type":"x","data_length":99999999}\n' + bytes(1 << 22),
            b'{"type":"detect","data":{"names":["' + b'","'.join([b"a"] * 10_000) + b'"]}}\n',
            b'{"type":"detect","data":{"context":' + b'{"a":' * 5000 + b"1" + b"}" * 5001 + b"}\n",
        ]
        loads = [asyncio.create_task(throw(service.port, data)) for data in [lines, *bad]]
        slow = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(10)]
        for _, writer in slow:
            writer.write(b'{"type":')
        endless = [asyncio.create_task(throw(service.port, flood)) for _ in range(4)]
        await detects()
        for stream in hostile(generator, 500):
            await throw(service.port, stream)
        await detects()
        await asyncio.gather(*loads)
        for reader, writer in slow:  # after 10 s
            answer = b""
            with contextlib.suppress(ConnectionError):
                answer = await asyncio.wait_for(reader.read(), 30)
            assert b"no whole frame within 10 s" in answer
            writer.transport.abort()
        for task in endless:  # audio of half an hour, which is heard in real time
            assert not task.done()
            task.cancel()
        await asyncio.gather(*endless, return_exceptions=True)
        await detects()

    before = service.memory_mib()
    asyncio.run(asyncio.wait_for(steps(), 240))
    assert service.memory_mib() < before + 64
    assert service.stop() == 0


def test_many_satellites_are_all_heard() -> None:
    report = satellites.measure(4, 8.0)
    assert report.spoken >= 2
    assert report.detected >= report.spoken


def flood(sock: socket.socket, data: bytes) -> None:
    """Send for ever. Raises ConnectionError where the other end hangs up."""
    while True:
        sock.sendall(data)


def test_a_client_that_never_reads_is_dropped(serve: Serve) -> None:
    service = serve()
    with socket.create_connection(("127.0.0.1", service.port)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(60)
        with pytest.raises(ConnectionError):
            flood(sock, b'{"type":"describe"}\n' * 1000)
    service.said("does not read")

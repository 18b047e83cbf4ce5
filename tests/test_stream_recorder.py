"""The stream recorder and the endpointer, fed by hand: what is sent, when it ends, and gaps."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import numpy as np
import pytest
from conftest import RATE, hiss, say

from kwsd.audio import pcm
from kwsd.audio.endpointer import NO_SPEECH_S, Endpointer
from kwsd.audio.ring import Ring
from kwsd.protocol.commands import Stream
from kwsd.protocol.live import LiveMessage, StreamAudio, StreamEnd
from kwsd.server import channel as channels
from kwsd.server.channel import Channel
from kwsd.server.consumer import Break
from kwsd.server.hub import Subscriber
from kwsd.server.stream_recorder import StreamRecorder

CHUNK = 1280


class FakeChannel(Channel):
    """Keeps the messages; it is full when the test says so."""

    def __init__(self) -> None:
        self.sent: list[LiveMessage] = []
        self.full = False

    @property
    def is_full(self) -> bool:
        return self.full

    def send(self, message: LiveMessage) -> None:
        self.sent.append(message)

    @property
    def audio(self) -> list[StreamAudio]:
        """The audio that was sent."""
        return [one for one in self.sent if isinstance(one, StreamAudio)]

    @property
    def end(self) -> StreamEnd | None:
        """The end, which comes once and last."""
        ends = [one for one in self.sent if isinstance(one, StreamEnd)]
        assert len(ends) <= 1
        assert not ends or self.sent[-1] is ends[0]
        if ends:
            assert ends[0].messages == len(self.audio)
        return ends[0] if ends else None


class Board:
    """A look-back of ten seconds that holds `samples`, and a stream of it."""

    def __init__(self, samples: np.ndarray, **request: float | None) -> None:
        self.ring = Ring(10 * RATE, np.int16)
        self.ring.append(samples)
        self.channel = FakeChannel()
        given: dict[str, float | None] = {"silence_s": 0, **request}
        command = Stream(**given)  # type: ignore[arg-type]
        self.recorder = StreamRecorder(1, command, self.ring, self.channel)

    def hear(self, samples: np.ndarray, block: int = CHUNK) -> None:
        """Hear more, a block at a time."""
        for at in range(0, len(samples), block):
            self.ring.append(samples[at : at + block])
            self.recorder._send_on()

    def heard(self) -> np.ndarray:
        """Return the samples that were sent; their messages are whole and without gaps."""
        at = self.channel.audio[0].start
        for n, one in enumerate(self.channel.audio):
            assert (one.index, one.start, one.stream) == (n, at, 1)
            at += len(one.pcm) // 2
        return pcm.from_bytes(b"".join(one.pcm for one in self.channel.audio))

    def end(self) -> tuple[str, int]:
        """Return why and where it has ended."""
        assert self.channel.end is not None
        return self.channel.end.reason, self.channel.end.end


@pytest.mark.parametrize("block", [1, 160, 1000, CHUNK, 5000])
@pytest.mark.parametrize("start", [0, 777, 3 * RATE - 1, 3 * RATE])
def test_nothing_between_the_first_sample_and_the_request_is_lost(start: int, block: int) -> None:
    samples = hiss(5, 1000)
    board = Board(samples[: 3 * RATE], start=start, max_s=60)
    assert board.recorder.begin() == start
    now = 3 * RATE - start
    assert sum(len(one.pcm) // 2 for one in board.channel.audio) == now - now % CHUNK  # at once
    board.hear(samples[3 * RATE : 3 * RATE + (200 if block == 1 else 2 * RATE)], block)
    board.recorder.close()
    assert np.array_equal(board.heard(), samples[start : board.ring.end])
    assert board.end() == ("recording_ended", board.ring.end)


@pytest.mark.parametrize(
    ("request_", "begins"),
    [
        ({}, 12 * RATE),
        ({"pre_roll_s": 0.5}, 12 * RATE - RATE // 2),
        ({"pre_roll_s": 300}, 2 * RATE),
        ({"start": 0}, 2 * RATE),
        ({"start": 12 * RATE}, 12 * RATE),
    ],
)
def test_where_it_begins(request_: dict[str, float], begins: int) -> None:
    board = Board(hiss(12), **request_)
    assert board.recorder.begin() == begins


def test_what_has_not_come_yet_is_refused() -> None:
    board = Board(hiss(1), start=RATE + 1)
    with pytest.raises(LookupError, match="sample 16001 has not come yet; the next one is 16000"):
        board.recorder.begin()


@pytest.mark.parametrize("samples", [1, CHUNK - 1, CHUNK, CHUNK + 1, 20000])
def test_it_ends_at_its_length_to_the_sample(samples: int) -> None:
    board = Board(hiss(1), start=100, max_s=samples / RATE)
    board.recorder.begin()
    board.hear(hiss(3))
    board.recorder.close()
    assert board.end() == ("length", 100 + samples)
    assert len(board.heard()) == samples


def test_a_client_that_reads_slowly_has_the_look_back_and_no_more() -> None:
    board = Board(np.zeros(0, np.int16), max_s=60)
    samples = hiss(16, 1000)
    board.recorder.begin()
    board.hear(samples[:RATE])
    board.channel.full = True
    board.hear(samples[RATE : 10 * RATE])
    assert len(board.channel.audio) == 12
    board.channel.full = False
    board.hear(samples[10 * RATE : 11 * RATE])  # it has caught up
    assert np.array_equal(board.heard(), samples[: len(board.heard())])
    assert len(board.heard()) > 11 * RATE - CHUNK
    board.channel.full = True
    board.hear(hiss(10.2))
    reason, end = board.end()
    assert reason == "slow"
    assert np.array_equal(board.heard(), samples[:end])


@pytest.mark.parametrize("why", ["lost", "paused"])
def test_it_ends_with_the_microphone_after_all_that_was_heard(why: Break) -> None:
    board = Board(hiss(1))
    board.recorder.begin()
    board.hear(hiss(0.5), 700)
    board.channel.full = True
    board.hear(hiss(0.5), 700)
    board.recorder.broken_off(why)
    assert board.end() == (why, 2 * RATE)
    assert len(board.heard()) == RATE
    board.hear(hiss(1))
    board.recorder.close()
    assert not board.recorder.stop()
    assert board.end() == (why, 2 * RATE)


def test_a_gap_shows_in_the_messages_and_does_not_end_it() -> None:
    board = Board(hiss(1), start=RATE, max_s=0.55)
    board.recorder.begin()
    first, second = hiss(0.25, 1000), hiss(0.3, 1000, seed=1)
    board.hear(first)
    board.recorder.broken_off("gap")
    board.recorder.broken_off("gap")
    board.ring.restart(10 * CHUNK + 5 * RATE)
    board.hear(second, 999)
    board.recorder.close()
    audio = board.channel.audio
    assert [one.index for one in audio] == list(range(len(audio)))
    before = [one for one in audio if one.start < 2 * RATE]
    after = audio[len(before) :]
    assert pcm.from_bytes(b"".join(one.pcm for one in before)).tolist() == first.tolist()
    assert after[0].start == 10 * CHUNK + 5 * RATE
    assert pcm.from_bytes(b"".join(one.pcm for one in after)).tolist() == second.tolist()
    assert board.end() == ("length", after[0].start + len(second))  # the gap does not count


def test_a_stop_ends_it_at_once() -> None:
    board = Board(hiss(1), start=0)
    board.recorder.begin()
    assert board.recorder.stop()
    assert board.end() == ("stopped", 12 * CHUNK)


def spoken(*parts: np.ndarray, noise: float = 3.0) -> np.ndarray:
    """Return the parts, in noise."""
    joined = np.concatenate(parts).astype(np.int32)
    return np.asarray(joined + hiss(len(joined) / RATE, noise)[: len(joined)], np.int16)


def quiet(seconds: float) -> np.ndarray:
    """Return silence."""
    return np.zeros(int(seconds * RATE), np.int16)


def ends(samples: np.ndarray, start: int, silence_s: float = 0.8) -> tuple[str | None, float]:
    """Return why a stream from `start` ends, and how many seconds after it."""
    endpointer = Endpointer(silence_s, samples[max(start - 5 * RATE, 0) : start])
    for at in range(start, len(samples) - CHUNK + 1, CHUNK):
        if why := endpointer.step(samples[at : at + CHUNK]):
            return why, (at + CHUNK - start) / RATE
    return None, (len(samples) - start) / RATE


@pytest.mark.parametrize("noise", [3.0, 230.0])
@pytest.mark.parametrize("pause_s", [0.0, 1.5])
def test_it_ends_after_the_command_be_it_said_at_once_or_later(
    pause_s: float, noise: float
) -> None:
    before = [quiet(4), say("computer")]
    command = say("turn on the light in the kitchen")
    samples = spoken(*before, quiet(pause_s), command, quiet(7), noise=noise)
    start = sum(map(len, before)) - RATE // 4  # a bit of the word is still in it
    why, end_s = ends(samples, start)
    spoken_s = 0.25 + pause_s + len(command) / RATE
    assert why == "silence"
    assert spoken_s - 0.1 <= end_s <= spoken_s + 1.0
    assert ends(samples, start, silence_s=2)[1] == pytest.approx(end_s + 1.2, abs=0.1)


def test_it_waits_for_speech_and_gives_up() -> None:
    before = [quiet(4), say("computer")]
    samples = spoken(*before, quiet(8))
    start = sum(map(len, before)) - RATE // 4
    for silence_s, waits_s in ((0.8, NO_SPEECH_S), (7.0, 7.0)):
        why, end_s = ends(samples, start, silence_s)
        assert why == "no_speech"
        assert end_s == pytest.approx(waits_s + 0.2, abs=0.3)


def test_what_is_much_fainter_than_the_command_does_not_go_on() -> None:
    faint = (say("and now the weather for tomorrow " * 4) // 30).astype(np.int16)
    before = [quiet(4), say("computer")]
    command = say("turn on the light")
    samples = spoken(*before, command, faint, noise=1.0)
    why, end_s = ends(samples, sum(map(len, before)))
    assert why == "silence"
    assert end_s < len(command) / RATE + 1.5


def test_a_pre_roll_and_the_silence_end_one_stream() -> None:
    samples = spoken(quiet(4), say("turn on the light"), quiet(2))
    board = Board(samples[: 5 * RATE], pre_roll_s=1.5, silence_s=0.8)
    board.recorder.begin()
    board.hear(samples[5 * RATE :])
    reason, end = board.end()
    assert reason == "silence"
    assert end < len(samples)
    assert np.array_equal(board.heard(), samples[int(3.5 * RATE) : end])


def test_nothing_passes_a_channel_before_it_is_open_and_what_is_unread_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channels, "MAX_UNREAD_BYTES", 100_000)
    ended: list[str] = []

    async def settled(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        subscriber = Subscriber(ours, "client", 1 << 16, lambda: None)
        channel = Channel(subscriber)
        channel.ended = lambda: ended.append("ended")
        message = StreamAudio(1, 0, 0, bytes(2560))
        channel.send(message)
        await asyncio.sleep(0.01)
        with pytest.raises(BlockingIOError):
            theirs.recv(10)
        channel.open()
        assert theirs.recv(1 << 16).startswith(b'{"type":"stream","stream":1,"index":0,')
        sent = 1
        while not channel.is_full:
            await asyncio.to_thread(channel.send, message)
            sent += 1
            assert sent < 10_000
        await asyncio.to_thread(channel.send, StreamEnd(1, sent, sent, "slow"))
        received = b""

        def take() -> bool:
            nonlocal received
            with contextlib.suppress(BlockingIOError):
                received += theirs.recv(1 << 16)
            return received.endswith(b'"reason":"slow"}\n')

        await settled(take)
        assert received.count(b"\n") == sent  # all but the first, and the end
        assert not channel.is_full
        assert ended == ["ended"]
        await asyncio.to_thread(channel.send, message)  # after the end: dropped, and counted
        await settled(lambda: subscriber.live_sent == subscriber.live_bytes)
        assert subscriber.backlog == 0
        subscriber.close()
        theirs.close()

    asyncio.run(run())

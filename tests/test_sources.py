"""A live pipe: gaps, formats, lag, and what is refused; a recording in real time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import forked
import numpy as np
import pytest

from kwsd.audio.devices import MicrophoneError
from kwsd.audio.files import AudioFileError
from kwsd.audio.raw_pcm import RawConverter, RawFormat
from kwsd.config import MicrophoneConfig
from kwsd.server.sources import PipeInput, RecordingSource

CONFIG = MicrophoneConfig(stall_s=0.5)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Open a pipe: the end that is read, and the end that is written."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue  # the test has closed it


def read_all(source: PipeInput) -> np.ndarray:
    """Return everything until the end."""
    with source.open(CONFIG, lambda: False) as opened:
        return np.concatenate([block.samples for block in iter(lambda: opened.read(4), None)])


@pytest.mark.parametrize(
    ("samples", "dtype", "scale"),
    [("s16", "<i2", 1), ("s24", "<i4", 65536), ("s32", "<i4", 65536), ("f32", "<f4", 2**-15)],
)
def test_every_format_gives_the_same_samples(
    pipe: tuple[int, int], samples: str, dtype: str, scale: float
) -> None:
    reading, writing = pipe
    expected = np.arange(-3000, 3000, dtype=np.int16)
    data = np.zeros((6000, 2), dtype)
    data[:, 1] = expected.astype(float) * scale
    written = data.tobytes()
    if samples == "s24":  # the three upper bytes of each
        written = np.frombuffer(written, np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    os.write(writing, written + b"\x01")  # and a byte of a sample that never comes
    os.close(writing)
    format = RawFormat(samples, 16000, 2)  # type: ignore[arg-type] # one of them
    heard = read_all(PipeInput(reading, format, 1))
    assert (heard[:6000] == expected).all()
    assert (heard[6000:] == expected[-1]).all()  # the tail goes on from the last sample


def test_a_sample_of_one_byte_is_signed() -> None:
    converter = RawConverter(RawFormat("s8"), 0, "it")
    assert converter.step(bytes([0, 1, 127, 128, 255])).tolist() == [0, 256, 32512, -32768, -256]


def test_a_pipe_with_nothing_in_it_is_lost_and_comes_back(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return False

    source = PipeInput(reading, RawFormat(), 0)
    with source.open(CONFIG, stop) as opened:
        with pytest.raises(MicrophoneError, match=r"delivered nothing for 0\.5 s"):
            opened.read()
        assert asked >= 3  # it does not hang: whoever watches it sees it move
        os.write(writing, bytes(2 * 1280))
        block = opened.read()
    assert block is not None
    assert len(block.samples) == 1280
    assert source.meter.levels_dbfs == [-100]


def test_what_came_before_a_gap_is_not_held_back(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.write(writing, bytes(2 * 500))
    with PipeInput(reading, RawFormat(), 0).open(CONFIG, lambda: False) as opened:
        block = opened.read()
        assert block is not None
        assert len(block.samples) == 500
        with pytest.raises(MicrophoneError):
            opened.read()


def test_samples_that_are_not_numbers_count_as_zero(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    reading, writing = pipe
    values = np.array([0.5, np.nan, np.inf, -np.inf, 9.0, -0.5], "<f4")
    os.write(writing, values.tobytes() * 2)
    os.close(writing)
    heard = read_all(PipeInput(reading, RawFormat("f32"), 0))
    assert heard[:6].tolist() == [16384, 0, 0, 0, 32767, -16384]
    assert caplog.text.count("not numbers") == 1


def test_a_sample_that_is_far_too_large_is_clipped_and_its_level_stays_a_number(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    values = np.array([1e30, -3e38, np.nan, 0.5], "<f4")
    os.write(writing, values.tobytes())
    os.close(writing)
    source = PipeInput(reading, RawFormat("f32"), 0)
    assert read_all(source)[:4].tolist() == [32767, -32768, 0, 16384]
    assert all(np.isfinite(source.meter.levels_dbfs))


def test_a_pipe_that_was_left_waiting_is_behind_and_a_fast_writer_is_not(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    second = bytes(2 * 16000)
    with PipeInput(reading, RawFormat(), 0).open(CONFIG, lambda: False) as opened:
        os.write(writing, second + second[:10000])
        block = opened.read()
        assert block is not None
        assert time.monotonic() - block.arrived < 0.1  # a second came at once: nobody waits for it
        time.sleep(1.2)
        block = opened.read()
    assert block is not None
    assert time.monotonic() - block.arrived > 0.7


@pytest.mark.parametrize(
    ("format", "channel", "message"),
    [
        ({"rate": 0}, 0, "a sample rate of 0 Hz"),
        ({"rate": -16000}, 0, "a sample rate of -16000 Hz"),
        ({"channels": 0}, 0, r"0 channel\(s\); expected 1…64"),
        ({"channels": 100_000}, "mix", r"100000 channel\(s\)"),
        ({"channels": 2}, 2, "no channel 2"),
        ({"samples": "s20"}, 0, "'s20'; expected one of s8, s16, s24, s32, f32"),
    ],
)
def test_formats_that_cannot_be_are_refused(
    format: dict[str, int], channel: int | str, message: str
) -> None:
    with pytest.raises(AudioFileError, match=message):
        PipeInput(0, RawFormat(**format), channel)  # type: ignore[arg-type] # that is the point


@pytest.mark.parametrize(
    ("shell", "message"),
    [
        ("<&-", "standard input is closed; write raw PCM into it"),
        ("</dev/null", "standard input is /dev/null"),
        ("0>>raw", "standard input can only be written to"),
        ("--rate 0 <raw", "a sample rate of 0 Hz"),
        ("--channels 0 |", "0 channel(s)"),
    ],
)
def test_what_cannot_be_heard_is_refused_before_ready(
    tmp_path: Path, shell: str, message: str
) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(32000))
    *options, stdin = shell.split()
    where = ["--socket", str(tmp_path / "k.sock"), "--state", str(tmp_path / "state")]
    command = ["-m", "kwsd", "run", "--source", "-", *where, *options]
    if stdin == "<&-":
        closing = "import os, sys, kwsd.cli.main as cli; os.close(0); sys.stdin = None"
        command[:2] = ["-c", f"{closing}; sys.exit(cli.main())"]
    with raw.open("rb") as reading, raw.open("ab") as writing:
        streams: dict[str, forked.Stream] = {"<raw": reading, "0>>raw": writing, "|": forked.PIPE}
        given = streams.get(stdin, forked.DEVNULL)
        process = forked.Process(command, stdin=given, stderr=forked.PIPE, text=True)
        _, said = process.communicate(30)
    assert process.wait() == 66
    assert message in said
    assert "Traceback" not in said
    assert "listening" not in said


def test_a_recording_in_real_time_says_when_its_samples_were_due() -> None:
    blocks = iter([np.zeros(800, np.int16)] * 3)
    source = RecordingSource("it", blocks, realtime=True)
    arrivals = [block.arrived for block in iter(source.read, None)]
    assert np.diff(arrivals) == pytest.approx([0.05, 0.05])

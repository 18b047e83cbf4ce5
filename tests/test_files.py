"""Recordings of every kind become the same mono 16 kHz stream, or are refused by name."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from kwsd.audio.files import AudioFileError, MonoConverter, dead_channel, read_all, read_blocks
from kwsd.audio.raw_pcm import RawFormat, raw_blocks

RATE = 16000
TONE = (8000 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.int16)


def tone(rate: int, channels: int = 1) -> np.ndarray:
    """Return a second of the tone, float `[sample, channel]`."""
    x = 8000 / 32768 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    return np.repeat(x[:, None], channels, axis=1)


SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"]


@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (8000, 1), (44100, 2), (96000, 6)])
def test_every_format_gives_the_same_tone(
    tmp_path: Path, subtype: str, rate: int, channels: int
) -> None:
    soundfile.write(tmp_path / "x.wav", tone(rate, channels), rate, subtype=subtype)
    got = read_all(tmp_path / "x.wav").astype(float)
    assert abs(len(got) - 16000) <= 2
    error = got[500:15500] - TONE[500:15500]
    assert np.sqrt(np.mean(error**2)) < (400 if subtype in ("PCM_U8", "ULAW") else 60)


def test_a_channel_can_be_chosen_or_all_mixed(tmp_path: Path) -> None:
    both = np.stack([np.full(1600, 1000, np.int16), np.full(1600, 3000, np.int16)], axis=1)
    soundfile.write(tmp_path / "x.wav", both, 16000)
    means = []
    for channel in (0, 1, "mix"):
        blocks = list(read_blocks(tmp_path / "x.wav", channel=channel))
        means.append(float(np.mean(np.concatenate(blocks))))
    assert means == pytest.approx([1000, 3000, 2000], abs=1)
    soundfile.write(tmp_path / "mono.wav", tone(RATE), RATE)
    only = np.concatenate(list(read_blocks(tmp_path / "mono.wav", channel=1)))
    assert np.array_equal(only, read_all(tmp_path / "mono.wav"))
    with pytest.raises(AudioFileError, match=r"2 channel\(s\), so no channel 2"):
        list(read_blocks(tmp_path / "x.wav", channel=2))


def test_a_channel_that_is_dead_while_another_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    offset = 0.02  # of a cheap sound card: no sound
    sound = tone(RATE)[:, 0]
    soundfile.write(path, np.stack([np.full(RATE, offset), sound, 0.1 * sound], axis=1), RATE)
    expected = "channel 0 is silent, channels 1, 2 are not; set microphone.channel to 1, or to mix"
    assert dead_channel(path, 0) == expected
    assert [dead_channel(path, channel) for channel in (1, 2, 3, "mix")] == [None] * 4
    soundfile.write(path, np.zeros((RATE, 2)), RATE)
    assert dead_channel(path, 0) is None


@given(size=st.floats(0.001, 0.4))
def test_blocks_add_up_whatever_their_size(
    tmp_path_factory: pytest.TempPathFactory, size: float
) -> None:
    path = tmp_path_factory.mktemp("b") / "x.wav"
    soundfile.write(path, tone(44100), 44100, subtype="PCM_16")
    joined = np.concatenate(list(read_blocks(path, size))).astype(int)
    assert np.abs(joined - read_all(path)).max() <= 1


def wav(data: bytes, said: int) -> bytes:
    """Return a WAV whose header declares `said` bytes of `data`."""
    form = struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    chunk = b"data" + struct.pack("<I", said) + data
    return b"RIFF" + struct.pack("<I", 36 + said) + b"WAVEfmt " + form + chunk


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"RIFF", "not a recording"),
        (b"this is a text, not a recording" * 20, "not a recording"),
        (bytes(range(256)) * 20, "not a recording"),
        (wav(b"", 0), "contains no samples"),
    ],
)
def test_what_is_not_a_recording_is_refused_by_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(AudioFileError, match=message) as caught:
        read_all(tmp_path / "x.wav")
    assert str(tmp_path / "x.wav") in str(caught.value)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="no such file"):
        read_all(tmp_path / "no.wav")
    with pytest.raises(AudioFileError, match="is a folder"):
        read_all(tmp_path)


def test_a_truncated_wav_gives_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(TONE[:8000].tobytes(), 32000))
    assert np.array_equal(read_all(tmp_path / "x.wav"), TONE[:8000])


def test_samples_that_are_not_numbers(tmp_path: Path) -> None:
    x = tone(16000)[:, 0]
    x[100] = np.nan
    soundfile.write(tmp_path / "x.wav", x, 16000, subtype="FLOAT")
    with pytest.raises(AudioFileError, match=r"samples that are not numbers \(NaN or infinite\)"):
        read_all(tmp_path / "x.wav")


def test_raw_pcm_of_any_rate_and_count_ending_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    raw = (tone(48000, 2) * 32768).astype("<i2").tobytes()
    got = np.concatenate(list(raw_blocks(io.BytesIO(raw + b"\x01"), RawFormat("s16", 48000, 2), 0)))
    assert abs(len(got) - 16000) <= 2
    assert np.sqrt(np.mean((got[500:15500].astype(float) - TONE[500:15500]) ** 2)) < 60
    assert "ended within a sample" in caplog.text


def test_an_absurd_rate_is_refused() -> None:
    with pytest.raises(AudioFileError, match="outside 1000"):
        MonoConverter(10, 1, 0, "x")


def damaged(tmp_path: Path, name: str, share: float) -> Path:
    """Return two seconds of noise in a format, of which a share of the bytes is left."""
    noise = np.random.default_rng(0).normal(0, 0.1, 160_000)
    soundfile.write(tmp_path / name, noise, 16000)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    return tmp_path / name


@pytest.mark.parametrize("name", ["x.flac", "x.mp3"])
def test_what_cannot_be_decoded_to_its_end_gives_what_is_there_and_an_error(
    tmp_path: Path, name: str
) -> None:
    path = damaged(tmp_path, name, 0.6)
    blocks: list[np.ndarray] = []
    with pytest.raises(AudioFileError, match=r"damaged or cut off after \d\.\d s") as caught:
        blocks.extend(read_blocks(path))
    assert str(path) in str(caught.value)
    assert 64_000 < sum(map(len, blocks)) < 100_000


def test_a_wav_that_was_cut_off_is_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = damaged(tmp_path, "x.wav", 0.5)
    read_all(path)
    assert (
        f"{path}: cut off: its header speaks of 320036 bytes, and 160014 are there" in caplog.text
    )
    caplog.clear()
    (tmp_path / "y.wav").write_bytes(wav(TONE.tobytes(), 2**32 - 40))  # a pipe's: nobody knew
    assert np.array_equal(read_all(tmp_path / "y.wav"), TONE)
    assert caplog.text == ""


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_a_number_that_is_none_is_refused_wherever_it_is(
    tmp_path: Path, number: float, subtype: str
) -> None:
    x = tone(48000)[:, 0]
    x[-1] = number
    soundfile.write(tmp_path / "x.wav", x, 48000, subtype=subtype)
    with pytest.raises(AudioFileError, match=r"x.wav: contains samples that are not numbers"):
        read_all(tmp_path / "x.wav")


def test_samples_beyond_all_bounds_are_clipped(tmp_path: Path) -> None:
    x = np.where(np.arange(48000) % 2, 3e38, -3e38)
    soundfile.write(tmp_path / "x.wav", x, 48000, subtype="FLOAT")
    assert read_all(tmp_path / "x.wav").dtype == np.int16


def test_a_header_that_lies_is_bounded(tmp_path: Path) -> None:
    header = bytearray(wav(bytes(200_000), 200_000))
    struct.pack_into("<HI", header, 22, 1000, 16000)  # channels
    struct.pack_into("<H", header, 32, 2000)
    (tmp_path / "x.wav").write_bytes(header)
    blocks = list(read_blocks(tmp_path / "x.wav", 5.0))
    assert sum(map(len, blocks)) == 100
    for offset, form, number in ((22, "<H", 0), (24, "<I", 0), (24, "<I", 2**31 - 1)):
        header = bytearray(wav(TONE.tobytes(), 32000))
        struct.pack_into(form, header, offset, number)
        (tmp_path / "x.wav").write_bytes(header)
        with pytest.raises(AudioFileError, match=r"x\.wav: "):
            read_all(tmp_path / "x.wav")


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioFileError, match=r"pipe.wav: not a recording .*it is a pipe"):
        read_all(tmp_path / "pipe.wav")
    with pytest.raises(AudioFileError, match=r"/dev/zero: not a recording .*it is a device"):
        read_all("/dev/zero")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    with pytest.raises(AudioFileError, match=r"loop.wav: cannot be read \(Too many levels"):
        read_all(tmp_path / "loop.wav")

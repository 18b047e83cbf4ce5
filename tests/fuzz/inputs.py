"""Kinds of input beside the files of a state directory: configuration, recordings, lines."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import soundfile
from declared import example, line, wrong_requests
from msgspec import Struct, structs
from msgspec.inspect import type_info

from fuzz import mutations
from fuzz.kinds import Kind, StateKind, check_message
from kwsd import config_file
from kwsd.audio.files import AudioFileError, read_blocks, total_seconds
from kwsd.config import Config, ConfigError, WordConfig
from kwsd.protocol.commands import COMMANDS
from kwsd.protocol.messages import Connection, encode_error
from kwsd.protocol.parsing import InvalidRequest


def dumped(config: Config) -> str:
    """Return a configuration as YAML, with every key."""
    return msgspec.yaml.encode(config).decode()


ODD_YAML = (
    "maybe",
    "!!int x",
    "!!float ''",
    "!!bool maybe",
    "!!null x",
    "!!binary '%%'",
    "!!timestamp x",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!python/object/apply:os.system [x]",
    "!x 1",
    "2001-99-99",
    "2001-01-01",
    ".nan",
    "-.inf",
    "1e400",
    "1.0e+400",
    "9" * 5000,
    "0x" + "f" * 400,
    "0b",
    "1:30:00",
    "190:20:30.15",
    "010",
    "''",
    '"\\0"',
    '"\\ud800"',
    '"\\x1b[31m"',
    "null",
    "~",
    "[]",
    "{}",
    "[1, [2, [3]]]",
    "{a: b}",
    "{? [1] : 2}",
    "{? {a: 1} : 2}",
    "{<<: {a: 1}}",
    "&a [*a]",
    "&a {b: *a}",
    "*unknown",
    "[" * 500,
    "[" * 30 + "]" * 30,
    "{a: " * 30 + "1" + "}" * 30,
    "- ",
    "|\n  text",
    ">-\n  folded",
    "'unclosed",
    '"\\q"',
    "@x",
    "%TAG",
    "? ",
    "=",
    "x" * 3000,
    "é" * 300,
    "{1: 2, 1: 3}",
    "{on: 1, 'on': 2}",
    "yes",
    "-1",
    "1e-320",
    "!!str 1",
    "\t1",
    "# comment",
)
BOMB = "".join(
    f"{new}: &{new} [{', '.join(9 * ['*' + old])}]\n" for old, new in itertools.pairwise("abcdefgh")
)


def keys(kind: type[Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key of a part of the configuration."""
    for field in structs.fields(kind):
        at = (*path, field.name)
        yield at
        if field.name == "words":
            yield (*at, "computer")
            yield from keys(WordConfig, (*at, "computer"))
        elif isinstance(field.type, type) and issubclass(field.type, Struct):
            yield from keys(field.type, at)


class ConfigurationKind(Kind):
    """A configuration."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.keys = list(keys(Config))
        self.path = folder / "kwsd.yaml"
        self.seeds = [
            dumped(Config()),
            "words:\n  computer: {threshold: strict}\n  alexa:\nvad: off\nclips: on\n",
            "speaker:\n  require: [ann, bob]\nmicrophone:\n  channel: mix\n  device: USB\n",
        ]

    def sound(self) -> Iterable[bytes]:
        return [seed.encode() for seed in self.seeds]

    def corrupted(self, rng: Random, index: int) -> bytes:
        choice = rng.randrange(10)
        if choice < 3:
            return mutations.corrupt_bytes(rng.choice(self.seeds).encode(), rng)
        if choice < 8:
            path = rng.choice(self.keys)
            text = "".join(f"{'  ' * n}{key}:\n" for n, key in enumerate(path))
            text = f"{text[:-1]} {rng.choice(ODD_YAML)}\n"
            return (rng.choice(("", "log_peaks: on\n", "--- \n", "\ufeff")) + text).encode()
        if choice == 8:
            odd = rng.choice(ODD_YAML)
            return f"{odd}: {rng.choice(ODD_YAML)}\nwords: {{computer: }}\n".encode()
        lines = rng.choice(self.seeds).splitlines()
        lines.insert(
            rng.randrange(len(lines) + 1), rng.choice((*ODD_YAML, "a: &a [1, 1]\n" + BOMB))
        )
        return "\n".join(lines).encode()

    def check(self, data: bytes) -> bool:
        self.path.write_bytes(data)
        try:
            config = config_file.load(self.path)
        except ConfigError as error:
            check_message(error, f"{self.path}, line ")
            return False
        assert config_file.parse(dumped(config)) == config
        config.state_directory()
        config.socket_path()
        return True


FORMATS = (
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAV", "IMA_ADPCM"),
    ("WAVEX", "PCM_16"),
    ("W64", "PCM_16"),
    ("RF64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "FLOAT"),
    ("CAF", "ALAC_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
)
FIELDS = (
    (4, "<I"),
    (16, "<I"),
    (20, "<H"),
    (22, "<H"),
    (24, "<I"),
    (28, "<I"),
    (32, "<H"),
    (34, "<H"),
    (40, "<I"),
)
"""Offset and form of the fields of a WAV header."""
RATES = (0, 1, 999, 1000, 8000, 44100, 768000, 768001, 2**31 - 1, 2**31, 2**32 - 1)


class RecordingKind(Kind):
    """A recording."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "take.wav"
        self.seeds = []
        rng = np.random.default_rng(0)
        for channels in (1, 2):
            samples = rng.normal(0, 0.1, (4000, channels))
            for format, subtype in FORMATS:
                with io.BytesIO() as out:
                    rate = 48000 if subtype == "OPUS" else 16000
                    soundfile.write(out, samples, rate, format=format, subtype=subtype)
                    self.seeds.append(out.getvalue())

    def sound(self) -> Iterable[bytes]:
        return self.seeds

    def corrupted(self, rng: Random, index: int) -> bytes:
        data = rng.choice(self.seeds)
        if not data.startswith(b"RIFF") or rng.random() < 0.4:
            return mutations.corrupt_bytes(data, rng)
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 3))):
            at, form = rng.choice(FIELDS)
            mask = (1 << (8 * struct.calcsize(form))) - 1
            number = rng.choice((*mutations.EXTREMES, *RATES, 3, 1024, 1025))
            struct.pack_into(form, out, at, number & mask)
        if rng.random() < 0.3:
            odd = struct.pack("<f", rng.choice((float("nan"), float("inf"), -3e38, 1e30, 9.0)))
            at = rng.randrange(44, len(out) - 8) // 4 * 4
            out[at : at + 4] = odd
        return bytes(out)

    def check(self, data: bytes) -> bool:
        self.path.write_bytes(data)
        try:
            total_seconds(self.path)
            for block in read_blocks(self.path, 5.0):
                assert block.dtype == np.int16
                assert block.ndim == 1
                assert block.size
        except AudioFileError as error:
            check_message(error, str(self.path))
            return False
        return True


class RequestKind(StateKind):
    """Every field of every request with a value of every wrong kind, then requests at random."""

    counted = "requests"
    name = ""

    @cached_property
    def wrong(self) -> list[bytes]:
        """Every request that the declarations call wrong."""
        return [line(body) for kind in COMMANDS.values() for _, _, body in wrong_requests(kind)]

    @cached_property
    def examples(self) -> list[Any]:
        """A valid request of each type."""
        return [{"id": "mine", **example(type_info(kind))} for kind in COMMANDS.values()]

    def sound(self) -> Iterable[bytes]:
        return [line(body) for body in self.examples]

    def corrupted(self, rng: Random, index: int) -> bytes:
        if index < len(self.wrong):
            return self.wrong[index]
        body = rng.choice(self.examples)
        for _ in range(rng.choice((1, 1, 2, 3))):
            body = mutations.corrupt_value(body, rng)
        return mutations.to_json(body)

    def check(self, data: bytes) -> bool:
        received = Connection.server().receive(data.replace(b"\n", b" ") + b"\n")
        for message in received:
            if isinstance(message, InvalidRequest):
                sent = encode_error(message.code, message.message, message.id)
                assert sent.count(b"\n") == 1
                msgspec.json.decode(sent)
            elif type(message) in self.handlers.handled:
                self.request(message)
        return not any(isinstance(message, InvalidRequest) for message in received)


class LineKind(RequestKind):
    """Lines of the protocol, corrupted as bytes, in pieces of any size."""

    counted = "lines"

    def corrupted(self, rng: Random, index: int) -> bytes:
        lines = [mutations.to_json(rng.choice(self.examples)) for _ in range(rng.choice((1, 2, 5)))]
        return mutations.corrupt_bytes(b"\n".join(lines) + b"\n", rng)

    def check(self, data: bytes) -> bool:
        connection = Connection.server()
        good = True
        for at in range(0, len(data), 97):
            for message in connection.receive(data[at : at + 97]):
                if isinstance(message, InvalidRequest):
                    good = False
                    msgspec.json.decode(encode_error(message.code, message.message, message.id))
        return good

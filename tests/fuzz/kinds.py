"""The kinds of input that are corrupted, and what must hold for whatever comes of it.

What `check` raises is a fault, unless it is an error that a user may see: of the declared type, one
line, with the name of the file.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

import checkers
import msgspec
import numpy as np

from fuzz import archives, mutations
from kwsd.audio import flac
from kwsd.config import Config
from kwsd.detect.setup import resolve
from kwsd.detect.speaker_id import SpeakerScorer, best_match, read_cohort
from kwsd.learn.thresholds import choose, evidence
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle, BundleError, read_front_end
from kwsd.model.manifest import CHECKED_FLOOR, Fusion
from kwsd.protocol import commands
from kwsd.protocol.commands import Command
from kwsd.protocol.data import (
    Clip,
    MadeFrom,
    OperatingPoint,
    Peak,
    SpeakerThreshold,
    TakeInfo,
    WordPeaks,
    WordThreshold,
)
from kwsd.protocol.errors import RequestError
from kwsd.protocol.messages import encode_reply
from kwsd.protocol.replies import EncodedReply, Reply
from kwsd.protocol.request import Request
from kwsd.server.state_handlers import StateHandlers
from kwsd.state.calibration import Calibration, CalibrationStore
from kwsd.state.clips import ClipStore
from kwsd.state.second_stage import SecondStage
from kwsd.state.store import StateError
from kwsd.state.takes import TakeStore, take_id
from kwsd.state.voiceprints import Voiceprint, VoiceprintStore
from kwsd.state.words import CONTEXT_FRAMES, AddedWord, WordStore

LONGEST_MESSAGE = 1200


def check_message(error: Exception, named: str = "") -> None:
    """Assert that an error is one line of text that names what it is about."""
    text = str(error)
    assert text, repr(error)
    assert len(text) <= LONGEST_MESSAGE, text
    assert text.isprintable(), text
    assert named in text, (named, text)


def check_finite(value: object) -> None:
    """Assert that no number in plain data is NaN or infinite."""
    if isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, dict):
        for key, inside in value.items():
            check_finite(key)
            check_finite(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            check_finite(inside)


class Kind(ABC):
    """A kind of input."""

    counted = "files"
    """What the inputs are counted as."""
    longest_s = 5.0
    """Seconds after which an input counts as hung."""
    warm_up = 30
    """Inputs before memory is measured."""

    def __init__(self, folder: Path) -> None:
        """`folder` is empty, and the kind's own."""
        self.folder = folder

    @abstractmethod
    def corrupted(self, rng: Random, index: int) -> bytes:
        """Return an input; the same for the same randomness and number."""

    @abstractmethod
    def check(self, data: bytes) -> bool:
        """Feed an input to kwsd, and return whether it was accepted. Raises for any fault."""

    def sound(self) -> Iterable[bytes]:
        """Return inputs that must be accepted."""
        return ()


class StateKind(Kind):
    """A file of a state directory."""

    name = ""
    """The file's name."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bundle: Bundle = bundles.load()
        self.handlers = StateHandlers(folder, self.bundle, Config)
        self.path = folder / self.name
        self.seeds = list(self.made())
        SpeakerScorer(self.bundle)  # its arrays are no cost of an input

    def made(self) -> Iterable[bytes]:
        """Yield sound files, made as kwsd makes them."""
        return ()

    def sound(self) -> Iterable[bytes]:
        return self.seeds

    def request(self, command: Command) -> Any:
        """Answer a request as the daemon does; return the reply, or the error."""
        try:
            reply = self.handlers.answer(command)
        except RequestError as error:
            check_message(error)
            return error
        assert encode_reply("id", reply).count(b"\n") == 1
        if isinstance(reply, EncodedReply):  # a page
            reply = self.handlers.request(cast("Request[Reply]", command))
        check_finite(msgspec.to_builtins(reply))
        return reply

    def faults(self) -> list[StateError]:
        """Load the library, and check and return what was wrong with it."""
        library = self.handlers.library()
        resolve(Config(), self.bundle, library)
        for text in self.handlers.unusable:
            check_message(StateError(text), str(self.folder))
        return [StateError(text) for text in self.handlers.unusable]


class VoiceprintKind(StateKind):
    """A voiceprint."""

    name = "ann-49915e.voiceprint"

    def made(self) -> Iterable[bytes]:
        rng = np.random.default_rng(0)
        for takes in (3, 7):
            voices = rng.normal(size=(takes, self.bundle.voice_dim or 0)) + 0.5
            unit = voices / np.linalg.norm(voices, axis=1, keepdims=True)
            voiceprint = Voiceprint("ann", self.bundle.encoder_id, unit.astype(np.float32), 1e9)
            yield VoiceprintStore(self.folder, "").to_bytes(voiceprint)
            both = replace(voiceprint, checker_takes=voiceprint.takes, checker_id="a checker")
            yield VoiceprintStore(self.folder, "").to_bytes(both)
            several = both.with_reference(replace(voiceprint, reference="far"))
            yield VoiceprintStore(self.folder, "").to_bytes(several)

    def corrupted(self, rng: Random, index: int) -> bytes:
        return archives.corrupt_archive(rng.choice(self.seeds), rng, {})

    def check(self, data: bytes) -> bool:
        self.path.write_bytes(data)
        faults = self.faults()
        good, bad = self.handlers.voiceprints.load_all()
        assert len(good) + len(bad) == 1
        assert len(bad) == len(faults)
        for error in bad:
            check_message(error, str(self.path))
        self.request(commands.Speakers())
        if good:
            self.request(commands.SpeakersTrials())
            voice = read_cohort(self.bundle, "strangers")[0]
            scorer = SpeakerScorer(self.bundle)
            joined = {name: one.joined("a checker", 0.5) for name, one in good.items()}
            for people in (good, joined):
                match = best_match(voice, people, 0.5, scorer)
                check_finite(msgspec.to_builtins(match))
        return bool(good)


class WordKind(StateKind):
    """An added word."""

    name = "hey_banana-9f80e5.word"

    def made(self) -> Iterable[bytes]:
        rng = np.random.default_rng(1)
        dim = self.bundle.frame_dim or 0
        point = OperatingPoint(0.5, 1.0, 0.1, 0.2)
        word = AddedWord(
            name="hey_banana",
            encoder_id=self.bundle.encoder_id,
            offsets=(0, 2, 4),
            weights=rng.normal(0, 0.01, (3, dim)).astype(np.float32),
            bias=-3.0,
            threshold=0.4,
            length_s=0.7,
            operating_points=(point,) * 3,
            takes=rng.normal(0, 1, (3, 1, 4, dim)).astype(np.float16),
            made=MadeFrom(3, 1_700_000_000, "recordings", "0.1.0", ["20261126-012146-hey_banana"]),
            scores=np.full((3, 2), 0.7, np.float32),
        )
        store = WordStore(self.folder, "")
        yield store.to_bytes(word)
        more = replace(word, wrong=rng.normal(0, 1, (2, 4, dim)).astype(np.float16))
        yield store.to_bytes(more)
        second = SecondStage(
            word_id="a checker",
            weights=rng.normal(0, 1, 8).astype(np.float32),
            bias=0.5,
            candidate=0.05,
            fusion=Fusion(1.0, 0.5, -0.5),
            threshold=0.6,
            operating_points=(point,) * 3,
            takes=rng.integers(-127, 128, (3, 2, 4, 8)).astype(np.int8),
            wrong=rng.integers(-127, 128, (2, 4, 8)).astype(np.int8),
            scores=np.full((3, 2), 0.8, np.float32),
        )
        yield store.to_bytes(replace(more, second=second))

    def corrupted(self, rng: Random, index: int) -> bytes:
        return archives.corrupt_archive(rng.choice(self.seeds), rng, {"head": corrupt_head})

    def check(self, data: bytes) -> bool:
        self.path.write_bytes(data)
        faults = self.faults()
        good, bad = self.handlers.words.load_all()
        assert len(good) + len(bad) == 1
        assert len(bad) == len(faults)
        for error in bad:
            check_message(error, str(self.path))
        self.request(commands.Words())
        self.request(commands.GetCalibration())
        for word in good.values():
            dim = word.weights.shape[1]
            frames = np.random.default_rng(0).normal(0, 100, (CONTEXT_FRAMES + 3, dim))
            with np.errstate(over="ignore"):
                logits = word.logits(frames.astype(np.float32))
                scores = 1 / (1 + np.exp(-logits))
            assert np.isfinite(logits).all()
            assert np.isfinite(scores).all()
            assert np.isfinite(word.takes).all()
            assert np.isfinite(word.wrong).all()
            assert all(0 <= share <= 1 for share in word.missed(0.5) or ())
            check_finite(msgspec.to_builtins(word.info()))
            if second := word.second:
                logit = second.logit(np.ones(len(second.weights), np.float32))
                assert CHECKED_FLOOR <= second.fusion(logit, 0.5) <= 1
                heard = word.heard_with(second.word_id)
                assert all(0 <= share <= 1 for share in heard.missed(0.5) or ())
                check_finite(msgspec.to_builtins(heard.info()))
            self.request(commands.WordsGet(name=word.name))
        put = self.request(commands.WordsPut(file=data))
        assert isinstance(put, RequestError) or good
        if not isinstance(put, RequestError):
            self.request(commands.WordsDelete(name=put.name))
        return bool(good)


def corrupt_head(array: bytes, rng: Random) -> bytes:
    """Corrupt the JSON in a word's file."""
    array = bytes(array)
    length = int.from_bytes(array[8:10], "little")
    text = array[10 + length :].decode("utf-32-le").rstrip("\0")
    changed = mutations.corrupt_json(text.encode(), rng).decode("utf-8", "replace")
    body = changed.encode("utf-32-le", "surrogatepass") or bytes(4)
    head = f"{{'descr': '<U{len(body) // 4}', 'fortran_order': False, 'shape': (), }}\n".encode()
    return array[:8] + len(head).to_bytes(2, "little") + head + body


class CalibrationKind(StateKind):
    """A calibration."""

    name = "room.calibration"

    def made(self) -> Iterable[bytes]:
        word = self.bundle.words["computer"]
        threshold = WordThreshold(0.7, word.id, 0.04, 3.0, 1_700_000_000)
        first = Calibration(self.bundle.encoder_id).changed({"computer": threshold}, None)
        second = first.changed({"x": threshold}, SpeakerThreshold(0.4, 0.01, 1_700_000_000))
        store = CalibrationStore(self.folder, "")
        yield store.to_bytes(first)
        yield store.to_bytes(second)

    def corrupted(self, rng: Random, index: int) -> bytes:
        return mutations.corrupt_json(rng.choice(self.seeds), rng)

    def check(self, data: bytes) -> bool:
        self.path.write_bytes(data)
        faults = self.faults()
        self.request(commands.GetCalibration())
        undone = self.request(commands.CalibrationUndo())
        threshold = WordThreshold(0.6, "m", 0.04, 3.0, 1)
        put = self.request(commands.CalibrationPut(words={"computer": threshold}))
        assert not isinstance(put, RequestError) or not isinstance(undone, RequestError)
        return not faults


class ClipKind(StateKind):
    """A clip: its JSON, or its WAV."""

    name = "clips/20261126-012138-computer.json"

    def __init__(self, folder: Path) -> None:
        (folder / "clips").mkdir()
        super().__init__(folder)
        self.wav = self.path.with_suffix(".wav")

    def made(self) -> Iterable[bytes]:
        samples = (1000 * np.sin(np.arange(4000) / 9)).astype(np.int16)
        clip = Clip(
            id="",
            word="computer",
            model="m",
            kind="wake",
            time=1795656098.0,
            score=0.9,
            threshold=0.5,
            start=800,
            end=3000,
            scores=[(1280, 0.1), (2560, 0.9)],
            label="right",
        )
        store = ClipStore(self.folder, lambda: Config().clips)
        store.add(clip, samples)
        (json_file,) = store.folder.glob("*.json")
        (wav_file,) = store.folder.glob("*.wav")
        json_file.rename(self.path)
        wav_file.rename(self.path.with_suffix(".wav"))
        described = json.loads(self.path.read_bytes())
        described["id"] = self.path.stem
        yield json.dumps(described).encode()
        yield self.path.with_suffix(".wav").read_bytes()

    def corrupted(self, rng: Random, index: int) -> bytes:
        described, wav = self.seeds
        if rng.random() < 0.6:
            return mutations.corrupt_json(described, rng)
        return b"RIFF" + mutations.corrupt_bytes(wav, rng)[4:]

    def check(self, data: bytes) -> bool:
        described, wav = self.seeds
        is_wav = data.startswith(b"RIFF")
        self.path.write_bytes(described if is_wav else data)
        self.wav.write_bytes(data if is_wav else wav)
        listed, bad = self.handlers.clips.load_all()
        assert len(listed) + len(bad) == 1
        for error in bad:
            check_message(error, str(self.path))
        self.request(commands.Clips())
        got = self.request(commands.ClipsGet(clip=self.path.stem))
        assert bad or not isinstance(got, RequestError) or str(self.wav) in str(got)
        self.request(commands.Peaks())
        self.request(commands.ClipsLabel(clips=[self.path.stem], label="wrong"))
        self.handlers.check_records()
        self.handlers.clips.make_room()
        return not isinstance(got, RequestError)


class TakeKind(StateKind):
    """A take of a word: the index, or the FLAC."""

    name = "takes/hey_banana-9f80e5/takes.json"

    def __init__(self, folder: Path) -> None:
        (folder / self.name).parent.mkdir(parents=True)
        super().__init__(folder)
        (self.flac,) = self.path.parent.glob("*.flac")

    def made(self) -> Iterable[bytes]:
        samples = (1000 * np.sin(np.arange(4000) / 9)).astype(np.int16)
        take = TakeInfo(take_id(samples), "b1.wav", 800, 3000, len(samples))
        with TakeStore(self.folder).replacing("hey_banana", [take], {take.id: samples}):
            pass
        yield self.path.read_bytes()
        yield flac.to_bytes(samples)

    def corrupted(self, rng: Random, index: int) -> bytes:
        described, audio = self.seeds
        if rng.random() < 0.5:
            return mutations.corrupt_json(described, rng)
        return b"fLaC" + mutations.corrupt_bytes(audio, rng)[4:]

    def check(self, data: bytes) -> bool:
        described, audio = self.seeds
        is_flac = data.startswith(b"fLaC")
        self.path.write_bytes(described if is_flac else data)
        self.flac.write_bytes(data if is_flac else audio)
        self.handlers.check_records()
        for text in self.handlers.unusable:
            check_message(StateError(text), str(self.path.parent))
        self.request(commands.Words())
        self.request(commands.Takes(word="hey_banana"))
        got = self.request(commands.TakesGet(word="hey_banana", take=self.flac.stem))
        self.handlers.takes.store.tidy({self.path.parent.name})
        return not isinstance(got, RequestError)


class PeakLogKind(StateKind):
    """The log of peaks."""

    name = "peaks.jsonl"

    def made(self) -> Iterable[bytes]:
        for count in (1, 40):
            self.path.unlink(missing_ok=True)
            for n in range(3):
                peaks = [Peak(1.7e9 + at, 0.5, False) for at in range(count)]
                words = {"computer": WordPeaks("m", 600.0, peaks)}
                self.handlers.calibration.log.append({**words, f"w{n}": WordPeaks("m", 1.0, [])})
            yield self.path.read_bytes()

    def corrupted(self, rng: Random, index: int) -> bytes:
        lines = rng.choice(self.seeds).splitlines()
        at = rng.randrange(len(lines))
        lines[at] = mutations.corrupt_json(lines[at], rng)
        whole = rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"", b"\0")).join(lines) + b"\n"
        return whole if rng.random() < 0.8 else mutations.corrupt_bytes(whole, rng)

    def check(self, data: bytes) -> bool:
        self.path.write_bytes(data)
        reply = self.request(commands.Peaks())
        asked = commands.CalibrationTradeOff(word="computer", rates=[0.1], days=[0.0, 1.7e9])
        told = self.request(asked)
        assert isinstance(told, RequestError) is isinstance(reply, RequestError)
        if not isinstance(told, RequestError):
            check_finite(msgspec.to_builtins(told))
        self.handlers.check_records()
        faults = self.handlers.unusable
        for text in faults:
            check_message(StateError(text), str(self.path))
        if not isinstance(reply, RequestError):
            for stretches in reply.words.values():
                found = evidence(stretches, reply.labels, nobody_spoke=True)
                if found.hours > 0:
                    choice = choose(found, 1.0, 0.5)
                    assert 0 < choice.threshold < 1
                    check_finite([choice.threshold, *choice.bounds, choice.tail or 0.0])
        self.handlers.calibration.log.append({"computer": WordPeaks("m", 1.0, [])})
        after = self.handlers.calibration.log.read()
        assert after["computer"][-1] == WordPeaks("m", 1.0, [])
        return not faults


class BundleKind(Kind):
    """A file of a model bundle whose manifest has its hash."""

    FILES = (
        "manifest.json",
        "front_end.npz",
        "voice_front_end.npz",
        "cohort.npz",
        "checker_front_end.npz",
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bundle = checkers.write(folder / "bundle", "small")
        self.seeds = [(self.bundle / name).read_bytes() for name in self.FILES]
        self.changed: set[str] = set()
        SpeakerScorer(bundles.load())

    def sound(self) -> Iterable[bytes]:
        names = (name.encode() + b"\n" for name in self.FILES)
        return [name + seed for name, seed in zip(names, self.seeds, strict=True)]

    def corrupted(self, rng: Random, index: int) -> bytes:
        at = rng.randrange(len(self.FILES))
        name = self.FILES[at]
        if name == "manifest.json":
            return name.encode() + b"\n" + mutations.corrupt_json(self.seeds[at], rng)
        return name.encode() + b"\n" + archives.corrupt_archive(self.seeds[at], rng, {})

    def check(self, data: bytes) -> bool:
        import hashlib

        name, _, content = data.partition(b"\n")
        for known in self.changed:
            (self.bundle / known).write_bytes(self.seeds[self.FILES.index(known)])
        self.changed = {name.decode(), "manifest.json"}
        path = self.bundle / name.decode()
        path.write_bytes(content)
        if path.suffix == ".npz":
            manifest = json.loads(self.seeds[0])
            manifest["files"][path.name]["sha256"] = hashlib.sha256(content).hexdigest()
            (self.bundle / "manifest.json").write_text(json.dumps(manifest))
        try:
            bundle = bundles.load(self.bundle)
            read_cohort(bundle, "cohort")
            assert bundle.voice_dim
            for model in bundle.checkers.values():
                if model.front_end:
                    read_front_end(bundle.file(model.front_end))
        except BundleError as error:
            check_message(error, str(self.bundle))
            return False
        return True

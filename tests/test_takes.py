"""Takes: the recordings of added words, as they are kept, brought, fetched and deleted."""

from __future__ import annotations

import io
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
from conftest import PHRASE, RATE, VOICES, hiss, say

from kwsd.audio import flac, pcm
from kwsd.cli import main as cli
from kwsd.client import rebuild
from kwsd.client.takes import Recording, bring, fetch
from kwsd.client.words import Takes as Made
from kwsd.config import Config, TakesConfig
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.takes import TakeRejected
from kwsd.model.bundle import Bundle
from kwsd.names import identifier
from kwsd.protocol.commands import (
    Takes,
    TakesClear,
    TakesGet,
    TakesPut,
    Words,
    WordsDelete,
    WordsPut,
)
from kwsd.protocol.data import MAX_TAKE_SAMPLES, TakeInfo
from kwsd.protocol.errors import RequestError
from kwsd.protocol.request import Request
from kwsd.server.state_handlers import StateHandlers
from kwsd.state.takes import TakeError, TakeStore, take_id
from kwsd.state.words import AddedWord, WordError, WordStore, to_bytes

NAME = "hey_banana"
AUDIO = [hiss(1.0, 900, seed) for seed in range(3)]


def info(samples: np.ndarray, origin: str = "take 1") -> TakeInfo:
    return TakeInfo(take_id(samples), origin, 100, 9000, len(samples))


INFOS = [info(samples, f"take {n}") for n, samples in enumerate(AUDIO, 1)]
NEW = {one.id: samples for one, samples in zip(INFOS, AUDIO, strict=True)}


@pytest.fixture
def store(tmp_path: Path) -> TakeStore:
    return TakeStore(tmp_path)


@pytest.fixture
def kept(store: TakeStore) -> Path:
    """The folder of a word with three takes."""
    with store.replacing(NAME, INFOS, NEW):
        pass
    return store.folder / identifier(NAME)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_kept_as_flac_that_its_owner_alone_may_read(store: TakeStore, kept: Path) -> None:
    assert store.listed(NAME) == INFOS
    assert store.names() == [NAME]
    for take, samples in zip(INFOS, AUDIO, strict=True):
        there = store.samples(NAME, take.id)
        assert (there[0], there[1].tolist()) == (take, samples.tolist())
        with soundfile.SoundFile(kept / f"{take.id}.flac") as file:
            assert (file.format, file.subtype, file.samplerate) == ("FLAC", "PCM_16", RATE)
    assert len(files(kept)) == 4
    for path in kept.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in (kept, kept.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with store.replacing(NAME, INFOS[1:2], {}):
        pass
    assert files(kept) == sorted(["takes.json", f"{INFOS[1].id}.flac"])
    assert store.delete(NAME) == 1
    assert not kept.exists()
    assert (store.listed(NAME), store.names(), store.delete(NAME)) == ([], [], 0)


def fails(store: TakeStore, name: str, samples: np.ndarray) -> None:
    """Put a take in the place of all others, and fail after that."""
    with store.replacing(name, [info(samples)], {take_id(samples): samples}):
        assert f"{take_id(samples)}.flac" in files(store.folder)
        raise KeyError


def full(path: Path, data: bytes) -> None:
    raise OSError(28, "No space left on device")


def test_nothing_changes_where_it_fails_halfway(
    store: TakeStore, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = hiss(1.0, 900, 9)
    before = files(kept)
    with pytest.raises(KeyError):
        fails(store, NAME, other)
    assert (files(kept), store.listed(NAME)) == (before, INFOS)
    with pytest.raises(KeyError):
        fails(store, "new", other)
    assert not (store.folder / identifier("new")).exists()
    monkeypatch.setattr("kwsd.state.takes.write_atomically", full)
    with pytest.raises(TakeError, match=r"No space left.*make room and try again"):
        fails(store, NAME, other)
    assert (files(kept), store.listed(NAME)) == (before, INFOS)


def test_what_a_crash_has_left_is_deleted(store: TakeStore, kept: Path) -> None:
    left = [kept / f"{'0' * 16}.flac", kept / ".takes.json.partial"]
    for path in left:
        path.touch()
    theirs = store.folder / "theirs"
    theirs.mkdir()
    (theirs / "a.flac").touch()
    assert sorted(store.tidy({identifier(NAME)})) == sorted(left)
    assert len(files(kept)) == 4
    (kept / "takes.json").write_text("{")
    assert store.tidy({identifier(NAME)}) == [], "without its index, nobody knows what a take is"
    assert len(store.tidy(set())) == 4
    assert [path.name for path in store.folder.iterdir()] == ["theirs"]


def broken_flac(samples: np.ndarray, rate: int = RATE, form: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is no FLAC file"),
        (b"fLaC" + bytes(200), "is no FLAC file"),
        (flac.to_bytes(AUDIO[0])[:9000], "is no FLAC file"),
        (flac.to_bytes(AUDIO[1]), "is not the recording that was kept"),
        (broken_flac(AUDIO[0], 8000), "is not FLAC of mono int16 at 16 kHz"),
        (broken_flac(np.stack([AUDIO[0]] * 2, 1)), "is not FLAC of mono int16 at 16 kHz"),
        (broken_flac(AUDIO[0], form="WAV"), "is not FLAC of mono int16 at 16 kHz"),
        (broken_flac(np.zeros(MAX_TAKE_SAMPLES + 1)), "at most 320000 are read"),
        (bytes(1 << 20), "1048576 bytes; at most"),
    ],
)
def test_a_damaged_recording_is_named(store: TakeStore, kept: Path, data: bytes, why: str) -> None:
    path = kept / f"{INFOS[0].id}.flac"
    path.write_bytes(data)
    with pytest.raises(TakeError, match=rf"{path}: damaged .*{why}.*`kwsd word takes NAME drop N`"):
        store.samples(NAME, INFOS[0].id)
    assert len(store.samples(NAME, INFOS[1].id)[1]) == RATE
    path.unlink()
    (fault,) = store.faults()
    assert str(fault).startswith(f"{path}: cannot be read (No such file")
    path.symlink_to(kept / f"{INFOS[1].id}.flac")
    with pytest.raises(TakeError, match="symbolic link"):
        store.samples(NAME, INFOS[0].id)


def index(*takes: TakeInfo, name: str = NAME) -> bytes:
    return msgspec.json.encode({"name": name, "takes": takes})


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        index(name="hey_tomato"),
        index(name="../x"),
        index(*[INFOS[0]] * 33),
        index(msgspec.structs.replace(INFOS[0], id="../../../etc/pass")),
        index(msgspec.structs.replace(INFOS[0], start=9000, end=100)),
        index(msgspec.structs.replace(INFOS[0], end=17000)),
        index(INFOS[0]).replace(b"9000", b"1e400"),
        b" " * (64 << 10) + index(INFOS[0]),
    ],
)
def test_a_damaged_index_is_named(store: TakeStore, kept: Path, data: bytes) -> None:
    (kept / "takes.json").write_bytes(data)
    with pytest.raises(TakeError, match=rf"{kept / 'takes.json'}: damaged .*word takes NAME"):
        store.listed(NAME)
    assert [str(one).startswith(str(kept)) for one in store.faults()] == [True]
    assert store.names() == []
    store.delete(NAME)
    assert not kept.exists()


def test_a_folder_that_is_a_link_is_not_followed(store: TakeStore, kept: Path) -> None:
    elsewhere = kept.rename(store.folder.parent / "elsewhere")
    kept.symlink_to(elsewhere)
    with pytest.raises(TakeError, match="symbolic link"):
        store.listed(NAME)
    with pytest.raises(TakeError, match="symbolic link"):
        fails(store, NAME, AUDIO[0])
    assert store.tidy(set()) == []
    store.delete(NAME)
    assert (len(files(elsewhere)), kept.is_symlink()) == (4, False)


@pytest.fixture
def handlers(tmp_path: Path, bundle: Bundle) -> StateHandlers:
    return StateHandlers(tmp_path, bundle, Config)


def recordings(samples: Sequence[np.ndarray] = AUDIO) -> list[Recording]:
    return [Recording(one, TakeInfo("", "x.wav", 0, len(one), len(one))) for one in samples]


def put(handlers: StateHandlers, word: AddedWord, takes: Sequence[Recording] | None) -> None:
    infos = None if takes is None else bring(handlers, word.name, takes)
    handlers.request(WordsPut(file=to_bytes(word), takes=infos))


def refusal(handlers: StateHandlers, command: Request[Any]) -> str:
    with pytest.raises(RequestError) as caught:
        handlers.request(command)
    return f"{caught.value.code}: {caught.value}"


def test_brought_kept_fetched_and_deleted_with_the_word(
    handlers: StateHandlers, deaf_banana: AddedWord
) -> None:
    folder = handlers.takes.store.folder
    assert refusal(handlers, Takes(word=NAME)).startswith("unknown_word: no word is called 'hey_b")
    infos = bring(handlers, NAME, recordings())
    assert not folder.exists(), "what is not kept is not on the disk"
    assert refusal(handlers, Takes(word=NAME)).startswith("unknown_word")
    handlers.request(WordsPut(file=to_bytes(deaf_banana), takes=infos))
    assert handlers.request(Takes(word="Hey Banana")).takes == infos
    name, found = fetch(handlers, "hey banana")
    assert (name, [one.info for one in found]) == (NAME, infos)
    assert [one.samples.tolist() for one in found] == [one.tolist() for one in AUDIO]
    put(handlers, deaf_banana, None)
    assert handlers.request(Takes(word=NAME)).takes == infos
    put(handlers, deaf_banana, [*found[1:], *recordings([hiss(1.0, 900, 7)])])
    assert [one.id for one in handlers.request(Takes(word=NAME)).takes][:2] == [
        infos[1].id,
        infos[2].id,
    ]
    assert len(files(folder)) == 4
    handlers.request(WordsDelete(name=NAME))
    assert not files(folder)
    put(handlers, deaf_banana, None)
    assert handlers.request(Takes(word=NAME)).takes == []
    put(handlers, deaf_banana, recordings())
    assert handlers.request(TakesClear(word=NAME)).deleted == 3
    assert not files(folder)
    assert [one.name for one in handlers.request(Words()).words] == [NAME]


def test_bad_takes_are_refused(handlers: StateHandlers, deaf_banana: AddedWord) -> None:
    file = to_bytes(deaf_banana)
    unknown = WordsPut(file=file, takes=[INFOS[0]])
    assert refusal(handlers, unknown).startswith("no_take: 'hey_banana' has no take")
    (mine,) = bring(handlers, NAME, recordings(AUDIO[:1]))
    for change in ({"start": 5, "end": 5}, {"end": 20000}, {"samples": 20000}):
        odd = msgspec.structs.replace(mine, **change)
        assert refusal(handlers, WordsPut(file=file, takes=[odd])).startswith("bad_request: words.")
    assert not handlers.request(Words()).words
    long = pcm.to_bytes(np.zeros(MAX_TAKE_SAMPLES + 1, np.int16))
    for audio in (b"", b"abc", long):
        assert refusal(handlers, TakesPut(word=NAME, audio=audio)).startswith("bad_request: takes")
    put(handlers, deaf_banana, recordings())
    assert refusal(handlers, TakesGet(word=NAME, take="../x")).startswith("no_take: ")


def test_takes_that_are_never_kept_have_a_bound(handlers: StateHandlers) -> None:
    for n in range(100):
        samples = np.full(MAX_TAKE_SAMPLES, n, np.int16)
        handlers.request(TakesPut(word=NAME, audio=pcm.to_bytes(samples)))
    brought = handlers.takes._brought.values()
    assert sum(one.nbytes for one in brought) <= 16 << 20
    assert list(brought)[-1][0] == 99


def test_none_are_kept_where_that_is_off(
    tmp_path: Path, bundle: Bundle, deaf_banana: AddedWord
) -> None:
    off = Config(takes=TakesConfig(keep=False))
    handlers = StateHandlers(tmp_path, bundle, lambda: off)
    assert not handlers.request(Words()).keeps_takes
    audio = pcm.to_bytes(AUDIO[0])
    assert "set `takes: {keep: on}`" in refusal(handlers, TakesPut(word=NAME, audio=audio))
    put(handlers, deaf_banana, [])
    assert not (tmp_path / "takes").exists()


def test_a_word_that_cannot_be_saved_leaves_the_takes_as_they_were(
    handlers: StateHandlers, deaf_banana: AddedWord, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(handlers, deaf_banana, recordings())
    before = handlers.request(Takes(word=NAME)).takes

    monkeypatch.setattr("kwsd.state.store.write_atomically", full)
    with pytest.raises(RequestError, match="could not be saved"):
        put(handlers, deaf_banana, recordings([hiss(1.0, 900, 8)]))
    assert handlers.request(Takes(word=NAME)).takes == before
    assert len(files(handlers.takes.store.folder)) == 4


def test_the_takes_of_words_that_are_there_survive_a_start(
    handlers: StateHandlers, deaf_banana: AddedWord
) -> None:
    put(handlers, deaf_banana, recordings())
    path = handlers.words.path(NAME)
    path.write_bytes(b"damaged")
    assert handlers.tidy() == []
    assert handlers.request(Words()).unusable_words == [NAME]
    assert len(handlers.request(Takes(word=NAME)).takes) == 3
    path.unlink()
    assert len(handlers.tidy()) == 4
    handlers.check_records()
    assert handlers.unusable == []


def test_where_the_word_is_a_person_may_say(trainer: WordTrainer) -> None:
    samples = np.concatenate([hiss(0.4), say(PHRASE), hiss(0.4)])
    takes = Made()
    take = trainer.encoder.take(samples, PHRASE)
    takes.add(take, Recording.of(samples, take, Path("dir/b1.wav")), "b1.wav")
    (whole,) = takes.recordings
    assert whole.info.origin == "b1.wav"
    assert whole.info.start / RATE == pytest.approx(take.start_s, abs=1e-3)
    (cut,) = rebuild.trimmed(trainer, NAME, [whole], 1, [0.5, 0.9])
    assert (cut.info.start, cut.info.end, cut.info.span) == (8000, 14400, "trimmed")
    assert cut.take is not None
    assert (cut.take.start_s, cut.take.length_s) == (0.5, 0.4)
    stored = replace(cut, take=None)
    assert stored.encoded(trainer.encoder, NAME).info == cut.info
    (again,) = rebuild.trimmed(trainer, NAME, [stored], 1, [])
    assert again.info == whole.info
    for at in ([0.9, 0.5], [-1.0, 1.0], [0.5, 60.0]):
        with pytest.raises(WordError, match=r"take 1 of 'hey_banana' lasts 1\.9\d s"):
            rebuild.trimmed(trainer, NAME, [whole], 1, at)
    with pytest.raises(TakeRejected, match=r"at least 0\.25 s"):
        rebuild.trimmed(trainer, NAME, [whole], 1, [0.5, 0.6])
    with pytest.raises(WordError, match="has no take 2; there are 1 to 1"):
        rebuild.trimmed(trainer, NAME, [whole], 2, [])


def test_one_take_is_redone_or_dropped(trainer: WordTrainer) -> None:
    one, two, three = recordings([say(PHRASE, voice) for voice in VOICES[:3]])
    assert rebuild.redone(NAME, [one, two], 2, three) == [one, three]
    assert rebuild.redone(NAME, [one, two], 2, two) == [one, two], "it may take its own place"
    with pytest.raises(TakeRejected, match="given already"):
        rebuild.redone(NAME, [one, two], 2, one)
    assert rebuild.dropped(NAME, [one, two, three], 2) == [one, three]
    with pytest.raises(WordError, match="has no take 1; none are kept"):
        rebuild.dropped(NAME, [], 1)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_a_word_is_made_again_from_its_takes(
    tmp_path: Path,
    bundle: Bundle,
    deaf_banana: AddedWord,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = tmp_path / "state"
    (tmp_path / "kwsd.yaml").write_text("checker: off\n")
    at = ["--state", str(state), "--config", str(tmp_path / "kwsd.yaml")]

    def run(line: str, *arguments: str) -> tuple[int, str]:
        status = cli.main(["word", *line.split(), *arguments, *at])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    wavs = [str(tmp_path / f"b{n}.wav") for n in range(3)]
    for wav, voice in zip(wavs, VOICES, strict=False):
        soundfile.write(wav, np.concatenate([hiss(0.4), say(PHRASE, voice), hiss(0.4)]), RATE)
    status, printed = run("add hey_banana --rate 1/day --yes --wav", *wavs)
    assert (status, "takes: {keep: off}` keeps none" in printed) == (0, True), printed
    store = TakeStore(state)
    before = store.listed(NAME)
    assert [one.origin for one in before] == ["b0.wav", "b1.wav", "b2.wav"]
    words = WordStore(state, bundle.encoder_id, bundle.frame_dim)
    path = words.path(NAME)
    earlier = words.load(NAME)
    assert earlier.made.rate == 1 / 24
    with monkeypatch.context() as patched:  # one of an earlier kwsd
        patched.setattr("kwsd.state.words.FORMAT", 2)
        spanish = msgspec.structs.replace(earlier.made, language="es")
        path.write_bytes(to_bytes(replace(deaf_banana, made=spanish)))
    assert "`kwsd word rebuild 'hey banana'`" in run("list")[1]
    status, printed = run("rebuild --yes --json")
    assert (status, '{"rebuilt": ["hey_banana"], "lost": {}}' in printed) == (0, True), printed
    made = words.load(NAME).made
    assert (made.takes, made.of, made.rate) == (3, "recordings", 1 / 24)
    assert (earlier.made.language, made.language) == (None, "es")
    assert store.listed(NAME) == before
    (state / "takes" / path.stem / f"{before[0].id}.flac").write_bytes(b"junk")
    status, printed = run("takes hey_banana play 1")
    assert (status, "damaged (it is no FLAC" in printed) == (cli.DATA, True)
    whole = path.read_bytes()
    status, printed = run("takes hey_banana drop 2 --yes")
    assert (status, "1 of its takes and labeled clips are kept" in printed) == (cli.DATA, True)
    assert "left out: take 1 (b0.wav)" not in printed
    assert (path.read_bytes(), store.listed(NAME)) == (whole, before), "nothing is lost"
    status, printed = run("takes hey_banana trim 2 0.5 1.1 --yes")
    assert (status, "left out: take 1 (b0.wav)" in printed) == (0, True), printed
    assert [one.span for one in store.listed(NAME)] == ["found", "trimmed", "found"]
    assert words.load(NAME).made.rate == 1 / 24
    status, printed = run("takes hey_banana redo 1 --yes --wav", wavs[0])
    assert (status, "2: b1.wav, the word is at 0.50–1.10 of" in run("takes hey_banana")[1]) == (
        0,
        True,
    ), printed
    assert run("takes hey_banana play 2 --out", str(tmp_path / "out.wav"))[0] == 0
    assert len(soundfile.read(tmp_path / "out.wav")[0]) == round(0.6 * RATE)
    assert words.load(NAME).made.rate == 1 / 24
    assert run("rebuild hey_banana --rate 0.5 --yes")[0] == 0
    assert words.load(NAME).made.rate == 0.5
    status, printed = run("takes hey_banana clear")
    assert (status, "3 take(s) of hey_banana, from which it can be made" in printed) == (65, True)
    assert run("takes hey_banana clear --yes") == (0, "3 take(s) deleted\n")
    status, printed = run("rebuild --yes")
    assert (status, "`kwsd word remove 'hey banana'`, then `kwsd word" in printed) == (0, True)
    assert run("rebuild --yes hey_banana")[0] == cli.DATA
    assert run("rebuild --yes nope")[0] == cli.DATA
    assert run("remove hey_banana")[0] == 0
    assert not files(state)

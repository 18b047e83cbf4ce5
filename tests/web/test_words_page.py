"""Words, in a real browser: recorded take by take, uploaded, redone, made, kept and removed."""

from __future__ import annotations

import io
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import PHRASE, RATE, VOICES, Daemon, Start, hiss, say
from pages import (
    DESKTOP,
    DRAWS,
    PHONE,
    Serve,
    Visit,
    Visitor,
    WebPage,
    browser,
    picture,
    serve,
    visit,
)
from playwright.sync_api import FilePayload, Page, Route, expect
from test_gate import entered
from test_live import serious, shifted

from kwsd.protocol.commands import Pause, Takes, Words
from kwsd.protocol.data import TakeInfo
from kwsd.state.takes import TakeStore, take_id
from kwsd.state.words import AddedWord, to_bytes

WAIT = 60_000
NAME = "hey_banana"


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Room:
    """A room in which things are said in real time, into the standard input of a daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._said: list[np.ndarray] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def say(self, samples: np.ndarray) -> None:
        """Say something from now on."""
        for at in range(0, len(samples), 1280):
            self._said.append(samples[at : at + 1280])

    @contextmanager
    def answers(self, request: str, spoken: np.ndarray) -> Iterator[None]:
        """Say something once the daemon has a request, which is made meanwhile."""
        before = self._asked(request)
        yield
        wait_until(lambda: self._asked(request) > before)
        self.say(np.concatenate([hiss(0.5), spoken, hiss(1.3)]))

    def _asked(self, request: str) -> int:
        return self._daemon.log.read_text().count(f"asks for {request}\n")

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        seed = 0
        begun = time.monotonic()
        while not self._over.is_set():
            seed += 1
            quiet = hiss(0.08, 3.0, seed)
            if self._said:
                part = self._said.pop(0)
                quiet[: len(part)] += part
            try:
                self._daemon.hear(quiet)
            except (BrokenPipeError, ValueError):
                return
            time.sleep(max(begun + 0.08 * seed - time.monotonic(), 0))


@pytest.fixture
def daemon(start: Start) -> Daemon:
    """A daemon that hears what is said in the room, and logs what it is asked for."""
    (start.folder / "kwsd").mkdir()
    (start.folder / "kwsd" / "kwsd.yaml").write_text("checker: off\nlog_level: debug\n")
    daemon = start("--source", "-", "--realtime", stdin=subprocess.PIPE)
    daemon.connect().close()
    return daemon


@pytest.fixture
def room(daemon: Daemon) -> Iterator[Room]:
    room = Room(daemon)
    yield room
    room.close()


def take(room: Room, page: Page, spoken: np.ndarray, button: str, told: str) -> None:
    """Record a take: press a button, say it once it is asked for, and read what is told of it."""
    with room.answers("take", spoken):
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.locator(".prompt")).to_contain_text("Now say", timeout=WAIT)
    expect(page.locator(".told")).to_contain_text(re.compile(told), timeout=WAIT)


def begin(page: Page, word: str) -> None:
    """Begin with a new word."""
    page.get_by_role("link", name="Words").click()
    page.get_by_label("A word of your own").fill(word)
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_role("heading", name=f"New word: {word}")).to_be_focused(timeout=WAIT)


def refused_as_meant(visited: Visit) -> None:
    """Forget that the console of the browser tells of refused takes."""
    visited.troubles[:] = [one for one in visited.troubles if "422" not in one]


def files(*voices: str) -> list[FilePayload]:
    """Return recordings of the word to upload, by these voices."""
    return [wav(f"{voice}.wav", said(voice)) for voice in voices]


def said(voice: str) -> np.ndarray:
    return np.concatenate([hiss(0.4), say(PHRASE, voice), hiss(0.5)])


def wav(name: str, samples: np.ndarray) -> FilePayload:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=Path(name).suffix[1:].upper())
    return {"name": name, "mimeType": "audio/wav", "buffer": file.getvalue()}


def upload(page: Page, recordings: list[FilePayload], told: str) -> None:
    page.locator("input[type=file]").set_input_files(recordings)
    expect(page.locator(".told")).to_contain_text(told, timeout=WAIT)


def kept(daemon: Daemon) -> list[str]:
    """Return the words that were added."""
    with daemon.connect() as client:
        return [word.name for word in client.request(Words()).words]


@pytest.mark.slow
def test_a_word_is_recorded_take_by_take_and_then_wakes(
    daemon: Daemon, room: Room, serve: Serve, visit: Visitor
) -> None:
    served = serve()
    visited = visit(served)
    page = visited.page
    before = served.memory_mib()
    begin(page, PHRASE)
    expect(page.get_by_role("button", name="Make the word")).to_be_disabled()
    expect(page.locator(".meter .small")).to_have_text(re.compile("dBFS"), timeout=WAIT)
    for n, voice in enumerate(VOICES[:3], 1):
        heard = rf"Take {n} of 5 heard: 0\.\d s at −\d\d dBFS"
        take(room, page, say(PHRASE, voice), f"Record take {n}", heard)
        expect(page.get_by_role("button", name=f"Record take {n + 1}")).to_be_focused()
    take(room, page, say(PHRASE, VOICES[0])[:2500], "Record take 4", "Not taken: the take")
    rows = page.locator(".take")
    expect(rows).to_have_count(3)
    wave = rows.first.get_by_role("img")
    expect(wave).to_have_attribute("aria-label", re.compile(r"^\d\.\d s of sound; the word is at"))
    first = rows.first.locator(".small").inner_text()
    rows.first.get_by_role("button", name="Play take 1").click()
    expect(rows.first.get_by_role("button", name="Play take 1")).to_have_text("Stop")
    expect(rows.first.get_by_role("button", name="Play take 1")).to_have_text("Play", timeout=WAIT)

    take(room, page, say(PHRASE, VOICES[3]), "Redo take 1", "Take 1 of 5 heard")
    expect(rows.first.locator(".small")).not_to_have_text(first)
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Trim take 2").click()
    page.get_by_label("Begins at (s)").nth(1).fill("0.2")
    page.get_by_role("button", name="Use this part").nth(0).click()
    expect(page.locator(".told")).to_contain_text("Take 2: the word is at 0.20 to", timeout=WAIT)
    page.get_by_role("button", name="Trim take 2").press("Enter")
    page.get_by_role("button", name="Find it by voice").first.click()
    expect(rows.nth(1)).not_to_contain_text("trimmed", timeout=WAIT)

    page.get_by_label("Wakes by mistake").select_option(label="1 a day")
    page.get_by_role("button", name="Make the word").click()
    report = page.locator(".report")
    expect(report.get_by_role("heading")).to_be_focused(timeout=WAIT)
    expect(report).to_contain_text(re.compile(r"[0-3] of 3 missed"))
    expect(report).to_contain_text("an hour")
    assert kept(daemon) == []
    report.get_by_role("button", name="Keep it").click()
    expect(page.locator(".told")).to_have_text(
        "hey banana is kept, and listened for from now on. Say it: Live shows its score.",
        timeout=WAIT,
    )
    with daemon.connect() as client:
        (word,) = client.request(Words()).words
        takes = client.request(Takes(word=NAME)).takes
    assert (word.made.takes, word.made.rate) == (3, 1 / 24)
    assert [one.origin for one in takes] == ["take 1", "take 2", "take 3"]
    assert served.memory_mib() < before + 10
    page.get_by_role("link", name="Live").click()
    room.say(np.tile(np.concatenate([hiss(1.5), say(PHRASE, VOICES[2]), hiss(1.5)]), 3))
    expect(page.locator(".happened")).to_contain_text("hey banana woke", timeout=WAIT)
    refused_as_meant(visited)


@pytest.fixture
def stored(tmp_path: Path, banana: AddedWord) -> None:
    """A state directory with a word and three takes of it."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "hey_banana.word").write_bytes(to_bytes(banana))
    takes = TakeStore(state)
    audio = [said(voice) for voice in VOICES[:3]]
    infos = [
        TakeInfo(take_id(one), f"take {n}", 6400, len(one) - 8000, len(one))
        for n, one in enumerate(audio, 1)
    ]
    with takes.replacing(NAME, infos, {take_id(one): one for one in audio}):
        pass


@pytest.mark.slow
def test_uploaded_takes_make_a_word(
    daemon: Daemon, room: Room, serve: Serve, visit: Visitor
) -> None:
    visited = visit(serve())
    page = visited.page
    begin(page, PHRASE)
    upload(page, files(*VOICES[:2]), "2 of 2 recordings taken.")
    bad: list[FilePayload] = [
        wav("again.flac", said(VOICES[1])),
        {"name": "junk.wav", "mimeType": "audio/wav", "buffer": b"no sound at all"},
        wav("silent.wav", hiss(1.0)),
        wav("third.flac", said(VOICES[2])),
    ]
    upload(page, bad, "1 of 4 recordings taken.")
    for why in (
        "again.flac: the take is a recording that was given already",
        "junk.wav: not a recording that can be read",
        "silent.wav: the take is silent",
    ):
        expect(page.locator(".told")).to_contain_text(why)
    assert "/proc" not in page.locator(".told").inner_text()
    names = [one.inner_text() for one in page.locator(".take-facts span:first-of-type").all()]
    assert names == [f"{VOICES[0]}.wav", f"{VOICES[1]}.wav", "third.flac"]
    page.get_by_role("button", name="Make the word").click()
    page.locator(".report").get_by_role("button", name="Keep it").click(timeout=WAIT)
    expect(page.locator(".entries")).to_contain_text("3 takes of 0", timeout=WAIT)
    expect(page.get_by_role("list", name="Takes of hey banana").locator("li")).to_have_count(3)
    assert kept(daemon) == [NAME]
    refused_as_meant(visited)


@pytest.mark.usefixtures("stored")
def test_a_word_is_changed_and_removed(daemon: Daemon, serve: Serve, visit: Visitor) -> None:
    page = visit(serve()).page
    page.get_by_role("link", name="Words").click()
    detail = page.locator(".detail")
    expect(detail.get_by_role("heading")).to_have_text("hey banana", timeout=WAIT)
    expect(detail).to_contain_text("3 takes are kept", timeout=WAIT)
    detail.get_by_role("button", name="Play take 2").click()
    expect(detail.get_by_role("button", name="Play take 2")).to_have_text("Play", timeout=WAIT)
    detail.get_by_role("button", name="Change the takes").click()
    expect(page.get_by_role("heading", name="Takes of hey banana")).to_be_focused(timeout=WAIT)
    expect(page.locator(".take")).to_have_count(3)
    page.get_by_role("button", name="Delete take 1").click()
    expect(page.locator(".told")).to_have_text("Take 1 is deleted; 2 are left.", timeout=WAIT)
    expect(page.get_by_role("button", name="Delete take 1")).to_be_focused()
    upload(page, files(VOICES[4]), "1 of 1 recording taken.")
    late: list[Route] = []
    page.route("**/api/draft/**/audio.wav", lambda sound: late.append(sound))
    page.reload()  # it goes on where it was
    expect(page.locator(".take")).to_have_count(3, timeout=WAIT)
    page.get_by_role("button", name="Discard").click()
    page.get_by_role("dialog").get_by_role("button", name="Discard").click()
    expect(page.locator(".told")).to_have_text("hey banana is as it was.", timeout=WAIT)
    assert len(late) == 3
    for sound in late:  # nobody waits for it: no error may come of it
        sound.continue_()
    with daemon.connect() as client:
        origins = [one.origin for one in client.request(Takes(word=NAME)).takes]
    assert origins == ["take 1", "take 2", "take 3"]

    detail.get_by_role("button", name="Remove…").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep it").click()
    assert kept(daemon) == [NAME]
    detail.get_by_role("button", name="Remove…").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.locator(".told")).to_have_text("hey banana is removed.", timeout=WAIT)
    expect(detail).to_contain_text("No word is added yet")
    assert kept(daemon) == []
    assert not list((daemon.state / "takes").iterdir())


def children(page: WebPage) -> list[int]:
    """Return the processes that a page has started."""
    path = Path(f"/proc/{page.process.pid}/task/{page.process.pid}/children")
    return [int(one) for one in path.read_text().split()]


def test_one_word_is_made_at_a_time_and_goes_with_its_session(
    daemon: Daemon, serve: Serve, visit: Visitor
) -> None:
    served = serve()
    first, second = visit(served), visit(served)
    begin(first.page, PHRASE)
    assert len(children(served)) == 1
    page = second.page
    page.get_by_role("link", name="Words").click()
    page.get_by_label("A word of your own").fill("good grief")
    page.get_by_role("button", name="Add it").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("The word 'hey banana' is being made in another browser.")
    dialog.get_by_role("button", name="Leave it").click()
    upload(first.page, files(VOICES[0]), "1 of 1 recording taken.")
    page.get_by_role("button", name="Add it").click()
    dialog.get_by_role("button", name="End it and begin").click()
    expect(page.get_by_role("heading", name="New word: good grief")).to_be_focused(timeout=WAIT)
    first.page.get_by_role("button", name="Delete take 1").click()
    told = first.page.locator(".told")
    expect(told).to_contain_text("hey banana has ended: nobody went on", timeout=WAIT)
    expect(first.page.get_by_label("A word of your own")).to_be_visible()
    expect(page.get_by_role("button", name="Record take 1")).to_be_enabled()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="This session has ended")).to_be_visible()
    wait_until(lambda: not children(served))
    for visited in (first, second):
        visited.troubles[:] = [one for one in visited.troubles if "Failed to load" not in one]


def test_the_page_says_what_to_do(daemon: Daemon, room: Room, serve: Serve, visit: Visitor) -> None:
    visited = visit(serve())
    page = visited.page
    page.get_by_role("link", name="Words").click()
    told = page.locator(".told")
    for word, why in (
        ("computer", "'computer' comes with kwsd"),
        ("../etc", "'../etc' cannot be a word's name"),
        ("--help", "'--help' cannot be a word's name"),
    ):
        page.get_by_label("A word of your own").fill(word)
        page.get_by_role("button", name="Add it").click()
        expect(told).to_contain_text(why, timeout=WAIT)
    begin(page, PHRASE)
    with daemon.connect() as client:
        client.request(Pause(holder="music"))
        page.get_by_role("button", name="Record take 1").click()
        expect(told).to_contain_text("the microphone is paused by music", timeout=WAIT)
    page.get_by_role("button", name="Record take 1").click()
    page.get_by_role("button", name="Stop").click()
    expect(told).to_have_text("Stopped; nothing was kept.", timeout=WAIT)
    take(room, page, say(PHRASE), "Record take 1", "Take 1 of 5 heard")
    room.close()
    daemon.kill()
    page.get_by_role("button", name="Record take 2").click()
    expect(told).to_contain_text("Not taken: the daemon is away", timeout=WAIT)
    expect(page.locator(".take")).to_have_count(1)
    visited.troubles.clear()


@pytest.mark.slow
def test_what_is_uploaded_is_bounded_and_leaves_nothing(
    daemon: Daemon, serve: Serve, tmp_path: Path
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    served = serve(environment={"TMPDIR": str(folder)})
    cookie = entered(served)

    def post(path: str, data: bytes) -> tuple[int, str]:
        found = served.ask("POST", path, data, cookie=cookie, origin=served.origin)
        return found.status, found.body.decode()

    assert post("/api/draft/upload", b"x")[0] == 409, "no word is being made"
    assert post("/api/draft", json.dumps({"word": PHRASE, "is_new": True}).encode())[0] == 200
    (process,) = children(served)
    good = files(VOICES[0])[0]["buffer"]
    long = io.BytesIO()
    soundfile.write(long, np.tile(say(PHRASE), 60), RATE, format="FLAC")
    for name, data, status, why in (
        ("big.wav", b"\0" * ((8 << 20) + 1), 413, "at most 8,388,608 bytes"),
        ("empty.wav", b"", 422, "empty.wav: not a recording that can be read (it is empty)"),
        ("../../evil.sh", b"#!/bin/sh", 422, "../../evil.sh: not a recording"),
        ("long.flac", long.getvalue(), 422, "long.flac: the take lasts"),
        ("cut.wav", good[:200], 422, "cut.wav: "),
        ("a" * 5000, b"x", 422, "a" * 100 + ": not"),
    ):
        found = post(f"/api/draft/upload?name={name}", data)
        assert (found[0], why in found[1]) == (status, True), found
        assert f"/proc/{served.process.pid}" not in found[1]
    for n in range(1, 33):
        audio = said(VOICES[0]) if n == 1 else np.concatenate([hiss(0.5, 3, n), voiced(n)])
        assert post(f"/api/draft/upload?name={n}.wav", wav("a.wav", audio)["buffer"])[0] == 200
    found = post("/api/draft/upload?name=33.wav", wav("a.wav", voiced(33))["buffer"])
    assert (found[0], "has 32 takes, and cannot have more" in found[1]) == (422, True), found
    state = served.ask("GET", "/api/guided", cookie=cookie).json()["state"]
    assert len(state["takes"]) == 32
    links = [str(one.readlink()) for one in Path(f"/proc/{served.process.pid}/fd").iterdir()]
    assert not [one for one in links if "memfd" in one]
    assert list(folder.iterdir()) == []
    assert served.stop() == 0
    wait_until(lambda: not Path(f"/proc/{process}").exists())
    assert list(folder.iterdir()) == []
    assert kept(daemon) == []


def voiced(seed: int) -> np.ndarray:
    """Return something like a word that is said once alone, at a pitch and speed of its own."""
    voice = VOICES[seed % len(VOICES)]
    return np.concatenate([say(PHRASE, voice, 120 + 3 * seed, 20 + 2 * seed), hiss(0.4, 3, seed)])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.usefixtures("stored")
def test_words_are_for_everybody(
    daemon: Daemon, room: Room, serve: Serve, visit: Visitor, scheme: str, size: dict[str, int]
) -> None:
    page = visit(serve(), viewport=size, color_scheme=scheme).page
    page.get_by_role("link", name="Words").click()
    expect(page.locator(".detail .take")).to_have_count(3, timeout=WAIT)
    page.wait_for_timeout(500)
    assert serious(page) == []
    assert shifted(page) < 0.05
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.get_by_label("A word of your own").fill("good grief")
    page.get_by_role("button", name="Add it").press("Enter")
    expect(page.get_by_role("heading", name="New word: good grief")).to_be_focused(timeout=WAIT)
    grief = [
        wav(f"{n}.wav", np.concatenate([hiss(0.4), say("good grief", voice), hiss(0.5)]))
        for n, voice in zip(("desk", "kitchen", "hall"), VOICES, strict=False)
    ]
    upload(page, grief, "3 of 3 recordings taken.")
    page.get_by_role("button", name="Trim take 2").click()
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.get_by_role("button", name="Trim take 2").click()
    page.evaluate("scrollTo(0, 0)")
    if DRAWS and (size == DESKTOP or scheme == "light"):
        page.wait_for_timeout(500)
        picture(page, f"words-{scheme if size == DESKTOP else 'phone'}")
    page.get_by_role("button", name="Make the word").click()
    expect(page.locator(".report").get_by_role("heading")).to_be_focused(timeout=WAIT)
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0

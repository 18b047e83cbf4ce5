"""Clips, in a real browser: heard, labeled by keyboard, filtered, deleted, kept or not."""

from __future__ import annotations

import io
import json
import re
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from conftest import PHRASE, RATE, VOICES, Daemon, Start, hiss, say
from pages import DESKTOP, DRAWS, PHONE, Serve, Visitor, WebPage, browser, picture, serve, visit
from playwright.sync_api import expect
from test_gate import entered
from test_live import serious

from kwsd.config import ClipsConfig
from kwsd.events import SpeakerMatch
from kwsd.protocol.commands import Clips
from kwsd.protocol.data import Clip, ClipInfo
from kwsd.state.clips import ClipStore
from kwsd.state.words import AddedWord, WordStore, to_bytes

NOW = float(int(time.time()) - 3600)
"""An hour ago: what is older than a month is deleted."""
ANN = SpeakerMatch("ann", 0.93, 0.82, True)
STRANGER = SpeakerMatch(None, 0.2, 0.82, False)
STORED = [
    ("computer", "wake", 0.93, ANN),
    ("computer", "near_miss", 0.41, STRANGER),
    ("jarvis", "wake", 0.97, ANN),
    ("computer", "wrong_speaker", 0.88, STRANGER),
    ("jarvis", "near_miss", 0.39, None),
    ("computer", "wake", 0.99, ANN),
]


def stored(folder: Path) -> list[str]:
    """Store clips in a state directory; return their ids, the oldest first."""
    store = ClipStore(folder, ClipsConfig)
    ids = []
    for n, (word, kind, score, speaker) in enumerate(STORED):
        spoken = say(word)
        samples = np.concatenate([hiss(1.0), spoken, hiss(0.5)])
        end = RATE + len(spoken)
        scores = [
            (at, score if at > end - 4000 else 0.02) for at in range(1280, len(samples), 1280)
        ]
        clip = Clip(
            id="",
            word=word,
            model="m",
            kind=kind,
            time=NOW + 100 * n,
            score=score,
            peak=score,
            threshold=0.55,
            start=RATE,
            end=end,
            speaker=speaker,
            scores=scores,
        )
        ids.append(store.add(clip, samples).id)
    return ids


@pytest.fixture
def ids(tmp_path: Path) -> list[str]:
    return stored(tmp_path / "state")


@pytest.fixture
def daemon(start: Start, endless: Path, ids: list[str]) -> Daemon:
    """A daemon that has these clips."""
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()
    return daemon


def labels(daemon: Daemon) -> dict[str, str | None]:
    """Return the label of each clip."""
    with daemon.connect() as client:
        return {clip.id: clip.label for clip in client.request(Clips()).clips}


def test_clips_are_labeled_by_keyboard_and_deleted(
    daemon: Daemon, ids: list[str], serve: Serve, visit: Visitor
) -> None:
    page = visit(serve()).page
    page.get_by_role("link", name="Clips").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(len(ids), timeout=30_000)
    expect(page.locator("#clip-title")).to_have_text("computer, wake")
    expect(page.locator(".wave")).to_have_attribute(
        "aria-label", re.compile(r"^\d\.\d s of sound; the score rises to 0\.99, the threshold is")
    )
    page.keyboard.press("r")
    expect(rows.nth(0)).to_contain_text("✓ right")
    expect(rows.nth(1)).to_have_class("current")
    page.keyboard.press("w")
    expect(rows.nth(1)).to_contain_text("✗ wrong")
    newest = list(reversed(ids))
    assert labels(daemon) == {**dict.fromkeys(ids), newest[0]: "right", newest[1]: "wrong"}
    page.keyboard.press("ArrowUp")
    page.keyboard.press("u")
    expect(rows.nth(1)).not_to_contain_text("wrong")
    assert labels(daemon)[newest[1]] is None

    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Stop")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("button", name="Play")).to_be_visible(timeout=30_000)  # it has ended

    page.get_by_label("Kind").select_option(label="near miss")
    expect(rows).to_have_count(2)
    page.get_by_label("Mark all that are shown").check()
    expect(page.locator(".bulk")).to_contain_text("2 marked")
    page.locator(".bulk").get_by_role("button", name="Wrong").click()
    expect(rows.nth(1)).to_contain_text("✗ wrong")
    misses = [id for id, (_, kind, *_) in zip(ids, STORED, strict=True) if kind == "near_miss"]
    assert [labels(daemon)[id] for id in misses] == ["wrong", "wrong"]
    page.get_by_label("Mark all that are shown").check()
    page.get_by_role("button", name="Delete…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Delete 2 clips? 2 of them labeled")
    dialog.get_by_role("button", name="Keep them").click()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Delete…").press("Enter")
    dialog.get_by_role("button", name="Delete").press("Enter")
    expect(page.locator(".card-head .small").first).to_contain_text("4 of 200, ", timeout=30_000)
    assert not set(misses) & set(labels(daemon))
    expect(page.locator("tr.current button")).to_be_focused()
    for name, value, count in (("Word", "jarvis", 1), ("Speaker", "a stranger", 0)):
        page.get_by_label(name, exact=True).select_option(label=value)
        expect(rows).to_have_count(count)


def test_keeping_clips_is_switched(daemon: Daemon, serve: Serve, visit: Visitor) -> None:
    page = visit(serve()).page
    page.get_by_role("link", name="Clips").click()
    switch = page.get_by_role("switch", name="Keep new clips")
    expect(switch).to_have_attribute("aria-checked", "false", timeout=30_000)
    switch.press("Enter")
    expect(switch).to_have_attribute("aria-checked", "true", timeout=30_000)
    with daemon.connect() as client:
        assert client.request(Clips()).enabled
    row = page.locator("tbody tr").nth(2)
    held = page.locator(f"[data-id='{row.get_attribute('data-id')}'] input")
    held.focus()
    expect(page.locator("tbody tr")).to_have_count(len(STORED) + 1, timeout=60_000)  # a new wake
    expect(held).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_clips_are_for_everybody(
    daemon: Daemon, serve: Serve, visit: Visitor, scheme: str, size: dict[str, int]
) -> None:
    page = visit(serve(), viewport=size, color_scheme=scheme).page
    page.get_by_role("link", name="Clips").click()
    expect(page.locator("tbody tr")).to_have_count(len(STORED), timeout=30_000)
    page.keyboard.press("r")
    expect(page.locator("tbody tr").first).to_contain_text("✓ right")
    page.keyboard.press("w")
    expect(page.locator("tbody tr").nth(1)).to_contain_text("✗ wrong")
    page.wait_for_timeout(500)
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#clip-title")).to_have_text("computer, wake")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(500)
    if DRAWS and (size == DESKTOP or scheme == "light"):
        picture(page, f"clips-{scheme if size == DESKTOP else 'phone'}")


def test_sound_is_for_the_session_alone_and_comes_in_ranges(
    daemon: Daemon, ids: list[str], serve: Serve
) -> None:
    page = serve()
    path = f"/api/clips/{ids[0]}/audio.wav"
    assert page.ask("GET", path).status == 401
    cookie = entered(page)
    whole = page.ask("GET", path, cookie=cookie)
    assert whole.status == 200
    assert whole.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(whole.body)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (RATE, 1, 2)
    size = len(whole.body)
    for asked, begin, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=10-99", 10, 100),
        ("bytes=100-", 100, size),
        ("bytes=-50", size - 50, size),
        (f"bytes=5-{size + 9}", 5, size),
        (f"bytes=-{size + 9}", 0, size),
    ):
        part = page.ask("GET", path, cookie=cookie, range=asked)
        assert (part.status, part.body) == (206, whole.body[begin:end]), asked
        assert part.headers["content-range"] == f"bytes {begin}-{end - 1}/{size}"
    for asked in ("bytes=-", "bytes=a-b", "lines=1-2", "bytes=1-2,4-5", f"bytes={'9' * 5000}-", ""):
        assert page.ask("GET", path, cookie=cookie, range=asked).status == 200, asked
    refused = page.ask("GET", path, cookie=cookie, range=f"bytes={size}-")
    assert (refused.status, refused.headers["content-range"]) == (416, f"bytes */{size}")


@pytest.mark.slow
def test_an_added_word_learns_and_unlearns(
    start: Start, endless: Path, tmp_path: Path, banana: AddedWord, serve: Serve, visit: Visitor
) -> None:
    """The models are loaded in a process of its own, and the page stays as small as it was."""
    state = tmp_path / "state"
    store = ClipStore(state, ClipsConfig)
    for n, voice in enumerate(("en-us+m4", "en-gb+f4", "en-us+f1")):
        spoken = say(PHRASE, voice)
        samples = np.concatenate([hiss(1.5), spoken, hiss(0.5, seed=n)])
        end = len(samples) - RATE // 2
        spoken_clip = Clip(
            id="",
            word=banana.name,
            model=banana.id,
            kind="near_miss",
            time=NOW + n,
            score=0.4,
            threshold=0.5,
            start=end - len(spoken),
            end=end,
        )
        store.add(spoken_clip, samples)
    (state / "hey_banana.word").write_bytes(to_bytes(banana))
    start("--source", str(endless), "--realtime").connect().close()
    served = serve()
    page = visit(served).page
    page.get_by_role("link", name="Clips").click()
    expect(page.locator("tbody tr")).to_have_count(3, timeout=30_000)
    for key in "rrr":
        page.keyboard.press(key)
    lessons = page.locator(".lessons")
    expect(lessons).to_contain_text("hey banana can learn from 3 labeled clips", timeout=30_000)
    before = served.memory_mib()
    lessons.get_by_role("button", name="Improve").click()
    expect(lessons).to_contain_text("hey banana has learned", timeout=570_000)
    assert served.memory_mib() < before + 10
    table = lessons.locator("tbody tr")
    expect(table.nth(0)).to_have_text(re.compile(r"its clips that are missed\d of 3\d of 3"))
    expect(table.nth(2)).to_contain_text(f"of {len(VOICES)}")
    words = WordStore(state, banana.encoder_id)
    assert len(words.load(banana.name).made.clips) == 3
    lessons.get_by_role("button", name="Undo").click()
    expect(lessons).to_contain_text("can learn from 3 labeled clips", timeout=30_000)
    assert words.load(banana.name).made.clips == []
    assert words.load(banana.name).id == banana.id
    cookie = entered(served)
    for word, what, why in (
        ("nothing", "improve", "no word is called 'nothing'"),
        ("--yes", "improve", "cannot be a word's name"),
        (banana.name, "undo", "nothing is kept of 'hey_banana'"),
    ):
        path = f"/api/words/{word}/{what}"
        answer = served.ask("POST", path, b"{}", cookie=cookie, origin=served.origin)
        assert answer.status == 404, answer.body
        assert why in answer.json()["message"]


def test_bad_requests_are_told_and_change_nothing(
    daemon: Daemon, ids: list[str], serve: Serve
) -> None:
    page = serve()
    cookie = entered(page)
    before = labels(daemon)

    def post(what: str, body: object) -> tuple[int, str]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = page.ask("POST", what, data, cookie=cookie, origin=page.origin)
        return answer.status, answer.json()["message"]

    for what, body, status, why in (
        ("/api/clips/label", b"{", 400, "truncated"),
        ("/api/clips/label", {"clips": ids}, 400, "label"),
        ("/api/clips/label", {"clips": ids, "label": "maybe"}, 400, "maybe"),
        ("/api/clips/label", {"clips": [*ids, "none"], "label": "right"}, 404, "no clip 'none'"),
        ("/api/clips/delete", {"clips": ["../../state"]}, 404, "no clip"),
        ("/api/clips/delete", {"clips": "all"}, 400, "array"),
        ("/api/clips/keep", {"enabled": "yes"}, 400, "bool"),
        ("/api/clips/keep", b'{"x":' + b"[" * 100_000, 400, "nested too deeply"),
        ("/api/clips/label", b" " * 400_000, 413, "at most 262,144 bytes"),
    ):
        found = post(what, body)
        assert found[0] == status, (what, body, found)
        assert why in found[1]
    for path in (
        "/api/clips/none",
        "/api/clips/..%2f..%2fetc/audio.wav",
        "/api/clips/none/audio.wav",
    ):
        assert page.ask("GET", path, cookie=cookie).status == 404, path
    assert page.ask("GET", "/api/clips/label", cookie=cookie).status in (404, 405)
    assert labels(daemon) == before
    daemon.kill()
    answer = page.ask("GET", "/api/clips", cookie=cookie)
    assert answer.status == 503
    assert answer.json()["code"] in ("closed", "unreachable")

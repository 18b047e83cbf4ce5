"""People, in a real browser: enrolled phrase by phrase and from files, recognized, deleted."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import Daemon, hiss, say
from pages import DESKTOP, PHONE, Serve, Visitor, browser, serve, visit
from playwright.sync_api import FilePayload, Page, expect
from test_live import serious, shifted
from test_words_page import WAIT, Room, daemon, refused_as_meant, room, upload, wav

from kwsd.protocol.commands import Speakers

ANN = "en-us+f3"
BOB = "en-gb+m3"
SENTENCES = (
    "the weather is nice today, and I like to speak for some while about nothing at all",
    "please turn on the kitchen light, and tell me what the news of this morning are",
)
WORD = "computer"


def begin(page: Page, name: str) -> None:
    """Begin to enroll somebody."""
    page.get_by_role("link", name="People").click()
    page.get_by_label("Somebody’s name").fill(name)
    page.get_by_role("button", name="Enroll", exact=True).click()
    expect(page.get_by_role("heading", name=f"Enroll {name}")).to_be_focused(timeout=WAIT)


def phrase(room: Room, page: Page, number: int, text: str, pitch: int = 50) -> None:
    """Record a phrase."""
    with room.answers("enroll.next", say(text, ANN, 150, pitch)):
        page.get_by_role("button", name=f"Record {number} of 7").click()
        expect(page.get_by_role("button", name="Listening …")).to_be_focused(timeout=WAIT)
    told = re.compile(rf"{number} of 7 heard: \d\.\d s at −\d\d dBFS")
    expect(page.locator(".recorder .told")).to_have_text(told, timeout=WAIT)


def enroll_by_files(page: Page, name: str, voice: str) -> None:
    begin(page, name)
    texts = ("what time is it now", "turn the music off", "good evening, it is raining")
    upload(
        page,
        [wav(f"{n}.wav", say(text, voice)) for n, text in enumerate(texts)],
        "3 of 3 recordings taken.",
    )
    page.get_by_role("button", name=f"Enroll {name}").click()
    expect(page.locator(".card-head .told")).to_contain_text(f"{name} is enrolled", timeout=WAIT)


def enrolled(daemon: Daemon) -> dict[str, list[str]]:
    """Return the names of the references of each person."""
    with daemon.connect() as client:
        found = client.request(Speakers()).speakers
    return {one.name: [reference.name for reference in one.references] for one in found}


@pytest.mark.slow
def test_somebody_is_enrolled_phrase_by_phrase_and_recognized(
    daemon: Daemon, room: Room, serve: Serve, visit: Visitor
) -> None:
    visited = visit(serve())
    page = visited.page
    begin(page, "ann")
    expect(page.locator(".prompt")).to_have_text("Say “computer”")
    store = page.get_by_role("button", name="Enroll ann")
    expect(store).to_be_disabled()
    for n in range(1, 6):
        phrase(room, page, n, WORD, 40 + 4 * n)
        expect(page.locator(".heard li")).to_have_count(n)
    expect(page.locator(".prompt")).to_contain_text("Say what you like")
    for n, text in enumerate(SENTENCES, 6):
        phrase(room, page, n, text)
    expect(page.locator(".prompt")).to_have_text("All phrases are said")
    expect(store).to_be_focused()
    assert enrolled(daemon) == {}
    store.press("Enter")
    told = page.locator(".card-head .told")
    expect(told).to_have_text("ann is enrolled, from 7 takes.", timeout=WAIT)
    assert enrolled(daemon) == {"ann": [""]}
    test = page.get_by_role("button", name="Who is speaking?")
    for voice, who, state in (
        (ANN, r"ann, (0\.\d\d|1\.00)", "good"),
        (BOB, r"a stranger, 0\.\d\d", "warn"),
    ):
        with room.answers("speakers.hear", say("what time is it now", voice)):
            test.click()
        expect(page.locator(".who")).to_have_text(re.compile(f"^{who}$"), timeout=WAIT)
        expect(page.locator(".tester .told")).to_have_attribute("data-state", state)
    page.get_by_role("link", name="Live").click()
    room.say(np.tile(np.concatenate([hiss(1.5), say(WORD, ANN), hiss(1.5)]), 3))
    expect(page.locator(".happened")).to_contain_text(re.compile(r"woke.*ann, "), timeout=WAIT)


def test_references_are_kept_beside_each_other_and_deleted(
    daemon: Daemon, room: Room, serve: Serve, visit: Visitor
) -> None:
    visited = visit(serve())
    page = visited.page
    enroll_by_files(page, "ann", ANN)
    list_of_ann = page.get_by_role("list", name="People").get_by_role("listitem")
    expect(list_of_ann).to_contain_text(re.compile(r"^ann3 takes, "))
    page.get_by_role("button", name="Enroll ann again").click()
    expect(page.locator(".warning")).to_contain_text("ann is enrolled already", timeout=WAIT)
    page.get_by_label("Keep it beside others, as").fill("far")
    page.get_by_role("button", name="Begin with this").click()
    expect(page.get_by_role("heading", name="Enroll ann (far)")).to_be_focused(timeout=WAIT)
    expect(page.locator(".warning")).to_be_hidden()
    junk: FilePayload = {"name": "junk.wav", "mimeType": "audio/wav", "buffer": b"no sound"}
    takes = [wav(f"{n}.wav", say(text, BOB)) for n, text in enumerate(SENTENCES)]
    upload(page, [junk, *takes], "2 of 3 recordings taken. junk.wav: not a recording")
    page.get_by_role("button", name="Enroll ann").click()
    told = page.locator(".card-head .told")
    expect(told).to_contain_text("from 2 takes", timeout=WAIT)
    expect(told).to_contain_text("This voice does not resemble the other references of ann")
    assert enrolled(daemon) == {"ann": ["", "far"]}

    page.get_by_role("button", name="Enroll ann again").click()
    expect(page.locator(".warning")).to_contain_text("far stay", timeout=WAIT)
    upload(page, takes[:1], "1 of 1 recording taken.")
    page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Stop").click()
    expect(told).to_have_text("Nothing has changed.", timeout=WAIT)

    enroll_again = page.get_by_role("button", name="Enroll ann again")
    enroll_again.click()
    expect(page.get_by_role("heading", name="Enroll ann")).to_be_focused(timeout=WAIT)
    three = [wav(f"{n}.wav", say(text, ANN)) for n, text in enumerate((*SENTENCES, "good evening"))]
    upload(page, three, "3 of 3 recordings taken.")
    page.get_by_role("button", name="Enroll ann").click()
    dialog.get_by_role("button", name="Not yet").click()
    page.get_by_role("button", name="Enroll ann").click()
    dialog.get_by_role("button", name="Replace").click()
    expect(told).to_contain_text("ann is enrolled, from 3 takes.", timeout=WAIT)

    page.get_by_role("button", name="Delete the reference far of ann").click()
    dialog.get_by_role("button", name="Keep").click()
    assert sorted(enrolled(daemon)["ann"]) == ["", "far"]
    page.get_by_role("button", name="Delete the reference far of ann").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(told).to_contain_text("the reference far of ann is deleted", timeout=WAIT)
    assert enrolled(daemon) == {"ann": [""]}
    page.get_by_role("button", name="Delete ann").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(page.locator(".none").first).to_contain_text("Nobody is enrolled", timeout=WAIT)
    expect(page.get_by_role("button", name="Who is speaking?")).to_be_disabled()
    assert enrolled(daemon) == {}
    refused_as_meant(visited)


def test_the_page_says_what_keeps_it_from_enrolling(
    daemon: Daemon, room: Room, serve: Serve, visit: Visitor
) -> None:
    visited = visit(serve())
    page = visited.page
    page.get_by_role("link", name="People").click()
    told = page.locator(".card-head .told")
    for name, why in (("--help", "--help"), ("a/b", "a/b")):
        page.get_by_label("Somebody’s name").fill(name)
        page.get_by_role("button", name="Enroll", exact=True).click()
        expect(told).to_contain_text(why, timeout=WAIT)
    begin(page, "ann")
    with room.answers("enroll.next", say("something else is said here, and no word of it")):
        page.get_by_role("button", name="Record 1 of 7").click()
    room.close()
    daemon.kill()
    expect(page.locator(".recorder .told")).to_contain_text("Not taken: ", timeout=WAIT)
    visited.troubles.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_people_are_for_everybody(
    daemon: Daemon, room: Room, serve: Serve, visit: Visitor, scheme: str, size: dict[str, int]
) -> None:
    page = visit(serve(), viewport=size, color_scheme=scheme).page
    enroll_by_files(page, "ann", ANN)
    with room.answers("speakers.hear", say("what time is it now", ANN)):
        page.get_by_role("button", name="Who is speaking?").click()
    expect(page.locator(".who")).to_have_text(re.compile("^ann, "), timeout=WAIT)
    assert serious(page) == []
    assert shifted(page) < 0.05
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    for link in page.locator("nav a").all():
        box = link.bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= size["width"], link.inner_text()
    page.get_by_role("button", name="Enroll ann again").press("Enter")
    expect(page.get_by_role("heading", name="Enroll ann")).to_be_focused(timeout=WAIT)
    page.wait_for_timeout(500)
    assert serious(page) == []
    phrase(room, page, 1, WORD)
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0

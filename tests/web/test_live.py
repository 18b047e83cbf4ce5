"""Live, in a real browser, beside a real daemon that is fed from a file."""

from __future__ import annotations

import gzip
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from axe_playwright_python.sync_playwright import Axe
from conftest import RATE, Daemon, Start, hiss, say
from pages import DESKTOP, DRAWS, PHONE, Serve, Visitor, WebPage, browser, picture, serve, visit
from playwright.sync_api import Page, Route, expect

from kwsd.protocol.commands import Pause, Resume
from kwsd.web.live import STATUS_S
from kwsd.web.static_files import StaticFiles

FIRST_PAINT_BYTES = 100_000


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Minutes in which words are said every few seconds."""
    path = tmp_path_factory.mktemp("audio") / "talk.wav"
    said = [say("computer"), say("good evening, it is raining"), say("jarvis", "en-us+f3")]
    part = np.concatenate([np.concatenate([one, hiss(2.2, 30)]) for one in said])
    quiet = hiss(2.0, 30)  # there is noise before the first word, too
    soundfile.write(path, np.concatenate([quiet, np.tile(part, 60)]), RATE)
    return path


def listen(start: Start, talk: Path, config: str = "") -> Daemon:
    """Start a daemon that hears the talk in real time."""
    (start.folder / "kwsd").mkdir(exist_ok=True)
    (start.folder / "kwsd" / "kwsd.yaml").write_text(f"checker: off\n{config}")
    daemon = start("--source", str(talk), "--realtime")
    daemon.connect().close()
    return daemon


def serious(page: Page) -> list[str]:
    """Return the serious findings of axe on what is shown, once no color changes any more."""
    page.evaluate("Promise.allSettled(document.getAnimations().map((one) => one.finished))")
    found: dict[str, Any] = Axe().run(page).response
    return [
        f"{one['id']}: {one['nodes'][0]['target']} {one['nodes'][0]['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def colored(page: Page, lane: int, color: str, canvases: str = ".lane canvas") -> bool:
    """Return whether a lane's plot has pixels of a color of the style."""
    return bool(
        page.evaluate(
            """([lane, name, canvases]) => {
                const canvas = document.querySelectorAll(canvases)[lane];
                const style = getComputedStyle(document.documentElement).getPropertyValue(name);
                const probe = document.createElement("canvas").getContext("2d");
                probe.fillStyle = style.trim();
                probe.fillRect(0, 0, 1, 1);
                const wanted = probe.getImageData(0, 0, 1, 1).data;
                const { data } = canvas.getContext("2d").getImageData(
                    0, 0, canvas.width, canvas.height);
                for (let n = 0; n < data.length; n += 4)
                    if ([0, 1, 2].every((k) => Math.abs(data[n + k] - wanted[k]) < 4)) return true;
                return false;
            }""",
            [lane, color, canvases],
        )
    )


def shifted(page: Page) -> float:
    """Return how much of the page has moved by itself, as a browser counts it."""
    moved = page.evaluate(
        """() => new Promise((done) => {
            let moved = 0;
            new PerformanceObserver((list) => {
                for (const one of list.getEntries()) if (!one.hadRecentInput) moved += one.value;
            }).observe({type: "layout-shift", buffered: true});
            setTimeout(() => done(moved), 500);
        })"""
    )
    return float(moved)


def test_wakes_are_seen_as_they_are_heard(
    start: Start, serve: Serve, visit: Visitor, talk: Path
) -> None:
    listen(start, talk)
    page = visit(serve()).page
    expect(page.locator("#chip-text")).to_have_text("listening", timeout=30_000)
    first = page.locator(".happened li").first
    expect(first).to_contain_text(re.compile(r"computer woke: [01]\.\d\d of 0"), timeout=30_000)
    expect(first).to_contain_text("dB over the noise")
    expect(page.locator(".lane h3")).to_have_text(["computer", "Level"])
    plot = page.locator(".lane .plot").first
    label = plot.get_attribute("aria-label") or ""
    assert re.match(r"Score of computer: highest of the last 30 s [01]\.\d\d, threshold 0", label)
    page.wait_for_timeout(500)
    for color in ("--good", "--accent", "--ink"):  # the mark of the wake, the score, the threshold
        assert colored(page, 0, color), color
    assert colored(page, 1, "--accent")
    assert not colored(page, 1, "--good")
    cells = page.locator(".strip dd").all_inner_texts()
    assert cells[0] == "talk.wav"
    assert cells[1].endswith(" dBFS")
    assert cells[2] in ("open", "closed")
    assert cells[3].endswith(" s")
    assert cells[4].endswith(" % of a core")
    page.get_by_role("button", name="Hold the picture").press("Enter")
    hold = page.get_by_role("button", name="Let it run")
    expect(hold).to_have_attribute("aria-pressed", "true")
    before = page.locator(".now").all_inner_texts()
    page.wait_for_timeout(1000)
    assert page.locator(".now").all_inner_texts() == before


REFUSALS = [
    ("near_miss", None, "near miss: 0.41 of 0.55"),
    ("wrong_speaker", {"name": None, "verified": False}, "stranger, 0.20 of 0.82"),
    ("wrong_speaker", {"name": "ann", "verified": True}, "ann may not wake it"),
    ("refractory", None, "too soon after the last wake"),
    ("other_word", None, "another word fits better"),
]


def test_refusals_have_their_reason_in_words(serve: Serve, visit: Visitor) -> None:
    page = visit(serve()).page
    for reason, speaker, text in REFUSALS:
        event = {"type": "rejected", "reason": reason, "score": 0.41, "threshold": 0.55}
        match = speaker and {"score": 0.2, "threshold": 0.82, **speaker}
        said = page.evaluate(
            "async (event) => (await import('/wording.js')).describe(event)",
            {**event, "speaker": match},
        )
        assert (said["kind"], said["title"]) == ("refused", text)


def test_the_microphone_is_seen_paused_and_the_daemon_away(
    start: Start, serve: Serve, visit: Visitor, talk: Path
) -> None:
    daemon = listen(start, talk)
    page = visit(serve()).page
    chip = page.locator("#chip-text")
    expect(chip).to_have_text("listening", timeout=30_000)
    with daemon.connect() as client:
        client.request(Pause(holder="music"))
        expect(chip).to_have_text("paused by music, while it is connected", timeout=30_000)
        client.request(Resume(holder="music"))
        expect(chip).to_have_text("listening", timeout=30_000)
    daemon.kill()
    expect(chip).to_have_text("daemon away", timeout=30_000)
    notice = page.get_by_role("status")
    expect(notice).to_contain_text("The daemon is away")
    expect(notice).to_contain_text("The page reconnects by itself")
    expect(page.locator(".strip dd").first).to_have_text("–")
    listen(start, talk)
    expect(chip).to_have_text("listening", timeout=30_000)
    expect(notice).to_be_hidden()
    expect(page.locator(".now").first).to_have_text(re.compile("^0"), timeout=30_000)


def test_what_the_daemon_knows_comes_back_with_it(
    start: Start, serve: Serve, visit: Visitor, talk: Path
) -> None:
    served = serve()
    visited = visit(served)
    page = visited.page
    told = page.locator(".card-head .told")
    for name in ("Words", "People"):
        page.get_by_role("link", name=name).click()
        expect(told).to_have_text("the daemon is away")
        expect(page.locator(".none")).to_be_hidden()  # who knows?
        daemon = listen(start, talk)
        expect(told).to_have_text("", timeout=30_000)
        daemon.kill()
        expect(page.locator("#chip-text")).to_have_text("daemon away", timeout=30_000)
    page.get_by_role("link", name="Doctor").click()
    expect(page.locator(".verdict")).to_contain_text("need you", timeout=60_000)
    listen(start, talk)
    expect(page.locator(".verdict")).to_contain_text("are fine", timeout=60_000)
    visited.troubles.clear()  # 503


def test_nothing_is_asked_of_the_daemon_while_nobody_watches(
    start: Start, serve: Serve, visit: Visitor, talk: Path
) -> None:
    daemon = listen(start, talk, "log_level: debug\n")
    served = serve()
    page = visit(served).page
    expect(page.locator(".now").first).to_have_text(re.compile("^0"), timeout=30_000)

    def asked() -> list[str]:
        """Return the requests that the daemon was sent."""
        found = re.findall(r"asks for ([a-z.]+)", daemon.log.read_text())
        return [one for one in found if one in ("status", "scores", "scores.stop")]

    page.goto("about:blank")
    deadline = time.monotonic() + 60
    while asked().count("scores.stop") < 1:
        assert time.monotonic() < deadline, asked()
        time.sleep(0.1)
    time.sleep(0.5)
    before = asked()
    time.sleep(2 * STATUS_S + 0.5)
    assert asked() == before
    page.goto(served.origin)
    expect(page.locator(".happened li").first).to_be_visible(timeout=30_000)  # what it has missed
    expect(page.locator(".now").first).to_have_text(re.compile("^0"), timeout=30_000)
    assert asked().count("scores") == 2


def test_a_session_that_has_ended_says_how_to_begin_another(serve: Serve, visit: Visitor) -> None:
    visited = visit(serve())
    page = visited.page
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="This session has ended")).to_be_visible()
    assert page.locator("main code").inner_text() == "kwsd web link"
    expect(page.locator("main")).to_be_focused()
    page.reload()
    expect(page.get_by_role("heading", name="This page is private")).to_be_visible()
    assert any("401" in text for text in visited.troubles)
    visited.troubles.clear()


def test_the_page_comes_back_after_its_own_restart(serve: Serve, visit: Visitor) -> None:
    served = serve()
    visited = visit(served)
    served.stop()
    expect(visited.page.get_by_role("status")).to_contain_text("The page's server is away")
    visited.troubles.clear()


def test_what_was_chosen_last_is_shown(serve: Serve, visit: Visitor) -> None:
    """Also where another comes later, or not at the first try."""
    visited = visit(serve())
    page = visited.page
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 30
        while len(held) < count:
            assert time.monotonic() < deadline
            page.wait_for_timeout(20)

    page.route("**/clips.js", hold)
    page.get_by_role("link", name="Clips").click()
    expect(page.locator("nav a[aria-current]")).to_have_text("Clips")
    page.get_by_role("link", name="Doctor").click()
    expect(page).to_have_title("Doctor · kwsd")
    wait_for(1)
    held[0].continue_()
    page.evaluate("import('/clips.js')")
    expect(page).to_have_title("Doctor · kwsd")
    page.route("**/people.js", hold)
    page.get_by_role("link", name="People").click()
    expect(page.locator("nav a[aria-current]")).to_have_text("People")
    wait_for(2)
    page.unroute("**/people.js")
    held[1].abort()
    expect(page).to_have_title("People · kwsd")
    expect(page.locator("main")).to_be_focused()
    visited.troubles.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_is_for_everybody(
    start: Start, serve: Serve, visit: Visitor, talk: Path, scheme: str, size: dict[str, int]
) -> None:
    listen(start, talk, "words: {computer: , jarvis: }\n")
    page = visit(serve(), viewport=size, color_scheme=scheme).page
    expect(page.locator(".happened li").nth(1)).to_be_visible(timeout=30_000)
    assert serious(page) == []
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, "nothing is beside the screen"
    wide = page.locator("nav").evaluate("(nav) => nav.scrollWidth - nav.clientWidth")
    assert wide <= 0, "nor is a page beside the others"
    assert shifted(page) < 0.05
    if DRAWS and (size == DESKTOP or scheme == "light"):
        page.wait_for_timeout(24_000)
        picture(page, f"live-{scheme if size == DESKTOP else 'phone'}")


def test_the_keyboard_is_enough(serve: Serve, visit: Visitor) -> None:
    page = visit(serve()).page
    expect(page.get_by_role("button", name="Hold the picture")).to_be_visible()
    focused = "document.activeElement.textContent.trim() || document.activeElement.className"
    stops = []
    for _ in range(12):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(focused))
    assert stops[0] == "Skip to the content"
    assert {"kwsd", "Live", "Hold the picture", "Sign out"} <= set(stops)


def test_the_first_paint_is_small(serve: Serve, visit: Visitor) -> None:
    sizes: dict[str, int] = {}
    files = StaticFiles().files
    visited = visit(serve())
    for entry in visited.page.evaluate(
        "performance.getEntriesByType('resource').map((one) => [one.name, one.encodedBodySize])"
    ):
        sizes[entry[0].rpartition(":")[2].partition("/")[2]] = entry[1]
    loaded = {f"/{name}" for name in sizes} & set(files)
    assert "/live.js" in loaded
    assert "/uplot/uplot.js" in loaded
    total = sum(len(files[name].compressed) for name in loaded | {"/"})
    assert sum(sizes.values()) <= total
    assert total <= FIRST_PAINT_BYTES, total
    assert gzip.decompress(files["/main.js"].compressed) == files["/main.js"].data


def test_uplot_comes_with_its_license() -> None:
    files = StaticFiles().files
    assert b"MIT" in files["/uplot/LICENSE.txt"].data
    assert b"uPlot (v1." in files["/uplot/uplot.js"].data[:100]
    for name, file in files.items():
        assert name.startswith("/uplot") or b"https://" not in file.data, name

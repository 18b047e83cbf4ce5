"""Thresholds, in a real browser: looked at, put in force, taken back, by a log made by the test."""

from __future__ import annotations

import json
import math
import random
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Daemon, Start, hiss
from pages import DESKTOP, DRAWS, PHONE, Serve, Visitor, WebPage, browser, picture, serve, visit
from playwright.sync_api import Page, expect
from test_gate import entered
from test_live import colored, serious, shifted

from kwsd.cli import main as cli
from kwsd.client.calibrate import from_log
from kwsd.config import ClipsConfig
from kwsd.learn.thresholds import choose
from kwsd.model.bundle import Bundle, WordModel
from kwsd.protocol.commands import GetCalibration, GetConfig, Reload, Status
from kwsd.protocol.data import Clip, ClipLabel, OperatingPoint
from kwsd.state.clips import ClipStore
from kwsd.state.words import AddedWord, to_bytes

WORD = "computer"
CONFIG = "checker: off\nwords: {computer: , jarvis: }\n"
DAYS = 14
"""Days of the log, up to now."""


class Log:
    """A log of the last days, and labeled clips of some of its wakes."""

    def __init__(self, state: Path, model: WordModel) -> None:
        self.peaks: dict[int, list[tuple[float, bool, bool | None]]] = {}
        """Peak, whether it woke, and whether it is labeled right; by how many days ago."""
        state.mkdir(mode=0o700, exist_ok=True)
        limits = ClipsConfig(max_age_days=3650, max_count=1000)
        clips = ClipStore(state, lambda: limits)
        rng = random.Random(5)
        noon = time.mktime((*time.localtime()[:3], 12, 0, 0, 0, 0, -1))
        lines = []
        for ago in reversed(range(1, DAYS)):
            day = noon - ago * 86_400
            found: list[tuple[float, bool, bool | None]] = []
            for n in range(rng.randint(2, 6)):  # said
                peak = round(1 - 0.6 * rng.random() ** 3, 4)
                found.append((peak, peak >= model.threshold, True if n < 2 else None))
            for n in range(12):  # something else
                peak = round(1 / (1 + math.exp(2.2 - rng.expovariate(0.8))), 4)
                found.append(
                    (peak, peak >= model.threshold, False if n == 0 and peak > 0.3 else None)
                )
            self.peaks[ago] = found
            at = [day + 60 * n for n in range(len(found))]
            for (peak, woke, label), when in zip(found, at, strict=True):
                if label is not None:
                    clips.add(
                        _clip(model.id, when, peak, woke, "right" if label else "wrong"), QUIET
                    )
            entries = [
                [when, peak, woke, peak if woke else None]
                for (peak, woke, _), when in zip(found, at, strict=True)
            ]
            for hour in range(-8, 10):  # hours before the one at noon, and after it
                stretch = [model.id, 3600.0, entries if hour == 0 else []]
                lines.append({"written": day + 3600 * (hour + 1), "words": {WORD: stretch}})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (state / "peaks.jsonl").write_text(text)

    def change(self, threshold: float, days: int = DAYS) -> tuple[int, int, int]:
        """Return how often it woke in the last days, and how often fewer and more it would."""
        every = [one for ago, peaks in self.peaks.items() if ago < days for one in peaks]
        woke = sum(woke for _, woke, _ in every)
        fewer = sum(woke and peak < threshold for peak, woke, _ in every)
        more = sum(not woke and peak >= threshold for peak, woke, _ in every)
        return woke, fewer, more


QUIET = hiss(0.5)


def _clip(model: str, when: float, peak: float, woke: bool, label: ClipLabel) -> Clip:
    kind = "wake" if woke else "near_miss"
    return Clip(
        id="",
        word=WORD,
        model=model,
        kind=kind,
        time=when,
        score=peak,
        peak=peak,
        threshold=0.77,
        start=0,
        end=8000,
        label=label,
    )


@pytest.fixture
def log(tmp_path: Path, bundle: Bundle) -> Log:
    return Log(tmp_path / "state", bundle.words[WORD])


def listen(start: Start, endless: Path, config: str = "") -> Daemon:
    """Start a daemon for two words, without a checker."""
    (start.folder / "kwsd").mkdir(exist_ok=True)
    file = start.folder / "kwsd" / "kwsd.yaml"
    file.write_text(
        config or "checker: off\nwords: {computer: , jarvis: }\nclips: {max_age_days: 3650}\n"
    )
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()
    return daemon


def shows(page: Page, word: str) -> None:
    """Wait until the page shows what it knows of a word."""
    expect(page.locator("#word-title")).to_have_text(word, timeout=30_000)
    expect(page.locator(".stack")).to_have_attribute("aria-busy", "false", timeout=30_000)


def opened(served: WebPage, visit: Visitor, **options: Any) -> Page:
    """Return the page of thresholds, which shows a word."""
    page = visit(served, **options).page
    page.get_by_role("link", name="Thresholds").click()
    shows(page, WORD)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_thresholds_are_for_everybody(
    start: Start,
    endless: Path,
    log: Log,
    serve: Serve,
    visit: Visitor,
    scheme: str,
    size: dict[str, int],
) -> None:
    listen(start, endless)
    page = opened(serve(), visit, viewport=size, color_scheme=scheme)
    slider = page.get_by_role("slider", name="Threshold of computer")
    for _ in range(12):
        slider.press("ArrowLeft")
    expect(page.locator(".tradeoff canvas")).to_have_count(2)
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    if DRAWS and (size == DESKTOP or scheme == "light"):
        page.evaluate("scrollTo(0, 0)")
        picture(page, f"thresholds-{scheme if size == DESKTOP else 'phone'}")


def shown(page: Page, title: str) -> tuple[str, str]:
    """Return what a cell of the readout says."""
    cell = page.locator(".readout > div").filter(has=page.get_by_text(title, exact=True))
    value, sub = cell.locator("dd").all_inner_texts()
    return value, sub.strip()


def row_of(page: Page, word: str) -> Any:
    """Return the row of a word in the list."""
    return page.locator("table").first.get_by_role("row").filter(has_text=word)


def in_force(daemon: Daemon, word: str = WORD) -> tuple[float, str]:
    """Return the threshold that a daemon's status tells, and who set it."""
    with daemon.connect() as client:
        found = client.request(Status()).words[word]
        return found.threshold, found.origin


def test_a_threshold_is_moved_applied_and_undone(
    start: Start, endless: Path, log: Log, serve: Serve, visit: Visitor
) -> None:
    daemon = listen(start, endless)
    before = in_force(daemon)
    served = serve()
    page = opened(served, visit)
    slider = page.get_by_role("slider", name="Threshold of computer")
    apply = page.get_by_role("button", name="Apply")
    undo = page.get_by_role("button", name="Undo the last change")
    expect(apply).to_be_disabled()
    expect(undo).to_be_disabled()
    assert shown(page, "Threshold") == (f"{before[0]:.2f}", "in force")
    spoken = slider.get_attribute("aria-valuetext") or ""
    assert re.fullmatch(rf"{before[0]:.2f}, [\d.]+ false wakes a day, [\d.]+ % missed", spoken)

    # By keyboard, and nothing changes by looking.
    for _ in range(9):
        slider.press("ArrowRight")
    now, sub = shown(page, "Threshold")
    assert sub == f"in force: {before[0]:.2f}"
    assert float(now) > before[0]
    assert in_force(daemon) == before
    page.get_by_role("button", name="Back to the one in force").press("Enter")
    assert shown(page, "Threshold") == (f"{before[0]:.2f}", "in force")
    expect(slider).to_be_focused()

    # As the command chooses by the same log.
    aim = page.get_by_role("button", name="1 a week")
    aim.click()
    expect(aim).to_have_attribute("aria-pressed", "true")
    apply.click()
    status = page.locator("main [role=status]")
    expect(status).to_contain_text("In force: computer wakes from", timeout=30_000)
    chosen = in_force(daemon)
    assert chosen[1] == "calibrated"
    with daemon.connect() as client:
        since = time.mktime((*time.localtime()[:3], 0, 0, 0, 0, 0, -1)) - 13 * 86_400
        found = from_log(client, since, nobody_spoke=False)[WORD]
        assert chosen[0] == pytest.approx(choose(found, 1 / 168, before[0]).threshold, abs=0.01)
        config = client.request(GetConfig())
        assert config.sources[f"words.{WORD}.threshold"] == "calibrated"
    expect(row_of(page, WORD)).to_contain_text("calibration")
    expect(apply).to_be_disabled()

    slider.press("End")
    assert shown(page, "Threshold")[0] == "0.999"
    slider.press("Home")
    assert shown(page, "Threshold")[0] == "0.05"
    apply.press("Enter")
    expect(row_of(page, WORD)).to_contain_text("0.05", timeout=30_000)
    assert in_force(daemon) == (0.05, "calibrated")
    expect(slider).to_be_focused()
    undo.press("Enter")
    expect(status).to_have_text(f"computer is back at {chosen[0]:.2f}.", timeout=30_000)
    assert in_force(daemon) == chosen
    expect(undo).to_be_focused()
    assert shown(page, "Threshold") == (f"{chosen[0]:.2f}", "in force")

    # The command line undoes what the page has done, and the page shows it by itself.
    socket = ["--socket", str(daemon.socket)]
    assert cli.main(["calibrate", "--undo", *socket]) == 0
    assert in_force(daemon) == before
    expect(row_of(page, WORD)).to_contain_text("its model", timeout=30_000)
    expect(undo).to_be_disabled(timeout=30_000)
    assert cli.main(["calibrate", "--undo", *socket]) == cli.DATA


def test_what_it_would_have_done_is_counted_by_day(
    start: Start, endless: Path, log: Log, serve: Serve, visit: Visitor
) -> None:
    listen(start, endless)
    page = opened(serve(), visit)
    slider = page.get_by_role("slider")
    summary = page.locator("section[aria-labelledby=days-title] > p").first
    answer = page.evaluate(
        "async () => (await (await fetch('/api/words/computer/trade-off')).json()).trade_off"
    )
    limits = [one["threshold"] for one in answer]
    for at in (0, 30, 61, 90, len(limits) - 1):
        slider.fill(str(at))
        woke, fewer, more = log.change(limits[at])
        changes = [f"{fewer} fewer"] * bool(fewer) + [f"{more} more"] * bool(more)
        count = woke - fewer + more
        times = "time" if count == 1 else "times"
        would = f"would have woken {count} {times}: {', '.join(changes) or 'the same'}."
        expect(summary).to_contain_text(f"it woke {woke} times. ")
        expect(summary).to_contain_text(would)
        for ago in (1, 5):
            cells = page.locator(".days tbody tr").nth(ago).locator("td")
            peaks = log.peaks[ago]
            reached = [peak for peak, _, _ in peaks if peak >= limits[at]]
            assert cells.nth(0).inner_text() == "18 h"
            assert cells.nth(1).inner_text() == str(sum(woke for _, woke, _ in peaks))
            assert cells.nth(2).inner_text() == str(len(reached))
    slider.fill("30")
    notes = page.locator("section[aria-labelledby=days-title] p").nth(1)
    every = [one for day in log.peaks.values() for one in day]
    new = [label for peak, woke, label in every if not woke and peak >= limits[30]]
    right, wrong = new.count(True), new.count(False)
    assert right > 1
    assert wrong > 1
    expect(notes).to_have_text(
        f"New: {right} of those are labeled right, and would no longer be missed. "
        f"New: {wrong} of those are labeled wrong."
    )
    slider.fill("90")
    gone = [label for peak, woke, label in every if woke and peak < limits[90]]
    assert gone.count(True) > 1
    expect(notes).to_have_text(
        f"Gone: {gone.count(True)} of those are labeled right, and would be missed."
    )
    slider.fill("30")
    labels = [(peak, label) for day in log.peaks.values() for peak, _, label in day]
    missed = sum(peak < limits[30] for peak, label in labels if label is True)
    woken = sum(peak >= limits[30] for peak, label in labels if label is False)
    totals = [sum(label is kind for _, label in labels) for kind in (True, False)]
    value, sub = shown(page, "Your labeled clips")
    assert value == f"{missed} of {totals[0]} missed"
    assert sub == f"{woken} of {totals[1]} wrong wake it"

    page.get_by_label("By the log of").select_option(label="the last 7 days")
    expect(page.locator(".days tbody tr")).to_have_count(7, timeout=30_000)
    woke, fewer, more_count = log.change(limits[30], 7)
    expect(summary).to_contain_text(f"it woke {woke} times. ")
    expect(summary).to_contain_text(f"{more_count} more.")
    page.get_by_label("By the log of").select_option(label="everything")
    expect(page.locator(".days tbody tr")).to_have_count(DAYS, timeout=30_000)  # no day before it
    expect(summary).to_contain_text(f"it woke {log.change(0.5)[0]} times. ")


def test_the_plots_are_drawn_and_lead_the_slider(
    start: Start, endless: Path, log: Log, serve: Serve, visit: Visitor
) -> None:
    listen(start, endless)
    page = opened(serve(), visit)
    page.get_by_role("slider").press("Home")
    for n in (0, 1):
        for color in ("--accent", "--second", "--ink"):
            assert colored(page, n, color, ".tradeoff canvas"), (n, color)
    assert colored(page, 1, "--checker", ".tradeoff canvas"), "labeled clips"
    label = page.locator(".tradeoff .plot").first.get_attribute("aria-label") or ""
    assert re.match(
        r"False wakes a day fall as the threshold rises; at 0\.\d\d: [\d.]+ a day", label
    )
    over = page.locator(".tradeoff .u-over").first
    box = over.bounding_box()
    assert box is not None
    slider = page.get_by_role("slider")
    most = int(slider.get_attribute("max") or 0)
    over.click(position={"x": box["width"] / 4, "y": 30})
    assert int(slider.input_value()) == pytest.approx(most / 4, abs=1)
    track = slider.bounding_box()
    assert track is not None
    thumb = track["x"] + 10 + (track["width"] - 20) * int(slider.input_value()) / most
    assert thumb == pytest.approx(box["x"] + box["width"] / 4, abs=most and box["width"] / most + 1)


def test_nothing_moves_by_itself(
    start: Start, endless: Path, log: Log, serve: Serve, visit: Visitor
) -> None:
    listen(start, endless)
    served = serve()
    for size in (DESKTOP, PHONE):
        page = opened(served, visit, viewport=size)
        page.reload()
        shows(page, WORD)
        moved = shifted(page)
        assert moved < 0.05, size


def test_without_a_log_the_model_tells(
    start: Start, endless: Path, serve: Serve, visit: Visitor, bundle: Bundle
) -> None:
    """Nothing is logged, and nothing will be."""
    listen(start, endless, f"{CONFIG}log_peaks: false\n")
    page = opened(serve(), visit)
    assert shown(page, "False wakes here") == ("–", "nothing is logged yet")
    hints = page.locator(".hints")
    expect(hints).to_contain_text("log_peaks: false. Remove it, then kwsd reload.")
    expect(hints).to_contain_text("No clip of this word is labeled right.")
    assert shown(page, "Your labeled clips") == ("–", "none is labeled right")
    for name in ("1 a day", "1 a week", "1 a month"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    expect(page.get_by_text("Once an hour is logged, a threshold can be chosen")).to_be_visible()
    expect(page.locator("section[aria-labelledby=days-title]")).to_contain_text(
        "Nothing is logged in these days, so there is nothing to compare yet."
    )
    expect(page.locator(".days")).to_be_hidden()
    assert serious(page) == []
    point = bundle.words[WORD].operating_points[2]
    page.get_by_role("button", name="Lenient").click()
    assert shown(page, "Threshold")[0] == f"{point.threshold:.2f}"
    assert shown(page, "By its model") == ("1 an hour", "of continuous speech")
    missed = bundle.words[WORD].missed(point.threshold)
    assert missed is not None
    assert shown(page, "Missed, as measured")[0].startswith(f"{100 * missed[0]:.2g}".rstrip("0."))
    expect(page.get_by_role("button", name="Apply")).to_be_enabled()


def test_what_has_just_been_heard_is_told(
    start: Start, endless: Path, serve: Serve, visit: Visitor
) -> None:
    listen(start, endless)
    served = serve()
    visited = visit(served)
    expect(visited.page.locator(".happened .wake").first).to_be_visible(timeout=30_000)
    visited.page.get_by_role("link", name="Thresholds").click()
    shows(visited.page, WORD)
    assert shown(visited.page, "False wakes here") == ("–", "too little is logged")
    expect(visited.page.get_by_role("button", name="1 a day")).to_be_disabled()
    summary = visited.page.locator("section[aria-labelledby=days-title] > p").first
    expect(summary).to_contain_text(re.compile(r"it woke [12] times?\."), timeout=30_000)
    hint = re.compile(r"The log is \d+ s long: a rate of 1 a day shows only after 3 d")
    expect(visited.page.locator(".hints")).to_contain_text(hint)


def test_a_configured_threshold_is_left_alone(
    start: Start, endless: Path, log: Log, serve: Serve, visit: Visitor
) -> None:
    daemon = listen(start, endless, "checker: off\nwords: {computer: {threshold: 0.6}}\n")
    served = serve()
    page = opened(served, visit)
    expect(row_of(page, WORD)).to_contain_text("configuration")
    hint = "Remove words.computer.threshold there, then kwsd reload."
    expect(page.locator(".hints")).to_contain_text(hint)
    page.get_by_role("slider").press("End")
    expect(page.get_by_role("button", name="Apply")).to_be_disabled()
    cookie = entered(served)
    model = page.evaluate("async () => (await (await fetch('/api/thresholds')).json())")
    body = {"threshold": 0.5, "rate": None, "hours": 0, **{"model": model["words"][WORD]["model"]}}
    path = f"/api/words/{WORD}/threshold"
    data = json.dumps(body).encode()
    answer = served.ask("POST", path, data, cookie=cookie, origin=served.origin)
    assert answer.status == 422
    assert "remove it there, then `kwsd reload`" in answer.json()["message"]
    # Once it is removed there, the page follows.
    (start.folder / "kwsd" / "kwsd.yaml").write_text(CONFIG)
    with daemon.connect() as client:
        client.request(Reload())
    expect(row_of(page, WORD)).to_contain_text("its model", timeout=30_000)
    expect(page.get_by_role("button", name="Apply")).to_be_enabled(timeout=30_000)


def test_the_daemon_goes_and_comes_back(
    start: Start, endless: Path, log: Log, serve: Serve, visit: Visitor
) -> None:
    daemon = listen(start, endless)
    visited = visit(serve())
    page = visited.page
    page.get_by_role("link", name="Thresholds").click()
    shows(page, WORD)
    page.get_by_role("slider").press("End")
    apply = page.get_by_role("button", name="Apply")
    expect(apply).to_be_enabled()
    daemon.kill()
    hints = page.locator(".hints")
    expect(hints).to_contain_text("The daemon is away: this is what it said last.", timeout=30_000)
    expect(apply).to_be_disabled()
    page.reload()
    expect(page.locator(".none")).to_contain_text("The daemon is away.", timeout=30_000)
    expect(page.locator(".stack")).to_be_hidden()
    listen(start, endless)
    shows(page, WORD)
    expect(hints).not_to_contain_text("The daemon is away")
    visited.troubles.clear()  # the console names the answer 503


def test_a_refusal_says_what_grants_the_right(
    start: Start, endless: Path, serve: Serve, visit: Visitor
) -> None:
    listen(start, endless)
    visited = visit(serve())
    page = visited.page
    why = (
        "calibration.trade_off is for root and the group kwsd-admin: sudo usermod -aG kwsd-admin me"
    )
    body = json.dumps({"code": "permission_denied", "message": why})
    page.route("**/trade-off?*", lambda route: route.fulfill(status=403, body=body))
    page.get_by_role("link", name="Thresholds").click()
    expect(page.locator("main [role=status]")).to_have_text(why, timeout=30_000)
    expect(row_of(page, WORD)).to_contain_text("its model")  # what everybody may know
    expect(page.get_by_role("slider")).to_be_hidden()
    expect(page.get_by_role("button", name="Apply")).to_be_hidden()
    assert serious(page) == []
    visited.troubles.clear()  # the console names the answer 403


def test_an_added_word_whose_bank_holds_no_low_rate(
    start: Start, endless: Path, deaf_banana: AddedWord, serve: Serve, visit: Visitor
) -> None:
    points = (
        OperatingPoint(0.999, 0.35, 0.5, 0.6, 0.2, 0.7),
        OperatingPoint(0.9, 0.5, 0.4, 0.5, 0.3, 0.9),
        OperatingPoint(0.8, 1.0, 0.3, 0.3, 0.7, 1.4),
    )
    scores = np.array([[0.9999, 0.95], [0.7, 0.2], [0.4, 0.1]], np.float32)
    word = replace(deaf_banana, threshold=0.999, operating_points=points, scores=scores)
    state = start.folder / "state"
    state.mkdir(mode=0o700)
    (state / "hey_banana.word").write_bytes(to_bytes(word))
    listen(start, endless)
    page = opened(serve(), visit)
    page.get_by_role("button", name="hey banana").click()
    shows(page, "hey banana")
    assert shown(page, "Missed, as measured") == ("67 % of 3 takes", "100 % in noise")
    assert shown(page, "By its model") == ("0.35 an hour", "of continuous speech")
    hints = page.locator(".hints")
    expect(hints).to_contain_text("It was asked for 0.1 false wakes an hour of speech")
    expect(hints).to_contain_text("0.35 are to be expected. More takes, or a longer phrase, help.")
    expect(hints).to_contain_text("It would miss most.")
    expect(hints).to_contain_text("No clip of this word is labeled right.")
    page.get_by_role("slider").press("Home")
    expect(hints).not_to_contain_text("It would miss most.")


def test_long_names_fit(
    start: Start, endless: Path, deaf_banana: AddedWord, serve: Serve, visit: Visitor
) -> None:
    """A name of 63 letters without a space, on the narrowest phone and at 400 %."""
    name = "w" + "o" * 62
    state = start.folder / "state"
    state.mkdir(mode=0o700)
    (state / f"{name}.word").write_bytes(to_bytes(replace(deaf_banana, name=name)))
    listen(start, endless)
    page = visit(serve(), viewport={"width": 320, "height": 640}).page
    for link, place in (("Live", ".lane h3"), ("Thresholds", "td"), ("Words", ".detail h2")):
        page.get_by_role("link", name=link, exact=True).click()
        expect(page.locator(place).filter(has_text=name).first).to_be_visible(timeout=30_000)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, link
    page.get_by_role("link", name="People").click()
    page.get_by_label("Somebody’s name").fill(name)
    page.get_by_label("Somebody’s name").press("Enter")
    expect(page.get_by_role("heading", name=f"Enroll {name}")).to_be_focused(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_bad_requests_are_told_and_change_nothing(
    start: Start, endless: Path, log: Log, serve: Serve
) -> None:
    daemon = listen(start, endless)
    before = in_force(daemon)
    page = serve()
    cookie = entered(page)
    model = in_force_model(daemon)
    good = {"threshold": 0.5, "model": model, "rate": None, "hours": 1.0}
    for word, body, status, why in (
        (WORD, b"{", 400, "truncated"),
        (WORD, {**good, "threshold": 0}, 400, "> 0"),
        (WORD, {**good, "threshold": 1.5}, 400, "<= 1"),
        (WORD, {"threshold": 0.5}, 400, "model"),
        (WORD, {**good, "rate": -1}, 400, ">= 0"),
        (WORD, {**good, "hours": -1}, 400, ">= 0"),
        (WORD, {**good, "model": "another"}, 422, "look at its new scores first"),
        ("nothing", good, 404, "'nothing' is not listened for"),
    ):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        path = f"/api/words/{word}/threshold"
        answer = page.ask("POST", path, data, cookie=cookie, origin=page.origin)
        assert answer.status == status, (body, answer.body)
        assert why in answer.json()["message"]
    for query, status, why in (
        ("days=noon", 400, "seconds since 1970"),
        ("since=x", 400, "seconds since 1970"),
        ("since=1e300", 422, "since"),
        ("days=2,1", 422, "days must rise"),
        (f"days={','.join(map(str, range(99)))}", 422, "days"),
    ):
        answer = page.ask("GET", f"/api/words/{WORD}/trade-off?{query}", cookie=cookie)
        assert answer.status == status, (query, answer.body)
        assert why in answer.json()["message"]
    assert page.ask("GET", "/api/words/nothing/trade-off", cookie=cookie).status == 404
    undo = page.ask("POST", "/api/thresholds/undo", b"{}", cookie=cookie, origin=page.origin)
    assert undo.status == 422
    assert "no calibration to undo" in undo.json()["message"]
    for method, path in (
        ("GET", "/api/thresholds"),
        ("GET", f"/api/words/{WORD}/trade-off"),
        ("POST", f"/api/words/{WORD}/threshold"),
        ("POST", "/api/thresholds/undo"),
    ):
        assert page.ask(method, path, b"{}", origin=page.origin).status == 401
    assert page.ask("POST", "/api/thresholds/undo", b"{}", cookie=cookie).status == 403
    assert in_force(daemon) == before


def in_force_model(daemon: Daemon) -> str:
    """Return the model of the word that a daemon listens for."""
    with daemon.connect() as client:
        return client.request(GetCalibration()).words[WORD].model


def test_the_page_stays_small(start: Start, endless: Path, log: Log, serve: Serve) -> None:
    """The daemon counts: what computes is never loaded here."""
    listen(start, endless)
    page = serve(real=True)
    cookie = entered(page)
    for _ in range(5):
        answer = page.ask("GET", f"/api/words/{WORD}/trade-off?days=0", cookie=cookie)
        assert answer.status == 200
    assert page.memory_mib() < 60
    assert "numpy" not in Path(f"/proc/{page.process.pid}/maps").read_text()

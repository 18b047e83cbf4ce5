"""Doctor and the configuration, in a real browser beside a real daemon."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Daemon, Start
from pages import DESKTOP, PHONE, Serve, Visitor, browser, serve, visit
from playwright.sync_api import expect
from test_gate import entered
from test_live import listen, serious, talk

CONFIG = """
words: {computer: {threshold: strict}, jarvis: }
near_miss: 0.4
"""


def damage(daemon: Daemon) -> None:
    """Leave a voiceprint that cannot be read in a daemon's folder."""
    daemon.state.mkdir(mode=0o700, exist_ok=True)
    (daemon.state / "ann.voiceprint").write_bytes(b"damaged")


def test_findings_come_with_what_helps(
    start: Start, serve: Serve, visit: Visitor, talk: Path
) -> None:
    daemon = listen(start, talk, "words: {computer: }\n")
    page = visit(serve()).page
    page.get_by_role("link", name="Doctor").click()
    verdict = page.locator(".verdict")
    expect(verdict).to_have_text(re.compile(r"^All \d+ findings are fine\.$"), timeout=60_000)
    findings = page.get_by_role("list", name="Findings").get_by_role("listitem")
    expect(
        findings.filter(has_text=re.compile("daemon.*has listened to .*talk.wav"))
    ).to_be_visible()
    expect(page.locator(".findings .bad")).to_have_count(0)
    assert "microphone" not in page.locator(".findings b").all_inner_texts(), "it is the daemon's"

    # The page asks the daemon that it is a client of, whose voiceprints may be damaged meanwhile.
    damage(daemon)
    again = page.get_by_role("button", name="Examine again")
    again.press("Enter")
    expect(verdict).to_have_text(re.compile(r"^1 of \d+ findings need you\.$"), timeout=60_000)
    expect(again).to_be_focused()
    expect(findings.first).to_contain_text("voiceprints")
    expect(findings.first).to_contain_text("What helps")
    expect(findings.first.locator("code")).to_have_text("kwsd enroll NAME")


def test_without_a_daemon_it_says_how_to_start_it(
    serve: Serve, visit: Visitor, tmp_path: Path
) -> None:
    visited = visit(serve(config=f"state: {tmp_path / 'state'}\n"))
    page = visited.page
    page.get_by_role("link", name="Doctor").click()
    bad = page.locator(".findings .bad")
    expect(bad.filter(has_text="no daemon runs there")).to_be_visible(timeout=60_000)
    expect(bad.locator("code").first).to_contain_text("systemctl start kwsd")
    expect(page.locator(".card-head .small")).to_have_text("the daemon is away")
    visited.troubles.clear()  # 503 for the configuration


def test_each_key_has_its_value_its_source_and_its_meaning(
    start: Start, serve: Serve, visit: Visitor, talk: Path
) -> None:
    listen(start, talk, "words: {computer: , jarvis: {threshold: 0.61}}\nnear_miss: 0.4\n")
    page = visit(serve()).page
    page.get_by_role("link", name="Doctor").click()
    rows = page.locator(".config tbody tr")
    threshold = rows.filter(has_text="words.jarvis.threshold")
    expect(threshold.locator("td")).to_have_text(["0.61", re.compile("kwsd.yaml, line 2")])
    expect(threshold).to_contain_text("Score from which the word fires")
    expect(rows.filter(has_text="words.computer.threshold").locator("td").last).to_have_text(
        "model"
    )
    everything = rows.count()
    assert everything > 60
    page.get_by_label("Only what is set").check()
    expect(page.locator(".card-head .small")).to_contain_text(f"of {everything} keys")
    expect(rows.filter(has_text="near_miss")).to_be_visible()
    for key in ("lookback_s", "words.computer.threshold"):  # default, model
        expect(rows.filter(has_text=key)).to_have_count(0)
    page.get_by_label("Search the configuration").fill("JARVIS")
    expect(rows.filter(has_text="near_miss")).to_have_count(0)
    expect(threshold).to_be_visible()


def test_what_the_server_answers(start: Start, serve: Serve, talk: Path) -> None:
    listen(start, talk)
    served = serve()
    assert served.ask("POST", "/api/doctor", b"{}", Origin=served.origin).status == 401
    assert served.ask("GET", "/api/config").status == 401
    cookie = entered(served)
    found = served.ask("POST", "/api/doctor", b"{}", Cookie=cookie, Origin=served.origin)
    assert found.status == 200, found.body
    assert {"check", "ok", "detail", "fix"} == set(found.json()[0])
    keys = served.ask("GET", "/api/config", Cookie=cookie).json()
    assert {"key", "value", "source", "about"} == set(keys[0])
    assert all(one["about"] for one in keys), [one["key"] for one in keys if not one["about"]]
    assert json.loads(json.dumps(keys)) == keys


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_is_for_everybody(
    start: Start, serve: Serve, visit: Visitor, talk: Path, scheme: str, size: dict[str, int]
) -> None:
    daemon = listen(start, talk, CONFIG)
    damage(daemon)
    page = visit(serve(), viewport=size, color_scheme=scheme).page
    page.get_by_role("link", name="Doctor").click()
    expect(page.locator(".verdict")).to_contain_text("need you", timeout=60_000)
    expect(page.locator(".config tbody tr").first).to_be_visible()
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0

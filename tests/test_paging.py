"""Long lists come in pages, and are whole again for whoever asks for them."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from conftest import Start
from declared import values
from hypothesis import given
from hypothesis import strategies as st
from msgspec.inspect import type_info

import kwsd
from kwsd.cli import main as cli
from kwsd.model.bundle import Bundle
from kwsd.protocol import commands, messages, paging
from kwsd.protocol.calibration import PeaksReply
from kwsd.protocol.commands import COMMANDS
from kwsd.protocol.data import Clip, Peak, WordPeaks
from kwsd.protocol.errors import RequestError
from kwsd.protocol.paging import Pages, following, joined
from kwsd.protocol.replies import EncodedReply, Page, Reply
from kwsd.protocol.request import Request, reply_type

PAGED = {name: kind for name, kind in COMMANDS.items() if issubclass(reply_type(kind), Page)}


def read(reply: Reply, kind: type[Reply]) -> Any:
    """Return a page as a client reads it."""
    assert isinstance(reply, EncodedReply)
    return msgspec.json.decode(reply.json, type=kind)


def all_pages(pages: Pages, command: Request[Any], reply: Page) -> list[Page]:
    """Return all pages of a reply, as a client gets them."""
    found = [read(pages.first(command, reply), type(reply))]
    while after := following(command, found[-1]):
        found.append(read(pages.after(after, found[-1].next), type(reply)))
    return found


def test_requests_with_after_are_those_that_are_answered_in_pages() -> None:
    assert (
        set(PAGED)
        == {name for name, kind in COMMANDS.items() if "after" in kind.__struct_fields__}
        == {"speakers", "words", "peaks", "clips"}
    )


@given(st.sampled_from(list(PAGED)), st.data(), st.integers(1, 400))
def test_the_pages_of_any_reply_are_the_reply(
    name: str, data: st.DataObject, page_bytes: int
) -> None:
    kind = PAGED[name]
    reply = data.draw(values(type_info(reply_type(kind))))
    reply = msgspec.structs.replace(reply, next=None)
    pages = Pages(page_bytes)
    command: Any = cast(Any, kind)()
    found = all_pages(pages, command, reply)
    whole = joined(found)
    assert whole == reply
    assert not pages._kept
    for page in found:
        entries = [len(msgspec.json.encode(entry)) + 1 for _, _, entry in paging._entries(page)]
        assert sum(entries) <= page_bytes or len(entries) == 1


def test_a_page_can_be_asked_for_once_by_the_request_that_it_belongs_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = Pages(100)
    peaks = [WordPeaks(f"m{n}", 600.0, []) for n in range(50)]
    reply = PeaksReply(words={"a": peaks}, labels=[])
    command = commands.Peaks()
    first = read(pages.first(command, reply), PeaksReply)
    after = following(command, first)
    assert after is not None
    with pytest.raises(RequestError) as refused:
        pages.after(commands.Words(), first.next)  # which everybody may ask for
    assert refused.value.code == "no_page"
    pages.after(after, first.next)
    with pytest.raises(RequestError, match="ask again without"):
        pages.after(after, first.next)
    monkeypatch.setattr(paging, "MAX_KEPT_BYTES", 3000)
    for _ in range(20):
        first = read(pages.first(command, reply), PeaksReply)
    assert len(pages._kept) < 5
    assert len(pages.after(command, first.next).json)  # type: ignore[attr-defined]


def a_year(path: Path, words: dict[str, str]) -> int:
    """Write a year of the log of peaks of a quiet home; return how many stretches it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    now = time.time()
    stretches = 365 * 24 * 6
    with path.open("wb") as out:
        for n in range(stretches):
            at = now - 600 * (stretches - n)
            peaks = [Peak(round(at + 1, 1), 0.05 + n % 50 / 100, False)] if n % 20 == 0 else []
            line = {
                "written": round(at, 1),
                "words": {name: WordPeaks(model, 600.0, peaks) for name, model in words.items()},
            }
            out.write(msgspec.json.encode(line) + b"\n")
    return stretches


@pytest.mark.slow
def test_calibrate_works_on_a_year_of_logs(
    start: Start, endless: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as client:
        model = client.request(commands.GetCalibration()).words["computer"].model
        log = daemon.state / "peaks.jsonl"
        stretches = a_year(log, {"computer": model})
        found = client.request(commands.Peaks())
        assert stretches <= len(found.words["computer"]) <= stretches + 1
        assert len(messages.encode_reply(1, found)) > 4 * paging.PAGE_BYTES

        async def ask() -> PeaksReply:
            async with await kwsd.connect_async(daemon.socket) as asking:
                return await asking.request(commands.Peaks())

        assert len(asyncio.run(ask()).words["computer"]) >= stretches
    options = ["--log", "--nobody-spoke", "--yes", "--json"]
    assert cli.main(["calibrate", *options, "--socket", str(daemon.socket)]) == 0
    (result,) = json.loads(capsys.readouterr().out)["words"]
    assert result["choice"]["hours"] == pytest.approx(365 * 24, rel=1e-3)
    where = ["--config", str(daemon.state.parent / "kwsd" / "kwsd.yaml")]
    assert cli.main(["calibrate", *options, *where, "--state", str(daemon.state)]) == 0


def test_more_clips_than_fit_a_line_are_listed(
    start: Start, endless: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as client:
        clips = daemon.state / "clips"
        clips.mkdir(parents=True)
        model = "m" * 4000
        for n in range(1200):
            id = f"20260101-{n:06d}-computer"
            clip = Clip(
                id=id,
                word="computer",
                model=model,
                kind="wake",
                time=1.7e9 + n,
                score=0.9,
                threshold=0.5,
                start=100,
                end=200,
            )
            (clips / f"{id}.json").write_bytes(msgspec.json.encode(clip))
        found = client.request(commands.Clips())
        with pytest.raises(RequestError, match="fit a line"):
            messages.encode_reply(1, found)
        assert [one.time for one in found.clips] == [1.7e9 + n for n in range(1200)]
    assert cli.main(["clips", "list", "--socket", str(daemon.socket)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1200

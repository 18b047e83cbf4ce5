"""`kwsd web` as a process, requests to it, and the browser that opens it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forked
import pytest
from conftest import ROOT
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 740}
PICTURES = ROOT / "docs" / "web"
"""Where the pictures of the documentation are."""
DRAWS = bool(os.environ.get("KWSD_PICTURES"))
"""Whether they are drawn anew."""


@dataclass
class Answer:
    """An answer of the page."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the JSON that it has."""
        return json.loads(self.body)


@dataclass
class WebPage:
    """`kwsd web` in a process of its own, on a port of its own."""

    folder: Path
    arguments: tuple[str, ...] = ()
    config: str = ""
    real: bool = False
    """Whether Python is started for it, so that its memory is its own."""
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        file = self.folder / "web.yaml"
        file.write_text(self.config)
        self.log = self.folder / "web.log"
        self.env = {
            **os.environ,
            "PATH": "/usr/bin:/bin",
            "XDG_RUNTIME_DIR": str(self.folder),
            "RUNTIME_DIRECTORY": str(self.folder / "kwsd-web"),
            **self.environment,
        }
        where = ["--config", str(file), "--socket", str(self.folder / "k.sock")]
        command = ["-m", "kwsd", "web", "--listen", "127.0.0.1:0", *where, *self.arguments]
        self.process: subprocess.Popen[bytes] | forked.Process
        with self.log.open("ab") as log:
            if self.real:
                self.process = subprocess.Popen(
                    [sys.executable, *command], stdout=subprocess.PIPE, stderr=log, env=self.env
                )
            else:
                self.process = forked.Process(
                    command, stdout=subprocess.PIPE, stderr=log, env=self.env
                )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().decode().strip()
        assert self.url, self.log.read_text()
        self.origin: str = self.url.partition("/?token=")[0]
        self.token: str = self.url.partition("/?token=")[2]
        self.port = int(self.origin.rpartition(":")[2])

    def link(self) -> str:
        """Return a new link."""
        command = ["-m", "kwsd", "web", "link"]
        done = forked.Process(command, stdout=subprocess.PIPE, env=self.env)
        out, _ = done.communicate(30)
        assert done.returncode == 0
        return str(out.decode().strip())

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a request, without a session unless one is in the headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def memory_mib(self) -> float:
        """Return its resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> int:
        """Return the exit status, once it has ended by SIGTERM."""
        self.process.terminate()
        return self.process.wait(30)


Serve = Callable[..., WebPage]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start pages, and stop those that still run."""
    pages: list[WebPage] = []

    def start(*arguments: str, **options: Any) -> WebPage:
        pages.append(WebPage(options.pop("folder", tmp_path), arguments, **options))
        return pages[-1]

    yield start
    for page in pages:
        page.process.kill()
        page.process.wait()
        assert page.process.stdout is not None
        page.process.stdout.close()
        log = page.log.read_text()
        assert "Traceback" not in log, log


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or Chrome. Its event loop runs in this thread for as long as it is there,
    and no other may, so it goes with the module."""
    assert CHROMIUM, "./dev test --web installs it"
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@dataclass
class Visit:
    """A browser with a session."""

    page: Page
    troubles: list[str]
    """Errors of its console, and requests that failed or went elsewhere."""


Visitor = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visitor]:
    """Open pages in browsers; none of them may complain, or ask for anything from elsewhere."""
    opened: list[tuple[BrowserContext, Visit]] = []

    def go(served: WebPage, path: str = "", **options: Any) -> Visit:
        options.setdefault("viewport", DESKTOP)
        context = browser.new_context(**options)
        page = context.new_page()
        visit = Visit(page, [])
        opened.append((context, visit))
        page.on("pageerror", lambda error: visit.troubles.append(str(error)))

        def complained(message: Any) -> None:
            # What reads a plot back is a test, not the page.
            if message.type in ("error", "warning") and "readback" not in message.text:
                visit.troubles.append(message.text)

        def asked(request: Any) -> None:
            if not request.url.startswith((served.origin, "blob:", "data:")):
                visit.troubles.append(f"asked for {request.url}")

        page.on("console", complained)
        page.on("request", asked)
        page.goto(served.link())
        page.wait_for_selector("nav a[aria-current]")
        if path:
            page.goto(served.origin + path)
        return visit

    yield go
    for context, visit in opened:
        context.close()
        assert not visit.troubles, visit.troubles


def picture(page: Page, name: str) -> None:
    """Draw a picture of the documentation, where that is asked for."""
    if DRAWS:
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / f"{name}.png")

"""`kwsd metrics` as a process, beside a daemon; promtool, Prometheus and strangers as its peers."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import socket
import stat
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import yaml
from bridge_process import BridgeProcess, fed, free_port
from conftest import ROOT, Daemon, Start, hiss, say
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from kwsd.bridges.metrics.figures import OPENMETRICS, PLAIN, preferred
from kwsd.bridges.metrics.http import MAX_CLIENTS, MAX_HEAD

BOARD = ROOT / "docs" / "grafana" / "kwsd.json"
ALERTS = ROOT / "docs" / "grafana" / "alerts.yaml"
NEW = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
"""What Prometheus sends."""


class Metrics(BridgeProcess):
    """`kwsd metrics` on a port of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.port = free_port()
        listen = () if "--listen" in arguments else ("--listen", f"127.0.0.1:{self.port}")
        super().__init__(folder, "metrics", "", *listen, *arguments)

    def get(self, accept: str = "", path: str = "/metrics", method: str = "GET") -> Any:
        """Return the response, and its body as `text`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, headers={"Accept": accept} if accept else {})
            response = connection.getresponse()
            response.text = response.read().decode()  # type: ignore[attr-defined]
            return response

    def samples(self) -> dict[str, float]:
        """Return every sample, by name and labels as they are written."""
        found = {}
        for family in plain(self.get().text):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    def until(self, **wanted: float) -> dict[str, float]:
        """Return the samples, once they are as `wanted`."""
        deadline = time.monotonic() + 30
        while True:
            found = self.samples()
            if wanted.items() <= found.items():
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.1)


@pytest.fixture
def daemon(start: Start, tmp_path: Path) -> Daemon:
    """A daemon that hears what the test writes into it."""
    return fed(start, tmp_path)


Serve = Callable[..., Metrics]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start exporters, and stop those that still run."""
    running: list[Metrics] = []

    def start(*arguments: str) -> Metrics:
        running.append(Metrics(tmp_path, *arguments))
        return running[-1]

    yield start
    for one in running:
        one.close()


def spoken(text: str = "computer") -> np.ndarray:
    """Return words with pauses around them."""
    return np.concatenate([hiss(1.5), say(text), hiss(1.5)])


def promtool(*arguments: str, text: str | None = None) -> None:
    """Run promtool, which must find nothing."""
    command = ["promtool", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_what_is_heard_is_counted_and_the_rest_is_the_status(daemon: Daemon, serve: Serve) -> None:
    metrics = serve()
    before = metrics.until(kwsd_up=1)
    assert before["kwsd_wakes_total{word=computer}"] == 0
    assert before["kwsd_rejections_total{reason=near_miss,word=computer}"] == 0
    for _ in range(2):
        daemon.hear(spoken())
    after = metrics.until(**{"kwsd_wakes_total{word=computer}": 2})
    assert after["kwsd_latency_seconds_count"] == 2
    assert after["kwsd_score_count{event=wake,word=computer}"] == 2
    assert after["kwsd_score_bucket{event=wake,le=0.1,word=computer}"] == 0
    assert after["kwsd_microphone_state{state=ok}"] == 1
    assert after["kwsd_microphone_state{state=paused}"] == 0
    assert after["kwsd_audio_seconds_total"] > 6
    assert 0 < after["kwsd_cpu_seconds_total"] < after["kwsd_audio_seconds_total"]
    assert 0 < after["kwsd_threshold{word=computer}"] < 1
    assert after["kwsd_clients"] >= 1
    daemon.hear(np.concatenate([hiss(2), say("computer"), hiss(0.4), say("computer"), hiss(2)]))
    metrics.until(**{"kwsd_wakes_total{word=computer}": 3})
    found = metrics.samples()
    rejected = [value for key, value in found.items() if key.startswith("kwsd_rejections_total")]
    assert sum(rejected) >= 1
    # The daemon goes: nothing that it said is given as if it were true, and counts stay.
    daemon.kill()
    gone = metrics.until(kwsd_up=0)
    assert "kwsd_lag_seconds" not in gone
    assert gone["kwsd_wakes_total{word=computer}"] == 3


def test_the_formats_are_those_that_promtool_and_the_library_accept(
    daemon: Daemon, serve: Serve
) -> None:
    metrics = serve()
    metrics.until(kwsd_up=1)
    daemon.hear(spoken())
    metrics.until(**{"kwsd_wakes_total{word=computer}": 1})
    old = metrics.get()
    assert old.getheader("Content-Type").startswith("text/plain; version=0.0.4")
    promtool("check", "metrics", text=old.text)
    new = metrics.get(NEW)
    assert new.getheader("Content-Type").startswith("application/openmetrics-text; version=1.0.0")
    assert new.text.endswith("# EOF\n")
    families = {family.name: family.type for family in openmetrics(new.text)}
    assert families["kwsd_wakes"] == "counter"
    assert families["kwsd_latency_seconds"] == "histogram"
    head = metrics.get(method="HEAD")
    assert head.status == 200
    assert head.text == ""


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        (NEW, OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;q=0.4, text/plain;q=0.5", PLAIN),
        ("application/openmetrics-text; version=0.0.1", PLAIN),
        ("application/openmetrics-text; version=9.9.9", PLAIN),
        ("application/openmetrics-text;q=x;;=,;,", PLAIN),
        ("a" * 4000 + ";=;q", PLAIN),
    ],
)
def test_the_format_is_the_one_that_is_wanted_most(accept: str, kind: str) -> None:
    assert preferred(accept) == kind


def queries() -> list[str]:
    """Return what the dashboard asks for, with its variables filled in."""
    board = json.loads(BOARD.read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [text.replace("$instance", ".*").replace("$__rate_interval", "1m") for text in found]


def test_the_rules_and_the_dashboard_are_sound(tmp_path: Path) -> None:
    promtool("check", "rules", str(ALERTS))
    rules = [{"record": f"kwsd:q{n}", "expr": text} for n, text in enumerate(queries())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_prometheus_scrapes_it_and_every_panel_shows_something(
    daemon: Daemon, serve: Serve, tmp_path: Path
) -> None:
    metrics = serve()
    metrics.until(kwsd_up=1)
    port = free_port()
    job = {"job_name": "kwsd", "static_configs": [{"targets": [f"127.0.0.1:{metrics.port}"]}]}
    scrape = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = tmp_path / "prometheus.yml"
    config.write_text(
        yaml.safe_dump({"global": scrape, "rule_files": [str(ALERTS)], "scrape_configs": [job]})
    )
    command = ["prometheus", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
    command.append(f"--storage.tsdb.path={tmp_path / 'tsdb'}")
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(query: str) -> list[Any]:
        address = f"http://127.0.0.1:{port}/api/v1/query?"
        with urllib.request.urlopen(address + urllib.parse.urlencode({"query": query})) as reply:
            body = json.load(reply)
        assert body["status"] == "success", body
        found: list[Any] = body["data"]["result"]
        return found

    try:
        deadline = time.monotonic() + 60
        missing = queries()
        while missing:
            daemon.hear(spoken())
            time.sleep(1)
            with contextlib.suppress(OSError):
                # Sound from a pipe has no channels with levels, and this daemon has no checker.
                missing = [
                    query
                    for query in missing
                    if not ask(query) and not re.match(r"kwsd_level|rate\(kwsd_checks", query)
                ]
            assert time.monotonic() < deadline, missing
        assert [one["value"][1] for one in ask("kwsd_up")] == ["1"]
    finally:
        process.terminate()
        process.wait(30)


def test_the_text_file_is_whole_readable_and_gone_in_the_end(
    daemon: Daemon, serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "kwsd.prom"
    metrics = serve("--listen", "off", "--textfile", str(file), "--interval", "1s")
    deadline = time.monotonic() + 30
    seen: set[int] = set()
    while len(seen) < 3:  # whenever it is read, it is whole
        text = file.read_text()
        assert text.startswith("# HELP kwsd_up")
        promtool("check", "metrics", text=text)
        seen.add(file.stat().st_ino)
        assert time.monotonic() < deadline
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert "kwsd_up 1.0" in file.read_text()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", metrics.port))
    assert metrics.stop() == 0
    assert [path.name for path in tmp_path.iterdir() if "prom" in path.name] == []


@pytest.mark.parametrize(
    ("options", "status", "why"),
    [
        (["--listen", "nowhere"], 78, "listen: 'nowhere' is not ADDRESS:PORT"),
        (["--listen", "127.0.0.1:0"], 78, "listen: '127.0.0.1:0' is not ADDRESS:PORT"),
        (["--listen", "off"], 78, "listen: off leaves nothing to do without textfile"),
        (["--textfile", "a.txt"], 78, "textfile: 'a.txt' does not end with .prom"),
        (["--listen", "off", "--textfile", "/no/a.prom"], 69, "metrics.textfile: cannot write"),
        (["--listen", "192.0.2.1:10712"], 69, "metrics.listen: 192.0.2.1:10712 cannot be had"),
    ],
)
def test_options_that_cannot_be(options: list[str], status: int, why: str, tmp_path: Path) -> None:
    config = tmp_path / "kwsd.yaml"
    config.touch()
    done = forked.run(["-m", "kwsd", "metrics", "--config", str(config), *options])
    assert why in done.stderr
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == 1


def exchange(port: int, data: bytes) -> bytes:
    """Send bytes, and return what comes until the other end hangs up."""
    got = b""
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    with contextlib.closing(sock), contextlib.suppress(OSError):  # it has hung up
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while part := sock.recv(1 << 16):
            got += part
    return got


def test_who_still_sends_reads_the_answer(daemon: Daemon, serve: Serve) -> None:
    metrics = serve()
    metrics.until(kwsd_up=1)
    got = b""
    with socket.create_connection(("127.0.0.1", metrics.port), timeout=30) as sock:
        sock.sendall(b"POST /metrics HTTP/1.1\r\n\r\n")
        time.sleep(0.3)
        for _ in range(16):
            sock.sendall(bytes(1 << 12))
            time.sleep(0.01)
        sock.shutdown(socket.SHUT_WR)
        while part := sock.recv(1 << 16):
            got += part
    assert b" 405 " in got


def test_hostile_bytes_cost_nobody_else(daemon: Daemon, serve: Serve) -> None:
    """100,000 lines, heads without end, bytes of no protocol, and clients that say nothing."""
    metrics = serve()
    metrics.until(kwsd_up=1)
    before = metrics.memory_mib()
    generator = random.Random(11)
    assert b" 404 " in exchange(metrics.port, b"GET / HTTP/1.1\r\n\r\n")
    assert b" 405 " in exchange(metrics.port, b"POST /metrics HTTP/1.1\r\n\r\n" + bytes(1 << 20))
    assert b" 400 " in exchange(metrics.port, b"hello\r\n\r\n")
    assert b" 431 " in exchange(metrics.port, b"GET /metrics HTTP/1.1\r\nA: " + b"b" * 4 * MAX_HEAD)
    assert b" 400 " in exchange(metrics.port, b"\xff\xfe /metrics HTTP/1.1\r\n\r\n")
    exchange(metrics.port, b"GET /metrics HTTP/1.1\r\n" * 100_000)
    valid = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\n\r\n"
    for _ in range(300):
        data = bytearray(valid)
        for _ in range(generator.randint(1, 20)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        exchange(metrics.port, bytes(data[: generator.randint(1, len(data))]))
    assert metrics.get().status == 200
    # Who connects and says nothing takes a place for ten seconds at most.
    silent = [socket.create_connection(("127.0.0.1", metrics.port)) for _ in range(MAX_CLIENTS)]
    time.sleep(0.5)
    assert b" 503 " in exchange(metrics.port, valid)
    deadline = time.monotonic() + 20
    while b" 200 " not in exchange(metrics.port, valid):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    for sock in silent:
        sock.close()
    # A flood of scrapes asks the daemon once a second.
    asked = [0]
    threads = [threading.Thread(target=scrapes, args=(metrics, asked)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked[0] > 50
    assert metrics.memory_mib() < before + 16
    assert metrics.stop() == 0


def scrapes(metrics: Metrics, asked: list[int]) -> None:
    """Scrape for three seconds."""
    end = time.monotonic() + 3
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            assert metrics.get(NEW).status in (200, 503)
            asked[0] += 1

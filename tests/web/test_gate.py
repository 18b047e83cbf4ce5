"""The page keeps to its session: tokens, Host, Origin, paths, floods, and bodies without end."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import stat
import subprocess
import time
from pathlib import Path

import forked
import pytest
from pages import Answer, Serve, WebPage, serve

from kwsd.bridge_config import WebConfig
from kwsd.cli import main as cli
from kwsd.web import gate, server, sessions
from kwsd.web.answers import BODY_S, MAX_JSON
from kwsd.web.static_files import StaticFiles


def raw(page: WebPage, data: bytes) -> bytes:
    """Return what comes back for bytes, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=30) as sock:
        sock.sendall(data)
        found = b""
        while part := sock.recv(1 << 16):
            found += part
    return found


def entered(page: WebPage) -> str:
    """Return the cookie of a session that a new link has begun."""
    answer = page.ask("GET", page.link().removeprefix(page.origin))
    assert answer.status == 200
    return answer.headers["set-cookie"].partition(";")[0]


def test_a_link_is_good_once_and_becomes_a_cookie(serve: Serve) -> None:
    page = serve()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", page.url)
    answer = page.ask("GET", f"/?token={page.token}")
    assert answer.status == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert page.token not in cookie
    assert b"http-equiv=refresh content='0;url=/'" in answer.body
    session = cookie.partition(";")[0]
    assert b"<main" in page.ask("GET", "/", cookie=session).body
    again = page.ask("GET", f"/?token={page.token}")
    assert (again.status, "set-cookie" in again.headers) == (401, False)
    assert b"This link was used, or is too old" in again.body
    assert page.ask("GET", f"/?token={page.token}", cookie=session).status == 200
    assert page.ask("HEAD", page.link().removeprefix(page.origin)).status == 401
    log = page.log.read_text()
    assert page.token not in log
    assert "token" not in log
    assert page.stop() == 0


PATHS = [
    *StaticFiles().files,
    "/api/live",
    "/api/session",
    "/api/thresholds",
    "/api/thresholds/undo",
    "/api/words/computer/trade-off",
    "/api/words/computer/threshold",
    "/nothing",
    "//",
    "/../kwsd.yaml",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/static/../../server.py",
    "/uplot/%00",
    "/style.css/",
    "/?token=",
    "/?token=a&token=b",
    "/?other",
]


def test_without_a_session_every_path_says_how_to_get_a_link(serve: Serve) -> None:
    page = serve()
    for path in PATHS:
        for method in ("GET", "HEAD"):
            answer = page.ask(method, path)
            assert answer.status == 401, path
            assert method == "HEAD" or b"<code>kwsd web link</code>" in answer.body
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
            assert page.ask(method, path, origin=page.origin).status == 401, path
    assert page.ask("GET", "/", cookie=f"kwsd-{page.port}=guessed").status == 401
    assert page.ask("GET", "/", cookie="; ; =;" + "a=b;" * 500).status == 401


def test_paths_lead_to_the_files_of_the_page_alone(serve: Serve) -> None:
    page = serve()
    cookie = entered(page)
    for path in PATHS:
        if path in StaticFiles().files:
            answer = page.ask("GET", path, cookie=cookie)
            assert answer.status == 200
            tag = answer.headers["etag"]
            assert page.ask("GET", path, cookie=cookie, if_none_match=tag).status == 304
        elif not path.startswith(("/api", "/?")):
            assert page.ask("GET", path, cookie=cookie).status == 404, path
    for target in ("http://evil.example/", "/\\..\\..\\etc", "*", "/" + "a" * 9000):
        head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n"
        found = raw(page, f"{head}Connection: close\r\n\r\n".encode())
        assert found.split(b" ")[1] in (b"404", b"400"), target


GOOD_HOSTS = ["localhost", "localhost:1", "LOCALHOST:8080", "127.0.0.1:99", "[::1]:7", "[::1]"]
BAD_HOSTS = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:10480", "192.0.2.1"]
BAD_HOSTS += ["", "localhost:a", "localhost@evil.example", "[::1", "::1", "kitchen.local", "a b"]


def test_another_host_is_refused_before_the_token(serve: Serve) -> None:
    page = serve()
    for host in BAD_HOSTS:
        answer = page.ask("GET", f"/?token={page.token}", host=host)
        assert answer.status in (400, 421), host
        assert "set-cookie" not in answer.headers
    cookie = entered(page)
    for host in GOOD_HOSTS:
        assert page.ask("GET", "/", host=host, cookie=cookie).status == 200, host
        answer = page.ask("DELETE", "/nothing", host=host, cookie=cookie, origin=f"http://{host}")
        assert answer.status == 404, host
    assert page.ask("GET", f"/?token={page.token}").status == 200, "it was not used up"
    two = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert raw(page, two).startswith(b"HTTP/1.1 400")
    assert raw(page, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421")


def test_another_site_is_refused_before_the_token(serve: Serve) -> None:
    page = serve()
    cookie = entered(page)
    crossing = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}
    for origin in (
        "http://evil.example",
        "null",
        "",
        "http://localhost",
        f"https{page.origin[4:]}",
    ):
        answer = page.ask("GET", f"/?token={page.token}", origin=origin)
        assert (answer.status, "set-cookie" in answer.headers) == (403, False), origin
        for method in ("POST", "DELETE"):
            assert page.ask(method, "/api/session", origin=origin, cookie=cookie).status == 403
    assert page.ask("GET", f"/?token={page.token}", None, **crossing).status == 403
    # A form of another site, in a browser that sends neither Origin nor Sec-Fetch-Site.
    form = page.ask("POST", "/api/session", b"a=b", content_type="text/plain", cookie=cookie)
    assert form.status == 403
    assert page.ask("GET", "/api/session", None, cookie=cookie, **crossing).status == 403
    crossing["sec_fetch_mode"] = "navigate"
    for _ in range(2 * sessions.TRIES):  # frames of another site, which would use the tries up
        frame = page.ask("GET", "/?token=wrong", None, **crossing, sec_fetch_dest="iframe")
        assert frame.status == 403
    assert page.ask("POST", "/", None, cookie=cookie, origin=page.origin, **crossing).status == 403
    assert page.ask("GET", "/api/session", cookie=cookie).status == 204, "nothing has ended it"
    assert page.ask("GET", f"/?token={page.token}", None, **crossing).status == 200, (
        "a link in a mail"
    )


def test_a_session_ends(serve: Serve) -> None:
    page = serve()
    first, second = entered(page), entered(page)
    ended = page.ask("DELETE", "/api/session", cookie=first, origin=page.origin)
    assert ended.status == 204
    assert page.ask("GET", "/", cookie=first).status == 401
    assert page.ask("GET", "/", cookie=second).status == 200


def test_wrong_tokens_are_limited(serve: Serve) -> None:
    page = serve()
    answers = [page.ask("GET", f"/?token=wrong{n}") for n in range(sessions.TRIES + 2)]
    assert [one.status for one in answers] == [401] * sessions.TRIES + [429, 429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= sessions.TRY_S
    assert page.ask("GET", f"/?token={page.token}").status == 429
    assert page.ask("GET", "/").status == 401, "nothing else is held up"


def headers_are_closed(answer: Answer) -> None:
    """Check the headers of an answer, whichever it is."""
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert re.search("no-store|no-cache", answer.headers["cache-control"])
    assert not {"server", "access-control-allow-origin"} & set(answer.headers)


def test_every_answer_is_closed(serve: Serve) -> None:
    page = serve()
    cookie = entered(page)
    headers_are_closed(page.ask("GET", f"/?token={page.token}"))
    for path in PATHS:
        if path != "/api/live":
            headers_are_closed(page.ask("GET", path, cookie=cookie))
        headers_are_closed(page.ask("GET", path))
        headers_are_closed(page.ask("GET", path, host="evil.example"))
        headers_are_closed(page.ask("POST", path, cookie=cookie, origin=page.origin))


def test_ten_thousand_requests_change_nothing(serve: Serve) -> None:
    page = serve(real=True)
    one = b"GET /api/live HTTP/1.1\r\nHost: localhost\r\nCookie: kwsd-1=%d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", page.port), timeout=60) as sock:
        before = 0.0
        for part in range(100):
            sock.sendall(b"".join(one % (100 * part + n) for n in range(100)))
            found = b""
            while found.count(b"</html>") < 100:
                found += sock.recv(1 << 16)
            assert found.count(b"HTTP/1.1 401") == 100
            before = before or page.memory_mib()
        assert page.memory_mib() < 1.05 * before
    assert page.ask("GET", f"/?token={page.token}").status == 200
    assert page.memory_mib() < 60
    assert len(page.log.read_text()) < 2000


def test_bodies_are_bounded(serve: Serve) -> None:
    """Long and endless bodies end, for those with a session too."""
    page = serve()
    cookie = entered(page)
    endless = (b" " * 10_000 for _ in range(MAX_JSON // 1000))
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", page.port)) as connection:
        headers = {"cookie": cookie, "origin": page.origin}
        with contextlib.suppress(ConnectionError):  # it may hang up before it has all
            connection.request("POST", "/api/clips/label", endless, headers, encode_chunked=True)
        with contextlib.suppress(ConnectionError):
            assert connection.getresponse().status == 413
    head = (
        f"POST /api/clips/keep HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nOrigin: {page.origin}\r\n"
    )
    head += f"Cookie: {cookie}\r\n"
    found = raw(page, f"{head}Content-Length: {MAX_JSON + 1}\r\nConnection: close\r\n\r\n".encode())
    assert found.startswith(b"HTTP/1.1 413")
    assert raw(page, b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000).startswith(b"HTTP/1.1 400")
    assert page.ask("GET", "/", cookie=cookie).status == 200


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/draft", {"word": "a\0b", "is_new": True}),
        ("/api/draft", {"word": "a" * 10_000, "is_new": True}),
        ("/api/enrollment", {"name": "ann", "reference": "\0"}),
        ("/api/enrollment", {"name": "ann", "word": "\0"}),
        ("/api/draft/drop", {"number": 10**30}),
        ("/api/draft/trim", {"number": 1, "span": [0]}),
    ],
)
def test_what_cannot_be_is_refused(serve: Serve, path: str, said: object) -> None:
    page = serve()
    body = json.dumps(said).encode()
    answer = page.ask("POST", path, body, cookie=entered(page), origin=page.origin)
    assert (answer.status, answer.json()["code"]) == (400, "bad_request")


def test_a_request_has_one_length(serve: Serve) -> None:
    """A proxy before the page could see another end of it, and take the rest for a request."""
    page = serve()
    head = f"POST /api/session HTTP/1.1\r\nHost: localhost\r\nCookie: {entered(page)}\r\n"
    rest = "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    found = raw(page, f"{head}Content-Length: 5\r\n{rest}".encode())
    assert found.startswith(b"HTTP/1.1 400")
    assert found.count(b"HTTP/1.1") == 1
    assert raw(page, f"{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\n".encode()).startswith(
        b"HTTP/1.1 400"
    )


def test_slow_requests_make_room(serve: Serve) -> None:
    """Heads that never end, and bodies that trickle after their answer, hold no connection."""
    page = serve()
    slow = [socket.create_connection(("127.0.0.1", page.port), timeout=30) for _ in range(20)]
    for n, sock in enumerate(slow):
        if n % 2:
            sock.sendall(b"GET / HTTP/1.1\r\nX: ")
        else:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
    begun = time.monotonic()
    left = set(slow)
    while left and time.monotonic() < begun + server.HEAD_S + 15:
        for sock in list(left):
            try:
                sock.sendall(b"a")
                sock.settimeout(0.05)
                if not sock.recv(1 << 16):
                    left.discard(sock)
            except TimeoutError:
                pass
            except OSError:
                left.discard(sock)
    for sock in slow:
        sock.close()
    assert not left
    assert time.monotonic() - begun >= server.HEAD_S / 2, "those that are slow are not refused"
    assert page.ask("GET", f"/?token={page.token}").status == 200


@pytest.mark.slow
def test_a_body_that_trickles_is_ended(serve: Serve) -> None:
    """Also one that a session sends, where its answer waits for it."""
    page = serve()
    cookie = entered(page)
    head = f"POST /api/clips/label HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
    head += f"Origin: {page.origin}\r\nCookie: {cookie}\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", page.port), timeout=0.2) as sock:
        sock.sendall(head.encode())
        begun = time.monotonic()
        found = b""
        while not found:
            assert time.monotonic() < begun + BODY_S + 20
            sock.sendall(b"[")
            with contextlib.suppress(TimeoutError):
                found = sock.recv(1 << 16)
    assert found.startswith(b"HTTP/1.1 408")
    assert time.monotonic() > begun + BODY_S - 1
    assert page.ask("GET", "/", cookie=cookie).status == 200


def test_many_connections_are_told(serve: Serve) -> None:
    page = serve()
    count = server.MAX_CONNECTIONS
    held = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(count)]
    assert page.ask("GET", "/").status == 503
    for sock in held:
        sock.close()
    deadline = time.monotonic() + 10
    while page.ask("GET", "/").status != 401:
        assert time.monotonic() < deadline


def test_links_are_for_those_who_may_open_the_socket(serve: Serve, tmp_path: Path) -> None:
    page = serve()
    path = tmp_path / "kwsd-web" / "link.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert page.link() != page.link()
    second = ["-m", "kwsd", "web", "--listen", "127.0.0.1:0"]
    done = forked.Process(second, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=page.env)
    _, err = done.communicate(30)
    assert done.returncode == cli.UNAVAILABLE
    assert b"a page runs already: `kwsd web link`" in err
    qr = ["-m", "kwsd", "web", "link", "--qr"]
    done = forked.Process(qr, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=page.env)
    out, err = done.communicate(30)
    assert done.returncode == 0
    assert out.decode().startswith(f"{page.origin}/?token=")
    assert len(out.splitlines()) > 15
    assert b"This machine alone can open it" in err
    assert page.stop() == 0
    done = forked.Process(qr, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=page.env)
    _, err = done.communicate(30)
    assert done.returncode == cli.UNAVAILABLE
    assert b"no page runs" in err
    assert b"start it with `kwsd web`" in err


def test_the_journal_has_no_token(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("wb") as journal:
        status = (tmp_path / "journal").stat()
        env = {
            "PATH": "/usr/bin",
            "RUNTIME_DIRECTORY": str(tmp_path / "kwsd-web"),
            "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}",
        }
        command = ["-m", "kwsd", "web", "--listen", "127.0.0.1:0", "--socket", "nowhere"]
        process = forked.Process(command, stdout=journal, stderr=journal, env=env)
        deadline = time.monotonic() + 30
        while b"http://" not in (tmp_path / "journal").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(30) == 0
    text = (tmp_path / "journal").read_text()
    assert re.search(r"^http://127.0.0.1:\d+/$", text, re.MULTILINE)
    assert "token" not in text


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"listen": "0.0.0.0:1"}, "is for other machines too, and needs TLS"),
        ({"listen": "[::]:1"}, "or insecure: true where you trust the whole network"),
        ({"listen": "127.0.0.1"}, "is not ADDRESS:PORT, as 127.0.0.1:10480 is"),
        ({"listen": "kitchen:1"}, "is not ADDRESS:PORT"),
        ({"listen": "127.0.0.1:70000"}, "is not ADDRESS:PORT"),
        ({"listen": "999.0.0.1:7"}, "is not ADDRESS:PORT"),
        ({"tls_cert": "a.pem"}, "tls_cert is set, and tls_key is not"),
    ],
)
def test_what_would_send_sessions_in_the_clear_is_refused(given: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        WebConfig(**given)  # type: ignore[arg-type]


def test_other_machines_reach_it_by_tls(serve: Serve, tmp_path: Path) -> None:
    files = [str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")]
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj"
    arguments = [*command.split(), "/CN=kitchen.local", "-keyout", files[0], "-out", files[1]]
    subprocess.run(arguments, check=True, capture_output=True)
    pair = f"tls_key: {files[0]}, tls_cert: {files[1]}"
    page = serve("--listen", "0.0.0.0:0", config=f"web: {{{pair}, names: [kitchen.local]}}\n")
    assert page.origin == f"https://kitchen.local:{page.port}"
    context = ssl.create_default_context(cafile=files[1])
    context.check_hostname = False
    with (
        socket.create_connection(("127.0.0.1", page.port)) as plain,
        context.wrap_socket(plain) as sock,
    ):
        head = f"GET /?token={page.token} HTTP/1.1\r\nHost: kitchen.local:{page.port}\r\n"
        sock.sendall(f"{head}Connection: close\r\n\r\n".encode())
        found = b""
        while part := sock.recv(1 << 16):
            found += part
    assert found.startswith(b"HTTP/1.1 200")
    assert b"; Secure" in found
    other = serve("--listen", "0.0.0.0:0", "--insecure", folder=(tmp_path / "b"))
    assert other.ask("GET", f"/?token={other.token}", host="192.0.2.7:99").status == 200
    assert other.ask("GET", "/", host="evil.example").status == 421


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    arguments = ["--tls-cert", str(tmp_path / "no.pem"), "--tls-key", str(tmp_path / "no.pem")]
    command = ["-m", "kwsd", "web", *arguments]
    done = forked.Process(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    _, err = done.communicate(30)
    assert done.returncode == cli.CONFIGURATION
    assert b"web.tls_cert: " in err
    assert b"No such file" in err


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = ["-m", "kwsd", "web", "--listen", f"127.0.0.1:{taken.getsockname()[1]}"]
        done = forked.Process(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        _, err = done.communicate(30)
    assert done.returncode == cli.UNAVAILABLE
    assert b"cannot be had (Address already in use); stop what uses the port" in err


def test_an_address_of_ipv6_counts_by_its_network() -> None:
    assert gate._network("2001:db8::1:2") == gate._network("2001:db8::ffff") == "2001:db8::/64"
    assert gate._network("fe80::1%eth0") == "fe80::/64"
    assert gate._network("::ffff:192.0.2.1") == gate._network("192.0.2.1") == "192.0.2.1"


def test_it_idles_small_and_knows_no_models(serve: Serve) -> None:
    page = serve(real=True)
    answer = page.ask("GET", f"/?token={page.token}")
    assert answer.status == 200
    assert page.memory_mib() < 60
    maps = Path(f"/proc/{page.process.pid}/maps").read_text()
    assert "onnxruntime" not in maps
    assert "numpy" not in maps
    assert json.dumps(page.token) not in page.log.read_text()

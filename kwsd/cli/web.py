"""`kwsd web`: the page that shows what kwsd hears, and tunes it."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.bridge import configured, missing_library, socket_of
from kwsd.cli.output import NO_PERMISSION, fail, show

HELP = "serve a page that shows what is heard and tunes it, or get a link to it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd web` and its action."""
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="where to listen (default: 127.0.0.1:10480, for this machine alone)",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate, for another address")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key")
    parser.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="listen on another address without TLS: the whole network can read along",
    )
    options.add_config(parser)
    options.add_socket(parser)
    actions = options.add_actions(parser, required=False)
    link = options.add_action(actions, "link", "print a new link to the page that runs")
    link.add_argument("--qr", action="store_true", help="draw it as well, for a phone's camera")


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is stopped, or print a link. Raises ConfigError or OSError."""
    if missing := missing_library("web", "uvicorn"):
        return missing
    if arguments.action == "link":
        return _link(qr=arguments.qr)
    keys = ("listen", "tls_cert", "tls_key", "insecure")
    config = configured(arguments, "web", keys)
    from kwsd.bridges import service
    from kwsd.web.server import PageServer

    return service.run(PageServer(config, socket_of(arguments, config), arguments.config).serve)


def _link(*, qr: bool) -> int:
    from kwsd.web.links import ask

    try:
        url = ask()
    except PermissionError as error:
        return fail(NO_PERMISSION, error)
    print(url)
    if qr:
        import segno

        segno.make(url, error="l").terminal(compact=True)
        if "//127.0.0.1:" in url or "//[::1]:" in url:
            show("This machine alone can open it; web.listen lets others connect, with TLS.")
    return 0

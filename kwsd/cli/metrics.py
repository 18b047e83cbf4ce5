"""`kwsd metrics`: figures for Prometheus."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.bridge import configured, missing_library, socket_of

HELP = "serve figures of the daemon to Prometheus, or to node_exporter by a file"
KEYS = ("listen", "textfile", "interval_s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd metrics`."""
    add = parser.add_argument
    add("--listen", metavar="ADDR:PORT", help="where to answer, or off (default: 127.0.0.1:10712)")
    add("--textfile", metavar="FILE", help="also write FILE (*.prom) for node_exporter")
    add(
        "--interval",
        dest="interval_s",
        type=options.duration,
        metavar="TIME",
        help="time between two writes of the file (default: 15s)",
    )
    options.add_config(parser)
    options.add_socket(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is stopped. Raises ConfigError or OSError."""
    if missing := missing_library("metrics", "prometheus_client"):
        return missing
    config = configured(arguments, "metrics", KEYS)
    from kwsd.bridges import service
    from kwsd.bridges.metrics.exporter import Exporter

    return service.run(Exporter(config, socket_of(arguments, config)).serve)

"""`kwsd pause`: the daemon releases the microphone for a while."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.endpoint import connect_daemon
from kwsd.cli.output import USAGE, fail, pause_sentence, print_json, show
from kwsd.events import MicrophoneChange
from kwsd.protocol.commands import Pause, Status
from kwsd.protocol.request import MAX_PAUSE_S

HELP = "make the daemon release the microphone for a while"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd pause`."""
    parser.add_argument(
        "--for",
        dest="for_s",
        type=options.duration,
        metavar="TIME",
        help="for so long: 90s, 10m, 8h, at most 7d (default: until kwsd pause is stopped, as by "
        "^C, or until kwsd resume)",
    )
    options.add_holder(parser)
    options.add_config(parser)
    options.add_socket(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Pause; without a time, stay until the pause has ended. Raises DaemonError."""
    holder = arguments.holder
    for_s = arguments.for_s
    if for_s is not None and for_s > MAX_PAUSE_S:
        return fail(USAGE, f"--for: a pause lasts at most {MAX_PAUSE_S / 86400:g}d")
    with connect_daemon(arguments) as client:
        paused = client.request(Pause(holder=holder, for_s=for_s))
        if arguments.json:
            print_json(paused)
        else:
            print(f"The microphone is paused {pause_sentence(paused.pauses)}.", flush=True)
        if for_s is not None:
            return 0
        show("^C or `kwsd resume` ends it.")
        events = client.events(types=["microphone"])
        if any(one.holder == holder for one in client.request(Status()).pauses):
            for event in events:
                if isinstance(event, MicrophoneChange) and holder not in (event.holders or ()):
                    break
    return 0

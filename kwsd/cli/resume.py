"""`kwsd resume`: a pause of the microphone ends."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.endpoint import connect_daemon
from kwsd.cli.output import pause_sentence, print_json
from kwsd.protocol.commands import Resume

HELP = "end a pause: the daemon takes the microphone again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd resume`."""
    options.add_holder(parser)
    options.add_config(parser)
    options.add_socket(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """End the pause of a holder. Raises DaemonError."""
    holder = arguments.holder
    with connect_daemon(arguments) as client:
        done = client.request(Resume(holder=holder))
    if arguments.json:
        print_json(done)
        return 0
    ended = f"The pause by {holder} has ended" if done.resumed else f"{holder} has not paused it"
    if done.pauses:
        print(f"{ended}; the microphone is still paused {pause_sentence(done.pauses)}.")
    else:
        print(f"{ended}; the microphone is not paused.")
    return 0

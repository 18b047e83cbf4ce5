"""`kwsd enroll`: a speaker, from the microphone or from recordings."""

from __future__ import annotations

import argparse
from pathlib import Path

from kwsd.cli import options
from kwsd.cli.endpoint import connect_daemon, load_config
from kwsd.cli.output import USAGE, Terminal, confirmed_loss, fail, print_json, show
from kwsd.names import normal

HELP = "enroll a speaker"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd enroll`."""
    parser.add_argument("speaker", metavar="NAME")
    parser.add_argument(
        "--wav",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="use recordings of the speaker, at least three, instead of the microphone",
    )
    parser.add_argument("--word", help="the wake word to say (default: the first active one)")
    options.add_yes(parser, "replace a speaker of this name without asking")
    options.add_config(parser)
    options.add_socket(parser)
    options.add_state(parser, "with --wav: store the voiceprint in DIR; no daemon is needed")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Enroll the speaker and print from how many takes."""
    from dataclasses import asdict

    from kwsd.client import enroll

    name = normal(arguments.speaker)

    def replace() -> bool:
        return confirmed_loss(
            f"{name} is enrolled already, and would be replaced", yes=arguments.yes
        )

    if arguments.state:
        if not arguments.wav:
            return fail(USAGE, "--state needs --wav: only the daemon listens to the microphone")
        done = enroll.without_daemon(load_config(arguments), name, arguments.wav, replace)
    else:
        with connect_daemon(arguments) as client:
            if arguments.wav:
                channel = load_config(arguments).microphone.channel
                done = enroll.from_recordings(client, name, arguments.wav, replace, channel)
            else:
                guide = Terminal(as_json=arguments.json)
                done = enroll.from_microphone(client, name, arguments.word, guide, replace)
    for why in done.refused:
        show(f"left out: {why}")
    if done.warning:
        show(f"warning: {done.warning}")
    for other in done.known_as:
        fix = f"a wake may name either; `kwsd speakers --delete {other}` removes the other"
        show(f"warning: this voice is already enrolled as {other}: {fix}")
    if arguments.json:
        print_json({"name": name, **asdict(done), "warning": done.warning})
    elif done.kept:
        print(f"{name} is enrolled, from {done.takes} takes.")
    else:
        print("Nothing has changed.")
    return 0

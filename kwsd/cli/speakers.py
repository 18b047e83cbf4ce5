"""`kwsd speakers`: who is enrolled."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.endpoint import open_endpoint
from kwsd.cli.output import print_json
from kwsd.protocol.commands import Speakers, SpeakersDelete

HELP = "list the enrolled speakers, or delete one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd speakers`."""
    parser.add_argument("--delete", metavar="NAME", help="delete this speaker's voiceprint")
    options.add_endpoint(parser)


def run(arguments: argparse.Namespace) -> int:
    """Delete a speaker where one is named, and list those who are enrolled."""
    with open_endpoint(arguments) as endpoint:
        if arguments.delete:
            endpoint.requester.request(SpeakersDelete(name=arguments.delete))
        found = endpoint.requester.request(Speakers())
    if arguments.json:
        print_json(found)
        return 0
    for speaker in found.speakers:
        print(f"{speaker.name}: {speaker.takes} takes")
    if not found.speakers:
        print("nobody is enrolled; `kwsd enroll NAME` enrolls a speaker")
    for why in found.unusable:
        endpoint.report(why)
    return 0

"""`kwsd enroll`: a speaker, from the microphone or from recordings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from kwsd.cli import options, steps
from kwsd.cli.endpoint import connect_daemon, load_config
from kwsd.cli.output import USAGE, Terminal, confirmed_loss, fail, print_json, show
from kwsd.names import normal

HELP = "enroll a speaker"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd enroll`."""
    parser.add_argument("speaker", metavar="NAME")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument(
        "--wav",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="use recordings of the speaker, at least three, instead of the microphone",
    )
    origin.add_argument(
        "--from-clips",
        nargs="*",
        metavar="ID",
        help="use clips that the daemon kept (default: those that are labeled right and that are "
        "nobody else's)",
    )
    steps.add_option(origin)
    parser.add_argument(
        "--reference",
        default="",
        metavar="LABEL",
        help="keep it beside the speaker's other references, such as near, far or headset",
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
    from kwsd.protocol.commands import Clips

    name = normal(arguments.speaker)
    reference = arguments.reference.strip()

    def replace(references: Sequence[str]) -> bool:
        return confirmed_loss(_loss(name, reference, references), yes=arguments.yes)

    if arguments.steps and not arguments.state:
        return _guided(arguments, name, reference)
    if arguments.state:
        if not arguments.wav and arguments.from_clips is None:
            text = "--state needs --wav or --from-clips"
            return fail(USAGE, f"{text}: only the daemon listens to the microphone")
        given = arguments.wav or arguments.from_clips
        clips = not arguments.wav
        config = load_config(arguments)
        done = enroll.without_daemon(config, name, given, replace, reference, from_clips=clips)
    else:
        with connect_daemon(arguments) as client:
            if arguments.from_clips is not None:
                kept = client.request(Clips()).clips
                chosen = enroll.clips_of(name, kept, arguments.from_clips)
                done = enroll.from_given(client, name, chosen, replace, reference=reference)
            elif arguments.wav:
                channel = load_config(arguments).microphone.channel
                files = arguments.wav
                done = enroll.from_given(client, name, files, replace, channel, reference)
            else:
                guide = Terminal(as_json=arguments.json)
                word = arguments.word
                done = enroll.from_microphone(client, name, word, guide, replace, reference)
    for why in done.refused:
        show(f"left out: {why}")
    if done.warning:
        show(f"warning: {done.warning}")
    for other in done.known_as:
        fix = f"a wake may name either; `kwsd speakers --delete {other}` removes the other"
        show(f"warning: this voice is already enrolled as {other}: {fix}")
    if done.unlike:
        text = f"this voice does not resemble the other references of {name}"
        show(f"warning: {text}: whoever it is passes for {name} now")
    if arguments.json:
        print_json({"name": name, "reference": reference, **asdict(done), "warning": done.warning})
    elif done.kept:
        called = f" ({reference})" if reference else ""
        print(f"{name}{called} is enrolled, from {done.takes} takes.")
    else:
        print("Nothing has changed.")
    return 0


def _guided(arguments: argparse.Namespace, name: str, reference: str) -> int:
    """Enroll the speaker by the steps of a program, which asks what `_loss` says."""
    from kwsd.client.enroll_steps import GuidedEnrollment

    channel = load_config(arguments).microphone.channel
    with connect_daemon(arguments) as client:
        named = client, name, reference, arguments.word
        return steps.follow(GuidedEnrollment(*named, channel))


def _loss(name: str, reference: str, references: Sequence[str]) -> str:
    """Return what enrolling a speaker again replaces, for a person."""
    if reference:
        return f"{name} has a reference {reference!r} already, which would be replaced"
    kept = ", ".join(one for one in references if one)
    if kept:
        text = f"{name} is enrolled already, and the reference without a label would be replaced"
        return f"{text} ({kept} would stay)"
    beside = "`--reference LABEL` keeps another one beside it"
    return f"{name} is enrolled already, and would be replaced ({beside})"

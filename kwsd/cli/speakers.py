"""`kwsd speakers`: who is enrolled, and who of them speaks in a recording."""

from __future__ import annotations

import argparse
from pathlib import Path

from kwsd.cli import options
from kwsd.cli.endpoint import Endpoint, connect_daemon, open_endpoint
from kwsd.cli.output import DATA, NO_INPUT, USAGE, Terminal, fail, print_json
from kwsd.protocol.commands import Speakers, SpeakersDelete, SpeakersHear

HELP = "list the enrolled speakers, delete one, or find them in recordings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd speakers`, and its action."""
    parser.add_argument("--delete", metavar="NAME", help="delete this speaker's voiceprint")
    parser.add_argument(
        "--reference", metavar="LABEL", help="with --delete: delete this reference of the speaker"
    )
    options.add_endpoint(parser)
    actions = options.add_actions(parser, required=False)
    text = "tell who of the enrolled speaks, into the daemon's microphone or in recordings"
    test = options.add_action(actions, "test", text, inherits=True)
    test.add_argument(
        "files",
        nargs="*",
        type=Path,
        default=[],
        metavar="FILE",
        help="recordings, instead of the microphone",
    )
    options.add_config(test)
    options.add_socket(test)
    options.add_state(test, "the speakers of the state directory DIR (default: the configured one)")
    options.add_json(test)


def run(arguments: argparse.Namespace) -> int:
    """List who is enrolled, without the speaker that is to be deleted; or test recordings."""
    if arguments.action == "test":
        return _test(arguments)
    if arguments.reference is not None and not arguments.delete:
        return fail(USAGE, "--reference is for --delete; `kwsd enroll --reference` adds one")
    with open_endpoint(arguments) as endpoint:
        if arguments.delete:
            delete = SpeakersDelete(name=arguments.delete, reference=arguments.reference)
            endpoint.requester.request(delete)
        found = endpoint.requester.request(Speakers())
    if arguments.json:
        print_json(found)
        return 0
    for speaker in found.speakers:
        parts = [
            f"{one.takes} takes{f' ({one.name})' if one.name else ''}" for one in speaker.references
        ]
        print(f"{speaker.name}: {', '.join(parts)}")
    if not found.speakers:
        print("nobody is enrolled; `kwsd enroll NAME` enrolls a speaker")
    for why in found.unusable:
        endpoint.report(why)
    return 0


def _hear(arguments: argparse.Namespace) -> int:
    """Print who speaks into the daemon's microphone."""
    if arguments.state:
        text = "only the daemon listens to the microphone"
        return fail(USAGE, f"{text}; with --state, name recordings")
    from kwsd.client.enroll import TAKE_TIMEOUT_S

    guide = Terminal(as_json=arguments.json)
    with connect_daemon(arguments) as client:
        guide.ask("say something", 1, 1)
        found = client.request(SpeakersHear(timeout_s=TAKE_TIMEOUT_S), on_level=guide.level)
    guide.accepted(found.speech_dbfs, found.speech_s)
    match = found.speaker
    if arguments.json:
        print_json(found)
    else:
        who = match.reason or (match.name if match.verified else None) or "a stranger"
        print(f"{who}, score {match.score:.3f} of {match.threshold:.3f}")
    return 0


def _test(arguments: argparse.Namespace) -> int:
    """Print a line for each recording, or for what is said now."""
    if not arguments.files:
        return _hear(arguments)
    from kwsd.audio.files import AudioFileError
    from kwsd.detect.offline import Recordings
    from kwsd.detect.setup import resolve

    endpoint = Endpoint(arguments)
    setup = resolve(endpoint.config, endpoint.bundle, endpoint.state.library())
    recordings = Recordings(endpoint.bundle, setup, endpoint.config.microphone.channel)
    threshold = setup.speakers.threshold
    status = 0
    for path in arguments.files:
        match = None
        reason = None
        try:
            if setup.speakers.scorer is None:
                status, reason = DATA, "nobody is enrolled; `kwsd enroll NAME` enrolls a speaker"
            else:
                match = recordings.identify(path)
                if match is None:
                    status, reason = DATA, "contains no voice"
                else:
                    reason = match.reason
        except AudioFileError as error:
            status, reason = NO_INPUT, str(error)
        score = match and match.score
        verified = None if match is None or reason else match.verified
        if arguments.json:
            name = match and match.name
            line = {"file": str(path), "name": name, "score": score, "threshold": threshold}
            print_json({**line, "verified": verified, "reason": reason})
        elif match is None:
            fail(status, reason if reason and reason.startswith(str(path)) else f"{path}: {reason}")
        else:
            who = reason or match.name or "a stranger"
            print(f"{path}: {who}, score {match.score:.3f} of {threshold:.3f}")
    return status

"""`kwsd wyoming`: a wake service for Home Assistant and satellites, and a satellite."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.bridge import configured, missing_library, socket_of
from kwsd.cli.output import USAGE, fail

HELP = "serve wake words to Home Assistant and to satellites, by the Wyoming protocol"
SERVICE_KEYS = ("uri", "allow", "max_clients")
SATELLITE_KEYS = (
    "uri",
    "allow",
    "name",
    "area",
    "play",
    "awake_sound",
    "done_sound",
    "timer",
    "stop_words",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd wyoming`."""
    parser.add_argument(
        "--uri",
        metavar="URI",
        help="where to listen (default: tcp://0.0.0.0:10400, of a satellite 10700)",
    )
    parser.add_argument(
        "--allow",
        action="append",
        metavar="ADDR",
        help="an address or network that may connect, again for each (default: local networks; a "
        "satellite has no default)",
    )
    parser.add_argument(
        "--max-clients",
        type=options.positive,
        metavar="N",
        help="clients that may be connected at the same time (default: 32)",
    )
    options.add_config(parser)
    options.add_socket(parser)
    group = parser.add_argument_group(
        "satellite", "the daemon's microphone for Home Assistant: sound leaves this machine"
    )
    group.add_argument(
        "--satellite",
        action="store_true",
        help="be a satellite instead: send what is said after a wake word to the server that "
        "--allow admits",
    )
    group.add_argument("--name", metavar="TEXT", help="what Home Assistant calls it")
    group.add_argument("--area", metavar="TEXT", help="the area that Home Assistant suggests")
    group.add_argument(
        "--play", metavar="CMD", help="plays the WAV file on its standard input: 'aplay -q -'"
    )
    group.add_argument("--awake-sound", metavar="FILE", help="a WAV file to play at a wake")
    group.add_argument(
        "--done-sound", metavar="FILE", help="a WAV file to play when a command was understood"
    )
    group.add_argument(
        "--timer", metavar="CMD", help="is started for each event of a timer, with its JSON"
    )
    group.add_argument(
        "--stop-word",
        action="append",
        dest="stop_words",
        metavar="WORD",
        help="a word that ends what is played, and wakes nothing; again for each",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is stopped. Raises ConfigError, BundleError or OSError."""
    if missing := missing_library("wyoming"):
        return missing
    given = {key for key in {*SERVICE_KEYS, *SATELLITE_KEYS} if getattr(arguments, key) is not None}
    keys: tuple[str, ...] = SATELLITE_KEYS if arguments.satellite else SERVICE_KEYS
    whose = "a satellite" if arguments.satellite else "the wake service"
    if odd := sorted(given - set(keys)):
        option = "--stop-word" if odd[0] == "stop_words" else f"--{odd[0].replace('_', '-')}"
        remedy = (
            "leave it out, or --satellite" if arguments.satellite else "say --satellite as well"
        )
        return fail(USAGE, f"{option} is no option of {whose}: {remedy}")
    from kwsd.bridges import service

    if arguments.satellite:
        config = configured(arguments, "wyoming.satellite", keys)
        from kwsd.bridges.wyoming.satellite import Satellite

        return service.run(Satellite(config, socket_of(arguments, config)).serve)
    config = configured(arguments, "wyoming", keys)
    from kwsd.bridges.wyoming.server import WakeService

    return service.run(WakeService(config, socket_of(arguments, config)).serve)

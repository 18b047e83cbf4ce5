"""`kwsd run`: the daemon."""

from __future__ import annotations

import argparse

from kwsd import config_file
from kwsd.cli import options
from kwsd.cli.endpoint import overrides
from kwsd.cli.output import USAGE, fail, print_event

HELP = "run the daemon"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd run`."""
    options.add_config(parser)
    options.add_words(parser)
    options.add_socket(parser)
    options.add_state(parser, "folder of voiceprints, added words, calibration and clips")
    parser.add_argument(
        "--source",
        default="mic",
        metavar="SOURCE",
        help="mic (default), a recording, - for raw PCM on standard input, "
        "or auto: mic, or the bundled recording where there is none",
    )
    parser.add_argument(
        "--format",
        choices=("s8", "s16", "s24", "s32", "f32"),
        help="samples of raw PCM, little-endian (default s16)",
    )
    parser.add_argument(
        "--rate", type=int, metavar="HZ", help="sample rate of raw PCM (default 16000)"
    )
    parser.add_argument("--channels", type=int, metavar="N", help="channels of raw PCM (default 1)")
    parser.add_argument(
        "--realtime", action="store_true", help="read a recording no faster than it was spoken"
    )
    parser.add_argument(
        "--wait-for-client",
        action="store_true",
        help="begin to listen when the first client has subscribed",
    )
    parser.add_argument("--print", action="store_true", help="print the events as well")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the daemon until it is stopped, or until its recording has ended."""
    from kwsd.audio.raw_pcm import RawFormat
    from kwsd.cli import demo
    from kwsd.detect.in_force import overridden
    from kwsd.server import daemon

    source = arguments.source
    given = {name: getattr(arguments, name) for name in ("format", "rate", "channels")}
    given = {name: value for name, value in given.items() if value is not None}
    if given and source != "-":
        carrier = "the device" if source in ("mic", "auto") else "the file"
        named = ", ".join(f"--{name}" for name in given)
        text = f"{named}: for raw PCM (--source -) alone; {carrier} carries its own, leave it out"
        return fail(USAGE, text)
    printed = arguments.print
    if source == "auto":
        source = demo.source()
        printed = True
        if source != "mic":
            text = "This machine has no microphone. Listening to the bundled recording instead"
            print(f"{text}: {source}", flush=True)
    change = overrides(arguments)
    loaded = config_file.read(arguments.config)
    config = change(loaded.config)
    status = daemon.run(
        daemon.RunOptions(
            config=config,
            config_path=arguments.config,
            found=loaded.path,
            origins={**loaded.origins, **overridden(loaded.config, config)},
            source=source,
            realtime=arguments.realtime,
            wait_for_client=arguments.wait_for_client,
            raw_format=RawFormat(
                given.get("format", "s16"), given.get("rate", 16000), given.get("channels", 1)
            ),
            required_words=arguments.words or (),
            overrides=change,
            on_event=(lambda event: print_event(event, as_json=arguments.json))
            if printed
            else None,
        )
    )
    if arguments.source == "auto" and source != "mic" and not status:
        print(f"The recording has ended, and so has the demo. {demo.NEXT}", flush=True)
    return status

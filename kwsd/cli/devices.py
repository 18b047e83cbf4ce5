"""`kwsd devices`: the input devices."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.output import UNAVAILABLE, fail, print_json

HELP = "list the input devices"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd devices`."""
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """List the input devices, the default one with a star."""
    from kwsd.audio.devices import devices

    found = devices()
    if arguments.json:
        print_json(found)
    else:
        for device in found:
            star = "*" if device.default else " "
            format = f"{device.channels} channel(s), {device.rate} Hz"
            stable = f", {device.alsa}" if device.alsa else ""
            print(f"{device.index:3d}{star} {device.name}: {format}{stable}")
    if not found:
        return fail(UNAVAILABLE, "there is no input device; `kwsd doctor` names the fix")
    return 0

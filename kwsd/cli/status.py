"""`kwsd status`: the state of the daemon."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.endpoint import connect_daemon
from kwsd.cli.output import channel_levels, pause_sentence, print_json, rate_sentence
from kwsd.protocol.commands import Status
from kwsd.protocol.replies import StatusReply

HELP = "show how the daemon is doing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd status`."""
    options.add_config(parser)
    options.add_socket(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the daemon's status."""
    with connect_daemon(arguments) as client:
        status = client.request(Status())
    if arguments.json:
        print_json(status)
    else:
        print("\n".join(_sentences(status)))
    return 0


def _sentences(status: StatusReply) -> list[str]:
    microphone = f"microphone {status.microphone.state}"
    paused = status.microphone.state == "paused"
    if paused:
        microphone += f" {pause_sentence(status.pauses)}"
    if status.microphone.name:  # not before the first sound
        microphone += f": {status.microphone.name}"
    if levels := status.microphone.levels_dbfs:
        microphone += f" ({channel_levels(levels)})"
    if status.lag_s is not None and status.lag_s >= 0.1 and not paused:
        microphone += f", {status.lag_s:.1f} s behind"
    words = [f"{name} (threshold {word.threshold:.2f})" for name, word in status.words.items()]
    rates = {name: word.rate for name, word in status.words.items() if word.rate}
    disabled = f"; disabled: {', '.join(status.disabled)}" if status.disabled else ""
    speakers = "no speaker is enrolled"
    if status.speakers:
        speakers = f"knows {', '.join(status.speakers)}"
    checked = "no checker is in force; the streaming scores decide alone"
    if status.checker:
        checks = f"{status.checker.checks} time(s) so far"
        checked = f"the {status.checker.size} checker hears candidates again, {checks}"
    together = []
    if (all := status.false_accepts_per_hour) is not None and len(rates) > 1:
        together = [f"  all together: {all:.2g} false wakes an hour of speech"]
    users = f" ({_counted(status.users)})" if status.users else ""
    streams = ""
    if status.streams:
        streams = f"; {status.streams} stream(s) of audio to {_counted(status.stream_users)}"
    lines = [
        f"up for {status.uptime_s:.0f} s, {microphone}",
        f"listens for {', '.join(words) or 'no word'}{disabled}",
        *(f"  {name}: {rate_sentence(rate)}" for name, rate in rates.items()),
        *together,
        checked,
        f"{speakers}; {status.clients} client(s){users}{streams}",
    ]
    if status.real_time_factor is not None:
        cost = f"{status.real_time_factor:.4f} CPU seconds per second of audio"
        awake = 100 * (status.encoded_share or 0.0)
        lines.append(f"{cost}; the encoder was awake for {awake:.0f} % of it")
    lines += [f"warning: {warning}" for warning in status.warnings]
    return lines + [f"cannot be used: {why}" for why in status.unusable]


def _counted(users: dict[str, int]) -> str:
    """Return users with how often each is there, where that is more than once."""
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in users.items())

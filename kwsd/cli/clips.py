"""`kwsd clips`: recordings of wakes and near misses."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from kwsd.cli import options
from kwsd.cli.endpoint import Endpoint, open_endpoint
from kwsd.cli.output import USAGE, clip_sentence, confirmed_loss, fail, print_json, write_file
from kwsd.protocol.commands import Clips, ClipsClear, ClipsGet, ClipsKeep, ClipsLabel
from kwsd.protocol.replies import ClipsClearReply

HELP = "list, play, label and delete recordings of wakes and near misses"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `kwsd clips`."""
    actions = options.add_actions(parser)
    options.add_action(actions, "list", "list the clips, the oldest first")
    play = options.add_action(actions, "play", "play a clip")
    play.add_argument("id", metavar="ID")
    play.add_argument(
        "--out", type=Path, metavar="FILE.wav", help="write it to a file instead of playing it"
    )
    label = options.add_action(actions, "label", "label clips as the word or not")
    label.add_argument(
        "label",
        choices=["right", "wrong", "none"],
        help="right: it was the word; wrong: it was not; none: take the label back",
    )
    label.add_argument("ids", nargs="+", metavar="ID")
    keep = options.add_action(actions, "keep", "keep new clips or none, also after a restart")
    keep.add_argument(
        "keep",
        choices=["on", "off", "default"],
        help="default: as the configuration says (`clips.enabled`)",
    )
    clear = options.add_action(actions, "clear", "delete the clips that are named, or all")
    clear.add_argument("ids", nargs="*", metavar="ID")
    clear.add_argument("--all", action="store_true", help="delete all clips")
    options.add_yes(clear, "delete labeled clips without asking")
    for action in actions.choices.values():
        options.add_endpoint(action, stores=action is keep)


def run(arguments: argparse.Namespace) -> int:
    """Run the action."""
    if arguments.action == "clear" and bool(arguments.ids) == arguments.all:
        return fail(USAGE, "clips clear takes either IDs or --all, which deletes all clips")
    with open_endpoint(arguments) as endpoint:
        return ACTIONS[arguments.action](arguments, endpoint)


def _list(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    found = endpoint.requester.request(Clips())
    if arguments.json:
        print_json(found)
        return 0
    for clip in found.clips:
        print(clip_sentence(clip))
    if not found.clips and found.enabled:
        print("no clips")
    elif not found.clips:
        print("no clips, and none will be kept: `kwsd clips keep on` keeps them")
    return 0


def _play(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.audio import pcm
    from kwsd.audio.playback import play

    found = endpoint.requester.request(ClipsGet(clip=arguments.id))
    samples = pcm.from_bytes(found.pcm)
    if arguments.json:
        print_json(found.clip)
    if arguments.out:
        write_file(arguments.out, pcm.wav_bytes(samples))
    else:
        play(samples)
    return 0


def _label(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    label = None if arguments.label == "none" else arguments.label
    done = endpoint.requester.request(ClipsLabel(clips=arguments.ids, label=label))
    if arguments.json:
        print_json(done)
    else:
        print(f"{done.labeled} clip(s) labeled {arguments.label}")
    return 0


def _keep(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    enabled = {"on": True, "off": False, "default": None}[arguments.keep]
    done = endpoint.requester.request(ClipsKeep(enabled=enabled))
    if arguments.json:
        print_json(done)
    else:
        print("new clips are kept" if done.enabled else "no new clips are kept")
    return 0


def _clear(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    listed = endpoint.requester.request(Clips()).clips
    labeled = [one for one in listed if one.label and (arguments.all or one.id in arguments.ids)]
    if labeled:
        which = f"{len(labeled)} labeled clip(s), from which words and thresholds learn,"
        what = f"{which} would be deleted"
        if not confirmed_loss(what, yes=arguments.yes):
            return _cleared(ClipsClearReply(deleted=0), arguments)
    command = ClipsClear(all=True) if arguments.all else ClipsClear(clips=arguments.ids)
    return _cleared(endpoint.requester.request(command), arguments)


def _cleared(done: ClipsClearReply, arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json(done)
    else:
        print(f"{done.deleted} clip(s) deleted")
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace, Endpoint], int]] = {
    "list": _list,
    "play": _play,
    "keep": _keep,
    "label": _label,
    "clear": _clear,
}

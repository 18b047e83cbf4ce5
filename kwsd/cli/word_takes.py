"""`kwsd word takes` and `kwsd word rebuild`: the recordings that words are made from."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kwsd.bounded.file import one_line
from kwsd.cli import options, steps
from kwsd.cli.endpoint import Endpoint, connect_daemon
from kwsd.cli.output import (
    DATA,
    USAGE,
    Terminal,
    check_answerable,
    confirmed,
    confirmed_loss,
    fail,
    print_json,
    show,
    write_file,
)

if TYPE_CHECKING:
    from kwsd.client.takes import Recording
    from kwsd.learn.few_shot import WordTrainer
    from kwsd.protocol.messages import Requester


def add_actions(actions: options.Actions) -> None:
    """Add the actions; the verb adds the options of an endpoint to them."""
    rebuild = options.add_action(actions, "rebuild", "make words again from their takes and clips")
    rebuild.add_argument("words", nargs="*", metavar="WORD", help="default: every added word")
    options.add_rate(
        rebuild, "hold them to another rate of false wakes an hour of speech (default: their own)"
    )
    options.add_yes(rebuild)
    edit = options.add_action(
        actions,
        "edit",
        "change the takes of a word, and make it again, by the steps that a program writes to "
        "standard input",
    )
    edit.add_argument("word", metavar="WORD")
    takes = options.add_action(actions, "takes", "list, play, trim and redo the takes of a word")
    takes.add_argument("word", metavar="WORD")
    takes.set_defaults(of_take="list", yes=False)
    what = takes.add_subparsers(dest="of_take", metavar="WHAT")
    options.add_action(what, "list", "list the takes: what is used of each", inherits=True)
    play = options.add_action(what, "play", "play what is used of a take", inherits=True)
    play.add_argument("number", type=options.positive, metavar="N")
    play.add_argument("--whole", action="store_true", default=False, help="play all of it")
    play.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FILE.wav",
        help="write it to a file instead of playing it",
    )
    trim = options.add_action(
        what, "trim", "say where the word is in a take, and make the word again", inherits=True
    )
    trim.add_argument("number", type=options.positive, metavar="N")
    trim.add_argument(
        "span",
        type=float,
        nargs="*",
        metavar="SECONDS",
        help="where it begins and where it ends; without, its voice is looked for again",
    )
    redo = options.add_action(
        what, "redo", "put another take in the place of one, and make the word again", inherits=True
    )
    redo.add_argument("number", type=options.positive, metavar="N")
    origin = redo.add_mutually_exclusive_group(required=True)
    origin.add_argument("--wav", type=Path, default=None, metavar="FILE", help="a recording of it")
    origin.add_argument(
        "--record",
        action="store_true",
        default=False,
        help="record it through the daemon's microphone",
    )
    drop = options.add_action(
        what, "drop", "delete a take, and make the word again without it", inherits=True
    )
    drop.add_argument("number", type=options.positive, metavar="N")
    clear = options.add_action(
        what, "clear", "delete all takes of the word; it stays as it is", inherits=True
    )
    for action in (trim, redo, drop):
        options.add_yes(action)
    options.add_yes(clear, "delete them without asking")
    for action in what.choices.values():
        options.add_endpoint(action)


def rebuild(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    """Make words again and print which, and which not."""
    from kwsd.client import rebuild as client

    rate = options.rate(arguments)
    trainer = _trainer(arguments, endpoint, "making words again")
    requester = endpoint.requester
    named = arguments.words
    names = named or client.every_word(requester)
    made, lost = client.rebuild_all(
        requester, trainer, names, show, lambda: confirmed(yes=arguments.yes), rate
    )
    if arguments.json:
        rebuilt = [one.word.name for one in made if one.kept]
        print_json({"rebuilt": rebuilt, "lost": {one.word: one.why for one in lost}})
    else:
        for one in made:
            print(f"{one.word.name} is {'made again' if one.kept else 'as it was'}.")
        if not names:
            print("no words were added; `kwsd word add` makes one")
    for each in lost:
        fail(DATA, each.why)
    return DATA if any(named or not each.is_usable for each in lost) else 0


def takes(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    """Do what is asked for with the takes of a word."""
    return TAKES[arguments.of_take or "list"](arguments, endpoint)


def _list(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.client.takes import seconds
    from kwsd.protocol.commands import Takes

    found = endpoint.requester.request(Takes(word=arguments.word))
    if arguments.json:
        print_json(found)
        return 0
    for number, take in enumerate(found.takes, 1):
        said = {"found": "", "trimmed": ", trimmed", "clip": ", a clip"}[take.span]
        print(f"{number}: {one_line(take.origin)}, the word is at {seconds(take)}{said}")
    if not found.takes:
        print(f"no takes of {found.word} are kept; `takes: {{keep: on}}` keeps those of new words")
    return 0


def _play(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.audio import pcm
    from kwsd.audio.playback import play
    from kwsd.client.rebuild import readable

    take = readable(*_fetched(arguments, endpoint), arguments.number)
    info = take.info
    samples = take.samples if arguments.whole else take.samples[info.start : info.end]
    if arguments.json:
        print_json(info)
    if arguments.out:
        write_file(arguments.out, pcm.wav_bytes(samples))
    else:
        play(samples)
    return 0


def _trim(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.client.rebuild import trimmed

    if len(arguments.span) not in (0, 2):
        return fail(USAGE, "trim takes a start and an end, in seconds, or neither")
    trainer = _trainer(arguments, endpoint, "trimming a take")
    word, kept = _fetched(arguments, endpoint)
    again = trimmed(trainer, word, kept, arguments.number, arguments.span)
    return _made_again(arguments, endpoint, trainer, word, again)


def _redo(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.client import rebuild, words

    client = endpoint.client
    if client is None and arguments.record:
        text = "--record needs the daemon, which listens to the microphone"
        return fail(USAGE, f"{text}; with --state, use --wav")
    trainer = _trainer(arguments, endpoint, "redoing a take")
    word, kept = _fetched(arguments, endpoint)
    rebuild.numbered(word, kept, arguments.number)
    if not words.listed(endpoint.requester).keeps_takes:
        text = "takes.keep is off in the configuration, so that no new takes are kept"
        return fail(DATA, f"{text}; set `takes: {{keep: on}}`")
    if client and arguments.record:
        guide = Terminal(as_json=arguments.json)
        found = words.from_microphone(trainer, client, word, 1, guide)
    else:
        channel = endpoint.config.microphone.channel
        found = words.from_recordings(trainer, word, [arguments.wav], channel)
        if found.refused:
            return fail(DATA, found.refused[0])
    again = rebuild.redone(word, kept, arguments.number, found.recordings[0])
    return _made_again(arguments, endpoint, trainer, word, again)


def _drop(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.client.rebuild import dropped

    trainer = _trainer(arguments, endpoint, "dropping a take")
    word, kept = _fetched(arguments, endpoint)
    again = dropped(word, kept, arguments.number)
    return _made_again(arguments, endpoint, trainer, word, again)


def _clear(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.protocol.commands import Takes, TakesClear
    from kwsd.protocol.errors import RequestError

    what = "its recordings"
    try:
        found = endpoint.requester.request(Takes(word=arguments.word))
        what = f"{len(found.takes)} take(s) of {found.word}"
    except RequestError as error:
        if error.code != "no_take":  # a damaged index
            raise
    deleted = 0
    loss = f"{what}, from which it can be made again, would be deleted"
    if confirmed_loss(loss, yes=arguments.yes):
        deleted = endpoint.requester.request(TakesClear(word=arguments.word)).deleted
    if arguments.json:
        print_json({"deleted": deleted})
    else:
        print(f"{deleted} take(s) deleted")
    return 0


def _trainer(arguments: argparse.Namespace, endpoint: Endpoint, what: str) -> WordTrainer:
    """Return what makes words, where somebody can answer and may do it. Raises an error if not."""
    from kwsd.client.enroll import check_rights
    from kwsd.learn.few_shot import WordTrainer

    check_answerable(yes=arguments.yes)
    if endpoint.client:
        check_rights(endpoint.client, what)
    return WordTrainer(endpoint.bundle, checker=endpoint.checker)


def edit(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    """Change the takes of a word, and make it again, by the steps of a program."""
    return guided(arguments, endpoint, is_new=False)


def guided(arguments: argparse.Namespace, endpoint: Endpoint, *, is_new: bool) -> int:
    """Add a word, or change the takes of one, by the steps of a program."""
    from kwsd.client.draft import Draft
    from kwsd.client.enroll import check_rights
    from kwsd.learn.few_shot import WordTrainer

    def connect() -> contextlib.AbstractContextManager[Requester]:
        # Minutes go by between two steps, and the daemon may be restarted meanwhile.
        return (
            connect_daemon(arguments) if endpoint.client else contextlib.nullcontext(endpoint.state)
        )

    if endpoint.client:
        check_rights(endpoint.client, "adding a word" if is_new else "changing takes")
        endpoint.client.close()
    trainer = WordTrainer(endpoint.bundle, checker=endpoint.checker)
    channel = endpoint.config.microphone.channel
    return steps.follow(Draft(connect, trainer, arguments.word, is_new=is_new, channel=channel))


def _fetched(arguments: argparse.Namespace, endpoint: Endpoint) -> tuple[str, list[Recording]]:
    from kwsd.client.takes import fetch

    return fetch(endpoint.requester, arguments.word)


def _made_again(
    arguments: argparse.Namespace,
    endpoint: Endpoint,
    trainer: WordTrainer,
    word: str,
    recordings: list[Recording],
) -> int:
    from kwsd.client.rebuild import rebuild

    added = rebuild(endpoint.requester, trainer, word, show, recordings)
    if confirmed(yes=arguments.yes):
        added = added.keep(endpoint.requester)
    if arguments.json:
        infos = [one.info for one in recordings]
        print_json({"word": word, "made_again": added.kept, "takes": infos})
    else:
        print(f"{word} is {'made again' if added.kept else 'as it was'}.")
    return 0


TAKES: dict[str, Callable[[argparse.Namespace, Endpoint], int]] = {
    "list": _list,
    "play": _play,
    "trim": _trim,
    "redo": _redo,
    "drop": _drop,
    "clear": _clear,
}

"""`kwsd word`: the user's own wake words."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kwsd.cli import options, steps, word_takes
from kwsd.cli.endpoint import Endpoint, open_endpoint
from kwsd.cli.output import (
    USAGE,
    Terminal,
    check_answerable,
    confirmed,
    fail,
    print_json,
    rate_sentence,
    show,
    write_file,
)
from kwsd.names import word_name

if TYPE_CHECKING:
    from kwsd.client.words import Takes
    from kwsd.learn.few_shot import WordTrainer

HELP = "add, improve, try and remove wake words of your own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `kwsd word`."""
    actions = options.add_actions(parser)
    add = options.add_action(actions, "add", "make a word from recordings of it")
    _add_origin(add)
    improve = options.add_action(actions, "improve", "make a word again with its labeled clips")
    improve.add_argument("word", metavar="WORD")
    for action in (add, improve):
        options.add_yes(action)
    options.add_action(
        actions, "list", "list the words, those that come with kwsd and the added ones"
    )
    remove = options.add_action(actions, "remove", "delete a word and its takes")
    remove.add_argument("word", metavar="WORD")
    export = options.add_action(actions, "export", "write a word to a file")
    export.add_argument("word", metavar="WORD")
    export.add_argument("file", type=Path, metavar="FILE")
    imported = options.add_action(actions, "import", "add a word from an exported file")
    imported.add_argument("file", type=Path, metavar="FILE")
    test = options.add_action(actions, "test", "score recordings with a word")
    test.add_argument("word", metavar="WORD")
    test.add_argument("files", type=Path, nargs="+", metavar="FILE")
    word_takes.add_actions(actions)
    for action in actions.choices.values():
        options.add_endpoint(action, stores=action in (add, imported))
    for name, text in (
        ("enable", "listen for a word that is disabled, until the daemon is restarted"),
        ("disable", "do not listen for a word, until the daemon is restarted"),
    ):
        switch = options.add_action(actions, name, text)
        switch.add_argument("word", metavar="WORD")
        switch.set_defaults(state=None)
        options.add_config(switch)
        options.add_socket(switch)
        options.add_json(switch)


def _add_origin(add: argparse.ArgumentParser) -> None:
    add.add_argument("word", metavar="WORD", help="what is said; quote several words")
    origin = add.add_mutually_exclusive_group(required=True)
    origin.add_argument(
        "--wav",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="recordings, each of the word alone; three suffice, ten are better",
    )
    origin.add_argument(
        "--record",
        type=_takes_wanted,
        metavar="N",
        help="record N takes through the daemon's microphone; three at least",
    )
    origin.add_argument(
        "--text-only",
        action="store_true",
        help="no recordings: espeak-ng says it; far worse: the warning states by how much",
    )
    origin.add_argument(
        "--from-clips",
        action="store_true",
        help="no recordings: the labeled clips of a word of this name, which is lost or refused",
    )
    steps.add_option(origin)
    options.add_rate(
        add,
        "false wakes an hour of continuous speech that its threshold allows, such as 1/week "
        "(default 0.1, or more where it would miss most of its takes)",
    )
    add.add_argument(
        "--room",
        action="store_true",
        help="train against what the daemon has just heard (lookback_s), without the word, too",
    )
    add.add_argument(
        "--language",
        metavar="CODE",
        help="of the synthetic voices, such as de or pt-br (default: by the script of the text; "
        "English for Latin letters)",
    )
    add.add_argument(
        "--synthesis",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="add synthetic voices to the recordings (was worse)",
    )


def _takes_wanted(text: str) -> int:
    if not text.isdecimal() or int(text) < 3:
        raise argparse.ArgumentTypeError(f"{text!r} is too few: a word needs three takes")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Run the action."""
    with open_endpoint(arguments) as endpoint:
        return ACTIONS[arguments.action](arguments, endpoint)


def _add(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.client import words
    from kwsd.client.enroll import check_rights
    from kwsd.learn.few_shot import WordTrainer

    if arguments.steps:
        if arguments.rate or arguments.room or arguments.synthesis or arguments.language:
            text = "--steps takes no --rate, --room, --synthesis or --language"
            return fail(USAGE, f"{text}; the step `make` has the rate")
        return word_takes.guided(arguments, endpoint, is_new=True)
    rate = options.rate(arguments)
    client = endpoint.client
    if client is None and (arguments.record or arguments.room):
        text = "--record and --room need the daemon, which listens to the microphone"
        return fail(USAGE, f"{text}; with --state, use --wav")
    if arguments.language and not (arguments.text_only or arguments.synthesis):
        return fail(USAGE, "--language is for synthetic voices: --text-only or --synthesis")
    check_answerable(yes=arguments.yes)
    if client:
        check_rights(client, "adding a word")
    trainer = WordTrainer(endpoint.bundle, checker=endpoint.checker)
    room = words.look_back(client) if client and arguments.room else None
    added = words.add(
        endpoint.requester,
        trainer,
        arguments.word,
        lambda: _takes(arguments, trainer, endpoint),
        "text" if arguments.text_only else "recordings",
        show,
        room,
        rate,
    )
    if confirmed(yes=arguments.yes):
        added = added.keep(endpoint.requester)
    if arguments.json:
        print_json(added.report(trainer.word_id))
    else:
        print(f"{_plain(arguments.word)} is {'added' if added.kept else 'not added'}.")
    return 0


def _takes(arguments: argparse.Namespace, trainer: WordTrainer, endpoint: Endpoint) -> Takes:
    """Return the takes that the arguments name, with synthetic ones where they are wanted."""
    from dataclasses import replace

    from kwsd.client import improve, words

    if arguments.from_clips:
        takes = improve.from_clips(endpoint.requester, trainer, arguments.word, show)
    elif arguments.text_only:
        takes = words.Takes()
    elif (client := endpoint.client) and arguments.record:
        guide = Terminal(as_json=arguments.json)
        takes = words.from_microphone(trainer, client, arguments.word, arguments.record, guide)
    else:
        channel = endpoint.config.microphone.channel
        takes = words.from_recordings(trainer, arguments.word, arguments.wav, channel)
    if arguments.text_only or arguments.synthesis:
        said = words.from_text(trainer, arguments.word, arguments.language)
        takes.usable.extend(said.usable)
        takes.refused.extend(said.refused)
        takes.warnings.extend(said.warnings)
        takes.recordings.extend(said.recordings)
        return replace(takes, language=said.language)
    return takes


def _improve(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from dataclasses import asdict

    from kwsd.client import improve, words
    from kwsd.client.enroll import check_rights
    from kwsd.learn.few_shot import WordTrainer

    check_answerable(yes=arguments.yes)
    if endpoint.client:
        check_rights(endpoint.client, "improving a word")
    trainer = WordTrainer(endpoint.bundle, checker=endpoint.checker)
    word, improvement = improve.improve(endpoint.requester, trainer, arguments.word, show)
    if arguments.json:
        print_json({"word": word.name, **asdict(improvement)})
    else:
        for line in improve.describe(improvement):
            show(line)
    kept = confirmed(yes=arguments.yes)
    if kept:
        words.put(endpoint.requester, word)
    if not arguments.json:
        print(f"{_plain(word.name)} is {'improved' if kept else 'as it was'}.")
    return 0


def _list(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from msgspec import to_builtins

    from kwsd.protocol.commands import GetCalibration, Words
    from kwsd.protocol.data import all_together

    found = endpoint.requester.request(Words())
    in_force = endpoint.requester.request(GetCalibration()).words
    together = all_together(word.rate for word in in_force.values())
    if arguments.json:
        more = {"in_force": in_force, "false_accepts_per_hour": together}
        print_json({**to_builtins(found), **more})
        return 0
    origins = dict.fromkeys(found.bundled, "comes with kwsd")
    for word in found.words:
        takes = f"{word.made.takes or '?'} takes of {word.length_s:.1f} s"
        origins[word.name] = f"added, made from {takes}"
    for name, origin in origins.items():
        active = "not listened for"
        if name in in_force:
            active = f"listened for, threshold {in_force[name].threshold:.2f}"
            if rate := in_force[name].rate:
                active += f": {rate_sentence(rate)}"
        print(f"{name}: {origin}, {active}")
    if together is not None:
        print(f"all together: {together:.2g} false wakes an hour of speech")
    if not found.words:
        print("no words were added; `kwsd word add` makes one")
    for why in found.unusable:
        endpoint.report(why)
    return 0


def _remove(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.protocol.commands import WordsDelete

    removed = endpoint.requester.request(WordsDelete(name=arguments.word))
    if arguments.json:
        print_json(removed)
    else:
        print(f"{_plain(removed.deleted)} is removed.")
    return 0


def _enable(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.protocol.commands import WordsDisable, WordsEnable

    kind = WordsEnable if arguments.action == "enable" else WordsDisable
    done = endpoint.requester.request(kind(name=arguments.word))
    if arguments.json:
        print_json(done)
    else:
        listens = ", ".join(done.words) or "no word"
        print(f"{_plain(arguments.word)} is {arguments.action}d; kwsd listens for {listens}.")
    return 0


def _export(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.client import words
    from kwsd.state.words import to_bytes

    word = words.get(endpoint.requester, endpoint.bundle, arguments.word)
    write_file(arguments.file, to_bytes(word))
    if arguments.json:
        print_json({"word": word.name, "file": arguments.file})
    else:
        print(f"{_plain(arguments.word)} is written to {arguments.file}.")
    return 0


def _import(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.client import words

    name = words.import_file(endpoint.requester, endpoint.bundle, arguments.file)
    if arguments.json:
        print_json({"word": name, "added": True})
    else:
        print(f"{_plain(name)} is added.")
    return 0


def _test(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from kwsd.client import trials

    found = trials.test(
        endpoint.requester, endpoint.bundle, arguments.word, arguments.files, endpoint.config
    )
    for trial in found:
        if arguments.json:
            print_json({"file": trial.path, "score": trial.score, "wakes": trial.wakes})
        else:
            print(f"{trial.path}: {trial.score:.2f}{', wakes' if trial.wakes else ''}")
    return 0


def _plain(name: str) -> str:
    """Return the name of a word as it is said, with spaces for underscores."""
    return word_name(name).replace("_", " ")


ACTIONS: dict[str, Callable[[argparse.Namespace, Endpoint], int]] = {
    "add": _add,
    "improve": _improve,
    "list": _list,
    "remove": _remove,
    "enable": _enable,
    "disable": _enable,
    "export": _export,
    "import": _import,
    "test": _test,
    "takes": word_takes.takes,
    "rebuild": word_takes.rebuild,
    "edit": word_takes.edit,
}

"""Added words that are made again from their takes, with the models of now."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.bounded.file import one_line
from kwsd.client import improve, words
from kwsd.client.takes import Recording, fetch
from kwsd.client.words import Added, Takes
from kwsd.learn.few_shot import MIN_TAKES, WordTrainer
from kwsd.learn.takes import REPEATED, KnownRecordings, TakeRejected
from kwsd.names import look_up
from kwsd.protocol.data import MadeFrom
from kwsd.protocol.errors import RequestError
from kwsd.protocol.messages import Requester
from kwsd.state.words import MAX_STORED, WordError, check_word_name


@dataclass(frozen=True)
class Lost:
    """A word that could not be made again, and stays as it was."""

    word: str
    why: str
    """The message, with the remedy."""
    is_usable: bool
    """Whether kwsd listens for it all the same."""


def every_word(requester: Requester) -> list[str]:
    """Return the names of all added words, those that cannot be used included.

    Raises RequestError.
    """
    found = words.listed(requester)
    return list(dict.fromkeys([*(one.name for one in found.words), *found.unusable_words]))


def rebuild_all(
    requester: Requester,
    trainer: WordTrainer,
    names: Sequence[str],
    show: Callable[[str], None],
    confirm: Callable[[], bool],
    rate: float | None = None,
) -> tuple[list[Added], list[Lost]]:
    """Make words again, one after the other, as `rebuild` does, and keep each if confirmed; one
    that cannot be made does not keep others from it.

    Raises RequestError where nobody answers.
    """
    made = []
    lost = []
    for name in names:
        try:
            one = rebuild(requester, trainer, name, show, rate=rate)
            made.append(one.keep(requester) if confirm() else one)
        except (WordError, RequestError) as error:
            if isinstance(error, RequestError) and error.code in ("closed", "permission_denied"):
                raise
            usable = look_up(name, [one.name for one in words.listed(requester).words])
            lost.append(Lost(name, str(error), usable is not None))
    return made, lost


def rebuild(
    requester: Requester,
    trainer: WordTrainer,
    name: str,
    show: Callable[[str], None],
    recordings: Sequence[Recording] | None = None,
    rate: float | None = None,
) -> Added:
    """Make a word again from its takes and labeled clips.

    `recordings` are its takes from now on; without, those that are kept are. It is held to `rate`,
    without one to what it was held to before. The word that was there is replaced once this one is
    kept. Raises WordError where there are too few, or RequestError.
    """
    name, kept = fetch(requester, name)
    takes = _encoded(trainer, name, kept if recordings is None else recordings)
    from_clips = {one.info.origin for one in takes.recordings if one.info.span == "clip"}
    before = _made_from(requester, name)
    takes = replace(takes, language=before.language)
    clips = improve.labeled_clips(requester, trainer, name, from_clips, show)
    room = MAX_STORED - len(takes.usable)
    hardest = sorted(clips.right, key=lambda scored: scored[0])[:room]
    takes.usable.extend(take for _, take in hardest)
    takes.wrong.extend(clips.wrong)
    takes.clips.extend(sorted({*clips.ids, *from_clips}))
    if not kept and recordings is None:  # what it is made from now is its takes
        takes.recordings.extend(clips.recordings)
    if len(takes.usable) < MIN_TAKES:
        raise WordError(_too_few(name, takes, before))
    if gone := sorted({*before.clips} - {*takes.clips}):
        show(
            f"warning: {len(gone)} clips that {name} had learned from are deleted or no longer "
            f"labeled; it is made without them"
        )
    asked = before.rate if rate is None else rate
    return words.make(requester, trainer, name, takes, before.of, show, rate=asked)


def trimmed(
    trainer: WordTrainer, name: str, takes: Sequence[Recording], number: int, at: Collection[float]
) -> list[Recording]:
    """Return takes, of which the one of this number, from 1, has the word at `at`, in seconds.

    Without such a span, the word is where its voice is found. Raises WordError or TakeRejected.
    """
    one = readable(name, takes, number)
    again = one.untrimmed()
    if at:
        start, end = (round(second * SAMPLE_RATE) for second in at)
        if not 0 <= start < end <= len(one.samples):
            all_s = len(one.samples) / SAMPLE_RATE
            text = f"take {number} of {name!r} lasts {all_s:.2f} s"
            raise WordError(f"{text}; give a start and an end within it, in seconds")
        again = one.trimmed(start, end)
    return _with(takes, number, again.encoded(trainer.encoder, name))


def redone(name: str, takes: Sequence[Recording], number: int, new: Recording) -> list[Recording]:
    """Return takes with `new` in the place of the one of this number, from 1.

    Raises WordError, or TakeRejected where it is one of the others.
    """
    old = numbered(name, takes, number)
    _check_new([one for one in takes if one is not old], new)
    return _with(takes, number, new)


def joined(takes: Sequence[Recording], new: Recording) -> list[Recording]:
    """Return takes and `new`. Raises TakeRejected where it is one of them."""
    _check_new(takes, new)
    return [*takes, new]


def _check_new(takes: Sequence[Recording], new: Recording) -> None:
    known = KnownRecordings()
    for one in takes:
        if not one.fault:
            known.add(_said(one))
    if known.find(_said(new)) is not None:
        raise TakeRejected("repeated", REPEATED)


def dropped(name: str, takes: Sequence[Recording], number: int) -> list[Recording]:
    """Return takes without the one of this number, from 1. Raises WordError."""
    one = numbered(name, takes, number)
    return [other for other in takes if other is not one]


def numbered(name: str, takes: Sequence[Recording], number: int) -> Recording:
    """Return the take of this number, from 1. Raises WordError."""
    if not 1 <= number <= len(takes):
        there = f"there are 1 to {len(takes)}" if takes else "none are kept"
        raise WordError(f"{name!r} has no take {number}; {there}")
    return takes[number - 1]


def readable(name: str, takes: Sequence[Recording], number: int) -> Recording:
    """Return the take of this number, from 1. Raises WordError where it cannot be read."""
    one = numbered(name, takes, number)
    if one.fault:
        raise WordError(one.fault)
    return one


def _said(one: Recording) -> np.ndarray:
    return one.samples[one.info.start : one.info.end]


def _with(takes: Sequence[Recording], number: int, new: Recording) -> list[Recording]:
    return [*takes[: number - 1], new, *takes[number:]]


def _encoded(trainer: WordTrainer, name: str, recordings: Sequence[Recording]) -> Takes:
    """Return takes as they are heard now; one that cannot be used is kept all the same."""
    takes = Takes()
    for number, one in enumerate(recordings, 1):
        label = f"take {number} ({one_line(one.info.origin)})"
        try:
            heard = one.encoded(trainer.encoder, name)
        except TakeRejected as error:
            takes.refused.append(f"{label}: {error}")
            takes.recordings.append(one)
            continue
        assert heard.take is not None
        takes.add(heard.take, heard, label)
    return takes


def _made_from(requester: Requester, name: str) -> MadeFrom:
    """Return how the word was made, as far as that can be read."""
    listed = words.listed(requester)
    lost = zip(listed.unusable_words, listed.unusable_made, strict=True)
    return {**dict(lost), **{one.name: one.made for one in listed.words}}.get(name, MadeFrom())


def _too_few(name: str, takes: Takes, before: MadeFrom) -> str:
    spoken = shlex.quote(check_word_name(name).replace("_", " "))
    how = "--text-only" if before.of == "text" else "--record 5"
    add = f"`kwsd word add {spoken} {how}`"
    if before.time:
        add = f"`kwsd word remove {spoken}`, then {add}"
    return (
        f"{name!r} cannot be made again, and stays as it is: {len(takes.usable)} of its takes and "
        f"labeled clips are kept and can be used, and {MIN_TAKES} are needed; make it from others: "
        f"{add}"
    )

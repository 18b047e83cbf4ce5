"""The handlers of requests about takes, and what `words.put` and `words.delete` do with them.

Takes that a client brings are in memory until `words.put` names them: what is never kept is never
on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.audio import pcm
from kwsd.audio.format import SAMPLE_RATE
from kwsd.names import identifier, look_up
from kwsd.protocol import commands, replies
from kwsd.protocol.commands import Command
from kwsd.protocol.data import MAX_TAKE_SAMPLES, TakeInfo
from kwsd.protocol.errors import RequestError
from kwsd.protocol.replies import Reply
from kwsd.state.takes import TakeError, TakeStore, take_id
from kwsd.state.words import WordStore, check_word_name

MAX_BROUGHT = 16 << 20
"""Bytes of takes that are brought and not kept yet; those that were brought first go first."""


class TakeHandlers:
    """The handlers over the takes of a state directory."""

    def __init__(self, folder: Path, words: WordStore, keeps: Callable[[], bool]) -> None:
        """`keeps` returns whether new takes are kept."""
        self.store = TakeStore(folder)
        self.keeps = keeps
        self._words = words
        self._brought: dict[tuple[str, str], np.ndarray] = {}
        self.handlers: dict[type[Command], Callable[[Any], Reply]] = {
            commands.Takes: self._list,
            commands.TakesGet: self._get,
            commands.TakesPut: self._put,
            commands.TakesClear: self._clear,
        }

    @contextmanager
    def replacing(
        self, word: str, takes: Sequence[TakeInfo] | None, *, replaces: bool
    ) -> Iterator[None]:
        """Keep `takes` with a word if the context, which saves the word, succeeds.

        None leaves those there are, unless the word is new. Raises RequestError.
        """
        if not takes:
            yield
            if takes is not None or not replaces:
                self.delete(word)
            return
        new = {id: samples for (name, id), samples in self._brought.items() if name == word}
        try:
            kept = {take.id: take for take in self.store.listed(word)} if replaces else {}
        except TakeError:
            kept = {}
        for take in takes:
            if take.id not in kept and take.id not in new:
                text = f"{word!r} has no take {take.id!r}; takes.put brings it first"
                raise RequestError("no_take", text)
            samples = len(new[take.id]) if take.id in new else kept[take.id].samples
            if not take.start < take.end <= samples or take.samples != samples:
                text = f"words.put: the take {take.id} has {samples} samples, and the word in it"
                raise RequestError("bad_request", f"{text} from {take.start} to {take.end} is not")
        try:
            with self.store.replacing(word, takes, new):
                yield
        except TakeError as error:
            raise RequestError("not_saved", str(error)) from error
        self._brought = {key: at for key, at in self._brought.items() if key[0] != word}

    def word_of(self, file: str) -> str:
        """Return the word whose file is called `file`, where its takes tell; else `file`."""
        return next((name for name in self.store.names() if identifier(name) == file), file)

    def delete(self, word: str) -> None:
        """Delete the takes of a word that is deleted. Raises RequestError."""
        try:
            self.store.delete(word)
        except TakeError as error:
            raise RequestError("not_saved", str(error)) from error

    def tidy(self) -> list[Path]:
        """Delete what a crash has left, and return it. Raises WordError where nobody knows."""
        return self.store.tidy(self._words.stems())

    def _named(self, name: str) -> str:
        """Return the name of a word that is there, or whose takes are. Raises RequestError."""
        try:
            known = [*self._words.names(), *self.store.names()]
            word = look_up(check_word_name(name), known)
        except TakeError as error:
            raise RequestError("no_take", str(error)) from error
        except ValueError as error:
            raise RequestError("unknown_word", str(error)) from error
        if word is None:
            there = ", ".join(dict.fromkeys(known)) or "none"
            raise RequestError("unknown_word", f"no word is called {name!r}; there is {there}")
        return word

    def _list(self, command: commands.Takes) -> replies.TakesReply:
        word = self._named(command.word)
        try:
            return replies.TakesReply(word=word, takes=self.store.listed(word))
        except TakeError as error:
            raise RequestError("no_take", str(error)) from error

    def _get(self, command: commands.TakesGet) -> replies.TakesGetReply:
        try:
            take, samples = self.store.samples(self._named(command.word), command.take)
        except TakeError as error:
            raise RequestError("no_take", str(error)) from error
        return replies.TakesGetReply(take=take, sample_rate=SAMPLE_RATE, pcm=pcm.to_bytes(samples))

    def _put(self, command: commands.TakesPut) -> replies.TakesPutReply:
        if not self.keeps():
            text = "takes.keep is off in the configuration, so that no new takes are kept"
            raise RequestError("not_kept", f"{text}; set `takes: {{keep: on}}`")
        try:
            word = check_word_name(command.word)
            samples = pcm.from_bytes(command.audio)
        except ValueError as error:
            raise RequestError("bad_request", f"takes.put: {error}") from error
        if not 0 < len(samples) <= MAX_TAKE_SAMPLES:
            text = f"takes.put: audio has {len(samples)} samples"
            raise RequestError("bad_request", f"{text}; at least 1, at most {MAX_TAKE_SAMPLES}")
        id = take_id(samples)
        self._brought.pop((word, id), None)
        self._brought[word, id] = samples
        while sum(one.nbytes for one in self._brought.values()) > MAX_BROUGHT:
            del self._brought[next(iter(self._brought))]
        return replies.TakesPutReply(take=id)

    def _clear(self, command: commands.TakesClear) -> replies.TakesClearReply:
        try:
            return replies.TakesClearReply(deleted=self.store.delete(self._named(command.word)))
        except TakeError as error:
            raise RequestError("not_saved", str(error)) from error

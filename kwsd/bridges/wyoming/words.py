"""The words of the wake service: those of the bundle, and the daemon's own when it is there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from kwsd.bridges.wyoming import served
from kwsd.config import Config, ConfigError, SpeakerConfig, WordConfig
from kwsd.detect.setup import DetectorSetup, resolve
from kwsd.model.bundle import Bundle
from kwsd.names import look_up, word_name
from kwsd.state.library import Library
from kwsd.state.words import AddedWord

log = logging.getLogger(__name__)
MAX_SETUPS = 64
"""Choices of words whose setups are kept, whatever strangers ask for."""


class Words:
    """All words that may be asked for, and the setup of a detector of some of them."""

    def __init__(self, config: Config, bundle: Bundle) -> None:
        """Raises ConfigError where the configuration of a word of the bundle cannot be."""
        self._config = config
        self._bundle = bundle
        self._added: dict[str, AddedWord] = {}
        self._setups: dict[tuple[str, ...], DetectorSetup] = {}
        self.generation = 0
        """Rises whenever words come or go."""
        self.setup(None)

    @property
    def names(self) -> list[str]:
        """Names of all words."""
        return [*self._bundle.words, *self._added]

    def add(self, words: Mapping[str, AddedWord]) -> None:
        """Serve these words beside those of the bundle, instead of what was added before."""
        usable = {name: word for name, word in words.items() if name not in self._bundle.words}
        if {n: w.id for n, w in usable.items()} == {n: w.id for n, w in self._added.items()}:
            return
        self._added = usable
        self._setups.clear()
        self.generation += 1
        log.info("words: %s", ", ".join(self.names))

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Return those of `names` that no word has, for now."""
        return [name for name in names if look_up(word_name(name), self.names) is None]

    def setup(self, names: Sequence[str] | None) -> DetectorSetup | None:
        """Return the setup of a detector of these words; None is all of them.

        None where no word has one of these names.
        """
        chosen = tuple(self.names)
        if names is not None:
            found = {look_up(word_name(name), self.names) for name in names}
            chosen = tuple(name for name in self.names if name in found)
        if not chosen:
            return None
        if chosen not in self._setups:
            if len(self._setups) >= MAX_SETUPS:
                self._setups.clear()
            self._setups[chosen] = self._resolve(chosen)
        return self._setups[chosen]

    def _resolve(self, names: Sequence[str]) -> DetectorSetup:
        """Return the setup for these words, each as the configuration has it.

        Whoever speaks passes: the daemon knows who it is, and is asked later.
        """
        given = {name: self._config_of(name) for name in names}
        config = msgspec.structs.replace(
            self._config, words=given, added_words=False, speaker=SpeakerConfig()
        )
        library = Library(words=self._added)
        try:
            return resolve(config, self._bundle, library)
        except ConfigError as error:
            if not any(name in self._added for name in names):
                raise
            log.warning("%s; the added words have their own thresholds", error)
            plain = {name: WordConfig() if name in self._added else given[name] for name in names}
            config = msgspec.structs.replace(config, words=plain)
            return resolve(config, self._bundle, library)

    def _config_of(self, name: str) -> WordConfig:
        """Return the configuration of a word; it is listened for here, enabled or not."""
        known = look_up(name, self._config.words)
        given = self._config.words[known] if known else WordConfig()
        return msgspec.structs.replace(given, enabled=True)

    def described(self) -> list[served.ServedWord]:
        """Return what is said of each word."""
        bundled = [served.bundled(name, word.id) for name, word in self._bundle.words.items()]
        return bundled + [served.added(w.name, w.id, w.made) for w in self._added.values()]

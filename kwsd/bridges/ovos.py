"""Plugins for Open Voice OS: a wake-word engine, and a verifier of what any engine has detected.

Open Voice OS owns the microphone, and feeds each engine its frames: int16 at 16 kHz, mono. Each has
a detector of its own, and all share the models. No daemon is needed. Words that were added and
voices are those of the state directory of whoever runs the listener, or of the option `state`; a
word that is not there comes from the daemon, where one runs.

Options are those of a hotword in `mycroft.conf`. What they leave open is as `kwsd.yaml` has it.
What cannot be raises ConfigError when the plugin is loaded, which Open Voice OS logs.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct
from ovos_plugin_manager.templates.hotwords import HotWordEngine, HotWordVerifier
from ovos_utils.log import LOG

from kwsd import config_file, validation
from kwsd.audio.diagnosis import band
from kwsd.audio.high_pass import HighPass, high_passed
from kwsd.bridge_config import Text
from kwsd.client.client import connect
from kwsd.config import Config, ConfigError, OperatingPointName, SpeakerConfig, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.embedder import Embedder
from kwsd.detect.offline import with_tail
from kwsd.detect.setup import DetectorSetup, resolve
from kwsd.events import Wake
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.names import look_up, word_name
from kwsd.protocol.commands import WordsDetector
from kwsd.protocol.errors import DaemonError
from kwsd.state.library import Library
from kwsd.state.words import AddedWord, WordError, from_bytes

ENGINE = "ovos-ww-plugin-kwsd"
"""Name of the engine's entry point, the `module` of a hotword."""
VERIFIER = "ovos-ww-verifier-kwsd"
"""Name of the verifier's entry point, a key of `listener.ww_verifiers`."""
OTHERS = frozenset(
    {"active", "bus_event", "display_name", "enabled", "engine", "event", "fallback_ww"}
    | {"key_phrase", "lang", "listen", "local_conf", "module", "offline", "priority", "sound"}
    | {"stopword", "stt_lang", "utterance", "wakeup"}
)
"""Keys of a hotword that are the listener's own."""
ALIKE = 0.75
"""Likeness from which an unknown key is taken for a misspelled option."""
BYTES = 2
"""Bytes of a sample."""

CONFIGS = {
    "en-us": [
        {"key_phrase": word, "module": ENGINE, "display_name": f"kwsd: {word}", "offline": True}
        for word in ("alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass")
    ]
}
"""Configurations to choose from, by language: the words that come with kwsd."""


class _Options(Struct, frozen=True, forbid_unknown_fields=True):
    """What both plugins are told; null is what `kwsd.yaml` says."""

    checker: Literal["small", "large", "off"] | None = None
    """The second stage."""
    require: Literal["anyone", "enrolled"] | Annotated[list[Text], Meta(min_length=1)] | None = None
    """Who may wake it: anyone, any enrolled speaker, or a list of names."""
    config: Text | None = None
    """Another `kwsd.yaml`."""
    state: Text | None = None
    """Folder of added words and voices."""
    models: Text | None = None
    """Folder of a model bundle."""


class _EngineOptions(_Options, frozen=True):
    word: Text | None = None
    """The word to listen for; null is the hotword's own name."""
    threshold: Annotated[float, Meta(gt=0, le=1)] | OperatingPointName | None = None
    """Score from which it wakes, or one of the word's operating points."""


class _VerifierOptions(_Options, frozen=True):
    words: Annotated[list[Text], Meta(min_length=1)] | None = None
    """Words of which one must be in what was detected; null is not to listen for any."""


Kind = TypeVar("Kind", bound=_Options)


class WakeWord(HotWordEngine):
    """The engine: tells whether the word of a hotword is in the frames that it is fed."""

    def __init__(self, key_phrase: str = "computer", config: dict[str, Any] | None = None) -> None:
        """Load what detects the word. Raises ConfigError or BundleError."""
        super().__init__(key_phrase, config)
        where = f"hotwords.{self.key_phrase}"
        options = _options(_EngineOptions, self.config, where)
        word = word_name(options.word or self.key_phrase)
        parts = _Parts(options, (word,), where, threshold=options.threshold)
        self._bundle, self._runtime, self._setup = parts.bundle, parts.runtime, parts.setup
        self._detector = Detector(self._bundle, self._setup, self._runtime)
        self._high_pass = HighPass()
        self._rest = b""
        self._found = False

    def update(self, chunk: bytes) -> None:
        """Hear int16 samples at 16 kHz, in pieces of any size."""
        samples, self._rest = _samples(self._rest + chunk)
        for event in self._detector.feed(self._high_pass.step(samples)).wakes:
            if isinstance(event, Wake):
                self._found = True
                LOG.info(f"kwsd: {event.word}, score {event.score:.2f}")
            else:
                LOG.debug(f"kwsd: {event.word} did not wake it: {event.reason}")

    def found_wake_word(self) -> bool:
        """Return whether the word was heard since this was asked last."""
        found, self._found = self._found, False
        return found

    def reset(self) -> None:
        """Begin a new stream: what was said before it, while others listened, does not count."""
        self._detector = Detector(self._bundle, self._setup, self._runtime)
        self._found = False


class Verifier(HotWordVerifier):
    """The verifier: hears again what an engine has detected, kwsd's or another.

    With `words` one of them must be in it, by both stages; with `require` the voice must be one of
    those that may wake it. With neither, nor a `speaker.require` in `kwsd.yaml`, it lets all pass.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        """Load what it needs. Raises ConfigError or BundleError."""
        super().__init__(config)
        where = f"listener.ww_verifiers.{VERIFIER}"
        options = _options(_VerifierOptions, self.config, where)
        self._words = tuple(map(word_name, options.words or ()))
        self._parts: _Parts | None = None
        if self._words or _config(options).speaker.require != "anyone":
            self._parts = _Parts(options, self._words, where)

    def verify(self, chunk: bytes) -> bool:
        """Return whether int16 samples at 16 kHz are a wake."""
        if self._parts is None:
            return True
        samples, _ = _samples(chunk)
        passes = self._parts.wakes(samples) if self._words else self._parts.is_admitted(samples)
        if not passes:
            LOG.info("kwsd: the detection was refused: not the word, or not a voice that may")
        return passes


class _Parts:
    """What detects some words: the models, and what they are to listen for."""

    def __init__(
        self,
        options: _Options,
        words: tuple[str, ...],
        where: str,
        threshold: float | OperatingPointName | None = None,
    ) -> None:
        """Raises ConfigError, which names `where`, or BundleError."""
        config = _config(options)
        self.bundle, self.runtime = _models(config.models_path())
        library = _library(config, self.bundle, words, where)
        known = [*self.bundle.words, *library.words]
        given = {}
        for word in words:
            own = config.words.get(look_up(word, config.words) or word, WordConfig())
            own = msgspec.structs.replace(own, enabled=True)
            if threshold is not None:
                own = msgspec.structs.replace(own, threshold=threshold)
            given[look_up(word, known) or word] = own
        config = msgspec.structs.replace(config, words=given or Config().words, added_words=False)
        try:
            self.setup: DetectorSetup = resolve(config, self.bundle, library, words)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        for warning in self.setup.warnings:
            LOG.warning(f"kwsd: {where}: {warning}")

    def wakes(self, samples: np.ndarray) -> bool:
        """Return whether there is a wake in int16 `[sample]`."""
        detector = Detector(self.bundle, self.setup, self.runtime)
        blocks = high_passed(with_tail([samples]))
        return any(
            isinstance(event, Wake) for block in blocks for event in detector.feed(block).wakes
        )

    def is_admitted(self, samples: np.ndarray) -> bool:
        """Return whether the voice in int16 `[sample]` is one that may wake it."""
        checker = self.runtime.checker(self.setup.checker)
        heard = np.concatenate([*high_passed([samples])]) if len(samples) else samples
        embedder = Embedder(self.bundle, self.runtime, checker)
        voice = embedder.voice([heard])
        speakers = self.setup.speakers
        match = voice and speakers.match(embedder.joined(voice), band(heard), voice.speech_s)
        return speakers.admits(match)


@cache
def _models(path: Path | None) -> tuple[Bundle, Runtime]:
    """Return a bundle and its sessions, the same for all plugins. Raises BundleError."""
    bundle = bundles.load(path)
    return bundle, Runtime(bundle)


def _samples(data: bytes) -> tuple[np.ndarray, bytes]:
    """Return int16 `[sample]`, and the byte that is left."""
    whole = len(data) // BYTES * BYTES
    return np.frombuffer(data[:whole], "<i2").astype(np.int16), data[whole:]


def _options(kind: type[Kind], given: Mapping[str, Any], where: str) -> Kind:
    """Return the options among the keys of a hotword or a verifier.

    Raises ConfigError for a wrong value, and for a key that seems to be a misspelled option; other
    keys are the listener's own, or are reported.
    """
    own = [field.name for field in msgspec.structs.fields(kind)]
    for key in given:
        if key in own or key in OTHERS:
            continue
        if near := difflib.get_close_matches(str(key), own, 1, ALIKE):
            raise ConfigError(f"{where}: unknown key {key!r}; did you mean {near[0]!r}?")
        LOG.warning(f"kwsd: {where}: {key!r} has no effect; its options are {', '.join(own)}")
    value = {key: given[key] for key in own if given.get(key) is not None}
    if value.get("checker") is False:  # YAML's reading of `off`
        value["checker"] = "off"
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        fault = validation.explain(error, kind, value)
        found = validation.value_at(value, fault.path)
        at = f"{where}.{validation.dotted(fault.path)}"
        raise ConfigError(f"{at}: {found!r} {fault.problem}") from None


def _config(options: _Options) -> Config:
    """Return `kwsd.yaml`, with what the options change in it. Raises ConfigError."""
    config = config_file.load(Path(options.config).expanduser() if options.config else None)
    changes: dict[str, Any] = {}
    if options.checker is not None:
        changes["checker"] = options.checker
    if options.require is not None:
        threshold = config.speaker.threshold
        changes["speaker"] = SpeakerConfig(threshold=threshold, require=options.require)
    for key in ("state", "models"):
        if folder := getattr(options, key):
            changes[key] = str(Path(folder).expanduser())
    return msgspec.structs.replace(config, **changes)


def _library(config: Config, bundle: Bundle, words: tuple[str, ...], where: str) -> Library:
    """Return the voices and added words of the state directory, and what the daemon has of `words`
    that are nowhere else. Raises ConfigError."""
    folder = config.state_directory()
    library = Library()
    if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK):
        library, faults = Library.load(
            folder, bundle.encoder_id, bundle.voice_dim, bundle.frame_dim
        )
        for fault in faults:
            LOG.warning(f"kwsd: {fault}")
    elif config.state:
        raise ConfigError(f"{where}: state: {folder} is not a folder that you may read")
    there = [*bundle.words, *library.words, *library.unusable_words]
    missing = [word for word in words if look_up(word, there) is None]
    found = {word.name: word for name in missing if (word := _fetched(name, config, bundle))}
    return replace(library, words={**library.words, **found})


def _fetched(name: str, config: Config, bundle: Bundle) -> AddedWord | None:
    """Return an added word of the daemon; None where there is no daemon, or it has none."""
    try:
        with connect(config.socket.path) as daemon:
            file = daemon.request(WordsDetector(name=name)).file
        return from_bytes(file, bundle.encoder_id, name, bundle.frame_dim)
    except (DaemonError, WordError) as error:
        LOG.debug(f"kwsd: {name} is not the daemon's: {error}")
        return None

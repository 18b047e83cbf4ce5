"""Requests about clips: what is kept, whether more is, labels, and what is deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kwsd.audio import pcm
from kwsd.audio.format import SAMPLE_RATE
from kwsd.config import Config
from kwsd.learn.enrollment import voice_in
from kwsd.protocol import commands, replies
from kwsd.protocol.commands import Command
from kwsd.protocol.data import Clip, ClipInfo
from kwsd.protocol.errors import RequestError
from kwsd.protocol.replies import Reply
from kwsd.state.clip_switch import ClipSwitch, SwitchError
from kwsd.state.clips import ClipError, ClipStore
from kwsd.state.store import StateError


class ClipHandlers:
    """The handlers over the clips of a state directory."""

    def __init__(
        self,
        folder: Path,
        config: Callable[[], Config],
        note: Callable[[str, Sequence[StateError]], None],
    ) -> None:
        """`note` is called with a kind of files, and why some of them cannot be used."""
        self.store = ClipStore(folder, lambda: config().clips)
        self._switch = ClipSwitch(folder)
        self._config = config
        self._note = note
        self.handlers: dict[type[Command], Callable[[Any], Reply]] = {
            commands.Clips: self._list_clips,
            commands.ClipsGet: self._get_clip,
            commands.ClipsKeep: self._keep_clips,
            commands.ClipsLabel: self._label_clips,
            commands.ClipsClear: self._clear_clips,
        }

    def load_switch(self) -> None:
        """Read whether a client has said that clips are kept, or not."""
        self._note("switch", self._switch.load())

    def keeps(self, config: Config) -> bool:
        """Return whether new clips are kept: as a client has said, else by the configuration."""
        said = self._switch.enabled
        return config.clips.enabled if said is None else said

    def in_force(
        self, config: Config, origins: Mapping[str, str]
    ) -> tuple[Config, Mapping[str, str]]:
        """Return a configuration, and the origins of its keys, with what a client has said."""
        if self._switch.enabled is None:
            return config, origins
        clips = msgspec.structs.replace(config.clips, enabled=self._switch.enabled)
        changed = msgspec.structs.replace(config, clips=clips)
        return changed, {**origins, "clips.enabled": str(self._switch.path)}

    def all(self) -> list[Clip]:
        """Return all clips that can be used; what cannot is noted."""
        clips, faults = self.store.load_all()
        self._note("clips", faults)
        return clips

    def _list_clips(self, command: commands.Clips) -> replies.ClipsReply:
        listed = [
            ClipInfo(**{field: getattr(clip, field) for field in ClipInfo.__struct_fields__})
            for clip in self.all()
        ]
        self.load_switch()
        config = self._config()
        return replies.ClipsReply(
            clips=listed,
            enabled=self.keeps(config),
            bytes=self.store.size(),
            max_bytes=int(config.clips.max_mib * 2**20),
            max_count=config.clips.max_count,
        )

    def _keep_clips(self, command: commands.ClipsKeep) -> replies.ClipsKeepReply:
        try:
            self._switch.set(command.enabled)
        except SwitchError as error:
            raise RequestError("not_saved", str(error)) from error
        return replies.ClipsKeepReply(enabled=self.keeps(self._config()))

    def _get_clip(self, command: commands.ClipsGet) -> replies.ClipsGetReply:
        try:
            (clip,) = self.store.find([command.clip])
            samples = self.store.samples(clip)
        except ClipError as error:
            raise RequestError("no_clip", str(error)) from error
        return replies.ClipsGetReply(clip=clip, sample_rate=SAMPLE_RATE, pcm=pcm.to_bytes(samples))

    def voice_in(self, clip: str) -> np.ndarray:
        """Return the word in a clip as a take of a voice, int16 `[sample]`. Raises RequestError."""
        try:
            return voice_in(self.store, clip)
        except ClipError as error:
            raise RequestError("no_clip", str(error)) from error

    def _label_clips(self, command: commands.ClipsLabel) -> replies.ClipsLabelReply:
        try:
            self.store.label(command.clips, command.label)
        except ClipError as error:
            raise RequestError("no_clip", str(error)) from error
        return replies.ClipsLabelReply(labeled=len(command.clips))

    def _clear_clips(self, command: commands.ClipsClear) -> replies.ClipsClearReply:
        if (command.clips is None) != command.all:
            text = "clips.clear needs either clips, a list of ids, or all: true"
            raise RequestError("bad_request", text)
        try:
            return replies.ClipsClearReply(deleted=self.store.clear(command.clips))
        except ClipError as error:
            raise RequestError("no_clip", str(error)) from error

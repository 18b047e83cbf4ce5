"""Whether clips are kept, where a client has said so: a small file that stands above the
configuration until it is taken back."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kwsd.bounded import file as bounded
from kwsd.bounded import json as bounded_json
from kwsd.bounded.file import Damaged
from kwsd.state.store import StateError, write_atomically

MAX_BYTES = 1024


class SwitchError(StateError):
    """The switch cannot be read or set; the message says why."""


class _File(msgspec.Struct, frozen=True):
    enabled: bool


class ClipSwitch:
    """The file `clips.switch` of a state directory."""

    def __init__(self, state: Path) -> None:
        self.path = state / "clips.switch"
        self.enabled: bool | None = None
        """What was read or set last; None where the configuration decides."""

    def load(self) -> list[StateError]:
        """Read it; return why it cannot be used, in which case the configuration decides."""
        self.enabled = None
        try:
            data = bounded.read(self.path, MAX_BYTES, links=False)
            self.enabled = bounded_json.decode(data, _File).enabled
        except FileNotFoundError:
            return []
        except Damaged as error:
            fix = "remove it, or set it again with `kwsd clips keep`"
            return [SwitchError(f"{self.path}: damaged ({error}); {fix}")]
        except OSError as error:
            if error.errno in bounded.STARVED:
                raise
            return [SwitchError(f"{self.path}: cannot be read ({error.strerror})")]
        return []

    def set(self, enabled: bool | None) -> None:
        """Keep clips or none from now on; None leaves it to the configuration.

        Raises SwitchError; nothing has changed then.
        """
        try:
            if enabled is None:
                self.path.unlink(missing_ok=True)
            else:
                write_atomically(self.path, msgspec.json.encode(_File(enabled)))
        except OSError as error:
            text = f"{self.path}: could not be saved ({error.strerror})"
            raise SwitchError(f"{text}; nothing was changed, make room and try again") from error
        self.enabled = enabled

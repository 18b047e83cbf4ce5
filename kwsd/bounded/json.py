"""JSON of a declared type: finite numbers, text that UTF-8 can encode, bounded nesting."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kwsd.bounded.file import Damaged

T = TypeVar("T")


def decode(data: bytes, kind: type[T], *, strict: bool = True) -> T:
    """Return JSON as the type `kind`; unknown fields are ignored.

    Without `strict`, numbers and truth values may be written as each other. Raises Damaged.
    """
    try:
        return msgspec.json.decode(data, type=kind, strict=strict)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise Damaged(str(error)) from error
    except RecursionError as error:
        raise Damaged("it nests too deep") from error

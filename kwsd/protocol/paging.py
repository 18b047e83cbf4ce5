"""Replies that come in pages: cutting them, and putting them together again.

A request with a field `after` is answered with a page: as much as fits into `PAGE_BYTES`, and
`next`, which asks for the page after it. All pages of a list are of the moment of the first.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from kwsd.protocol.commands import Command
from kwsd.protocol.errors import RequestError
from kwsd.protocol.replies import EncodedReply, Page, Reply
from kwsd.protocol.request import Request, type_of

PAGE_BYTES = 1 << 18
"""JSON of the lists of a page; an entry that is longer has a page of its own."""
MAX_KEPT_BYTES = 16 << 20
"""Pages that wait until they are asked for; the oldest are dropped."""
R = TypeVar("R", bound=Reply)


def following(command: Request[R], reply: R) -> Request[R] | None:
    """Return the request for the page after `reply`, or None where it was the last."""
    if not isinstance(reply, Page) or reply.next is None:
        return None
    return msgspec.structs.replace(command, after=reply.next)


def joined(pages: Sequence[R]) -> R:
    """Return the whole reply: the lists of all pages, and the other fields of the last."""
    if len(pages) == 1:
        return pages[0]
    whole: dict[str, Any] = {}
    for page in pages:
        for name in page.__struct_fields__:
            value = getattr(page, name)
            match value:
                case list():
                    whole.setdefault(name, []).extend(value)
                case dict():
                    mapping = whole.setdefault(name, {})
                    for key, entries in value.items():
                        mapping.setdefault(key, []).extend(entries)
                case _:
                    whole[name] = value
    return msgspec.structs.replace(pages[-1], **whole)


class Pages:
    """A server's side: cuts long replies, and keeps the rest until it is asked for."""

    def __init__(self, page_bytes: int = PAGE_BYTES) -> None:
        self._page_bytes = page_bytes
        self._kept: dict[tuple[str, str], deque[bytes]] = {}
        """Encoded pages by the type of request and the `next` that asks for them."""
        self._numbers = itertools.count(1)

    def first(self, command: Request[Any] | Command, reply: Page) -> Reply:
        """Return the first page of `reply`."""
        whole = msgspec.json.encode(reply)
        if len(whole) <= self._page_bytes:
            return EncodedReply(json=whole)
        number = next(self._numbers)
        cut = list(_cut(reply, self._page_bytes))
        pages: deque[bytes] = deque()
        for at, fields in enumerate(cut, 1):
            more = f"{number}.{at}" if at < len(cut) else None
            page = msgspec.structs.replace(reply, **fields, next=more)
            pages.append(msgspec.json.encode(page))
        return self._take(type_of(command), f"{number}.", 1, pages)

    def after(self, command: Request[Any] | Command, cursor: str) -> Reply:
        """Return the page that `cursor`, the `next` of another, asks for.

        Raises RequestError where it is not kept.
        """
        kind = type_of(command)
        pages = self._kept.pop((kind, cursor), None)
        if pages is None:
            text = f"{kind}: the page after {cursor!r} is not kept any more"
            raise RequestError("no_page", f"{text}; ask again without `after`")
        number, _, at = cursor.partition(".")
        return self._take(kind, f"{number}.", int(at) + 1, pages)

    def _take(self, kind: str, prefix: str, at: int, pages: deque[bytes]) -> Reply:
        """Return the first of `pages`, page number `at`, and keep the others."""
        page = pages.popleft()
        if pages:
            self._kept[kind, f"{prefix}{at}"] = pages
        while len(self._kept) > 1 and self._kept_bytes() > MAX_KEPT_BYTES:
            del self._kept[next(iter(self._kept))]
        return EncodedReply(json=page)

    def _kept_bytes(self) -> int:
        return sum(len(page) for pages in self._kept.values() for page in pages)


def _cut(reply: Page, page_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield the lists of each page of `reply`, by field."""
    values = {name: getattr(reply, name) for name in reply.__struct_fields__}
    kinds = {name: type(one) for name, one in values.items() if isinstance(one, list | dict)}
    fields: dict[str, Any] = {name: kind() for name, kind in kinds.items()}
    for name, kind in kinds.items():
        if kind is dict:  # keys without entries are on the first page
            fields[name].update((key, []) for key, entries in values[name].items() if not entries)
    size = 0
    for name, key, entry in _entries(reply):
        entry_bytes = len(msgspec.json.encode(entry)) + 1
        if size and size + entry_bytes > page_bytes:
            yield fields
            fields = {name: kind() for name, kind in kinds.items()}
            size = 0
        size += entry_bytes
        (fields[name] if key is None else fields[name].setdefault(key, [])).append(entry)
    yield fields


def _entries(reply: Page) -> Iterator[tuple[str, str | None, Any]]:
    """Yield the entries of all lists: the field, the key where it maps keys to lists, the entry."""
    for name in reply.__struct_fields__:
        match getattr(reply, name):
            case list() as entries:
                for entry in entries:
                    yield name, None, entry
            case dict() as mapping:
                for key, entries in mapping.items():
                    for entry in entries:
                        yield name, key, entry

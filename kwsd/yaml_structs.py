"""YAML text as typed structs. Every error names the file, the line and the key, and what is
expected.

It is imported only where there is YAML to read: the parser takes a megabyte of memory.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_origin

import msgspec
import yaml
from msgspec.inspect import type_info

from kwsd import validation
from kwsd.config import ConfigError

Kind = TypeVar("Kind")
MOST_VALUES = 10_000
"""In one file, aliases written out: far more than a file by hand has, and soon read."""
MOST_LEVELS = 20
"""Levels of nesting in a file."""
TAG = "tag:yaml.org,2002:"
NOUNS = {"int": "a whole number", "float": "a number", "bool": "true or false", "null": "null"}
TAGS = {
    yaml.MappingNode: ("map",),
    yaml.SequenceNode: ("seq",),
    yaml.ScalarNode: ("str", "timestamp", "value", *NOUNS),
}
"""What a value may be. A date counts as text, and so does a lone `=`."""


def parse_as(
    kind: type[Kind],
    text: str,
    name: str,
    fill_in: Callable[[Any], Any] | None = None,
    abbreviated: Mapping[str, str] | None = None,
) -> Kind:
    """Return a YAML `text` as the type `kind`, a struct or a dict of structs.

    Errors call it `name`. `fill_in` writes out what may be abbreviated in the plain data;
    `abbreviated` says, by the path of a value, what is expected there then. Raises ConfigError.
    """
    node = _composed(text, name)
    if node is None:
        return kind()
    _refuse_bombs(node, name)
    _refuse_odd_keys(node, name, ())
    value = _plain(node, name, ())
    if get_origin(kind) is dict and isinstance(value, dict):  # `NAME:` alone is all defaults
        value = {name: {} if entry is None else entry for name, entry in value.items()}
    value = fill_in(value) if fill_in else value
    infinite = _infinite(value)
    if infinite is not None:
        type = validation.type_at(type_info(kind), infinite, value)
        wanted = validation.describe(type) if type else "a finite number"
        raise _config_error(validation.Fault(infinite, f"is not {wanted}"), value, node, name)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        fault = validation.explain(error, kind, value)
        expected = (abbreviated or {}).get(validation.dotted(fault.path))
        if expected and fault.name is None:
            fault = validation.Fault(fault.path, f"is not {expected}")
        raise _config_error(fault, value, node, name) from None


def lines(text: str, name: str) -> dict[tuple[str, ...], str]:
    """Return where each key of a YAML `text` that `parse_as` accepts is set, by its path."""
    found: dict[tuple[str, ...], str] = {}

    def visit(node: yaml.Node | None, path: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found[(*path, key.value)] = _line(name, key)
                visit(value, (*path, key.value))

    visit(yaml.compose(text, Loader=yaml.SafeLoader), ())
    return found


class _TooMuch(yaml.MarkedYAMLError):
    """A file nests too deep, or has too many values."""


class _Loader(yaml.SafeLoader):
    """Composes nodes up to bounds: the parser itself recurses, and takes a second for 50 kB."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._path: list[str | int] = []
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node, which is at `index` (a key's node, or a number) of `parent`."""
        self._path.append(index.value if isinstance(index, yaml.ScalarNode) else index or 0)
        self._nodes += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        where = _key(tuple(map(_shortened, self._path[1:4])))
        if len(self._path) > MOST_LEVELS:
            text = f"{where}nests too deep: more than {MOST_LEVELS} levels"
            raise _TooMuch(problem=text, problem_mark=mark)
        if self._nodes > 2 * MOST_VALUES:  # keys count too
            text = f"{where}the file has more than {MOST_VALUES} values"
            raise _TooMuch(problem=text, problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._path.pop()
        return node


def _shortened(step: str | int) -> str | int:
    return step[:40] if isinstance(step, str) else step


def _composed(text: str, name: str) -> yaml.Node | None:
    """Return the root node of a YAML text, or None for an empty one. Raises ConfigError."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        kind = "" if isinstance(error, _TooMuch) else "not YAML: "
        raise ConfigError(f"{name}{line}: {kind}{error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = f", line {text[: error.position].count(chr(10)) + 1}"
        text = f"not YAML: {error.reason} ({error.character!r})"
        raise ConfigError(f"{name}{line}: {text}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not YAML: {error}") from error


def _plain(node: yaml.Node, name: str, path: validation.KeyPath) -> Any:
    """Return what a node holds; the keys of mappings are text as written, even `no` and `1`.

    Raises ConfigError for a tag that means nothing here, and for a value that its tag does not fit.
    """
    where = f"{_line(name, node)}: {_key(path)}"
    tag = node.tag.removeprefix(TAG)
    if tag not in TAGS[type(node)]:
        raise ConfigError(f"{where}the tag {node.tag!r} means nothing here; write it without")
    if isinstance(node, yaml.MappingNode):
        return {key.value: _plain(value, name, (*path, key.value)) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(value, name, (*path, n)) for n, value in enumerate(node.value)]
    if tag in ("str", "timestamp", "value"):
        if not node.value.isprintable():
            text = f"{node.value!r} holds characters that cannot be printed"
            raise ConfigError(f"{where}{text}; write it without them")
        return node.value
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, LookupError, TypeError, OverflowError):
        wanted = NOUNS[tag]
        raise ConfigError(f"{where}{node.value!r} is not {wanted} that can be read") from None
    finally:
        loader.dispose()


def _refuse_bombs(node: yaml.Node, name: str) -> None:
    """Refuse aliases that never end, or that write out to more than MOST_VALUES."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = MOST_VALUES + 1  # Of an alias to what it is within.
            children = node.value if isinstance(node, yaml.CollectionNode) else []
            pairs = isinstance(node, yaml.MappingNode)
            sizes[id(node)] = 1 + sum(size(child[1] if pairs else child) for child in children)
        if sizes[id(node)] > MOST_VALUES:
            raise ConfigError(
                f"{_line(name, node)}: holds itself or more than {MOST_VALUES} values; "
                "write it with fewer aliases"
            )
        return sizes[id(node)]

    size(node)


def _refuse_odd_keys(node: yaml.Node, name: str, path: validation.KeyPath) -> None:
    """Refuse keys that appear twice, that are no text, and YAML's merging of mappings."""
    if isinstance(node, yaml.SequenceNode):
        for index, element in enumerate(node.value):
            _refuse_odd_keys(element, name, (*path, index))
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or not key.value.isprintable():
            raise ConfigError(f"{_line(name, key)}: {_key(path)}a key must be text")
        if key.tag.removeprefix(TAG) not in TAGS[yaml.ScalarNode]:
            text = f"a key must be text, and {key.value!r} merges mappings or has a tag"
            raise ConfigError(f"{_line(name, key)}: {_key(path)}{text}; write it out")
        if key.value in seen:
            raise ConfigError(f"{_line(name, key)}: {_key(path)}{key.value!r} appears twice")
        seen.add(key.value)
        _refuse_odd_keys(value, name, (*path, key.value))


def _infinite(value: Any) -> validation.KeyPath | None:
    """Return the path of the first NaN or infinity, which no bound excludes."""
    if isinstance(value, float) and not math.isfinite(value):
        return ()
    if isinstance(value, dict | list):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            path = _infinite(inside)
            if path is not None:
                return (key, *path)
    return None


def _config_error(fault: validation.Fault, value: Any, node: yaml.Node, name: str) -> ConfigError:
    named = fault.name is not None
    path = (*fault.path, fault.name) if fault.name is not None else fault.path
    where = _line(name, _node_at(node, path))
    if named and fault.problem == "is missing":
        return ConfigError(f"{where}: {validation.dotted(path)} is missing")
    if fault.name is not None:
        known = fault.problem.removeprefix("expected one of ").split(", ")
        near = difflib.get_close_matches(fault.name[:100], known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        key = validation.dotted(path)
        return ConfigError(f"{where}: unknown key {key!r}; {fault.problem}{hint}")
    if fault.own_words:
        key = f"{validation.dotted(path)}: " if path else ""
        return ConfigError(f"{where}: {key}{fault.problem}")
    if not path:
        return ConfigError(f"{where}: the file {fault.problem}")
    found = validation.value_at(value, path)
    return ConfigError(f"{where}: {validation.dotted(path)}: {found!r} {fault.problem}")


def _node_at(node: yaml.Node, path: validation.KeyPath) -> yaml.Node:
    """Return the deepest node on `path`; for the last key of a mapping, the key itself."""
    for depth, step in enumerate(path):
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(step)), None)
            if pair is None:
                return node
            node = pair[0] if depth == len(path) - 1 else pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
        else:
            return node
    return node


def _line(name: str, node: yaml.Node) -> str:
    return f"{name}, line {node.start_mark.line + 1}"


def _key(path: validation.KeyPath) -> str:
    return f"{validation.dotted(path)}: " if path else ""

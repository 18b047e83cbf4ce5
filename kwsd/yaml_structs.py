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
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return kind()
        _refuse_bombs(node, name)
        _refuse_duplicates(node, name, ())
        value = _plain(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{name}: nests too deep") from None
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


def _plain(node: yaml.Node) -> Any:
    """Return what a node holds; the keys of mappings are text as written, even `no` and `1`."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(element) for element in node.value]
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
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


def _refuse_duplicates(node: yaml.Node, name: str, path: validation.KeyPath) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, element in enumerate(node.value):
            _refuse_duplicates(element, name, (*path, index))
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{_line(name, key)}: {_key(path)}a key must be text")
        if key.value in seen:
            raise ConfigError(f"{_line(name, key)}: {_key(path)}{key.value!r} appears twice")
        seen.add(key.value)
        _refuse_duplicates(value, name, (*path, key.value))


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
    path = (*fault.path, fault.name) if fault.name else fault.path
    where = _line(name, _node_at(node, path))
    if fault.name and fault.problem == "is missing":
        return ConfigError(f"{where}: {validation.dotted(path)} is missing")
    if fault.name:
        known = fault.problem.removeprefix("expected one of ").split(", ")
        near = difflib.get_close_matches(fault.name, known, 1)
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

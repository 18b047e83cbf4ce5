"""Plain sentences for what msgspec refuses, and JSON Schemas that carry the docstrings.

The protocol and the configuration declare their types once, as msgspec structs. This module turns
the errors of decoding into the path of the fault and a sentence that names what is expected, and
the types into a JSON Schema.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect as types

KeyPath = tuple[str | int, ...]
"""Keys and indices from the root to a value."""


class Fault(NamedTuple):
    """One thing that is wrong with a value."""

    path: KeyPath
    problem: str
    """What is wrong there: `is not a number between 1 and 60`, `is missing`."""
    name: str | None = None
    """The field that is missing or unknown."""
    own_words: bool = False
    """Whether `problem` is a sentence of the type's own, which names the value."""


def explain(error: msgspec.ValidationError, kind: object, value: object) -> Fault:
    """Return where `value` does not fit the type `kind`, and what was expected there.

    `error` is what msgspec raised for `value`, plain data as JSON or YAML gives it.
    """
    text, _, where = str(error).partition(" - at `")
    root = types.type_info(kind)
    path = _path(where.rstrip("`"), value, root)
    expected = type_at(root, path, value)
    if found := re.fullmatch(r"Object missing required field `(\w+)`", text):
        return Fault(path, "is missing", found.group(1))
    if found := re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL):
        fields = expected.fields if isinstance(expected, types.StructType) else ()
        return Fault(
            path, f"expected one of {', '.join(f.encode_name for f in fields)}", found.group(1)
        )
    if "base64" in text:
        return Fault(path, "is not base64")
    if expected is None or not text.startswith(("Expected", "Invalid", "Number")):
        return Fault(path, text, own_words=True)
    given = value_at(value, path)
    if isinstance(given, str) and not given.strip():
        return Fault(path, f"is blank; write {describe(expected)}")
    return Fault(path, f"is not {describe(expected)}")


def value_at(value: object, path: KeyPath) -> object:
    """Return what lies at `path` in plain data, or None where nothing does."""
    for key in path:
        try:
            value = value[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def dotted(path: KeyPath) -> str:
    """Return `path` as people write it: `words.computer.threshold`, `types[0]`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def describe(kind: types.Type) -> str:
    """Return what a type accepts, in words: `a number between 0 and 60`, `'mix' or null`."""
    match kind:
        case types.UnionType():
            return _joined([word for one in kind.types for word in _choices(one)])
        case types.LiteralType():
            return _joined(_choices(kind))
        case types.FloatType() | types.IntType():
            noun = "a number" if isinstance(kind, types.FloatType) else "a whole number"
            return noun + _bounds(kind)
        case types.StrType():
            return "text" + (f" of at most {kind.max_length} characters" if kind.max_length else "")
        case types.BoolType():
            return "true or false"
        case types.NoneType():
            return "null"
        case types.ListType() | types.VarTupleType():
            least = f" of at least {kind.min_length}" if kind.min_length else ""
            most = f" of at most {kind.max_length}" if kind.max_length else ""
            return f"a list{least}{most}: {describe(kind.item_type)}"
        case types.DictType():
            return "a mapping of names" + (" with at least one entry" if kind.min_length else "")
        case types.StructType() | types.DataclassType():
            return "a mapping of keys to values"
        case types.BytesType():
            return "base64"
    return "what is expected here"


def _choices(kind: types.Type) -> list[str]:
    if isinstance(kind, types.LiteralType):
        return [repr(value) for value in kind.values]
    return [describe(kind)]


def _joined(words: list[str]) -> str:
    if len(words) < 3:
        return " or ".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def type_at(kind: types.Type, path: KeyPath, value: object) -> types.Type | None:
    """Return the type that is expected at `path` of a value of type `kind`."""
    kind = _alternative(kind, value)
    if not path:
        return kind
    inside: types.Type | None = None
    match kind:
        case types.StructType() | types.DataclassType():
            inside = next((f.type for f in kind.fields if f.encode_name == path[0]), None)
            if inside is None and getattr(kind, "tag_field", None) == path[0]:
                return types.StrType()
        case types.DictType():
            inside = kind.value_type
        case types.ListType() | types.VarTupleType():
            inside = kind.item_type
    if inside is None:
        return None
    return type_at(inside, path[1:], value_at(value, path[:1]))


def _alternative(kind: types.Type, value: object) -> types.Type:
    """Return the member of a union that `value` can only mean, else the union itself."""
    if not isinstance(kind, types.UnionType):
        return kind
    structs = [one for one in kind.types if isinstance(one, types.StructType)]
    if isinstance(value, dict) and structs:
        tagged = [s for s in structs if s.tag_field and value.get(s.tag_field) == s.tag]
        return (tagged or structs)[0] if tagged or len(structs) == 1 else kind
    if isinstance(value, list):
        return next((one for one in kind.types if isinstance(one, types.ListType)), kind)
    return kind


def _path(where: str, value: object, root: types.Type) -> KeyPath:
    """Parse msgspec's `$.words[...].threshold`; `[...]` is a key or index it does not name."""
    path: list[str | int] = []
    steps = re.findall(r"\.([^.\[]+)|\[(\d+)\]|(\[\.\.\.\])", where)
    for name, index, unnamed in steps:
        if unnamed:
            container = value_at(value, tuple(path))
            element = type_at(root, tuple(path), value)
            path.append(_culprit(container, element))
        else:
            path.append(name or int(index))
    return tuple(path)


def _culprit(container: object, kind: types.Type | None) -> str | int:
    """Return the key of the first entry of `container` that does not fit."""
    if isinstance(container, dict) and isinstance(kind, types.DictType):
        for key, entry in container.items():
            try:
                msgspec.convert(entry, python_type(kind.value_type))
            except msgspec.ValidationError:
                return str(key)
    return "..."


def python_type(kind: types.Type) -> Any:
    """Return the Python type that a described struct, dataclass or simple type stands for."""
    match kind:
        case types.StructType() | types.DataclassType():
            return kind.cls
        case types.IntType():
            return int
        case types.FloatType():
            return float
        case types.StrType():
            return str
        case types.BoolType():
            return bool
        case types.ListType():
            return list[python_type(kind.item_type)]  # type: ignore[misc]
        case types.DictType():
            return dict[str, python_type(kind.value_type)]  # type: ignore[misc]
    return Any


def _bounds(kind: types.FloatType | types.IntType) -> str:
    match kind.gt, kind.ge, kind.lt, kind.le:
        case None, None, None, None:
            return ""
        case None, ge, None, le if ge is not None and le is not None:
            return f" between {ge:g} and {le:g}"
        case gt, None, lt, None if gt is not None and lt is not None:
            return f" above {gt:g} and below {lt:g}"
        case gt, ge, lt, le:
            words = (("above", gt), ("of at least", ge), ("below", lt), ("at most", le))
            return " " + " and ".join(
                f"{word} {bound:g}" for word, bound in words if bound is not None
            )


def json_schema(kinds: Sequence[type]) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the JSON Schemas (draft 2020-12) of `kinds` and their shared definitions.

    Attribute docstrings become descriptions.
    """
    schemas, definitions = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    described: dict[str, type] = {}
    for kind in kinds:
        _structs(types.type_info(kind), described)
    for name, struct in described.items():
        properties = definitions.get(name, {}).get("properties", {})
        for attribute, text in attribute_docs(struct).items():
            if attribute in properties:
                properties[attribute]["description"] = text
    return list(schemas), definitions


def _structs(kind: types.Type, found: dict[str, type]) -> None:
    match kind:
        case types.StructType() if kind.cls.__name__ not in found:
            found[kind.cls.__name__] = kind.cls
            for each in kind.fields:
                _structs(each.type, found)
        case types.UnionType():
            for one in kind.types:
                _structs(one, found)
        case types.DictType():
            _structs(kind.value_type, found)
        case types.ListType() | types.VarTupleType():
            _structs(kind.item_type, found)


def attribute_docs(kind: type) -> dict[str, str]:
    """Return the docstring below each attribute of a class and of its bases, on one line each."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        if base.__module__.split(".")[0] != "kwsd":
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, after in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docs[line.target.id] = " ".join(str(after.value.value).split())
    return docs

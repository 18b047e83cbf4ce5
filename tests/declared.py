"""Values made from a declaration (msgspec's description of a type): valid ones, and wrong ones."""

from __future__ import annotations

import copy
import string
from collections.abc import Iterator
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect as types

Path = tuple[str | int, ...]
LONGEST = 6
"""Characters, bytes and elements of a value that is drawn."""


def values(kind: types.Type) -> st.SearchStrategy[Any]:
    """Return a strategy of valid values of a type, structs as structs."""
    match kind:
        case types.StructType():
            fields = {
                f.name: values(f.type)
                for f in kind.fields
                if not (kind.tag_field and f.name == "id")
            }
            return st.builds(kind.cls, **fields)
        case types.UnionType():
            return st.one_of([values(one) for one in kind.types])
        case types.LiteralType():
            return st.sampled_from(kind.values)
        case types.NoneType():
            return st.none()
        case types.BoolType():
            return st.booleans()
        case types.IntType():
            least = -(2**53) if kind.ge is None else kind.ge
            return st.integers(least, 2**53 if kind.le is None else kind.le)
        case types.FloatType():
            return st.floats(
                kind.gt if kind.ge is None else kind.ge,
                kind.lt if kind.le is None else kind.le,
                exclude_min=kind.gt is not None,
                exclude_max=kind.lt is not None,
                allow_nan=False,
                allow_infinity=False,
            )
        case types.StrType():
            return st.text(max_size=LONGEST)
        case types.BytesType():
            return st.binary(max_size=LONGEST)
        case types.ListType():
            return st.lists(values(kind.item_type), max_size=LONGEST)
        case types.VarTupleType():
            return st.lists(values(kind.item_type), max_size=LONGEST).map(tuple)
        case types.TupleType():
            return st.tuples(*(values(one) for one in kind.item_types))
        case types.DictType():
            keys = values(kind.key_type)
            return st.dictionaries(keys, values(kind.value_type), max_size=LONGEST)
    raise NotImplementedError(kind)


def example(kind: types.Type) -> Any:
    """Return a valid value of a type as JSON has it, with every field and one of each element."""
    match kind:
        case types.StructType():
            body = {
                f.encode_name: example(f.type)
                for f in kind.fields
                if not (kind.tag_field and f.name == "id")
            }
            return {kind.tag_field: kind.tag, **body} if kind.tag_field else body
        case types.UnionType():
            return example(given(kind))
        case types.LiteralType():
            return kind.values[0]
        case types.BoolType():
            return True
        case types.IntType():
            return max(kind.ge or 0, 3)
        case types.FloatType():
            upper = next((bound for bound in (kind.le, kind.lt) if bound is not None), 4.0)
            return upper / 2
        case types.StrType():
            return "name"
        case types.BytesType():
            return "AAAA"
        case types.ListType():
            return [example(kind.item_type)]
        case types.DictType():
            return {"key": example(kind.value_type)}
    raise NotImplementedError(kind)


def given(kind: types.UnionType) -> types.Type:
    """Return what an optional field holds where it is given."""
    (some,) = [one for one in kind.types if not isinstance(one, types.NoneType)]
    return some


def inside(kind: types.Type, path: Path = ()) -> Iterator[tuple[Path, types.Type, bool]]:
    """Yield the path and type of everything in the example of a type, and whether it must be there.

    The type of an optional field is the union with null.
    """
    if isinstance(kind, types.UnionType):
        kind = given(kind)
    match kind:
        case types.StructType():
            for field in kind.fields:
                if not (kind.tag_field and field.name == "id"):
                    at = (*path, field.encode_name)
                    yield at, field.type, field.required
                    yield from inside(field.type, at)
        case types.ListType():
            yield (*path, 0), kind.item_type, False
            yield from inside(kind.item_type, (*path, 0))
        case types.DictType():
            yield (*path, "key"), kind.value_type, False
            yield from inside(kind.value_type, (*path, "key"))


def wrong_values(kind: types.Type) -> Iterator[object]:
    """Yield a value of every kind of JSON that a type does not accept, and some out of bounds."""
    of_kind: dict[str, object] = {
        "null": None,
        "bool": True,
        "int": 7,
        "float": 7.5,
        "text": "%%%",
        "list": [[]],
        "object": {"odd": 1},
    }
    parts = kind.types if isinstance(kind, types.UnionType) else (kind,)
    accepted = set().union(*(_json_kinds(part) for part in parts))
    yield from (value for name, value in of_kind.items() if name not in accepted)
    for part in parts:
        yield from _out_of_bounds(part)


def wrong_requests(kind: type[msgspec.Struct]) -> Iterator[tuple[Path, object, Any]]:
    """Yield a request of type `kind` for each of its fields and each wrong value: the path of the
    field, the value, and the request as JSON has it.

    A null at the top is left out: it counts as missing.
    """
    described = types.type_info(kind)
    body = {"id": "mine", **example(described)}
    for path, inner, _ in inside(described):
        for wrong in wrong_values(inner):
            if wrong is not None or len(path) > 1:
                yield path, wrong, changed(body, path, wrong)


def _json_kinds(kind: types.Type) -> set[str]:
    match kind:
        case types.NoneType():
            return {"null"}
        case types.BoolType():
            return {"bool"}
        case types.IntType():
            return {"int"}
        case types.FloatType():
            return {"int", "float"}
        case types.StrType():
            return {"text"}
        case types.ListType():
            return {"list"}
        case types.DictType() | types.StructType():
            return {"object"}
    return set()  # a Literal and base64 accept some text, and not this


def _out_of_bounds(kind: types.Type) -> Iterator[object]:
    match kind:
        case types.IntType() | types.FloatType():
            yield from (bound for bound in (kind.gt, kind.lt) if bound is not None)
            yield from (bound - 1 for bound in (kind.ge,) if bound is not None)
            yield from (bound + 1 for bound in (kind.le,) if bound is not None)
        case types.StrType() if kind.max_length is not None:
            yield string.ascii_letters[0] * (kind.max_length + 1)
        case types.ListType() if kind.max_length is not None:
            yield [example(kind.item_type)] * (kind.max_length + 1)


def changed(body: object, path: Path, value: object) -> Any:
    """Return a copy of JSON data with another value at `path`."""
    whole = copy.deepcopy(body)
    _container(whole, path)[path[-1]] = value
    return whole


def without(body: object, path: Path) -> Any:
    """Return a copy of JSON data without what is at `path`."""
    whole = copy.deepcopy(body)
    del _container(whole, path)[path[-1]]
    return whole


def _container(whole: Any, path: Path) -> Any:
    for key in path[:-1]:
        whole = whole[key]
    return whole


def line(body: object) -> bytes:
    """Return a line of JSON."""
    return msgspec.json.encode(body)

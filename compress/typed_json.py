"""JSON files as dataclasses: every value is checked against the annotation of its field."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from compress.errors import UserError, one_line

REMEDY = "restore the file, or run the recipe again"
MAX_INTEGER = 2**63  # larger integers cannot be converted to float without risk of overflow

T = TypeVar("T")
AnyFloat = Annotated[float, "NaN and infinity too"]

_hints = cache(get_type_hints)


class Mismatch(ValueError):
    """A value (or `absent`) is not of the annotated type. `field` is its path, such as `checks[2].limit`, or "" for the
    whole object; `expected` is e.g. "a number"."""

    def __init__(self, field: str, value: str, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        super().__init__(f"{field}={value}: expected {expected}")


def read(kind: type[T], path: Path, remedy: str = REMEDY) -> T:
    """The content of a JSON file as an instance of the dataclass `kind`. Raises UserError, which names the file and the
    field, if the file cannot be read, is not JSON, or has a missing or wrong field."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), "unreadable", f"{one_line(error)}: {remedy}") from error
    return parse(kind, text, str(path), remedy)


def parse(kind: type[T], text: str, name: str, remedy: str = REMEDY) -> T:
    """`read` of a text; errors call it `name`."""
    try:
        return decode(kind, json.loads(text))
    except Mismatch as error:
        key = f"{name}: {error.field}" if error.field else name
        raise UserError(key, error.value, f"expected {error.expected}: {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(name, "unreadable", f"not JSON ({one_line(error)}): {remedy}") from error


def decode(kind: Any, value: Any, field: str = "") -> Any:
    """A parsed JSON value as the annotated type `kind`: a dataclass, `X | None`, `tuple[X, ...]`, `tuple[X, Y]`,
    `Mapping[str, X]`, an enumeration of strings, bool, int, float or str. Only an `AnyFloat` may be NaN or
    infinite. Fields that a dataclass does not have are ignored, since newer versions add some; absent ones have their
    default.

    Raises:
        Mismatch: the value is of another type, or a field without a default is absent.
    """
    if kind in _SCALARS:
        accepts, expected = _SCALARS[kind]
        _check(accepts(value), field, value, expected)
        return value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None:
            return None
        try:
            return decode(arguments[0], value, field)
        except Mismatch as error:
            raise Mismatch(error.field, error.value, error.expected + " or null" * (error.field == field)) from None
    if is_dataclass(kind):
        return _decode_object(kind, value, field)
    if origin is Mapping:
        _check(isinstance(value, dict), field, value, "an object")
        return {key: decode(arguments[1], each, f"{field}[{key!r:.60}]") for key, each in value.items()}
    if origin is tuple:
        _check(isinstance(value, list), field, value, "a list")
        kinds = arguments[:1] * len(value) if Ellipsis in arguments else arguments
        _check(len(value) == len(kinds), field, value, f"a list of {len(kinds)}")
        return tuple(decode(each, entry, f"{field}[{i}]") for i, (each, entry) in enumerate(zip(kinds, value)))
    _check(value in list(kind), field, value, f"one of {', '.join(kind)}")
    return kind(value)


def _decode_object(kind: Any, value: Any, field: str) -> Any:
    _check(isinstance(value, dict), field, value, "an object")
    prefix, hints = f"{field}." if field else "", _hints(kind, include_extras=True)
    for each in fields(kind):
        if each.name not in value and each.default is MISSING and each.default_factory is MISSING:
            raise Mismatch(prefix + each.name, "absent", "a value")
    known = [each.name for each in fields(kind) if each.name in value]
    return kind(**{name: decode(hints[name], value[name], prefix + name) for name in known})


def _check(good: bool, field: str, value: Any, expected: str) -> None:
    if not good:
        raise Mismatch(field, one_line(json.dumps(value))[:40], expected)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_INTEGER


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


_SCALARS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (_is_integer, "an integer"),
    float: (_is_number, "a number"),
    AnyFloat: (lambda value: isinstance(value, float) or _is_number(value), "a number"),
    str: (lambda value: isinstance(value, str), "a string"),
}

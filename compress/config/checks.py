"""Checks of configuration values. Each raises UserError with the key, the value and a remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields

from compress.errors import UserError

MAX_OPSET = 20
MOST = 2**32  # upper limit of counts: a larger number is a typing error


def check(condition: bool, key: str, value: object, remedy: str) -> None:
    if not condition:
        raise UserError(key, value, remedy)


def check_each(
    part: object, key: str, names: Sequence[str], remedy: str, good: Callable[[float], bool] | None = None
) -> None:
    """Checks several numbers of a dataclass with one rule, by default that they are positive. None passes."""
    for name in names:
        value = getattr(part, name)
        passes = value is None or (good(value) if good else 0 < value < math.inf)
        check(passes, f"{key}.{name}", value, remedy)


def check_drop(key: str, value: float) -> None:
    check(-1 < value < 1, key, value, "accuracies are fractions: set 0.01 for one point of a hundred")


def check_opset(key: str, value: int) -> None:
    limit = f"set 11 to {MAX_OPSET}: static quantization and torch's exporter end at {MAX_OPSET}"
    check(11 <= value <= MAX_OPSET, key, value, limit)


def check_names(key: str, names: Sequence[str]) -> None:
    good = all(name and name.strip() for name in names) and len(set(names)) == len(names)
    check(good, key, names, "name each once, and none that is empty")


def check_list(key: str, values: object, remedy: str) -> None:
    """Raises UserError if `values` is not a list of positive, finite numbers."""
    good = isinstance(values, list) and all(type(each) in (int, float) and 0 < each < math.inf for each in values)
    check(good and bool(values), key, values, remedy)


def check_plain(part: object, key: str) -> None:
    """Raises UserError for an empty string, a number that is not finite, or a count above MOST in a dataclass."""
    for each in fields(part):  # type: ignore[arg-type]
        name, value = f"{key}.{each.name}".lstrip("."), getattr(part, each.name)
        if isinstance(value, str):
            blank = " or null" if "None" in str(each.type) else ""
            check(bool(value.strip()) or each.default == "", name, repr(value), f"it is empty: set a text{blank}")
        elif isinstance(value, int):
            check(abs(value) <= MOST, name, value, f"set at most {MOST}")
        elif isinstance(value, float):
            check(math.isfinite(value), name, value, "set a finite number")

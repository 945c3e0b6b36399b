from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from compress.config.checks import MAX_OPSET, MOST, check_drop, check_names, check_opset, check_plain
from compress.errors import UserError


@dataclass
class Part:
    text: str = "x"
    optional: str | None = None
    blank: str = ""  # empty by default, so empty is a value
    count: int = 1
    rate: float = 0.5
    flag: bool = True


@pytest.mark.parametrize(
    "values", [{}, {"optional": "y", "blank": "z"}, {"count": MOST}, {"count": -MOST, "rate": -1e300, "flag": False}]
)
def test_good_values_pass(values: dict[str, Any]) -> None:
    check_plain(Part(**values), "part")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "  "}, "part.text='  ': it is empty: set a text"),
        ({"optional": ""}, "part.optional='': it is empty: set a text or null"),
        ({"count": MOST + 1}, f"part.count={MOST + 1}: set at most {MOST}"),
        ({"rate": math.nan}, "part.rate=nan: set a finite number"),
        ({"rate": -math.inf}, "part.rate=-inf: set a finite number"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_plain(Part(**values), "part")
    assert str(caught.value) == message


def test_opsets_end_where_static_quantization_does() -> None:
    check_opset("export.opset", 11)
    check_opset("export.opset", MAX_OPSET)
    for opset in (10, MAX_OPSET + 1):
        with pytest.raises(UserError, match="set 11 to 20"):
            check_opset("export.opset", opset)


def test_a_drop_is_a_fraction_and_may_be_negative() -> None:
    check_drop("budget.max_accuracy_drop", -0.5)
    for drop in (1.0, -1.0, 2.0, math.nan):
        with pytest.raises(UserError, match="accuracies are fractions"):
            check_drop("budget.max_accuracy_drop", drop)


@pytest.mark.parametrize("names", [["a", "a"], ["a", ""], [" "]])
def test_names_are_not_empty_and_not_repeated(names: list[str]) -> None:
    check_names("targets", ["a", "b"])
    check_names("targets", [])
    with pytest.raises(UserError, match="name each once"):
        check_names("targets", names)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from compress.errors import UserError
from compress.typed_json import AnyFloat, Mismatch, decode, read


class Colour(StrEnum):
    red = "red"
    blue = "blue"


@dataclass(frozen=True)
class Leaf:
    size: float
    note: str | None = None


@dataclass(frozen=True)
class Tree:
    count: int
    dead: bool
    leaf: Leaf | None = None
    pair: tuple[float, float] | None = None
    names: tuple[str, ...] = ()
    leaves: Mapping[str, Leaf] = field(default_factory=dict)
    colour: Colour = Colour.red
    ratio: AnyFloat | None = None


LEAST = {"count": 1, "dead": False}


def test_objects_become_dataclasses() -> None:
    given = {"leaf": {"size": 1}, "pair": [1, 2.5], "names": ["a"], "leaves": {"x": {"size": 2.0, "note": None}}}
    tree = Tree(1, False, Leaf(1), (1, 2.5), ("a",), {"x": Leaf(2.0)}, Colour.blue)
    decoded = decode(Tree, {**LEAST, **given, "colour": "blue", "of_tomorrow": 1})
    assert decoded == tree and decoded.colour is Colour.blue
    assert decode(Tree, {**LEAST, "leaf": None}) == Tree(1, False)
    assert decode(Tree, {**LEAST, "ratio": float("inf")}).ratio == float("inf")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"count": 1.0}, "count=1.0: expected an integer"),
        ({"count": True}, "count=true: expected an integer"),
        ({"count": 2**70}, "count=1180591620717411303424: expected an integer"),
        ({"dead": 0}, "dead=0: expected true or false"),
        ({"leaf": {}}, "leaf.size=absent: expected a value"),
        ({"leaf": {"size": float("inf")}}, "leaf.size=Infinity: expected a number"),
        ({"leaf": {"size": 1, "note": 2}}, "leaf.note=2: expected a string or null"),
        ({"leaf": []}, "leaf=[]: expected an object or null"),
        ({"pair": [1]}, "pair=[1]: expected a list of 2 or null"),
        ({"pair": ["a", 1]}, 'pair[0]="a": expected a number'),
        ({"names": "a"}, 'names="a": expected a list'),
        ({"leaves": {"x": {"size": None}}}, "leaves['x'].size=null: expected a number"),
        ({"ratio": "1"}, 'ratio="1": expected a number or null'),
        ({"colour": "green"}, 'colour="green": expected one of red, blue'),
    ],
)
def test_a_wrong_value_is_named(damage: dict[str, Any], message: str) -> None:
    with pytest.raises(Mismatch) as caught:
        decode(Tree, {**LEAST, **damage})
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["", "{", "[]", "\0", '{"count": 1' + "0" * 5000, '{"leaf":' * 10**5, "\xff"])
def test_a_damaged_file_is_one_line_that_names_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tree.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        read(Tree, path, "plant another")
    error = str(caught.value)
    assert error.startswith(f"{path}") and error.endswith(": plant another") and error.isprintable()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tree.json=unreadable"):
        read(Tree, tmp_path / "tree.json")

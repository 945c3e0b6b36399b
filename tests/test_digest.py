from __future__ import annotations

from pathlib import Path

from compress.digest import digest


def test_key_order_does_not_matter_and_values_do() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len({digest(value) for value in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": [1]}, {"a": "1"}, None)}) == 6


def test_it_is_the_sha_256_of_the_json_text() -> None:
    # printf '{"a": 1}' | sha256sum
    assert digest({"a": 1}) == "f9d86028c6e0d64e225186f96acb69338b2c59764df79162107f5c4bb34d1310"


def test_other_types_count_as_their_text() -> None:
    assert digest(Path("x/y")) == digest("x/y")

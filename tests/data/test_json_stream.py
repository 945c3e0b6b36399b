"""Reading the lists of a JSON object item by item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.data import json_stream

CONTENT = {
    "info": {"annotations": [1], "text": 'a "quoted" [ text }'},
    "images": [{"id": 1, "name": "Ähre 麦"}, 12345, 1.5e-3, "x", None, [], {}],
    "annotations": [],
    "licenses": [[["deep"]]],
    "categories": [{"id": 12345678}],
}
KEYS = frozenset({"images", "annotations", "categories"})


def read(path: Path) -> list[tuple[str, Any]]:
    return list(json_stream.items(path, KEYS))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 4096])
@pytest.mark.parametrize("indent", [None, 2])
def test_items_are_those_of_json_at_any_border_of_chunks(
    chunk: int, indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    text = json.dumps(CONTENT, indent=indent, ensure_ascii=False)
    (tmp_path / "a.json").write_text(f"\ufeff {text}\n", encoding="utf-8")
    expected = [(key, item) for key in CONTENT if key in KEYS for item in CONTENT[key]]
    assert read(tmp_path / "a.json") == expected


def test_a_value_that_is_no_list_is_an_item(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": 12, "annotations": {"id": 3}}')
    assert read(tmp_path / "a.json") == [("images", 12), ("annotations", {"id": 3})]
    (tmp_path / "a.json").write_text("{}")
    assert read(tmp_path / "a.json") == []


@pytest.mark.parametrize(
    "text",
    ["", "[]", "12", '"text"', "{",
     '{"images"', '{"images": [', '{"images": [1', '{"images": [1,]}', '{"images": [1 2]}',
     '{"images": [1]', '{"images": [1]} x', '{"images": [1]}, {}', "{1: 2}", '{"images": [tru]}', '{"a": "b\n"}',
     '{"images": [{"id": 1}, {"id":', "\x00", "{'images': []}"],
)  # fmt: skip
@pytest.mark.parametrize("chunk", [1, 4096])
def test_broken_text_is_a_value_error(text: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="character"):
        read(tmp_path / "a.json")


def test_the_place_of_a_fault_is_counted_from_the_start_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 8)
    text = json.dumps({"images": [{"id": number} for number in range(20)]})
    (tmp_path / "a.json").write_text(text[:100] + "?" + text[100:])
    with pytest.raises(ValueError, match="character 100:"):
        read(tmp_path / "a.json")


def test_bytes_that_are_no_text_and_nesting(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"images": ["\xff"]}')
    with pytest.raises(UnicodeDecodeError):
        read(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"images": [' + "[" * 10**6)
    with pytest.raises(RecursionError):
        read(tmp_path / "a.json")

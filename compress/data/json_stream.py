"""Reads the lists of a large JSON object item by item, so that a file of 500 MB needs little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

CHUNK = 2**22  # characters
SPACE = " \t\n\r"
BORDERS = frozenset(SPACE + ",:]}")  # what may follow a value


def items(path: Path, keys: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yields (key, item) for each item of the lists `keys` of the object in a file, and (key, value) of no list.

    Values of other keys are parsed and dropped; one at a time has to fit into memory.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a JSON object, or it has text behind the object. (UnicodeDecodeError is a ValueError.)
        RecursionError: its values are nested too deeply.
    """
    with open(path, encoding="utf-8-sig") as file:
        yield from _Reader(file).items(keys)


class _Reader:
    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text, self._at, self._read = "", 0, 0  # buffer, position in it, characters before it
        self._decode = json.JSONDecoder().raw_decode

    def items(self, keys: frozenset[str]) -> Iterator[tuple[str, Any]]:
        self._expect("{")
        if self._skip("}"):
            return self._end()
        while True:
            key = self._value()
            if not isinstance(key, str):
                raise ValueError(f"character {self._read + self._at}: a key must be a string")
            self._expect(":")
            if key in keys and self._skip("["):
                if not self._skip("]"):
                    yield key, self._value()
                    while self._skip(","):
                        yield key, self._value()
                    self._expect("]")
            else:
                value = self._value()
                if key in keys:
                    yield key, value
            if not self._skip(","):
                self._expect("}")
                return self._end()

    def _end(self) -> None:
        if self._peek():
            raise ValueError(f"character {self._read + self._at}: text behind the object")

    def _peek(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _skip(self, character: str) -> bool:
        found = self._peek() == character
        self._at += found
        return found

    def _expect(self, character: str) -> None:
        if not self._skip(character):
            found = self._peek() or "the end of the file"
            raise ValueError(f"character {self._read + self._at}: expected {character}, found {found}")

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                if self._text[end : end + 1] in BORDERS:  # else a number may continue in the next chunk
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                if not self._more():
                    raise ValueError(f"character {self._read + error.pos}: {error.msg}") from None
            else:
                if not self._more():
                    self._at = end
                    return value

    def _more(self) -> bool:
        """Drops what is read and appends as much as is left, at least a chunk, so that long values take linear time."""
        rest = self._text[self._at :]
        chunk = self._file.read(max(CHUNK, len(rest)))
        self._read, self._text, self._at = self._read + self._at, rest + chunk, 0
        return bool(chunk)

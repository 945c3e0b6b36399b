from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compress import user_code
from compress.errors import UserError

MODULE = """
class Takes:
    def __init__(self, size=1):
        if size < 0:
            raise ValueError("size is\\nnegative")
        self.size = size

def make(size):
    return ["made", size]

def leave():
    raise SystemExit(3)

class Callable:
    def __call__(self):
        raise AssertionError("an instance is not called")

instance = Callable()
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_objects.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("raise RuntimeError('at import')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_objects", "own_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def load(path: str, **args: object) -> object:
    return user_code.load("data.target", path, args, "a data set")


def test_classes_and_functions_are_called_and_instances_are_not() -> None:
    assert getattr(load("own_objects.Takes", size=3), "size") == 3  # noqa: B009  (the type is the user's)
    assert load("own_objects.make", size=2) == ["made", 2]
    assert type(load("own_objects.instance")).__name__ == "Callable"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_objects.Absent", "cannot be imported"),
        ("own_absent.Thing", "cannot be imported"),
        ("no_dot", "cannot be imported"),
        ("os.getcwd", "is part of Python itself: name a data set"),
        ("own_broken.Thing", "importing own_broken raised RuntimeError: at import"),
        ("own_objects.leave", "raised SystemExit: 3; expected a data set"),
        ("own_objects.make", "raised TypeError"),
    ],
)
def test_what_cannot_be_loaded_is_one_error(path: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(path)
    assert (caught.value.key, caught.value.value) == ("data.target", path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_error_of_several_lines_becomes_one() -> None:
    with pytest.raises(UserError, match="raised ValueError: size is negative; expected a data set"):
        load("own_objects.Takes", size=-1)

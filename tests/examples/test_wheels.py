from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from compress.errors import UserError
from compress.examples import wheels
from compress.examples.wheels import Wheel, read_members


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A wheel that pip's stand-in hands over."""
    file = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("thing/data.bin", b"content")

    def pip(command: list[str], **options: Any) -> None:
        assert "thing==1.0" in command and "--no-deps" in command and "--only-binary=:all:" in command
        folder = Path(command[command.index("--dest") + 1])
        (folder / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(wheels.subprocess, "run", pip)
    return Wheel("thing", "1.0", hashlib.sha256(file.read_bytes()).hexdigest())


def test_members_are_read(wheel: Wheel) -> None:
    assert read_members(wheel, {"x": "thing/data.bin"}) == {"x": b"content"}


def test_another_wheel_than_the_pinned_one_is_refused(wheel: Wheel) -> None:
    with pytest.raises(UserError, match="not the pinned 000"):
        read_members(Wheel("thing", "1.0", "000"), {"x": "thing/data.bin"})


def test_what_pip_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **options: Any) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="Looking\nERROR: No matching distribution\n")

    monkeypatch.setattr(wheels.subprocess, "run", pip)
    with pytest.raises(UserError, match=r"gone==2\.0.*No matching distribution"):
        read_members(Wheel("gone", "2.0", ""), {})

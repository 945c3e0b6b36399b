"""The command `compress devices`."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.devices import measured
from compress.devices.command import main
from tests.devices.test_microbenchmark import write


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(measured.FOLDER, str(tmp_path / "devices"))
    return tmp_path / "devices"


def test_measurements_are_added_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", str(write(tmp_path)), "--device", "raspberry_pi_5"]) == 0
    [path] = measured.files("raspberry_pi_5")
    assert main(["list"]) == 0
    assert "a microbenchmark of 20 networks" in (text := capsys.readouterr().out) and path.name in text
    assert main(["remove", "raspberry_pi_5", "other.json"]) == 2 and path.is_file()
    assert "no such measurement" in capsys.readouterr().err
    assert main(["remove", "raspberry_pi_5"]) == 0 and not path.exists()


def test_a_wrong_file_is_an_error(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", str(tmp_path / "missing.json")]) == 2
    assert "missing.json" in capsys.readouterr().err and not folder.exists()

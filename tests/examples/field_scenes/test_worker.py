from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.examples.field_scenes import worker


def folders(root: Path) -> str:
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    return str(root)


def test_a_worker_draws_every_nth_scene_and_reports_each(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    worker.main(folders(tmp_path), "train", "7", "32", "1", "3")
    assert sorted(path.name for path in (tmp_path / "images/train").iterdir()) == ["000001.jpg", "000004.jpg"]
    assert capfd.readouterr().out == "null\nnull\n"


def test_a_worker_stops_at_its_first_error_and_says_which(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = folders(tmp_path)
    (tmp_path / "labels/train").rmdir()
    worker.main(folder, "train", "4", "32", "0", "1")
    [line] = capfd.readouterr().out.splitlines()
    number, text, path = json.loads(line)
    assert (number, text) == (2, "No such file or directory") and path.endswith("000000.txt")

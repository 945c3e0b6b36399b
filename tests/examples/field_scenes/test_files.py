"""Scenes drawn by several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compress.examples.field_scenes import files


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_script_without_a_main_guard_draws_the_same_scenes(tmp_path: Path) -> None:
    for name in ("many", "one"):
        for kind in ("images", "labels"):
            (tmp_path / name / kind / "train").mkdir(parents=True)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom compress.examples.field_scenes.files import _write_scenes\nprint('started')\n"
        f"print(len(list(_write_scenes('image', Path({str(tmp_path / 'many')!r}), 'train', 5, 32, workers=2))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stdout == "started\n5\n" and "Error" not in done.stderr, done.stderr
    assert len(list(files._write_scenes("image", tmp_path / "one", "train", 5, 32, workers=1))) == 5
    assert contents(tmp_path / "many") == contents(tmp_path / "one") and len(contents(tmp_path / "one")) == 10


def test_a_worker_that_cannot_write_is_heard(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No such file or directory|cannot write"):
        list(files._write_scenes("image", tmp_path / "absent", "train", 64, 32, workers=2))


def test_a_worker_that_ends_early_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with exit status 1"):
        list(files._write_scenes("image", tmp_path, "no split", 64, 32, workers=2))

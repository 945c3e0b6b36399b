from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compress import config
from compress.config import compose
from compress.config.aliases import RENAMED

OLD = "prune.equal_halves"


def test_an_old_name_works_and_warns(caplog: pytest.LogCaptureFixture) -> None:
    for mark in ("", "+", "++"):
        if mark == "+":  # adds a key, and there is one
            continue
        assert compose(["recipe=drone_nano", f"{mark}{OLD}=true"]).prune.equal_split_widths
    assert f"{OLD} is now prune.equal_split_widths" in caplog.text


def test_a_run_of_an_older_version_is_read(tmp_path: Path) -> None:
    text = config.dump(compose(["recipe=drone_nano", "prune.equal_split_widths=true"]))
    (tmp_path / "config.yaml").write_text(text.replace("equal_split_widths", "equal_halves"))
    assert config.read(tmp_path).prune.equal_split_widths


def test_a_recipe_and_a_group_of_the_users_own_may_use_it(tmp_path: Path) -> None:
    for path, text in (("recipe/mine.yaml", "prune: {equal_halves: true}"), ("prune/mine.yaml", "equal_halves: true")):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(text)
    for words in (["recipe=mine", "data=digits"], ["recipe=drone_nano", "prune=mine"]):
        command = [sys.executable, "-m", "compress", "--config-dir", str(tmp_path), *words, "--cfg", "job"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "equal_split_widths: true" in done.stdout


def test_every_new_name_is_a_key() -> None:
    for name in RENAMED.values():
        group, key = name.split(".")
        assert hasattr(getattr(config.Config(), group), key)

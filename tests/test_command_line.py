from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress import command_line, interruption
from compress.config import CONF, RECIPES

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipe=nobody"], ["recipe=nobody", "digits", "drone_nano"]),
        (["recipe=digits", "-m", "seed=1,b"], ["seed=1,b: set a whole number"]),
        (["--config-name", "none", "recipe=digits"], ["--config-name=none: there is no such file"]),
        (["--config-dir", "none", "recipe=digits"], ["--config-dir=none: there is no such folder"]),
        (["recipe=digits", "hydra.sweeper.foo=3", "-m"], ["hydra.sweeper.foo=3: there is no such key: --cfg hydra"]),
        (["recipe=digits", "--none"], ["unrecognized arguments: --none"]),
        (["recipe=digits", "prune.ratio=0.3"], ["prune.ratio=0.3", "budget.flops=50%", "exactly one"]),
        (["recipe=digits", "budget.flops=null"], ["prune.ratio=None", "budget.flops=None", "exactly one"]),
    ],
    ids=[
        "unknown recipe",
        "sweep",
        "config",
        "folder",
        "key of a sweeper",
        "option",
        "ratio and budget",
        "neither ratio nor budget",
    ],
)
def test_a_users_mistake_exits_2_and_leaves_nothing_behind(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "compress", *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    [line] = ended.stderr.splitlines()
    assert line.startswith("compress: error: ")
    assert all(word in line for word in words)
    assert "Traceback" not in ended.stdout + ended.stderr
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert list((tmp_path / "outputs").glob("*/20*")) + list((tmp_path / "outputs").glob("sweeps/*/*")) == []


def test_help_needs_no_recipe(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "compress", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert all(path.stem in done.stdout for path in (*RECIPES.glob("*.yaml"), *CONF.rglob("*/*.yaml")))


def test_a_reader_of_the_output_may_leave(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "compress", "--help"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune.ration=0.1,0.2"], "prune.ration=0.1,0.2: there is no such key; did you mean prune.ratio?"),
        (["seed=1,2", "hydra/launcher=jobli"], "hydra/launcher=jobli: there is no such choice; did you mean joblib?"),
        (["prune.ratio=interval(0.1,0.5)"], "prune.ratio=interval(0.1,0.5): an interval needs hydra/sweeper=optuna"),
    ],
    ids=["key", "launcher", "interval"],
)
def test_a_sweep_that_cannot_start_is_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "compress", "recipe=digits", *words, "-m"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"compress: error: {message}")
    assert list((tmp_path / "outputs").glob("sweeps/*/*")) == []


def test_a_sweep_whose_points_all_fail_has_the_status_of_a_single_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "compress", "recipe=digits", "budget.flops=null", "prune.ratio=2,3", "-m"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(2):  # the second command continues the sweep of the first
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 2
        [line] = ended.stderr.splitlines()
        assert "all of its 2 points failed, the first one because of prune.ratio=2.0: set a fraction" in line
        [folder] = (tmp_path / "outputs" / "sweeps" / "digits").iterdir()
        assert "2 failed" in (folder / "report.html").read_text()


@pytest.mark.parametrize("requested", [False, True])
def test_an_interruption_may_come_out_as_another_error(
    requested: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(interruption, "_requested", requested)
    monkeypatch.setattr("sys.argv", ["compress", "recipe=unknown"])
    assert command_line.main() == (interruption.STATUS if requested else command_line.USER_MISTAKE)
    error = capsys.readouterr().err
    assert error.startswith("compress: interrupted" if requested else "compress: error: recipe=unknown")

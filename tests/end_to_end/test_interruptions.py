"""Runs that are stopped, or that run out of disk: one line, and the same command goes on in the same folder."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compress.report.sweep_page import sweep_table

ROOT = Path(__file__).parents[2]
TRAIN = ["recipe=digits", "stages=[train]", "targets=[]", "threads=1", "train.images=100000"]
SAVED = "outputs/.cache/*/training.safetensors"


def start(place: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "compress", *words],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def states(place: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(place.glob("outputs/**/state.json"))]


def stopped(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """What the command says on standard error, which is one line, when it is stopped."""
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    return err.splitlines()[-1]


def wait_for(process: subprocess.Popen[str], met: Callable[[], bool]) -> None:
    until = time.monotonic() + 90
    while not met():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_sigterm_while_it_trains_and_the_same_command_afterwards(tmp_path: Path) -> None:
    process = start(tmp_path, *TRAIN)
    wait_for(process, lambda: any(state["stage"] == "train" for state in states(tmp_path)))
    time.sleep(0.5)
    assert stopped(process, signal.SIGTERM) == "compress: interrupted; the same command continues where it stopped"
    [state] = states(tmp_path)
    assert (state["status"], state["stage"]) == ("interrupted", "train")
    assert not (tmp_path / "outputs/latest").exists()
    assert len(list(tmp_path.glob(SAVED))) == 1

    process = start(tmp_path, *TRAIN)
    wait_for(process, lambda: any("resuming" in file.read_text() for file in tmp_path.glob("outputs/*/*/log.txt")))
    process.kill()
    process.communicate()
    [log] = tmp_path.glob("outputs/*/*/log.txt")
    assert f"continuing the run in {log.parent}, which stopped in stage train" in log.read_text()
    [ledger] = tmp_path.glob("outputs/*/*/ledger.jsonl")
    assert [json.loads(line)["stage"] for line in ledger.read_text().splitlines()] == ["load"]


@pytest.mark.slow
def test_sigterm_stops_a_sweep_and_not_only_its_point(tmp_path: Path) -> None:
    command = [*TRAIN[:-1], "train.images=20000", "-m", "seed=1,2"]
    process = start(tmp_path, *command)
    wait_for(process, lambda: any(state.get("stage") == "train" for state in states(tmp_path)))
    assert "interrupted" in stopped(process, signal.SIGTERM)
    [point, sweep] = states(tmp_path)
    assert (point["status"], sweep["status"]) == ("interrupted", "interrupted")
    [folder] = tmp_path.glob("outputs/sweeps/digits/*")
    first, second = sweep_table(folder).splitlines()[-2:]
    assert first.endswith("interrupted: it stopped in stage train") and second.endswith("not started")

    process = start(tmp_path, *command)  # the same command continues it in its folder
    wait_for(process, lambda: "running: in stage" in sweep_table(folder))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert list(tmp_path.glob("outputs/sweeps/digits/*")) == [folder]
    assert [state["status"] for state in states(tmp_path)] == ["finished"] * 3


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_waits_for_a_lock_can_be_stopped(number: signal.Signals, tmp_path: Path) -> None:
    with open(tmp_path / "compress-timing.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start(tmp_path, *TRAIN, "stages=[prune]", TMPDIR=str(tmp_path))  # its rows are compared
        wait_for(process, lambda: any("waiting" in file.read_text() for file in tmp_path.glob("outputs/*/*/log.txt")))
        assert "interrupted" in stopped(process, number)


@pytest.mark.slow
def test_two_identical_commands_at_once_make_each_product_once(tmp_path: Path) -> None:
    command = [*TRAIN[:-1], "train.images=640"]
    both = [start(tmp_path, *command) for _ in range(2)]
    for process in both:
        err = process.communicate(timeout=90)[1]
        assert process.returncode == 3, err  # nothing was pruned
    folders = sorted(file.parent for file in tmp_path.glob("outputs/digits/*/ledger.jsonl"))
    assert len(folders) == 2
    rows = [[json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()] for folder in folders]
    assert sorted(row["cached"] for run in rows for row in run if row["stage"] == "train") == [False, True]
    assert rows[0][-1]["accuracy"] == rows[1][-1]["accuracy"]
    assert [state["status"] for state in states(tmp_path)] == ["finished", "finished"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder `outputs` on a file system of 300 KB."""
    (tmp_path / "outputs").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(tmp_path / "outputs")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path / "outputs")], check=True)


def test_a_full_disk_is_one_line(small: Path) -> None:
    process = start(small, *TRAIN[:-1], "train.images=320")
    out, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "Traceback" not in out + err
    [line] = err.splitlines()
    assert line.startswith("compress: error: outputs/.cache/train-")
    assert "the disk is full: " in line and " bytes were to be written, " in line and " are free" in line
    [state] = states(small)
    assert (state["status"], state["stage"]) == ("failed", "train")
    remount = ["mount", "-o", "remount,ro", str(small / "outputs")]
    subprocess.run(remount, check=True)
    process = start(small, *TRAIN, "seed=1")
    out, err = process.communicate(timeout=90)
    assert process.returncode == 2
    assert err.startswith("compress: error: hydra.run.dir=outputs/digits/")
    assert err.endswith(": the folder is not writable (Read-only file system): fix it, or use another folder\n")

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from compress.errors import UserError
from compress.report import render_sweep
from compress.report.sweep_reader import Failure, failures, is_sweep, read_sweep, varying_keys
from tests.report.ledgers import config


def test_sweep_lists_every_point(sweep: Path) -> None:
    assert [p.state for p in read_sweep(sweep)] == [
        "met",
        "missed",
        "failed: it stopped after finetune",
        "failed: it stopped before the first measurement",
        "failed: budget.flops=0%: give more than 0",
    ]
    assert [p.met for p in read_sweep(sweep)] == [True, False, None, None, None]
    text = render_sweep(sweep).read_text()
    assert "5 points: 1 met, 1 missed, 3 failed" in text and "prune.ratio" in text
    assert text.count("<circle") == 3, "the two finished points and the start"


def test_sweep_survives_a_damaged_point(sweep: Path) -> None:
    (sweep / "1" / "ledger.jsonl").write_text("rubbish\n")
    states = [p.state for p in read_sweep(sweep)]
    assert states[0] == "met" and states[1].startswith("failed") and "line 1" in states[1]


def test_settings_that_differ_are_named(sweep: Path) -> None:
    assert varying_keys(read_sweep(sweep)) == ["prune.ratio"]
    for point in ("1", "2", "3"):
        (sweep / point / "config.yaml").write_text(config(0.1) + "seed: 1\n" * (point == "2"))
    assert varying_keys(read_sweep(sweep)) == ["seed"]
    (sweep / "2" / "config.yaml").write_text(config(0.1))
    assert varying_keys(read_sweep(sweep)) == ["prune.ratio"], "none differs: the one that says how much is pruned"


def test_only_folders_with_points_are_a_sweep(sweep: Path, run: Path, tmp_path: Path) -> None:
    assert is_sweep(sweep) and not is_sweep(run) and not is_sweep(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no points"):
        read_sweep(run / "artifacts")


def test_numbered_points_are_sorted_as_numbers(sweep: Path) -> None:
    (sweep / "4").rename(sweep / "10")
    (sweep / "3").rename(sweep / "lr=0.1")
    assert [point.name for point in read_sweep(sweep)] == ["0", "1", "2", "10", "lr=0.1"]


def test_points_that_are_running_were_stopped_or_have_not_started(sweep: Path) -> None:
    (sweep / "sweep.json").write_text('{"points": ["0", "1", "2", "3", "4", "5"]}')
    state = {"status": "running", "stage": "finetune", "since": "now", "host": socket.gethostname()}
    (sweep / "2" / "state.json").write_text(json.dumps(state))
    (sweep / "3" / "state.json").write_text(json.dumps(state | {"host": "another", "stage": "check"}))
    states = [point.state for point in read_sweep(sweep)]
    assert states[2:] == [
        "interrupted: it stopped in stage finetune",
        "running: in stage check",
        "failed: budget.flops=0%: give more than 0",
        "not started",
    ]
    text = render_sweep(sweep).read_text()
    assert "6 points: 1 met, 1 missed, 1 interrupted, 1 running, 1 failed, 1 not started" in text
    assert failures(sweep) == []


def test_a_sweep_that_has_just_started_is_one(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"points": ["a", "b"]}')
    assert is_sweep(tmp_path)
    assert [point.status for point in read_sweep(tmp_path)] == ["not started"] * 2


def test_the_failures_of_a_sweep_count_if_every_point_failed(sweep: Path) -> None:
    for name in ("0", "1", "2", "3"):
        shutil.rmtree(sweep / name)
    assert failures(sweep) == [Failure("budget.flops=0%: give more than 0")]


def test_labels_leave_out_what_all_points_have(tmp_path: Path) -> None:
    names = ["seed=1,threads=1", "seed=2,threads=1"]
    (tmp_path / "sweep.json").write_text(json.dumps({"points": names}))
    assert [point.label for point in read_sweep(tmp_path)] == ["seed=1", "seed=2"]
    (tmp_path / "sweep.json").write_text(json.dumps({"points": [*names, "threads=1"]}))
    assert [point.label for point in read_sweep(tmp_path)] == [*names, "threads=1"], "one would have no label"

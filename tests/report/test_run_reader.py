from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.errors import UserError
from compress.report import render
from compress.report.__main__ import main
from compress.report.run_reader import read_config, read_run, read_training
from tests.report.ledgers import row, rows


def test_a_truncated_last_line_is_ignored_with_a_note(run: Path) -> None:
    ledger = run / "ledger.jsonl"
    ledger.write_text(ledger.read_text() + '{"schema_version": 1, "stage": "exp')
    read = read_run(run)
    assert len(read.rows) == len(rows()) and "cut short" in read.notes[0]
    assert "cut short" in render(run).read_text()


@pytest.mark.parametrize(
    "damage",
    [
        '{"stage": "lo',
        "[1]",
        '{"target": null}',
        '{"stage": "load", "schema_version": 9}',
        '{"stage": "load", "target": []}',
    ],
)
def test_a_corrupt_line_in_the_middle_is_named(run: Path, damage: str) -> None:
    lines = (run / "ledger.jsonl").read_text().splitlines()
    (run / "ledger.jsonl").write_text("\n".join([*lines[:2], damage, *lines[2:]]) + "\n")
    with pytest.raises(UserError, match="line 3"):
        render(run)


@pytest.mark.parametrize(
    "arguments", [["nowhere"], ["compare", "nowhere", "b"], ["add", "nowhere", "b.json"], ["compare", "x"]]
)
def test_an_unknown_run_is_the_users_mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("compress: error: ")


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        ({"macs": "many"}, "macs"),
        ({"accuracy": {"metric": "top1", "value": "high"}}, "accuracy.value"),
        ({"accuracy": {"metric": "top1", "value": 0.5, "ci95": [0.4]}}, "accuracy.ci95"),
        ({"latency_ms": {"median": float("nan")}}, "latency_ms.median"),
        ({"latency_ms": {"median": 1.0, "obtained": "guessed"}}, "latency_ms.obtained"),
    ],
)
def test_a_wrong_value_in_a_ledger_is_named(
    run: Path, damage: dict[str, Any], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(run / "ledger.jsonl", "a") as file:
        file.write(json.dumps(row("export") | damage) + "\n")
    assert main([str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"compress: error: {run}/ledger.jsonl: line 19: {field}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "damage", "field"),
    [
        ("verdict.json", '{"checks": [1], "remarks": [], "failures": {}}', ": checks[0]=1"),
        ("verdict.json", '{"remarks": []}', ": checks=absent"),
        ("verdict.json", "[]", "=[]"),
        ("verdict.json", "{", "=unreadable"),
        ("pruning.json", '{"channels": {"model.1": 3}}', ": channels['model.1']=3"),
        ("pruning.json", '{"reachable": [1]}', ": reachable=[1]"),
        ("pruning.json", '{"layer_macs": {"conv": 3}}', ": layer_macs['conv']=3"),
        ("layer_times.json", '{"device": "host"}', ": target=absent"),
        ("quantization.json", '{"candidates": [{"target": "ncnn"}]}', ": candidates[0].scheme=absent"),
        ("artifacts/openvino/manifest.json", '{"files": []}', ": files=[]"),
        ("artifacts/openvino/manifest.json", '{"files": {"a.xml": 1}}', ": files['a.xml']=1"),
    ],
)
def test_a_damaged_file_is_one_error_that_names_it(
    run: Path, file: str, damage: str, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / file).write_text(damage)
    assert main([str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"compress: error: {run / file}{field}") and error.count("\n") == 1
    assert not (run / "report.html").exists()


def test_rows_of_older_runs_lack_fields(run: Path) -> None:
    oldest = {name: row("load")[name] for name in ("stage", "target", "precision", "imgsz", "macs")}
    (run / "ledger.jsonl").write_text(json.dumps(oldest) + "\n")
    (run / "pruning.json").write_text('{"channels": {}, "of_tomorrow": 1}')
    read = read_run(run)
    assert (read.rows[0].params, read.rows[0].accuracy, read.quantization.candidates) == (None, None, ())
    assert read.pruning.layer_macs == {} and read.layer_times is None
    assert ">load<" in render(run).read_text()


def test_an_unfinished_run_tells_its_state(run: Path) -> None:
    (run / "verdict.json").unlink()
    (run / "state.json").write_text('{"status": "interrupted", "stage": "prune", "since": "noon"}')
    assert "state.json: interrupted in stage prune, since noon." in read_run(run).notes[-1]


def test_config_is_read_as_plain_objects(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    assert read_config(path) == ({}, "")
    path.write_text("a: {b: 1}\nc: ${a.b}\n")
    assert read_config(path)[0] == {"a": {"b": 1}, "c": "${a.b}"}
    for damage in ("a: [", "a: !!python/name:os.system\n", "{" * 3000):
        path.write_text(damage)
        with pytest.raises(UserError, match="not YAML"):
            read_config(path)


def test_training_points_are_read_without_a_cut_line_and_without_infinite_losses(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert read_training(file) == []
    point = {"training": "train", "step": 1, "loss": 2.0, "learning_rate": 0.1}
    lines = [json.dumps(point), json.dumps(point | {"step": 2, "loss": float("nan")}), '{"training": "tr']
    file.write_text("\n".join(lines))
    assert [(each.step, each.loss) for each in read_training(file)] == [(1, 2.0)]
    file.write_text(json.dumps(point | {"loss": "low"}) + "\n")
    with pytest.raises(UserError, match="line 1: loss"):
        read_training(file)

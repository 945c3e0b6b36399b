"""The whole pipeline on real data, through the command line, in under a minute."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import compress
from compress.targets import saturation
from tests.end_to_end import network

SHORT = ["recipe=digits", "train.images=8000", "finetune.images=4000", "data.validation_images=200"]
SHORT += ["budget.max_accuracy_drop=0.05", "quantize.max_accuracy_drop=0.05"]


def command(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compress", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=300,
        env={**os.environ, "COLUMNS": "250", **network.cut(cwd / "network")},
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    done = command(place, *SHORT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Budget met" in done.stdout
    return (place / "outputs" / "latest").resolve()


def test_the_network_is_cut_and_nobody_tries_to_reach_it(run: Path, place: Path) -> None:
    assert network.attempts(place / "network") == ""


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]


def test_every_stage_is_weighed_before_and_after(run: Path) -> None:
    weighed = [(row["stage"], row["target"], row["precision"]) for row in rows_of(run)]
    runtimes = ("onnxruntime", "openvino")
    expected = [("load", None, "fp32"), ("train", None, "fp32"), *[("train", name, "fp32") for name in runtimes]]
    expected += [("prune", None, "fp32"), ("finetune", None, "fp32")]
    expected += [("finetune", name, "fp32") for name in runtimes] + [("quantize", name, "int8") for name in runtimes]
    expected += [("export", name, precision) for name in runtimes for precision in ("fp32", "int8")]
    assert weighed == expected


def test_the_budget_is_met_and_accuracy_is_real(run: Path) -> None:
    rows = rows_of(run)
    baseline, last = rows[1], rows[-1]
    assert last["flops"] == 2 * last["macs"] <= baseline["flops"] / 2
    assert baseline["accuracy"]["value"] > 0.85 > rows[0]["accuracy"]["value"]
    assert last["accuracy"]["value"] > baseline["accuracy"]["value"] - 0.03
    low, high = last["accuracy"]["ci95"]
    assert low <= last["accuracy"]["value"] <= high and last["accuracy"]["images"] == 200


def test_int8_is_int8_and_smaller(run: Path) -> None:
    rows = {(row["stage"], row["target"], row["precision"]): row for row in rows_of(run)}
    for target in ("onnxruntime", "openvino"):
        int8, fp32 = rows["export", target, "int8"], rows["export", target, "fp32"]
        assert int8["int8_mac_share"] > 0.95
        assert fp32["int8_mac_share"] == 0
        assert int8["size_bytes"] < fp32["size_bytes"]
        assert int8["bit_operations"] < fp32["bit_operations"] / 10
        assert int8["latency_ms"]["device"] == "host" and int8["latency_ms"]["median"] > 0


def test_artifacts_keep_their_contracts(run: Path) -> None:
    checks = json.loads((run / "verdict.json").read_text())["checks"]
    kept = {(check["name"], check["target"], check["precision"]) for check in checks if check["met"]}
    for target in ("onnxruntime", "openvino"):
        assert {("contract.same_as_torch", target, "fp32"), ("contract.confidence_shift", target, "int8")} <= kept
        assert {("contract.deterministic", target, precision) for precision in ("fp32", "int8")} <= kept
    tried = json.loads((run / "quantization.json").read_text())["candidates"]
    assert sorted(row["target"] for row in tried if row["chosen"]) == ["onnxruntime", "openvino"]
    safe = sum(saturation.saturates(target) is True for target in ("onnxruntime", "openvino"))
    assert len(tried) == 5 + safe  # where sums saturate, a scheme that keeps them from it as well


def test_the_run_folder_is_as_promised(run: Path) -> None:
    for name in ("config.yaml", "ledger.jsonl", "verdict.json", "report.html", "log.txt", "pruned/model.safetensors"):
        assert (run / name).stat().st_size > 0, name
    verdict = json.loads((run / "verdict.json").read_text())
    assert verdict["met"] is True and {check["name"] for check in verdict["checks"]} >= {"budget.flops"}
    for target in ("onnxruntime", "openvino"):
        folder = run / "artifacts" / target
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["calibration"]["split"] == "calibration"
        for name, digest in manifest["files"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_the_checkpoint_carries_the_last_torch_model(run: Path) -> None:
    model = compress.load(run / "pruned")
    last = next(row for row in rows_of(run) if row["stage"] == "finetune")
    assert compress.measure(model.deployed(), model.example_input()).macs == last["macs"]


def test_what_was_pruned_is_on_record(run: Path) -> None:
    record = json.loads((run / "pruning.json").read_text())
    before, after = (next(row["macs"] for row in rows_of(run) if row["stage"] == stage) for stage in ("load", "prune"))
    assert (record["macs_before"], record["macs_after"]) == (before, after)
    assert record["reachable"][0] < after < record["reachable"][1] == before
    assert record["protected"] and all(was > now for was, now in record["channels"].values())


def test_the_bench_kit_runs_alone_and_its_row_joins_the_ledger(run: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"  # as copied to a device
    shutil.copytree(run / "artifacts" / "onnxruntime", kit)
    options = ["int8", "--device", "bench_of_the_test", "--threads", "1", "--seconds", "0.5"]
    done = subprocess.run([sys.executable, "bench.py", *options], cwd=kit, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "compress.report", "add", str(run), str(kit / "bench.json")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    added = rows_of(run)[-1]
    assert added["latency_ms"]["device"] == "bench_of_the_test" and added["precision"] == "int8"


def test_the_same_command_gives_the_same_network_and_verdict(run: Path, place: Path) -> None:
    done = command(place, *SHORT, "stages=[train,prune]", "targets=[onnxruntime]", "budget.max_accuracy_drop=null")
    assert done.returncode == 0, done.stderr[-3000:]
    again = rows_of((place / "outputs" / "latest").resolve())
    pruned = next(row for row in again if row["stage"] == "prune")
    first = next(row for row in rows_of(run) if row["stage"] == "prune")
    assert pruned["cached"] and not first["cached"]
    assert pruned["macs"] == first["macs"] and pruned["accuracy"] == first["accuracy"]


def test_a_budget_that_is_not_met_exits_3(run: Path, place: Path) -> None:
    done = command(place, *SHORT, "stages=[train,prune]", "targets=[onnxruntime]", "budget.max_accuracy_drop=0.0001")
    assert done.returncode == 3, done.stderr[-3000:]
    verdict = json.loads((place / "outputs" / "latest" / "verdict.json").read_text())
    assert verdict["met"] is False


def test_a_sweep_puts_its_points_side_by_side(run: Path, place: Path) -> None:
    options = ("stages=[train,prune]", "targets=[onnxruntime]", "budget.flops=null", "budget.max_accuracy_drop=null")
    done = command(place, *SHORT, *options, "-m", "prune.ratio=0.2,0.4,1.5")
    assert done.returncode == 0, done.stderr[-3000:]
    (sweep,) = (place / "outputs" / "sweeps" / "digits").iterdir()
    page = (sweep / "report.html").read_text()
    assert "prune.ratio" in page and "0.2" in page and "failed" in page.lower()
    flops = [rows_of(folder)[-1]["flops"] for folder in sorted(sweep.iterdir()) if (folder / "ledger.jsonl").exists()]
    assert len(flops) == 2 and flops[0] > flops[1]
    with open(sweep / "sweep.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["prune.ratio"] for line in lines if line["runtime"] == "onnxruntime"] == ["0.2", "0.4"]
    [again] = {line["command"] for line in lines if line["prune.ratio"] == "0.4"}
    words = shlex.split(again.removeprefix("python -m compress "))
    settings = dict(word.split("=", 1) for word in words)
    assert settings == dict(word.split("=", 1) for word in [*SHORT, *options, "prune.ratio=0.4"])

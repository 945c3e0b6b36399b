from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress import ledger
from compress.devices import measured, operators
from compress.devices.operators import Operator
from compress.errors import UserError
from compress.ledger import Provenance
from compress.report.__main__ import main
from compress.report.bench_results import add, calibrate
from compress.report.changes import change_from_baseline, change_from_previous
from compress.report.run_reader import read_run
from tests.report.ledgers import rows, verdict, write_bench


def test_add_appends_a_measured_row(run: Path) -> None:
    old = (run / "ledger.jsonl").read_text()
    made, _ = add(run, write_bench(run))
    read, text = read_run(run), (run / "ledger.jsonl").read_text()
    assert read.notes == [] and read.rows[-1] == made and text.startswith(old)
    assert made.stage == "export" and made.target == "tensorrt" and made.flops == 436_800_000
    assert made.latency_ms and made.latency_ms.device == "Jetson Orin Nano 8GB"
    assert made.latency_ms.obtained is Provenance.measured
    assert made.accuracy is None, "the bench kit measures no accuracy"
    written = json.loads(text.splitlines()[-1])
    assert set(written) >= set(rows()[0]) and written["run_id"] == rows()[0]["run_id"]


def test_a_run_is_judged_again_with_the_latency_of_the_device(run: Path) -> None:
    text = (run / "config.yaml").read_text().replace("name: host", "name: jetson_orin_nano_8gb\n  precisions: [int8]")
    (run / "config.yaml").write_text(
        text.replace("max_accuracy_drop: 0.02", "max_accuracy_drop: 0.02\n  latency_ms: 4")
    )
    contract = {"name": "contract.same_as_torch", "target": "openvino", "precision": "fp32", "limit": 0.001}
    old = verdict() | {
        "remarks": [
            {"kind": "odd_channels", "text": "kept", "numbers": {}, "lasting": True},
            {"kind": "gone", "text": ""},
        ]
    }
    old["checks"].append(contract | {"value": 0.0, "unit": "x", "met": True})
    (run / "verdict.json").write_text(json.dumps(old))
    made, _ = add(run, write_bench(run))
    new = json.loads((run / "verdict.json").read_text())
    [latency] = [c for c in new["checks"] if c["name"] == "budget.latency_ms" and c["target"] == "tensorrt"]
    assert made.latency_ms and latency["value"] == made.latency_ms.median and latency["met"]
    assert [c for c in new["checks"] if c["name"] == contract["name"]] == [
        contract | {"value": 0.0, "unit": "x", "met": True}
    ]
    kinds = [each["kind"] for each in new["remarks"]]
    assert "odd_channels" in kinds and "gone" not in kinds and "recommended_for_device" in kinds


def test_a_run_that_was_never_judged_is_not_judged_by_a_bench(run: Path) -> None:
    (run / "verdict.json").unlink()
    assert add(run, write_bench(run))[1] is None and not (run / "verdict.json").exists()


@pytest.mark.parametrize(
    ("file", "text"),
    [("verdict.json", '{"checks": [1]}'), ("config.yaml", "no_such_key: 1"), ("ledger.jsonl", '{"stage": "load"}\n')],
)
def test_a_damaged_run_takes_no_row(run: Path, file: str, text: str) -> None:
    bench, old = write_bench(run), (run / "ledger.jsonl").read_text()
    (run / file).write_text(text + (old if file == "ledger.jsonl" else ""))
    before = (run / "ledger.jsonl").read_text()
    with pytest.raises(UserError):
        add(run, bench)
    assert (run / "ledger.jsonl").read_text() == before


def test_int8_on_a_device_compares_with_fp16_on_that_device(run: Path) -> None:
    slow = {"median": 2.0, "p95": 2.2, "runs": 500}
    add(run, write_bench(run, precision="fp16", files={"fp16/model.onnx": "a" * 64}, latency_ms=slow))
    made, _ = add(run, write_bench(run))
    ledger_rows = ledger.read(run / "ledger.jsonl")
    assert change_from_previous(ledger_rows, ledger_rows[-1]).latency == pytest.approx(0.81)
    assert change_from_baseline(ledger_rows, ledger_rows[-1]).latency is None, "the loaded model never ran there"
    assert made.precision == "int8"


def test_add_removes_a_truncated_last_line(run: Path) -> None:
    with open(run / "ledger.jsonl", "a") as file:
        file.write('{"stage": "exp')
    add(run, write_bench(run))
    read = read_run(run)
    assert len(read.rows) == len(rows()) + 1 and read.notes == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "drop"}, "device=absent"),
        ({"device": "host"}, "name the device"),
        ({"device": " "}, "name it"),
        ({"batch": True}, "batch"),
        ({"batch": 0}, "positive"),
        ({"threads": "two"}, "an integer or null"),
        ({"schema_version": 2}, "reads 1"),
        ({"target": "ncnn"}, "no such artifact"),
        ({"latency_ms": {"median": -1, "p95": 1, "runs": 3}}, "latency_ms.median"),
        ({"latency_ms": {"median": 2, "p95": 1, "runs": 3}}, "below the median"),
        ({"latency_ms": {"median": float("nan"), "p95": 1, "runs": 3}}, "latency_ms.median"),
        ({"files": {}}, "checksums"),
        ({"files": {"int8/model.onnx": "b" * 64}}, "another checksum"),
        ({"files": {"int8/other.onnx": "a" * 64}}, "is not in"),
        ({"files": {"fp16/model.onnx": "a" * 64}}, "is the fp16 file"),
        ({"outputs_match": False}, "another computation"),
    ],
)
def test_add_refuses(run: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, old = write_bench(run, **changes), (run / "ledger.jsonl").read_text()
    assert main(["add", str(run), str(path)]) == 2
    assert message in capsys.readouterr().err
    assert (run / "ledger.jsonl").read_text() == old


def test_add_refuses_the_same_measurement_twice(run: Path) -> None:
    add(run, write_bench(run))
    with pytest.raises(UserError, match="already"):
        add(run, write_bench(run))


def test_rows_keep_what_this_version_does_not_know(run: Path) -> None:
    first, *others = (run / "ledger.jsonl").read_text().splitlines()
    first = json.dumps({**json.loads(first), "of_tomorrow": 3})
    (run / "ledger.jsonl").write_text("\n".join([first, *others]) + "\n")
    add(run, write_bench(run))
    assert (run / "ledger.jsonl").read_text().splitlines()[0] == first


def test_accuracy_on_the_device_may_not_fall(run: Path) -> None:
    add(run, write_bench(run, labelled_images={"value": 0.81, "expected": 0.9}))
    for labelled, message in (
        ({"value": 0.79, "expected": 0.9}, "portable=true"),
        ({"value": 1.1, "expected": 0.9}, "value=1.1"),
        ({"value": 0.9}, "expected=absent"),
    ):
        with pytest.raises(UserError, match=message):
            add(run, write_bench(run, labelled_images=labelled, device="another"))


def test_a_run_without_a_baseline_is_not_judged_again(run: Path) -> None:
    text = (run / "ledger.jsonl").read_text().splitlines()
    (run / "ledger.jsonl").write_text("\n".join(line for line in text if '"target": null' not in line) + "\n")
    with pytest.raises(UserError, match="no torch row of the baseline"):
        add(run, write_bench(run))


def test_the_new_row_describes_the_exported_file(run: Path) -> None:
    *others, last = (json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines())
    quantized = next(each for each in others if (each["stage"], each["target"]) == ("quantize", "tensorrt"))
    later = quantized | {"stage": "distilled", "size_bytes": 7}
    (run / "ledger.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (*others, last, later)))
    assert add(run, write_bench(run))[0].size_bytes == last["size_bytes"]


def test_energy_is_the_power_that_the_device_measured_times_the_latency(run: Path) -> None:
    made, _ = add(run, write_bench(run, watts=7.5, watts_source="ina3221 VDD_IN"))
    assert made.latency_ms and made.latency_ms.median and made.energy_mj
    assert made.energy_mj.value == pytest.approx(7.5 * made.latency_ms.median)
    assert made.energy_mj.source == "ina3221 VDD_IN" and made.energy_mj.obtained is Provenance.measured
    with pytest.raises(UserError, match="watts=0.0: expected a positive number"):
        add(run, write_bench(run, watts=0.0, device="another"))


def test_an_added_latency_is_kept_for_predictions(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(measured.FOLDER, str(tmp_path / "devices"))
    assert calibrate(run, add(run, write_bench(run))[0]) is None, "an older run has no list of operators"
    network = [Operator(100, 20, 10, 2, False, "Conv", 10)] * 2
    (run / "artifacts").mkdir(exist_ok=True)
    operators.write([("mine", network)], run / "artifacts" / operators.FILE)
    assert main(["add", str(run), str(write_bench(run, device="Jetson Orin Nano"))]) == 0
    [timing] = measured.files("jetson_orin_nano").popitem()[1].timings()
    assert (timing.network, list(timing.operators)) == ("drone_nano/20261121_171500", network)
    assert (timing.runtime, timing.precision) == ("tensorrt", "int8") and timing.ms > 0
    assert "predictions for jetson_orin_nano" in capsys.readouterr().out

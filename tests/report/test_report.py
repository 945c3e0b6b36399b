from __future__ import annotations

import json
import re
import xml.dom.minidom
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from ledgers import bench, config, row, rows, score, timing, verdict, write_run
from rich.console import Console

from compress.errors import UserError
from compress.report import print_table, render, render_sweep
from compress.report.__main__ import main
from compress.report.bench_results import add
from compress.report.changes import change_from_baseline, change_from_previous, final_rows, previous_row
from compress.report.formatting import accuracy, change_parts, energy, latency, timing_setup, value_and_limit
from compress.report.plots import waterfall
from compress.report.run_comparison import compare
from compress.report.run_reader import read_ledger
from compress.report.svg import ticks
from compress.report.sweep_reader import read_sweep
from compress.report.terminal_table import table


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "drone_nano" / "20261121_171500")


def pick(ledger: list[dict[str, Any]], stage: str, target: str | None, precision: str = "fp32") -> dict[str, Any]:
    return next(r for r in ledger if (r["stage"], r["target"], r["precision"]) == (stage, target, precision))


# ---- changes


def test_int8_follows_fp32_of_the_same_runtime() -> None:
    ledger = rows()
    int8 = pick(ledger, "quantize", "onnxruntime", "int8")
    assert previous_row(ledger, int8) is pick(ledger, "finetune", "onnxruntime")
    change = change_from_previous(ledger, int8)
    assert change.latency == pytest.approx(2.96 / 3.87)
    assert change.precisions == ("f32", "int8")
    assert change.accuracy == pytest.approx(0.4742 - 0.4790)
    assert change.flops == 1


def test_export_follows_its_own_precision() -> None:
    ledger = rows()
    assert previous_row(ledger, pick(ledger, "export", "openvino")) is pick(ledger, "finetune", "openvino")
    assert previous_row(ledger, pick(ledger, "export", "openvino", "int8")) is pick(
        ledger, "quantize", "openvino", "int8"
    )
    assert previous_row(ledger, pick(ledger, "export", "tensorrt", "fp16")) is pick(ledger, "finetune", "tensorrt")


def test_baseline_is_torch_for_accuracy_and_the_same_runtime_for_latency() -> None:
    ledger = rows()
    change = change_from_baseline(ledger, pick(ledger, "export", "openvino", "int8"))
    assert change.accuracy == pytest.approx(0.4755 - 0.4873)
    assert change.latency == pytest.approx(3.45 / 4.18)
    assert change.flops == pytest.approx(0.4984, abs=1e-4)


@pytest.mark.parametrize("other", [{"device": "jetson"}, {"threads": 4}, {"batch": 8}, {"obtained": "predicted"}])
def test_latencies_that_do_not_compare_have_no_ratio(other: dict[str, Any]) -> None:
    ledger = [
        row("load"),
        row("load", "openvino", latency=(4.0, "bf16")),
        row("quantize", "openvino", "int8"),
    ]
    ledger[2]["latency_ms"] = timing("openvino", 2.0, "int8")
    assert change_from_baseline(ledger, ledger[2]).latency == 0.5
    ledger[2]["latency_ms"] |= other
    assert change_from_baseline(ledger, ledger[2]).latency is None
    assert change_from_previous(ledger, ledger[2]).latency is None


def test_accuracies_on_other_images_have_no_difference() -> None:
    ledger = [row("load", accuracy=0.5), row("prune", accuracy=0.4)]
    assert change_from_baseline(ledger, ledger[1]).accuracy == pytest.approx(-0.1)
    ledger[1]["accuracy"] = score(0.4, images=3000)
    assert change_from_baseline(ledger, ledger[1]).accuracy is None


def test_final_rows_are_of_the_last_stage_of_each_target() -> None:
    final = [(r["stage"], r["target"], r["precision"]) for r in final_rows(rows())]
    assert ("finetune", None, "fp32") in final and ("export", "tensorrt", "fp16") in final
    assert len(final) == 7


# ---- formatting


def test_provenance_is_stated_unless_measured() -> None:
    assert accuracy(row("load") | {"accuracy": score(0.41, "emulated")}) == "0.4100 ± 0.0124 (emulated)"
    assert latency(row("load") | {"latency_ms": timing("x", 3.0, "int8", obtained="predicted")}) == "3.00 (predicted)"
    assert latency(row("load") | {"latency_ms": {"median": None, "obtained": "not_run"}}) == "not run"
    assert latency(row("load")) == "–"
    assert accuracy(row("load") | {"accuracy": {"value": 0.5}}) == "0.5000 (origin not stated)"
    assert energy(row("load") | {"energy_mj": {"value": 2.5, "obtained": "predicted"}}) == "2.50 (predicted)"


def test_a_latency_names_runtime_precision_threads_and_device() -> None:
    assert timing_setup(pick(rows(), "load", "openvino")) == "openvino bf16 2 thr b1 host"
    silent = row("load", "openvino") | {"latency_ms": {"median": 1.0}}
    assert timing_setup(silent) == "runtime? fp32 file threads n/a batch? device?"


def test_rounding_never_makes_value_and_limit_look_equal() -> None:
    assert value_and_limit(438_200_001, 438_200_000) == ("438.200001 M", "438.2 M")
    assert value_and_limit(0.0100004, 0.01) == ("0.0100004", "0.01")
    assert value_and_limit(0.0131, 0.02) == ("0.0131", "0.02")
    assert value_and_limit(None, 4) == ("–", "4")


# ---- reading a run


def test_a_truncated_last_line_is_ignored_with_a_note(run: Path) -> None:
    ledger = run / "ledger.jsonl"
    ledger.write_text(ledger.read_text() + '{"schema_version": 1, "stage": "exp')
    ledger_rows, notes = read_ledger(ledger)
    assert len(ledger_rows) == len(rows()) and "cut short" in notes[0]
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


# ---- terminal table


def test_table_has_every_row_and_no_escape_codes() -> None:
    text = table(rows())
    assert "\x1b" not in text
    assert sum(line.startswith(("load", "prune", "finetune", "quantize", "export")) for line in text.splitlines()) == 18
    assert (
        "lat ×0.76 (f32→int8)" in text
        and "97.2\N{NO-BREAK SPACE}% (by graph)" in text
        and "0.4733 ± 0.0124 (emulated)" in text
    )


def test_a_narrow_terminal_names_the_omitted_columns(run: Path) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120)
    print_table(run, console)
    assert isinstance(console.file, StringIO)
    text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())
    assert "Omitted here, see report.html: p95, GMACs" in text
    assert "MISSED  quantize.max_accuracy_drop [onnxruntime/int8]: 0.00484, limit 0.0048 points" in text
    assert "verdict: Budget not met" in text


def test_differences_within_noise_are_marked_and_not_coloured() -> None:
    ledger = rows()
    before, after = (pick(ledger, stage, "openvino", "fp32") for stage in ("load", "export"))
    after["latency_ms"] |= {"median": before["latency_ms"]["median"] * 0.9, "low": 3.0, "high": 4.2}
    [*_, (what, much, better)] = change_parts(change_from_baseline(ledger, after))
    assert (what, much, better) == ("lat", "×0.90 (noise)", None)
    before["latency_ms"] |= {"low": 4.3, "high": 4.5}
    [*_, (_, much, better)] = change_parts(change_from_baseline(ledger, after))
    assert (much, better) == ("×0.90", True)


def test_a_contended_time_is_marked_and_compared_with_nothing(tmp_path: Path) -> None:
    ledger = rows()
    row = pick(ledger, "load", "openvino", "fp32")
    row["latency_ms"] |= {"median": 22.0, "low": 20.0, "high": 25.0, "cpu_wait": 0.5, "contended": True}
    assert latency(row) == "22.00 (contended)"
    gain = change_parts(change_from_baseline(ledger, pick(ledger, "export", "openvino", "fp32")))[-1]
    assert gain[1].endswith("(contended)") and gain[2] is None
    page = render(write_run(tmp_path / "busy", ledger)).read_text()
    assert "22.00 (contended)" in page and "20.00 to 25.00" in page


# ---- run page


class Balance(HTMLParser):
    """Checks that every element is closed, and collects the URLs that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.open += [] if tag == "meta" else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_is_one_well_formed_file(run: Path) -> None:
    path = render(run)
    text = path.read_text()
    page = Balance()
    page.feed(text)
    assert path == run / "report.html" and page.open == [] and page.fetched == []
    assert "<script" not in text and "url(" not in text and "@import" not in text
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 6
    for chart in charts:
        xml.dom.minidom.parseString(chart)
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


def test_report_is_a_pure_function_of_the_folder(run: Path) -> None:
    assert render(run).read_bytes() == render(run).read_bytes()


HOSTILE = "</title></style><img src=x onerror=alert(1)>\"' onload=alert(1)"


class NoForeignMarkup(HTMLParser):
    """Fails on elements and attributes that the templates never write."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("img", "script", "link", "iframe", "object", "a")
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)


def check_hostile_text_is_escaped(page: str) -> None:
    NoForeignMarkup().feed(page)
    assert "</title></style>" not in page and "<img" not in page and "&lt;img" in page
    for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        xml.dom.minidom.parseString(chart)


def test_report_escapes_all_text(tmp_path: Path) -> None:
    evil = HOSTILE
    ledger = [row("load", accuracy=0.5), row(evil, evil, evil, accuracy=0.4, latency=(1.0, evil, evil))]
    ledger[1]["accuracy"] |= {"metric": evil, "obtained": evil, "per_class": {evil: 0.4}}
    run = write_run(tmp_path / "run", ledger)
    check = {"name": evil, "target": evil, "precision": evil, "limit": evil, "value": evil, "unit": evil, "met": None}
    changed = {"failures": {evil: evil}, "checks": [check], "remarks": [{"kind": evil, "text": evil}]}
    (run / "verdict.json").write_text(json.dumps(verdict() | changed))
    (run / "config.yaml").write_text(yaml.safe_dump({"recipe_name": evil, "model": {"name": evil}}))
    (run / "pruning.json").write_text(json.dumps({"channels": {evil: [4, 2]}, "protected": {evil: evil}}))
    candidate = {"target": evil, "scheme": evil, "accuracy": 0.5, "drop": 0.1, "seconds": 1, "chosen": True}
    (run / "quantization.json").write_text(json.dumps({"candidates": [candidate]}))
    manifest = {"versions": {evil: evil}, "files": {evil: evil}}
    (run / "artifacts" / "openvino" / "manifest.json").write_text(json.dumps(manifest))
    check_hostile_text_is_escaped(render(run).read_text())


def test_sweep_page_escapes_all_text(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    for name in ("a", "<img src=x>"):
        ledger = [row("load", accuracy=0.5), row("finetune", accuracy=0.4)]
        for each in ledger:
            each["accuracy"]["metric"] = HOSTILE
        point = write_run(folder / name, ledger)
        (point / "config.yaml").write_text(
            yaml.safe_dump({"data": {"classes": [HOSTILE]}, HOSTILE: f"{HOSTILE} {name}"})
        )
    (folder / "failed").mkdir()
    (folder / "failed" / "failed.json").write_text(json.dumps({"error": HOSTILE}))
    check_hostile_text_is_escaped(render_sweep(folder).read_text())


def test_report_lists_pruned_layers_and_protected_modules(run: Path) -> None:
    assert ">Pruning<" not in render(run).read_text()
    record = {
        "reachable": [100_000_000, 500_000_000],
        "channels": {"model.1": [64, 48]},
        "protected": {"head": "<last>"},
    }
    (run / "pruning.json").write_text(json.dumps(record))
    page = render(run).read_text()
    for text in ("1 layers were narrowed; reachable: 0.200 to 1.000 GFLOPs", "model.1", "75%", "&lt;last&gt;"):
        assert text in page


def test_report_shows_verdict_remarks_changes_and_configuration(run: Path) -> None:
    text = render(run).read_text()
    assert "Budget not met" in text and "3 met, 1 missed, 1 could not be measured" in text
    assert "INT8 is not the fastest on openvino here" in text
    assert "0.876 → 0.437" in text and "Not drawn: prune 0.0312" in text
    assert "recipe_name: drone_nano" in text and "torch 2.14.1" in text


@pytest.mark.parametrize("ledger", [[], [row("load")], [row("load") | {"flops": None, "macs": None, "params": None}]])
def test_an_unfinished_run_still_has_a_report(tmp_path: Path, ledger: list[dict[str, Any]]) -> None:
    run = write_run(tmp_path / "run", ledger)
    (run / "verdict.json").unlink()
    (run / "config.yaml").unlink()
    assert "Not judged" in render(run).read_text()


def test_nothing_to_judge_is_not_a_pass(run: Path) -> None:
    (run / "verdict.json").write_text(json.dumps({"met": True, "checks": [], "remarks": []}))
    text = render(run).read_text()
    assert "Nothing to judge" in text and "Budget met" not in text


def test_a_failed_target_is_in_the_banner(run: Path) -> None:
    (run / "verdict.json").write_text(json.dumps(verdict() | {"failures": {"tensorrt": "no such operator"}}))
    assert "tensorrt failed: no such operator" in render(run).read_text()


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.46, 0.5) == pytest.approx([0.46, 0.47, 0.48, 0.49, 0.5])
    assert ticks(3.0, 3.0) == [3.0]


# ---- comparison of runs


def test_final_rows_are_compared_with_those_of_the_first_run(run: Path, tmp_path: Path) -> None:
    ledger = rows()
    pick(ledger, "export", "onnxruntime", "int8")["latency_ms"]["median"] = 1.49
    other = write_run(tmp_path / "drone_nano" / "other", ledger)
    lines = compare([run, other]).splitlines()
    line = next(x for x in lines if re.match(r"onnxruntime +int8 ", x) and "drone_nano/other" in x)
    assert line.endswith("acc 0.0000  lat ×0.50") and "export" in line
    assert not any(x.startswith("onnxruntime") and "finetune" in x for x in lines)
    assert "drone_nano/other: budget not met" in lines


# ---- bench results


def write_bench(run: Path, **changes: Any) -> Path:
    path = run.parent / "bench.json"
    path.write_text(json.dumps({k: v for k, v in bench(**changes).items() if v != "drop"}))
    return path


def test_add_appends_a_measured_row(run: Path) -> None:
    old = (run / "ledger.jsonl").read_text()
    made, _ = add(run, write_bench(run))
    ledger_rows, notes = read_ledger(run / "ledger.jsonl")
    assert notes == [] and ledger_rows[-1] == made and (run / "ledger.jsonl").read_text().startswith(old)
    assert made["stage"] == "export" and made["target"] == "tensorrt" and made["flops"] == 436_800_000
    assert made["latency_ms"]["obtained"] == "measured" and made["latency_ms"]["device"] == "Jetson Orin Nano 8GB"
    assert made["accuracy"] is None, "the bench kit measures no accuracy"
    assert set(made) >= set(rows()[0])


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
    assert latency["value"] == made["latency_ms"]["median"] and latency["met"]
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
    ledger_rows, _ = read_ledger(run / "ledger.jsonl")
    assert change_from_previous(ledger_rows, ledger_rows[-1]).latency == pytest.approx(0.81)
    assert change_from_baseline(ledger_rows, ledger_rows[-1]).latency is None, "the loaded model never ran there"
    assert made["precision"] == "int8"


def test_a_stage_is_drawn_by_its_narrowest_file() -> None:
    files = [row(*of, bit_operations=bits) for of, bits in ((("load",), 4e9), (("export", "ncnn"), 4e9))]
    files.append(row("export", "ncnn", "fp16", bit_operations=1e9))
    assert "1 G bit ops  −75.0 %" in waterfall(files, "bit_operations", "G bit ops")


def test_add_removes_a_truncated_last_line(run: Path) -> None:
    with open(run / "ledger.jsonl", "a") as file:
        file.write('{"stage": "exp')
    add(run, write_bench(run))
    ledger_rows, notes = read_ledger(run / "ledger.jsonl")
    assert len(ledger_rows) == len(rows()) + 1 and notes == []


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


# ---- sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweeps" / "drone_nano" / "20261121_180000"
    for i, (ratio, macs, value) in enumerate([(0.1, 350_000_000, 0.48), (0.3, 220_000_000, 0.46), (0.5, 1, 0.1)]):
        ledger = [row("load", macs=400_000_000, accuracy=0.49), row("finetune", macs=macs, accuracy=value)]
        point = write_run(folder / str(i), ledger)
        (point / "config.yaml").write_text(config(ratio))
        (point / "verdict.json").write_text(json.dumps(verdict() | {"met": i == 0}))
    (folder / "2" / "verdict.json").unlink()
    (folder / "3").mkdir()
    (folder / "3" / "config.yaml").write_text(config(0.7))
    (folder / "4").mkdir()
    (folder / "4" / "failed.json").write_text('{"error": "budget.flops=0%: give more than 0"}')
    (folder / ".submitit").mkdir()
    return folder


def test_sweep_lists_every_point(sweep: Path) -> None:
    assert [p.state for p in read_sweep(sweep)] == [
        "met",
        "missed",
        "failed: it stopped after finetune",
        "failed: it stopped before the first measurement",
        "failed: budget.flops=0%: give more than 0",
    ]
    text = render_sweep(sweep).read_text()
    assert "5 points: 1 met, 1 missed, 3 failed" in text and "prune.ratio" in text
    assert text.count("<circle") == 3, "the two finished points and the start"


def test_sweep_survives_a_damaged_point(sweep: Path) -> None:
    (sweep / "1" / "ledger.jsonl").write_text("rubbish\n")
    states = [p.state for p in read_sweep(sweep)]
    assert states[0] == "met" and states[1].startswith("failed") and "line 1" in states[1]


def test_command_shows_a_sweep(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "prune.ratio" in out and "0.440" in out and out.rstrip().endswith("report.html")


# ---- command line


def test_command_renders_and_prints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "budget.flops: 436.8 M, limit 438.2 M FLOPs" in out and (run / "report.html").is_file()


@pytest.mark.parametrize(
    "arguments", [["nowhere"], ["compare", "nowhere", "b"], ["add", "nowhere", "b.json"], ["compare", "x"]]
)
def test_an_unknown_run_is_the_users_mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("compress: error: ")

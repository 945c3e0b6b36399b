from __future__ import annotations

import json
import re
import xml.dom.minidom
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.report import render
from compress.report.__main__ import main
from tests.report.ledgers import row, verdict, write_run
from tests.report.pages import HOSTILE, Balance, check_hostile_text_is_escaped


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


def test_report_escapes_all_text(tmp_path: Path) -> None:
    evil = HOSTILE
    ledger = [row("load", accuracy=0.5), row(evil, evil, evil, accuracy=0.4, latency=(1.0, evil, evil))]
    ledger.append(row("export", "openvino", "int8"))
    ledger[1]["accuracy"] |= {"metric": evil, "per_class": {evil: 0.4}}
    run = write_run(tmp_path / "run", ledger)
    check = {"name": evil, "target": evil, "precision": evil, "limit": 1, "value": None, "unit": evil}
    changed = {"failures": {evil: evil}, "checks": [check], "remarks": [{"kind": evil, "text": evil}]}
    (run / "verdict.json").write_text(json.dumps(verdict() | changed))
    (run / "config.yaml").write_text(yaml.safe_dump({"recipe_name": evil, "model": {"name": evil}}))
    (run / "pruning.json").write_text(json.dumps({"channels": {evil: [4, 2]}, "protected": {evil: evil}}))
    candidate = {"target": evil, "scheme": evil, "accuracy": 0.5, "drop": 0.1, "seconds": 1, "chosen": True}
    (run / "quantization.json").write_text(json.dumps({"candidates": [candidate]}))
    manifest = {"versions": {evil: evil}, "files": {evil: evil}, "models": {"int8": {"model": evil}}}
    (run / "artifacts" / "openvino" / "manifest.json").write_text(json.dumps(manifest))
    check_hostile_text_is_escaped(render(run).read_text())


def test_report_lists_pruned_layers_and_protected_modules(run: Path) -> None:
    assert ">Pruning<" not in render(run).read_text()
    record = {
        "reachable": [100_000_000, 500_000_000],
        "channels": {"model.1": [64, 48]},
        "protected": {"head": "<last>"},
    }
    (run / "pruning.json").write_text(json.dumps(record))
    page = render(run).read_text()
    narrowed = "Layers that were narrowed: 1; reachable: 0.200 to 1.000 GFLOPs"
    for text in (narrowed, "model.1", "64 → 48", "&lt;last&gt;"):
        assert text in page


def test_layers_sensitivity_and_disagreements_are_on_the_page(run: Path) -> None:
    (run / "pruning.json").write_text(json.dumps({"layer_macs": {HOSTILE: [2_000_000, 1_000_000]}}))
    times = {"device": HOSTILE, "target": "ncnn", "precision": "fp16", "obtained": "predicted"}
    (run / "layer_times.json").write_text(json.dumps(times | {"milliseconds": {"conv": [2.0, 1.0]}}))
    candidate = {"target": "ncnn", "scheme": "all", "accuracy": 0.5, "drop": 0.1, "seconds": 1}
    quantization = {"candidates": [candidate], "sensitivity": {"conv": 0.125}}
    (run / "quantization.json").write_text(json.dumps(quantization))
    text = render(run).read_text()
    check_hostile_text_is_escaped(text)
    for part in ("4 → 2 MFLOPs (−50.0 %)", "conv: 2 → 1 ms (−50.0 %)", "Sensitivity of each layer to INT8"):
        assert part in text
    (run / "drawings").mkdir()
    (run / "drawings" / "0.jpg").write_bytes(b"jpeg")
    drawn = {"columns": ["ncnn"], "rows": [["0.jpg"]], "worst": [{"files": ["0.jpg"], "agreement": [0.25]}]}
    (run / "drawings" / "index.json").write_text(json.dumps(drawn | {"compared": 9, "agreement": [0.9]}))
    text = render(run).read_text()
    assert text.index("Drawn by the seed") < text.index("Largest disagreements") < text.index("agreement 0.25")


def test_report_shows_verdict_remarks_changes_and_configuration(run: Path) -> None:
    text = render(run).read_text()
    assert "Budget not met" in text and "3 met, 1 missed, 1 could not be measured" in text
    assert "INT8 is not the fastest on openvino here" in text
    assert "0.876 → 0.437" in text and "Not drawn: prune 0.0312" in text
    assert "recipe_name: drone_nano" in text and "torch 2.14.1" in text


@pytest.mark.parametrize("ledger", [[], [row("load")], [row("load") | {"params": None, "imgsz": 8}]])
def test_an_unfinished_run_still_has_a_report(tmp_path: Path, ledger: list[dict[str, Any]]) -> None:
    run = write_run(tmp_path / "run", ledger)
    (run / "verdict.json").unlink()
    (run / "config.yaml").unlink()
    assert "Not judged" in render(run).read_text()


def test_nothing_to_judge_is_not_a_pass(run: Path) -> None:
    (run / "verdict.json").write_text(json.dumps({"checks": [], "remarks": [], "failures": {}}))
    text = render(run).read_text()
    assert "Nothing to judge" in text and "Budget met" not in text


def test_the_banner_counts_the_checks_that_are_met(run: Path) -> None:
    checks = [{**check, "met": True} for check in verdict()["checks"][:3]]
    (run / "verdict.json").write_text(json.dumps(verdict() | {"checks": checks, "met": True, "remarks": []}))
    assert "<b>Budget met</b><p>All 3 checks are met</p>" in render(run).read_text()


def test_a_failed_target_is_in_the_banner(run: Path) -> None:
    (run / "verdict.json").write_text(json.dumps(verdict() | {"failures": {"tensorrt": "no such operator"}}))
    assert "tensorrt failed: no such operator" in render(run).read_text()


def test_command_renders_and_prints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "budget.flops: 436.8 M, limit 438.2 M FLOPs" in out and (run / "report.html").is_file()


def test_tiles_compare_the_last_model_with_the_baseline(run: Path) -> None:
    text = render(run).read_text()
    for tile in (
        "<span>GFLOPs</span><strong>0.876 → 0.437</strong><span>−50.2 %</span>",
        "<span>mAP50-95, torch</span><strong>0.4873 → 0.4791</strong><span>−0.0082 on 500 images</span>",
    ):
        assert tile in text
    assert "openvino on host, ms" not in text, "the answer states the latencies"


def test_tiles_state_latencies_if_nothing_was_exported(run: Path) -> None:
    for manifest in run.glob("artifacts/*/manifest.json"):
        manifest.unlink()
    tile = "<span>openvino on host, ms</span><strong>3.29</strong><span>×0.79 of the baseline, fp32 file</span>"
    assert tile in render(run).read_text()


def test_the_answer_comes_before_the_verdict(run: Path) -> None:
    text = render(run).read_text()
    assert 0 < text.index("Best files of this run") < text.index("Budget not met")
    assert "artifacts/openvino/fp32_openvino_model/model.xml" in text and "&#39;name of this device&#39;" in text


def test_training_curves_are_drawn(run: Path) -> None:
    assert "<h2>Training</h2>" not in render(run).read_text()
    point = {"training": HOSTILE, "step": 1, "loss": 2.0, "learning_rate": 0.1}
    (run / "metrics.jsonl").write_text(json.dumps(point) + "\n")
    text = render(run).read_text()
    assert "<h2>Training</h2>" in text and "step 1\nloss 2\nlearning rate 0.1" in text and HOSTILE not in text


def test_a_baseline_that_knows_nothing_is_in_the_banner(run: Path) -> None:
    remark = {"kind": "baseline_knows_nothing", "text": "It guesses."}
    check = {"name": "x", "target": None, "precision": None, "limit": 1, "value": None, "unit": ""}
    (run / "verdict.json").write_text(json.dumps({"checks": [check], "remarks": [remark], "failures": {}}))
    banner = '<div class="banner open"><b>Undetermined</b><p>1 could not be measured, It guesses.</p></div>'
    assert banner in render(run).read_text()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_artifact_that_computes_no_number_has_missed_its_check(run: Path, value: float) -> None:
    check = {"name": "contract.same_as_torch", "target": "ncnn", "precision": "fp16", "limit": 0.01, "value": value}
    (run / "verdict.json").write_text(json.dumps({"checks": [check | {"unit": "relative"}], "met": False}))
    text = render(run).read_text()
    assert "Budget not met" in text and f">{value}</td>" in text and ">0.01</td>" in text


def test_drawings_are_inside_the_page(run: Path) -> None:
    folder = run / "drawings"
    folder.mkdir()
    (folder / "index.json").write_text(json.dumps({"columns": ["labels", "<b>"], "rows": [["0.jpg", "../0.jpg"]]}))
    assert "Validation images" not in render(run).read_text()  # the files are missing
    (folder / "0.jpg").write_bytes(b"jpeg")
    text = render(run).read_text()
    page = Balance()
    page.feed(text)
    assert page.open == [] and page.fetched == [] and "&lt;b&gt;" in text
    assert text.count("data:image/jpeg;base64,anBlZw==") == 2  # a name leads to no other folder

from __future__ import annotations

import json
from pathlib import Path

from compress.report.answer import answers
from compress.report.run_reader import read_run


def test_one_file_per_runtime_with_latency_accuracy_and_size(run: Path) -> None:
    by_target = {each.target: each for each in answers(read_run(run))}
    assert list(by_target) == ["onnxruntime", "openvino", "tensorrt"]
    openvino = by_target["openvino"]
    assert openvino.file == "artifacts/openvino/fp32_openvino_model/model.xml"
    assert openvino.figures == [
        ("latency, ms", "3.29", "on host, computed in bf16, ×0.79"),
        ("mAP50-95", "0.4788", "−0.0085 from the baseline"),
        ("size, MB", "3.90", "9.70 before"),
    ]
    assert by_target["tensorrt"].figures[0] == ("latency", "not run", "")
    assert "emulated" in by_target["tensorrt"].figures[1].note


def test_commands_and_programs_quote_what_the_files_say(run: Path) -> None:
    models = {"models": {"fp32": {"model": 'a" + "b.xml'}}}
    (run / "artifacts/openvino/manifest.json").write_text(json.dumps(models))
    onnxruntime, openvino, tensorrt = answers(read_run(run))
    assert onnxruntime.command == "cd artifacts/onnxruntime\npython bench.py int8 --device 'name of this device'"
    compile(onnxruntime.program, "program", "exec")
    assert 'compile_model(\'artifacts/openvino/a" + "b.xml\', "CPU")' in openvino.program
    assert tensorrt.program == ""


def test_a_precision_that_the_device_declares_is_preferred(run: Path) -> None:
    (run / "config.yaml").write_text("device: {name: board, precisions: [fp32]}\nbudget: {latency_ms: 4}\n")
    assert "fp32" in {each.precision for each in answers(read_run(run)) if each.target == "onnxruntime"}


def test_a_run_without_artifacts_has_no_answer(run: Path) -> None:
    for manifest in run.glob("artifacts/*/manifest.json"):
        manifest.unlink()
    assert answers(read_run(run)) == []

"""An ONNX file and nothing else, through the command line: weighed, quantized, exported. Ultralytics is not needed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from compress import data
from compress.config import DataConfig
from tests.models import onnx_files as files

PRELUDE = "import sys; sys.modules['ultralytics'] = None; from compress.__main__ import main; sys.exit(main())"
TARGETS = ["onnxruntime", "openvino", *(["tensorrt"] if importlib.util.find_spec("tensorrt_rtx") else [])]
SHORT = ["recipe=profile", "model=onnx", "data=digits", "data.validation_images=200", "threads=1"]


def command(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def rows_of(cwd: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cwd / "outputs" / "latest" / "ledger.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten linear templates for digits of 16 px, in a convolution: a file that torch never saw."""
    from sklearn.linear_model import LogisticRegression

    split = data.load(DataConfig(name="digits"), 16, 1, seed=0).train
    pixels = np.stack([split.image(index).ravel() for index in range(len(split))]) / 255
    fitted = LogisticRegression(max_iter=200).fit(pixels, [split.target(index) for index in range(len(split))])
    weights = fitted.coef_.reshape(10, 1, 16, 16).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["pixels", "w", "b"], ["maps"]),
        helper.make_node("Flatten", ["maps"], ["answer"]),
    ]
    constants = [numpy_helper.from_array(weights, "w")]
    constants += [numpy_helper.from_array(fitted.intercept_.astype(np.float32), "b")]
    folder = tmp_path_factory.mktemp("foreign")
    return files.save(files.model(nodes, constants, ("n", 1, 16, 16), opset=12), folder / "digits.onnx")


def test_a_file_is_weighed_quantized_and_exported(foreign: Path, tmp_path: Path) -> None:
    targets = f"targets=[{','.join(TARGETS)}]"
    done = command(tmp_path, *SHORT, f"model.path={foreign}", "stages=[quantize,export]", targets)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "as given" in done.stdout and "torch" not in done.stdout
    rows = {(row["stage"], row["target"], row["precision"]): row for row in rows_of(tmp_path)}
    given = rows["load", None, "fp32"]
    assert (given["macs"], given["params"], given["size_bytes"]) == (2560, 2570, foreign.stat().st_size)
    assert given["latency_ms"]["runtime"].startswith("onnxruntime") and given["flops_at_640"] is None
    assert given["accuracy"]["value"] > 0.9
    for target in TARGETS:
        assert abs(rows["load", target, "fp32"]["accuracy"]["value"] - given["accuracy"]["value"]) < 0.02
        assert rows["export", target, "int8"]["int8_mac_share"] == 1
        assert rows["export", target, "int8"]["accuracy"]["value"] > 0.9
        manifest = json.loads((tmp_path / f"outputs/latest/artifacts/{target}/manifest.json").read_text())
        assert manifest["inputs"] == [{"name": "images", "shape": [1, 1, 16, 16], "dtype": "float32"}]
        assert manifest["classes"] == [str(digit) for digit in range(10)]
    verdict = json.loads((tmp_path / "outputs" / "latest" / "verdict.json").read_text())
    kept = {(check["name"], check["target"]) for check in verdict["checks"] if check["met"]}
    assert verdict["met"] and not verdict.get("failures")
    assert {("contract.same_as_file", target) for target in TARGETS} <= kept
    assert {("contract.confidence_shift", target) for target in TARGETS} <= kept


def test_a_users_mistake_is_one_line_and_leaves_nothing_behind(foreign: Path, tmp_path: Path) -> None:
    done = command(tmp_path, *SHORT, f"model.path={foreign}", "stages=[prune,export]", "budget.flops=50%")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("compress: error: stages=[prune, export]: ")
    assert not list(tmp_path.glob("outputs/*/*/*"))

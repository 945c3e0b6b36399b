"""A cut-down drone_nano: the real YOLO26n and its recipe, on few and small images, from random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import compress
from compress import pipeline
from compress.config import compose
from compress.examples import field_scenes
from compress.measurement import rows
from compress.targets.tensorrt import gpu_is_present

pytest.importorskip("ultralytics")
SIZE = 64


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary YOLO data set of 96 + 24 images."""
    counts = {"train": 96, "validation": 24}
    return field_scenes.prepare(tmp_path_factory.mktemp("scenes"), SIZE, counts=counts, workers=1) / "data.yaml"


@pytest.fixture(scope="module")
def result(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> pipeline.Result:
    place = tmp_path_factory.mktemp("run")
    overrides = [
        "recipe=drone_nano",
        "model.weights=null",
        "force=true",
        "data=yolo",
        f"data.path={scenes}",
        "cache=false",
    ]
    overrides += [f"model.imgsz={SIZE}", "data.calibration_images=32", "finetune.images=64", "finetune.batch=16"]
    overrides += ["prune.equal_split_widths=true", "force=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(rows, "TIMING_SECONDS", 0.1)
        return compress.run(compose(overrides), place / "outputs" / "drone_nano" / "test")


def manifest(result: pipeline.Result, target: str) -> dict[str, Any]:
    return json.loads((result.folder / "artifacts" / target / "manifest.json").read_text())


def test_the_flop_budget_is_met_closely(result: pipeline.Result) -> None:
    full, last = result.rows[0], result.rows[-1]
    assert 0.49 * full.flops <= last.flops <= 0.5 * full.flops
    assert not result.verdict.failures


def test_most_work_runs_in_int8_where_the_runtime_is_asked(result: pipeline.Result) -> None:
    final = {row.target: row for row in result.rows if row.stage == "export" and row.precision == "int8"}
    assert set(final) == {"onnxruntime", "openvino", "tensorrt"}
    for target, row in final.items():
        assert row.int8_mac_share is not None and row.int8_mac_share >= 0.8, target
        assert row.int8_mac_share_obtained == ("graph" if target == "tensorrt" else "runtime")


def test_tensorrt_runs_on_a_gpu_or_is_emulated_and_its_engines_are_built(result: pipeline.Result) -> None:
    accuracy, latency = ("measured", "measured") if gpu_is_present() else ("emulated", "not_run")
    for row in result.rows:
        if row.target == "tensorrt":
            assert row.accuracy is not None and row.accuracy.obtained == accuracy
            assert row.latency_ms is not None and row.latency_ms.obtained == latency
    folder = result.folder / "artifacts" / "tensorrt"
    for precision in ("fp16", "int8"):
        assert (folder / precision / "model.engine").stat().st_size > 0
        assert "trtexec --onnx=model.onnx" in (folder / precision / "build.sh").read_text()


def test_artifacts_say_what_stayed_in_float_and_why(result: pipeline.Result) -> None:
    for target in ("onnxruntime", "openvino", "tensorrt"):
        content = manifest(result, target)
        assert content["classes"] == list(field_scenes.CLASSES)
        assert content["calibration"]["images"] == 32
        assert content["kept_float"] and all(layer and why for layer, why in content["kept_float"])


def test_fp32_artifacts_answer_as_torch_does(result: pipeline.Result) -> None:
    import onnxruntime
    import torch

    model = compress.load(result.folder / "pruned")
    image = model.example_input()
    with torch.inference_mode():
        expected = model.deployed()(image).numpy()
    path = result.folder / "artifacts" / "onnxruntime" / "fp32" / "model.onnx"
    actual = onnxruntime.InferenceSession(str(path)).run(None, {"images": image.numpy()})[0]
    # Rows are ranked by score; near ties may swap, scores may not.
    np.testing.assert_allclose(actual[..., 4], expected[..., 4], atol=1e-4)


def test_plain_ultralytics_recognises_the_artifacts(result: pipeline.Result) -> None:
    import onnx

    path = result.folder / "artifacts" / "onnxruntime" / "int8" / "model.onnx"
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert metadata["task"] == "detect" and "person" in metadata["names"] and metadata["imgsz"] == f"[{SIZE}, {SIZE}]"
    assert (result.folder / "artifacts" / "openvino" / "int8_openvino_model" / "metadata.yaml").exists()


def test_plain_ultralytics_opens_the_pruned_model(result: pipeline.Result) -> None:
    import torch
    from ultralytics import YOLO

    model = compress.load(result.folder / "pruned")
    plain = YOLO(str(result.folder / "pruned" / "model.pt")).model
    assert isinstance(plain, nn.Module)
    plain.fuse(verbose=False).eval()
    with torch.no_grad():
        assert torch.allclose(plain(model.example_input())[0], model.deployed()(model.example_input()), atol=1e-4)

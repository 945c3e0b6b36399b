"""Plain Ultralytics finds our mAP50-95 in the artifacts of a run, which is done in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import compress
from compress import models
from compress.config import compose

IMAGES = 300
RUNS = {
    "drone_nano": ["stages=[quantize,export]"],  # has trained weights
    "drone_segment": ["train.images=1600", "stages=[train,quantize,export]"],
    "drone_pose": ["train.images=4000", "train.learning_rate=0.002", "stages=[train,quantize,export]"],
    "drone_obb": ["train.images=1600", "stages=[train,quantize,export]"],
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RUNS)
def test_a_number_of_ours_is_one_that_a_user_finds(recipe: str, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    words = [f"recipe={recipe}", "targets=[onnxruntime,openvino]", "quantize.search=false", *RUNS[recipe]]
    config = models.resolve(compose([*words, "budget.flops=null", f"data.validation_images={IMAGES}"]))
    compress.run(config, tmp_path / "run")
    command = [sys.executable, "scripts/benchmarks/ultralytics_metrics.py", str(tmp_path / "run")]
    done = subprocess.run([*command, "--images", str(IMAGES)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    assert len(lines) == 4 + 1  # both precisions of both runtimes, and whether all agree

"""Whole recipes with the target litert: FP32 answers as torch, INT8 keeps the accuracy, the bench kit agrees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import compress
from compress import data, models, targets
from compress.product import Graph, Precision

AGREEMENT = 1e-3  # FP32 against torch, as a fraction of the largest output
IMAGES = 20  # that this is judged on
INT8_SHARE = 0.9  # of the MACs, at least
RECIPES = {
    "digits": ["recipe=digits"],
    "yolo26n": ["recipe=drone_nano", "budget.flops=null", "stages=[quantize,export]"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_network_reaches_litert_whole(name: str, tmp_path: Path) -> None:
    for package in ("ai_edge_litert", "litert_torch", "ai_edge_quantizer"):
        pytest.importorskip(package)
    config = models.resolve(compress.compose([*RECIPES[name], "targets=[litert]", "threads=1", "cache=false"]))
    result = compress.run(config, tmp_path / "run")
    dataset = data.load(config.data, *config.model.input, config.seed)
    pruned, artifact = tmp_path / "run" / "pruned", tmp_path / "run" / "artifacts" / "litert"
    model = compress.load(pruned) if pruned.exists() else models.build(config.model, dataset.classes, dataset.task)
    rows = {row.precision: row for row in result.rows if row.stage == "export"}
    assert set(rows) == {"fp32", "int8"}
    batch = np.concatenate(list(data.images(dataset.validation.subset(IMAGES, seed=0))))
    with torch.no_grad():
        wanted = model.deployed(postprocess=False)(torch.from_numpy(batch)).numpy()
    graph = Graph(artifact / "fp32" / "model.tflite", "litert", Precision.fp32)
    assert np.abs(targets.load(graph, 1)(batch) - wanted).max() <= AGREEMENT * np.abs(wanted).max()
    assert rows["fp32"].accuracy and rows["int8"].accuracy
    drop = rows["fp32"].accuracy.value - rows["int8"].accuracy.value
    assert drop <= config.quantize.max_accuracy_drop
    assert (rows["int8"].int8_mac_share or 0) >= INT8_SHARE
    for precision in rows:  # the kit needs nothing of this package, and cannot import it
        call = [precision, "--device", "host", "--seconds", "0.5"]
        code = f"import sys; sys.modules['compress'] = None; sys.path.insert(0, '.'); sys.argv[1:] = {call}"
        kit = [sys.executable, "-I", "-c", f"{code}; import bench; sys.exit(bench.main())"]
        done = subprocess.run(kit, cwd=artifact, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

"""A folder of images is enough to prune, fine-tune, quantize and export a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import compress
from compress.errors import UserError
from compress.measurement import latency, rows

CNN = ["recipe=custom", "model=module", "model.target=compress.examples.small_cnn.SmallCNN", "model.imgsz=16"]
CNN += ["model.channels=1", "+model.args.classes=2", "+model.args.channels=1", "threads=1", "budget.flops=60%"]
CNN += ["data=images", "data.path=photos", "data.calibration_images=32", "finetune.images=64", "prune.images=32"]
STAGES = "stages=[prune,reconstruct,finetune,quantize,export]"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 280 photographs, of which 32 are held out for validation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows, "TIMING_SECONDS", 0.01)
    monkeypatch.setattr(latency, "LOCK_SECONDS", 0.0)  # times are not compared
    generator = np.random.default_rng(0)
    for index in range(280):
        folder = tmp_path / "photos" / str(index % 3)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16), np.uint8)).save(folder / f"{index}.png")
    return tmp_path


def test_images_alone_go_through_the_whole_pipeline(place: Path) -> None:
    result = compress.run(compress.compose([*CNN, STAGES, "targets=[onnxruntime]", "prune.importance=taylor"]), "run")
    accuracies = [row.accuracy for row in result.rows if row.accuracy]
    assert len(accuracies) == len(result.rows)
    assert {each.metric for each in accuracies} == {"agreement top1"} and {each.images for each in accuracies} == {32}
    assert accuracies[0].value == 1 and accuracies[0].chance is None
    assert "agreement_is_not_accuracy" in [remark.kind for remark in result.verdict.remarks]
    [drop] = [each for each in result.verdict.checks if each.name == "quantize.max_accuracy_drop"]
    assert drop.unit == "absolute, agreement"
    artifact = place / "run" / "artifacts" / "onnxruntime"
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["agreement"] == {"with": "predictions of the unpruned model", "confidence": 0.25}
    assert manifest["models"]["int8"]["labelled_images"]["metric"] == "agreement top1"
    assert "agreement" in (artifact / "README.md").read_text()
    report = (place / "run" / "report.html").read_text()
    assert "Cost and agreement after each stage" in report and "Accuracy against" not in report


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages=[train]", "training needs labels, and data.labels is false"),
        ("finetune.distillation=0", "distillation is the only loss"),
        ("data.labels=true", "data=images has no labels"),
        ("data.path=nowhere", "no such folder"),
        ("data.confidence=1", "set a score in"),
        ("data.validation_fraction=0.9", "set a fraction in"),
    ],
)
def test_what_needs_labels_is_refused(override: str, message: str, place: Path) -> None:
    with pytest.raises(UserError, match=message):
        compress.run(compress.compose([*CNN, STAGES, "targets=[]", override]), "run")
    assert not (place / "run" / "ledger.jsonl").exists()

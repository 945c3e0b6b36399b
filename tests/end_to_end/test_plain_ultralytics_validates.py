"""Plain Ultralytics finds our mAP50-95 in the artifacts of a run, which is done in a process of its own.

What remains between the two is the area under the precision-recall curve: COCO takes the step function, as we do,
Ultralytics draws straight lines between the same 101 recalls. That is 0.001 on hundreds of images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import compress
from compress import data, models
from compress.capabilities import Evaluable
from compress.config import compose
from compress.data import supervised
from compress.measurement.accuracy import evaluate
from compress.product import Graph, Precision
from compress.targets import load

IMAGES = 300
TOLERANCE = 0.003
FILES = {
    ("onnxruntime", "fp32"): ("fp32/model.onnx", "fp32/model.onnx"),
    ("onnxruntime", "int8"): ("int8/model.onnx", "int8/model.onnx"),
    ("openvino", "fp32"): ("fp32_openvino_model/model.xml", "fp32_openvino_model"),
    ("openvino", "int8"): ("int8_openvino_model/model.xml", "int8_openvino_model"),
}
# The numbers that define the validation of a detector (Ultralytics' own defaults), and no by-products.
VALIDATE = """
import json, sys
from ultralytics import YOLO
path, described, imgsz, runs = sys.argv[1:5]
result = YOLO(path, task="detect").val(
    data=described, imgsz=int(imgsz), project=runs, name="val", exist_ok=True, batch=1, rect=False, device="cpu",
    conf=0.001, iou=0.7, max_det=300, workers=0, plots=False, save_json=False, verbose=False)
print("MAP", float(result.box.map))
"""


@pytest.mark.slow
def test_a_number_of_ours_is_one_that_a_user_finds(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    words = ["recipe=drone_nano", "budget.flops=null", "stages=[quantize,export]", "targets=[onnxruntime,openvino]"]
    config = models.resolve(compose([*words, f"data.validation_images={IMAGES}"]))
    compress.run(config, tmp_path / "run")
    dataset = data.load(config.data, *config.model.input, config.seed)
    model = models.build(config.model, dataset.classes, dataset.task)
    assert isinstance(model, Evaluable)
    split = dataset.validation
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for index, sample in enumerate(split.samples):
        image = Path(str(sample.source)).absolute()
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        (tmp_path / "data" / "images" / f"{index:06d}{image.suffix}").symlink_to(image)
        if label.is_file():
            (tmp_path / "data" / "labels" / f"{index:06d}.txt").symlink_to(label)
    described = tmp_path / "data.yaml"
    names = dict(enumerate(dataset.classes))
    content = {"path": str(tmp_path / "data"), "train": "images", "val": "images", "names": names}
    described.write_text(json.dumps(content))
    settings = tmp_path / "settings" / "Ultralytics"
    settings.mkdir(parents=True)
    for font in ("Arial.ttf", "Arial.Unicode.ttf"):  # it would fetch them for plots, drawn or not
        (settings / font).touch()
    offline = {"YOLO_CONFIG_DIR": str(settings.parent), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    for (target, precision), (path, given) in FILES.items():
        folder = tmp_path / "run" / "artifacts" / target
        predictor = load(Graph(folder / path, target, Precision(precision)), 2)
        ours = evaluate(predictor, model.decode, split, supervised(split), dataset.classes).value
        call = [sys.executable, "-c", VALIDATE, str(folder / given), str(described), str(model.imgsz), str(tmp_path)]
        done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, **offline}, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-1000:]
        theirs = float(done.stdout.split("MAP ")[1].split()[0])
        assert theirs == pytest.approx(ours, abs=TOLERANCE), (target, precision)

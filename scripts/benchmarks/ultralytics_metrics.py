"""Compares mAP50-95 of the artifacts of runs with what plain Ultralytics finds in the same files and images.

    python scripts/benchmarks/ultralytics_metrics.py RUN [RUN …] [--images 300]

RUN is a finished run of drone_nano, drone_segment, drone_pose or drone_obb. Each file for ONNX Runtime and OpenVINO is
evaluated on the first validation images, by this package and by `val` of Ultralytics, in a process of its own. Prints
one line per file: both mAP50-95 and their difference. Exit status 1: a difference is larger than 0.003.

What remains between the two is the area under the precision-recall curve: COCO takes the step function, as we do,
Ultralytics draws straight lines between the same 101 recalls. That is 0.001 on hundreds of images.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import common

from compress import checkpoint, config, data, models
from compress.capabilities import Evaluable, require
from compress.data import supervised
from compress.measurement.accuracy import evaluate
from compress.models import from_constructor
from compress.product import Graph, Precision
from compress.targets import load

TOLERANCE = 0.003
FILES = {
    ("onnxruntime", "fp32"): ("fp32/model.onnx", "fp32/model.onnx"),
    ("onnxruntime", "int8"): ("int8/model.onnx", "int8/model.onnx"),
    ("openvino", "fp32"): ("fp32_openvino_model/model.xml", "fp32_openvino_model"),
    ("openvino", "int8"): ("int8_openvino_model/model.xml", "int8_openvino_model"),
}
FIGURE = {"detect": "box", "segment": "seg", "pose": "pose", "obb": "box"}  # attribute of Ultralytics' results
# The numbers that define the validation of a detector (Ultralytics' own defaults), and no by-products.
VALIDATE = """
import sys
from ultralytics import YOLO
path, described, imgsz, runs, task, figure = sys.argv[1:]
result = YOLO(path, task=task).val(
    data=described, imgsz=int(imgsz), project=runs, name="val", exist_ok=True, batch=1, rect=False, device="cpu",
    conf=0.001, iou=0.7, max_det=300, workers=0, plots=False, save_json=False, verbose=False)
print("MAP", float(getattr(result, figure).map))
"""


def compare(run: Path, images: int, folder: Path) -> bool:
    """Prints the figures of one run. Returns whether all agree."""
    settings = models.resolve(config.read(run))
    dataset = data.load(settings.data, *settings.model.input, settings.seed)
    split = dataset.validation.first(images)
    model = require(checkpoint.load(run / "pruned", from_constructor), Evaluable, "run", run)
    labels = f"labels_{split.task.name}" if split.task.name != "detect" else "labels"
    path = common.ultralytics_data(folder, split, dataset.classes, labels)
    script, agreed = folder / "validate.py", True
    script.write_text(VALIDATE)
    for (target, precision), (file, given) in FILES.items():
        artifact = run / "artifacts" / target / file
        if not artifact.exists():
            continue
        predictor = load(Graph(artifact, target, Precision(precision)), settings.threads)
        ours = evaluate(predictor, model.decode, split, supervised(split), dataset.classes)
        call = [str(run / "artifacts" / target / given), str(path), str(model.imgsz), str(folder)]
        output = common.in_own_process(str(script), [*call, split.task.name, FIGURE[split.task.name]], seconds=1800)
        theirs = float(output.split("MAP ")[1].split()[0])
        agreed &= abs(theirs - ours.value) <= TOLERANCE
        row = {"run": run.name, "target": target, "precision": precision, ours.metric: round(ours.value, 4)}
        print(json.dumps({**row, "ultralytics": round(theirs, 4), "difference": round(theirs - ours.value, 4)}))
    return agreed


def main() -> int:
    arguments = common.parser(__doc__, images=300)
    arguments.add_argument("runs", type=Path, nargs="+", help="finished runs")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        common.isolate_ultralytics(Path(scratch) / "settings")
        agreed = [compare(run, options.images, Path(scratch) / str(i)) for i, run in enumerate(options.runs)]
    print(f"within {TOLERANCE}: {common.met(all(agreed))}")
    return 0 if all(agreed) else 1


if __name__ == "__main__":
    sys.exit(common.run(main))

"""Opens a run's ONNX and OpenVINO artifacts with plain Ultralytics and compares its mAP50-95 with ours.

    python scripts/check_ultralytics.py outputs/latest [--limit 200]

A user of that package must be able to go on working with these files, and a number of ours must be one that he finds
too. The comparison is with the ledger's row of stage export; with --limit, or where there is no such row, our own
evaluation runs again on the same images. Exits 1 where they are further apart than 0.003.

What remains between the two is the area under the precision-recall curve: COCO takes the step function, as we do,
Ultralytics draws straight lines between the same 101 recalls. That is 0.001 on hundreds of images, but 0.003 on five.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

import compress
from compress import config as configuration
from compress import data, targets
from compress.data import DataSet
from compress.errors import UserError
from compress.measurement.accuracy import evaluate
from compress.models.ultralytics_package import require_ultralytics
from compress.product import Graph, Model, Precision, Task

TOLERANCE = 0.003
# (target, precision): our graph in artifacts/, and what of it Ultralytics is given
ARTIFACTS = {
    ("onnxruntime", "fp32"): ("onnxruntime/fp32/model.onnx", "onnxruntime/fp32/model.onnx"),
    ("onnxruntime", "int8"): ("onnxruntime/int8/model.onnx", "onnxruntime/int8/model.onnx"),
    ("openvino", "fp32"): ("openvino/fp32_openvino_model/model.xml", "openvino/fp32_openvino_model"),
    ("openvino", "int8"): ("openvino/int8_openvino_model/model.xml", "openvino/int8_openvino_model"),
}
# The numbers that validation of a detector is defined by (Ultralytics' own defaults), and no by-products.
ARGUMENTS: dict[str, Any] = {
    "batch": 1, "rect": False, "device": "cpu", "conf": 0.001, "iou": 0.7, "max_det": 300, "workers": 0,
    "plots": False, "save_json": False, "verbose": False,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of a detector")
    parser.add_argument("--limit", type=int, help="judge on the first N validation images only")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as settings:
        isolate(Path(settings))
        try:
            return check(given.run, given.limit, given.threads)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2


def isolate(folder: Path) -> None:
    """Keeps Ultralytics, not imported yet, off the network and away from the user's settings, which could change what
    it does. It fetches a font for plots, drawn or not, unless a file of that name is among its settings."""
    (folder / "Ultralytics").mkdir()
    for font in ("Arial.ttf", "Arial.Unicode.ttf"):
        (folder / "Ultralytics" / font).touch()
    os.environ.update(YOLO_CONFIG_DIR=str(folder), YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    require_ultralytics()


def check(run: Path, limit: int | None, threads: int) -> int:
    """Prints a line an artifact; 1 if any differs by more than TOLERANCE, else 0.

    Raises:
        UserError: `run` holds no detector's artifacts, or its data is not there.
    """
    config = configuration.read(run)
    model = compress.load(run / "pruned")
    if model.task is not Task.detect:
        raise UserError("run", run, "plain Ultralytics validates detectors only")
    found = {key: paths for key, paths in ARTIFACTS.items() if (run / "artifacts" / paths[0]).is_file()}
    if not found:
        raise UserError("run", run, "holds no ONNX Runtime or OpenVINO artifacts")
    dataset = data.load(config.data, *config.model.input, config.seed)
    split = dataset.validation.first(limit)
    ledger = {} if limit is not None else read_ledger(run)
    print("Ultralytics: val(" + ", ".join(f"{k}={v!r}" for k, v in {"imgsz": model.imgsz, **ARGUMENTS}.items()) + ")")
    print(f"{len(split)} validation images of {config.data.name}")
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        described = write_data(folder, split, dataset.classes)
        for (target, precision), (path, given) in found.items():
            graph = Graph(run / "artifacts" / path, target, Precision(precision))
            ours = ledger.get((target, precision))
            source = "ledger"
            if ours is None:
                ours, source = evaluated(graph, model, dataset, split, threads), "evaluated now"
            theirs = validated(run / "artifacts" / given, described, model.imgsz, folder / "runs")
            worst = max(worst, abs(theirs - ours))
            print(
                f"{target:<11} {precision}: ours {ours:.4f} ({source}), Ultralytics {theirs:.4f}, "
                f"difference {theirs - ours:+.4f}",
                flush=True,
            )
    print(f"largest difference {worst:.4f}, allowed {TOLERANCE}: {'met' if worst <= TOLERANCE else 'NOT met'}")
    return 0 if worst <= TOLERANCE else 1


def read_ledger(run: Path) -> dict[tuple[str, str], float]:
    """{(target, precision): accuracy} of the rows of stage export."""
    path = run / "ledger.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {(r["target"], r["precision"]): r["accuracy"]["value"] for r in rows if r["stage"] == "export"}


def evaluated(graph: Graph, model: Model, dataset: DataSet, split: data.Split, threads: int) -> float:
    """mAP50-95 by our own evaluation."""
    return evaluate(targets.load(graph, threads), model.decode, split, model.task, dataset.classes).value


def write_data(folder: Path, split: data.Split, classes: tuple[str, ...]) -> Path:
    """A data.yaml in `folder` for Ultralytics, its images and labels linked: the package writes a cache file beside
    the labels, and the data set is not ours to write to."""
    from ultralytics.data.utils import img2label_paths

    for kind in ("images", "labels"):
        (folder / kind / "val").mkdir(parents=True)
    for index, sample in enumerate(split.samples):
        image = Path(str(sample.source)).absolute()
        label = Path(img2label_paths([str(image)])[0])
        (folder / "images" / "val" / f"{index:06d}{image.suffix}").symlink_to(image)
        if label.is_file():
            (folder / "labels" / "val" / f"{index:06d}.txt").symlink_to(label)
    facts = {"path": str(folder), "train": "images/val", "val": "images/val", "names": dict(enumerate(classes))}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(facts))
    return path


def validated(path: Path, described: Path, imgsz: int, runs: Path) -> float:
    """mAP50-95 by plain Ultralytics."""
    from ultralytics import YOLO

    result = YOLO(str(path), task="detect").val(
        data=str(described), imgsz=imgsz, project=str(runs), name="val", exist_ok=True, **ARGUMENTS
    )
    return float(result.box.map)


if __name__ == "__main__":
    sys.exit(main())

"""What every artifact must keep before it leaves the house, found out in a process of its own.

mAP can look fine while an INT8 graph halves every confidence, and a file can work in the process that made it and
nowhere else. So each artifact is opened from disk by a fresh interpreter, and its answers are held against torch's, or
against those of the ONNX file where that is all there is.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from compress.budget import Check
from compress.data import Split, images
from compress.errors import TargetFailed
from compress.measure.mean_ap import iou
from compress.models.onnx_model import OnnxModel
from compress.product import Detections, Model, Precision, Task
from compress.targets import artifact
from compress.targets.reload import AGAIN, AS_RUN

IMAGES = 32  # of the validation split, drawn by SEED
SEED = 0
DIFFERENCE = {Precision.fp32: 1e-3, Precision.fp16: 5e-2}  # from torch; FP16 has steps of 0.06 px at 100 px
SHIFT = 0.05  # median change of a detection's confidence
SURE = 0.25  # a detection that torch is this sure of must be found again
OVERLAP = 0.5  # with at least this intersection over union, in the same class
RANKED = 0.01  # rows of end-to-end detectors that are so near to the lowest score come in any order
SECONDS = 600  # for a fresh interpreter to answer


def verify(folder: Path, model: Model, split: Split) -> list[Check]:
    """The contracts on the artifact in `folder`, made of `model`, on some images of a split.

    Raises:
        TargetFailed: a file was altered, does not open in a fresh process, or answers in another shape than its
            manifest says.
    """
    batch = np.concatenate(list(images(split.subset(IMAGES, SEED))))
    with torch.inference_mode():
        rows, whole = (model.deployed(tail=tail)(torch.from_numpy(batch)).numpy() for tail in (False, True))
    answers, found = _answers(folder, batch), []
    same = "same_as_file" if isinstance(model, OnnxModel) else "same_as_torch"
    for graph, _ in artifact.read(folder):
        precision = graph.precision

        def check(name: str, limit: float, value: float | None, unit: str, precision: Precision = precision) -> None:
            found.append(Check(f"contract.{name}", folder.name, precision.value, limit, value, unit))

        own, again = answers[precision.value], answers[f"{precision.value}/{AGAIN}"]
        check("deterministic", 0.0, float(np.abs(own[: len(again)] - again).max()), "difference")
        if precision in DIFFERENCE:
            ranked = model.tail is not None and graph.tail is None  # its rows come in the order of their scores
            off = _nearest_rows(own, whole) if ranked else _off(own, rows)
            check(same, DIFFERENCE[precision], off, "of 1 + each value")
        run = answers.get(f"{precision.value}/{AS_RUN}", own)
        if precision is not Precision.fp32 or run is not own:
            shift = confidence_shift(model, whole, graph.tail(run) if graph.tail else run)
            check("confidence_shift", SHIFT, shift, "median over sure detections")
    return found


def _off(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference, each against 1 + the value that is wanted: probabilities stand beside pixels, and a share of
    the largest pixel would let any probability pass."""
    return float((np.abs(found - wanted) / (1 + np.abs(wanted))).max())


def _answers(folder: Path, batch: np.ndarray) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        given, found = Path(scratch, "images.npy"), Path(scratch, "answers.npz")
        np.save(given, batch)
        command = [sys.executable, "-m", "compress.targets.reload", str(folder), str(given), str(found)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise TargetFailed(f"{folder}: a fresh process did not answer in {SECONDS} s") from error
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise TargetFailed(f"{folder} does not work in a fresh process: {why}")
        with np.load(found) as answers:
            return dict(answers)


def _nearest_rows(found: np.ndarray, wanted: np.ndarray) -> float:
    """As `_off`, of each row (box, score, class) and the nearest one on the other side: rows of nearly equal scores may
    change places."""
    worst = 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        for here, there in ((ours, theirs), (theirs, ours)):
            for row in here[here[:, 4] > here[:, 4].min() + RANKED]:  # the last ones may have dropped off the end
                worst = max(worst, float((np.abs(there - row) / (1 + np.abs(row))).max(axis=1).min()))
    return worst


def confidence_shift(model: Model, expected: np.ndarray, found: np.ndarray) -> float | None:
    """Median change of confidence, in [0, 1], from torch's raw answers to an artifact's. Of detectors it is that of
    every detection that torch is sure of, 1 where it is not found again; of classifiers that of the class torch names.
    None where torch is sure of nothing: such a model is not known to be any good.
    """
    if model.task is not Task.detect:
        before, after = (_softmax(model.decode(each)) for each in (expected, found))
        best = before.argmax(axis=1)[:, None]
        return float(np.median(np.abs(np.take_along_axis(before, best, 1) - np.take_along_axis(after, best, 1))))
    changes = []
    for wanted, seen in zip(model.decode(expected), model.decode(found), strict=True):
        assert isinstance(wanted, Detections) and isinstance(seen, Detections)
        for box, score, cls in zip(wanted.boxes, wanted.scores, wanted.classes, strict=True):
            if score < SURE:
                break  # they come in descending order
            same = (seen.classes == cls) & (iou(box[None], seen.boxes)[0] >= OVERLAP)
            changes.append(abs(float(score) - float(seen.scores[same].max())) if same.any() else 1.0)
    return float(np.median(changes)) if changes else None


def _softmax(scores: np.ndarray | list[Detections]) -> np.ndarray:
    """Probabilities (b, classes); of those that are probabilities already, they are left as they are."""
    rows = np.asarray(scores, dtype=np.float64)
    if (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-2):
        return rows
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)

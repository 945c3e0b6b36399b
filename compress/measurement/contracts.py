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
from compress.capabilities import Evaluable, GivenAsGraph
from compress.data import Split, images
from compress.errors import TargetFailed
from compress.product import Precision
from compress.targets import artifact
from compress.targets.reload import AGAIN, AS_RUN
from compress.tasks import SupervisedTask

IMAGES = 32  # of the validation split, drawn by SEED
SEED = 0
DIFFERENCE = {Precision.fp32: 1e-3, Precision.fp16: 5e-2}  # from torch; FP16 has steps of 0.06 px at 100 px
SHIFT = 0.05  # median change of a detection's confidence
RANKED = 0.01  # rows of end-to-end detectors that are so near to the lowest score come in any order
SECONDS = 600  # for a fresh interpreter to answer


def verify(folder: Path, model: Evaluable, split: Split) -> list[Check]:
    """The contracts on the artifact in `folder`, made of `model`, on some images of a split.

    Raises:
        TargetFailed: a file was altered, does not open in a fresh process, or answers in another shape than its
            manifest says.
    """
    batch = np.concatenate(list(images(split.subset(IMAGES, SEED))))
    with torch.inference_mode():
        rows, whole = (model.deployed(postprocess=each)(torch.from_numpy(batch)).numpy() for each in (False, True))
    answers, found = _answers(folder, batch), []
    same = "same_as_file" if isinstance(model, GivenAsGraph) else "same_as_torch"
    for graph, _ in artifact.read(folder):
        precision = graph.precision

        def check(name: str, limit: float, value: float | None, unit: str, precision: Precision = precision) -> None:
            found.append(Check(f"contract.{name}", folder.name, precision.value, limit, value, unit))

        own, again = answers[precision.value], answers[f"{precision.value}/{AGAIN}"]
        check("deterministic", 0.0, float(np.abs(own[: len(again)] - again).max()), "difference")
        if precision in DIFFERENCE:
            ranked = (
                model.postprocess is not None and graph.postprocess is None
            )  # its rows come in the order of their scores
            off = _nearest_rows(own, whole) if ranked else _off(own, rows)
            check(same, DIFFERENCE[precision], off, "of 1 + each value")
        run = answers.get(f"{precision.value}/{AS_RUN}", own)
        if precision is not Precision.fp32 or run is not own:
            shift = confidence_shift(model, whole, graph.postprocess(run) if graph.postprocess else run)
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


def confidence_shift(model: Evaluable, expected: np.ndarray, obtained: np.ndarray) -> float | None:
    """Median change of confidence, in [0, 1], from torch's raw outputs to an artifact's, see
    `SupervisedTask.confidence_shift`. None where torch is confident of nothing."""
    assert isinstance(model.task, SupervisedTask)  # `Evaluable` models have such a task
    return model.task.confidence_shift(model.decode(expected), model.decode(obtained))

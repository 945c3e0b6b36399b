"""Acceptance checks for exported artifacts, run in a fresh process. mAP can stay the same while an INT8 graph halves
every confidence, and a file can work only in the process that wrote it. So a fresh interpreter opens it, and its
outputs are compared with those of torch, or of the ONNX file given."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from compress.budget import Check
from compress.capabilities import Evaluable, GivenAsGraph
from compress.data import Split, images
from compress.errors import TargetFailed
from compress.product import Precision
from compress.targets import artifact, reload
from compress.targets.reload import AGAIN, AS_RUN
from compress.tasks import Outputs, SupervisedTask
from compress.tasks.outputs import arrays, from_torch

IMAGES = 32  # of the validation split, drawn with SEED
SEED = 0
DIFFERENCE = {Precision.fp32: 1e-3, Precision.fp16: 5e-2}  # from torch, see `_off`; FP16 has steps of 0.06 px at 100 px
SHIFT = 0.05  # median change of confidence
RANKED = 0.01  # rows of end-to-end detectors with scores this close to the lowest come in any order
SECONDS = 600  # time limit of the fresh interpreter


def verify(folder: Path, model: Evaluable, split: Split) -> list[Check]:
    """Checks the artifact in `folder`, exported from `model`, on `IMAGES` images of a split. Per graph: deterministic
    outputs, outputs close to torch's (FP32 and FP16), and confidences close to torch's (other precisions, and FP32
    graphs that the runtime computes in another format). Of several outputs, the one that differs most counts. Raises
    TargetFailed if a file was altered, does not open in a fresh process, or its output shapes differ from the manifest.
    """
    batch = np.concatenate(list(images(split.subset(IMAGES, SEED))))
    with torch.inference_mode():
        raw, final = (from_torch(model.deployed(postprocess=flag)(torch.from_numpy(batch))) for flag in (False, True))
    outputs, checks = _outputs(folder, batch), []
    same = "same_as_file" if isinstance(model, GivenAsGraph) else "same_as_torch"
    for graph, _ in artifact.read(folder):
        precision = graph.precision

        def check(name: str, limit: float, value: float | None, unit: str, precision: Precision = precision) -> None:
            checks.append(Check(f"contract.{name}", folder.name, precision.value, limit, value, unit))

        output, again = outputs[precision.value], outputs[f"{precision.value}/{AGAIN}"]
        changes = (float(np.abs(one[: len(two)] - two).max()) for one, two in _pairs(output, again))
        check("deterministic", 0.0, _largest(changes), "difference")
        if precision in DIFFERENCE:
            ranked = model.postprocess is not None and graph.postprocess is None  # rows are sorted by score
            pairs = enumerate(_pairs(output, final if ranked else raw))
            off = (_nearest_rows(*pair) if ranked and index == 0 else _off(*pair) for index, pair in pairs)
            check(same, DIFFERENCE[precision], _largest(off), "relative to 1 + abs(value)")
        run = outputs.get(f"{precision.value}/{AS_RUN}", output)
        if precision is not Precision.fp32 or run is not output:
            shift = confidence_shift(model, final, graph.postprocess(run) if graph.postprocess else run)
            check("confidence_shift", SHIFT, shift, "median over confident detections")
    return checks


def _pairs(one: Outputs, other: Outputs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return zip(arrays(one), arrays(other), strict=True)


def _largest(differences: Iterable[float]) -> float:
    """The largest value; NaN if there is one."""
    return float(np.max(list(differences)))


def _off(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest |actual - expected| / (1 + |expected|). Outputs mix probabilities and pixels: a tolerance relative to
    the largest pixel would accept any probability."""
    return float((np.abs(actual - expected) / (1 + np.abs(expected))).max())


def _outputs(folder: Path, batch: np.ndarray) -> dict[str, Outputs]:
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        inputs, outputs = Path(scratch, "images.npy"), Path(scratch, "outputs.npz")
        np.save(inputs, batch)
        command = [sys.executable, "-m", "compress.targets.reload", str(folder), str(inputs), str(outputs)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise TargetFailed(f"{folder}: the fresh process did not finish in {SECONDS} s") from error
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise TargetFailed(f"{folder} does not work in a fresh process: {why}")
        return reload.read(outputs)


def _nearest_rows(actual: np.ndarray, expected: np.ndarray) -> float:
    """`_off` between each row (box, score, class) and the nearest of the other array: rows of close scores may swap."""
    worst = 0.0
    for pair in zip(actual, expected, strict=True):
        for rows, others in (pair, pair[::-1]):
            for row in rows[rows[:, 4] > rows[:, 4].min() + RANKED]:  # rows below may be cut off in the other array
                worst = max(worst, float((np.abs(others - row) / (1 + np.abs(row))).max(axis=1).min()))
    return worst


def confidence_shift(model: Evaluable, expected: Outputs, obtained: Outputs) -> float | None:
    """Median change of confidence, in [0, 1], between raw outputs of torch and of an artifact; None if torch is
    confident of nothing. See `SupervisedTask.confidence_shift`."""
    assert isinstance(model.task, SupervisedTask)  # `Evaluable` models have such a task
    return model.task.confidence_shift(model.decode(expected), model.decode(obtained))

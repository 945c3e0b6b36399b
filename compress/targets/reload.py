"""Opens an artifact in a process that never saw its making, as a device will, and writes down what it answers.

    python -m compress.targets.reload artifacts/onnxruntime images.npy answers.npz

Run by `compress.measurement.contracts`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from compress import targets
from compress.errors import TargetFailed
from compress.product import Precision
from compress.targets import artifact

REPEATED = 4  # images that are answered twice: the same bits?
AGAIN = "again"
AS_RUN = "as_run"


def main(folder: Path, images: Path, answers: Path) -> None:
    """Writes {precision: (b, …), precision/again: the first images once more}. FP32 is computed in float32; where its
    runtime does otherwise by itself, as OpenVINO with BF16 on some CPUs, also as that does it (fp32/as_run).

    Raises:
        TargetFailed: a file is not the one that was packed, does not open, or answers in another shape than the
            manifest says.
    """
    given, found = np.load(images), {}
    for graph, shape in artifact.read(folder):
        target, exact = targets.get(graph.target), graph.precision is Precision.fp32
        predict = target.load(graph, 1, exact=exact)
        answered = predict(given)
        if answered.shape[1:] != shape[1:]:
            raise TargetFailed(f"{graph.path} answers in shape {answered.shape[1:]}, its manifest says {shape[1:]}")
        found[graph.precision.value] = answered
        found[f"{graph.precision.value}/{AGAIN}"] = predict(given[:REPEATED])
        as_run = target.load(graph, 1) if exact else predict
        if as_run.inference_precision != predict.inference_precision:
            found[f"{graph.precision.value}/{AS_RUN}"] = as_run(given)
    np.savez(answers, **found)  # type: ignore[arg-type]  # a keyword of its own may be a bool


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except TargetFailed as error:
        sys.exit(str(error))

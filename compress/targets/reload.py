"""Opens an artifact in a fresh process, as on a device, and stores its outputs.

    python -m compress.targets.reload artifacts/onnxruntime images.npy outputs.npz

`compress.measurement.contracts` runs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from compress import targets
from compress.errors import TargetFailed
from compress.product import Precision
from compress.targets import artifact

REPEATED = 4  # images that run twice, to check that outputs are deterministic
AGAIN = "again"
AS_RUN = "as_run"


def main(folder: Path, images: Path, outputs: Path) -> None:
    """Writes the raw outputs of every graph in an artifact folder.

    Args:
        images: .npy file, float32 (b, c, s, s).
        outputs: .npz file to write: {precision: (b, …)}, {precision}/again for the first images once more, and
            fp32/as_run. FP32 graphs run in float32; `as_run` has their outputs in the precision that the runtime
            selects, if it selects another one (OpenVINO: BF16 on some CPUs).

    Raises:
        TargetFailed: a file is not the one that was packed, does not open, or its output has another shape than in the
            manifest.
    """
    batch, results = np.load(images), {}
    for graph, shape in artifact.read(folder):
        target, exact = targets.get(graph.target), graph.precision is Precision.fp32
        predict = target.load(graph, 1, exact=exact)
        output = predict(batch)
        if output.shape[1:] != shape[1:]:
            raise TargetFailed(f"{graph.path} returns shape {output.shape[1:]}, its manifest says {shape[1:]}")
        results[graph.precision.value] = output
        results[f"{graph.precision.value}/{AGAIN}"] = predict(batch[:REPEATED])
        as_run = target.load(graph, 1) if exact else predict
        if as_run.inference_precision != predict.inference_precision:
            results[f"{graph.precision.value}/{AS_RUN}"] = as_run(batch)
    np.savez(outputs, **results)  # type: ignore[arg-type]  # savez has a keyword argument of type bool


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except TargetFailed as error:
        sys.exit(str(error))

"""Opens an artifact in a fresh process, as on a device, and stores its outputs. `compress.measurement.contracts` runs

python -m compress.targets.reload artifacts/onnxruntime images.npy outputs.npz
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
    """Runs every graph of an artifact folder on `images`, an .npy file of float32 (b, c, s, s).

    Writes the .npz file `outputs`: {precision} (b, …), and {precision}/again for the first images once more. FP32 runs
    in float32; fp32/as_run has the outputs in the precision that the runtime selects, if that is another one (OpenVINO:
    BF16 on some CPUs). Raises TargetFailed if a file was changed or does not open, or has another output shape.
    """
    batch = np.load(images)
    results: dict[str, np.ndarray] = {}
    for graph, shape in artifact.read(folder):
        target, exact = targets.get(graph.target), graph.precision is Precision.fp32
        predict = target.load(graph, 1, exact=exact)
        output = predict(batch)
        if output.shape[1:] != shape[1:]:
            raise TargetFailed(f"{graph.path} returns shape {output.shape[1:]}, its manifest says {shape[1:]}")
        name = graph.precision.value
        results |= {name: output, f"{name}/{AGAIN}": predict(batch[:REPEATED])}
        as_run = target.load(graph, 1) if exact else predict
        if as_run.inference_precision != predict.inference_precision:
            results[f"{name}/{AS_RUN}"] = as_run(batch)
    np.savez(outputs, **results)  # type: ignore[arg-type]  # savez has a keyword argument of type bool


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except TargetFailed as error:
        sys.exit(str(error))

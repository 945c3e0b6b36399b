"""Opens an artifact in a fresh process, as on a device, and stores its outputs. `compress.measurement.contracts` runs

python -m compress.targets.reload artifacts/onnxruntime images.npy outputs.npz
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from compress import targets
from compress.errors import TargetFailed
from compress.product import Precision
from compress.targets import artifact
from compress.tasks import Outputs
from compress.tasks.outputs import arrays, pack

REPEATED = 4  # images that run twice, to check that outputs are deterministic
AGAIN = "again"
AS_RUN = "as_run"


def main(folder: Path, images: Path, outputs: Path) -> None:
    """Runs every graph of an artifact folder on `images`, an .npy file of float32 (b, c, s, s).

    Writes the .npz file `outputs`: {precision} (b, …), and {precision}/again for the first images once more. FP32 runs
    in float32; fp32/as_run has the outputs in the precision that the runtime selects, if that is another one (OpenVINO:
    BF16 on some CPUs). Further outputs of a graph follow as {name}.1, …; `read` groups them. Raises TargetFailed if a
    file was changed or does not open, or has other output shapes.
    """
    batch = np.load(images)
    results: dict[str, np.ndarray] = {}
    for graph, expected in artifact.read(folder):
        target, exact = targets.get(graph.target), graph.precision is Precision.fp32
        predict = target.load(graph, 1, exact=exact)
        computed = predict(batch)
        shapes = _text(output.shape for output in arrays(computed))
        if shapes != (said := _text(expected)):
            raise TargetFailed(f"{graph.path} returns shape {shapes}, its manifest says {said}")
        name = graph.precision.value
        results |= _entries(name, computed) | _entries(f"{name}/{AGAIN}", predict(batch[:REPEATED]))
        as_run = target.load(graph, 1) if exact else predict
        if as_run.inference_precision != predict.inference_precision:
            results |= _entries(f"{name}/{AS_RUN}", as_run(batch))
    np.savez(outputs, **results)  # type: ignore[arg-type]  # savez has a keyword argument of type bool


def read(path: Path) -> dict[str, Outputs]:
    """Reads the file that `main` writes."""
    grouped: dict[str, list[np.ndarray]] = {}
    with np.load(path) as file:
        for entry, array in file.items():  # in the order in which they were written
            grouped.setdefault(entry.partition(".")[0], []).append(array)
    return {name: pack(several) for name, several in grouped.items()}


def _entries(name: str, outputs: Outputs) -> dict[str, np.ndarray]:
    return {f"{name}.{index}" if index else name: array for index, array in enumerate(arrays(outputs))}


def _text(shapes: Iterable[tuple[int, ...]]) -> str:
    """Shapes of outputs without the batch axis, for comparison and messages."""
    return ", ".join(str(shape[1:]) for shape in shapes)


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except TargetFailed as error:
        sys.exit(str(error))

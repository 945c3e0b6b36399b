"""Do networks reach LiteRT whole? One line a file, exit status 1 where something is amiss, 2 without the packages.

    pip install -e '.[litert]'
    python scripts/check_litert.py [digits] [yolo26n]

Two recipes run with the target litert alone: `digits` from training to export, and drone_nano's YOLO26n, not pruned,
quantized and exported. Of each file in the artifacts it is asked: does FP32 answer as torch does, does INT8 keep the
accuracy, is the network in INT8 indeed, and is the bench kit, in a fresh interpreter, content with its model?
Some five minutes on two cores; the scenes are rendered first where they are not there.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

import compress
from compress import data, models, targets
from compress.errors import UserError
from compress.ledger import Row
from compress.product import Graph, Model, Precision

TARGET = "litert"
AGREEMENT = 1e-3  # FP32 against torch, as a share of the largest output
IMAGES = 20  # that this is judged on
INT8_SHARE = 0.9  # of the MACs, at least
RECIPES = {
    "digits": ["recipe=digits"],
    "yolo26n": ["recipe=drone_nano", "budget.flops=null", "stages=[quantize,export]"],
}
HEADER = "model    file    size KB   accuracy  latency ms  MACs in INT8  from torch"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; all by default")
    parser.add_argument("--threads", type=int, default=1, help="more only help where cores are idle")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    lines, failures = [], []
    try:
        targets.get(TARGET)
        for name in given.names or RECIPES:
            if name not in RECIPES:
                raise UserError("NAME", name, f"choose from {', '.join(RECIPES)}")
            with TemporaryDirectory() as scratch:
                for file in check(name, Path(scratch), given.threads):
                    lines.append(line(name, file))
                    failures += [f"{name} {file.row.precision}: {why}" for why in file.amiss]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(["", HEADER, *lines, *(f"FAILED {why}" for why in failures)]))
    print(f"{len(lines)} files, {len(failures)} things amiss")
    return 1 if failures else 0


@dataclass
class Checked:
    """One file: its row in the ledger, its largest difference from torch, and what is amiss."""

    row: Row
    difference: float
    amiss: list[str]

    @property
    def accuracy(self) -> float:
        return float((self.row.accuracy or {})["value"])


def check(name: str, folder: Path, threads: int) -> list[Checked]:
    """Runs a recipe into `folder` and looks at its artifacts."""
    config = models.resolve(
        compress.compose([*RECIPES[name], f"targets=[{TARGET}]", f"threads={threads}", "cache=false"])
    )
    result = compress.run(config, folder)
    dataset = data.load(config.data, *config.model.input, config.seed)
    pruned, artifact = folder / "pruned", folder / "artifacts" / TARGET
    model = compress.load(pruned) if pruned.exists() else models.build(config.model, dataset.classes, dataset.task)
    images = list(data.images(dataset.validation.subset(IMAGES, seed=0)))

    found: dict[str, Checked] = {}
    for row in result.rows:
        if row.stage == "export":
            graph = Graph(artifact / row.precision / "model.tflite", TARGET, Precision(row.precision))
            found[row.precision] = Checked(row, difference(model, graph, images), bench(artifact, row.precision))
    if set(found) != {"fp32", "int8"}:
        raise SystemExit(f"{name}: wanted files in fp32 and int8, the run wrote {sorted(found) or 'none'}")
    fp32, int8 = found["fp32"], found["int8"]
    if not fp32.difference <= AGREEMENT:
        fp32.amiss.append(f"differs from torch by {fp32.difference:.2g} of the largest output")
    if not fp32.accuracy - int8.accuracy <= config.quantize.max_accuracy_drop:
        int8.amiss.append(f"{int8.accuracy:.4f} is too far below {fp32.accuracy:.4f} in float")
    if not (share := int8.row.int8_mac_share or 0.0) >= INT8_SHARE:
        int8.amiss.append(f"only {share:.1%} of the MACs are INT8")
    return [fp32, int8]


def difference(model: Model, graph: Graph, images: list[np.ndarray]) -> float:
    """Largest difference from torch, as a share of torch's largest output; before any step left to NumPy."""
    net, predictor = model.deployed(tail=False), targets.load(graph, 1)
    batch = np.concatenate(images)
    with torch.no_grad():
        wanted = net(torch.from_numpy(batch)).numpy()
    return float(np.abs(predictor(batch) - wanted).max() / np.abs(wanted).max())


def bench(artifact: Path, precision: str) -> list[str]:
    """What the kit in the artifact complains of. It may need nothing of this package, and cannot import it."""
    call = [precision, "--device", "host", "--seconds", "0.5"]
    code = f"import sys; sys.modules['compress'] = None; sys.path.insert(0, '.'); sys.argv[1:] = {call}"
    kit = [sys.executable, "-I", "-c", f"{code}; import bench; sys.exit(bench.main())"]
    done = subprocess.run(kit, cwd=artifact, capture_output=True, text=True)
    if done.returncode == 0:
        return []
    return [f"the bench kit fails: {(done.stderr.strip().splitlines() or ['another output'])[-1]}"]


def line(name: str, file: Checked) -> str:
    row = file.row
    return (
        f"{name:<8} {row.precision:<5} {(row.size_bytes or 0) / 1e3:9.0f}   {file.accuracy:8.4f}"
        f"  {(row.latency_ms or {})['median']:10.2f}  {row.int8_mac_share or 0.0:12.1%}   {file.difference:9.1e}"
    )


if __name__ == "__main__":
    sys.exit(main())

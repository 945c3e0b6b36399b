"""A nano pruned from a larger parent, against the nano trained directly, with equally many training images in total.

    python scripts/benchmarks/larger_parents.py [--images 24000] [--tuned 9600] [--parent yolo26s] [--child yolo26n]

Both networks start from random weights. The child is trained with --images. The parent is trained with --images less
--tuned, pruned to the FLOPs of the child by `budget.flops`, and fine-tuned with --tuned images and the parent as
teacher. As a control, the child is also trained and fine-tuned in the same two phases, without a teacher. Data:
field_scenes at 256 px; mAP50-95 on its 3,000 validation images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

from compress.host import host
from compress.ledger import Row, read

COMMON = ["recipe=custom", "data=field_scenes", "data.large_validation=true", "model.imgsz=256", "targets=[]"]


def main() -> int:
    parser = common.parser(__doc__, images=24000, tuned=9600, seed=0)
    parser.add_argument("--parent", default="yolo26s")
    parser.add_argument("--child", default="yolo26n")
    options = parser.parse_args()
    print(f"{host().cpu}, {host().threads} CPUs; {options.images} training images each, seed {options.seed}")
    seed = f"seed={options.seed}"
    direct, seconds = run(options.child, "stages=[train]", f"train.images={options.images}", "budget.flops=null", seed)
    show(f"{options.child}, trained", direct[-1], seconds)
    twice, seconds = run(
        options.child, "stages=[train,finetune]", f"train.images={options.images - options.tuned}",
        f"finetune.images={options.tuned}", "finetune.distillation=0", "budget.flops=null", seed,
    )  # fmt: skip
    show(f"{options.child}, trained twice", twice[-1], seconds)
    pruned, seconds = run(
        options.parent, "stages=[train,prune,finetune]", f"train.images={options.images - options.tuned}",
        f"finetune.images={options.tuned}", f"budget.flops={direct[-1].flops}", seed,
    )  # fmt: skip
    for row in pruned[1:]:
        show(f"{options.parent}, {row.stage}", row, seconds)
    return 0


def run(name: str, *overrides: str) -> tuple[list[Row], float]:
    """The ledger rows of a run of `python -m compress` and its duration in seconds."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = [f"model={name}"] if name in ("yolo26n", "yolo11n", "yolov8n") else ["model=ultralytics"]
        command = [sys.executable, "-m", "compress", *COMMON, *model, f"model.name={name}", "force=true", *overrides]
        done = subprocess.run([*command, f"hydra.run.dir={folder}"], env=os.environ, stdout=sys.stderr)
        if done.returncode not in (0, 1):  # 1: a limit is missed
            raise SystemExit(done.returncode)
        rows = list(read(Path(folder, "ledger.jsonl")))
    return rows, time.perf_counter() - began


def show(name: str, row: Row, seconds: float) -> None:
    assert row.accuracy is not None and row.accuracy.ci95 is not None and row.params is not None
    low, high = row.accuracy.ci95
    value = f"{row.accuracy.value:.4f} ({low:.4f} to {high:.4f})"
    print(f"{name:22} {row.flops / 1e9:.3f} GFLOPs, {row.params / 1e6:.2f} M parameters, mAP50-95 {value}, "
          f"{seconds / 60:.1f} min", flush=True)  # fmt: skip
    print(json.dumps({"name": name, "flops": row.flops, "value": row.accuracy.value}), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(common.run(main))

"""Compares compression with labels and with labels withheld (`data.labels=false`), on the same images.

    python scripts/benchmarks/no_labels.py [--seeds 1] [--images 12000] [--validation 1000] [KEY=VALUE ...]

Both start from the recipe's trained model, are pruned to half the FLOPs and fine-tuned with the same number of images.
Both results are then evaluated with the labels of the validation split. The agreement is what the run without labels
reports of itself. Results go to --out; finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import common

import compress
from compress import atomic, ledger, pipeline
from compress.config import compose

RECIPE = "drone_nano"
GOAL = 0.01  # largest loss of mAP50-95 by withholding labels
WAYS = {"with labels": "true", "without labels": "false"}


def main() -> int:
    parser = common.parser(__doc__, seeds=1, images=12000, validation=1000)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/no_labels"), help="folder of the runs")
    parser.add_argument("overrides", nargs="*", help="further overrides of the recipe, for both")
    options = parser.parse_args()
    rows = [cell(labels, seed, options) for seed in range(options.seeds) for labels in WAYS.values()]
    print("| | seed | mAP50-95 on the labels | as reported by the run |\n|---|---|---|---|")
    for way, labels in WAYS.items():
        for row in (row for row in rows if row["labels"] == labels):
            print(f"| {way} | {row['seed']} | {row['map']:.4f} | {row['metric']} {row['reported']:.4f} |")
    mean = {labels: statistics.mean(row["map"] for row in rows if row["labels"] == labels) for labels in WAYS.values()}
    loss = mean["true"] - mean["false"]
    print(f"withholding labels costs {loss:.4f} mAP50-95, at most {GOAL:g} wanted: {common.met(loss <= GOAL)}")
    return 0


def cell(labels: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Runs the recipe once, or reads the result of an earlier call."""
    folder = options.out / f"labels-{labels}-{seed}"
    result = folder.with_suffix(".json")
    if result.exists():
        row: dict[str, Any] = json.loads(result.read_text())
        return row
    overrides = [
        f"recipe={RECIPE}", "stages=[prune,finetune]", "targets=[]", f"seed={seed}",
        f"data.validation_images={options.validation}", f"finetune.images={options.images}", *options.overrides,
    ]  # fmt: skip
    if not (folder / "verdict.json").exists():
        pipeline.run(compose([*overrides, f"data.labels={labels}"]), folder)
    last = ledger.read(folder / "ledger.jsonl")[-1].accuracy
    assert last is not None  # the data has validation images
    recipe = common.Recipe.load(*overrides)
    accuracy = common.evaluate(compress.load(folder / "pruned"), recipe.data.validation, recipe.data.classes)
    row = {"labels": labels, "seed": seed, "map": accuracy.value, "metric": last.metric, "reported": last.value}
    atomic.write(result, json.dumps(row))
    print(row, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(common.run(main))

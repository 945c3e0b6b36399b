"""Counts the products of 100 architectures with this package's two counters and with four others, and explains every
difference.

    python scripts/benchmarks/counters.py [NAME ...] [--out outputs/benchmarks/counters.jsonl]

The counters: `compress.measure` on the torch network, `compress.measurement.graph_cost` on its ONNX export, torch's
FlopCounterMode, fvcore, thop and calflops. Of these, the packages that are not installed are skipped.
Networks are those of timm and torchvision, and a few recurrent ones, with random weights in evaluation mode. Of
torchvision's detectors the network is counted, without the selection of boxes.

A difference of another counter is the sum, over the functions of torch that compute products, of its figure minus ours,
and of what it counts beside products. The parts are computed for each network from the counter's own record of its
operators (`other_counters.py`); what remains is unexplained. The exit status is 1 if our two counters differ by more
than 0.1 % in a network, or if more than 0.1 % of a difference remains unexplained.

Each network has its own process, so a crash or a hang affects no other. Rows are stored in --out: the same command
continues an interrupted run.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import architectures
import common
import onnx
import onnxruntime
import other_counters
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import compress
from compress import atomic
from compress.measurement import graph_cost
from compress.targets import onnx_graph

AGREEMENT = 1e-3  # largest difference of our two counters, and of what is not explained, relative to our MACs
SECONDS = 300  # time limit per network
OPSET = 17


def main() -> int:
    parser = common.parser(__doc__, jobs=1)
    parser.add_argument("names", nargs="*", help="architectures; default: all")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/counters.jsonl"), help="file of the rows")
    parser.add_argument("--one", action="store_true", help="count the single NAME in this process and print its row")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.names[0])))
        return 0
    for name, (package, install) in other_counters.PACKAGES.items():
        if find_spec(package) is None:
            print(f"{name} is skipped: pip install {install}")
    names = options.names or architectures.NAMES
    rows = {row["name"]: row for row in _read(options.out)}
    waiting = [name for name in names if name not in rows]
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(in_own_process, waiting):
            rows[row["name"]] = row
            atomic.write(options.out, "".join(json.dumps(entry) + "\n" for entry in rows.values()))
            print(line(row), flush=True)
    return report([rows[name] for name in names])


def in_own_process(name: str) -> dict[str, Any]:
    """Calls `measure` in a fresh interpreter; a crash or a timeout becomes the row's error."""
    try:
        output = common.in_own_process(__file__, [name, "--one"], seconds=SECONDS)
    except RuntimeError as error:
        return {"name": name, "error": f"crash or timeout: {error}"}
    return json.loads(output.splitlines()[-1])


def measure(name: str) -> dict[str, Any]:
    """Counts one network with every counter. Returns our MACs, and what `other_counters.measure` returns; or the
    error."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # attention by its parts, as all counters see them
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    start = time.time()
    net, inputs = architectures.build(name)
    net.requires_grad_(False)  # FlopCounterMode fails on some networks that could be trained
    row: dict[str, Any] = {"name": name, "error": None}
    try:
        row["torch"] = compress.measure(net, *inputs).macs
        row["others"] = other_counters.measure(net, inputs)
        row["onnx"] = of_graph(net, inputs)
    except Exception as error:  # of any type, from the network or the exporter
        row["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return row | {"seconds": round(time.time() - start, 1)}


def of_graph(net: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """MACs of the ONNX export with folded constants."""
    with TemporaryDirectory() as folder, torch.no_grad():
        raw, folded = Path(folder, "raw.onnx"), Path(folder, "folded.onnx")
        names = [f"output{index}" for index in range(len(tree_leaves(net(*inputs))))]
        torch.onnx.export(net, inputs, str(raw), dynamo=False, output_names=names, opset_version=OPSET)
        onnx_graph.optimized(raw, folded, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
        return graph_cost.count(onnx.load(folded)).macs


def agree(row: dict[str, Any]) -> bool:
    return row["error"] is None and abs(row["onnx"] - row["torch"]) <= AGREEMENT * row["torch"]


def explained(row: dict[str, Any]) -> dict[str, tuple[float, dict[str, float], float]]:
    """{other counter: its FLOPs, the parts of its difference and what is not explained, all relative to our FLOPs}."""
    ours = 2 * row.get("torch", 0)
    result = {}
    for name in other_counters.PACKAGES:
        if "total" in (count := row.get("others", {}).get(name, {})):
            record, counted = other_counters.Record(**row["others"]["record"]), other_counters.Count(**count)
            parts, left = other_counters.explain(name, record, counted, ours)
            result[name] = (counted.total / ours, {kind: flops / ours for kind, flops in parts.items()}, left / ours)
    return result


def line(row: dict[str, Any]) -> str:
    if "torch" not in row:
        return f"{row['name']:36} FAILED {row['error']}"
    text = f"{row['name']:36} {row['torch'] / 1e9:8.4f} GMACs  "
    text += f"ONNX {row['onnx'] / row['torch'] - 1:+.3%}" if row["error"] is None else f"ONNX: {row['error']}"
    for name, (ratio, _, left) in explained(row).items():
        text += f"  {name} {ratio:.4f}" + (f" (not explained {left:+.2%})" if abs(left) > AGREEMENT else "")
    return f"{text}  {row['seconds']} s"


def report(rows: list[dict[str, Any]]) -> int:
    """Prints the disagreements and, per other counter, its ratios to ours and the kinds of its differences. Returns the
    exit status."""
    print("\n| counter | networks | equal | ratio to ours, least and greatest | unexplained, greatest | fails |")
    print("|---|---|---|---|---|---|")
    counted = [row for row in rows if "torch" in row]
    equal = [row for row in counted if agree(row)]
    ratios = [row["onnx"] / row["torch"] for row in counted if row["error"] is None]
    if ratios:
        span = f"{min(ratios):.4f} to {max(ratios):.4f}"
        print(f"| ours, of the ONNX file | {len(ratios)} | {len(equal)} | {span} | | {len(rows) - len(ratios)} |")
    good = len(equal) == len(rows)
    others = [explained(row) for row in counted]
    for name in other_counters.PACKAGES:
        done = [other[name] for other in others if name in other]
        fails = sum("error" in row["others"].get(name, {}) for row in counted)
        if not done:
            continue
        same = sum(abs(ratio - 1) <= AGREEMENT for ratio, _, _ in done)
        span = f"{min(ratio for ratio, _, _ in done):.3f} to {max(ratio for ratio, _, _ in done):.3f}"
        left = max(abs(left) for _, _, left in done)
        good &= left <= AGREEMENT
        print(f"| {name} | {len(done)} | {same} | {span} | {left:.3%} | {fails} |")
    print("\n| counter | kind of the difference | networks | fraction of our FLOPs, least and greatest |")
    print("|---|---|---|---|")
    for name in other_counters.PACKAGES:
        kinds: dict[str, list[float]] = {}
        for other in others:
            for kind, fraction in other[name][1].items() if name in other else ():
                kinds.setdefault(kind, []).append(fraction)
        for kind, fractions in sorted(kinds.items(), key=lambda item: -len(item[1])):
            print(f"| {name} | {kind} | {len(fractions)} | {min(fractions):+.2%} to {max(fractions):+.2%} |")
    for row in rows:
        if not agree(row) or any(abs(left) > AGREEMENT for _, _, left in explained(row).values()):
            print(f"NOT met: {line(row)}")
        for name in other_counters.PACKAGES:
            if error := row.get("others", {}).get(name, {}).get("error"):
                print(f"{row['name']}: {name} fails: {error}")
    print(
        f"{len(equal)} of {len(rows)} networks: our counters are equal; all differences explained: {common.met(good)}"
    )
    return 0 if good else 1


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    sys.exit(common.run(main))

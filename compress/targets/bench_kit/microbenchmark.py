"""Times small networks on this device, so that latencies of others can be predicted. Needs only the runtime and numpy.

    python microbenchmark.py --device raspberry_pi_5 --threads 4

Writes microbenchmark.json, which `compress devices add microbenchmark.json` adds to the measurements of the device.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time

import blocks
import numpy as np
import onnx_file
import random_blocks
import runtime

FOLDER = pathlib.Path(__file__).resolve().parent
SECONDS = 0.2  # of one network, at least RUNS times
WARM_UP, RUNS = 3, 7
CACHE_BYTES, FEW_WEIGHTS = 2**24, 2**18  # fewer weights, 1 MiB, stay in a cache between two runs
LEAST = 20  # networks, even after the time is over


def main() -> int:
    parser = argparse.ArgumentParser(description="Time small networks on this device.")
    parser.add_argument("--device", required=True, help="name of this device, as in device=, e.g. raspberry_pi_5")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: chosen by the runtime)")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to measure (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random networks (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, default=FOLDER / "microbenchmark.json", help="file to write")
    args = parser.parse_args()
    if not args.seconds > 0:
        parser.error(f"--seconds {args.seconds}: set a positive number")
    target = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))["target"]
    name = inference_precision = ""
    timed: list = []
    end = time.perf_counter() + args.seconds
    for text in random_blocks.draw(args.seed):
        if len(timed) >= LEAST and time.perf_counter() > end:
            break
        ms, name, inference_precision = measure(text, args.threads)
        timed.append({"block": text, "ms": ms})
        if sys.stderr.isatty():
            print(f"\r{len(timed)} networks", end="", file=sys.stderr, flush=True)
    result = {
        "schema_version": 1,
        "target": target,
        "precision": "fp32",
        "device": args.device,
        "runtime": name,
        "inference_precision": inference_precision,
        "threads": args.threads,
        "blocks": timed,
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{len(timed)} networks in {name}, {inference_precision}: {args.output}")
    return 0


def measure(text: str, threads: "int | None") -> tuple:
    """(median latency of a block in ms, runtime, inference precision)."""
    block = blocks.Block(text)
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch, "fp32", "model.onnx")
        path.parent.mkdir()
        path.write_bytes(onnx_file.encode(block))
        predict, name, inference_precision = runtime.load(path, threads)
        image = np.random.RandomState(0).rand(*block.input_shape).astype(np.float32)
        for _ in range(WARM_UP):
            predict(image)
        times: list = []
        others = np.zeros(CACHE_BYTES // 4, np.float32)
        end = time.perf_counter() + SECONDS
        while len(times) < RUNS or time.perf_counter() < end:
            if block.weights < FEW_WEIGHTS:
                others += 1  # evicts them from the caches: in a large network they are not there either
            start = time.perf_counter()
            predict(image)
            times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times)), name, inference_precision


if __name__ == "__main__":
    sys.exit(main())

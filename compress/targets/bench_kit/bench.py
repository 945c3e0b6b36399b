"""Checks this folder's model and times it on the device at hand. Needs the runtime and numpy, nothing else.

    python bench.py int8 --device "Raspberry Pi 5" --threads 4

Writes bench.json, which `python -m compress.report add RUN bench.json` takes into the run's ledger.
"""

import argparse
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable

import labelled_images
import numpy as np
import runtime

FOLDER = pathlib.Path(__file__).resolve().parent


def main() -> int:
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description="Check and time this model on this device.")
    parser.add_argument("precision", choices=manifest["precision"])
    named = "the name of this device; as device= has it (raspberry_pi_5) to be judged by"
    parser.add_argument("--device", required=True, help=named)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: the runtime's own choice)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure")
    args = parser.parse_args()

    files = checksums(manifest, args.precision)
    facts = manifest["models"][args.precision]
    predict, name, inference_precision = runtime.load(FOLDER / facts["model"], args.threads)
    image = np.load(FOLDER / "sample_input.npy")
    expected = np.load(FOLDER / facts["expected_output"])
    difference = largest_difference(predict(image), expected)
    latency = measure(lambda: predict(image), args.seconds)
    labelled = judged(manifest, facts, predict)
    result = {
        "schema_version": 1,
        "target": manifest["target"],
        "precision": args.precision,
        "device": args.device,
        "runtime": name,
        "inference_precision": inference_precision,
        "threads": args.threads,
        "batch": 1,
        "latency_ms": latency,
        "peak_memory_bytes": peak_memory(),
        "files": files,
        "largest_difference": difference,
        "labelled_images": labelled,
        "outputs_match": bool(difference <= facts["tolerance"]),
    }
    (FOLDER / "bench.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if labelled:
        print(
            f"{labelled['metric']} of the {labelled['images']} labelled images: {labelled['value']:.4f} here, "
            f"{labelled['expected']:.4f} where the file was made"
        )
    return 0 if result["outputs_match"] else 1


def judged(manifest: dict, facts: dict, predict: "Callable[[np.ndarray], np.ndarray]") -> "dict | None":
    """What the model makes of the labelled images here, and made of them where it was exported; None without any."""
    path, expected = FOLDER / labelled_images.FILE, facts.get("labelled_images")
    if expected is None or not path.exists():
        return None
    found = labelled_images.judge(path, manifest["output"], len(manifest["classes"]), predict)
    return {**found, "expected": expected["value"]}


def checksums(manifest: dict, precision: str) -> dict:
    """sha256 of every model file of this precision; stops at one that is not what was shipped. Folders of other
    precisions may have been left behind."""
    found = {}
    for name, digest in manifest["files"].items():
        if not (FOLDER / name).exists() and "/" in name and not name.startswith(precision):
            continue
        found[name] = hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
        if found[name] != digest:
            sys.exit(f"{name} is not the file that was shipped: sha256 {found[name]}, expected {digest}")
    return {name: digest for name, digest in found.items() if name.split("/")[0].split("_")[0] == precision}


def largest_difference(output: np.ndarray, expected: np.ndarray) -> float:
    """Median over rows of the largest difference, as a share of the largest expected value. The median, because
    detections with nearly equal scores may change places."""
    if output.shape != expected.shape or not np.isfinite(output).all():
        return float("inf")
    rows = np.abs(output - expected).reshape(-1, output.shape[-1]).max(axis=1)
    return float(np.median(rows) / max(np.abs(expected).max(), 1e-12))


def measure(call: "Callable[[], object]", seconds: float) -> dict:
    for _ in range(10):  # warm-up: allocations, clock speed
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 20 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return {"median": float(np.median(times)), "p95": float(np.quantile(times, 0.95)), "runs": len(times)}


def peak_memory() -> "int | None":
    """Bytes this process held at most, or None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main())

"""Checks the model in this folder and measures its latency on this device. Needs only the runtime and numpy.

    python bench.py int8 --device "Raspberry Pi 5" --threads 4

Writes bench.json, which `python -m compress.report add RUN bench.json` adds to the run's ledger.
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
import power
import runtime
import thermal

FOLDER = pathlib.Path(__file__).resolve().parent


def main() -> int:
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description="Check and time this model on this device.")
    parser.add_argument("precision", choices=manifest["precision"])
    device_help = "name of this device; to check the budget, use the run's value of device=, e.g. raspberry_pi_5"
    parser.add_argument("--device", required=True, help=device_help)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: chosen by the runtime)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure")
    watts_help = "power of the device in watts while the model runs, read from an external meter"
    parser.add_argument("--watts", type=float, default=None, help=watts_help)
    args = parser.parse_args()
    if args.watts is not None and not 0 < args.watts < 10_000:
        parser.error(f"--watts {args.watts}: set a positive number of watts")

    files = checksums(manifest, args.precision)
    entry = manifest["models"][args.precision]
    predict, name, inference_precision = runtime.load(FOLDER / entry["model"], args.threads)
    image = np.load(FOLDER / "sample_input.npy")
    difference = outputs_difference(predict(image), entry)
    with power.reading(args.watts) as reading:
        latency = measure(lambda: predict(image), args.seconds)
    labelled = labelled_accuracy(manifest, entry, predict)
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
        "watts": reading.watts,
        "watts_source": reading.source,
        "files": files,
        "largest_difference": difference,
        "labelled_images": labelled,
        "outputs_match": bool(difference <= entry["tolerance"]),
    }
    (FOLDER / "bench.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if labelled:
        print(
            f"{labelled['metric']} on the {labelled['images']} labelled images: {labelled['value']:.4f} here, "
            f"{labelled['expected']:.4f} on the machine that exported the model"
        )
    return 0 if result["outputs_match"] else 1


def labelled_accuracy(
    manifest: dict, entry: dict, predict: "Callable[[np.ndarray], np.ndarray | tuple]"
) -> "dict | None":
    """Accuracy on the labelled images, on this device and (`expected`) at export; None without labelled images."""
    path, expected = FOLDER / labelled_images.FILE, entry.get("labelled_images")
    if expected is None or not path.exists():
        return None
    accuracy = labelled_images.judge(path, manifest["output"], len(manifest["classes"]), predict)
    return {**accuracy, "expected": expected["value"]}


def checksums(manifest: dict, precision: str) -> dict:
    """Returns the SHA-256 of every model file of this precision, and exits if a file differs from the exported one.
    Folders of other precisions may be missing."""
    digests = {}
    for name, expected in manifest["files"].items():
        if not (FOLDER / name).exists() and "/" in name and not name.startswith(precision):
            continue
        digests[name] = hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
        if digests[name] != expected:
            sys.exit(f"{name} differs from the exported file: SHA-256 {digests[name]}, expected {expected}")
    return {name: digest for name, digest in digests.items() if name.split("/")[0].split("_")[0] == precision}


def outputs_difference(output: "np.ndarray | tuple", entry: dict) -> float:
    """The largest of the differences of all outputs from those at export, see `largest_difference`."""
    outputs = output if isinstance(output, tuple) else (output,)
    files = [each["expected_output"] for each in (entry, *entry.get("other_outputs", ()))]
    if len(outputs) != len(files):
        return float("inf")
    return max(largest_difference(each, np.load(FOLDER / file)) for each, file in zip(outputs, files))


def largest_difference(output: np.ndarray, expected: np.ndarray) -> float:
    """Median over rows of the largest difference, as a fraction of the largest expected value. The median tolerates
    that detections with nearly equal scores change places."""
    if output.shape != expected.shape or not np.isfinite(output).all():
        return float("inf")
    rows = np.abs(output - expected).reshape(-1, output.shape[-1]).max(axis=1)
    return float(np.median(rows) / max(np.abs(expected).max(), 1e-12))


def measure(call: "Callable[[], object]", seconds: float) -> dict:
    """Median and 95th percentile of the latency in ms, over at least 20 calls and `seconds`, and signs of heat."""
    for _ in range(10):  # warm-up: allocations, clock speed
        call()
    times: list[float] = []
    watch = thermal.Watch()
    end = time.perf_counter() + seconds
    while len(times) < 20 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    summary = {"median": float(np.median(times)), "p95": float(np.quantile(times, 0.95)), "runs": len(times)}
    return {**summary, **watch.heat(times)._asdict()}


def peak_memory() -> "int | None":
    """Peak resident memory of this process in bytes; None if the system does not report it."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main())

"""Compares both energies of an inference on the devices that have both: power x time and operations and bytes.

    python scripts/benchmarks/energy.py

Power is that of a device's profile under load, times are the published latencies. Operations and bytes are those of
`compress/devices/energy.py`, without the arithmetic outside of products (about 1 % of the energy of YOLO networks).
Prints both in millijoules for every published latency, and the geometric mean of their ratio by device and precision.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict

import numpy as np

from compress.config import device_profiles
from compress.devices import energy, published_latency
from compress.devices.prediction import executed_precision, published


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    ratios: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    print(
        "| device | W | runtime | precision | network | ms | power x time, mJ | by operations, mJ |\n"
        + "|---" * 8
        + "|"
    )
    for name, device in device_profiles(list(published_latency.rows())).items():
        for timing in published(name):
            by_power = device.energy_mj(timing.ms)
            if by_power is None or device.loaded_watts is None:
                continue
            macs = sum(each.macs for each in timing.operators)
            weights = 4 * sum(each.weights for each in timing.operators)
            moved = 4 * sum(each.activations for each in timing.operators) + weights
            work = energy.of_work(macs, 0, moved, weights, executed_precision(device, timing.precision))
            ratios[name, timing.precision].append((by_power / work.high, by_power / work.low))
            print(
                f"| {name} | {device.loaded_watts.value:g} | {timing.runtime} | {timing.precision} | {timing.network} "
                f"| {timing.ms:g} | {by_power:.0f} | {work.low:.1f} to {work.high:.0f} |"
            )
    print("\n| device | precision | networks | power x time / by operations |\n" + "|---" * 4 + "|")
    for (name, precision), pairs in ratios.items():
        low, high = np.exp(np.mean(np.log(pairs), axis=0))
        print(f"| {name} | {precision} | {len(pairs)} | {low:.1f} to {high:.0f} |")
    low, high = np.exp(np.mean(np.log([pair for pairs in ratios.values() for pair in pairs]), axis=0))
    print(f"\nAll: {low:.1f} to {high:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

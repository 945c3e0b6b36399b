"""Cross-validates predicted latencies on `compress/devices/published_latency.csv`, beside a line through FLOPs.

    python scripts/benchmarks/prediction.py

Prints the errors of networks left out, of all networks from two, and of all networks from the device's profile alone,
and the prior means that `compress/devices/prediction.py` holds. The prior of a device is always that of the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import common
import numpy as np

from compress.config import DeviceConfig, Figure, compose
from compress.devices import published_latency
from compress.devices.operators import published_networks
from compress.devices.prediction import Prior, Timing, Unknown, calibrate, pooled, published

# On a device that was not used to develop the method: NVIDIA T4, TensorRT 10, FP16 (Ultralytics
# docs/en/models/yolo11.md @040502be and docs/macros/yolo-det-perf.md @10d9c6d8).
T4 = DeviceConfig(
    name="t4",
    peak_gops={"fp16": Figure(65000, "NVIDIA T4 data sheet")},
    bandwidth_gb_s=Figure(320, "NVIDIA T4 data sheet"),
)
T4_MS = {
    **{"yolo11n": 1.5, "yolo11s": 2.5, "yolo11m": 4.7, "yolo11l": 6.2, "yolo11x": 11.3},
    **{"yolo26n": 1.7, "yolo26s": 2.5, "yolo26m": 4.7, "yolo26l": 6.2, "yolo26x": 11.8},
}
SUPERSEDED = "8.3.39"  # of the Raspberry Pi 5: the same page states others for a newer version
FACTOR = 1.6

Devices = dict[str, DeviceConfig]
Timings = dict[str, list[Timing]]  # by device


@dataclass(frozen=True)
class Error:
    """The prediction of one left out latency."""

    device: str
    timing: Timing
    ms: float
    covered: bool | None = None  # the interval contains the latency; None: there is no interval
    line: float | None = None  # prediction of the line through FLOPs

    def relative(self, line: bool = False) -> float:
        predicted = self.line if line and self.line is not None else self.ms
        return abs(predicted / self.timing.ms - 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--newest", action="store_true", help=f"without the superseded latencies ({SUPERSEDED})")
    options = parser.parse_args()
    timings = read(options.newest)
    devices = {name: compose(["recipe=profile", f"device={name}"]).device for name in timings}
    print("| latencies used | n | mean error | within 10 % | largest | in the interval | line: mean | within 10 % |")
    print("|---|---|---|---|---|---|---|---|")
    show("all but those of a network in a runtime and precision", left_out(devices, timings, everywhere=False))
    show("all but those of a network", left_out(devices, timings, everywhere=True))
    two = list(two_networks(devices, timings))
    show("those of two networks", [error for _, error in two])
    for pair in dict.fromkeys(pair for pair, _ in two):
        show(f"those of {pair}", [error for each, error in two if each == pair])
    none = list(without_latencies(devices, timings))
    show("none of the device", none)
    foreign = list(without_latencies(devices, timings, with_runtime=False))
    show("none of the device, none in the runtime", foreign)
    t4 = [Timing(name, published_networks()[name], "tensorrt", "fp16", ms) for name, ms in T4_MS.items()]
    show("T4: all but one", [error for each in t4 for error in errors(T4, [t for t in t4 if t != each], [each], None)])
    new = list(errors(T4, [], t4, None))
    show("T4: none", new)
    for title, each in {"none of the device": none, "none in the runtime": foreign, "T4": new}.items():
        close = [max(error.ms / error.timing.ms, error.timing.ms / error.ms) <= FACTOR for error in each]
        print(f"\nFrom the profile alone, {title}: {np.mean(close):.1%} of {len(close)} within a factor of {FACTOR}.")
    print("\nOf two networks, by device, runtime and precision:")
    for key in dict.fromkeys((each.device, each.timing.runtime, each.timing.precision) for _, each in two):
        show(", ".join(key), [e for _, e in two if (e.device, e.timing.runtime, e.timing.precision) == key])
    print(f"\n{pooled([calibrate(devices[name], timings[name]) for name in timings])}")
    return 0


def read(newest: bool) -> Timings:
    """The latencies of all profiles, with or without the superseded ones."""
    superseded = {
        (name, row["model"], float(row["ms"]))
        for name, rows in published_latency.rows().items()
        for row in rows
        if newest and SUPERSEDED in row["source"]
    }
    return {
        name: [each for each in published(name) if (name, each.network, each.ms) not in superseded]
        for name in published_latency.rows()
    }


def show(title: str, errors: Iterable[Error]) -> None:
    errors = list(errors)
    own = np.array([error.relative() for error in errors])
    numbers = [f"{100 * own.mean():.1f} %", f"{100 * np.mean(own <= 0.1):.1f} %", f"{100 * own.max():.0f} %"]
    numbers += [f"{100 * np.mean([bool(error.covered) for error in errors]):.1f} %"]
    if all(error.line is not None for error in errors):
        line = np.array([error.relative(line=True) for error in errors])
        numbers += [f"{100 * line.mean():.1f} %", f"{100 * np.mean(line <= 0.1):.1f} %"]
    else:
        numbers += ["", ""]
    print(f"| {title} | {len(errors)} | {' | '.join(numbers)} |", flush=True)


def left_out(devices: Devices, timings: Timings, everywhere: bool) -> Iterator[Error]:
    """Leaves out one network: in one runtime and precision of a device, or in all and on all devices."""
    for name in timings:
        prior = None if everywhere else others(devices, timings, name)
        for held in dict.fromkeys((each.network, each.runtime, each.precision) for each in timings[name]):
            apart = [t for t in timings[name] if (t.network, t.runtime, t.precision) == held]
            used = [t for t in timings[name] if t not in apart]
            if everywhere:
                reduced = {key: [t for t in each if t.network != held[0]] for key, each in timings.items()}
                prior, used = others(devices, reduced, name), reduced[name]
            yield from errors(devices[name], used, apart, prior)


def two_networks(devices: Devices, timings: Timings) -> Iterator[tuple[str, Error]]:
    """(sizes, error): all latencies of a device from those of two of its networks, in all precisions."""
    for name in timings:
        prior = others(devices, timings, name)
        networks = sorted({each.network for each in timings[name]}, key=lambda network: _gflops(network, timings[name]))
        for pair in combinations(networks, 2):
            used = [each for each in timings[name] if each.network in pair]
            apart = [each for each in timings[name] if each.network not in pair]
            for error in errors(devices[name], used, apart, prior):
                yield " and ".join(network[-1] for network in pair), error


def without_latencies(devices: Devices, timings: Timings, with_runtime: bool = True) -> Iterator[Error]:
    """All latencies of a device from its profile and the prior of other devices, optionally without those in its
    runtime."""
    for name in timings:
        runtimes = _runtimes(timings[name])
        foreign = {key: each for key, each in timings.items() if with_runtime or runtimes.isdisjoint(_runtimes(each))}
        yield from errors(devices[name], [], timings[name], others(devices, foreign, name))


def _runtimes(timings: Sequence[Timing]) -> set[str]:
    return {each.runtime for each in timings}


def others(devices: Devices, timings: Timings, name: str) -> Prior:
    """The prior from all devices but one, from a neutral one, so that it does not depend on that device."""
    neutral = Prior(0.5, 0.75, {"": 15.0})
    return pooled([calibrate(devices[key], timings[key], neutral) for key in timings if key != name])


def errors(
    device: DeviceConfig, used: Sequence[Timing], apart: Sequence[Timing], prior: Prior | None
) -> Iterator[Error]:
    model = calibrate(device, used, prior)
    for timing in apart:
        prediction = model.predict(timing.operators, timing.runtime, timing.precision)
        if isinstance(prediction, Unknown):
            raise SystemExit(prediction.reason)
        covered = prediction.low <= timing.ms <= prediction.high
        yield Error(device.name, timing, prediction.ms, covered, _line(used, timing))


def _line(used: Sequence[Timing], timing: Timing) -> float | None:
    """The prediction of a line through the latencies of the same runtime and precision."""
    same = [each for each in used if (each.runtime, each.precision) == (timing.runtime, timing.precision)]
    if len({each.network for each in same}) < 2:
        return None
    a, b = common.line([(_gflops(each.network, same), each.ms) for each in same])
    return a + b * _gflops(timing.network, [timing])


def _gflops(network: str, timings: Sequence[Timing]) -> float:
    operators = next(each.operators for each in timings if each.network == network)
    return 2e-9 * sum(each.macs for each in operators)


if __name__ == "__main__":
    sys.exit(main())

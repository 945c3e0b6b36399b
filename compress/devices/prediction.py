"""Predicts the latency of a network on a device from the costs of its operators. Imports no torch.

The model is the roofline (Williams et al. 2009, doi:10.1145/1498765.1498785) of each operator, plus overheads:

    ms = overhead x (operators + STARTUP) + sum over operators of max(2 MACs / (a u peak), bytes / (b bandwidth))

`peak` and `bandwidth` are those of the device's profile, and `u` is the utilization of a matrix product (`PACKING`).
Three parameters are fitted for each runtime and precision of a device: the efficiencies a and b, and the overhead of an
operator. They have a prior from other devices, so any number of latencies is enough, also none:

    log parameter = log prior mean of the runtime + deviation of the device + deviation of the runtime and precision

The fit is the maximum a posteriori. The noise has Student's t distribution, because a published latency may be far off.
The interval is that of the normal approximation of the posterior at its maximum (Laplace).

In a runtime and precision with a microbenchmark of the device, which times hundreds of small networks, the fitted
roofline is the mean of a finer model: a factor for each kind and size of operators (`corrections.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from compress.config import DeviceConfig
from compress.devices import corrections, published_latency
from compress.devices.corrections import Corrections
from compress.devices.operators import Operator, published_networks
from compress.digest import digest

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
FUSES_SILU = {"tensorrt", "openvino"}
MICROBENCHMARK = "microbenchmark"  # the network of timings that are of its small networks
STARTUP = 100  # operators whose overhead equals that of starting an inference
# Convolutions by matrix multiplication copy their input into another layout first. The copy takes as long as the
# products of this number of output channels. Runtimes with direct convolutions do without.
PACKING = {"onnxruntime": 16}
NOISE, FREEDOM = 0.03, 4  # scale and degrees of freedom of the noise of log ms
# Standard deviations of the logarithms of (a, b, overhead): between devices, and between runtimes and precisions.
DEVICE = np.array([0.2, 0.2, 0.7])
GROUP = np.array([0.2, 0.2, 0.4])
# Where the profile has no figure: its assumed value, and the standard deviation of its logarithm.
ASSUMED_GOPS, ASSUMED_GB_S, UNKNOWN = 1000.0, 30.0, 2.5
WITHIN = 1.96  # standard deviations to each side of the interval of 95 %

Group = tuple[str, str]  # runtime, precision


@dataclass(frozen=True)
class Timing:
    """A measured or published latency of a network on the device."""

    network: str
    operators: Sequence[Operator]
    runtime: str
    precision: str
    ms: float


@dataclass(frozen=True)
class Prior:
    """Means of the parameters over devices. The defaults are fitted to `published_latency.csv` by
    `scripts/benchmarks/prediction.py`."""

    arithmetic: float = 0.52  # fraction of the peak
    bandwidth: float = 0.77  # fraction of the bandwidth
    overhead_us: Mapping[str, float] = field(
        default_factory=lambda: {"tensorrt": 8.5, "openvino": 19.0, "onnxruntime": 50.0}
    )  # per operator, by runtime

    def mean(self, runtime: str) -> np.ndarray:
        """Logarithms of the parameters; the overhead of an unknown runtime is the mean of the known ones."""
        known = [math.log(value) for value in self.overhead_us.values()]
        overhead = self.overhead_us.get(runtime, math.exp(float(np.mean(known))))
        return np.log([self.arithmetic, self.bandwidth, overhead])


@dataclass(frozen=True)
class Prediction:
    """A predicted latency with its interval of 95 %, and what it is based on."""

    ms: float
    low: float
    high: float
    basis: str


@dataclass(frozen=True)
class Unknown:
    """No prediction is possible."""

    reason: str


@dataclass(frozen=True)
class _Costs:
    """Operators as one runtime executes them in one precision: 10^9 operations, 10^9 bytes."""

    work: np.ndarray
    traffic: np.ndarray

    @classmethod
    def of(cls, operators: Sequence[Operator], runtime: str, precision: str) -> _Costs:
        executed = [each for each in operators if not (each.fusible and runtime in FUSES_SILU)]
        return cls.of_each(executed, runtime, precision)

    @classmethod
    def of_each(cls, operators: Sequence[Operator], runtime: str, precision: str) -> _Costs:
        """Costs of operators that are not fused."""
        columns = [(each.macs, each.activations + each.weights, each.rows) for each in operators]
        macs, values, rows = np.array(columns, dtype=float).reshape(-1, 3).T
        utilization = rows / (rows + PACKING.get(runtime, 0) + 1e-9)
        work = 2 * macs / np.where(rows > 0, utilization, 1)
        return cls(work / 1e9, values * BYTES[precision] / 1e9)

    def seconds(self, parameters: np.ndarray, gops: float, gb_s: float) -> np.ndarray:
        """Of each operator, with its overhead."""
        a, b, overhead = np.exp(parameters)
        result: np.ndarray = np.maximum(self.work / (a * gops), self.traffic / (b * gb_s)) + overhead / 1e6
        return result

    def log_ms(self, parameters: np.ndarray, gops: float, gb_s: float) -> float:
        seconds = self.seconds(parameters, gops, gb_s).sum()
        return math.log(1e3 * seconds + math.exp(parameters[2]) / 1e3 * STARTUP)


@dataclass(frozen=True)
class LatencyModel:
    """A device with fitted parameters. `deviations`: of the device and of each of `groups`, in standard deviations,
    with their covariance."""

    device: DeviceConfig
    timings: Sequence[Timing]
    prior: Prior
    groups: list[Group]
    deviations: np.ndarray
    covariance: np.ndarray
    corrections: dict[Group, Corrections] = field(default_factory=dict)  # where there is a microbenchmark

    def parameters(self, runtime: str, precision: str) -> np.ndarray:
        """Logarithms of (a, b, overhead in us) of a runtime and precision, with or without latencies."""
        return self._parameters((runtime, precision), self._extended((runtime, precision))[0])

    def predict(self, operators: Sequence[Operator], runtime: str, precision: str) -> Prediction | Unknown:
        """Predicts the latency of a network at batch 1."""
        group = runtime, precision
        if reason := self.unknown(*group):
            return Unknown(reason)
        if group in self.corrections:
            corrected = self.corrections[group].predict(operators)
            ms, spread = 1e3 * corrected.total, WITHIN * corrected.deviation
            return Prediction(ms, ms / math.exp(spread), ms * math.exp(spread), self._basis(group))
        values, covariance = self._extended(group)
        costs = _Costs.of(operators, runtime, executed_precision(self.device, precision))
        figures = _gops(self.device, precision), _gb_s(self.device)

        def log_ms(deviations: np.ndarray) -> float:
            return costs.log_ms(self._parameters(group, deviations), *figures)

        step = 1e-4
        center = log_ms(values)
        gradient = np.array([(log_ms(values + step * unit) - center) / step for unit in np.eye(len(values))])
        noise = NOISE**2 * FREEDOM / (FREEDOM - 2)
        spread = WITHIN * math.sqrt(gradient @ covariance @ gradient + noise)
        ms = math.exp(center)
        return Prediction(ms, ms / math.exp(spread), ms * math.exp(spread), self._basis(group))

    def operator_seconds(self, operators: Sequence[Operator], runtime: str, precision: str) -> np.ndarray | Unknown:
        """Predicted seconds of each operator, without the start of the inference; 0 for one that the runtime fuses."""
        group = runtime, precision
        if reason := self.unknown(*group):
            return Unknown(reason)
        if group in self.corrections:
            return self.corrections[group].predict(operators).operators
        costs = _Costs.of(operators, runtime, executed_precision(self.device, precision))
        result = np.zeros(len(operators))
        executed = [not (each.fusible and runtime in FUSES_SILU) for each in operators]
        figures = _gops(self.device, precision), _gb_s(self.device)
        result[executed] = costs.seconds(self.parameters(runtime, precision), *figures)
        return result

    def cache_key(self) -> dict[str, Any]:
        """What predictions depend on, beside the network."""
        timings = [(each.network, each.runtime, each.precision, each.ms) for each in self.timings]
        return {"device": asdict(self.device), "timings": digest(timings)}

    def _parameters(self, group: Group, deviations: np.ndarray) -> np.ndarray:
        own = self.groups.index(group) if group in self.groups else len(self.groups)
        return _parameters(self.device, self.prior, group, deviations.reshape(-1, 3)[[0, 1 + own]])

    def _extended(self, group: Group) -> tuple[np.ndarray, np.ndarray]:
        """The deviations and their covariance, with those of a group without latencies."""
        if group in self.groups:
            return self.deviations, self.covariance
        size = len(self.deviations)
        covariance = np.eye(size + 3)
        covariance[:size, :size] = self.covariance
        return np.concatenate([self.deviations, np.zeros(3)]), covariance

    def unknown(self, runtime: str, precision: str) -> str:
        """Why no prediction is possible; empty if one is."""
        group = runtime, precision
        has_peak = executed_precision(self.device, precision) in self.device.peak_gops
        has_bandwidth = self.device.bandwidth_gb_s is not None or bool(self.timings)
        if group in self.groups or (has_peak and has_bandwidth):
            return ""
        figure = "memory bandwidth" if has_peak else f"{precision.upper()} peak"
        return f"no latency in {_label(group)} on {self.device.name}, and no {figure} in its profile"

    def _basis(self, group: Group) -> str:
        """What a prediction is based on."""
        own = [timing.network for timing in self.timings if (timing.runtime, timing.precision) == group]
        if own:
            small, own = own.count(MICROBENCHMARK), [name for name in own if name != MICROBENCHMARK]
            texts = [f"a microbenchmark of {small} small networks"] if small else []
            if own:
                count = "one latency" if len(own) == 1 else f"{len(own)} latencies"
                texts.append(f"{count} of {', '.join(dict.fromkeys(own))}")
            return f"{' and '.join(texts)} in {_label(group)} on {self.device.name}"
        if self.timings:
            others = ", ".join(map(_label, self.groups))
            return f"the profile of {self.device.name} and its latencies in {others}; none in {_label(group)}"
        return f"the profile of {self.device.name} alone; no latency on it"


def published(profile: str) -> list[Timing]:
    """The published latencies on the device of a profile, none or more."""
    networks = published_networks()
    return [
        Timing(row["model"], networks[row["model"]], row["runtime"], row["precision"], float(row["ms"]))
        for row in published_latency.rows().get(profile, [])
    ]


def calibrate(device: DeviceConfig, timings: Sequence[Timing], prior: Prior | None = None) -> LatencyModel:
    """Fits the parameters of a device to latencies on it, none or more. More latencies narrow the intervals."""
    prior = prior or Prior()
    groups = list(dict.fromkeys((timing.runtime, timing.precision) for timing in timings))
    costs = [_Costs.of(each.operators, each.runtime, executed_precision(device, each.precision)) for each in timings]
    observed = np.log([timing.ms for timing in timings])
    size = 3 * (1 + len(groups))

    def residuals(deviations: np.ndarray) -> np.ndarray:
        parameters = {
            group: _parameters(device, prior, group, deviations.reshape(-1, 3)[[0, 1 + index]])
            for index, group in enumerate(groups)
        }
        predicted = [
            cost.log_ms(parameters[each.runtime, each.precision], _gops(device, each.precision), _gb_s(device))
            for cost, each in zip(costs, timings, strict=True)
        ]
        error = (np.array(predicted) - observed) / NOISE
        # Half of its square is the negative logarithm of the density of Student's t distribution.
        error = np.sign(error) * np.sqrt((FREEDOM + 1) * np.log1p(error**2 / FREEDOM))
        return np.concatenate([error, deviations])

    solution = least_squares(residuals, np.zeros(size), max_nfev=100)
    covariance = np.linalg.inv(solution.jac.T @ solution.jac)
    model = LatencyModel(device, list(timings), prior, groups, solution.x, covariance)
    small = dict.fromkeys((each.runtime, each.precision) for each in timings if each.network == MICROBENCHMARK)
    return replace(model, corrections={group: _corrections(model, group) for group in small})


def _corrections(model: LatencyModel, group: Group) -> Corrections:
    runtime, precision = group
    device, parameters = model.device, model.parameters(*group)

    def roofline(operators: Sequence[Operator]) -> np.ndarray:
        costs = _Costs.of_each(operators, runtime, executed_precision(device, precision))
        return costs.seconds(parameters, _gops(device, precision), _gb_s(device))

    own = [timing for timing in model.timings if (timing.runtime, timing.precision) == group]
    start = STARTUP * math.exp(parameters[2]) / 1e6
    networks, ms = [timing.operators for timing in own], [timing.ms for timing in own]
    return corrections.fit(networks, ms, roofline, start, runtime in FUSES_SILU)


def pooled(models: Sequence[LatencyModel]) -> Prior:
    """The means of the parameters of several devices. A runtime that none of them has gets the mean overhead."""
    parameters = [(group[0], model.parameters(*group)) for model in models for group in model.groups]
    a, b, _ = np.exp(np.mean([each for _, each in parameters], axis=0))
    overheads = {
        runtime: math.exp(float(np.mean([each[2] for name, each in parameters if name == runtime])))
        for runtime in dict.fromkeys(name for name, _ in parameters)
    }
    return Prior(float(a), float(b), overheads)


def executed_precision(device: DeviceConfig, precision: str) -> str:
    """FP32 for FP16 on a chip without FP16 arithmetic, else the precision itself."""
    peaks = device.peak_gops
    return "fp32" if precision == "fp16" and "fp16" not in peaks and "fp32" in peaks else precision


def _gops(device: DeviceConfig, precision: str) -> float:
    figure = device.peak_gops.get(executed_precision(device, precision))
    return figure.value if figure else ASSUMED_GOPS


def _gb_s(device: DeviceConfig) -> float:
    return device.bandwidth_gb_s.value if device.bandwidth_gb_s else ASSUMED_GB_S


def _label(group: Group) -> str:
    return f"{group[0]} {group[1].upper()}"


def _parameters(device: DeviceConfig, prior: Prior, group: Group, deviations: np.ndarray) -> np.ndarray:
    """Logarithms of (a, b, overhead in us), from the deviations of the device and of the runtime and precision."""
    of_device, of_group = DEVICE.copy(), GROUP.copy()
    if executed_precision(device, group[1]) not in device.peak_gops:
        of_group[0] = UNKNOWN
    if device.bandwidth_gb_s is None:
        of_device[1] = UNKNOWN
    result: np.ndarray = prior.mean(group[0]) + deviations[0] * of_device + deviations[1] * of_group
    return result

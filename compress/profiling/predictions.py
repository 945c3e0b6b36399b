"""The table of predicted latencies of models on devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from compress.config import PRECISIONS, DeviceConfig
from compress.devices import energy, measured
from compress.devices.prediction import LatencyModel, Prediction, calibrate, executed_precision
from compress.profiling.profile import Counted
from compress.profiling.table import MISSING, empty


@dataclass(frozen=True)
class Forecast:
    """The prediction of a model on a device, in one runtime and precision."""

    model: str
    device: str
    runtime: str
    precision: str
    prediction: Prediction
    energy_mj: float | None  # the board's power under load x latency
    work_mj: energy.Range  # by operations and bytes

    def as_dict(self) -> dict[str, Any]:
        """JSON-like: `energy_mj` by power, and `work_mj` {low, high}."""
        values = asdict(self)
        return {**values, **values.pop("prediction")}


def forecasts(
    networks: Sequence[Counted], devices: Mapping[str, DeviceConfig]
) -> tuple[list[Forecast], dict[str, str]]:
    """Predictions for every precision of a device that can be predicted, and {device: why nothing can be}."""
    result: list[Forecast] = []
    unknown: dict[str, str] = {}
    for name, device in devices.items():
        model = calibrate(device, measured.known(name))
        groups = [(_runtime(model, precision), precision) for precision in device.precisions or PRECISIONS]
        for network in networks:
            if not network.operators:
                reason = f"it has operators without a formula ({', '.join(network.unknown)})"
                reason = reason if network.unknown else "it is quantized: name its float32 file"
                unknown.setdefault(name, f"no prediction of {network.name}, {reason}")
                continue
            for group in groups:
                predicted = model.predict(network.operators, *group)
                if isinstance(predicted, Prediction):
                    cost = network.cost
                    work = energy.of_work(
                        cost.macs, cost.other_flops, cost.bytes_moved, 4 * cost.params,
                        executed_precision(device, group[1]),
                    )  # fmt: skip
                    by_power = device.energy_mj(predicted.ms)
                    result.append(Forecast(network.name, name, *group, predicted, by_power, work))
                else:
                    unknown.setdefault(name, predicted.reason)
    known = {forecast.device for forecast in result}
    return result, {name: reason for name, reason in unknown.items() if name not in known}


ENERGIES = (
    "mJ: the board's power under load x predicted latency. mJ of work: picojoules per operation and per byte of a 45 "
    "nm process (Horowitz, ISSCC 2014), activations on the chip to all in external memory; no idle power, no losses."
)


def table(found: Sequence[Forecast]) -> Table:
    """One row per prediction."""
    result = empty(
        ["model", "device", "runtime", "precision", "ms", "95 %", "images/s", "mJ", "mJ of work", "based on"], left=4
    )
    for each in found:
        interval = f"{each.prediction.low:.3g} to {each.prediction.high:.3g}"
        by_power = MISSING if each.energy_mj is None else f"{each.energy_mj:.3g}"
        result.add_row(
            each.model, each.device, each.runtime, each.precision, f"{each.prediction.ms:.3g}", interval,
            f"{1000 / each.prediction.ms:.4g}", by_power, f"{each.work_mj.low:.3g} to {each.work_mj.high:.3g}",
            each.prediction.basis,
        )  # fmt: skip
    result.columns[-1].justify = "left"
    return result


def _runtime(model: LatencyModel, precision: str) -> str:
    """The runtime of a device whose latencies in a precision are known, else the first of its targets."""
    timed = [runtime for runtime, timed_precision in model.groups if timed_precision == precision]
    return timed[0] if timed else model.device.targets[0]

"""The table of predicted latencies of models on devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from compress.config import PRECISIONS, DeviceConfig
from compress.devices import measured
from compress.devices.prediction import LatencyModel, Prediction, calibrate
from compress.profiling.profile import Profile
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

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return {**values, **values.pop("prediction")}


def forecasts(
    profiles: Sequence[Profile], devices: Mapping[str, DeviceConfig]
) -> tuple[list[Forecast], dict[str, str]]:
    """Predictions for every precision of a device that can be predicted, and {device: why nothing can be}."""
    result: list[Forecast] = []
    unknown: dict[str, str] = {}
    for name, device in devices.items():
        model = calibrate(device, measured.known(name))
        groups = [(_runtime(model, precision), precision) for precision in device.precisions or PRECISIONS]
        for profile in profiles:
            if not profile.operators:
                reason = f"it has operators without a formula ({', '.join(profile.unknown)})"
                reason = reason if profile.unknown else "it is quantized: name its float32 file"
                unknown.setdefault(name, f"no prediction of {profile.name}, {reason}")
                continue
            for group in groups:
                predicted = model.predict(profile.operators, *group)
                if isinstance(predicted, Prediction):
                    energy = device.energy_mj(predicted.ms)
                    result.append(Forecast(profile.name, name, *group, predicted, energy))
                else:
                    unknown.setdefault(name, predicted.reason)
    known = {forecast.device for forecast in result}
    return result, {name: reason for name, reason in unknown.items() if name not in known}


def table(found: Sequence[Forecast]) -> Table:
    """One row per prediction."""
    result = empty(["model", "device", "runtime", "precision", "ms", "95 %", "images/s", "mJ", "based on"], left=4)
    for each in found:
        interval = f"{each.prediction.low:.3g} to {each.prediction.high:.3g}"
        energy = MISSING if each.energy_mj is None else f"{each.energy_mj:.3g}"
        result.add_row(
            each.model, each.device, each.runtime, each.precision, f"{each.prediction.ms:.3g}", interval,
            f"{1000 / each.prediction.ms:.4g}", energy, each.prediction.basis,
        )  # fmt: skip
    result.columns[-1].justify = "left"
    return result


def _runtime(model: LatencyModel, precision: str) -> str:
    """The runtime of a device whose latencies in a precision are known, else the first of its targets."""
    timed = [runtime for runtime, timed_precision in model.groups if timed_precision == precision]
    return timed[0] if timed else model.device.targets[0]

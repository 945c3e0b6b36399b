"""What a network will do on a device that is not at hand: remarks with predicted latency, energy and flight time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from compress.budget import Remark
from compress.budget.selection import final_rows
from compress.config import HOST, Config, DeviceConfig, device_profiles
from compress.devices import mission
from compress.devices.energy import of_power
from compress.devices.operators import Operator
from compress.devices.prediction import LatencyModel, Prediction, Unknown, calibrate, published
from compress.ledger import Row

File = tuple[str, str]  # target and precision


@dataclass(frozen=True)
class Networks:
    """Operators of the network before and after the run."""

    before: Sequence[Operator]
    after: Sequence[Operator]


def wanted(config: Config) -> bool:
    """Whether a run needs predictions: for another device than this machine, or for a mission."""
    return config.device.name != HOST or config.mission.known


def remarks(config: Config, rows: Sequence[Row], networks: Networks) -> list[Remark]:
    """Predictions for the files of a run's last network; none for this machine, on which they are measured."""
    files = list(dict.fromkeys((row.target, row.precision) for row in final_rows(rows) if row.target is not None))
    result: list[Remark] = []
    if config.device.name != HOST:
        result += _latencies(config.device, files, networks)
    if config.mission.known:
        result += _flight(config, files, networks)
    return result


def _latencies(device: DeviceConfig, files: Sequence[File], networks: Networks) -> Iterator[Remark]:
    model = calibrate(device, published(device.name))
    predicted, unknown = _predictions(model, _supported(device, files), networks.after)
    if not predicted:
        if unknown:
            yield Remark("predicted_latency", f"Latency on {device.name} is unknown: {'; '.join(unknown)}.", lasting=True)
        return
    texts, numbers = [], {}
    for file, each in predicted.items():
        label, joules = "/".join(file), of_power(device, each.ms)
        energy = "" if joules is None else f", {joules:.3g} mJ"
        texts.append(f"{label} {each.ms:.3g} ms ({each.low:.3g} to {each.high:.3g}{energy})")
        numbers[label] = each.ms
    bases = "; ".join(dict.fromkeys(each.basis for each in predicted.values()))
    watts = f" Energy: the board's {device.loaded_watts.value:g} W x latency." if device.loaded_watts else ""
    text = (
        f"Predicted on {device.name}, with intervals of 95 %: {', '.join(texts)}. Based on {bases}.{watts} Predictions are "
        "not judged: measure the files on the device with the bench kit."
    )
    yield Remark("predicted_latency", " ".join([text, *(f"Unknown: {reason}." for reason in unknown)]), numbers, lasting=True)


def _flight(config: Config, files: Sequence[File], networks: Networks) -> Iterator[Remark]:
    name = config.mission.device or config.device.name
    board = device_profiles([name])[name] if config.mission.device else config.device
    model = calibrate(board, published(board.name))
    files = _supported(board, files)
    floats = [(target, "fp32") for target, _ in dict.fromkeys(files)]  # what the network ran in before
    before, after = _fastest(model, floats, networks.before), _fastest(model, files, networks.after)
    if board.loaded_watts is None or before is None or after is None:
        missing = "its power under load is not known" if board.loaded_watts is None else "no latency can be predicted"
        yield Remark("flight_time", f"The flight time with {board.name} on board is unknown: {missing}.", lasting=True)
        return
    flights = [mission.flight(config.mission, board, each.ms) for _, each in (before, after)]
    limit = mission.without_computer(config.mission)
    texts = [
        f"{flight.minutes:.1f} min with the network {when} ({'/'.join(file)}, {each.ms:.3g} ms, {flight.fps:.3g} images/s, "
        f"{flight.computer_watts:.2g} W)"
        for flight, when, (file, each) in zip(flights, ("before", "after"), (before, after), strict=True)
    ]
    idle = "" if board.idle_watts else f" The idle power of {board.name} is not known and taken as 0, so the gain is an upper bound."
    text = (
        f"Flight with {board.name} on board, {config.mission.battery_wh:g} Wh, {config.mission.hover_watts:g} W to hover, "
        f"{config.mission.payload_watts:g} W for other loads, {config.mission.fps:g} images/s wanted: {', '.join(texts)}, "
        f"{limit:.1f} min without a computer. Latencies are predicted.{idle}"
    )
    numbers = {"before_minutes": flights[0].minutes, "after_minutes": flights[1].minutes, "limit_minutes": limit}
    yield Remark("flight_time", text, numbers, lasting=True)


def _supported(device: DeviceConfig, files: Sequence[File]) -> list[File]:
    """The files in precisions of the device's chip."""
    return [file for file in files if not device.precisions or file[1] in device.precisions]


def _fastest(model: LatencyModel, files: Sequence[File], network: Sequence[Operator]) -> tuple[File, Prediction] | None:
    predicted, _ = _predictions(model, files, network)
    return min(predicted.items(), key=lambda each: each[1].ms, default=None)


def _predictions(
    model: LatencyModel, files: Sequence[File], network: Sequence[Operator]
) -> tuple[Mapping[File, Prediction], list[str]]:
    """Predictions by file, and reasons why there is none."""
    results = {file: model.predict(network, *file) for file in files}
    predicted = {file: each for file, each in results.items() if isinstance(each, Prediction)}
    return predicted, [each.reason for each in results.values() if isinstance(each, Unknown)]

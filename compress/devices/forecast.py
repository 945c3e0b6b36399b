"""What a network will do on a device that is not at hand: remarks with predicted latency, energy and flight time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from compress.budget import Remark
from compress.budget.selection import final_rows
from compress.config import HOST, Config, DeviceConfig, device_profiles
from compress.devices import measured, mission
from compress.devices.operators import Operator
from compress.devices.prediction import LatencyModel, Prediction, Unknown, calibrate
from compress.errors import TargetFailed, UserError
from compress.ledger import Row

if TYPE_CHECKING:
    from compress.capabilities import Model
    from compress.targets.converter import Converter

File = tuple[str, str]  # target and precision
Network = Sequence[Operator]

log = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Raises UserError if `mission.device` names no device, or a measurement of a device is damaged."""
    if config.mission.device is not None:
        device_profiles([config.mission.device])
        measured.files(config.mission.device)
    measured.files(config.device.name)


def remarks(config: Config, rows: Sequence[Row], models: tuple[Model, Model], converter: Converter) -> list[Remark]:
    """Predictions for the files of a run, for another device than this machine and for a mission; none otherwise, or
    if a network cannot be converted to ONNX.

    Args:
        models: before and after the run.
    """
    if config.device.name == HOST and not config.mission.known:
        return []
    from compress.devices import graph_operators  # imports torch, which takes seconds
    from compress.targets import onnx_graph

    try:
        graphs = [onnx_graph.read(converter.fp32(model, "onnxruntime").path) for model in models]
        before, after = map(graph_operators.read, graphs)
    except (TargetFailed, UserError) as error:
        log.warning("no predictions: %s", error)
        return []
    files = list(dict.fromkeys((row.target, row.precision) for row in final_rows(rows) if row.target is not None))
    result: list[Remark] = []
    if config.device.name != HOST:
        result += _latencies(config.device, files, after)
    if config.mission.known:
        result += _flight(config, files, before, after)
    return result


def _latencies(device: DeviceConfig, files: Sequence[File], network: Network) -> Iterator[Remark]:
    model = calibrate(device, measured.known(device.name))
    predicted, unknown = _predictions(model, supported(device, files), network)
    sentences = []
    if predicted:
        texts = []
        for file, each in predicted.items():
            joules = device.energy_mj(each.ms)
            energy = "" if joules is None else f", {joules:.3g} mJ"
            texts.append(f"{'/'.join(file)} {each.ms:.3g} ms ({each.low:.3g} to {each.high:.3g}{energy})")
        sentences.append(f"Predicted on {device.name}, with intervals of 95 %: {', '.join(texts)}.")
        sentences.append(f"Based on {'; '.join(dict.fromkeys(each.basis for each in predicted.values()))}.")
        if device.loaded_watts:
            sentences.append(f"Energy is the power of the board, {device.loaded_watts.value:g} W, x latency.")
        sentences.append("Predictions are not judged: measure the files on the device with the bench kit.")
    sentences += [f"Unknown: {reason}." for reason in dict.fromkeys(unknown)]
    if sentences:
        numbers = {"/".join(file): each.ms for file, each in predicted.items()}
        yield Remark("predicted_latency", " ".join(sentences), numbers, lasting=True)


def _flight(config: Config, files: Sequence[File], before: Network, after: Network) -> Iterator[Remark]:
    name, plan = config.mission.device, config.mission
    board = config.device if name is None else device_profiles([name])[name]
    model = calibrate(board, measured.known(board.name))
    files = supported(board, files)
    if name is not None:  # not the device that the files were made for: it may lack their runtimes
        files = [file for file in files if file[0] in board.targets]
    floats = [(target, "fp32") for target in dict.fromkeys(target for target, _ in files)]  # without this program
    first, last = fastest(model, floats, before), fastest(model, files, after)
    if board.loaded_watts is None or first is None or last is None:
        missing = "its power under load is not known" if board.loaded_watts is None else "no latency can be predicted"
        yield Remark("flight_time", f"The flight time with {board.name} on board is unknown: {missing}.", lasting=True)
        return
    texts, minutes = [], []
    for when, (file, predicted) in (("before", first), ("after", last)):
        flight = mission.flight(plan, board, predicted.ms)
        minutes.append(flight.minutes)
        texts.append(
            f"{flight.minutes:.1f} min {when} ({'/'.join(file)}, {predicted.ms:.3g} ms, {flight.fps:.3g} images/s, "
            f"{flight.computer_watts:.2g} W)"
        )
    limit = mission.without_computer(plan)
    sentences = [
        f"Flight with {board.name} on board, {plan.battery_wh:g} Wh, {plan.hover_watts:g} W to hover, "
        f"{plan.payload_watts:g} W for other loads, {plan.fps:g} images/s wanted: {', '.join(texts)}, {limit:.1f} min "
        "without a computer. Latencies are predicted."
    ]
    if board.idle_watts is None:
        sentences.append(f"The idle power of {board.name} is not known and taken as 0: the gain is an upper bound.")
    numbers = {"before_minutes": minutes[0], "after_minutes": minutes[1], "limit_minutes": limit}
    yield Remark("flight_time", " ".join(sentences), numbers, lasting=True)


def supported(device: DeviceConfig, files: Sequence[File]) -> list[File]:
    """The files in precisions of the device's chip."""
    return [file for file in files if not device.precisions or file[1] in device.precisions]


def fastest(model: LatencyModel, files: Sequence[File], network: Network) -> tuple[File, Prediction] | None:
    """The file with the lowest predicted latency; None if none can be predicted."""
    predicted, _ = _predictions(model, files, network)
    return min(predicted.items(), key=lambda each: each[1].ms, default=None)


def _predictions(
    model: LatencyModel, files: Sequence[File], network: Network
) -> tuple[Mapping[File, Prediction], list[str]]:
    """Predictions by file, and reasons why there is none."""
    results = {file: model.predict(network, *file) for file in files}
    predicted = {file: each for file, each in results.items() if isinstance(each, Prediction)}
    return predicted, [each.reason for each in results.values() if isinstance(each, Unknown)]

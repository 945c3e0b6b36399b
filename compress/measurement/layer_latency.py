"""Latency of a network by layer: in ONNX Runtime on this machine, or as predicted for a device. A layer takes another
time alone than in the network: runtimes choose layouts for chains of layers, and early layers are bound by memory
traffic as much as by arithmetic. So the whole graph runs under the runtime's profiler. The time of other nodes
(activations, sums, concatenations) is divided among the layers that feed them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, NodeProto
from torch import nn
from torch.nn.modules.conv import _ConvNd

from compress import targets
from compress.capabilities import Model
from compress.config import ExportConfig
from compress.devices import graph_operators
from compress.devices.prediction import LatencyModel, Unknown
from compress.errors import TargetFailed
from compress.targets import onnx_graph
from compress.targets.quantization_exclusions import module_path

NodeSeconds = Callable[[Path, np.ndarray, int], dict[str, float]]  # as `node_seconds`
RUNS = 40
WARM_UP = 5
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def layer_seconds(model: Model, threads: int) -> dict[str, float]:
    """{convolution or linear layer of the deployed form: seconds per image}, medians of `RUNS` runs at batch 1. Raises
    TargetFailed if the graph's nodes cannot be matched to layers."""
    return _exported(model, lambda path: node_seconds(path, model.example_input().numpy(), threads))


def predicted_layer_seconds(model: Model, device: LatencyModel, runtime: str, precision: str) -> dict[str, float]:
    """As `layer_seconds`, predicted for a runtime and precision of a device, which must be known."""
    return _exported(model, lambda path: predicted_node_seconds(path, device, runtime, precision))


def predicted_node_seconds(path: Path, device: LatencyModel, runtime: str, precision: str) -> dict[str, float]:
    """As `node_seconds`, predicted for a runtime and precision of a device, which must be known, without nodes that
    take no time."""
    names, operators = zip(*graph_operators.read_named(onnx.load(path)), strict=True)
    seconds = device.operator_seconds(operators, runtime, precision)
    assert not isinstance(seconds, Unknown), seconds.reason
    return dict(zip(names, map(float, seconds), strict=True))


def _exported(model: Model, times_of: Callable[[Path], dict[str, float]]) -> dict[str, float]:
    with TemporaryDirectory(prefix="compress-") as scratch:
        graph = targets.get("onnxruntime").convert(model, Path(scratch), ExportConfig())
        return by_layer(graph.path, model, times_of(graph.path))


def by_layer(path: Path, model: Model, times: Mapping[str, float]) -> dict[str, float]:
    """Divides times {node of the ONNX file of a model: seconds} among the layers of its deployed form. Raises
    TargetFailed if the nodes cannot be matched to layers."""
    nodes = onnx.load(path).graph
    charged = _charged(nodes, _layers(nodes, model.deployed()))
    seconds: dict[str, float] = defaultdict(float)
    for node, duration in times.items():
        for layer in charged[node] if node else ():
            seconds[layer] += duration / len(charged[node])
    return dict(seconds)


def node_seconds(path: Path, image: np.ndarray, threads: int) -> dict[str, float]:
    """{node of the ONNX file: seconds per image}, medians of `RUNS` runs in ONNX Runtime. Nodes that are fused into a
    convolution or a matrix product count as that. Under "" are nodes that the runtime inserts, such as changes of the
    memory layout."""
    graph = onnx.load(path).graph
    nodes = {node.name: node for node in graph.node}
    with TemporaryDirectory(prefix="compress-") as scratch:
        times = _profile(path, image, threads, Path(scratch))
    # Optimised nodes have the name of the last node that they replace and a suffix: /conv/Conv_output_0_nchwc
    names = {event: max(filter(event[0].startswith, nodes), key=len, default="") for event in times}
    free = {node.name for node in graph.node if node.op_type in LAYERS} - set(names.values())
    seconds: dict[str, float] = defaultdict(float)
    for event, duration in times.items():
        name = names[event]
        if name and event[1] in LAYERS and nodes[name].op_type not in LAYERS:
            name = _fused_layer(graph, nodes[name], free)
        seconds[name] += duration
    return dict(seconds)


def _fused_layer(graph: GraphProto, last: NodeProto, free: set[str]) -> str:
    """The nearest layer upstream of `last` that is in `free`, the layers without an event of their own; else `last`."""
    writers = {output: node for node in graph.node for output in node.output}
    upstream, seen = [last], {last.name}
    for node in upstream:  # breadth first
        if node.name in free:
            return node.name
        before = [writers[name] for name in node.input if name in writers and node.op_type not in LAYERS]
        upstream += [each for each in before if each.name not in seen]
        seen.update(each.name for each in before)
    return last.name


def _profile(path: Path, image: object, threads: int, folder: Path) -> dict[tuple[str, str], float]:
    """{(node of the optimised graph, its operator): median seconds per run}."""
    options = onnx_graph.session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image}
    for _ in range(WARM_UP + RUNS):
        session.run(None, feed)
    runs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in _events(Path(session.end_profiling())):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"].removeprefix("Fused")
            runs[name].append(event["dur"] / 1e6)
    return {name: statistics.median(durations[WARM_UP:]) for name, durations in runs.items()}


def _events(profile: Path) -> list[dict[str, Any]]:
    """The events in a file of ONNX Runtime, which ignores a full disk. Raises OSError if the file is cut off."""
    try:
        events: list[dict[str, Any]] = json.loads(profile.read_text())
        return events
    except ValueError as error:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(profile))
        full.free = shutil.disk_usage(profile.parent).free  # type: ignore[attr-defined]  # for `disk.problem`
        raise full from error


def _layers(graph: GraphProto, net: nn.Module) -> dict[str, str]:
    """{node: layer}."""
    known = {name for name, layer in net.named_modules() if isinstance(layer, (_ConvNd, nn.Linear))}
    weights = {tensor.name for tensor in graph.initializer}
    weighted = (node.name for node in graph.node if node.op_type in LAYERS and node.input[1] in weights)
    layers = {name: module_path(name) for name in weighted}
    if not layers or not known.issuperset(layers.values()):
        raise TargetFailed("the nodes of the ONNX graph cannot be matched to layers, so layers cannot be timed")
    return layers


def _charged(graph: GraphProto, layers: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """{node: the layers that its time is divided among}: itself if it is a layer, else the nearest ones upstream."""
    source: dict[str, tuple[str, ...]] = {}  # {value: layers}
    charged = {}
    for node in graph.node:  # in the order of execution
        upstream = dict.fromkeys(layer for value in node.input for layer in source.get(value, ()))
        charged[node.name] = (layers[node.name],) if node.name in layers else tuple(upstream)
        source.update(dict.fromkeys(node.output, charged[node.name]))
    return charged

"""Which layers INT8 hurts most: each is quantized alone, and the network's answers are compared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from compress.capabilities import GivenAsGraph, Model
from compress.config import MAX_OPSET
from compress.product import Graph, Precision
from compress.targets import onnx_graph, onnxruntime, quantization_exclusions
from compress.targets.scheme import Scheme

IMAGES = 8
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
STEPS = 255  # of an 8-bit activation


def ranked(model: Model, images: Sequence[np.ndarray]) -> list[tuple[str, float]]:
    """(module of `deployed()`, error) of every convolution and linear layer, the largest error first.

    The error is that of the network's raw answers when this layer alone computes with INT8 weights (symmetric, one
    scale an output channel) and activations (one scale and zero point), as a share of their variance; boxes and scores
    each count by their own variance, or pixels would drown probabilities.

    Args:
        images: float32 (1, channels, s, s) in [0, 1]; the first `IMAGES` are looked at.
    """
    if isinstance(model, GivenAsGraph):
        return _ranked_nodes(model, images[:IMAGES])
    net = model.deployed(postprocess=False)
    batch = torch.from_numpy(np.concatenate(images[:IMAGES]))
    with torch.inference_mode():
        with _recorded(net) as ranges:
            exact = net(batch)
        scale = _variance(exact).clamp(min=1e-12)
        found = []
        for name, (low, high) in ranges.items():
            layer = net.get_submodule(name)
            with _quantized(layer, low, high):
                found.append((name, float((_mean((net(batch) - exact) ** 2) / scale).mean())))
    return sorted(found, key=lambda pair: -pair[1])


def _ranked_nodes(model: Model, images: Sequence[np.ndarray]) -> list[tuple[str, float]]:
    """As `ranked`, of a graph without a torch network: (module path of a node, error). What is compared is
    what the layers give that the model keeps in float, of a detector the last ones: behind them it may sort rows, and
    rows that change places are no error. Where it keeps none, the answers are."""
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        path = onnx_graph.export(model, Path(scratch, "fp32.onnx"), MAX_OPSET)
        layers = [node.name for node in onnx_graph.nodes(onnx_graph.read(path)) if node.weighted]
        kept = [name for name in layers if quantization_exclusions.module_path(name) in model.quantization_exclusions()]
        _give_instead(path, kept)
        fp32 = Graph(path, onnxruntime.NAME, Precision.fp32)
        exact = _answers(path, images)
        found: dict[str, float] = {}
        for name in layers:
            if name in kept:
                continue
            alone = Scheme("one layer", {"nodes_to_quantize": [name]})
            int8 = onnxruntime.quantize(fp32, model, images, Path(scratch, "int8"), alone)
            answers = _answers(int8.path, images)
            shares = [np.square(a - b).mean() / max(float(b.var()), 1e-12) for a, b in zip(answers, exact, strict=True)]
            module = quantization_exclusions.module_path(name)
            found[module] = max(found.get(module, 0.0), float(np.mean(shares)))
    return sorted(found.items(), key=lambda pair: -pair[1])


def _give_instead(path: Path, nodes: Sequence[str]) -> None:
    """Lets the graph in the file give what `nodes` give, and no more what it gave; as it is where there are none."""
    if not nodes:
        return
    graph = onnx_graph.read(path)
    del graph.graph.output[:]
    for node in graph.graph.node:
        if node.name in nodes:
            graph.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None))
    onnx_graph.save(graph, path, {})


def _answers(path: Path, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What each output of the graph in the file is on all images."""
    session = onnx_graph.open_session(path, onnx_graph.session_options(torch.get_num_threads()))
    return [np.stack(each) for each in zip(*(session.run(None, {onnx_graph.INPUT: image}) for image in images))]


@contextmanager
def _recorded(net: nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """{layer: (lowest, highest)} of its input, the mean over images of each image's extremes; filled by a pass."""
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str) -> object:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            flat = inputs[0].flatten(1)
            ranges[name] = (flat.amin(1).mean().clamp(max=0), flat.amax(1).mean().clamp(min=0))

        return record

    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, LAYERS)}
    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]  # type: ignore[arg-type]
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _quantized(layer: nn.Module, low: Tensor, high: Tensor) -> Iterator[None]:
    """While it lasts, the layer computes with INT8's values."""
    step = ((high - low) / STEPS).clamp(min=1e-12)
    zero = (-low / step).round()

    def activations(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (((inputs[0] / step).round() + zero).clamp(0, STEPS).sub(zero) * step, *inputs[1:])

    handle, weight = layer.register_forward_pre_hook(activations), layer.weight
    channels = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    assert isinstance(weight, nn.Parameter)
    others = [axis for axis in range(weight.ndim) if axis != channels]
    scale = weight.abs().amax(others, keepdim=True).clamp(min=1e-12) / 127
    layer.weight = nn.Parameter((weight / scale).round() * scale, requires_grad=False)
    try:
        yield
    finally:
        layer.weight = weight
        handle.remove()


def _kinds(answers: Tensor) -> list[int]:
    """All axes but the one along which kinds of numbers differ: of an image's axes the one of fewest entries."""
    sides = list(answers.shape[1:])
    kind = 1 + sides.index(min(sides))
    return [axis for axis in range(answers.ndim) if axis != kind]


def _mean(answers: Tensor) -> Tensor:
    return answers.mean(_kinds(answers))


def _variance(answers: Tensor) -> Tensor:
    return answers.var(_kinds(answers), correction=0)

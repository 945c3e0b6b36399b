"""Sensitivity of layers to INT8: the error in the outputs of the network when one layer at a time is quantized."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compress.capabilities import GivenAsGraph, Model
from compress.config import MAX_OPSET
from compress.product import Graph, Precision
from compress.targets import onnx_graph, onnxruntime
from compress.targets.quantization_exclusions import module_path
from compress.targets.scheme import Scheme
from compress.training.placement import CPU

IMAGES = 8
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
STEPS = 255  # between the lowest and the highest 8-bit activation


def ranked(model: Model, images: Sequence[np.ndarray], device: torch.device = CPU) -> list[tuple[str, float]]:
    """Ranks the convolutions and linear layers of a model by their sensitivity to INT8, on the first `IMAGES` of
    `images`, float32 (1, channels, s, s) in [0, 1]. A torch network is computed on
    `device`. Returns (module name in `deployed()`, error), largest error first.

    Only one layer at a time uses INT8 weights (symmetric, one scale per output channel) and activations (one scale and
    zero point). Its error is the mean squared error of the network's raw outputs divided by their variance. Boxes and
    scores are normalised separately, or errors in pixels would outweigh those in probabilities. The error of a network
    with several outputs is the mean of theirs.
    """
    if isinstance(model, GivenAsGraph):
        return _ranked_nodes(model, images[:IMAGES])
    net = model.deployed(postprocess=False).to(device)
    batch = torch.from_numpy(np.concatenate(images[:IMAGES])).to(device)
    with torch.inference_mode():
        with _recorded(net) as ranges:
            exact = tree_leaves(net(batch))
        errors = []
        for name, (low, high) in ranges.items():
            layer = net.get_submodule(name)
            with _quantized(layer, low, high):
                errors.append((name, float(np.mean(list(map(_error, tree_leaves(net(batch)), exact))))))
    return sorted(errors, key=lambda pair: -pair[1])


def _error(output: Tensor, exact: Tensor) -> float:
    """Mean squared error of an output divided by the variance of the exact one, per channel."""
    axes = _reduced_axes(exact)
    variance = exact.var(axes, correction=0).clamp(min=1e-12)
    return float((((output - exact) ** 2).mean(axes) / variance).mean())


def _ranked_nodes(model: Model, images: Sequence[np.ndarray]) -> list[tuple[str, float]]:
    """`ranked` for a model without a torch network. It compares the outputs of the model's excluded layers, if any: a
    detector may sort rows after them, and a changed order is no error."""
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        path = onnx_graph.export(model, Path(scratch, "fp32.onnx"), MAX_OPSET)
        layers = [node.name for node in onnx_graph.nodes(onnx_graph.read(path)) if node.weighted]
        exclusions = model.quantization_exclusions()
        excluded = [name for name in layers if module_path(name) in exclusions]
        if excluded:
            _replace_outputs(path, excluded)
        fp32 = Graph(path, onnxruntime.NAME, Precision.fp32)
        exact = _outputs(path, images)
        errors: dict[str, float] = {}
        for name in (name for name in layers if name not in excluded):
            alone = Scheme("one layer", {"nodes_to_quantize": [name]})
            outputs = _outputs(onnxruntime.quantize(fp32, model, images, Path(scratch, "int8"), alone).path, images)
            ratios = [np.square(a - b).mean() / max(float(b.var()), 1e-12) for a, b in zip(outputs, exact, strict=True)]
            module = module_path(name)
            errors[module] = max(errors.get(module, 0.0), float(np.mean(ratios)))
    return sorted(errors.items(), key=lambda pair: -pair[1])


def _replace_outputs(path: Path, nodes: Sequence[str]) -> None:
    """Replaces the outputs of the graph in the file by those of `nodes`."""
    graph = onnx_graph.read(path)
    outputs = [node.output[0] for node in graph.graph.node if node.name in nodes]
    del graph.graph.output[:]
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    onnx_graph.save(graph, path, {})


def _outputs(path: Path, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of the graph in the file, each stacked over the images."""
    session = onnx_graph.open_session(path, onnx_graph.session_options(torch.get_num_threads()))
    return [np.stack(output) for output in zip(*(session.run(None, {onnx_graph.INPUT: image}) for image in images))]


@contextmanager
def _recorded(net: nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """{layer: (minimum, maximum)} of its input, averaged over the images; filled by a forward pass in the context."""
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        flat = inputs[0].flatten(1)
        ranges[name] = (flat.amin(1).mean().clamp(max=0), flat.amax(1).mean().clamp(min=0))

    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, LAYERS)}
    handles = [layer.register_forward_pre_hook(functools.partial(record, name)) for name, layer in layers.items()]
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _quantized(layer: nn.Module, low: Tensor, high: Tensor) -> Iterator[None]:
    """In this context the weights and input activations of the layer are rounded to INT8."""
    step = ((high - low) / STEPS).clamp(min=1e-12)
    zero = (-low / step).round()

    def activations(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (((inputs[0] / step).round() + zero).clamp(0, STEPS).sub(zero) * step, *inputs[1:])

    handle, weight = layer.register_forward_pre_hook(activations), layer.weight
    assert isinstance(weight, nn.Parameter)
    channels = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    others = [axis for axis in range(weight.ndim) if axis != channels]
    scale = weight.abs().amax(others, keepdim=True).clamp(min=1e-12) / 127
    layer.weight = nn.Parameter((weight / scale).round() * scale, requires_grad=False)
    try:
        yield
    finally:
        layer.weight = weight
        handle.remove()


def _reduced_axes(outputs: Tensor) -> list[int]:
    """All axes but that of the output channels: the first after the batch axis of maps (b, channels, h, w), otherwise
    (boxes, scores) the shortest one."""
    channels = 1 if outputs.ndim == 4 else min(range(1, outputs.ndim), key=lambda axis: outputs.shape[axis])
    return [axis for axis in range(outputs.ndim) if axis != channels]

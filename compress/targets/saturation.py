"""Tests whether INT8 saturates on this machine, by a product whose exact result is known. CPUs without VNNI multiply
U8 by S8 with VPMADDUBSW, which adds two products in 16 bits: 255 x 127 x 2 = 64,770 saturates at 32,767. Weights of 7
bits, -64 to 64, keep the sum below the limit: 255 x 64 x 2 = 32,640."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from compress.targets.openvino_package import package_without_telemetry

DEPTH, WIDTH = 64, 32  # of the matrix product: summed terms, output columns
LARGEST_U8, LARGEST_S8 = 255, 127
EXACT = DEPTH * LARGEST_U8 * LARGEST_S8

log = logging.getLogger(__name__)


@functools.cache
def saturates(target: str) -> bool | None:
    """True if the target's INT8 kernels saturate on this machine; None if unknown. Cached for the process."""
    if target not in _PROBES:
        return None
    try:
        return _PROBES[target]() != EXACT
    except Exception as error:  # another version of the runtime, for example: an unknown result must not end a run
        log.debug("cannot determine whether %s saturates: %s", target, error)
        return None


def _onnxruntime() -> int:
    """A U8 x S8 product of the largest values, computed by ONNX Runtime."""
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [1, DEPTH])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [1, WIDTH])],
        [onnx.numpy_helper.from_array(np.full((DEPTH, WIDTH), LARGEST_S8, np.int8), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return int(session.run(None, {"a": np.full((1, DEPTH), LARGEST_U8, np.uint8)})[0].min())


def _openvino() -> int:
    """The same product as a quantized 1x1 convolution, computed by OpenVINO. The scale of the activations is 1."""
    openvino: Any = package_without_telemetry()
    from openvino import opset13 as ops

    image = ops.parameter([1, DEPTH, 4, 4], np.float32)
    bounds = [np.array(value, np.float32) for value in (0, LARGEST_U8)]
    quantized = ops.fake_quantize(image, *bounds, *bounds, 256)
    stored = ops.constant(np.full((WIDTH, DEPTH, 1, 1), LARGEST_S8, np.int8))
    weights = ops.multiply(ops.convert(stored, np.float32), ops.constant(np.ones((WIDTH, 1, 1, 1), np.float32)))
    output = ops.convolution(quantized, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(openvino.Model([output], [image], "product"), "CPU", settings)
    pixels = np.full((1, DEPTH, 4, 4), LARGEST_U8, np.float32)
    return round(float(np.asarray(compiled(pixels)[0]).min()))


_PROBES: dict[str, Callable[[], int]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}

"""Tiny ONNX files, as somebody else's exporter would write them, and the models that are built of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, external_data_helper, helper, numpy_helper

from compress import models
from compress.capabilities import GivenAsGraph
from compress.config import Family, ModelConfig
from compress.errors import UserError
from compress.models.onnx_model import OnnxModel

SIDE = 16


def weights(name: str, *shape: int, seed: int = 0) -> TensorProto:
    values = np.random.default_rng([seed, *shape]).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return numpy_helper.from_array(values.astype(np.float32), name)


def integers(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def body(channels: int = 3, width: int = 8) -> tuple[list[NodeProto], list[TensorProto]]:
    """From `pixels` to `features` (1, width, 8, 8); nodes without names."""
    nodes = [
        helper.make_node("Conv", ["pixels", "w0", "b0"], ["c0"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c1"], ["s1"]),
        helper.make_node("Mul", ["c1", "s1"], ["features"]),
    ]
    return nodes, [weights("w0", width, channels, 3, 3), weights("b0", width), weights("w1", width, width, 3, 3)]


def model(
    nodes: list[NodeProto],
    constants: list[TensorProto],
    image: tuple[Any, ...] = (1, 3, SIDE, SIDE),
    *,
    outputs: tuple[str, ...] = ("answer",),
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
    metadata: dict[str, str] | None = None,
) -> ModelProto:
    """A model from `pixels` to outputs whose shapes it does not say."""
    given = [helper.make_tensor_value_info("pixels", kind, list(image))]
    result = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    opsets = [helper.make_opsetid("", opset)]
    graph = helper.make_graph(nodes, "foreign", given, result, constants)
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(made, metadata or {})
    return made


def classifier(classes: int = 10, channels: int = 3, **options: Any) -> ModelProto:
    """(1, classes) logits."""
    nodes, constants = body(channels)
    nodes += [
        helper.make_node("GlobalAveragePool", ["features"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["answer"], transB=1),
    ]
    constants += [weights("w2", classes, 8), weights("b2", classes)]
    return model(nodes, constants, options.pop("image", (1, channels, SIDE, SIDE)), **options)


def detector(classes: int = 2, rows: bool = False, **options: Any) -> ModelProto:
    """(1, 4 + classes, 64), as raw YOLO answers; with `rows` transposed, (1, 64, 4 + classes)."""
    nodes, constants = body()
    nodes += [
        helper.make_node("Conv", ["features", "wb"], ["boxes"]),
        helper.make_node("Conv", ["features", "wc"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["both"], axis=1),
        helper.make_node("Reshape", ["both", "flat"], ["rows" if rows else "answer"]),
    ]
    if rows:
        nodes.append(helper.make_node("Transpose", ["rows"], ["answer"], perm=[0, 2, 1]))
    constants += [weights("wb", 4, 8, 1, 1), weights("wc", classes, 8, 1, 1), integers("flat", 1, 4 + classes, 64)]
    return model(nodes, constants, **options)


def quantized_classifier(**options: Any) -> ModelProto:
    """A classifier whose second convolution has activations and weights in INT8, in the format QDQ."""
    made = classifier(**options)
    values = np.round(16 * numpy_helper.to_array(made.graph.initializer[2])).astype(np.int8)
    stored = {"w1_stored": values, "scale": np.float32(0.1), "zero": np.uint8(0), "w1_scale": np.float32(1 / 16)}
    made.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in stored.items())
    made.graph.node[2].input[0], made.graph.node[2].input[1] = "r0_back", "w1_back"
    nodes = [
        helper.make_node("QuantizeLinear", ["r0", "scale", "zero"], ["r0_stored"], name="quantize"),
        helper.make_node("DequantizeLinear", ["r0_stored", "scale", "zero"], ["r0_back"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w1_stored", "w1_scale"], ["w1_back"], name="weights"),
    ]
    for position, node in enumerate(nodes):
        made.graph.node.insert(2 + position, node)
    del made.graph.initializer[2]
    return made


def save(made: ModelProto, path: Path) -> Path:
    onnx.save(made, path)
    return path


def external(folder: Path, name: str, *, offset: int | None = None, length: int | None = None) -> ModelProto:
    """A classifier whose first weights stand in the file `name`."""
    made = classifier()
    tensor = made.graph.initializer[0]
    (folder / "good.bin").write_bytes(tensor.raw_data)
    external_data_helper.set_external_data(tensor, name, offset=offset, length=length)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return made


def build(made: ModelProto, folder: Path, *, imgsz: int = 0, classes: tuple[str, ...] | None = None) -> OnnxModel:
    config = ModelConfig(Family.onnx, path=str(save(made, folder / "foreign.onnx")), imgsz=imgsz, channels=0)
    result = models.build(config, classes)
    assert isinstance(result, OnnxModel) and isinstance(result, GivenAsGraph)
    return result


def refused(made: ModelProto, folder: Path, *, classes: tuple[str, ...] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        build(made, folder, classes=classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def answer(path: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]

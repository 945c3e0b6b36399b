"""ONNX files are read and brought into one form. What cannot be, also what is made to read other files, to fill the
memory or to mislead, is one error before any work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from compress import models, targets
from compress.config import ExportConfig, Family, ModelConfig
from compress.errors import UserError
from compress.models import onnx_file
from compress.models.onnx_model import FileNet, OnnxModel
from compress.targets import onnx_graph
from tests.models import onnx_files as files
from tests.models.onnx_files import answer, build, classifier, external, integers, model, refused, save, weights


def absolute(folder: Path) -> ModelProto:
    return external(folder, str(folder / "good.bin"))


def symlink(folder: Path) -> ModelProto:
    (folder / "w.bin").symlink_to("/etc/hostname")
    return external(folder, "w.bin")


def linked_folder(folder: Path) -> ModelProto:
    (folder / "inner").symlink_to("/etc")
    return external(folder, "inner/hostname")


def pipe(folder: Path) -> ModelProto:
    os.mkfifo(folder / "w.bin")
    return external(folder, "w.bin")


def in_a_node(folder: Path) -> ModelProto:
    made = classifier()
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../x")
    made.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))
    return made


def constant_of(*shape: int) -> ModelProto:
    """Four TB, if its constants are folded before anybody looks."""
    made = classifier()
    made.graph.initializer.append(integers("huge", *shape))
    made.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge"], ["filled"]))
    return made


def filled(value: float) -> ModelProto:
    made = classifier()
    array = numpy_helper.to_array(made.graph.initializer[0]).copy()
    array[0, 0, 0, 0] = value
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w0"))
    return made


def narrow() -> ModelProto:
    """A convolution of five channels on an image of three: ONNX Runtime tells when it runs."""
    made = classifier()
    made.graph.initializer[0].CopyFrom(weights("w0", 8, 5, 3, 3))
    return made


def recursive_function() -> ModelProto:
    made = classifier()
    call = helper.make_node("Again", ["x"], ["y"], domain="odd")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("odd", 1)]
    made.functions.append(helper.make_function("odd", "Again", ["x"], ["y"], [call], opsets))
    made.opset_import.append(helper.make_opsetid("odd", 1))
    made.graph.node.insert(0, helper.make_node("Again", ["pixels"], ["seen"], domain="odd"))
    return made


CASES: dict[str, tuple[Callable[[Path], ModelProto], str]] = {
    "huge input": (lambda _: classifier(image=(1, 3, 10**6, 10**6)), "at most 16384 px"),
    "larger than any number": (lambda _: classifier(image=(1, 3, 2**62, 2**62)), "at most 16384 px"),
    "huge constant": (lambda _: constant_of(10**6, 10**6), "more than fits"),
    "many channels": (lambda _: classifier(image=(1, 10**9, 16, 16)), "1 to 128 channels"),
    "negative": (lambda _: classifier(image=(1, 3, -5, -5)), "set model.imgsz"),
    "absolute": (absolute, "outside its folder"),
    "above": (lambda folder: external(folder, "../good.bin"), "outside its folder"),
    "hidden above": (lambda folder: external(folder, "inner/../../good.bin"), "outside its folder"),
    "symlink": (symlink, "not a regular file"),
    "linked folder": (linked_folder, "not a regular file"),
    "pipe": (pipe, "not a regular file"),
    "folder": (lambda folder: external(folder, "."), "not a regular file"),
    "missing": (lambda folder: external(folder, "nowhere.bin"), "not a regular file"),
    "in a node": (in_a_node, "outside its folder"),
    "long": (lambda folder: external(folder, "good.bin", length=10**15), "beyond the bounds"),
    "far": (lambda folder: external(folder, "good.bin", offset=10**15, length=4), "beyond the bounds"),
    "negative offset": (lambda folder: external(folder, "good.bin", offset=-4, length=4), "beyond the bounds"),
    "NaN": (lambda _: filled(np.nan), "w0 holds"),
    "infinite": (lambda _: filled(np.inf), "w0 holds"),
    "beyond float32": (lambda _: filled(3e38), "returns NaN|cannot compute"),
    "custom operator": (
        lambda _: model([helper.make_node("Run", ["pixels"], ["answer"], domain="odd")], []), "not in ONNX opset",
    ),
    "function that calls itself": (lambda _: recursive_function(), "cannot be read"),
    "weights that do not fit": (lambda _: narrow(), "cannot compute"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_error(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    make, says = CASES[name]
    made = make(folder)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(UserError, match=says) as caught:
        models.build(ModelConfig(family=Family.onnx, path=str(folder / "model.onnx"), imgsz=0, channels=0))
    assert "\n" not in str(caught.value)


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    save(external(tmp_path, "good.bin"), tmp_path / "model.onnx")
    onnx.load(tmp_path / "model.onnx")
    assert models.build(ModelConfig(family=Family.onnx, path=str(tmp_path / "model.onnx"), imgsz=0, channels=0)).classes


def two_inputs() -> ModelProto:
    made = files.classifier()
    made.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    made.graph.node.append(helper.make_node("Identity", ["more"], ["rest"]))
    return made


def cast(**options: Any) -> ModelProto:
    """An input of another kind than float32."""
    made = files.classifier(**options)
    made.graph.node[0].input[0] = "floats"
    made.graph.node.insert(0, helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT))
    return made


def with_node(node: onnx.NodeProto, *opsets: onnx.OperatorSetIdProto) -> ModelProto:
    made = files.classifier()
    made.graph.node.append(node)
    made.opset_import.extend(opsets)
    return made


def quantized() -> ModelProto:
    made = files.classifier()
    made.graph.node[2].input[0] = "back"
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.uint8), "zero"))
    made.graph.node.insert(2, helper.make_node("QuantizeLinear", ["r0", "scale", "zero"], ["q"], name="squeeze"))
    made.graph.node.insert(3, helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["back"]))
    return made


def test_a_quantized_file_may_be_read_to_be_counted(tmp_path: Path) -> None:
    path = save(quantized(), tmp_path / "model.onnx")
    graph = onnx_file.read(path, quantized=True).graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.graph.node}
    assert onnx_file.is_quantized(graph) and not onnx_file.is_quantized(classifier())


def test_all_open_sizes_are_named_in_one_error(tmp_path: Path) -> None:
    assert "set model.channels and model.imgsz" in refused(classifier(image=("n", "c", "h", "w")), tmp_path)
    assert build(classifier(image=("n", 3, "h", "w")), tmp_path, imgsz=32).imgsz == 32


def half() -> ModelProto:
    made = files.classifier()
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float16), "narrow"))
    return made


def by_value() -> ModelProto:
    """A shape that depends on the image."""
    made = files.classifier()
    made.graph.node.append(helper.make_node("NonZero", ["r0"], ["found"]))
    made.graph.output.append(helper.make_tensor_value_info("found", TensorProto.INT64, None))
    return made


FAR = helper.make_opsetid("far.away", 1)
REFUSALS: dict[str, tuple[Callable[[], ModelProto], tuple[str, ...]]] = {
    "two inputs": (two_inputs, ("2 inputs", "more")),
    "two outputs": (lambda: files.model(*files.body(), outputs=("features", "r0")), ("2 outputs", "features", "r0")),
    "float16 images": (lambda: cast(kind=TensorProto.FLOAT16), ("float16", "pixels", "float32")),
    "byte images": (lambda: cast(kind=TensorProto.UINT8), ("uint8", "float32")),
    "float16 weights": (half, ("FLOAT16", "narrow", "float32")),
    "a batch": (lambda: files.classifier(image=(4, 3, 16, 16)), ("4 images", "batch 1")),
    "open channels": (lambda: files.classifier(image=(1, "c", 16, 16)), ("model.channels",)),
    "rows of pixels": (lambda: files.classifier(image=(1, 16, 16, 3)), ("[1, 16, 16, 3]", "channels, height, width")),
    "no image": (lambda: files.classifier(image=(1, 48)), ("[1, 48]", "channels, height, width")),
    "oblong": (lambda: files.classifier(image=(1, 3, 16, 32)), ("square", "[1, 3, 16, 32]")),
    "custom domain": (
        lambda: with_node(helper.make_node("Warp", ["r0"], ["w"], name="bend", domain="far.away"), FAR),
        ("far.away.Warp", "bend"),
    ),
    "unknown operator": (lambda: with_node(helper.make_node("Cnov", ["r0"], ["w"], name="typo")), ("Cnov", "typo")),
    "quantized": (quantized, ("already quantized", "squeeze", "float32")),
    "shape by value": (by_value, ("NonZero", "depends on the image")),
    "broken inside": (lambda: files.model(*files.body(channels=4)), ("ONNX Runtime",)),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_worked_on_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, words = REFUSALS[name]
    said = refused(make(), tmp_path)
    assert all(word in said for word in words), said
    assert said.startswith("model.path=")


def test_nodes_get_names_of_their_own_that_say_a_module(tmp_path: Path) -> None:
    made = files.classifier()
    made.graph.node[0].name = "Conv_2"  # which is what the second convolution would be called
    model = build(made, tmp_path)
    names = [node.name for node in model.graph.graph.node]
    assert len(set(names)) == len(names) and all(name.count("/") == 2 for name in names)
    layers = targets.get("onnxruntime").quantize(
        targets.get("onnxruntime").convert(model, tmp_path / "fp32", ExportConfig()), model,
        [model.example_input().numpy()], tmp_path / "int8", kept={"Conv_2": "asked for"},
    )  # fmt: skip
    assert "asked for" in layers.exclusions.values()


def test_tensors_that_have_our_names_make_way(tmp_path: Path) -> None:
    made = files.classifier()
    for node in made.graph.node:
        for names in (node.input, node.output):
            names[:] = [{"r0": "images", "c1": "output0"}.get(name, name) for name in names]
    model = build(made, tmp_path)
    graph = targets.get("onnxruntime").convert(model, tmp_path / "out", ExportConfig())
    image = model.example_input().numpy()
    assert np.allclose(targets.load(graph, 1)(image), answer(tmp_path / "foreign.onnx", image), atol=1e-5)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(UserError) as caught:
            models.build(ModelConfig(Family.onnx, path=str(path), imgsz=0))
        return str(caught.value)

    path = tmp_path / "model.onnx"
    assert "no such file" in said(path)
    path.write_bytes(b"")
    assert "no ONNX graph" in said(path)
    path.write_bytes(b"not protobuf at all")
    assert "not a readable ONNX file" in said(path)
    whole = files.classifier().SerializeToString()
    path.write_bytes(whole[: len(whole) // 2])
    assert "not a readable ONNX file" in said(path)


def test_weights_outside_the_file_stay_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(files.classifier(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    config = ModelConfig(Family.onnx, path=str(path), imgsz=0, channels=0)
    model = models.build(config)
    assert isinstance(model, OnnxModel)
    assert model.size_bytes == path.stat().st_size + (folder / "weights.bin").stat().st_size
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(UserError, match="weights.bin"):
        models.build(config)
    made = onnx.load(path, load_external_data=False)
    for tensor in made.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../weights.bin" if entry.key == "location" else entry.value
    path.write_bytes(made.SerializeToString())
    with pytest.raises(UserError, match="outside its folder"):
        models.build(config)


def test_open_shapes_are_fixed(tmp_path: Path) -> None:
    made = files.classifier(image=("n", 3, "h", "w"))
    assert "model.imgsz" in refused(made, tmp_path)
    model = build(made, tmp_path, imgsz=24)
    assert model.imgsz == 24 and model.deployed()(model.example_input(2)).shape == (2, 10)
    assert onnx_graph.static_shapes(model.graph)["images"] == (1, 3, 24, 24)


def test_tensors_make_way_for_the_agreed_names() -> None:
    """Inner tensors may be called `images` and `images_0` already."""
    chain = [("in", "images"), ("images", "images_0"), ("images_0", "out")]
    nodes = [helper.make_node("Relu", [given], [made]) for given, made in chain]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("in", "out")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    onnx_file._rename(graph, {"in": "images", "out": "output0"})
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    assert (names[0], names[-1], len(set(names))) == ("images", "output0", 4)


def test_outputs_keep_their_order_and_get_numbered_names(tmp_path: Path) -> None:
    made = files.model(*files.body(), outputs=("features", "r0"))
    onnx_file._rename(made.graph, {"features": "output1", "r0": "output0"})
    file = onnx_file.read(files.save(made, tmp_path / "foreign.onnx"))
    assert file.outputs == {"output1": (1, 8, 8, 8), "output0": (1, 8, 8, 8)}
    assert [value.name for value in file.graph.graph.output] == ["output0", "output1"]
    image = np.random.default_rng(0).random((2, 3, files.SIDE, files.SIDE), dtype=np.float32)
    features, relu = FileNet(file.path)(torch.from_numpy(image))
    assert features.shape == relu.shape == (2, 8, 8, 8) and (relu >= 0).all() and not (features >= 0).all()
    (tmp_path / "canonical.onnx").write_bytes(file.graph.SerializeToString())
    again = FileNet(tmp_path / "canonical.onnx")(torch.from_numpy(image))
    assert torch.allclose(again[0], features, atol=1e-6) and torch.allclose(again[1], relu, atol=1e-6)

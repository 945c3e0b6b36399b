"""`model=onnx`: what is read from a foreign file, and what is refused before any work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from torch import nn

import compress
from compress import models, targets
from compress.capabilities import Checkpointable, Evaluable, GivenAsGraph, Prunable, TorchModel, Trainable
from compress.config import Config, ExportConfig, Family, ModelConfig
from compress.errors import UserError
from compress.measurement import flops, graph_cost
from compress.models import onnx_file
from compress.models.onnx_model import BINS, LAST, OnnxModel
from compress.targets import onnx_graph
from compress.tasks import CLASSIFY, DETECT
from tests.models import onnx_files as files
from tests.models.toy import Net, randomise


def build(made: ModelProto, folder: Path, *, imgsz: int = 0, classes: tuple[str, ...] | None = None) -> OnnxModel:
    config = ModelConfig(Family.onnx, path=str(files.save(made, folder / "foreign.onnx")), imgsz=imgsz, channels=0)
    found = models.build(config, classes)
    assert isinstance(found, OnnxModel) and isinstance(found, GivenAsGraph)
    return found


def refused(made: ModelProto, folder: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        build(made, folder, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def answer(path: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def test_a_classifier_is_what_its_file_says(tmp_path: Path) -> None:
    model = build(files.classifier(), tmp_path)
    assert (model.task, model.imgsz, model.channels, len(model.classes)) == (CLASSIFY, files.SIDE, 3, 10)
    assert model.stride == 1 and model.postprocess is None and model.quantization_exclusions() == {}
    image = model.example_input(3)
    found = model.deployed()(image).numpy()
    assert np.array_equal(found[1:2], answer(tmp_path / "foreign.onnx", image[1:2].numpy()))
    assert model.decode(found) is found


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("opset", [11, 17, 20])
def test_graphs_made_of_a_file_answer_as_it_does(target: str, opset: int, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    model = build(files.detector(opset=opset, metadata={"author": "somebody"}), tmp_path)
    graph = targets.get(target).convert(model, tmp_path / target, ExportConfig())
    image = model.example_input().numpy()
    found = targets.get(target).load(graph, 1, exact=True)(image)
    assert np.allclose(found, answer(tmp_path / "foreign.onnx", image), atol=1e-5)
    if target == "onnxruntime":
        written = onnx_graph.read(graph.path)
        assert onnx_graph.own_opset(written) == 17
        assert [value.name for value in (*written.graph.input, *written.graph.output)] == ["images", "output0"]
        assert {entry.key: entry.value for entry in written.metadata_props}["author"] == "somebody"


@pytest.mark.parametrize("opset", [18, 20])
def test_a_newer_files_splits_go_down_with_it(opset: int, tmp_path: Path) -> None:
    made = files.classifier(opset=opset)
    for node in made.graph.node:
        node.input[:] = ["swapped" if name == "features" else name for name in node.input]
    split = helper.make_node("Split", ["features"], ["low", "high"], axis=1, num_outputs=2)
    made.graph.node.insert(5, split)
    made.graph.node.insert(6, helper.make_node("Concat", ["high", "low"], ["swapped"], axis=1))
    model = build(made, tmp_path)
    graph = targets.get("onnxruntime").convert(model, tmp_path / "out", ExportConfig())
    written, image = onnx_graph.read(graph.path), model.example_input().numpy()
    assert {opset.domain: opset.version for opset in written.opset_import} == {"": 17}
    onnx.checker.check_model(written, full_check=True)
    assert np.allclose(targets.load(graph, 1)(image), answer(tmp_path / "foreign.onnx", image), atol=1e-6)


def test_raw_yolo_and_end_to_end_detections_are_decoded(tmp_path: Path) -> None:
    raw = build(files.detector(), tmp_path)
    assert (raw.task, raw.classes, raw.stride) == (DETECT, ("0", "1"), 32)
    columns = np.zeros((1, 6, 64), np.float32)
    columns[0, :, 3] = (8, 8, 4, 2, 0.1, 0.9)
    (found,) = raw.decode(columns)
    assert found.boxes.tolist() == [[6, 7, 10, 9]] * 2 and found.classes.tolist() == [1, 0]  # type: ignore[union-attr]

    ends = build(files.detector(rows=True), tmp_path, classes=("a", "b", "c"))
    assert ends.task is DETECT and ends.classes == ("a", "b", "c")
    rows = np.zeros((1, 64, 6), np.float32)
    rows[0, 0] = (1, 2, 3, 4, 0.8, 2)
    (found,) = ends.decode(rows)
    assert found.boxes.tolist() == [[1, 2, 3, 4]] and found.classes.tolist() == [2]  # type: ignore[union-attr]


def test_ultralytics_metadata_is_used_and_given_back_with_the_shape_fixed(tmp_path: Path) -> None:
    carried = {
        "names": "{0: 'cat', 1: 'dog'}", "task": "detect", "stride": "8", "imgsz": "[32, 32]", "batch": "4",
        "args": "{'batch': 4, 'dynamic': True, 'nms': False}", "end2end": "False",
    }  # fmt: skip
    model = build(files.detector(metadata=carried), tmp_path, classes=("x", "y"))
    assert model.classes == ("cat", "dog") and model.stride == 8
    given = model.metadata()
    assert given["names"] == carried["names"] and given["imgsz"] == "[16, 16]" and given["batch"] == "1"
    assert given["args"] == "{'batch': 1, 'dynamic': False, 'nms': False}"


def test_open_shapes_are_fixed(tmp_path: Path) -> None:
    made = files.classifier(image=("n", 3, "h", "w"))
    assert "model.imgsz" in refused(made, tmp_path)
    model = build(made, tmp_path, imgsz=24)
    assert model.imgsz == 24 and model.deployed()(model.example_input(2)).shape == (2, 10)
    assert onnx_graph.static_shapes(model.graph)["images"] == (1, 3, 24, 24)


def test_costs_are_those_of_the_torch_network(tmp_path: Path) -> None:
    net = randomise(Net()).eval()
    image = torch.rand(1, 3, 32, 32)
    torch.onnx.export(net, (image,), str(tmp_path / "net.onnx"), dynamo=False, opset_version=17)
    model = models.build(ModelConfig(Family.onnx, path=str(tmp_path / "net.onnx"), imgsz=0, channels=0))
    assert isinstance(model, OnnxModel)
    found, wanted = graph_cost.count(model.graph), flops.count(fused(net), image)
    assert (found.macs, found.params, found.param_bytes) == (wanted.macs, wanted.params, wanted.param_bytes)
    assert found.other_flops == pytest.approx(wanted.other_flops, rel=0.01)
    assert found.bytes_moved == pytest.approx(wanted.bytes_moved, rel=0.05)
    assert found.activation_bytes == pytest.approx(wanted.activation_bytes, rel=0.05)
    assert sum(layer.macs for layer in found.layers.values()) == found.macs


def test_flops_of_a_file_are_those_at_its_own_size(tmp_path: Path) -> None:
    model = build(files.classifier(), tmp_path)
    macs = 8 * 8 * 8 * 27 + 8 * 8 * 8 * 72 + 80
    assert compress.get_flops(model, imgsz=16) == 2 * macs
    with pytest.raises(UserError, match="set 16"):
        compress.get_flops(model, imgsz=640)


def fused(net: nn.Module) -> nn.Module:
    """Batch norms gone into the convolutions before them, as ONNX Runtime has it."""
    copied = copy.deepcopy(net)
    for module in list(copied.modules()):
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            if isinstance(module[index], nn.Conv2d) and isinstance(module[index + 1], nn.BatchNorm2d):
                module[index] = nn.utils.fuse_conv_bn_eval(module[index], module[index + 1])
                module[index + 1] = nn.Identity()
    return copied


def test_a_detectors_last_layers_stay_in_float_and_so_does_a_projection_of_bins(tmp_path: Path) -> None:
    nodes, constants = files.body()
    nodes += [
        helper.make_node("Conv", ["features", "wd"], ["bins"], name="/head/boxes/Conv"),
        helper.make_node("Reshape", ["bins", "by_bin"], ["four"]),
        helper.make_node("Transpose", ["four"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Softmax", ["turned"], ["shares"], axis=1),
        helper.make_node("Conv", ["shares", "project"], ["distances"], name="/head/dfl/Conv"),
        helper.make_node("Reshape", ["distances", "boxes"], ["box"]),
        helper.make_node("Conv", ["features", "wc"], ["logits"]),
        helper.make_node("Reshape", ["logits", "classes"], ["scores"]),
        helper.make_node("Concat", ["box", "scores"], ["answer"], axis=1),
    ]
    constants += [
        files.weights("wd", 32, 8, 1, 1), files.weights("project", 1, 8, 1, 1), files.weights("wc", 2, 8, 1, 1),
        files.integers("by_bin", 1, 4, 8, 64), files.integers("boxes", 1, 4, 64), files.integers("classes", 1, 2, 64),
    ]  # fmt: skip
    kept = build(files.model(nodes, constants), tmp_path).quantization_exclusions()
    logits = next(module for module in kept if module not in ("head.boxes", "head.dfl"))
    assert kept == {"head.boxes": LAST, "head.dfl": BINS, logits: LAST}


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


def test_two_files_are_two_models(tmp_path: Path) -> None:
    one, two = build(files.classifier(), tmp_path), build(files.classifier(classes=4), tmp_path)
    assert one.identity() != two.identity()


def test_a_file_offers_nothing_that_needs_a_torch_network(tmp_path: Path) -> None:
    model = build(files.classifier(), tmp_path)
    assert isinstance(model, Evaluable)
    for capability in (TorchModel, Trainable, Prunable, Checkpointable):
        assert not isinstance(model, capability)
    with pytest.raises(UserError, match="cannot be pruned here"):
        compress.prune(model, "50%")


def two_inputs() -> ModelProto:
    made = files.classifier()
    made.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    made.graph.node.append(helper.make_node("Identity", ["more"], ["rest"]))
    return made


def cast(**options: object) -> ModelProto:
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
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.1), "scale"))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.uint8(0), "zero"))
    made.graph.node.insert(2, helper.make_node("QuantizeLinear", ["r0", "scale", "zero"], ["q"], name="squeeze"))
    made.graph.node.insert(3, helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["back"]))
    return made


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
    "three numbers": (lambda: files.model(*files.body(), outputs=("features",)), ("(1, 8, 8, 8)", "anchors")),
    "turned about": (lambda: files.detector(classes=5, rows=True), ("(1, 64, 9)", "(1, 4 + classes, anchors)")),
    "no class names": (lambda: files.detector(rows=True), ("classes", "data")),
    "another task": (lambda: files.detector(metadata={"task": "segment"}), ("segment", "detectors")),
    "broken inside": (lambda: files.model(*files.body(channels=4)), ("ONNX Runtime",)),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_worked_on_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, words = REFUSALS[name]
    said = refused(make(), tmp_path)
    assert all(word in said for word in words), said
    assert said.startswith("model.path=")


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


def test_the_files_size_wins_over_the_default_and_not_over_the_users(tmp_path: Path) -> None:
    path = str(files.save(files.classifier(channels=1), tmp_path / "model.onnx"))
    config = models.resolve(Config(model=ModelConfig(Family.onnx, path=path, imgsz=0, channels=0)))
    assert (config.model.imgsz, config.model.channels) == (16, 1)
    for key, given in (("imgsz", {"imgsz": 32, "channels": 0}), ("channels", {"imgsz": 0, "channels": 3})):
        with pytest.raises(UserError, match=f"model.{key}=3"):
            models.resolve(Config(model=ModelConfig(Family.onnx, path=path, **given)))  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["train", "prune", "finetune"])
def test_stages_that_need_torch_are_refused(stage: str, tmp_path: Path) -> None:
    path = str(files.save(files.classifier(), tmp_path / "model.onnx"))
    with pytest.raises(UserError, match=rf"stages=\[{stage}, export\].*use the torch model"):
        models.resolve(Config(stages=[stage, "export"], model=ModelConfig(Family.onnx, path=path, imgsz=0)))


@pytest.mark.parametrize("target", ["ncnn", "litert"])
def test_targets_that_need_torch_are_refused(target: str, tmp_path: Path) -> None:
    path = str(files.save(files.classifier(), tmp_path / "model.onnx"))
    with pytest.raises(UserError, match=f"targets={target}: .*torch"):
        models.resolve(Config(targets=["onnxruntime", target], model=ModelConfig(Family.onnx, path=path, imgsz=0)))


def test_classes_that_do_not_agree_with_the_data(tmp_path: Path) -> None:
    assert "2 classes" in refused(files.classifier(), tmp_path, classes=("a", "b"))
    named = files.classifier(metadata={"names": str(dict(enumerate("abcdefghij")))})
    assert "10 classes, the data has 2" in refused(named, tmp_path, classes=("a", "b"))


def test_tensors_make_way_for_the_agreed_names() -> None:
    """Inner tensors may be called `images` and `images_0` already."""
    chain = [("in", "images"), ("images", "images_0"), ("images_0", "out")]
    nodes = [helper.make_node("Relu", [given], [made]) for given, made in chain]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("in", "out")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    onnx_file._rename(graph, {"in": "images", "out": "output0"})
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    assert (names[0], names[-1], len(set(names))) == ("images", "output0", 4)

"""`model=onnx`: what is read from a foreign file, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper

import compress
from compress import models, targets
from compress.capabilities import Checkpointable, Evaluable, Prunable, TorchModel, Trainable
from compress.config import Config, ExportConfig, Family, ModelConfig
from compress.errors import UserError
from compress.models.onnx_model import BINS, LAST
from compress.targets import onnx_graph
from compress.tasks import CLASSIFY, DETECT
from compress.tasks.outputs import from_torch
from tests.models import onnx_files as files
from tests.models.onnx_files import answer, build, classifier, refused, save


def test_a_classifier_is_what_its_file_says(tmp_path: Path) -> None:
    model = build(files.classifier(), tmp_path)
    assert (model.task, model.imgsz, model.channels, len(model.classes)) == (CLASSIFY, files.SIDE, 3, 10)
    assert model.stride == 1 and model.postprocess is None and model.quantization_exclusions() == {}
    image = model.example_input(3)
    result = model.deployed()(image).numpy()
    assert np.array_equal(result[1:2], answer(tmp_path / "foreign.onnx", image[1:2].numpy()))
    assert model.decode(result) is result


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("opset", [11, 17, 20])
def test_graphs_made_of_a_file_answer_as_it_does(target: str, opset: int, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    model = build(files.detector(opset=opset, metadata={"author": "somebody"}), tmp_path)
    graph = targets.get(target).convert(model, tmp_path / target, ExportConfig())
    image = model.example_input().numpy()
    result = targets.get(target).load(graph, 1, exact=True)(image)
    assert np.allclose(result, answer(tmp_path / "foreign.onnx", image), atol=1e-5)
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
    (result,) = raw.decode(columns)
    assert result.boxes.tolist() == [[6, 7, 10, 9]] * 2 and result.classes.tolist() == [1, 0]

    ends = build(files.detector(rows=True), tmp_path, classes=("a", "b", "c"))
    assert ends.task is DETECT and ends.classes == ("a", "b", "c")
    rows = np.zeros((1, 64, 6), np.float32)
    rows[0, 0] = (1, 2, 3, 4, 0.8, 2)
    (result,) = ends.decode(rows)
    assert result.boxes.tolist() == [[1, 2, 3, 4]] and result.classes.tolist() == [2]


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


def test_the_files_size_wins_over_the_default_and_not_over_the_users(tmp_path: Path) -> None:
    path = str(files.save(files.classifier(channels=1), tmp_path / "model.onnx"))
    config = models.resolve(Config(model=ModelConfig(Family.onnx, path=path, imgsz=0, channels=0)))
    assert (config.model.imgsz, config.model.channels) == (16, 1)
    for key, imgsz, channels in (("imgsz", 32, 0), ("channels", 0, 3)):
        with pytest.raises(UserError, match=f"model.{key}=3"):
            models.resolve(Config(model=ModelConfig(Family.onnx, path=path, imgsz=imgsz, channels=channels)))


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


REFUSALS: dict[str, tuple[Callable[[], ModelProto], tuple[str, ...]]] = {
    "three numbers": (lambda: files.model(*files.body(), outputs=("features",)), ("(1, 8, 8, 8)", "anchors")),
    "turned about": (lambda: files.detector(classes=5, rows=True), ("(1, 64, 9)", "(1, 4 + classes, anchors)")),
    "no class names": (lambda: files.detector(rows=True), ("classes", "data")),
    "another task": (lambda: files.detector(metadata={"task": "depth"}), ("depth", "segment")),
    "masks of no known form": (
        lambda: files.detector(metadata={"task": "segment", "names": "{0: 'a', 1: 'b'}"}),
        ("shapes", "2 classes"),
    ),
    "keypoints of unknown number": (lambda: files.detector(metadata={"task": "pose"}), ("kpt_shape",)),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_worked_on_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, words = REFUSALS[name]
    said = refused(make(), tmp_path)
    assert all(word in said for word in words), said
    assert said.startswith("model.path=")


@pytest.mark.parametrize(
    "metadata",
    [
        {"names": "{0: 'a', 'b': 'c'}"}, {"names": "[" * 10**5}, {"names": "{[]: 1}"}, {"names": "__import__('os')"},
        {"stride": "²"}, {"stride": "0"}, {"stride": "9" * 5000}, {"args": "(" * 10**5}, {"names": "{0: " + "9" * 5000},
    ],
)  # fmt: skip
def test_odd_metadata_is_passed_over(metadata: dict[str, str], tmp_path: Path) -> None:
    save(classifier(metadata=metadata), tmp_path / "model.onnx")
    result = models.build(ModelConfig(family=Family.onnx, path=str(tmp_path / "model.onnx"), imgsz=0, channels=0))
    assert result.stride >= 1 and result.metadata() and len(result.classes) == 10


@pytest.mark.parametrize("name", ["yolov8n-seg", "yolo26n-pose", "yolo26n-obb"])
def test_masks_keypoints_and_turned_boxes_of_an_export_are_decoded(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    own = models.build(ModelConfig(name=name, imgsz=64), ("a", "b"))
    graph = targets.get("onnxruntime").convert(own, tmp_path, ExportConfig())
    config = Config(model=ModelConfig(Family.onnx, path=str(graph.path)))
    resolved = models.resolve(config)
    assert resolved.data.task == own.task.name
    read = models.build(resolved.model)
    assert isinstance(read, Evaluable) and isinstance(own, Evaluable)
    assert read.task == own.task and read.classes == own.classes
    image = own.example_input()
    with torch.no_grad():
        expected, found = (model.decode(from_torch(model.deployed()(image))) for model in (own, read))
    assert type(expected[0]) is type(found[0]) and len(found) == 1
    np.testing.assert_allclose(found[0].scores, expected[0].scores, atol=1e-4)

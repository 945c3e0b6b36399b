"""Heads: pruned, saved, loaded, exported, decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

pytest.importorskip("ultralytics")

from torch import nn

import compress
from compress import checkpoint, targets
from compress.capabilities import Evaluable, Prunable, TopK, Trainable, require
from compress.config import ExportConfig, ModelConfig
from compress.errors import UserError
from compress.models import build, from_constructor, ultralytics_head
from compress.models.ultralytics_model import UltralyticsModel
from compress.stages.prune import counter
from compress.targets import onnx_graph
from compress.tasks import DETECT, TASKS
from tests.models.detectors import make
from tests.models.toy import enliven

SIZE = 64


def lively(name: str) -> UltralyticsModel:
    torch.manual_seed(0)
    model = build(ModelConfig(name=name, imgsz=SIZE), ("a", "b"))
    assert isinstance(model, UltralyticsModel)
    return model.with_net(enliven(model.net, model.example_input()))


@pytest.mark.parametrize(
    ("name", "task"), [("yolo26n-seg", "segment"), ("yolov8n-seg", "segment"), ("yolo26n-pose", "pose")]
)
def test_pruned_saved_loaded_and_exported(name: str, task: str, tmp_path: Path) -> None:
    model = lively(name)
    net, protected = model.prunable()
    x, count = model.example_input(), counter(model)
    with torch.no_grad():  # the raw numbers of the branch that is deployed, before and after the rewriting
        before, after = (tree_leaves(each.eval()(x)[0]) for each in (model.net, net))
    assert all(torch.allclose(one, two, atol=1e-4) for one, two in zip(before, after, strict=True))

    assert protected.keys() <= dict(net.named_modules()).keys()

    small = compress.prune(model, "30%")
    assert isinstance(small, UltralyticsModel)
    assert 0.29 < count(small.net) / count(net) <= 0.3
    assert small.quantization_exclusions().keys() <= dict(small.deployed().named_modules()).keys()
    with torch.no_grad():
        small.net.train()(x.repeat(2, 1, 1, 1))  # what only training runs has lost its inputs too
    checkpoint.save(small, tmp_path / "pruned")
    again = checkpoint.load(tmp_path / "pruned", from_constructor)
    assert again.task is TASKS[task]
    expected = tree_leaves(small.deployed()(x))
    assert all(torch.equal(one, two) for one, two in zip(expected, tree_leaves(again.deployed()(x)), strict=True))

    graph = targets.get("onnxruntime").convert(again, tmp_path, ExportConfig())
    session = onnx_graph.open_session(graph.path, onnx_graph.session_options(1))
    result = session.run(None, {onnx_graph.INPUT: x.numpy()})
    assert [each.name for each in session.get_outputs()] == [f"output{i}" for i in range(len(expected))]
    for ours, theirs in zip(expected, result, strict=True):
        assert ours.shape == theirs.shape and np.abs(ours.numpy() - theirs).max() <= 1e-3 * np.abs(theirs).max()


def test_what_is_not_offered_is_said() -> None:
    model = build(ModelConfig(name="yolo11n-seg", imgsz=SIZE), ("a", "b"))
    assert isinstance(model, Prunable) and not isinstance(model, Trainable) and not isinstance(model, Evaluable)
    with pytest.raises(UserError, match="stages=finetune: .*segment cannot be trained here"):
        require(model, Trainable, "stages", "finetune")
    with pytest.raises(UserError, match="the model for segment.*pruned and exported only"):
        build(ModelConfig(name="yolo11n-seg", imgsz=SIZE), ("a", "b"), DETECT)


def test_rows_with_further_values_are_selected_as_the_package_does() -> None:
    model = lively("yolo26n-pose")
    last = model.net.model[-1]
    rows = torch.rand(2, 400, 4 + last.nc + last.nk, generator=torch.Generator().manual_seed(0))
    ours = ultralytics_head._selected(rows, last.nc, last.nk, last.max_det)
    assert ours.shape == (2, last.max_det, 6 + last.nk) and torch.equal(ours, last.postprocess(rows))


@pytest.mark.parametrize("name", ["yolo26n", "yolo26n-pose", "yolo11n"])
def test_the_tail_can_be_done_in_numpy(name: str) -> None:
    model = lively(name)
    x = model.example_input(2)
    with torch.no_grad():
        whole, rows = (model.deployed(postprocess=tail)(x).numpy() for tail in (True, False))
    if model.postprocess is None:
        assert name == "yolo11n" and np.array_equal(whole, rows)
    else:
        picked = model.postprocess(rows)
        assert picked.shape == whole.shape
        assert np.allclose(picked, whole, atol=1e-5)


def test_the_tail_picks_several_classes_of_one_anchor() -> None:
    rows = np.array([[[0, 0, 2, 2, 0.1, 0.2, 7], [1, 1, 3, 3, 0.9, 0.8, 8], [4, 4, 5, 5, 0.3, 0.0, 9]]], np.float32)
    expected = [[1, 1, 3, 3, 0.9, 0, 8], [1, 1, 3, 3, 0.8, 1, 8]]
    assert np.allclose(TopK(classes=2, max_detections=2)(rows)[0], expected)


@pytest.mark.parametrize(("name", "shape"), [("yolo26n", (2, 84, 6)), ("yolov8n", (2, 9, 84))])
def test_deployed_gives_one_tensor_that_decodes(name: str, shape: tuple[int, ...]) -> None:
    model = make(name)
    net = model.deployed()
    x = model.example_input(2)
    out = net(x)
    assert out.shape == shape and not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    with torch.no_grad():
        assert torch.allclose(out, model.net.eval()(x)[0], atol=1e-2)
    assert model.quantization_exclusions().keys() <= dict(net.named_modules()).keys()
    for result in model.decode(out.numpy()):
        assert result.boxes.shape == (len(result.scores), 4) and result.classes.dtype == np.int64
        assert (
            np.all(np.diff(result.scores) <= 0) and np.all(result.scores > 0.001) and result.classes.max(initial=0) < 5
        )


def test_suppression_agrees_with_ultralytics() -> None:
    from ultralytics.utils.nms import non_max_suppression

    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(1, 9, 400, generator=generator)
    raw[:, :4] *= 60
    raw[:, 4:] **= 6
    (ours,) = ultralytics_head.decode(raw.numpy(), end_to_end=False)
    (theirs,) = non_max_suppression(raw.clone(), 0.001, 0.7, multi_label=True, max_det=300)
    # Theirs moves classes 7,680 px apart, which costs float32 digits: pairs at the very threshold may differ.
    same = {(round(float(s), 5), int(c)) for s, c in zip(ours.scores, ours.classes, strict=True)} & {
        (round(float(row[4]), 5), int(row[5])) for row in theirs
    }
    assert len(ours.scores) == len(theirs) == 300 and len(same) >= 295
